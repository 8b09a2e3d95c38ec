//! Tests of the feed: lines put together, tables compared, followers acknowledged. No socket.

use crate::balance::{Carried, Present};
use crate::control::events::{EventKind, Events};
use crate::control::feed::assembly::{Assembly, Refusal, Step};
use crate::control::feed::import::{difference, fit};
use crate::control::feed::kept;
use crate::control::feed::wire::{Begin, End, FORMAT, Heartbeat, Hello, Line};
use crate::control::feed::{FedEndpoint, FedService, FedTable, Fleet, FleetError, Report, ServiceLoad, Use};
use crate::control::registry::fixture::spec;
use crate::model::{Instance, InstanceId, InstanceState, NodeId, ServiceName, ServiceSpec, Source, ToldSpec, Verdict};
use crate::table::names::Names;
use crate::table::{Change, Changes, Publisher, Snapshot, Table, build, channel};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

fn endpoint(id: &str, port: u16) -> FedEndpoint {
    FedEndpoint {
        id: InstanceId::parse(id).unwrap(),
        address: "127.0.0.1".parse().unwrap(),
        ports: vec![port],
        weight: 1,
        traits: None,
        unhealthy: false,
        draining: false,
    }
}

fn service(name: &str, endpoints: &[FedEndpoint]) -> Arc<FedService> {
    // What a definition without replicas says when it is read.
    let spec = ServiceSpec { replicas: 1, ..spec(name, None) };
    Arc::new(FedService { spec: Arc::new(spec), endpoints: endpoints.to_vec() })
}

fn table(generation: u64, services: &[Arc<FedService>]) -> FedTable {
    let services = services.iter().map(|one| (one.spec.name.clone(), one.clone())).collect();
    FedTable { epoch: "e".into(), by: Arc::new(["e".to_owned()]), generation, services, routes: Arc::new([]) }
}

fn hello(session: &str) -> Line {
    Line::Hello(Hello { format: FORMAT, epoch: "e".into(), session: session.into(), ..Hello::default() })
}

fn feed(assembly: &mut Assembly, lines: &[Line]) -> Result<Step, Refusal> {
    let mut last = Step::Nothing;
    for line in lines {
        let mut octets = Vec::new();
        line.write(&mut octets);
        last = assembly.line(octets.strip_suffix(b"\n").unwrap())?;
    }
    Ok(last)
}

fn begin(generation: u64, after: Option<u64>) -> Line {
    Line::Begin(Begin { generation, after, ..Begin::default() })
}

fn end(generation: u64, lines: usize) -> Line {
    Line::End(End { generation, lines })
}

#[test]
fn a_whole_table_and_what_changes_of_it_come_together_at_their_ends() {
    let mut assembly = Assembly::new(Some("s".to_owned()), None, None);
    let (web, db) = (service("web", &[endpoint("a", 1)]), service("db", &[endpoint("b", 2)]));
    feed(&mut assembly, &[hello("s"), begin(7, None), Line::fed(&web)]).unwrap();
    assert_eq!(feed(&mut assembly, &[Line::fed(&db)]).unwrap(), Step::Nothing, "not before the end");
    let Step::Table(first) = feed(&mut assembly, &[end(7, 2)]).unwrap() else { panic!("no table") };
    assert_eq!((first.generation, first.services.len(), &*first.epoch), (7, 2, "e"));
    assert_eq!(first.services.values().next().unwrap().endpoints, db.endpoints);
    let more = service("web", &[endpoint("a", 1), endpoint("c", 3)]);
    let lines = [begin(9, Some(7)), Line::fed(&more), Line::Remove("db".to_owned()), end(9, 2)];
    let Step::Table(second) = feed(&mut assembly, &lines).unwrap() else { panic!("no table") };
    assert_eq!((second.generation, second.services.len()), (9, 1));
    assert_eq!(second.services.values().next().unwrap().endpoints.len(), 2);
    assert_eq!(assembly.ended(b""), None);
    assert_eq!(assembly.ended(b"{\"be"), Some(Refusal::Truncated));
}

