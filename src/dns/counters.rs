//! What the DNS server counts: questions by type, response code, transport and path; one shard per thread.

use crate::dns::handler::Transport;
use crate::dns::options::InFlight;
use crate::dnswire::{rcode, rtype};
use prometheus::core::{Collector, Desc};
use prometheus::{IntCounterVec, IntGauge, Opts, proto::MetricFamily};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "weir_dns_queries_total";
const HELP: &str = "DNS queries by type, response code, transport and path";
const LABELS: [&str; 4] = ["type", "rcode", "transport", "path"];
const TYPES: [(u16, &str); 9] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::PTR, "PTR"),
    (rtype::SOA, "SOA"),
    (rtype::NS, "NS"),
    (rtype::TXT, "TXT"),
    (rtype::HTTPS, "HTTPS"),
    (rtype::ANY, "ANY"),
];
const RCODES: [(u16, &str); 9] = [
    (rcode::NOERROR, "NOERROR"),
    (rcode::FORMERR, "FORMERR"),
    (rcode::SERVFAIL, "SERVFAIL"),
    (rcode::NXDOMAIN, "NXDOMAIN"),
    (rcode::NOTIMP, "NOTIMP"),
    (rcode::REFUSED, "REFUSED"),
    (rcode::NOTAUTH, "NOTAUTH"),
    (rcode::BADVERS, "BADVERS"),
    (rcode::BADCOOKIE, "BADCOOKIE"),
];
const OTHER: &str = "other";
const TRANSPORTS: [&str; 4] = ["udp", "tcp", "tls", "https"];
const PATHS: [&str; 5] = ["fast", "full", "forwarded", "cached", "stale"];
/// One more of each for what is not listed.
const CELLS: usize = (TYPES.len() + 1) * (RCODES.len() + 1) * TRANSPORTS.len() * PATHS.len();

/// Returns how a response code is called, where it is known here.
pub(crate) fn code_name(code: u16) -> Option<&'static str> {
    RCODES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

/// Returns how a transport is called.
pub(crate) fn transport_name(transport: Transport) -> &'static str {
    TRANSPORTS.get(transport as usize).copied().unwrap_or(OTHER)
}

/// Returns how a path is called.
pub(crate) fn path_name(path: Path) -> &'static str {
    PATHS.get(path as usize).copied().unwrap_or(OTHER)
}

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// A common question, from the table.
    Fast = 0,
    /// An unusual one, decoded in full.
    Full = 1,
    /// By other resolvers.
    Forwarded = 2,
    /// By what other resolvers answered before.
    Cached = 3,
    /// By that although its time is over: no other resolver answered.
    Stale = 4,
}

const FORWARDED: &str = "weir_dns_forwarded_total";
const FORWARDED_HELP: &str = "DNS questions for other resolvers by outcome";
const IN_FLIGHT: &str = "weir_dns_forward_in_flight";
const IN_FLIGHT_HELP: &str = "DNS questions that wait for other resolvers now";

/// What became of a question for other resolvers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// Records, from upstream or the cache.
    Answered = 0,
    /// The name exists, with no such record.
    NoData = 1,
    /// The name does not exist.
    NxDomain = 2,
    /// Upstream answered with an error, which became SERVFAIL.
    Failed = 3,
    /// No upstream answered in time: SERVFAIL.
    Unreachable = 4,
    /// Too many were in flight: SERVFAIL.
    Overloaded = 5,
    /// A name of one label, which goes no further: NXDOMAIN.
    Short = 6,
    /// The client may not ask: REFUSED.
    Denied = 7,
    /// Too many of the same client were in flight: SERVFAIL.
    ClientOverloaded = 8,
}

const OUTCOMES: [&str; 9] = [
    "answered",
    "nodata",
    "nxdomain",
    "failed",
    "unreachable",
    "overloaded",
    "short_name",
    "denied",
    "client_overloaded",
];

/// What the forwarder counts; clones share the numbers.
#[derive(Debug, Clone)]
pub struct Forwards(Arc<ForwardCells>);

#[derive(Debug)]
struct ForwardCells {
    outcomes: [AtomicU64; OUTCOMES.len()],
    in_flight: AtomicU64,
    /// Of each client that has any; no more of them than questions are in flight.
    by_client: Mutex<HashMap<IpAddr, usize>>,
    descs: [Desc; 2],
}

