//! Drain signal and guards.
//!
//! One [`Trigger`] tells every [`Signal`] to drain; work in progress holds a [`Guard`], and [`Trigger::finished`] ends
//! when the last guard is gone. Used by workers, control tasks and the admin server alike. Invariant: the phase only
//! rises, `Running → Draining → Stopping`.

use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Normal service.
    Running,
    /// Take no new work, finish what runs.
    Draining,
    /// The deadline passed or a second signal came: stop at once.
    Stopping,
}

/// The end that starts the drain; one per process.
#[derive(Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
    guards: Arc<Guards>,
}

/// The end that hears of the drain.
#[derive(Debug, Clone)]
pub struct Signal {
    phase: watch::Receiver<Phase>,
    guards: Arc<Guards>,
}

/// Held by work that a drain waits for; released on drop.
#[derive(Debug)]
pub struct Guard {
    guards: Arc<Guards>,
}

#[derive(Debug, Default)]
struct Guards {
    held: std::sync::atomic::AtomicUsize,
    released: Notify,
}

/// Returns the two ends of a drain.
pub fn drain() -> (Trigger, Signal) {
    let (sender, receiver) = watch::channel(Phase::Running);
    let guards = Arc::new(Guards::default());
    (Trigger { phase: sender, guards: guards.clone() }, Signal { phase: receiver, guards })
}

impl Trigger {
    /// Raises the phase; lowering it does nothing.
    pub fn raise(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let rises = phase > *current;
            if rises {
                *current = phase;
            }
            rises
        });
    }

    /// Returns the phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Returns the number of guards that are held.
    pub fn held(&self) -> usize {
        self.guards.held.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Waits until no guard is held.
    pub async fn finished(&self) {
        loop {
            let released = self.guards.released.notified();
            tokio::pin!(released);
            released.as_mut().enable();
            if self.held() == 0 {
                return;
            }
            released.await;
        }
    }
}

impl Signal {
    /// Returns the phase now; one atomic read and a short lock, not for each request.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the phase is at least `phase`, or the trigger is gone.
    pub async fn reached(&mut self, phase: Phase) {
        // A dropped trigger means that the process is ending: same as the last phase.
        let _ = self.phase.wait_for(|current| *current >= phase).await;
    }

    /// Takes a guard that the drain waits for.
    pub fn guard(&self) -> Guard {
        self.guards.held.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        Guard { guards: self.guards.clone() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.guards.held.fetch_sub(1, std::sync::atomic::Ordering::AcqRel) == 1 {
            self.guards.released.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Phase, drain};

    #[tokio::test]
    async fn finishes_when_the_last_guard_is_dropped() {
        let (trigger, mut signal) = drain();
        let (a, b) = (signal.guard(), signal.guard());
        trigger.raise(Phase::Draining);
        signal.reached(Phase::Draining).await;
        let waiting = tokio::spawn(async move {
            trigger.finished().await;
            trigger.held()
        });
        drop(a);
        assert!(!waiting.is_finished());
        drop(b);
        assert_eq!(waiting.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_phase_only_rises() {
        let (trigger, signal) = drain();
        trigger.raise(Phase::Stopping);
        trigger.raise(Phase::Draining);
        assert_eq!(signal.phase(), Phase::Stopping);
    }
}
