//! The scene that the feed is for: an edge and two sidecars beside one scheduler, with load at all three; deploys, one that
//! hangs, a feed that is cut and changes meanwhile.

use crate::sidecar::Sidecar;
use crate::support;
use crate::support::direct::resolver;
use crate::support::process::{Weir, free_address, kill};
use crate::support::traffic::{Plan, Traffic};
use crate::world::{SETTLED, beside, deploy, follower, has, loaded, retries, service, subscriber, table};
use hickory_proto::rr::RecordType;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The way from the followers to the scheduler, which can be cut.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Way {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let way = Self { address: listener.local_addr().unwrap(), is_cut: Arc::default(), cut: Arc::default() };
        let (is_cut, cut) = (way.is_cut.clone(), way.cut.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (is_cut, cut) = (is_cut.clone(), cut.clone());
                tokio::spawn(async move {
                    let ends = cut.notified();
                    if is_cut.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = ends => {}
                    }
                });
            }
        });
        way
    }

    pub(crate) fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    pub(crate) fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

struct Scene {
    origin: Weir,
    way: Way,
    edge: Weir,
    sidecars: [Sidecar; 2],
    /// The local port of each sidecar that leads to the service.
    ports: [SocketAddr; 2],
    names: [SocketAddr; 3],
}

impl Scene {
    async fn new() -> Self {
        let origin = Weir::start("scene-origin", &service(2)).await;
        origin.settled("web", 2, SETTLED).await;
        let way = Way::to(origin.admin).await;
        let edge = follower("scene-edge", &format!("\"{}\"", way.address)).await;
        has(&edge, 2).await;
        let (ports, local) = ([free_address(), free_address()], [free_address(), free_address()]);
        let sidecars = [0, 1].map(|at| {
            let (dns, upstream) = (local[at].to_string(), format!("web={}", ports[at]));
            Sidecar::follow(&format!("scene-{at}"), way.address, &["--dns", &dns, "--upstream", &upstream])
        });
        for name in ["scene-edge", "scene-0", "scene-1"] {
            subscriber(&origin, name, "following").await;
        }
        let names = [edge.dns, local[0], local[1]];
        let scene = Self { origin, way, edge, sidecars, ports, names };
        scene.answer().await;
        scene
    }

    /// Requests at all three: kept and new connections at the edge, new ones at the ports of the sidecars.
    fn load(&self, rate: f64) -> Vec<(&'static str, Traffic)> {
        let at = |number: u64, target: SocketAddr, keepalive: usize| {
            Traffic::start(Plan { rate, keepalive, fresh: 8, first_tag: number << 45, ..Plan::new(target) })
        };
        vec![
            ("edge", at(1, self.edge.http, 8)),
            ("first sidecar", at(2, self.ports[0], 0)),
            ("second sidecar", at(3, self.ports[1], 0)),
        ]
    }

    /// Waits until each of the three names an endpoint of the service.
    async fn answer(&self) {
        for server in self.names {
            support::eventually("the name is answered", SETTLED, || async {
                (addresses(server).await > 0).then_some(())
            })
            .await;
        }
    }

    async fn converged(&self) {
        for name in ["scene-edge", "scene-0", "scene-1"] {
            support::eventually("it has the newest table", SETTLED, || async {
                let wanted = table(&self.origin).await["generation"].as_u64();
                let row = subscriber(&self.origin, name, "following").await;
                (row["generation"].as_u64() >= wanted).then_some(())
            })
            .await;
        }
    }
}

/// How many endpoints of the service a server names.
async fn addresses(server: SocketAddr) -> usize {
    let found = resolver(server).lookup("_http._tcp.web.default.weir.internal.", RecordType::SRV).await;
    found.map_or(0, |found| found.answers().len())
}

