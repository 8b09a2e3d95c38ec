//! What the store shows to Prometheus and to people.

use crate::control::store::StoreError;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How the store does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes; 0 when it cannot be asked.
    pub file_bytes: u64,
    /// Why the last write failed; `None` when it did not.
    pub problem: Option<StoreError>,
    /// What is true but could not be written down yet, in records.
    pub unsaved: usize,
    /// Instances that are written down as serving: they serve at once after a restart.
    pub serving: usize,
    /// Transactions that were written.
    pub commits: u64,
    /// Transactions that failed.
    pub failures: u64,
}

/// Counters of the store; shared by the thread that writes and those who ask.
#[derive(Debug)]
pub(super) struct Stats {
    path: PathBuf,
    seconds: Histogram,
    failures: IntCounterVec,
    bytes: IntGauge,
    unsaved: IntGauge,
    serving: AtomicUsize,
    /// Short lock: one value.
    problem: Mutex<Option<StoreError>>,
}

impl Stats {
    pub(super) fn new(path: PathBuf) -> prometheus::Result<Self> {
        let buckets = vec![0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];
        let help = "Duration of a transaction until it is on the disk.";
        let seconds = HistogramOpts::new("weir_store_commit_seconds", help).buckets(buckets);
        let failures = Opts::new("weir_store_failures_total", "Transactions that failed, by reason: full, failed.");
        let unsaved = "Records that are true but could not be written down yet.";
        Ok(Self {
            path,
            seconds: Histogram::with_opts(seconds)?,
            failures: IntCounterVec::new(failures, &["reason"])?,
            bytes: IntGauge::new("weir_store_file_bytes", "Size of the store's file.")?,
            unsaved: IntGauge::new("weir_store_unsaved", unsaved)?,
            serving: AtomicUsize::new(0),
            problem: Mutex::default(),
        })
    }

    /// Notes how a transaction ended. Returns true when that is news.
    pub(super) fn note(&self, outcome: &Result<(), StoreError>, took: Duration) -> bool {
        let problem = outcome.as_ref().err().cloned();
        match &problem {
            None => self.seconds.observe(took.as_secs_f64()),
            Some(StoreError::Full) => self.failures.with_label_values(&["full"]).inc(),
            Some(_) => self.failures.with_label_values(&["failed"]).inc(),
        }
        let mut last = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = *last != problem;
        *last = problem;
        is_news
    }

    pub(super) fn set_unsaved(&self, records: usize) {
        self.unsaved.set(i64::try_from(records).unwrap_or(i64::MAX));
    }

    pub(super) fn set_serving(&self, instances: usize) {
        self.serving.store(instances, Ordering::Relaxed);
    }

    pub(super) fn status(&self) -> StoreStatus {
        let failures = ["full", "failed"].map(|reason| self.failures.with_label_values(&[reason]).get());
        StoreStatus {
            path: self.path.clone(),
            file_bytes: fs::metadata(&self.path).map_or(0, |metadata| metadata.len()),
            problem: self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            unsaved: usize::try_from(self.unsaved.get()).unwrap_or(0),
            serving: self.serving.load(Ordering::Relaxed),
            commits: self.seconds.get_sample_count(),
            failures: failures.iter().sum(),
        }
    }

    fn collectors(&self) -> [&dyn Collector; 4] {
        [&self.seconds, &self.failures, &self.bytes, &self.unsaved]
    }
}

impl Collector for super::Store {
    fn desc(&self) -> Vec<&Desc> {
        self.stats().collectors().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.stats();
        stats.bytes.set(i64::try_from(stats.status().file_bytes).unwrap_or(i64::MAX));
        let mut families: Vec<_> = stats.collectors().into_iter().flat_map(Collector::collect).collect();
        // The encoder refuses a family of no metric.
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}
