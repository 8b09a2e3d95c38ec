//! What this process is asked to do, by signals and by the keeper.
//!
//! The keeper passes signals on as messages. A signal may also reach both of us at once (Ctrl-C goes to the whole group of
//! a terminal), so the second TERM or INT, which stops at once, is counted for each of the two ways by itself.

use crate::net::Order;
use crate::telemetry::CutCounts;
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

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
}

/// Counts what asks for the end.
#[derive(Debug, Default)]
struct Endings {
    by_signal: u32,
    by_keeper: u32,
}

impl Endings {
    /// Returns what one more means; `None`: the same again by the other way.
    fn count(&mut self, by_keeper: bool) -> Option<Ask> {
        let first = self.by_signal + self.by_keeper == 0;
        let count = if by_keeper { &mut self.by_keeper } else { &mut self.by_signal };
        *count += 1;
        match (*count, first) {
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
        })
    }

    /// Stops listening; returns what the keeper's orders come from.
    pub(super) fn release(self) -> Option<mpsc::Receiver<Order>> {
        self.keeper
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Ask {
        loop {
            let [first, second] = &mut self.user;
            let ask = tokio::select! {
                _ = self.terminate.recv() => self.endings.count(false),
                _ = self.interrupt.recv() => self.endings.count(false),
                _ = self.quit.recv() => Some(Ask::Stop),
                _ = self.hangup.recv() => Some(Ask::Reload),
                _ = first.recv() => Some(Ask::Reopen),
                _ = second.recv() => Some(Ask::Upgrade),
                order = ordered(&mut self.keeper) => match order {
                    Order::Terminate => self.endings.count(true),
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
    use super::{Ask, Endings};

    #[test]
    fn one_signal_that_comes_both_ways_drains_and_a_second_by_either_stops() {
        let mut endings = Endings::default();
        assert_eq!(endings.count(false), Some(Ask::Drain));
        assert_eq!(endings.count(true), None);
        assert_eq!(endings.count(true), Some(Ask::Stop));
        let mut endings = Endings::default();
        assert_eq!((endings.count(true), endings.count(true)), (Some(Ask::Drain), Some(Ask::Stop)));
    }
}
