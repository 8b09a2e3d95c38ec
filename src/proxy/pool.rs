//! Idle upstream connections of one worker: newest first, bounded, closed when idle for long or when their endpoint goes.

use crate::net::Stream;
use crate::proxy::http2::client::Multiplexed;
use foldhash::{HashMap, HashMapExt};
use std::net::SocketAddr;

/// An upstream connection that is not in use.
#[derive(Debug)]
pub(crate) struct Idle {
    stream: Stream,
    since_ms: u64,
    until_ms: u64,
}

/// Which endpoint a connection leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The service's slot when it was picked.
    pub(crate) slot: usize,
    /// The endpoint's serial.
    pub(crate) serial: u64,
    /// Where it leads: an endpoint that moved keeps its serial.
    pub(crate) address: SocketAddr,
}

/// A connection from the pool.
#[derive(Debug)]
pub(crate) struct Reused {
    pub(crate) stream: Stream,
    pub(crate) idle_ms: u64,
}

/// The idle connections of one worker.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: HashMap<Key, Vec<Idle>>,
    /// Connections that carry several requests at once, idle or not.
    multiplexed: HashMap<Key, Vec<Multiplexed>>,
    max_per_endpoint: usize,
    idle_ms: u64,
}

impl Pool {
    pub(crate) fn new(max_per_endpoint: usize, idle_ms: u64) -> Self {
        Self { idle: HashMap::new(), multiplexed: HashMap::new(), max_per_endpoint, idle_ms }
    }

    /// Takes the connection that was used last, if it idled no longer than `max_idle_ms` and is still open.
    ///
    /// The check of openness costs no system call unless the kernel reported an event on the socket.
    pub(crate) fn checkout(&mut self, key: Key, max_idle_ms: u64, now_ms: u64) -> Option<Reused> {
        let list = self.idle.get_mut(&key)?;
        while let Some(last) = list.last() {
            let idle_ms = now_ms.saturating_sub(last.since_ms);
            if idle_ms > max_idle_ms {
                return None;
            }
            let mut idle = list.pop()?;
            if now_ms <= idle.until_ms && idle.stream.is_idle() {
                return Some(Reused { stream: idle.stream, idle_ms });
            }
        }
        None
    }

    /// Keeps a connection; `keep_ms` is the endpoint's own limit (`Keep-Alive: timeout`).
    pub(crate) fn checkin(&mut self, key: Key, mut stream: Stream, keep_ms: Option<u64>, now_ms: u64) {
        // A stream of a multiplexed connection ends with its request.
        if stream.buffers() && !stream.is_idle() {
            return;
        }
        let list = self.idle.entry(key).or_default();
        if list.len() < self.max_per_endpoint {
            let until_ms = now_ms + keep_ms.unwrap_or(u64::MAX / 2).min(self.idle_ms);
            list.push(Idle { stream, since_ms: now_ms, until_ms });
        }
    }

    /// Opens a stream on a multiplexed connection that has room, the oldest first: the others may idle out.
    pub(crate) fn open(&self, key: Key) -> Option<Stream> {
        self.multiplexed.get(&key)?.iter().find_map(Multiplexed::open)
    }

    /// Shares a multiplexed connection.
    pub(crate) fn share(&mut self, key: Key, connection: Multiplexed) {
        self.multiplexed.entry(key).or_default().push(connection);
    }

    /// Closes what idled too long; the oldest are first in each list.
    pub(crate) fn sweep(&mut self, now_ms: u64) {
        self.idle.retain(|_, list| {
            list.retain(|idle| now_ms <= idle.until_ms);
            !list.is_empty()
        });
        self.multiplexed.retain(|_, list| {
            list.retain(|connection| connection.stays(self.idle_ms, now_ms));
            !list.is_empty()
        });
    }

    /// Takes out the connections to endpoints that are gone, for the caller to close.
    pub(crate) fn take_gone(&mut self, stays: impl Fn(&Key) -> bool) -> Vec<Idle> {
        // Requests on them go on to their end.
        self.multiplexed.retain(|key, _| stays(key));
        self.idle.extract_if(|key, _| !stays(key)).flat_map(|(_, list)| list).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.multiplexed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Pool};
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use tokio::net::{TcpListener, TcpStream};

    const KEY: Key = Key { slot: 0, serial: 1, address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 80) };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn gives_the_newest_first_and_bounds_the_number() {
        let mut pool = Pool::new(2, 4000);
        let mut far = Vec::new();
        for at in 1..=3 {
            let (near, other) = pair().await;
            far.push(other);
            pool.checkin(KEY, near.into(), None, at);
        }
        assert_eq!(pool.checkout(KEY, 4000, 10).unwrap().idle_ms, 8);
        assert_eq!(pool.checkout(KEY, 4000, 10).unwrap().idle_ms, 9);
        assert!(pool.checkout(KEY, 4000, 10).is_none());
    }

    #[tokio::test]
    async fn never_gives_a_closed_or_an_old_one() {
        let mut pool = Pool::new(8, 4000);
        let (near, far) = pair().await;
        drop(far);
        near.readable().await.unwrap();
        pool.checkin(KEY, near.into(), None, 1);
        assert!(pool.checkout(KEY, 4000, 2).is_none());
        let (near, _far) = pair().await;
        pool.checkin(KEY, near.into(), Some(1000), 1);
        assert!(pool.checkout(KEY, 500, 900).is_none(), "idled longer than this request may ride");
        assert!(pool.checkout(KEY, 4000, 1100).is_none(), "past the endpoint's own limit");
        let (near, _far) = pair().await;
        pool.checkin(KEY, near.into(), None, 1);
        pool.sweep(5000);
        assert!(pool.is_empty());
    }
}
