//! Writes down which instances serve, and forgets what is stored of those who have gone for good.
//!
//! After a restart what served before serves at once; so each change of that is noted, a moment after it happened. Watches
//! the registry; owns the store's picture of readiness; decides nothing. The scheduler writes down replicas themselves,
//! the registry what comes over the API.

use crate::control::registry::{Handle, Listing};
use crate::control::store::{Change, Contents, Store};
use crate::model::{Instance, InstanceId, InstanceState, ServiceName, Source, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// What is stored of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stored {
    ready: bool,
    /// It has a record as a registration over the API.
    registered: bool,
}

/// The store's picture.
#[derive(Debug)]
pub struct Standing {
    registry: Handle,
    store: Store,
    stored: HashMap<ServiceName, BTreeMap<InstanceId, Stored>>,
    /// Marks of instances that have no record any more: Weir died between the two.
    stray: Vec<Change>,
}

impl Standing {
    /// Begins with what the store holds.
    pub fn new(registry: Handle, store: Store, contents: &Contents) -> Self {
        let mut stored: HashMap<ServiceName, BTreeMap<InstanceId, Stored>> = HashMap::new();
        let replicas = contents.replicas.iter().map(|(id, record)| (id, &record.service, false));
        let registrations = contents.registrations.iter().map(|(id, record)| (id, &record.service, true));
        for (id, service, registered) in replicas.chain(registrations) {
            let ready = contents.ready.contains(id);
            if let Ok(service) = ServiceName::parse(service) {
                stored.entry(service).or_default().insert(id.clone(), Stored { ready, registered });
            }
        }
        let has_record =
            |id: &&InstanceId| contents.replicas.contains_key(*id) || contents.registrations.contains_key(*id);
        let stray = contents.ready.iter().filter(|id| !has_record(id)).cloned().map(Change::DropReady).collect();
        Self { registry, store, stored, stray }
    }

    /// Runs until the registry ends.
    pub async fn run(mut self) {
        let mut notices = self.registry.watch();
        // What cannot be written now is kept until it can; the store says so itself.
        let _ = self.store.note(std::mem::take(&mut self.stray)).await;
        self.look_at_all().await;
        loop {
            let mut names = BTreeSet::new();
            let mut next = notices.recv().await.map_err(|error| error == RecvError::Closed);
            loop {
                match next {
                    Ok(name) => drop(names.insert(name)),
                    Err(true) => return,
                    Err(false) => self.look_at_all().await,
                }
                next = match notices.try_recv() {
                    Ok(name) => Ok(name),
                    Err(TryRecvError::Lagged(_)) => Err(false),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                };
            }
            self.look_at(names).await;
        }
    }

    async fn look_at_all(&mut self) {
        let mut names: BTreeSet<ServiceName> = self.stored.keys().cloned().collect();
        names.extend(self.registry.specs().await.iter().map(|spec| spec.name.clone()));
        self.look_at(names).await;
    }

    async fn look_at(&mut self, names: BTreeSet<ServiceName>) {
        let mut changes = Vec::new();
        for name in names {
            let listing = self.registry.service(&name).await;
            let before = self.stored.remove(&name).unwrap_or_default();
            let (after, gone) = compare(&before, listing.as_ref(), &mut changes);
            if !after.is_empty() {
                self.stored.insert(name, after);
            }
            for id in gone {
                self.registry.forget(&id).await;
            }
        }
        // As above.
        let _ = self.store.note(changes).await;
    }
}

/// Compares what is stored with what is; returns what is stored after `changes`, and whose registration is to go.
fn compare(
    before: &BTreeMap<InstanceId, Stored>,
    listing: Option<&Listing>,
    changes: &mut Vec<Change>,
) -> (BTreeMap<InstanceId, Stored>, Vec<InstanceId>) {
    let mut after = BTreeMap::new();
    let instances = listing.map(|listing| listing.instances.as_slice()).unwrap_or_default();
    for instance in instances.iter().filter(|instance| is_stored(instance.source)) {
        let id = &instance.id;
        let was = before.get(id).is_some_and(|stored| stored.ready);
        let ready = serves(instance, was);
        match (was, ready) {
            (false, true) => changes.push(Change::PutReady(id.clone())),
            (true, false) => changes.push(Change::DropReady(id.clone())),
            _ => {}
        }
        after.insert(id.clone(), Stored { ready, registered: instance.source == Source::Api });
    }
    let mut gone = Vec::new();
    for (id, stored) in before.iter().filter(|(id, _)| !after.contains_key(*id)) {
        if stored.registered {
            gone.push(id.clone());
        } else if stored.ready {
            changes.push(Change::DropReady(id.clone()));
        }
    }
    (after, gone)
}

