//! What the DNS server counts: questions by type, response code and path; one shard per thread.

use crate::dnswire::{rcode, rtype};
use prometheus::core::{Collector, Desc};
use prometheus::{IntCounterVec, Opts, proto::MetricFamily};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const NAME: &str = "weir_dns_queries_total";
const HELP: &str = "DNS queries by type, response code and path";
const LABELS: [&str; 3] = ["type", "rcode", "path"];
const TYPES: [(u16, &str); 8] = [
    (rtype::A, "A"),
    (rtype::AAAA, "AAAA"),
    (rtype::SRV, "SRV"),
    (rtype::PTR, "PTR"),
    (rtype::SOA, "SOA"),
    (rtype::NS, "NS"),
    (rtype::TXT, "TXT"),
    (rtype::ANY, "ANY"),
];
const RCODES: [(u16, &str); 8] = [
    (rcode::NOERROR, "NOERROR"),
    (rcode::FORMERR, "FORMERR"),
    (rcode::SERVFAIL, "SERVFAIL"),
    (rcode::NXDOMAIN, "NXDOMAIN"),
    (rcode::NOTIMP, "NOTIMP"),
    (rcode::REFUSED, "REFUSED"),
    (rcode::NOTAUTH, "NOTAUTH"),
    (rcode::BADVERS, "BADVERS"),
];
const OTHER: &str = "other";
const PATHS: [&str; 3] = ["fast", "slow", "tcp"];
/// One more of each for what is not listed.
const CELLS: usize = (TYPES.len() + 1) * (RCODES.len() + 1) * PATHS.len();

/// How a question was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// On a UDP thread.
    Fast = 0,
    /// By the slow path, over UDP or TCP.
    Slow = 1,
    /// Over TCP.
    Tcp = 2,
}

/// Counters of one thread.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    cells: [AtomicU64; CELLS],
}

/// The sum of all threads; a Prometheus collector of `weir_dns_queries_total{type,rcode,path}`.
#[derive(Debug, Clone)]
pub struct Counters {
    shards: Arc<[Arc<Shard>]>,
    desc: Desc,
}

/// One counter that is not zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The asked type, or `other`.
    pub rtype: &'static str,
    /// The response code, or `other`.
    pub rcode: &'static str,
    /// `fast`, `slow` or `tcp`.
    pub path: &'static str,
    /// How many.
    pub queries: u64,
}

impl Shard {
    /// Counts one answered question.
    pub(crate) fn count(&self, kind: u16, code: u16, path: Path) {
        let kind = TYPES.iter().position(|(known, _)| *known == kind).unwrap_or(TYPES.len());
        let code = RCODES.iter().position(|(known, _)| *known == code).unwrap_or(RCODES.len());
        let cell = (kind * (RCODES.len() + 1) + code) * PATHS.len() + path as usize;
        if let Some(cell) = self.cells.get(cell) {
            // Only this thread writes the shard.
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }
}

impl Counters {
    /// Makes counters for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        let shard = || Arc::new(Shard { cells: std::array::from_fn(|_| AtomicU64::new(0)) });
        let labels = LABELS.iter().map(ToString::to_string).collect();
        #[expect(clippy::expect_used, reason = "name and labels are constants that a test registers")]
        let desc = Desc::new(NAME.to_owned(), HELP.to_owned(), labels, Default::default()).expect("valid metric name");
        Self { shards: (0..threads).map(|_| shard()).collect(), desc }
    }

    /// Returns the counters of one thread.
    pub(crate) fn shard(&self, index: usize) -> Option<Arc<Shard>> {
        self.shards.get(index).cloned()
    }

    /// Returns every counter that is not zero.
    pub fn counts(&self) -> Vec<Count> {
        let name = |list: &[(u16, &'static str)], at: usize| list.get(at).map_or(OTHER, |(_, name)| *name);
        let sum = |cell: usize| {
            self.shards.iter().filter_map(|s| s.cells.get(cell)).map(|c| c.load(Ordering::Relaxed)).sum::<u64>()
        };
        let counts = (0..CELLS).map(|cell| Count {
            rtype: name(&TYPES, cell / PATHS.len() / (RCODES.len() + 1)),
            rcode: name(&RCODES, cell / PATHS.len() % (RCODES.len() + 1)),
            path: PATHS.get(cell % PATHS.len()).copied().unwrap_or(OTHER),
            queries: sum(cell),
        });
        counts.filter(|count| count.queries > 0).collect()
    }
}

impl Collector for Counters {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Ok(family) = IntCounterVec::new(Opts::new(NAME, HELP), &LABELS) else { return Vec::new() };
        for count in self.counts() {
            family.with_label_values(&[count.rtype, count.rcode, count.path]).inc_by(count.queries);
        }
        family.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Count, Counters, Path};
    use crate::dnswire::{rcode, rtype};

    #[test]
    fn sums_threads_and_exports_what_is_not_zero() {
        let counters = Counters::new(2);
        counters.shard(0).unwrap().count(rtype::A, rcode::NOERROR, Path::Fast);
        counters.shard(1).unwrap().count(rtype::A, rcode::NOERROR, Path::Fast);
        counters.shard(1).unwrap().count(999, 99, Path::Slow);
        let count = |rtype, rcode, path, queries| Count { rtype, rcode, path, queries };
        assert_eq!(counters.counts(), [count("A", "NOERROR", "fast", 2), count("other", "other", "slow", 1)]);
        let registry = prometheus::Registry::new();
        registry.register(Box::new(counters)).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains(r#"weir_dns_queries_total{path="fast",rcode="NOERROR",type="A"} 2"#), "{text}");
    }
}
