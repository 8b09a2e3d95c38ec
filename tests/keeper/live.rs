//! Listeners and workers change under load.

use crate::support::http::Raw;
use crate::support::process::free_address;
use crate::support::proxy::Proxy;
use crate::support::traffic::{Kind, Plan, Report, Traffic};
use crate::{Whoami, loaded, passes, support};
use std::net::SocketAddr;
use std::time::Duration;
use weir::app::{AtEnd, Live, RunOptions, Sockets};
use weir::lifecycle::{Phase, Trigger};
use weir::model::{ListenerProtocol, ListenerSpec};
use weir::net::Binder;
use weir::proxy::{Options, Parts, Tls, Workers};
use weir::telemetry::{Handshakes, Metrics};

const LIMIT: Duration = Duration::from_secs(60);

/// The data plane in process, with listeners that can be changed.
struct World {
    live: Live,
    listener: ListenerSpec,
    trigger: Trigger,
    proxy: Proxy,
    _backend: Whoami,
}

fn listener(name: &str, address: SocketAddr) -> ListenerSpec {
    ListenerSpec {
        name: name.into(),
        address,
        trusted_proxies: Vec::new(),
        protocol: ListenerProtocol::Http,
        tls: None,
        redirect_https: false,
        admission: Default::default(),
    }
}

impl World {
    async fn start() -> Self {
        let backend = Whoami::start().await;
        let proxy = Proxy::over(&[backend.address]);
        let wanted = [listener("one", "127.0.0.1:0".parse().unwrap())];
        let sockets = Sockets::bind(&wanted, 1, RunOptions::default(), Binder::Local).unwrap();
        let listener = sockets.listeners().remove(0);
        let (trigger, signal) = weir::lifecycle::drain();
        let (options, metrics) = (Options::default(), Metrics::new());
        let tls = Tls::new(Handshakes::new().unwrap());
        let parts = Parts { table: proxy.table.clone(), metrics, access: None, tls, challenges: Default::default() };
        let workers = weir::proxy::start(&options, sockets.lend(1).unwrap(), parts, &signal).unwrap();
        Self { live: Live::new(sockets, workers), listener, trigger, proxy, _backend: backend }
    }

    /// Both listeners, as a configuration would name them.
    fn with(&self, other: &ListenerSpec) -> Vec<ListenerSpec> {
        vec![ListenerSpec { address: "127.0.0.1:0".parse().unwrap(), ..self.listener.clone() }, other.clone()]
    }

    async fn end(self) {
        self.trigger.raise(Phase::Stopping);
        let workers = self.live.end(AtEnd::Close).await;
        tokio::task::spawn_blocking(move || workers.map(Workers::join)).await.unwrap();
        drop(self.proxy);
    }
}

