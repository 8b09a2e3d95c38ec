//! How the certificates in use stand, for people and metrics.

use arc_swap::ArcSwap;
use std::sync::Arc;

/// A certificate that ends within so many seconds is warned of: two weeks.
pub const SOON_S: i64 = 14 * 24 * 3600;

/// How one certificate of one listener stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The listener.
    pub listener: Arc<str>,
    /// Whence it came.
    pub source: Arc<str>,
    /// The names that it is for.
    pub names: Vec<Box<str>>,
    /// The last second that it is valid in, since 1970.
    pub not_after_unix_s: i64,
    /// Why what is there now could not take its place.
    pub problem: Option<String>,
}

/// The standings of one moment; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Report {
    standings: Arc<ArcSwap<Vec<Standing>>>,
}

impl Report {
    /// Replaces them.
    pub fn set(&self, standings: Vec<Standing>) {
        self.standings.store(Arc::new(standings));
    }

    /// Returns them, by listener and source.
    pub fn list(&self) -> Arc<Vec<Standing>> {
        self.standings.load_full()
    }

    /// Returns what somebody should do something about, one sentence each, at a time in seconds since 1970.
    pub fn warnings(&self, now_unix_s: i64) -> Vec<String> {
        let list = self.list();
        let said = list.iter().flat_map(|standing| {
            let Standing { listener, source, not_after_unix_s, problem, .. } = standing;
            let left = not_after_unix_s - now_unix_s;
            let days = left / 86_400;
            let ends = match left {
                ..0 => Some(format!("listener {listener}: {source} has expired")),
                0..SOON_S => Some(format!("listener {listener}: {source} expires in {days} days")),
                _ => None,
            };
            let stays = problem.as_ref().map(|problem| {
                format!("listener {listener}: {source}: the certificate before stays in use: {problem}")
            });
            ends.into_iter().chain(stays)
        });
        said.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, SOON_S, Standing};

    #[test]
    fn warns_of_what_ends_soon_has_ended_or_could_not_be_replaced() {
        let report = Report::default();
        let standing = |not_after_unix_s, problem: Option<&str>| Standing {
            listener: "web".into(),
            source: "file a.pem".into(),
            names: vec!["a.test".into()],
            not_after_unix_s,
            problem: problem.map(str::to_owned),
        };
        report.set(vec![standing(1000 + SOON_S, None)]);
        assert_eq!(report.warnings(1000), Vec::<String>::new());
        report.set(vec![standing(999, None), standing(1000 + 3 * 86_400, Some("no key"))]);
        assert_eq!(
            report.warnings(1000),
            [
                "listener web: file a.pem has expired",
                "listener web: file a.pem expires in 3 days",
                "listener web: file a.pem: the certificate before stays in use: no key",
            ]
        );
    }
}
