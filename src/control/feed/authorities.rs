//! The authorities that endpoints' certificates are checked against, told with a service: the file that a definition names is
//! not on every machine.
//!
//! What was read stays when the file cannot be read any more. Certificates only are told, whatever else is in the file.

use crate::model::{ServiceName, ServiceSpec, UpstreamTlsSpec};
use crate::net::tls::read;
use crate::table::Snapshot;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Longest text that is told, in octets: that of some ten authorities. All public ones are on every machine.
const MAX_TEXT: usize = 16 * 1024;

/// Texts by file; a cheap handle. Reads files.
#[derive(Debug, Clone, Default)]
pub struct Authorities(Arc<Mutex<HashMap<PathBuf, Option<Arc<str>>>>>);

impl Authorities {
    /// Returns a definition with the text of the authorities that it names.
    pub(super) fn told(&self, spec: &ServiceSpec) -> Option<Arc<UpstreamTlsSpec>> {
        let tls = spec.tls.as_ref()?;
        let Some(path) = tls.ca.as_ref().filter(|_| tls.authorities.is_none()) else { return Some(tls.clone()) };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        let authorities = known.unwrap_or_else(|| self.look(path).0);
        Some(Arc::new(UpstreamTlsSpec { authorities, ..UpstreamTlsSpec::clone(tls) }))
    }

    /// Reads all files again that services name; returns the services whose text changed.
    pub fn refresh(&self, snapshot: &Snapshot) -> Vec<ServiceName> {
        let of = |spec: &ServiceSpec| spec.tls.as_ref().filter(|tls| tls.authorities.is_none())?.ca.clone();
        let named: Vec<_> =
            snapshot.services.iter().filter_map(|service| Some((of(&service.spec)?, service.name().clone()))).collect();
        let paths: HashSet<PathBuf> = named.iter().map(|(path, _)| path.clone()).collect();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|path, _| paths.contains(path));
        let changed: HashSet<PathBuf> = paths.into_iter().filter(|path| self.look(path).1).collect();
        named.into_iter().filter(|(path, _)| changed.contains(path)).map(|(_, name)| name).collect()
    }

    /// Reads a file; returns its text, and whether that is another one than was told.
    fn look(&self, path: &Path) -> (Option<Arc<str>>, bool) {
        let read = read(path).ok().and_then(|octets| certificates(&octets));
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(path).cloned();
        let before = known.clone().flatten();
        let text = read.map(Arc::from).or(before.clone());
        let is_news = known.is_some() && text != before;
        all.insert(path.to_owned(), text.clone());
        (text, is_news)
    }
}

/// Returns the certificates of a text in PEM, and nothing else of it; `None`: there is none, or too much.
fn certificates(octets: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(octets).ok()?;
    let (mut told, mut is_inside) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        is_inside |= line == "-----BEGIN CERTIFICATE-----";
        if is_inside {
            told.push_str(line);
            told.push('\n');
        }
        is_inside &= line != "-----END CERTIFICATE-----";
    }
    (!told.is_empty() && !is_inside && told.len() <= MAX_TEXT).then_some(told)
}

#[cfg(test)]
mod tests {
    use super::{Authorities, MAX_TEXT, certificates};
    use crate::control::registry::fixture::spec;
    use crate::model::{ServiceSpec, UpstreamTlsSpec};
    use std::sync::Arc;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn nothing_but_certificates_is_told_and_no_bundle_of_all() {
        let key = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n";
        assert_eq!(certificates(format!("# ours\n{key}{ONE}\n{key}{ONE}").as_bytes()).unwrap(), ONE.repeat(2));
        for none in ["", key, "-----BEGIN CERTIFICATE-----\nAAAA\n", &ONE.repeat(MAX_TEXT / ONE.len() + 1)] {
            assert_eq!(certificates(none.as_bytes()), None);
        }
    }

    #[test]
    fn what_was_read_stays_when_the_file_is_gone_and_a_new_text_is_news() {
        let path = std::env::temp_dir().join(format!("weir-authorities-{}", std::process::id()));
        std::fs::write(&path, ONE).unwrap();
        let tls = UpstreamTlsSpec { ca: Some(path.clone()), ..UpstreamTlsSpec::default() };
        let spec = ServiceSpec { tls: Some(Arc::new(tls)), ..spec("web", None) };
        let all = Authorities::default();
        let text = || all.told(&spec).unwrap().authorities.clone();
        assert_eq!(text().as_deref(), Some(ONE));
        assert!(!all.look(&path).1);
        std::fs::remove_file(&path).unwrap();
        assert!(!all.look(&path).1);
        assert_eq!(text().as_deref(), Some(ONE));
        std::fs::write(&path, ONE.repeat(2)).unwrap();
        assert!(all.look(&path).1);
        assert_eq!(text(), Some(ONE.repeat(2).into()));
        std::fs::remove_file(&path).unwrap();
    }
}
