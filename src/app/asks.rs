//! What this process is asked to do, by signals and by the keeper.
//!
//! The keeper passes signals on as messages. A signal may also reach both of us at once (Ctrl-C goes to the whole group of
//! a terminal), so the second TERM or INT, which stops at once, is counted for each of the two ways by itself. Two within [`SAME`] are one:
//! `timeout` signals the process that it started, and at once the group that this is in too.

use crate::clock;
use crate::net::Order;
use crate::telemetry::CutCounts;
use anyhow::Context;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// TERM or INT that comes so soon after the one before is the same: nobody types as fast, and a key that is held down begins to
/// repeat later.
pub(super) const SAME: Duration = Duration::from_millis(100);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// End: take no new work, finish what runs.
    Drain,
    /// End at once.
    Stop,
    /// Look at the configuration.
    Reload,
    /// Open the log files again.
    Reopen,
    /// Be replaced by the binary on disk.
    Upgrade,
    /// Give up deciding and the store.
    StandDown,
    /// Another process serves: end with the last connection.
    Leave,
    /// Take note of what earlier processes cut off.
    Cut(CutCounts),
    /// The keeper has died.
    KeeperGone,
}

/// How this process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Drain,
    Stop,
    /// Another process goes on with the sockets, the store and the workloads.
    Leave,
}

/// Where they come from.
pub(super) struct Asks {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user: [Signal; 2],
    keeper: Option<mpsc::Receiver<Order>>,
    endings: Endings,
    /// The signal that asked for the end last.
    number: i32,
}

/// Counts what asks for the end.
#[derive(Debug, Default)]
struct Endings {
    by_signal: Way,
    by_keeper: Way,
}

/// What came by one way.
#[derive(Debug, Default)]
struct Way {
    count: u32,
    /// When the last one came that counted.
    last: Option<Instant>,
}

impl Endings {
    /// Returns what one more means; `None`: the same again, by the other way or at once.
    fn count(&mut self, by_keeper: bool, now: Instant) -> Option<Ask> {
        let first = self.by_signal.count + self.by_keeper.count == 0;
        let way = if by_keeper { &mut self.by_keeper } else { &mut self.by_signal };
        if way.last.is_some_and(|last| now.saturating_duration_since(last) < SAME) {
            return None;
        }
        way.last = Some(now);
        way.count += 1;
        match (way.count, first) {
            (1, true) => Some(Ask::Drain),
            (1, false) => None,
            _ => Some(Ask::Stop),
        }
    }
}

impl Asks {
    /// Listens from now on: signals no longer end the process by themselves. Call inside a runtime.
    ///
    /// # Errors
    /// When signals cannot be listened for.
    pub(super) fn new(keeper: Option<mpsc::Receiver<Order>>) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            user: [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?],
            keeper,
            endings: Endings::default(),
            number: libc::SIGTERM,
        })
    }

    /// Stops listening; returns what the keeper's orders come from.
    pub(super) fn release(self) -> Option<mpsc::Receiver<Order>> {
        self.keeper
    }

    /// Returns the exit code of who ends by the signal that asked for the end, as a shell says it.
    pub(super) fn code(&self) -> u8 {
        u8::try_from(128 + self.number).unwrap_or(u8::MAX)
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Ask {
        loop {
            let [first, second] = &mut self.user;
            let ask = tokio::select! {
                _ = self.terminate.recv() => {
                    self.number = libc::SIGTERM;
                    self.endings.count(false, clock::now())
                }
                _ = self.interrupt.recv() => {
                    self.number = libc::SIGINT;
                    self.endings.count(false, clock::now())
                }
                _ = self.quit.recv() => {
                    self.number = libc::SIGQUIT;
                    Some(Ask::Stop)
                }
                _ = self.hangup.recv() => Some(Ask::Reload),
                _ = first.recv() => Some(Ask::Reopen),
                _ = second.recv() => Some(Ask::Upgrade),
                order = ordered(&mut self.keeper) => match order {
                    Order::Terminate => self.endings.count(true, clock::now()),
                    Order::Quit => Some(Ask::Stop),
                    Order::Reload => Some(Ask::Reload),
                    Order::Reopen => Some(Ask::Reopen),
                    Order::Upgrade => Some(Ask::Upgrade),
                    Order::StandDown => Some(Ask::StandDown),
                    Order::Leave => Some(Ask::Leave),
                    Order::Cut(requests, streams) => Some(Ask::Cut(CutCounts { requests, streams })),
                    Order::Gone => Some(Ask::KeeperGone),
                },
            };
            if let Some(ask) = ask {
                return ask;
            }
        }
    }

    /// Waits until the end is asked for, or asked for more urgently.
    pub(super) async fn ending(&mut self) -> Ask {
        loop {
            match self.next().await {
                ask @ (Ask::Drain | Ask::Stop) => return ask,
                ask => tracing::debug!(?ask, "not now"),
            }
        }
    }

    /// Waits until the end is asked for at once.
    pub(super) async fn hurry(&mut self) {
        while self.ending().await != Ask::Stop {}
    }
}

/// Waits for an order; without a keeper for ever.
async fn ordered(keeper: &mut Option<mpsc::Receiver<Order>>) -> Order {
    if let Some(orders) = keeper {
        if let Some(order) = orders.recv().await {
            return order;
        }
        *keeper = None;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::{Ask, Endings, SAME};
    use crate::clock;

    #[tokio::test]
    async fn one_signal_that_comes_both_ways_drains_and_a_second_by_either_stops() {
        let (now, later) = (clock::now(), clock::now() + SAME);
        let mut endings = Endings::default();
        assert_eq!(endings.count(false, now), Some(Ask::Drain));
        assert_eq!(endings.count(true, now), None);
        assert_eq!(endings.count(true, later), Some(Ask::Stop));
        let mut endings = Endings::default();
        assert_eq!((endings.count(true, now), endings.count(true, later)), (Some(Ask::Drain), Some(Ask::Stop)));
    }

    #[tokio::test]
    async fn what_comes_at_once_after_one_is_the_same_and_what_goes_on_is_not() {
        let now = clock::now();
        let mut endings = Endings::default();
        assert_eq!(endings.count(false, now), Some(Ask::Drain));
        let pause = SAME * 2 / 3;
        assert_eq!(endings.count(false, now + pause), None);
        assert_eq!(endings.count(false, now + pause * 2), Some(Ask::Stop), "it is measured from the one that counted");
    }
}
