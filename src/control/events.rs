//! The feed of what control did: a ring of the last events and a bounded broadcast of new ones.
//!
//! Each event carries the generation that made it visible, so that a reader can tie "instance ready" to the table that
//! routes to it. Invariant: sequence numbers rise by one, and subscribers see them in that order. A subscriber that is
//! slower than the channel learns that it missed some and can fill in from [`Events::recent`]. Next on the path:
//! `admin::events`.

use crate::clock;
use crate::model::{InstanceId, ServiceName};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::broadcast;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Another configuration is in use.
    ConfigurationApplied,
    /// A configuration was refused; the last good one stays in use.
    ConfigurationRefused,
    /// An instance was registered; it waits for its first check or is ready at once.
    InstanceRegistered,
    /// An instance may receive traffic.
    InstanceReady,
    /// An unhealthy instance passed its checks again.
    InstanceHealthy,
    /// An instance failed its checks and is withdrawn.
    InstanceUnhealthy,
    /// An instance takes no new work.
    InstanceDraining,
    /// An instance exited or was deregistered.
    InstanceGone,
    /// A lease ran out.
    LeaseExpired,
    /// A renewal brought an expired instance back.
    LeaseRevived,
    /// A service was defined, or its definition changed.
    ServiceDefined,
    /// A service was removed.
    ServiceRemoved,
    /// A revision of a service is wanted.
    Deployed,
    /// A revision has proved itself.
    RolloutCompleted,
    /// A revision failed, and nothing was rolled back.
    RolloutFailed,
    /// A revision failed, and the last one that worked is wanted again.
    RolledBack,
    /// A number of replicas set by hand counts no more.
    PinDropped,
    /// The scheduler starts a replica.
    ReplicaStarting,
    /// A replica of an earlier Weir is taken up.
    ReplicaAdopted,
    /// A replica of an earlier Weir is stopped: nobody wants it.
    ReplicaOrphaned,
    /// A replica exited.
    ReplicaExited,
    /// A service's replicas exit too often; no more are started for a while.
    ReplicaQuarantined,
    /// The wanted number of replicas changed.
    Scaled,
    /// An acknowledger did not load a withdrawal in time.
    AcknowledgeLate,
    /// A certificate was obtained.
    CertificateIssued,
    /// No certificate was obtained; the one before is served on.
    CertificateFailed,
    /// A name of endpoints was not resolved; the endpoints before are kept.
    ResolveFailed,
    /// A Weir that follows this one's table says nothing and is not waited for.
    SubscriberSilent,
    /// It is heard again.
    SubscriberBack,
    /// The table is taken from another source.
    SourceChanged,
    /// A source of the table is not reached, or was refused.
    SourceLost,
}

impl EventKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [Self; 31] = [
        Self::ConfigurationApplied,
        Self::ConfigurationRefused,
        Self::InstanceRegistered,
        Self::InstanceReady,
        Self::InstanceHealthy,
        Self::InstanceUnhealthy,
        Self::InstanceDraining,
        Self::InstanceGone,
        Self::LeaseExpired,
        Self::LeaseRevived,
        Self::ServiceDefined,
        Self::ServiceRemoved,
        Self::Deployed,
        Self::RolloutCompleted,
        Self::RolloutFailed,
        Self::RolledBack,
        Self::PinDropped,
        Self::ReplicaStarting,
        Self::ReplicaAdopted,
        Self::ReplicaOrphaned,
        Self::ReplicaExited,
        Self::ReplicaQuarantined,
        Self::Scaled,
        Self::AcknowledgeLate,
        Self::CertificateIssued,
        Self::CertificateFailed,
        Self::ResolveFailed,
        Self::SubscriberSilent,
        Self::SubscriberBack,
        Self::SourceChanged,
        Self::SourceLost,
    ];

    /// Returns the name as the API, the log and the CLI show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationApplied => "configuration_applied",
            Self::ConfigurationRefused => "configuration_refused",
            Self::InstanceRegistered => "instance_registered",
            Self::InstanceReady => "instance_ready",
            Self::InstanceHealthy => "instance_healthy",
            Self::InstanceUnhealthy => "instance_unhealthy",
            Self::InstanceDraining => "instance_draining",
            Self::InstanceGone => "instance_gone",
            Self::LeaseExpired => "lease_expired",
            Self::LeaseRevived => "lease_revived",
            Self::ServiceDefined => "service_defined",
            Self::ServiceRemoved => "service_removed",
            Self::Deployed => "deployed",
            Self::RolloutCompleted => "rollout_completed",
            Self::RolloutFailed => "rollout_failed",
            Self::RolledBack => "rolled_back",
            Self::PinDropped => "pin_dropped",
            Self::ReplicaStarting => "replica_starting",
            Self::ReplicaAdopted => "replica_adopted",
            Self::ReplicaOrphaned => "replica_orphaned",
            Self::ReplicaExited => "replica_exited",
            Self::ReplicaQuarantined => "replica_quarantined",
            Self::Scaled => "scaled",
            Self::AcknowledgeLate => "acknowledge_late",
            Self::CertificateIssued => "certificate_issued",
            Self::CertificateFailed => "certificate_failed",
            Self::ResolveFailed => "resolve_failed",
            Self::SubscriberSilent => "subscriber_silent",
            Self::SubscriberBack => "subscriber_back",
            Self::SourceChanged => "source_changed",
            Self::SourceLost => "source_lost",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number since the start, from 1, rising by one.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The generation of the table that shows it.
    pub generation: u64,
    /// What happened.
    pub kind: EventKind,
    /// The service it concerns.
    pub service: Option<ServiceName>,
    /// The instance it concerns.
    pub instance: Option<InstanceId>,
    /// A sentence for people.
    pub message: String,
}

