//! Tests of the importer, with a registry and no source.

use super::{GRACE, Importer, Parts, Source, Sources, choose};
use crate::control::events::Events;
use crate::control::feed::source::{Applied, News};
use crate::control::feed::{FedEndpoint, FedService, FedTable, LinkError};
use crate::control::registry::fixture::{check, id, name, registration, spec};
use crate::control::{Options, publisher};
use crate::model::Source as Contributor;
use crate::model::{InstanceId, InstanceState, NodeId};
use crate::rng::Rng;
use crate::table::{Snapshot, Table, channel, names::Names};
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

fn endpoint(id: &str, port: u16) -> FedEndpoint {
    let (id, address) = (InstanceId::parse(id).unwrap(), "127.0.0.1".parse().unwrap());
    FedEndpoint { id, address, ports: vec![port, 0], weight: 1, traits: None, unhealthy: false, draining: false }
}

fn table_of(endpoints: &[FedEndpoint]) -> News {
    let spec = Arc::new(spec("web", Some(check())));
    let services = [(spec.name.clone(), Arc::new(FedService { spec, endpoints: endpoints.to_vec() }))].into();
    News::Table(Arc::new(FedTable { epoch: "e".into(), generation: 1, services, ..FedTable::default() }))
}

/// A table with one endpoint of `web`.
fn table(id: &str, port: u16) -> News {
    table_of(&[endpoint(id, port)])
}

/// An importer with a registry, and the table that shows it.
fn importer() -> (Importer, Table) {
    let (writer, shared) = channel(Snapshot::empty(Names::default()));
    let (events, metrics, node) = (Events::default(), Metrics::new(), NodeId::parse("n").unwrap());
    let registry = publisher::spawn(&Options::default(), events.clone(), writer, Rng::from_seed(1));
    let parts = Parts { registry, table: shared.clone(), metrics, events, node, state: std::env::temp_dir() };
    (Importer::new(parts, Sources::default()), shared)
}

fn add_source(importer: &mut Importer) -> watch::Receiver<Applied> {
    let (applied, watched) = watch::channel(Applied::default());
    importer.sources.push(Source { is_local: true, table: None, live: false, applied });
    importer.shown.add(String::new());
    watched
}

#[tokio::test(start_paused = true)]
async fn of_a_source_that_was_left_everything_is_held_until_each_worker_knows() {
    let (mut importer, shared) = importer();
    let first = add_source(&mut importer);
    let _second = add_source(&mut importer);
    importer.take(0, table("a", 1)).await;
    let mut worker = shared.reader("worker-0");
    importer.take(1, table("b", 2)).await;
    importer.take(0, News::Lost(LinkError::Unreachable("it died".to_owned()))).await;
    tokio::time::sleep(GRACE).await;
    importer.switch_at = None;
    // The worker is busy for longer than is waited for it, and uses what it had.
    importer.switch().await;
    let left = first.borrow().clone();
    assert_eq!((importer.used, left.is_used, shared.lagging(left.local).len()), (Some(1), false, 1));
    let request = left.held.iter().map(|held| held.begin()).next().expect("it is held though nothing is there yet");
    worker.load();
    importer.standby(0);
    assert_eq!((shared.lagging(left.local).len(), first.borrow().held.len()), (0, 1));
    drop(request);
    importer.standby(0);
    assert!(first.borrow().held.is_empty());
}

#[test]
fn the_first_that_lives_is_used_and_what_is_used_stays_while_none_does() {
    let (live, dead, new) = ((true, true), (false, true), (true, false));
    assert_eq!(choose(None, &[new, dead]), None);
    assert_eq!(choose(None, &[new, live]), Some(1));
    assert_eq!(choose(Some(1), &[live, live]), Some(0));
    assert_eq!(choose(Some(0), &[dead, live]), Some(1));
    assert_eq!(choose(Some(0), &[dead, dead]), Some(0));
}

/// The ids of the living instances of a service.
async fn living(importer: &Importer, service: &str) -> Vec<String> {
    let known = importer.parts.registry.service(&name(service)).await.unwrap().instances;
    let living = known.iter().filter(|instance| instance.state != InstanceState::Gone);
    living.map(|instance| instance.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_table_changes_nothing_of_an_instance_that_was_registered_here_by_the_same_id() {
    let (mut importer, _shared) = importer();
    let _applied = add_source(&mut importer);
    let registry = importer.parts.registry.clone();
    registry.define(Arc::new(spec("own", Some(check())))).await.unwrap();
    registry.register(registration("own", "a", Contributor::Api)).await.unwrap();
    let before = registry.instance(&id("a")).await.unwrap();
    let sick = FedEndpoint { unhealthy: true, ..endpoint("a", 1) };
    let heavy = FedEndpoint { weight: 7, ..endpoint("a", 1) };
    let leaving = FedEndpoint { draining: true, ..endpoint("a", 1) };
    for told in [sick, heavy, leaving.clone(), endpoint("a", 1)] {
        importer.take(0, table_of(&[told, endpoint("b", 2)])).await;
        assert_eq!(registry.instance(&id("a")).await.unwrap(), before);
        assert_eq!(living(&importer, "web").await, ["b"]);
    }
    assert_eq!(importer.clashes.len(), 1);
    importer.take(0, table("b", 2)).await;
    assert_eq!(registry.instance(&id("a")).await.unwrap(), before, "the table lists it no more");
    assert!(importer.clashes.is_empty());
    // Once the id is free it is taken in.
    importer.take(0, table_of(&[endpoint("a", 1), endpoint("b", 2)])).await;
    registry.deregister(&id("a")).await.unwrap();
    importer.noticed([name("own")].into()).await;
    assert_eq!(living(&importer, "web").await, ["b", "a"]);
    importer.take(0, table_of(&[leaving, endpoint("b", 2)])).await;
    assert_eq!(registry.instance(&id("a")).await.unwrap().state, InstanceState::Draining);
    assert!(importer.clashes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_was_registered_here_and_may_be_back_keeps_its_id_and_one_of_the_same_service_lives_on_by_the_table() {
    let (mut importer, _shared) = importer();
    let _applied = add_source(&mut importer);
    let registry = importer.parts.registry.clone();
    registry.define(Arc::new(spec("own", None))).await.unwrap();
    importer.take(0, table("b", 2)).await;
    for (service, instance) in [("own", "a"), ("web", "c")] {
        registry.register(registration(service, instance, Contributor::Api)).await.unwrap();
    }
    importer.take(0, table_of(&[endpoint("a", 1), endpoint("b", 2), endpoint("c", 8000)])).await;
    assert_eq!(living(&importer, "web").await, ["b", "c"]);
    let mut same: Vec<bool> = importer.clashes.iter().map(|clash| clash.is_same).collect();
    same.sort_unstable();
    assert_eq!(same, [false, true]);
    tokio::time::sleep(Options::default().default_lease + Duration::from_secs(1)).await;
    importer.noticed([name("own"), name("web")].into()).await;
    assert_eq!(registry.instance(&id("c")).await.unwrap().source, Contributor::Feed);
    registry.renew(&id("a")).await.unwrap();
    assert_eq!(living(&importer, "own").await, ["a"]);
}
