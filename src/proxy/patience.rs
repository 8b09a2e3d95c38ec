//! How long a client is waited for that has something to take: it must take so much in each window of time.
//!
//! What moves at all buys no time by itself, so that drips hold nothing. What counts is what the client has acknowledged: the
//! kernel says late that there is room again, and by much at once, so its queue is asked before a client is given up.

use std::cell::Cell;

/// The least pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Milliseconds.
    pub(crate) window_ms: u64,
    /// Octets that must be taken within a window.
    pub(crate) least: u64,
}

impl Pace {
    /// Returns the pace for a rate and a window; a rate of zero asks for one octet.
    pub(crate) fn new(window_ms: u64, bytes_per_second: u64) -> Self {
        Self { window_ms, least: (bytes_per_second.saturating_mul(window_ms) / 1000).max(1) }
    }
}

/// The window that runs.
#[derive(Debug, Clone, Copy)]
struct Window {
    since_ms: u64,
    written: u64,
    queued: u64,
}

/// Follows one client.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    window: Cell<Option<Window>>,
}

impl Patience {
    /// The client has taken everything: nothing is waited for.
    pub(crate) fn rest(&self) {
        self.window.set(None);
    }

    /// Returns until when it is waited for the client. `written` counts what was written so far, `queued` asks how much of that
    /// the kernel holds; it is asked when a window begins.
    pub(crate) fn until(&self, now_ms: u64, pace: Pace, written: u64, queued: impl FnOnce() -> usize) -> u64 {
        let window = match self.window.get() {
            Some(window) if written.saturating_sub(window.written) < pace.least => window,
            _ => Window { since_ms: now_ms, written, queued: queued() as u64 },
        };
        self.window.set(Some(window));
        window.since_ms.saturating_add(pace.window_ms)
    }

    /// At the end of a window: returns whether the client has taken enough all the same. Then another window begins.
    pub(crate) fn renew(&self, now_ms: u64, pace: Pace, written: u64, queued: usize) -> bool {
        let Some(window) = self.window.get() else { return false };
        let queued = queued as u64;
        let taken = |written: u64, queued: u64| written.saturating_sub(queued);
        let enough = taken(written, queued).saturating_sub(taken(window.written, window.queued)) >= pace.least;
        if enough {
            self.window.set(Some(Window { since_ms: now_ms, written, queued }));
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::{Pace, Patience};

    #[test]
    fn a_client_takes_so_much_in_each_window_or_is_given_up() {
        let (pace, patience) = (Pace::new(10_000, 1024), Patience::default());
        assert_eq!(pace.least, 10_240);
        assert_eq!(patience.until(1000, pace, 50_000, || 5000), 11_000);
        // Drips buy nothing; enough begins another window.
        assert_eq!(patience.until(9000, pace, 60_239, || panic!("asked")), 11_000);
        assert_eq!(patience.until(10_000, pace, 60_240, || 7000), 20_000);
        assert!(!patience.renew(20_000, pace, 60_240, 7000));
        // After a rest too.
        patience.rest();
        assert_eq!(patience.until(15_000, pace, 60_241, || 0), 25_000);
    }

    #[test]
    fn what_the_kernel_has_given_away_counts() {
        let (pace, patience) = (Pace::new(10_000, 1024), Patience::default());
        assert_eq!(patience.until(0, pace, 1_000_000, || 900_000), 10_000);
        assert!(!patience.renew(10_000, pace, 1_000_000, 889_761));
        assert!(patience.renew(10_000, pace, 1_000_000, 889_760));
        assert_eq!(patience.until(10_001, pace, 1_000_000, || panic!("asked")), 20_000);
        assert!(!patience.renew(20_000, pace, 1_000_000, 889_760));
    }

    #[test]
    fn without_a_rate_any_octet_will_do() {
        let (pace, patience) = (Pace::new(10_000, 0), Patience::default());
        assert_eq!(patience.until(0, pace, 5, || 0), 10_000);
        assert_eq!(patience.until(9000, pace, 6, || 0), 19_000);
        assert!(!patience.renew(19_000, pace, 6, 0));
    }
}
