//! The real data plane in process: one worker on a free port, a table built by hand.

use super::backend::{Backend, answering};
use super::http::Raw;
use super::table::ready;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use weir::lifecycle::{Phase, Trigger};
use weir::model::{
    AdmissionSpec, Instance, ListenerProtocol, ListenerSpec, Outliers, Policy, RouteSpec, ServiceName, ServiceSpec,
    Timeouts, TlsSpec,
};
use weir::proxy::{Lent, Options, Parts, Tls, Workers};
use weir::table::{Change, Changes, Publisher, Snapshot, Table, build, channel, names::Names};
use weir::telemetry::{Handshakes, Metrics};

/// What a proxy is started with; tests change what they are about.
#[derive(Debug)]
pub struct Setup {
    /// Options of the data plane.
    pub options: Options,
    /// The service behind every route.
    pub spec: ServiceSpec,
    /// Networks whose forwarding fields are believed.
    pub trusted: Vec<(IpAddr, u8)>,
    /// The path prefix of the only route.
    pub path: Arc<str>,
    /// The host of the only route.
    pub host: Option<Arc<str>>,
    /// What its listener speaks.
    pub protocol: ListenerProtocol,
    /// How it speaks TLS.
    pub tls: Option<Arc<TlsSpec>>,
    /// Whether it sends everybody to https.
    pub redirect_https: bool,
    /// Who may connect.
    pub admission: AdmissionSpec,
    endpoints: Vec<SocketAddr>,
}

/// A running proxy; stopped when dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its counters.
    pub metrics: Metrics,
    /// Its table.
    pub table: Table,
    trigger: Trigger,
    publisher: Publisher,
    spec: Arc<ServiceSpec>,
    workers: Option<Workers>,
}

/// Returns the name of the service in the table.
pub fn service() -> ServiceName {
    ServiceName::parse("web").unwrap()
}

fn spec() -> ServiceSpec {
    ServiceSpec {
        policy: Policy::RoundRobin,
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            response: Duration::from_secs(10),
            idle: Duration::from_secs(10),
            tunnel_idle: Duration::from_secs(60),
            request: None,
            ping: Duration::from_secs(10),
        },
        outliers: Outliers { enabled: false, ..Outliers::default() },
        replicas: 0,
        ..ServiceSpec::new(service())
    }
}

fn instances(endpoints: &[SocketAddr]) -> Vec<Instance> {
    // By its port: an endpoint that stays keeps its id when others come and go.
    let named = |address: &SocketAddr| {
        ready("web", &format!("web-{}", address.port()), &address.ip().to_string(), &[address.port()])
    };
    endpoints.iter().map(named).collect()
}

impl Setup {
    /// Round robin over these endpoints, one retry, no ejection, one worker.
    pub fn new(endpoints: &[SocketAddr]) -> Self {
        Self {
            options: Options { workers: Some(1), ..Options::default() },
            spec: spec(),
            trusted: vec![],
            path: "/".into(),
            host: None,
            protocol: ListenerProtocol::Http,
            tls: None,
            redirect_https: false,
            admission: Default::default(),
            endpoints: endpoints.to_vec(),
        }
    }

    /// A TCP listener to the service instead of an HTTP listener with a route.
    pub fn tcp(endpoints: &[SocketAddr]) -> Self {
        Self::new(endpoints).with(|s| s.protocol = ListenerProtocol::Tcp { service: service(), port: 0 })
    }

    /// Changes it before the start.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Starts it on a free port, with as many workers as its options say.
    pub fn start(self) -> Proxy {
        let count = self.options.workers.unwrap_or(1);
        let sockets = weir::net::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), count, false).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let spec = Arc::new(self.spec);
        let listener = ListenerSpec {
            name: "web".into(),
            address,
            trusted_proxies: self.trusted,
            protocol: self.protocol,
            tls: self.tls,
            redirect_https: self.redirect_https,
            admission: self.admission,
        };
        let route = RouteSpec {
            name: "all".into(),
            listeners: vec![],
            host: self.host,
            path: self.path,
            service: service(),
            port: 0,
        };
        let shared = Arc::new(listener.clone());
        let lent = (0..)
            .zip(sockets)
            .map(|(id, socket)| vec![Lent { id, listener: shared.clone(), socket: socket.into() }])
            .collect();
        let set = Change::Set { spec: spec.clone(), instances: instances(&self.endpoints) };
        let changes = Changes {
            services: vec![set],
            routes: Some(Arc::new([route])),
            listeners: Some(Arc::new([listener])),
            ..Changes::default()
        };
        let (publisher, table) = channel(build(&Snapshot::empty(Names::default()), changes));
        let (trigger, signal) = weir::lifecycle::drain();
        let metrics = Metrics::new();
        let parts = Parts {
            table: table.clone(),
            metrics: metrics.clone(),
            access: None,
            tls: Tls::new(Handshakes::new().unwrap()),
            challenges: Default::default(),
        };
        let workers = weir::proxy::start(&self.options, lent, parts, &signal).unwrap();
        Proxy { address, metrics, table, trigger, publisher, spec, workers: Some(workers) }
    }
}