#[test]
fn what_may_not_come_next_is_refused_by_its_reason() {
    let web = Line::fed(&service("web", &[]));
    let known = Arc::new(table(5, &[]));
    let refused = |lines: &[Line]| {
        let mut assembly = Assembly::new(Some("s".to_owned()), Some(known.clone()), None);
        feed(&mut assembly, lines).err().map(|refusal| refusal.reason())
    };
    let other = Line::Hello(Hello { format: FORMAT + 1, session: "s".into(), ..Hello::default() });
    let cases: [(&[Line], Option<&str>); 11] = [
        (&[hello("s"), begin(6, Some(5)), web.clone(), end(6, 1)], None),
        (&[other], Some("version")),
        (&[hello("t")], Some("replayed")),
        (&[hello("s"), hello("s")], Some("malformed")),
        (std::slice::from_ref(&web), Some("malformed")),
        (&[hello("s"), web.clone()], Some("malformed")),
        (&[hello("s"), begin(5, Some(5))], Some("replayed")),
        (&[hello("s"), begin(7, Some(6))], Some("replayed")),
        (&[hello("s"), begin(4, None)], Some("replayed")),
        (&[hello("s"), begin(6, None), begin(7, None)], Some("malformed")),
        (&[hello("s"), begin(6, None), web.clone(), end(6, 2)], Some("malformed")),
    ];
    for (i, (lines, reason)) in cases.into_iter().enumerate() {
        assert_eq!(refused(lines), reason, "case {i}");
    }
    let mut assembly = Assembly::new(None, None, None);
    assert_eq!(assembly.line(b"<html>").unwrap_err().reason(), "malformed");
}

#[test]
fn a_stream_that_is_cut_anywhere_gives_no_table_or_the_whole_one() {
    let mut octets = Vec::new();
    let web = service("web", &[endpoint("a", 1)]);
    for line in [hello("s"), begin(1, None), Line::fed(&web), end(1, 1)] {
        line.write(&mut octets);
    }
    for cut in 0..octets.len() {
        let mut assembly = Assembly::new(Some("s".to_owned()), None, None);
        let (whole, rest) =
            octets[..cut].split_at(octets[..cut].iter().rposition(|o| *o == b'\n').map_or(0, |at| at + 1));
        for line in whole.split_inclusive(|octet| *octet == b'\n') {
            assert!(
                !matches!(assembly.line(line.strip_suffix(b"\n").unwrap()), Ok(Step::Table(_)) | Err(_)),
                "at {cut}"
            );
        }
        let in_update = whole.iter().filter(|octet| **octet == b'\n').count() >= 2;
        assert_eq!(assembly.ended(rest).is_some(), in_update || !rest.is_empty(), "at {cut}");
    }
}

