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
}

/// A file that cannot be used now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedFile {
    /// Whose it is: `listener NAME`, or `endpoints` for what services' endpoints are spoken to with.
    pub owner: Arc<str>,
    /// Its path.
    pub file: Arc<str>,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub hint: &'static str,
    /// Whether what was read before stays in use; else there was nothing before.
    pub stays: bool,
}

/// The standings of one moment; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Report {
    moment: Arc<ArcSwap<Moment>>,
}

#[derive(Debug, Default)]
struct Moment {
    standings: Arc<[Standing]>,
    refused: Arc<[RefusedFile]>,
}

impl Report {
    /// Replaces them.
    pub fn set(&self, standings: Vec<Standing>, refused: Vec<RefusedFile>) {
        self.moment.store(Arc::new(Moment { standings: standings.into(), refused: refused.into() }));
    }

    /// Returns what is in use from files, by listener and source.
    pub fn standings(&self) -> Arc<[Standing]> {
        self.moment.load().standings.clone()
    }

    /// Returns the files that cannot be used now, by owner and path.
    pub fn refused(&self) -> Arc<[RefusedFile]> {
        self.moment.load().refused.clone()
    }

    /// Returns what somebody should do something about, one sentence each, at a time in seconds since 1970.
    pub fn warnings(&self, now_unix_s: i64) -> Vec<String> {
        let (standings, refused) = (self.standings(), self.refused());
        let ends = standings.iter().filter_map(|standing| {
            let Standing { listener, source, not_after_unix_s, .. } = standing;
            let left = not_after_unix_s - now_unix_s;
            let days = left / 86_400;
            match left {
                ..0 => Some(format!("listener {listener}: {source} has expired")),
                0..SOON_S => Some(format!("listener {listener}: {source} expires in {days} days")),
                _ => None,
            }
        });
        let refused = refused.iter().map(|RefusedFile { owner, file, problem, hint, stays }| {
            let instead = if *stays { "what was read before stays in use" } else { "nothing is in use instead" };
            format!("{owner}: {file}: {problem}; {instead}: {hint}")
        });
        ends.chain(refused).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{RefusedFile, Report, SOON_S, Standing};

    #[test]
    fn warns_of_what_ends_soon_has_ended_or_cannot_be_used() {
        let report = Report::default();
        let standing = |not_after_unix_s| Standing {
            listener: "web".into(),
            source: "file a.pem".into(),
            names: vec!["a.test".into()],
            not_after_unix_s,
        };
        report.set(vec![standing(1000 + SOON_S)], Vec::new());
        assert_eq!(report.warnings(1000), Vec::<String>::new());
        let refused = |owner: &str, stays| RefusedFile {
            owner: owner.into(),
            file: "/a.key".into(),
            problem: "no private key in it".to_owned(),
            hint: "write one",
            stays,
        };
        let bad = vec![refused("listener web", true), refused("endpoints", false)];
        report.set(vec![standing(999), standing(1000 + 3 * 86_400)], bad);
        assert_eq!(
            report.warnings(1000),
            [
                "listener web: file a.pem has expired",
                "listener web: file a.pem expires in 3 days",
                "listener web: /a.key: no private key in it; what was read before stays in use: write one",
                "endpoints: /a.key: no private key in it; nothing is in use instead: write one",
            ]
        );
    }
}