/// The feed; clones share it.
#[derive(Debug, Clone)]
pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
    /// Short lock: one push for an event, one copy of pointers for a reader.
    ring: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    last_seq: u64,
    capacity: usize,
    events: VecDeque<Arc<Event>>,
    /// Events ever emitted, by kind.
    counts: [u64; EventKind::ALL.len()],
}

/// Events that are kept unless told otherwise; a busy minute of a hundred services.
pub const DEFAULT_CAPACITY: usize = 1024;

impl Events {
    /// Makes a feed that keeps the last `capacity` events (at least one).
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let ring = Ring {
            last_seq: 0,
            capacity,
            events: VecDeque::with_capacity(capacity),
            counts: [0; EventKind::ALL.len()],
        };
        Self { sender: broadcast::Sender::new(capacity), ring: Arc::new(Mutex::new(ring)) }
    }

    /// Adds an event, logs it and sends it to the subscribers; never waits.
    pub fn emit(
        &self,
        generation: u64,
        kind: EventKind,
        service: Option<ServiceName>,
        instance: Option<InstanceId>,
        message: String,
    ) {
        log(generation, kind, service.as_ref(), instance.as_ref(), &message);
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last_seq += 1;
        if let Some(count) = ring.counts.get_mut(kind as usize) {
            *count += 1;
        }
        let event =
            Event { seq: ring.last_seq, at_unix_ms: clock::unix_ms(), generation, kind, service, instance, message };
        let event = Arc::new(event);
        if ring.events.len() >= ring.capacity {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Under the lock, so that subscribers see the order of the numbers. No subscriber is no error.
        let _ = self.sender.send(event);
    }

    /// Subscribes to events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }

    /// Returns how many events of a kind were ever emitted.
    pub fn count(&self, kind: EventKind) -> u64 {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.counts.get(kind as usize).copied().unwrap_or(0)
    }

    /// Returns the kept events, oldest first.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).events.iter().cloned().collect()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

fn log(generation: u64, kind: EventKind, service: Option<&ServiceName>, instance: Option<&InstanceId>, message: &str) {
    let service = service.map(tracing::field::display);
    let instance = instance.map(tracing::field::display);
    match kind {
        EventKind::ConfigurationRefused
        | EventKind::InstanceUnhealthy
        | EventKind::LeaseExpired
        | EventKind::ReplicaQuarantined
        | EventKind::AcknowledgeLate
        | EventKind::CertificateFailed
        | EventKind::ResolveFailed => {
            tracing::warn!(event = kind.as_str(), service, instance, generation, "{message}");
        }
        // A start registers thousands at once; that they are ready is what people look for.
        EventKind::InstanceRegistered | EventKind::ServiceDefined => {
            tracing::debug!(event = kind.as_str(), service, instance, generation, "{message}");
        }
        _ => tracing::info!(event = kind.as_str(), service, instance, generation, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{EventKind, Events};

    fn emit(events: &Events, generation: u64) {
        events.emit(generation, EventKind::Scaled, None, None, format!("change {generation}"));
    }

    #[test]
    fn keeps_the_last_events_with_rising_numbers() {
        let events = Events::new(3);
        for generation in 1..=5 {
            emit(&events, generation);
        }
        let recent = events.recent();
        assert_eq!(recent.iter().map(|e| e.seq).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(recent.iter().map(|e| e.generation).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[tokio::test]
    async fn subscribers_see_new_events_in_order_and_learn_what_they_missed() {
        let events = Events::new(2);
        emit(&events, 1);
        let mut fast = events.subscribe();
        emit(&events, 2);
        assert_eq!(fast.recv().await.unwrap().generation, 2);
        for generation in 3..=9 {
            emit(&events, generation);
        }
        assert!(matches!(fast.recv().await, Err(tokio::sync::broadcast::error::RecvError::Lagged(_))));
        assert_eq!(fast.recv().await.unwrap().generation, 8);
        assert_eq!(events.recent().last().unwrap().seq, 9);
    }

    #[test]
    fn counts_by_kind_and_lists_every_kind_in_order() {
        let events = Events::new(1);
        emit(&events, 1);
        emit(&events, 2);
        assert_eq!((events.count(EventKind::Scaled), events.count(EventKind::InstanceGone)), (2, 0));
        assert!(EventKind::ALL.iter().enumerate().all(|(at, kind)| *kind as usize == at));
    }

    #[test]
    fn a_feed_of_no_capacity_keeps_one() {
        let events = Events::new(0);
        emit(&events, 1);
        emit(&events, 2);
        assert_eq!(events.recent().len(), 1);
    }
}