async fn workers_and_listeners_change(rate: f64, between: u64, rounds: usize) {
    let _loaded = loaded().await;
    let world = World::start().await;
    let traffic = Traffic::start(Plan { rate, ..Plan::new(world.listener.address) });
    passes(&traffic, between).await;
    for round in 0..rounds {
        for workers in [4, 2] {
            world.live.set_workers(workers).await.unwrap();
            assert_eq!(world.live.workers().await, workers);
            passes(&traffic, between).await;
        }
        let second = listener("two", free_address());
        let exact = world.live.set_listeners(&world.with(&second)).await.unwrap();
        assert_eq!(exact[0].address, world.listener.address, "the first listener keeps its port");
        let other = Traffic::start(Plan { rate, first_tag: 1 << 40, ..Plan::new(second.address) });
        passes(&other, between).await;
        world.live.set_listeners(&world.with(&second)[..1]).await.unwrap();
        // Nobody listens there any more, but whatever was accepted is answered.
        assert!(Raw::connect(second.address).await.is_err(), "round {round}");
        let report = other.stop().await;
        println!("removed listener: {}", report.line());
        assert_eq!(report.failed(), report.of(Kind::Refused), "{:?}", report.failures);
        passes(&traffic, between).await;
        world.live.set_workers(1).await.unwrap();
        passes(&traffic, between).await;
    }
    let report = traffic.stop().await;
    println!("workers 1, 4, 2 and a listener added and removed, {rounds} times: {}", report.line());
    assert_eq!(report.failed(), 0, "{:?}", report.failures);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_worker_counts_and_listeners_fail_no_request() {
    workers_and_listeners_change(300.0, 200, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: ten rounds at 2,000 requests a second; run by tests/run --long"]
async fn ten_rounds_of_worker_counts_and_listeners_fail_no_request() {
    workers_and_listeners_change(2_000.0, 5_000, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_removed_listener_end_with_their_next_response_and_others_stay() {
    let _loaded = loaded().await;
    let world = World::start().await;
    let second = listener("two", free_address());
    world.live.set_listeners(&world.with(&second)).await.unwrap();
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut stays = Raw::connect(world.listener.address).await.unwrap();
    let mut busy = Raw::connect(second.address).await.unwrap();
    let mut idle = Raw::connect(second.address).await.unwrap();
    for raw in [&mut stays, &mut busy, &mut idle] {
        assert!(!raw.exchange(ask).await.closes());
    }
    busy.send("GET /delay/3000 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    support::eventually("the request is in flight", LIMIT, || async { (world.proxy.in_flight() == 1).then_some(()) })
        .await;
    world.live.set_listeners(&world.with(&second)[..1]).await.unwrap();
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.closes()), (200, true), "{}", answer.head);
    assert!(idle.rest().await.is_empty(), "an idle one is closed after a while");
    assert!(!stays.exchange(ask).await.closes(), "others are untouched");
    // Bound again at once: nothing of it is left.
    world.live.set_listeners(&world.with(&second)).await.unwrap();
    assert_eq!(Raw::connect(second.address).await.unwrap().exchange(ask).await.status, 200);
    world.end().await;
}

/// A connection that was made is served, also one that was made in the last moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_while_a_listener_goes_is_answered_or_refused() {
    let _loaded = loaded().await;
    let world = World::start().await;
    world.live.set_workers(2).await.unwrap();
    let fresh_only = |at, first_tag| Plan { rate: 20_000.0, keepalive: 0, fresh: 64, first_tag, ..Plan::new(at) };
    let whole = |report: Report| {
        println!("{}", report.line());
        assert!(report.passed > 0);
        assert_eq!(report.failed(), report.of(Kind::Refused), "{:?}", report.failures);
    };
    for round in 0..5 {
        let second = listener("two", free_address());
        world.live.set_listeners(&world.with(&second)).await.unwrap();
        let traffic = Traffic::start(fresh_only(second.address, round << 40));
        passes(&traffic, 200).await;
        world.live.set_listeners(&world.with(&second)[..1]).await.unwrap();
        whole(traffic.stop().await);
    }
    let traffic = Traffic::start(fresh_only(world.listener.address, 1 << 50));
    passes(&traffic, 200).await;
    let workers = world.live.end(AtEnd::Close).await;
    world.trigger.raise(Phase::Draining);
    tokio::task::spawn_blocking(move || workers.map(Workers::join)).await.unwrap();
    whole(traffic.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_changes_nothing() {
    let _loaded = loaded().await;
    let world = World::start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, taken) = (listener("two", free_address()), listener("three", taken.local_addr().unwrap()));
    let all = [world.with(&free), vec![taken.clone()]].concat();
    let error = format!("{:#}", world.live.set_listeners(&all).await.unwrap_err());
    assert!(error.contains("listener three") && error.contains(&format!("pid {}", std::process::id())), "{error}");
    assert!(Raw::connect(free.address).await.is_err(), "whole or not at all");
    let ask = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(Raw::connect(world.listener.address).await.unwrap().exchange(ask).await.status, 200);
    world.end().await;
}