#[test]
fn a_table_survives_its_file_and_half_a_file_is_none() {
    let path = std::env::temp_dir().join(format!("weir-kept-{}.jsonl", std::process::id()));
    let mut draining = endpoint("b", 2);
    (draining.draining, draining.unhealthy, draining.weight) = (true, true, 7);
    let kept_table = table(3, &[service("web", &[endpoint("a", 1), draining]), service("x/db", &[])]);
    kept::write(&path, &kept_table).unwrap();
    assert_eq!(*kept::read(&path).unwrap(), kept_table);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read(&path).unwrap();
    for cut in [0, 1, text.len() / 2, text.len() - 1] {
        std::fs::write(&path, &text[..cut]).unwrap();
        assert!(kept::read(&path).is_err(), "cut at {cut}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn only_what_differs_is_contributed() {
    let node = NodeId::parse("n").unwrap();
    let before =
        table(1, &[service("web", &[endpoint("a", 1), endpoint("b", 2), endpoint("c", 3)]), service("db", &[])]);
    let same = difference(&before, &before, &node);
    assert!(same.define.is_empty() && same.adopt.is_empty() && same.gone.is_empty() && same.fed_routes.is_none());
    let (mut leaving, mut sick) = (endpoint("a", 1), endpoint("b", 2));
    (leaving.draining, sick.unhealthy) = (true, true);
    let after = table(2, &[service("web", &[leaving, sick, endpoint("d", 4)])]);
    let change = difference(&before, &after, &node);
    let ids = |list: &[InstanceId]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(ids(&change.withdraw), ["a"]);
    assert_eq!(ids(&change.gone), ["c"]);
    assert_eq!(change.judge, [(InstanceId::parse("b").unwrap(), Verdict::Unhealthy)]);
    assert_eq!(change.undefine, [ServiceName::parse("db").unwrap()]);
    assert_eq!(change.adopt.len(), 1);
    assert!(change.define.is_empty(), "the definition is the same");
    let back = difference(&after, &before, &node);
    assert_eq!(ids(&back.restore), ["a"]);
    // Another address by the same id is another endpoint.
    let moved = table(3, &[service("web", &[endpoint("a", 9)]), service("db", &[])]);
    let change = difference(&before, &moved, &node);
    assert!(ids(&change.gone).contains(&"a".to_owned()) && change.adopt.len() == 1);
}

#[test]
fn loopback_addresses_of_another_machine_and_services_of_others_are_left_out() {
    let far = FedEndpoint { address: "10.0.0.1".parse().unwrap(), ..endpoint("b", 2) };
    let told = table(1, &[service("web", &[endpoint("a", 1), far]), service("db", &[])]);
    let (fitted, left_out) = fit(&told, |name| name.as_str() == "db", false);
    assert_eq!((fitted.services.len(), left_out), (1, 1));
    let (fitted, left_out) = fit(&told, |_| false, true);
    assert_eq!((fitted.services.len(), left_out), (2, 0));
}

struct World {
    publisher: Publisher,
    table: Table,
    fleet: Fleet,
    events: Events,
}

impl World {
    fn new() -> Self {
        let (publisher, table) = channel(Snapshot::empty(Names::default()));
        let events = Events::default();
        Self { publisher, fleet: Fleet::new(table.clone(), events.clone()), table, events }
    }

    /// Publishes `web` with one withdrawn endpoint `a`.
    fn publish(&mut self) -> u64 {
        let web = Instance {
            state: InstanceState::Draining,
            verdict: Verdict::Healthy,
            ..Instance::new(
                InstanceId::parse("a").unwrap(),
                ServiceName::parse("web").unwrap(),
                Source::Scheduler,
                NodeId::parse("n").unwrap(),
                "127.0.0.1".parse().unwrap(),
                vec![1, 0],
            )
        };
        let services = vec![Change::Set { spec: Arc::new(spec("web", None)), instances: vec![web] }];
        self.publisher.publish(build(&self.publisher.current(), Changes { services, ..Changes::default() }))
    }

    fn uses(in_flight: bool) -> Use {
        let (service, instance) = (ServiceName::parse("web").unwrap(), InstanceId::parse("a").unwrap());
        Use { service, instance, in_flight, named_ms: 0 }
    }

    fn elsewhere(&self) -> u32 {
        let snapshot = self.table.load();
        let service = snapshot.services.iter().next().unwrap();
        service.draining[0].1.stats.elsewhere()
    }
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_waits_for_a_follower_until_it_says_so_or_is_silent() {
    let mut world = World::new();
    let party = world.fleet.join("edge", "p1", "s1").unwrap();
    let generation = world.publish();
    assert_eq!(world.table.lagging(generation), ["edge".into()]);
    world.fleet.acknowledge("edge", "s1", generation, &[World::uses(true)]).unwrap();
    assert_eq!((world.table.lagging(generation).len(), world.elsewhere()), (0, 1));
    world.fleet.acknowledge("edge", "s1", generation, &[World::uses(false)]).unwrap();
    assert_eq!(world.elsewhere(), 0);
    world.fleet.acknowledge("edge", "s1", generation, &[World::uses(true)]).unwrap();
    let next = world.publish();
    assert!(matches!(world.fleet.acknowledge("edge", "s1", next + 1, &[]), Err(FleetError::Future(_))));
    assert!(matches!(world.fleet.acknowledge("edge", "s0", next, &[]), Err(FleetError::Unknown(_))));
    tokio::time::sleep(Duration::from_millis(2_700)).await;
    assert_eq!(world.table.lagging(next).len(), 1, "not silent yet");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!((world.table.lagging(next).len(), world.elsewhere()), (0, 0), "not waited for");
    assert!(world.fleet.status()[0].silent);
    let kinds: Vec<_> = world.events.recent().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::SubscriberSilent]);
    // Heard again it counts again, at the generation that it says.
    world.fleet.acknowledge("edge", "s1", generation, &[]).unwrap();
    assert_eq!(world.table.lagging(next), ["edge".into()]);
    world.fleet.leave("edge", "s1").unwrap();
    assert!(world.table.lagging(next).is_empty() && world.fleet.status().is_empty(), "though its stream is open");
    drop(party);
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_comes_back_takes_its_own_place() {
    let mut world = World::new();
    drop(world.fleet.join("edge", "p1", "s1").unwrap());
    let generation = world.publish();
    world.fleet.acknowledge("edge", "s1", generation, &[World::uses(true)]).unwrap();
    world.fleet.disconnected("edge", "s1");
    assert!(!world.fleet.status()[0].connected);
    drop(world.fleet.join("edge", "p1", "s2").unwrap());
    assert_eq!((world.fleet.status().len(), world.elsewhere()), (1, 1), "what it said holds until it says more");
    world.fleet.acknowledge("edge", "s2", generation, &[]).unwrap();
    assert_eq!(world.elsewhere(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_often_leaves_nothing_behind() {
    let mut world = World::new();
    let streams: Vec<_> = (0..5).map(|i| world.fleet.join("edge", "p1", &format!("s{i}")).unwrap()).collect();
    let generation = world.publish();
    world.fleet.acknowledge("edge", "s4", generation, &[]).unwrap();
    assert!(world.table.lagging(generation).is_empty(), "streams of before are not waited for");
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1, "one looks for silence");
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn what_a_follower_carries_counts_once_and_until_it_is_silent() {
    let mut world = World::new();
    drop(world.fleet.join("edge", "p1", "s1").unwrap());
    world.publish();
    let report = |number: u64, ended: u64, in_service: u32| Report {
        number,
        services: vec![ServiceLoad {
            service: ServiceName::parse("web").unwrap(),
            carried: Carried { ended, ..Carried::default() },
            present: Present { in_service, ..Present::default() },
            named_ms: 0,
        }],
    };
    let sums = |world: &World| {
        let (carried, present, _) = world.table.load().services.iter().next().unwrap().stats.others().read();
        (carried.ended, present.in_service)
    };
    for _ in 0..2 {
        world.fleet.load("edge", "s1", &report(1, 10, 4)).unwrap();
        assert_eq!(sums(&world), (10, 4), "told twice it counts once");
    }
    world.fleet.load("edge", "s1", &report(3, 12, 2)).unwrap();
    world.fleet.load("edge", "s1", &report(2, 11, 3)).unwrap();
    assert_eq!(sums(&world), (12, 2), "an older one changes nothing");
    assert!(matches!(world.fleet.load("edge", "s0", &report(9, 99, 9)), Err(FleetError::Unknown(_))));
    tokio::time::sleep(Duration::from_millis(3_300)).await;
    assert_eq!(sums(&world), (14, 0), "silent it holds nothing; what it held has ended somehow");
    // Heard again: what it did meanwhile is no load of now.
    world.fleet.load("edge", "s1", &report(4, 500, 1)).unwrap();
    assert_eq!(sums(&world), (14, 1));
    world.fleet.load("edge", "s1", &report(5, 501, 1)).unwrap();
    assert_eq!(sums(&world), (15, 1));
    // Another subscription counts from its own beginning, the one that was there included.
    drop(world.fleet.join("edge", "p1", "s2").unwrap());
    assert_eq!(sums(&world), (15, 1), "what it held holds until it says more");
    world.fleet.load("edge", "s2", &report(1, 3, 0)).unwrap();
    assert_eq!(sums(&world), (18, 0));
    assert_eq!(world.fleet.status()[0].loads[0].requests, 3);
    world.fleet.leave("edge", "s2").unwrap();
    assert_eq!(sums(&world), (18, 0));
}

#[test]
fn whether_a_first_replica_is_worth_waiting_for_is_told() {
    let told = ToldSpec { wakes: true, wake_timeout: Duration::from_secs(7), latency: Some(Duration::from_millis(3)) };
    for told in [None, Some(told), Some(ToldSpec { wakes: false, latency: None, ..told })] {
        let web = service("web", &[]);
        let web =
            FedService { spec: Arc::new(ServiceSpec { told, ..ServiceSpec::clone(&web.spec) }), endpoints: vec![] };
        let mut octets = Vec::new();
        Line::fed(&web).write(&mut octets);
        let Ok(Line::Service(line)) = serde_json::from_slice(&octets) else { panic!("{octets:?}") };
        assert_eq!(line.read().unwrap(), web);
    }
}

/// A follower in the middle of an upgrade: the old process uses an endpoint of elsewhere in subscription `s1`, the new one none in
/// `s2`; with the generation that both acknowledged.
fn upgrading() -> (World, u64) {
    let mut world = World::new();
    drop(world.fleet.join("edge", "old", "s1").unwrap());
    let generation = world.publish();
    world.fleet.acknowledge("edge", "s1", generation, &[World::uses(true)]).unwrap();
    drop(world.fleet.join("edge", "new", "s2").unwrap());
    world.fleet.acknowledge("edge", "s2", generation, &[]).unwrap();
    (world, generation)
}

#[tokio::test(start_paused = true)]
async fn the_process_before_an_upgrade_is_waited_for_until_it_leaves() {
    let (mut world, _) = upgrading();
    assert_eq!((world.fleet.status().len(), world.elsewhere()), (2, 1), "the old one still uses it");
    assert_eq!(world.fleet.status().iter().filter(|one| one.leaving).count(), 1);
    let next = world.publish();
    world.fleet.acknowledge("edge", "s2", next, &[]).unwrap();
    assert_eq!(world.table.lagging(next), ["edge".into()], "the lowest of both counts");
    world.fleet.acknowledge("edge", "s1", next, &[World::uses(true)]).unwrap();
    assert_eq!((world.table.lagging(next).len(), world.elsewhere()), (0, 1));
    // Its subscription begins anew: nothing of the new one's is touched.
    drop(world.fleet.join("edge", "old", "s3").unwrap());
    world.fleet.acknowledge("edge", "s2", next, &[]).unwrap();
    world.fleet.acknowledge("edge", "s3", next, &[]).unwrap();
    assert_eq!((world.fleet.status().len(), world.elsewhere()), (2, 0));
    world.fleet.leave("edge", "s3").unwrap();
    assert_eq!(world.fleet.status().len(), 1);
    // One that died is replaced by the next process.
    world.fleet.disconnected("edge", "s2");
    drop(world.fleet.join("edge", "third", "s4").unwrap());
    assert_eq!(world.fleet.status().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn both_processes_of_an_upgraded_follower_speak_for_themselves_after_they_were_cut_off() {
    let (world, generation) = upgrading();
    world.fleet.disconnected("edge", "s1");
    world.fleet.disconnected("edge", "s2");
    drop(world.fleet.join("edge", "new", "s3").unwrap());
    world.fleet.acknowledge("edge", "s3", generation, &[]).unwrap();
    assert_eq!(world.elsewhere(), 1, "the old one is heard in a moment, and still uses it");
    drop(world.fleet.join("edge", "old", "s4").unwrap());
    let leaving = |world: &World| world.fleet.status().iter().map(|one| one.leaving).collect::<Vec<_>>();
    assert_eq!((world.elsewhere(), leaving(&world)), (1, vec![false, true]), "the new one is the younger");
    world.fleet.acknowledge("edge", "s4", generation, &[]).unwrap();
    assert_eq!(world.elsewhere(), 0);
    world.fleet.leave("edge", "s3").unwrap();
    assert_eq!(leaving(&world), [false], "nobody younger is left");
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_and_goes_without_a_word_is_silent_since_it_first_owed_one() {
    let mut world = World::new();
    drop(world.fleet.join("edge", "p0", "s").unwrap());
    let generation = world.publish();
    world.fleet.acknowledge("edge", "s", generation, &[]).unwrap();
    let next = world.publish();
    let begin_ms = crate::clock::now_ms();
    let elapsed_ms = || crate::clock::now_ms() - begin_ms;
    let mut streams = Vec::new();
    while !world.table.lagging(next).is_empty() {
        assert!(elapsed_ms() < 3_600, "it holds what is withdrawn");
        // Another process each time: whatever begins crashes.
        let (process, session) = (format!("p{}", streams.len()), format!("s{}", streams.len()));
        streams.push(world.fleet.join("edge", &process, &session).unwrap());
        tokio::time::sleep(Duration::from_millis(400)).await;
        world.fleet.disconnected("edge", &session);
    }
    assert!(elapsed_ms() >= 3_000, "its first return has its time: {}", elapsed_ms());
    streams.push(world.fleet.join("edge", "p9", "last").unwrap());
    assert!(world.table.lagging(next).is_empty() && world.fleet.status()[0].silent, "as silent as it was");
    // With a word it counts again, and the next subscription has its time again.
    world.fleet.acknowledge("edge", "last", generation, &[]).unwrap();
    assert_eq!(world.table.lagging(next), ["edge".into()]);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(world.table.lagging(next).is_empty());
    streams.push(world.fleet.join("edge", "p9", "again").unwrap());
    assert_eq!(world.table.lagging(next), ["edge".into()]);
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_a_thousand_and_who_is_gone_makes_room() {
    let world = World::new();
    let name = |i: usize| format!("edge-{i}");
    let streams: Vec<_> = (0..1024).map(|i| world.fleet.join(&name(i), "p", "s").unwrap()).collect();
    assert!(matches!(world.fleet.join("more", "p", "s"), Err(FleetError::Full)));
    drop(world.fleet.join(&name(7), "p", "s2").unwrap());
    world.fleet.disconnected(&name(9), "s");
    assert!(matches!(world.fleet.join("more", "p", "s"), Err(FleetError::Full)), "it may still use what it had");
    tokio::time::sleep(Duration::from_secs(4)).await;
    drop(world.fleet.join("more", "p", "s").unwrap());
    assert_eq!(world.fleet.status().len(), 1024);
    drop(streams);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_and_comes_back_at_once_is_looked_after_by_one_task() {
    let world = World::new();
    for i in 0..5 {
        let session = format!("s{i}");
        drop(world.fleet.join("edge", "p", &session).unwrap());
        world.fleet.leave("edge", &session).unwrap();
    }
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0, "nobody is left to look after");
    drop(world.fleet.join("edge", "p", "s").unwrap());
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(world.fleet.status()[0].silent);
}

#[tokio::test(start_paused = true)]
async fn for_how_long_names_are_kept_elsewhere_is_believed_within_bounds() {
    let mut world = World::new();
    drop(world.fleet.join("edge", "p", "s").unwrap());
    let generation = world.publish();
    let says = Use { named_ms: u64::MAX, ..World::uses(false) };
    world.fleet.acknowledge("edge", "s", generation, &[says]).unwrap();
    let service = world.table.load().services.iter().next().unwrap().clone();
    let until_ms = service.stats.marks().named_until_ms();
    assert!(until_ms > 0 && until_ms <= crate::clock::now_ms() + 3_600_000, "{until_ms}");
}

#[test]
fn a_table_that_comes_back_to_whose_it_is_is_refused() {
    let own: Arc<str> = "own".into();
    let assembly = || Assembly::new(Some("s".to_owned()), None, Some(own.clone()));
    let by = |chain: &[&str]| chain.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
    let begin = |chain: &[&str]| Line::Begin(Begin { generation: 1, after: None, by: by(chain) });
    let beat = |chain: &[&str]| Line::Heartbeat(Heartbeat { generation: 1, by: by(chain) });
    let mut far = assembly();
    let Ok(Step::Table(table)) = feed(&mut far, &[hello("s"), begin(&["b", "c"]), end(1, 0)]) else {
        panic!("refused")
    };
    assert_eq!(*table.by, ["e", "b", "c"]);
    assert_eq!(feed(&mut far, &[beat(&["b", "c"])]), Ok(Step::Heartbeat));
    // It comes another way by now: that is news for those that follow this one.
    let Ok(Step::Table(table)) = feed(&mut far, &[beat(&["d"])]) else { panic!("refused") };
    assert_eq!((&*table.by, table.generation), (&["e".to_owned(), "d".to_owned()][..], 1));
    assert_eq!(feed(&mut far, &[beat(&["d", "own"])]), Err(Refusal::Circle));
    assert_eq!(feed(&mut assembly(), &[hello("s"), begin(&["b", "own", "c"])]), Err(Refusal::Circle));
    let itself = Line::Hello(Hello { format: FORMAT, epoch: "own".into(), session: "s".into(), ..Hello::default() });
    assert_eq!(feed(&mut assembly(), &[itself, begin(&[])]), Err(Refusal::Circle));
    let long: Vec<String> = (0..16).map(|i| format!("w{i}")).collect();
    let long = Line::Begin(Begin { generation: 1, after: None, by: long });
    assert!(matches!(feed(&mut assembly(), &[hello("s"), long]), Err(Refusal::TooLarge(_))));
}
