//! A client without a proxy: finds replicas by DNS, honours the TTL, connects to them directly.

use super::http::Raw;
use super::traffic::{Failure, Kind, Report, check};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Returns a resolver that asks one server only and caches answers as long as their TTL says.
pub fn resolver(server: SocketAddr) -> TokioResolver {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    builder.build().unwrap()
}

/// A client that runs until stopped.
#[derive(Debug)]
pub struct Direct {
    stopping: Arc<AtomicBool>,
    task: JoinHandle<Report>,
}

impl Direct {
    /// Starts a request each `pause` to one of the service's replicas, found by its SRV name.
    pub fn start(server: SocketAddr, name: &str, pause: Duration) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(run(server, name.to_owned(), pause, stopping.clone()));
        Self { stopping, task }
    }

    /// Stops and returns what happened.
    pub async fn stop(self) -> Report {
        self.stopping.store(true, Ordering::SeqCst);
        self.task.await.unwrap()
    }
}

async fn run(server: SocketAddr, name: String, pause: Duration, stopping: Arc<AtomicBool>) -> Report {
    let resolver = resolver(server);
    let start = Instant::now();
    let mut report = Report::default();
    while !stopping.load(Ordering::SeqCst) {
        let due = start + pause * u32::try_from(report.requests).unwrap_or(u32::MAX);
        tokio::time::sleep_until(due.into()).await;
        let tag = report.requests;
        report.requests += 1;
        let outcome = tokio::time::timeout(Duration::from_secs(5), request(&resolver, &name, tag)).await;
        match outcome.unwrap_or_else(|_| Err((Kind::Late, "no answer within 5 s".to_owned()))) {
            Ok(instance) => {
                report.passed += 1;
                report.latencies_us.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
                *report.instances.entry(instance).or_default() += 1;
            }
            Err((kind, detail)) => {
                *report.failed.entry(kind).or_default() += 1;
                report.failures.push(Failure { kind, tag, at: start.elapsed(), detail });
            }
        }
    }
    report.connections = report.requests;
    report.latencies_us.sort_unstable();
    report.time = start.elapsed();
    report
}

async fn request(resolver: &TokioResolver, name: &str, tag: u64) -> Result<String, (Kind, String)> {
    let refused = |what: String| (Kind::Refused, what);
    let found = resolver.srv_lookup(name).await.map_err(|error| refused(format!("{name}: {error}")))?;
    let targets: Vec<_> = found
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some((srv.target.clone(), srv.port)),
            _ => None,
        })
        .collect();
    let (target, port) =
        targets.get(tag as usize % targets.len().max(1)).cloned().ok_or_else(|| refused(format!("{name}: empty")))?;
    let host = target.to_string();
    let addresses = resolver.lookup_ip(target).await.map_err(|error| refused(format!("{host}: {error}")))?;
    let address = addresses.iter().next().ok_or_else(|| refused(format!("{host}: no address")))?;
    let to = SocketAddr::new(address, port);
    let mut raw = Raw::connect(to).await.map_err(|error| refused(format!("{host} at {to}: {error}")))?;
    let text = format!("GET / HTTP/1.1\r\nHost: web\r\nX-Request-Tag: t{tag}\r\nConnection: close\r\n\r\n");
    use tokio::io::AsyncWriteExt;
    raw.stream.write_all(text.as_bytes()).await.map_err(|e| (Kind::ResetBeforeAnswer, format!("{host}: {e}")))?;
    let answer = raw
        .try_answer(false)
        .await
        .map_err(|broken| (Kind::ResetBeforeAnswer, format!("{host} at {to}: {broken:?}")))?;
    check(&answer, tag)
}
