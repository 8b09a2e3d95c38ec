//! Open-loop traffic: requests at absolute times over keepalive and one-request connections, each answer matched to its
//! request by tag, each failure classified.
//!
//! Connection `c` of `n` owns the due times `start + (c + k n) / rate`. Latency counts from the due time, so an answer that
//! holds a connection up makes the next ones late too: nothing is left out. An answer later than [`LATE`] is a failure.

use super::http::{Answer, Broken, Raw, field};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A later answer is a failure. An unoptimised build runs beside other tests; the promise, a second, is checked in release.
pub const LATE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 1 });
/// An answer that does not come at all is given up after this.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Failures that are kept word for word.
const KEPT: usize = 200;

/// What traffic is made.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to.
    pub target: SocketAddr,
    /// Requests a second in all.
    pub rate: f64,
    /// Connections that are kept.
    pub keepalive: usize,
    /// Connections that are opened for one request each.
    pub fresh: usize,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// Path and query.
    pub path: String,
    /// The first tag's number, so that two plans at one Weir do not share tags.
    pub first_tag: u64,
}

impl Plan {
    /// The promise's plan: 2,000 GET/s over 64 keepalive and 16 one-request connections.
    pub fn new(target: SocketAddr) -> Self {
        let (method, path) = ("GET", "/".to_owned());
        Self { target, rate: 2_000.0, keepalive: 64, fresh: 16, method, path, first_tag: 0 }
    }
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// No connection.
    Refused,
    /// The connection ended before the first octet of the answer.
    ResetBeforeAnswer,
    /// The connection ended inside the answer.
    ResetInsideAnswer,
    /// The answer to another request.
    WrongTag,
    /// A status other than 2xx.
    Status(u16),
    /// Later than [`LATE`].
    Late,
    /// What came is no HTTP.
    Malformed,
}

/// One failed request.
#[derive(Debug, Clone)]
pub struct Failure {
    /// How.
    pub kind: Kind,
    /// Its tag.
    pub tag: u64,
    /// Since the start of the traffic.
    pub at: Duration,
    /// What is known, for people.
    pub detail: String,
}

/// What happened so far.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Requests that were sent or could not be.
    pub requests: u64,
    /// Correct answers in time.
    pub passed: u64,
    /// Failures by kind.
    pub failed: BTreeMap<Kind, u64>,
    /// The first failures, word for word.
    pub failures: Vec<Failure>,
    /// Answers by instance.
    pub instances: BTreeMap<String, u64>,
    /// Connections opened.
    pub connections: u64,
    /// Latencies from the due time, in microseconds, sorted.
    pub latencies_us: Vec<u32>,
    /// Longest pause between two passed answers.
    pub longest_gap: Duration,
    /// Length of the traffic.
    pub time: Duration,
}

impl Report {
    /// Returns all failures.
    pub fn failed(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Returns the failures of a kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.failed.get(&kind).copied().unwrap_or(0)
    }

    /// Returns one line for people.
    pub fn line(&self) -> String {
        let at = |q| f64::from(super::quantile(&self.latencies_us, q)) / 1e3;
        format!(
            "{} requests in {:.1} s ({:.0}/s) over {} connections, {} instances: {} passed, {} failed {:?}; \
             latency ms p50 {:.1} p99 {:.1} p99.9 {:.1} max {:.1}; longest gap {:.0} ms",
            self.requests,
            self.time.as_secs_f64(),
            self.requests as f64 / self.time.as_secs_f64().max(1e-9),
            self.connections,
            self.instances.len(),
            self.passed,
            self.failed(),
            self.failed,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            self.longest_gap.as_secs_f64() * 1e3,
        )
    }
}

/// Traffic that runs until stopped.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    start: Instant,
    stopping: AtomicBool,
    requests: AtomicU64,
    last_pass_us: AtomicU64,
    longest_gap_us: AtomicU64,
    report: Mutex<Report>,
}

impl Traffic {
    /// Starts the traffic on the current runtime.
    pub fn start(plan: Plan) -> Self {
        let connections = plan.keepalive + plan.fresh;
        let shared = Arc::new(Shared {
            plan,
            start: Instant::now(),
            stopping: AtomicBool::new(false),
            requests: AtomicU64::new(0),
            last_pass_us: AtomicU64::new(0),
            longest_gap_us: AtomicU64::new(0),
            report: Mutex::default(),
        });
        let tasks = (0..connections).map(|place| tokio::spawn(connection(shared.clone(), place))).collect();
        Self { shared, tasks }
    }

    /// Returns how many requests have passed so far.
    pub fn passed(&self) -> u64 {
        self.shared.report.lock().unwrap().passed
    }

    /// Returns what happened so far.
    pub fn report(&self) -> Report {
        self.shared.report()
    }

