//! A registry, a table and the API on free addresses.

use crate::client::eventually;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use weir::admin::{self, Rates, State};
use weir::control::deployments::{self, Deployments};
use weir::control::discovery::{Definitions, Discovery};
use weir::control::events::Events;
use weir::control::feed::{Fleet, Outgoing, Sources};
use weir::control::history::History;
use weir::control::store::Store;
use weir::control::{self, autoscale, publisher, registry, runtime, scheduler};
use weir::lifecycle::{self, Phase, Trigger};
use weir::model::{
    HealthCheck, InstanceId, ListenerSpec, NodeId, Objective, Policy, PortSpec, Probe, RouteSpec, RunSpec, ScalePolicy,
    ScaleSpec, ServiceName, ServiceSpec, Transition, Verdict,
};
use weir::net::Binder;
use weir::rng::Rng;
use weir::table::names::Names;
use weir::table::{self, Reader, Snapshot, Table};
use weir::telemetry::Metrics;

/// A served API with services `web` and `staging/api` (ports http, metrics), and `jobs`, which Weir runs.
pub(crate) struct Weir {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) connections: usize,
    pub(crate) body_bytes: usize,
    pub(crate) table: Table,
    pub(crate) registry: registry::Handle,
    pub(crate) trigger: Trigger,
    serving: tokio::task::JoinHandle<()>,
    /// Stands for a worker: named in `/v1/table`.
    pub(crate) worker: Reader,
}

impl Weir {
    /// Says that an instance passed its first check; there is no supervisor here.
    pub(crate) async fn passes(&self, id: &str) {
        let first = Transition { from: Verdict::Unknown, to: Verdict::Healthy };
        self.registry.report(&InstanceId::parse(id).unwrap(), first, "passed its first check").await.unwrap();
    }

    /// Gives `staging/api` active checks, so that verdicts count; nobody makes them here.
    pub(crate) async fn check_api(&self) {
        let mut spec = spec("staging/api");
        let second = Duration::from_secs(1);
        spec.health = Some(HealthCheck {
            probe: Probe::Tcp,
            port: 0,
            interval: second,
            fast_interval: second,
            timeout: second,
            rise: 2,
            fall: 3,
        });
        self.registry.define(Arc::new(spec)).await.unwrap();
    }

    /// Says that an instance failed its checks.
    pub(crate) async fn fails(&self, id: &str) {
        let transition = Transition { from: Verdict::Healthy, to: Verdict::Unhealthy };
        self.registry.report(&InstanceId::parse(id).unwrap(), transition, "failed its checks").await.unwrap();
    }

    /// Gives `jobs` bounds within which it is scaled.
    pub(crate) async fn scale_jobs(&self, min: u32, max: u32) {
        let mut spec = jobs();
        spec.replicas = min;
        spec.limits.concurrency = Some(16);
        spec.scale = Some(ScaleSpec {
            min,
            max,
            policy: ScalePolicy::Objective,
            objective: Objective { quantile_ppm: 990_000, latency: Duration::from_millis(500) },
            stabilization_window: Duration::from_secs(20),
            max_stabilization_window: Duration::from_secs(300),
            zero_after: None,
            wake_timeout: Duration::from_secs(30),
        });
        self.registry.define(Arc::new(spec)).await.unwrap();
    }

    /// Ends the API and waits for it.
    pub(crate) async fn stop(self) {
        self.trigger.raise(Phase::Stopping);
        tokio::time::timeout(Duration::from_secs(10), self.serving).await.unwrap().unwrap();
    }
}

