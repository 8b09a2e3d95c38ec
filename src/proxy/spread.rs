//! Which worker has how many connections, and handing one that was just accepted to a worker with fewer.
//!
//! The kernel spreads connections over the workers' sockets by a hash, which is uneven for few long-lived ones. A worker
//! that has more than its share hands a fresh connection on, before anything of it was read; never later. While the
//! numbers are even nothing is handed on and nobody is woken.

use crate::model::ListenerSpec;
use arc_swap::ArcSwap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// Connections on their way to one worker; when it is behind by so many, whoever accepted keeps what it has.
const MAX_HANDED: usize = 256;
/// Beyond this share above the mean a connection is handed on: below the 15 % that the busiest worker may have.
const UNEVEN: f64 = 1.1;

/// A connection that another worker accepted.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Nonblocking.
    pub(crate) stream: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: Arc<ListenerSpec>,
}

/// One worker as the others see it.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Seat {
    /// Connections open, those on their way to it included.
    open: AtomicUsize,
    inbox: mpsc::Sender<Handed>,
}

impl Seat {
    /// Counts a connection.
    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts it no more.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hands it a connection, counted at once.
    ///
    /// # Errors
    /// Gives the connection back when the worker is behind or ending.
    pub(crate) fn hand(&self, handed: Handed) -> Result<(), Handed> {
        self.opened();
        self.inbox.try_send(handed).map_err(|error| {
            self.closed();
            error.into_inner()
        })
    }
}

/// All workers that take connections.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    seats: ArcSwap<Vec<Arc<Seat>>>,
}

impl Spread {
    /// Adds a worker; the receiver gets what others hand to it.
    pub(crate) fn join(&self) -> (Arc<Seat>, mpsc::Receiver<Handed>) {
        let (inbox, handed) = mpsc::channel(MAX_HANDED);
        let seat = Arc::new(Seat { open: AtomicUsize::new(0), inbox });
        self.seats.rcu(|seats| seats.iter().chain([&seat]).cloned().collect::<Vec<_>>());
        (seat, handed)
    }

    /// Removes a worker that ends.
    pub(crate) fn leave(&self, seat: &Arc<Seat>) {
        self.seats.rcu(|seats| seats.iter().filter(|other| !Arc::ptr_eq(other, seat)).cloned().collect::<Vec<_>>());
    }

    /// Returns who should have a connection that this worker has just accepted, when that is another with room below
    /// `limit`. Cost: one load for each worker, for each connection.
    pub(crate) fn other(&self, own: &Arc<Seat>, limit: usize) -> Option<Arc<Seat>> {
        let seats = self.seats.load();
        if seats.len() < 2 {
            return None;
        }
        let open = |seat: &Arc<Seat>| seat.open.load(Ordering::Relaxed);
        let total: usize = seats.iter().map(open).sum();
        let least = seats.iter().filter(|seat| !Arc::ptr_eq(seat, own)).min_by_key(|seat| open(seat))?;
        (is_uneven(open(own), open(least), total, seats.len()) && open(least) < limit).then(|| least.clone())
    }
}

/// Whether one more on top of `own` connections is too many when another worker has only `least`.
fn is_uneven(own: usize, least: usize, total: usize, workers: usize) -> bool {
    own > least && (own + 1) as f64 > UNEVEN * (total + 1) as f64 / workers as f64
}

#[cfg(test)]
mod tests {
    use super::{Spread, is_uneven};
    use crate::rng::Rng;
    use std::sync::atomic::Ordering;

    #[test]
    fn even_numbers_hand_nothing_on() {
        assert!(!is_uneven(0, 0, 0, 8) && !is_uneven(8, 8, 64, 8) && !is_uneven(1000, 950, 7900, 8));
        assert!(is_uneven(1, 0, 1, 2) && is_uneven(9, 7, 64, 8) && is_uneven(1200, 950, 8000, 8));
    }

    #[test]
    fn the_busiest_of_eight_workers_has_no_more_than_its_share() {
        for seed in 0..200 {
            let (spread, mut rng) = (Spread::default(), Rng::from_seed(seed));
            let (seats, _inboxes): (Vec<_>, Vec<_>) = (0..8).map(|_| spread.join()).unzip();
            for n in 1..=640 {
                let own = &seats[rng.below(8)];
                match spread.other(own, 1000) {
                    Some(other) => other.opened(),
                    None => own.opened(),
                }
                let most = seats.iter().map(|seat| seat.open.load(Ordering::Relaxed)).max().unwrap();
                assert!(n < 64 || most as f64 <= 1.15 * n as f64 / 8.0, "seed {seed}: {most} of {n}");
            }
        }
    }

    #[test]
    fn who_left_or_is_full_gets_nothing() {
        let spread = Spread::default();
        let ((own, _a), (other, _b)) = (spread.join(), spread.join());
        own.opened();
        assert!(spread.other(&own, 10).is_some() && spread.other(&own, 0).is_none());
        spread.leave(&other);
        assert!(spread.other(&own, 10).is_none());
    }
}