    /// Sends no more, waits for what is in flight, and returns what happened.
    pub async fn stop(mut self) -> Report {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for task in std::mem::take(&mut self.tasks) {
            task.await.unwrap();
        }
        self.shared.report()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Shared {
    fn report(&self) -> Report {
        let mut report = self.report.lock().unwrap().clone();
        report.requests = self.requests.load(Ordering::SeqCst);
        report.longest_gap = Duration::from_micros(self.longest_gap_us.load(Ordering::SeqCst));
        report.latencies_us.sort_unstable();
        report.time = self.start.elapsed();
        report
    }

    fn record(&self, tag: u64, due: Instant, outcome: Result<String, (Kind, String)>) {
        let latency = due.elapsed();
        let outcome = match outcome {
            Ok(_) if latency > LATE => Err((Kind::Late, format!("after {latency:?}"))),
            other => other,
        };
        let at = self.start.elapsed();
        let mut report = self.report.lock().unwrap();
        match outcome {
            Ok(instance) => {
                report.passed += 1;
                report.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
                match report.instances.get_mut(&instance) {
                    Some(count) => *count += 1,
                    None => drop(report.instances.insert(instance, 1)),
                }
                let at_us = at.as_micros() as u64;
                let before = self.last_pass_us.swap(at_us, Ordering::SeqCst);
                self.longest_gap_us.fetch_max(at_us.saturating_sub(before), Ordering::SeqCst);
            }
            Err((kind, detail)) => {
                *report.failed.entry(kind).or_default() += 1;
                if report.failures.len() < KEPT {
                    report.failures.push(Failure { kind, tag, at, detail });
                }
            }
        }
    }
}

/// One connection's share of the schedule.
async fn connection(shared: Arc<Shared>, place: usize) {
    let connections = shared.plan.keepalive + shared.plan.fresh;
    let kept = place < shared.plan.keepalive;
    let mut raw: Option<Raw> = None;
    for turn in 0u64.. {
        let number = place as u64 + turn * connections as u64;
        let due = shared.start + Duration::from_secs_f64(number as f64 / shared.plan.rate);
        tokio::time::sleep_until(due.into()).await;
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        // Ended while idle: whoever closes an idle connection fails nobody.
        if raw.as_mut().is_some_and(Raw::is_ended) {
            raw = None;
        }
        let tag = shared.plan.first_tag + number;
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let outcome = match tokio::time::timeout(GIVE_UP, request(&shared, &mut raw, tag, kept)).await {
            Ok(outcome) => outcome,
            Err(_) => Err((Kind::Late, format!("no answer within {GIVE_UP:?}"))),
        };
        if outcome.is_err() || !kept {
            raw = None;
        }
        shared.record(tag, due, outcome);
    }
}

/// Sends one request and checks its answer; returns the instance that answered.
async fn request(shared: &Shared, raw: &mut Option<Raw>, tag: u64, kept: bool) -> Result<String, (Kind, String)> {
    let connected = match raw {
        Some(connected) => connected,
        None => {
            shared.report.lock().unwrap().connections += 1;
            let fresh = Raw::connect(shared.plan.target).await.map_err(|e| (Kind::Refused, e.to_string()))?;
            raw.insert(fresh)
        }
    };
    let Plan { method, path, .. } = &shared.plan;
    let connection = if kept { "" } else { "Connection: close\r\n" };
    let body = if *method == "POST" { "Content-Length: 4\r\n\r\nbody" } else { "\r\n" };
    let text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-Tag: t{tag}\r\n{connection}{body}");
    use tokio::io::AsyncWriteExt;
    if let Err(error) = connected.stream.write_all(text.as_bytes()).await {
        return Err((Kind::ResetBeforeAnswer, error.to_string()));
    }
    let answer = connected.try_answer(false).await.map_err(|broken| match broken {
        Broken::BeforeAnswer(kind) => (Kind::ResetBeforeAnswer, kind.to_string()),
        Broken::InsideAnswer(kind, bytes) => (Kind::ResetInsideAnswer, describe(kind, &bytes)),
        Broken::Malformed(bytes) => (Kind::Malformed, describe(ErrorKind::InvalidData, &bytes)),
    })?;
    if answer.closes() || !kept {
        *raw = None;
    }
    check(&answer, tag)
}

/// Matches an answer to its request; returns the instance that gave it.
pub fn check(answer: &Answer, tag: u64) -> Result<String, (Kind, String)> {
    if !(200..300).contains(&answer.status) {
        let reason = answer.field("weir-reason").unwrap_or("-");
        return Err((Kind::Status(answer.status), format!("weir-reason: {reason}")));
    }
    let expected = format!("t{tag}");
    let found = field(&answer.head, "x-request-tag").unwrap_or("none");
    if found != expected {
        return Err((Kind::WrongTag, format!("{found} instead of {expected}")));
    }
    Ok(field(&answer.head, "x-instance").unwrap_or("-").to_owned())
}

fn describe(kind: ErrorKind, bytes: &[u8]) -> String {
    format!("{kind} after {} octets: {:?}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(80)]))
}