async fn passes(load: &[(&'static str, Traffic)], more: u64) {
    for (_, traffic) in load {
        let wanted = traffic.passed() + more;
        support::eventually("requests pass", Duration::from_secs(120), || async {
            (traffic.passed() >= wanted).then_some(())
        })
        .await;
    }
}

/// Ends it; returns how many there were. Nothing may have failed.
async fn none_failed(load: Vec<(&'static str, Traffic)>, what: &str) -> u64 {
    let mut all = JoinSet::new();
    for (at, traffic) in load {
        all.spawn(async move { (at, traffic.stop().await) });
    }
    let mut count = 0;
    for (at, report) in all.join_all().await {
        println!("{what}, {at}: {}", report.line());
        assert_eq!(report.failed(), 0, "{what}, {at}: {:?}", report.failures);
        count += report.requests;
    }
    count
}

async fn the_scene(deploys: usize, rate: f64, cut: Duration) {
    let _loaded = loaded().await;
    let scene = Scene::new().await;
    let load = scene.load(rate);
    passes(&load, 50).await;
    for number in 1..=deploys {
        deploy(&scene.origin, number).await;
    }
    scene.converged().await;
    // Who carried what is known at the scheduler: requests at the edge, streams at the sidecars.
    for (name, of) in [("scene-edge", "requests"), ("scene-0", "streams"), ("scene-1", "streams")] {
        let row = subscriber(&scene.origin, name, "following").await;
        assert!(row["loads"][0][of].as_u64() >= Some(50), "{row}");
    }
    let count = none_failed(load, &format!("{deploys} deploys")).await;
    // Nor was any led to a replica that was stopped already, which another attempt would have covered.
    let mut metrics = vec![support::http::get(scene.edge.admin, "/metrics").await.text()];
    for sidecar in &scene.sidecars {
        metrics.push(sidecar.metrics().await);
    }
    assert_eq!(metrics.iter().map(|text| retries(text)).collect::<Vec<_>>(), [0; 3]);
    println!("{deploys} deploys under load at an edge and two sidecars: 0 of {count} failed");

    // One hangs: named, and the deploy ends.
    let hung = scene.sidecars[1].pid();
    kill(hung, "STOP").await;
    let begin = Instant::now();
    let said = deploy(&scene.origin, deploys + 1).await;
    println!("beside one that hangs the deploy ended after {:?}: {}", begin.elapsed(), said.trim());
    assert!(said.contains("waited for scene-1, which says nothing"), "{said}");
    assert!(!said.contains("scene-0") && !said.contains("scene-edge"), "{said}");
    kill(hung, "CONT").await;
    scene.converged().await;

    // The feed is cut, and a replica comes meanwhile. (One that were killed would reset streams that are in flight there.)
    let load = scene.load(rate);
    passes(&load, 50).await;
    let begin = Instant::now();
    scene.way.cut();
    passes(&load, 50).await;
    assert_eq!(scene.origin.cli(&["scale", "web", "3", "--wait"]).await.code, 0);
    let mut answers = 0;
    loop {
        for server in scene.names {
            assert!(addresses(server).await > 0, "cut off it names what it has");
            answers += 1;
        }
        passes(&load, 20).await;
        if begin.elapsed() >= cut {
            break;
        }
    }
    let took = begin.elapsed();
    scene.way.mend();
    let mended = Instant::now();
    scene.origin.settled("web", 3, SETTLED).await;
    scene.converged().await;
    has(&scene.edge, 3).await;
    for server in scene.names {
        support::eventually("it names all three", SETTLED, || async { (addresses(server).await == 3).then_some(()) })
            .await;
    }
    let converged = mended.elapsed();
    deploy(&scene.origin, deploys + 2).await;
    let count = none_failed(load, "cut off").await;
    println!(
        "cut off for {took:?}: 0 of {count} requests failed, {answers} answers of DNS, converged {converged:?} later"
    );
    for sidecar in scene.sidecars {
        sidecar.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_and_two_sidecars_serve_through_deploys_one_that_hangs_and_a_cut() {
    the_scene(1, 40.0, Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 100 deploys and a cut of 60 s; run by tests/run --long"]
async fn an_edge_and_two_sidecars_serve_through_a_hundred_deploys_one_that_hangs_and_a_minute_cut_off() {
    the_scene(100, 200.0, Duration::from_secs(60)).await;
}

/// What was the matter is over also where the source says the same as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_back_unchanged_has_no_problem_any_more() {
    let _beside = beside().await;
    let origin = Weir::start("back-origin", &service(1)).await;
    let way = Way::to(origin.admin).await;
    let edge = follower("back-edge", &format!("\"{}\"", way.address)).await;
    has(&edge, 1).await;
    let source = async || table(&edge).await["sources"][0].clone();
    way.cut();
    support::eventually("the loss is told", SETTLED, async || source().await["problem"].as_str().map(drop)).await;
    way.mend();
    support::eventually("nothing is the matter", SETTLED, async || {
        let source = source().await;
        (source["state"] == "used" && source["problem"].is_null()).then_some(())
    })
    .await;
}
