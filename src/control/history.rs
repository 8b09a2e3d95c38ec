//! Why an instance is judged as it is: the last changes of its verdict, for people.
//!
//! Written by the loops of `check.rs`, read by the admin API; a concurrent map, because many read while many write and
//! none of it is on the request path. Limit: 16 records for an instance, none once it is no longer listed.

use crate::clock;
use crate::model::{InstanceId, Transition};
use dashmap::DashMap;
use std::collections::VecDeque;
use std::sync::Arc;

/// Records that are kept of one instance: eight times down and up.
const MAX_RECORDS: usize = 16;

/// One change of verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// What changed.
    pub transition: Transition,
    /// The outcome that caused it, as a sentence.
    pub reason: String,
}

/// The records of all instances; clones share them.
#[derive(Debug, Clone, Default)]
pub struct History {
    records: Arc<DashMap<InstanceId, VecDeque<Record>>>,
}

impl History {
    /// Returns the last changes of an instance's verdict, oldest first; empty when there was none.
    pub fn of(&self, id: &InstanceId) -> Vec<Record> {
        self.records.get(id).map(|records| records.iter().cloned().collect()).unwrap_or_default()
    }

    pub(crate) fn record(&self, id: &InstanceId, transition: Transition, reason: &str) {
        let mut records = self.records.entry(id.clone()).or_default();
        if records.len() == MAX_RECORDS {
            records.pop_front();
        }
        records.push_back(Record { at_unix_ms: clock::unix_ms(), transition, reason: reason.to_owned() });
    }

    pub(crate) fn forget(&self, id: &InstanceId) {
        self.records.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::History;
    use crate::model::{InstanceId, Transition, Verdict};

    #[test]
    fn keeps_the_last_changes_until_forgotten() {
        let (history, id) = (History::default(), InstanceId::parse("a").unwrap());
        for n in 0..20 {
            let transition = Transition { from: Verdict::Healthy, to: Verdict::Unhealthy };
            history.record(&id, transition, &format!("failure {n}"));
        }
        let reasons: Vec<String> = history.of(&id).into_iter().map(|record| record.reason).collect();
        assert_eq!((reasons.len(), reasons[0].as_str(), reasons[15].as_str()), (16, "failure 4", "failure 19"));
        history.forget(&id);
        assert!(history.of(&id).is_empty());
    }
}
