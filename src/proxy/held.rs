//! Datagrams that wait for a first replica of a service that has none: bounded for each client, in all, and in time.
//!
//! What a client sends meanwhile is one flow to be, and takes one place in the service's queue, as a request does. Its
//! datagrams are kept in their order; they leave together, when a replica is there or when the time is over.

use crate::proxy::flow::Key;
use foldhash::HashMap;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use tokio::task::AbortHandle;

/// Datagrams of one client that are held: a handshake, with what is sent again.
const DATAGRAMS: usize = 16;
/// Octets that one worker holds for one listener.
const OCTETS: usize = 1 << 20;

/// Returns how many of the places of a service's queue datagrams may have: anybody can send some in the names of many clients,
/// and whoever connects is to find a place all the same.
pub(crate) fn share(queue: u32) -> u32 {
    queue.div_ceil(2)
}

/// What is held for one listener on one worker.
#[derive(Default)]
pub(crate) struct Held {
    clients: RefCell<HashMap<Key, Rc<Waiting>>>,
    octets: Cell<usize>,
}

/// One client that waits.
#[derive(Default)]
pub(crate) struct Waiting {
    datagrams: RefCell<Vec<Box<[u8]>>>,
    pub(crate) task: RefCell<Option<AbortHandle>>,
}

impl Held {
    /// Returns how many clients wait.
    pub(crate) fn len(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Returns the client with this key, if it waits.
    pub(crate) fn get(&self, key: Key) -> Option<Rc<Waiting>> {
        self.clients.borrow().get(&key).cloned()
    }

    /// Has a client wait.
    pub(crate) fn enter(&self, key: Key) -> Rc<Waiting> {
        let waiting = Rc::new(Waiting::default());
        self.clients.borrow_mut().insert(key, waiting.clone());
        waiting
    }

    /// Keeps datagrams of a client that waits; returns how many found no room.
    pub(crate) fn keep(&self, waiting: &Waiting, datagrams: &[&[u8]]) -> usize {
        let mut kept = waiting.datagrams.borrow_mut();
        let mut refused = 0;
        for datagram in datagrams {
            let octets = self.octets.get() + datagram.len();
            if kept.len() >= DATAGRAMS || octets > OCTETS {
                refused += 1;
                continue;
            }
            self.octets.set(octets);
            kept.push((*datagram).into());
        }
        refused
    }

    /// Lets a client go; returns its datagrams, and `None` when it does not wait any more.
    pub(crate) fn leave(&self, key: Key) -> Option<Vec<Box<[u8]>>> {
        let waiting = self.clients.borrow_mut().remove(&key)?;
        let datagrams = waiting.datagrams.take();
        let octets: usize = datagrams.iter().map(|datagram| datagram.len()).sum();
        self.octets.set(self.octets.get() - octets);
        Some(datagrams)
    }

    /// Ends the waiting of all.
    pub(crate) fn clear(&self) {
        let tasks: Vec<AbortHandle> = self.clients.borrow().values().filter_map(|w| w.task.take()).collect();
        tasks.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use super::{DATAGRAMS, Held, OCTETS};
    use crate::proxy::flow::Key;

    fn key(port: u16) -> Key {
        Key { client: ([127, 0, 0, 1], port).into(), local: None }
    }

    #[test]
    fn keeps_the_first_of_each_client_in_their_order_and_gives_them_back_once() {
        let held = Held::default();
        let waiting = held.enter(key(1));
        let texts: Vec<Vec<u8>> = (0..20).map(|i| vec![i; 3]).collect();
        let datagrams: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        assert_eq!(held.keep(&waiting, &datagrams), 20 - DATAGRAMS);
        assert_eq!(held.keep(&waiting, &datagrams[..1]), 1);
        assert_eq!(held.len(), 1);
        let left = held.leave(key(1)).unwrap();
        assert!(left.iter().map(|datagram| &**datagram).eq(datagrams[..DATAGRAMS].iter().copied()));
        assert!(held.leave(key(1)).is_none() && held.get(key(1)).is_none());
    }

    #[test]
    fn holds_so_many_octets_of_all_clients() {
        let held = Held::default();
        let (a, b) = (held.enter(key(1)), held.enter(key(2)));
        let large = vec![0; OCTETS / 20];
        let many = [large.as_slice(); DATAGRAMS];
        // 16 and 4 of them fill it.
        assert_eq!((held.keep(&a, &many), held.keep(&b, &many)), (0, 12));
        held.leave(key(1));
        assert_eq!(held.keep(&b, &many), 4, "there is room again, for as many as one client may have");
    }
}
