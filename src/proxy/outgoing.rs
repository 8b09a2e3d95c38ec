//! Connections that Weir makes where it captures: how one is known that comes back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A connection that comes back does so at once; somebody else's may have the same port and destination later.
const REMEMBERED_MS: u64 = 2000;
/// Beyond so many the old ones are looked for.
const MANY: usize = 1024;

/// By own port and destination, with when it is forgotten; of all workers, a cheap handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outgoing(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    memory: Mutex<Memory>,
    captures: AtomicBool,
}

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<(u16, SocketAddr), u64>,
    /// When the old ones are looked for.
    sweep_at: usize,
}

impl Outgoing {
    /// Notes that a connection was captured.
    pub(crate) fn note_captured(&self) {
        if !self.captures() {
            self.0.captures.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether one ever was: then each that Weir makes may come back, whatever it is made for.
    pub(crate) fn captures(&self) -> bool {
        self.0.captures.load(Ordering::Relaxed)
    }

    /// Notes a connection before it is made.
    pub(crate) fn begin(&self, port: u16, to: SocketAddr, now_ms: u64) {
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.known.insert((port, to), now_ms + REMEMBERED_MS);
        if memory.known.len() > memory.sweep_at.max(MANY) {
            memory.known.retain(|_, until_ms| *until_ms > now_ms);
            memory.sweep_at = 2 * memory.known.len();
        }
    }

    /// Returns whether a connection from that port to there is Weir's own.
    pub(crate) fn is_own(&self, port: u16, to: SocketAddr, now_ms: u64) -> bool {
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.known.get(&(port, to)).is_some_and(|until_ms| *until_ms > now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::{MANY, Outgoing, REMEMBERED_MS};
    use std::net::SocketAddr;

    #[test]
    fn what_was_made_a_moment_ago_is_known_by_port_and_destination() {
        let outgoing = Outgoing::default();
        let to: SocketAddr = "10.0.0.1:80".parse().unwrap();
        outgoing.begin(4000, to, 1000);
        assert!(outgoing.is_own(4000, to, 1001) && !outgoing.is_own(4001, to, 1001));
        assert!(!outgoing.is_own(4000, "10.0.0.2:80".parse().unwrap(), 1001));
        assert!(!outgoing.is_own(4000, to, 1000 + REMEMBERED_MS));
        for port in 0..=u16::MAX {
            outgoing.begin(port, to, u64::from(port) * 10);
        }
        let kept = outgoing.0.memory.lock().unwrap().known.len();
        assert!(kept <= 2 * MANY, "{kept}");
    }
}