/// Starts an API; `name` keeps the directories of tests apart.
pub(crate) async fn start(name: &str) -> Weir {
    let directory = std::env::temp_dir().join(format!("weir-api-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let options = options(&directory);
    let (writer, table) = table::channel(Snapshot::empty(Names::default()));
    let worker = table.reader("worker-0");
    // It takes no requests, so nothing that is withdrawn waits for it.
    worker.acknowledger().set_idle(true);
    let events = Events::default();
    let (trigger, signal) = lifecycle::drain();
    let registry = publisher::spawn(&control::Options::default(), events.clone(), writer, Rng::from_seed(1));
    let rates = Rates::default();
    tokio::spawn(rates.clone().run(table.clone(), signal.clone()));
    let (store, contents) = Store::open(&directory.join("store")).unwrap();
    let node = NodeId::parse("node-1").unwrap();
    let discovery = Discovery::new(registry.clone(), table.clone(), events.clone(), node.clone());
    let parts = deployments::Parts { store, discovery, table: table.clone(), events: events.clone() };
    let mut deployments = Deployments::open(parts, &contents);
    deployments.apply_file(definitions()).await.unwrap();
    let scheduler = scheduler(&directory, &registry, &table, &events);
    let (metrics, sources) = (Metrics::new(), Sources::default());
    let autoscaler = autoscale::spawn(autoscale::Parts {
        table: table.clone(),
        metrics: metrics.clone(),
        scheduler: scheduler.clone(),
        registry: registry.clone(),
        events: events.clone(),
    });
    metrics.registry().register(Box::new(autoscale::ScaleGauges::new(autoscaler.clone()))).unwrap();
    let state = State {
        table: table.clone(),
        registry: registry.clone(),
        deployments: deployments.spawn(scheduler.clone()),
        scheduler,
        autoscaler,
        events: events.clone(),
        history: History::default(),
        metrics,
        rates,
        configuration: configuration(),
        node: node.clone(),
        store: None,
        obtained: None,
        names: Default::default(),
        feed: feed(&table, &events, &node, (&sources, &signal)),
        sources,
        upgrader: admin::Upgrader::default(),
        certificates: Default::default(),
        signal: signal.clone(),
    };
    let listeners = admin::bind(&options, &Binder::Local, false).unwrap();
    let address = listeners.address().unwrap();
    let serving = tokio::spawn(admin::serve(listeners, options.clone(), state, signal));
    let weir = Weir {
        address,
        socket: options.socket.unwrap(),
        directory,
        connections: options.connections,
        body_bytes: options.body_bytes,
        table,
        registry,
        trigger,
        serving,
        worker,
    };
    eventually("the services are published", async || weir.table.load().services.len() == 3).await;
    weir
}

/// What tells the table to others.
fn feed(table: &Table, events: &Events, node: &NodeId, (sources, signal): (&Sources, &lifecycle::Signal)) -> Outgoing {
    Outgoing::new(table.clone(), Fleet::new(table.clone(), events.clone()), node.clone(), sources, signal.clone())
}

fn options(directory: &Path) -> admin::Options {
    admin::Options {
        remote: None,
        listen: Some("127.0.0.1:0".parse().unwrap()),
        socket: Some(directory.join("weir.sock")),
        connections: 8,
        followers: 12,
        body_bytes: 64 * 1024,
    }
}

/// A configuration that nobody can change.
fn configuration() -> control::configuration::Handle {
    let status = control::configuration::Status {
        file: None,
        hash: "0".to_owned(),
        since_unix_ms: 1,
        cause: control::configuration::Cause::Start,
        generation: 1,
        watch: "none",
        failure: None,
    };
    control::configuration::channel(status).0
}

/// A scheduler with real processes, started through this build's `weir exec`.
fn scheduler(directory: &Path, registry: &registry::Handle, table: &Table, events: &Events) -> scheduler::Handle {
    let weir = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let options = runtime::Options { shim: weir.clone(), weir, ..runtime::Options::new(directory, 20_000..=29_999) };
    scheduler::spawn(scheduler::Parts {
        registry: registry.clone(),
        runtime: Arc::new(runtime::Processes::open(options).unwrap()),
        table: table.clone(),
        events: events.clone(),
        node: NodeId::parse("node-1").unwrap(),
        rng: Rng::from_os(),
        resume: Default::default(),
        store: None,
        inheritance: scheduler::Inheritance::default(),
    })
}

fn definitions() -> Definitions {
    let listener = ListenerSpec {
        name: "http".into(),
        address: "127.0.0.1:8080".parse().unwrap(),
        trusted_proxies: Vec::new(),
        protocol: Default::default(),
        tls: None,
        redirect_https: false,
        admission: Default::default(),
    };
    let route = RouteSpec {
        name: "all".into(),
        listeners: Vec::new(),
        host: Some("*.example.com".into()),
        path: "/".into(),
        service: name("staging/api"),
        port: 1,
    };
    Definitions {
        services: vec![Arc::new(spec("web")), Arc::new(spec("staging/api")), Arc::new(jobs())],
        routes: [route].into(),
        listeners: [listener].into(),
    }
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).unwrap()
}

/// A service that Weir runs, with no replica yet.
fn jobs() -> ServiceSpec {
    let command = [env!("CARGO_BIN_EXE_weir"), "whoami", "--listen", "127.0.0.1:${PORT}"].map(str::to_owned).into();
    let run = RunSpec {
        command,
        env: BTreeMap::new(),
        directory: None,
        stop_grace: Duration::from_secs(5),
        replace_after: Duration::from_secs(30),
        container: None,
    };
    ServiceSpec { run: Some(run), ..spec("jobs") }
}

fn spec(service: &str) -> ServiceSpec {
    ServiceSpec {
        ports: ["http", "metrics"].map(PortSpec::tcp).into(),
        policy: Policy::RoundRobin,
        replicas: 0,
        ..ServiceSpec::new(name(service))
    }
}
