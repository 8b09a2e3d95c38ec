//! Waiting in a service's bounded queue: for a free replica, or for a first one.

use crate::balance::ServiceStats;
use crate::proxy::timer::{Deadline, ms};
use crate::table::{Service, Wake};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;

/// What a stream or a flow to a service without a replica waits with.
pub(crate) struct Absent {
    pub(crate) stats: Arc<ServiceStats>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) slot: usize,
    /// How many may wait.
    pub(crate) queue: u32,
    /// For how long.
    pub(crate) wait_ms: u64,
}

impl Absent {
    pub(crate) fn of(service: &Service) -> Self {
        Self {
            stats: service.stats.clone(),
            wake: service.wake.clone(),
            slot: service.slot,
            queue: service.spec.limits.queue,
            wait_ms: ms(service.spec.wake_timeout()),
        }
    }
}

/// Waits for a wake-up until the deadline; returns whether it came.
pub(crate) async fn woken(place: &mut oneshot::Receiver<()>, deadline: &Deadline) -> bool {
    poll_fn(|cx| match std::pin::Pin::new(&mut *place).poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Gives a wake-up that came too late to the next in the queue.
pub(crate) fn pass_on(place: &mut oneshot::Receiver<()>, stats: &ServiceStats) {
    place.close();
    if place.try_recv().is_ok() {
        stats.release();
    }
}