impl Proxy {
    /// Starts with the defaults of [`Setup::new`].
    pub fn over(endpoints: &[SocketAddr]) -> Self {
        Setup::new(endpoints).start()
    }

    /// Publishes other endpoints.
    pub fn publish(&mut self, endpoints: &[SocketAddr]) {
        let set = Change::Set { spec: self.spec.clone(), instances: instances(endpoints) };
        let changes = Changes { services: vec![set], ..Changes::default() };
        let next = build(&self.publisher.current(), changes);
        self.publisher.publish(next);
    }

    /// Publishes that the service is gone.
    pub fn remove(&mut self) {
        let changes = Changes { services: vec![Change::Remove(service())], ..Changes::default() };
        let next = build(&self.publisher.current(), changes);
        self.publisher.publish(next);
    }

    /// Starts the drain.
    pub fn drain(&self) {
        self.trigger.raise(Phase::Draining);
    }

    /// Waits until the workers have ended by themselves.
    pub async fn ended(mut self) {
        let workers = self.workers.take().unwrap();
        tokio::task::spawn_blocking(move || workers.join()).await.unwrap();
    }

    /// Returns the requests in flight at all endpoints.
    pub fn in_flight(&self) -> u32 {
        let snapshot = self.table.load();
        let service = snapshot.services.get(&service()).unwrap();
        service.candidates.iter().map(|candidate| candidate.stats.in_flight()).sum()
    }

    /// Wakes so many of those that wait, as the control plane does after it published more endpoints.
    pub fn wake(&self, count: usize) {
        self.table.load().services.get(&service()).unwrap().stats.wake(count);
    }

    /// Returns the requests in the wait queue.
    pub fn waiting(&self) -> u32 {
        self.table.load().services.get(&service()).unwrap().stats.waiting()
    }

    /// Returns the value of a metric line, such as `weir_connections_total`; 0 where it is not there.
    pub fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0");
        value.parse::<f64>().unwrap() as u64
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.trigger.raise(Phase::Stopping);
        if let Some(workers) = self.workers.take() {
            workers.join();
        }
    }
}

/// A malformed request: what is wrong with it, its octets, the status and the reason that the client must be told.
///
/// Its target or a field holds `evil`, so that it is known again at the backend.
pub type Malformed<'a> = (&'a str, &'a [u8], u16, &'a str);

/// Asserts that each request is refused, its connection closed, nothing of it forwarded, and that a neighbour on another
/// connection is served all the while.
pub async fn assert_refused(cases: &[Malformed<'_>]) {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut neighbour = Raw::connect(proxy.address).await.unwrap();
    for (what, request, status, reason) in cases {
        let before = proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}"));
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(request).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.field("weir-reason")), (*status, Some(*reason)), "{what}");
        assert!(answer.closes(), "{what}: {}", answer.head);
        let rest = raw.rest().await;
        assert!(rest.is_empty(), "{what}: {}", String::from_utf8_lossy(&rest));
        assert_eq!(proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}")), before + 1, "{what}");
        let served = neighbour.exchange("GET /neighbour HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!((served.status, served.text().as_str()), (200, "fine"), "{what}");
        assert!(!backend.received_text().contains("evil"), "{what}: {}", backend.received_text());
    }
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

/// Asserts that each request is passed on and answered.
pub async fn assert_served(cases: &[(&str, &[u8])]) {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (what, request) in cases {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(request).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "fine"), "{what}: {}", answer.head);
    }
}
