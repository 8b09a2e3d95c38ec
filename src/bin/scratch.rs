//! scratch
use std::sync::Arc;
use std::time::Duration;
use weir::model::*;
use weir::table::*;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let listen: std::net::SocketAddr = args[1].parse().unwrap();
    let name = ServiceName::parse("web").unwrap();
    let spec = Arc::new(ServiceSpec {
        name: name.clone(),
        ports: vec![PortSpec { name: "http".into(), protocol: Protocol::Tcp }],
        endpoints: vec![],
        policy: match args.get(2).map(|s| s.as_str()) {
            Some("rr") => Policy::RoundRobin,
            _ => Policy::ExpectedDelay,
        },
        health: None,
        limits: Limits { concurrency: None, queue: 100, queue_timeout: Duration::from_secs(5) },
        timeouts: Timeouts {
            connect: Duration::from_secs(1),
            response: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            tunnel_idle: Duration::from_secs(3600),
        },
        outliers: Outliers {
            enabled: true,
            gateway_errors: 3,
            server_errors: 5,
            base: Duration::from_secs(1),
            max: Duration::from_secs(30),
        },
        retries: 1,
        slow_start: Duration::ZERO,
        drain_timeout: Duration::from_secs(30),
        dns_ttl: Duration::from_secs(5),
        run: None,
        replicas: 0,
    });
    let instances: Vec<Instance> = args[3..]
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let a: std::net::SocketAddr = a.parse().unwrap();
            Instance {
                id: InstanceId::parse(&format!("web-{i}")).unwrap(),
                service: name.clone(),
                source: Source::File,
                node: NodeId::parse("n").unwrap(),
                address: a.ip(),
                ports: vec![a.port()],
                weight: 1,
                state: InstanceState::Ready,
                verdict: Verdict::Healthy,
                reason: "".into(),
                workload: None,
                revision: 1,
                created_ms: 1,
                ready_ms: 1,
            }
        })
        .collect();
    let empty = Snapshot::empty(names::Names::default());
    let listeners: Arc<[ListenerSpec]> =
        Arc::new([ListenerSpec { name: "web".into(), address: listen, trusted_proxies: vec![] }]);
    let routes: Arc<[RouteSpec]> = Arc::new([RouteSpec {
        name: "all".into(),
        listeners: vec![],
        host: None,
        path: "/".into(),
        service: name,
        port: 0,
    }]);
    let snap = build(
        &empty,
        Changes { services: vec![Change::Set { spec, instances }], routes: Some(routes), listeners: Some(listeners) },
    );
    let (_p, table) = channel(snap);
    let sock = weir::net::bind(listen, 1).unwrap().pop().unwrap();
    let (_trigger, signal) = weir::lifecycle::drain();
    let metrics = weir::telemetry::Metrics::new();
    let w = weir::proxy::start(
        &weir::proxy::Options::default(),
        vec![vec![weir::proxy::Lent { name: "web".into(), trusted: vec![], socket: sock }]],
        &table,
        &metrics,
        None,
        &signal,
    )
    .unwrap();
    w.join();
}
