//! The door for other machines: whoever shows a token may follow the table and register instances, and nothing else.

use crate::admin::Problem;
use crate::clock;
use crate::telemetry::families::{Family, describe, family, metric};
use axum::http::{HeaderMap, Method, StatusCode, header};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Shortest token, in characters: shorter ones can be guessed.
const MIN_TOKEN: usize = 16;
/// Largest file of tokens.
const MAX_FILE: u64 = 64 * 1024;
/// A refusal is logged at most this often, in milliseconds; all are counted.
const LOG_PAUSE_MS: u64 = 10_000;

type Look = Option<(u64, SystemTime)>;

/// The tokens of a file; a cheap handle.
#[derive(Debug, Clone)]
pub struct Tokens {
    path: Arc<Path>,
    known: Arc<Mutex<(Look, Arc<[String]>)>>,
    refused: Arc<AtomicU64>,
    logged_ms: Arc<AtomicU64>,
}

impl Tokens {
    /// Takes the tokens of a file; it is read when the first is shown.
    pub fn new(path: PathBuf) -> Self {
        let known = Arc::new(Mutex::new((None, Arc::from([]))));
        Self { path: path.into(), known, refused: Arc::default(), logged_ms: Arc::default() }
    }

    /// Decides by method, path and header fields only.
    pub(super) fn admit(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
        if !self.holds(path, headers) {
            let detail = "the token is missing or not known here; send `authorization: Bearer TOKEN`";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail));
        }
        if is_offered(method, path) {
            return Ok(());
        }
        let detail = "other machines may follow the table and register instances; ask this on the machine itself";
        Err(Problem::new(StatusCode::FORBIDDEN, "local_only", detail))
    }

    /// Returns whether the token of a request is known now; one that is not is counted and logged.
    pub(super) fn holds(&self, path: &str, headers: &HeaderMap) -> bool {
        if self.knows(headers) {
            return true;
        }
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let (now_ms, logged_ms) = (clock::now_ms(), self.logged_ms.load(Ordering::Relaxed));
        if logged_ms == 0 || now_ms.saturating_sub(logged_ms) > LOG_PAUSE_MS {
            self.logged_ms.store(now_ms, Ordering::Relaxed);
            tracing::warn!(refused = count, path, "somebody without a known token was refused");
        }
        false
    }

    /// Returns how many requests were refused for their token.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(shown) = shown.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
        // All of them, whichever fits: how long it takes tells nothing.
        self.tokens().iter().fold(false, |known, token| known | same(token.as_bytes(), shown.trim().as_bytes()))
    }

    fn tokens(&self) -> Arc<[String]> {
        let look = fs::metadata(&self.path).ok().and_then(|found| Some((found.len(), found.modified().ok()?)));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != look || look.is_none() {
            // Without the file nobody is let in.
            *known = (look, look.and_then(|(octets, _)| read(&self.path, octets)).unwrap_or_default());
        }
        known.1.clone()
    }
}

const REFUSED: Family = ("weir_admin_remote_refused_total", "Requests of other machines without a known token.", &[]);

/// Reads how many were refused when Prometheus asks.
#[derive(Debug)]
pub struct TokenGauge {
    tokens: Tokens,
    descriptions: Vec<Desc>,
}

impl TokenGauge {
    /// Makes the collector; register it with `telemetry::Metrics::registry`.
    pub fn new(tokens: Tokens) -> Self {
        Self { tokens, descriptions: describe(&REFUSED).into_iter().collect() }
    }
}

impl Collector for TokenGauge {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        vec![family(&REFUSED, vec![metric(&REFUSED, &[], self.tokens.refused() as f64)])]
    }
}

fn read(path: &Path, octets: u64) -> Option<Arc<[String]>> {
    if octets > MAX_FILE {
        tracing::warn!(path = %path.display(), "is too large for a file of tokens: nobody is let in");
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (long, short): (Vec<_>, Vec<_>) = lines.map(str::to_owned).partition(|token| token.len() >= MIN_TOKEN);
    if !short.is_empty() {
        tracing::warn!(path = %path.display(), "has tokens of less than {MIN_TOKEN} characters, which count for nothing");
    }
    Some(long.into())
}

/// Compares in a time that depends on the length alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Returns whether other machines may ask this.
fn is_offered(method: &Method, path: &str) -> bool {
    let instance = path.strip_prefix("/v1/instances/").map(|rest| rest.split('/').collect::<Vec<_>>());
    match (method.as_str(), path) {
        ("GET", "/v1/table") | ("POST", "/v1/table/acknowledge" | "/v1/table/leave" | "/v1/instances") => true,
        (method, _) => match instance.as_deref() {
            Some([_]) => method == "DELETE" || method == "GET",
            Some([_, "renew"]) => method == "POST",
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{Tokens, is_offered};
    use axum::http::{HeaderMap, Method, header};

    #[test]
    fn only_a_whole_token_of_the_file_is_known_and_a_new_file_counts_at_once() {
        let path = std::env::temp_dir().join(format!("weir-tokens-{}", std::process::id()));
        std::fs::write(&path, "# of the edges\n0123456789abcdef\nshort\n").unwrap();
        let tokens = Tokens::new(path.clone());
        let knows = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            tokens.admit(&Method::GET, "/v1/table", &headers).is_ok()
        };
        assert!(knows("Bearer 0123456789abcdef"));
        for bad in
            ["", "Bearer ", "Bearer short", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "0123456789abcdef"]
        {
            assert!(!knows(bad), "{bad}");
        }
        assert_eq!(tokens.refused(), 6);
        std::fs::write(&path, "another-token-of-today\n").unwrap();
        assert!(!knows("Bearer 0123456789abcdef") && knows("Bearer another-token-of-today"));
        std::fs::remove_file(&path).unwrap();
        assert!(!knows("Bearer another-token-of-today"));
    }

    #[test]
    fn other_machines_follow_and_register_and_nothing_else() {
        let offered = |method: &str, path: &str| is_offered(&method.parse().unwrap(), path);
        assert!(
            offered("GET", "/v1/table") && offered("POST", "/v1/table/acknowledge") && offered("POST", "/v1/instances")
        );
        assert!(offered("DELETE", "/v1/instances/web-1") && offered("POST", "/v1/instances/web-1/renew"));
        for (method, path) in [
            ("GET", "/metrics"),
            ("GET", "/v1/services"),
            ("POST", "/v1/services/web/scale"),
            ("POST", "/v1/instances/web-1/drain"),
            ("GET", "/v1/instances/web-1/logs"),
            ("GET", "/v1/instances"),
            ("DELETE", "/v1/instances/web-1/../x"),
        ] {
            assert!(!offered(method, path), "{method} {path}");
        }
    }
}