/// Returns whether instances of a source are in the store: others are told anew after a restart.
fn is_stored(source: Source) -> bool {
    match source {
        Source::File | Source::Feed => false,
        Source::Api | Source::Scheduler => true,
    }
}

/// Returns whether an instance is to serve at once after a restart; one that drains stays what it was.
fn serves(instance: &Instance, was: bool) -> bool {
    match instance.state {
        InstanceState::Ready => instance.verdict != Verdict::Unhealthy,
        InstanceState::Draining => was,
        InstanceState::Starting | InstanceState::Gone => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Stored, compare};
    use crate::control::registry::Listing;
    use crate::control::registry::fixture::spec;
    use crate::control::store::Change;
    use crate::model::{Instance, InstanceId, InstanceState, NodeId, ServiceName, Source, Verdict};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn id(text: &str) -> InstanceId {
        InstanceId::parse(text).unwrap()
    }

    fn instance(name: &str, source: Source, state: InstanceState, verdict: Verdict) -> Arc<Instance> {
        Arc::new(Instance {
            state,
            verdict,
            ..Instance::new(
                id(name),
                ServiceName::parse("web").unwrap(),
                source,
                NodeId::parse("here").unwrap(),
                "127.0.0.1".parse().unwrap(),
                vec![1],
            )
        })
    }

    fn stored(all: &[(&str, bool, bool)]) -> BTreeMap<InstanceId, Stored> {
        all.iter()
            .map(|(name, ready, registered)| (id(name), Stored { ready: *ready, registered: *registered }))
            .collect()
    }

    #[test]
    fn only_what_changed_is_written_and_who_drains_stays_what_it_was() {
        use InstanceState::{Draining, Gone, Ready, Starting};
        let instances = vec![
            instance("a", Source::Scheduler, Ready, Verdict::Unknown),
            instance("b", Source::Scheduler, Ready, Verdict::Unhealthy),
            instance("c", Source::Api, Draining, Verdict::Unknown),
            instance("d", Source::Api, Gone, Verdict::Unknown),
            instance("e", Source::Api, Starting, Verdict::Unknown),
            instance("f", Source::File, Ready, Verdict::Healthy),
        ];
        let listing = Listing { spec: Arc::new(spec("web", None)), instances };
        let before = stored(&[("b", true, false), ("c", true, true), ("d", true, true)]);
        let mut changes = Vec::new();
        let (after, gone) = compare(&before, Some(&listing), &mut changes);
        let expected = [Change::PutReady(id("a")), Change::DropReady(id("b")), Change::DropReady(id("d"))];
        assert_eq!(changes, expected);
        assert!(gone.is_empty());
        let expected = [("a", true, false), ("b", false, false), ("c", true, true), ("d", false, true)];
        assert_eq!(after, stored(&[expected.as_slice(), &[("e", false, true)]].concat()));
        changes.clear();
        assert_eq!(compare(&after, Some(&listing), &mut changes), (after.clone(), Vec::new()));
        assert!(changes.is_empty(), "nothing changed: {changes:?}");
    }

    #[test]
    fn who_is_listed_no_more_is_forgotten() {
        let before = stored(&[("a", true, false), ("b", false, false), ("c", true, true), ("d", false, true)]);
        let mut changes = Vec::new();
        let (after, gone) = compare(&before, None, &mut changes);
        assert_eq!((after.len(), gone), (0, vec![id("c"), id("d")]));
        assert_eq!(changes, [Change::DropReady(id("a"))]);
    }
}