/// One question in flight; gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Flight(Arc<ForwardCells>, Option<IpAddr>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.1 else { return };
        let mut by_client = self.0.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = by_client.entry(client) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl Forwards {
    fn new() -> Self {
        #[expect(clippy::expect_used, reason = "names and labels are constants that a test registers")]
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default()).expect("valid metric name")
        };
        Self(Arc::new(ForwardCells {
            outcomes: std::array::from_fn(|_| AtomicU64::new(0)),
            in_flight: AtomicU64::new(0),
            by_client: Mutex::default(),
            descs: [desc(FORWARDED, FORWARDED_HELP, &["outcome"]), desc(IN_FLIGHT, IN_FLIGHT_HELP, &[])],
        }))
    }

    /// Counts one outcome.
    pub(crate) fn count(&self, outcome: Forwarded) {
        if let Some(cell) = self.0.outcomes.get(outcome as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a place among the questions in flight. Only the thread `dns-slow` asks.
    ///
    /// # Errors
    /// What to count, when there are `max` already, or as many of this client as it may have.
    pub(crate) fn try_fly(&self, client: Option<IpAddr>, most: InFlight) -> Result<Flight, Forwarded> {
        if self.0.in_flight.load(Ordering::Relaxed) >= most.all as u64 {
            return Err(Forwarded::Overloaded);
        }
        if let Some(client) = client {
            let mut by_client = self.0.by_client.lock().unwrap_or_else(PoisonError::into_inner);
            let own = by_client.get(&client).copied().unwrap_or(0);
            if own >= most.of_client {
                return Err(Forwarded::ClientOverloaded);
            }
            by_client.insert(client, own + 1);
        }
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight(self.0.clone(), client))
    }

    /// Returns how often an outcome was counted.
    pub fn of(&self, outcome: Forwarded) -> u64 {
        self.0.outcomes.get(outcome as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }
}

impl Collector for Forwards {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(outcomes) = IntCounterVec::new(Opts::new(FORWARDED, FORWARDED_HELP), &["outcome"]) else {
            return Vec::new();
        };
        let Ok(in_flight) = IntGauge::new(IN_FLIGHT, IN_FLIGHT_HELP) else { return Vec::new() };
        for (name, cell) in OUTCOMES.iter().zip(&self.0.outcomes) {
            let count = cell.load(Ordering::Relaxed);
            if count > 0 {
                outcomes.with_label_values(&[*name]).inc_by(count);
            }
        }
        in_flight.set(i64::try_from(self.0.in_flight.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        [outcomes.collect(), in_flight.collect()].concat()
    }
}

const LIMITED: &str = "weir_dns_rate_limited_total";
const LIMITED_HELP: &str = "DNS answers over UDP above the limit of a source network";
const ACTIONS: [&str; 2] = ["truncated", "dropped"];

/// What became of an answer above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// An empty one was sent, with TC.
    Truncated = 0,
    /// None was sent.
    Dropped = 1,
}

/// Counts answers above the limit; clones share the numbers.
#[derive(Debug, Clone)]
pub struct Limits(Arc<[AtomicU64; ACTIONS.len()]>);

impl Limits {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Counts one answer.
    pub(crate) fn count(&self, action: Limited) {
        if let Some(cell) = self.0.get(action as usize) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns how often that was done.
    pub fn of(&self, action: Limited) -> u64 {
        self.0.get(action as usize).map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(LIMITED, LIMITED_HELP), &["action"]) else { return Vec::new() };
        for (name, cell) in ACTIONS.iter().zip(&*self.0) {
            family.with_label_values(&[*name]).inc_by(cell.load(Ordering::Relaxed));
        }
        family.collect()
    }
}

/// Counters of one thread.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    cells: [AtomicU64; CELLS],
}

/// The sum of all threads; a Prometheus collector of
/// `weir_dns_queries_total{type,rcode,transport,path}`.
#[derive(Debug, Clone)]
pub struct Counters {
    shards: Arc<[Arc<Shard>]>,
    /// Of threads that come and go; those of threads that are gone are used again.
    spares: Arc<Mutex<Vec<Arc<Shard>>>>,
    forwards: Forwards,
    limits: Limits,
    descs: [Desc; 2],
}

/// One counter that is not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The asked type, or `other`.
    pub rtype: &'static str,
    /// The response code, or `other`.
    pub rcode: &'static str,
    /// `udp`, `tcp`, `tls` or `https`.
    pub transport: &'static str,
    /// `fast`, `full`, `forwarded`, `cached` or `stale`.
    pub path: &'static str,
    /// How many.
    pub queries: u64,
}

impl Shard {
    fn new() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts one answered question.
    pub(crate) fn count(&self, kind: u16, code: u16, transport: Transport, path: Path) {
        let kind = TYPES.iter().position(|(known, _)| *known == kind).unwrap_or(TYPES.len());
        let code = RCODES.iter().position(|(known, _)| *known == code).unwrap_or(RCODES.len());
        let row = (kind * (RCODES.len() + 1) + code) * TRANSPORTS.len() + transport as usize;
        let cell = row * PATHS.len() + path as usize;
        if let Some(cell) = self.cells.get(cell) {
            // Only this thread writes the shard.
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

impl Counters {
    /// Makes counters for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        #[expect(clippy::expect_used, reason = "names and labels are constants that a test registers")]
        let desc = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(ToString::to_string).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, Default::default()).expect("valid metric name")
        };
        let descs = [desc(NAME, HELP, &LABELS), desc(LIMITED, LIMITED_HELP, &["action"])];
        let shards = (0..threads).map(|_| Arc::new(Shard::new())).collect();
        Self { shards, spares: Arc::default(), forwards: Forwards::new(), limits: Limits::new(), descs }
    }

