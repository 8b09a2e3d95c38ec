//! Records × what runs → what is kept, what is stopped, what is forgotten: pure.
//!
//! The runtimes say what runs (`Runtime::adopt`), the store what was started and whether it served, the registry which
//! services are still run. Next on the path: `reconcile.rs`, which takes the kept ones up and stops the others.

use crate::control::registry::{Adopted, Registration};
use crate::control::runtime::{Known, Running, Started};
use crate::control::store::{Contents, ReplicaRecord, WorkloadRecord};
use crate::model::{InstanceId, NodeId, ServiceName, Source, Workload};
use crate::spec::{Problems, Said};
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
            workload: Some(started.workload),
            revision,
            ..Registration::new(service, Source::Scheduler, node.clone(), started.address, started.ports)
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
            traits: Said { zone: record.zone.as_deref(), tags: &record.tags, meta: &record.meta }
                .read(&mut Problems::new()),
            workload: None,
            revision: 0,
            lease: Some(Duration::from_millis(record.lease_ms)),
            node: node.clone(),
        };
        Some(Adopted { registration, ready: contents.ready.contains(id), drained: contents.drains.contains(id) })
    });
    replicas.chain(registered).collect()
}

#[cfg(test)]
mod tests {
    use super::{Contents, Inheritance, inherit, known, registrations};
    use crate::control::runtime::{Running, Started};
    use crate::control::store::{RegistrationRecord, ReplicaRecord, WorkloadRecord};
    use crate::model::{InstanceId, NodeId, ServiceName, Source, Workload};
    use crate::rng::Rng;
    use std::time::Duration;

    fn id(text: &str) -> InstanceId {
        InstanceId::parse(text).unwrap()
    }

    fn record(service: &str, pid: Option<u32>) -> ReplicaRecord {
        ReplicaRecord {
            service: service.to_owned(),
            revision: 4,
            fingerprint: 77,
            slot: 2,
            workload: pid.map(|pid| WorkloadRecord::Process { pid, start_ticks: 9, boot: "boot".to_owned() }),
            address: Some("127.0.0.1".parse().unwrap()),
            ports: vec![20_000],
        }
    }

    fn running(service: &str, instance: &str) -> Running {
        let address = "127.0.0.1".parse().unwrap();
        Running {
            id: id(instance),
            service: ServiceName::parse(service).unwrap(),
            revision: 4,
            fingerprint: 77,
            slot: 2,
            started: Started { workload: Workload::Process(5), address, ports: vec![20_000] },
        }
    }

    fn whys(inheritance: &Inheritance) -> Vec<(&str, &str)> {
        inheritance.orphans.iter().map(|orphan| (orphan.id.as_str(), orphan.why)).collect()
    }

    #[test]
    fn what_is_recorded_and_wanted_goes_on_as_it_was() {
        let mut contents = Contents::default();
        for name in ["web-a", "web-b", "web-c", "old-a"] {
            let service = name.split('-').next().unwrap();
            contents.replicas.insert(id(name), record(service, Some(5)));
        }
        contents.ready.extend([id("web-a"), id("web-c")]);
        contents.drains.insert(id("web-b"));
        let found = [("web", "web-b"), ("web", "web-a"), ("old", "old-a"), ("web", "stranger")];
        let found = found.map(|(service, name)| running(service, name)).to_vec();
        let inheritance = inherit(&contents, found, |service| service.name() == "web");
        let kept: Vec<_> = inheritance.kept.iter().map(|k| (k.running.id.as_str(), k.ready, k.drained)).collect();
        assert_eq!(kept, [("web-a", true, false), ("web-b", false, true)]);
        let orphans = [("old-a", "its service is no longer run"), ("stranger", "no record knows it")];
        assert_eq!(whys(&inheritance), orphans);
        assert_eq!(inheritance.missing, [id("web-c")]);
    }

    #[test]
    fn every_record_and_everything_that_runs_is_accounted_for_exactly_once() {
        for seed in 0..1_000 {
            let mut rng = Rng::from_seed(seed);
            let (mut contents, mut found) = (Contents::default(), Vec::new());
            for number in 0..8 {
                let name = format!("web-{number}");
                if rng.below(2) == 0 {
                    contents.replicas.insert(id(&name), record("web", None));
                }
                for _ in 0..[0, 1, 1, 2][rng.below(4)] {
                    found.push(running(["web", "old"][rng.below(2)], &name));
                }
            }
            let inheritance = inherit(&contents, found.clone(), |service| service.name() == "web");
            assert_eq!(inheritance.kept.len() + inheritance.orphans.len(), found.len(), "seed {seed}");
            for id in contents.replicas.keys() {
                let runs = found.iter().any(|running| running.id == *id);
                assert!(runs != inheritance.missing.contains(id), "seed {seed}: {id}");
                let kept = inheritance.kept.iter().filter(|kept| kept.running.id == *id).count();
                assert!(kept <= 1, "seed {seed}: {id} is kept {kept} times");
            }
            assert!(inheritance.kept.iter().all(|kept| contents.replicas.contains_key(&kept.running.id)));
        }
    }

    #[test]
    fn an_intent_has_no_process_and_a_registration_gets_one_full_lease() {
        let mut contents = Contents::default();
        contents.replicas.insert(id("web-a"), record("web", None));
        contents.replicas.insert(id("web-b"), record("team/web", Some(5)));
        contents.replicas.insert(id("web-c"), record("no name", Some(5)));
        let address = "10.0.0.1".parse().unwrap();
        let registration = RegistrationRecord {
            service: "ext".to_owned(),
            address,
            ports: vec![1, 0],
            weight: 3,
            zone: Some("eu-1".to_owned()),
            tags: vec!["v1".to_owned()],
            meta: Default::default(),
            lease_ms: 2_500,
        };
        contents.registrations.insert(id("ext-a"), registration);
        contents.ready.insert(id("ext-a"));
        let known = known(&contents);
        assert_eq!(known.iter().map(|known| known.started.is_some()).collect::<Vec<_>>(), [false, true]);
        assert_eq!(known[1].birth, Some((9, "boot".into())));
        let kept = inherit(&contents, vec![running("team/web", "web-b")], |_| true).kept;
        let adopted = registrations(&contents, &kept, &NodeId::parse("here").unwrap());
        assert_eq!(adopted.iter().map(|adopted| adopted.ready).collect::<Vec<_>>(), [false, true]);
        assert_eq!((adopted[0].registration.source, adopted[0].registration.lease), (Source::Scheduler, None));
        assert_eq!(adopted[1].registration.lease, Some(Duration::from_millis(2_500)));
        let traits = adopted[1].registration.traits.as_ref().unwrap();
        assert_eq!((traits.zone.as_deref(), &*traits.tags[0]), (Some("eu-1"), "v1"));
    }
}
