//! Records × what runs → what is kept, what is stopped, what is forgotten: pure.
//!
//! The runtimes say what runs (`Runtime::adopt`), the store what was started and whether it served, the registry which
//! services are still run. Next on the path: `reconcile.rs`, which takes the kept ones up and stops the others.

use crate::control::registry::{Adopted, Registration};
use crate::control::runtime::{Known, Running, Started};
use crate::control::store::{Contents, ReplicaRecord, WorkloadRecord};
use crate::model::{InstanceId, NodeId, ServiceName, Source, Workload};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// A replica that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// What runs.
    pub running: Running,
    /// It served when last heard of.
    pub ready: bool,
    /// It was drained by hand.
    pub drained: bool,
}

/// A replica that is stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// Its instance.
    pub id: InstanceId,
    /// Its service, as the runtime knows it.
    pub service: ServiceName,
    /// Why nobody wants it.
    pub why: &'static str,
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs on from before and is stopped: {}", self.id, self.why)
    }
}

/// What becomes of everything that an earlier Weir left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inheritance {
    /// Replicas that go on, in the order of their ids.
    pub kept: Vec<Kept>,
    /// Replicas that are stopped.
    pub orphans: Vec<Orphan>,
    /// Records of which nothing runs any more.
    pub missing: Vec<InstanceId>,
}

/// Decides; `is_run` says which services Weir runs now.
pub fn inherit(contents: &Contents, running: Vec<Running>, is_run: impl Fn(&ServiceName) -> bool) -> Inheritance {
    let mut inheritance = Inheritance::default();
    let mut seen = BTreeSet::new();
    for running in running {
        let (id, service) = (running.id.clone(), running.service.clone());
        let orphan = |why| Orphan { id: id.clone(), service: service.clone(), why };
        if !contents.replicas.contains_key(&id) {
            inheritance.orphans.push(orphan("no record knows it"));
        } else if !seen.insert(id.clone()) {
            inheritance.orphans.push(orphan("it runs twice"));
        } else if is_run(&service) {
            let (ready, drained) = (contents.ready.contains(&id), contents.drains.contains(&id));
            inheritance.kept.push(Kept { running, ready, drained });
        } else {
            inheritance.orphans.push(orphan("its service is no longer run"));
        }
    }
    inheritance.kept.sort_by(|one, other| one.running.id.cmp(&other.running.id));
    inheritance.missing = contents.replicas.keys().filter(|id| !seen.contains(*id)).cloned().collect();
    inheritance
}

/// Returns what the store knows of replicas, for the runtimes. A record whose service has no name is passed over.
pub fn known(contents: &Contents) -> Vec<Known> {
    let known = contents.replicas.iter().filter_map(|(id, record)| {
        let (started, birth) = match started(record) {
            Some((started, birth)) => (Some(started), birth),
            None => (None, None),
        };
        Some(Known {
            id: id.clone(),
            service: ServiceName::parse(&record.service).ok()?,
            revision: record.revision,
            fingerprint: record.fingerprint,
            slot: record.slot,
            started,
            birth,
        })
    });
    known.collect()
}

type Birth = Option<(u64, std::sync::Arc<str>)>;

fn started(record: &ReplicaRecord) -> Option<(Started, Birth)> {
    let (workload, birth) = match record.workload.as_ref()? {
        WorkloadRecord::Process { pid, start_ticks, boot } => {
            (Workload::Process(*pid), Some((*start_ticks, boot.as_str().into())))
        }
        WorkloadRecord::Container(id) => (Workload::Container(id.as_str().into()), None),
    };
    Some((Started { workload, address: record.address?, ports: record.ports.clone() }, birth))
}

/// Returns what the registry takes over: replicas that go on, and what registered itself over the API.
///
/// Whoever registered itself gets one full lease.
pub fn registrations(contents: &Contents, kept: &[Kept], node: &NodeId) -> Vec<Adopted> {
    let replicas = kept.iter().map(|Kept { running, ready, drained: _ }| {
        let Running { id, service, revision, started, .. } = running.clone();
        let registration = Registration {
            id: Some(id),
            service,
            source: Source::Scheduler,
            address: started.address,
            ports: started.ports,
            weight: 1,
            workload: Some(started.workload),
            revision,
            lease: None,
            node: node.clone(),
        };
        // Its drain is the scheduler's: the replacement comes first.
        Adopted { registration, ready: *ready, drained: false }
    });
    let registered = contents.registrations.iter().filter_map(|(id, record)| {
        let registration = Registration {
            id: Some(id.clone()),
            service: ServiceName::parse(&record.service).ok()?,
            source: Source::Api,
            address: record.address,
            ports: record.ports.clone(),
            weight: record.weight,
            workload: None,
            revision: 0,
            lease: Some(Duration::from_millis(record.lease_ms)),
            node: node.clone(),
        };
        Some(Adopted { registration, ready: contents.ready.contains(id), drained: contents.drains.contains(id) })
    });
    replicas.chain(registered).collect()
}