    /// Returns what the forwarder counts.
    pub fn forwards(&self) -> &Forwards {
        &self.forwards
    }

    /// Returns what was above the limit of a source network.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns the counters of one thread.
    pub(crate) fn shard(&self, index: usize) -> Option<Arc<Shard>> {
        self.shards.get(index).cloned()
    }

    /// Returns counters for a thread that may end before the others.
    pub(crate) fn spare(&self) -> Arc<Shard> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(free) = spares.iter().find(|spare| Arc::strong_count(spare) == 1) {
            return free.clone();
        }
        let spare = Arc::new(Shard::new());
        spares.push(spare.clone());
        spare
    }

    /// Returns every counter that is not zero.
    pub fn counts(&self) -> Vec<Count> {
        let name = |list: &[(u16, &'static str)], at: usize| list.get(at).map_or(OTHER, |(_, name)| *name);
        let spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |cell: usize| {
            let shards = self.shards.iter().chain(&*spares);
            shards.filter_map(|s| s.cells.get(cell)).map(|c| c.load(Ordering::Relaxed)).sum::<u64>()
        };
        let counts = (0..CELLS).map(|cell| Count {
            rtype: name(&TYPES, cell / PATHS.len() / TRANSPORTS.len() / (RCODES.len() + 1)),
            rcode: name(&RCODES, cell / PATHS.len() / TRANSPORTS.len() % (RCODES.len() + 1)),
            transport: TRANSPORTS.get(cell / PATHS.len() % TRANSPORTS.len()).copied().unwrap_or(OTHER),
            path: PATHS.get(cell % PATHS.len()).copied().unwrap_or(OTHER),
            queries: sum(cell),
        });
        counts.filter(|count| count.queries > 0).collect()
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        [self.descs.iter().collect(), self.forwards.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(NAME, HELP), &LABELS) else { return Vec::new() };
        for count in self.counts() {
            family.with_label_values(&[count.rtype, count.rcode, count.transport, count.path]).inc_by(count.queries);
        }
        [family.collect(), self.limits.collect(), self.forwards.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Counters, Forwarded, InFlight, Path, Transport};
    use crate::dnswire::{rcode, rtype};

    #[test]
    fn sums_threads_and_exports_what_is_not_zero() {
        let counters = Counters::new(2);
        counters.shard(0).unwrap().count(rtype::A, rcode::NOERROR, Transport::Udp, Path::Fast);
        counters.shard(1).unwrap().count(rtype::A, rcode::NOERROR, Transport::Udp, Path::Fast);
        counters.shard(1).unwrap().count(999, 99, Transport::Https, Path::Full);
        let count = |rtype, rcode, (transport, path), queries| Count { rtype, rcode, transport, path, queries };
        let expected = [count("A", "NOERROR", ("udp", "fast"), 2), count("other", "other", ("https", "full"), 1)];
        assert_eq!(counters.counts(), expected);
        counters.forwards().count(Forwarded::NxDomain);
        let flight = counters.forwards().try_fly(None, InFlight { all: 1, of_client: 1 });
        assert!(flight.is_ok());
        let registry = prometheus::Registry::new();
        registry.register(Box::new(counters)).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(
            text.contains(r#"weir_dns_queries_total{path="fast",rcode="NOERROR",transport="udp",type="A"} 2"#),
            "{text}"
        );
        assert!(text.contains(r#"weir_dns_forwarded_total{outcome="nxdomain"} 1"#), "{text}");
        assert!(text.contains("weir_dns_forward_in_flight 1"), "{text}");
    }

    #[test]
    fn places_in_flight_are_bounded_in_all_and_for_each_client_and_come_back() {
        let counters = Counters::new(1);
        let most = InFlight { all: 3, of_client: 2 };
        let fly = |last| counters.forwards().try_fly(Some([10, 0, 0, last].into()), most);
        let (first, _second) = (fly(1).unwrap(), fly(1).unwrap());
        assert_eq!(fly(1).unwrap_err(), Forwarded::ClientOverloaded);
        let other = fly(2).unwrap();
        assert_eq!(fly(2).unwrap_err(), Forwarded::Overloaded);
        drop(first);
        let again = fly(1);
        assert!(again.is_ok());
        drop((again, other, _second));
        assert!(counters.forwards().0.by_client.lock().unwrap().is_empty());
    }
}
