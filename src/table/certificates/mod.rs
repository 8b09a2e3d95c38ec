//! The certificates of one listener: by exact name, by wildcard, and one for everybody else.
//!
//! [`Certificates`] is a cheap handle that a TLS configuration asks at each handshake and that others change meanwhile: a
//! change is one swap, needs no new configuration and closes no connection. Who puts certificates in names them by a source
//! of its own (`file /etc/weir/a.pem`), so that files and authorities do not know each other. For one name there may be an
//! elliptic and an RSA certificate; the client's signature schemes decide (RFC 8446 §4.2.3). The handshake is in `net/tls`.

mod certificate;
mod challenges;
mod questions;
mod report;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, CertificateError, subject, validity};
pub use challenges::{ACME_PROTOCOL, Challenges};
pub use questions::{Question, Questions};
pub use report::{RefusedFile, Report, SOON_S, Standing};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The certificates of one listener; a cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Certificates {
    set: Arc<ArcSwap<Set>>,
    challenges: Challenges,
    /// Where names without a certificate are asked for, if anywhere.
    questions: Arc<ArcSwapOption<Questions>>,
}

/// What one name is answered with: elliptic certificates first.
type Choice = Vec<Arc<Certificate>>;

/// The certificates of one moment.
#[derive(Debug, Clone, Default)]
struct Set {
    /// In the order in which they came; the first is for everybody whom no other is for.
    sources: Vec<(Arc<str>, Arc<Certificate>)>,
    exact: HashMap<Box<str>, Choice>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Choice>,
    default: Choice,
}

impl Certificates {
    /// Returns an empty set that answers these challenges.
    pub fn new(challenges: Challenges) -> Self {
        Self { set: Arc::default(), challenges, questions: Arc::default() }
    }

    /// Puts a certificate in the place of what came from the same source before, else behind the others.
    pub fn put(&self, source: &str, certificate: Arc<Certificate>) {
        self.set.rcu(|set| {
            let mut sources = set.sources.clone();
            match sources.iter_mut().find(|(known, _)| **known == *source) {
                Some((_, known)) => *known = certificate.clone(),
                None => sources.push((source.into(), certificate.clone())),
            }
            Set::new(sources)
        });
    }

    /// Takes out what came from a source.
    pub fn remove(&self, source: &str) {
        self.set.rcu(|set| Set::new(set.sources.iter().filter(|(known, _)| **known != *source).cloned().collect()));
    }

    /// Puts some certificates, in this order and before the others, in the place of all whose source begins with `kind`.
    pub fn replace(&self, kind: &str, with: &[(Arc<str>, Arc<Certificate>)]) {
        self.set.rcu(|set| {
            let others = set.sources.iter().filter(|(source, _)| !source.starts_with(kind));
            Set::new(with.iter().chain(others).cloned().collect())
        });
    }

    /// Returns every certificate with its source, in order.
    pub fn list(&self) -> Vec<(Arc<str>, Arc<Certificate>)> {
        self.set.load().sources.clone()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.set.load().sources.is_empty()
    }

    /// Returns the challenges that are answered here.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Says where names that no certificate is for are asked for; `None`: nowhere.
    pub fn ask_of(&self, questions: Option<Questions>) {
        self.questions.store(questions.map(Arc::new));
    }

    /// Returns where to ask for this name: none of the certificates is for it, and somebody may obtain one. In any case.
    pub fn unknown(&self, name: &str) -> Option<Questions> {
        let questions = self.questions.load();
        let questions = questions.as_ref()?;
        self.set.load().find(name).is_none().then(|| Questions::clone(questions))
    }

    /// Returns the certificate for a client that asks for a name (in any case, or for none) and can check these schemes.
    pub fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<Certificate>> {
        let set = self.set.load();
        let fits = |found: &&Arc<Certificate>| found.key().key.choose_scheme(schemes).is_some();
        let choice = name.and_then(|name| set.find(name)).unwrap_or(&set.default);
        choice.iter().find(fits).cloned()
    }

    /// Returns whether a connection whose client asked for `name` may carry requests for `host` (RFC 9110 §7.4): the two
    /// are the same, or some certificate for the name is for the host too. Both in lower case.
    pub fn covers(&self, name: &str, host: &str) -> bool {
        let set = self.set.load();
        name == host || set.find(name).unwrap_or(&set.default).iter().any(|certificate| certificate.covers(host))
    }
}

impl Set {
    fn new(sources: Vec<(Arc<str>, Arc<Certificate>)>) -> Arc<Self> {
        let mut set = Self::default();
        for (_, certificate) in &sources {
            for name in certificate.names() {
                let choice = match name.strip_prefix("*.") {
                    Some(parent) => set.wildcard.entry(parent.into()),
                    None => set.exact.entry(name.clone()),
                };
                add(choice.or_default(), certificate);
            }
        }
        if let Some((_, first)) = sources.first() {
            let same = sources.iter().map(|(_, other)| other).filter(|other| other.names() == first.names());
            same.for_each(|certificate| add(&mut set.default, certificate));
        }
        set.sources = sources;
        Arc::new(set)
    }

    fn find(&self, name: &str) -> Option<&Choice> {
        let lower;
        let name = if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
            lower = name.to_ascii_lowercase();
            &lower
        } else {
            name
        };
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(parent)
    }
}

/// Adds in order: elliptic ones first, earlier ones first.
fn add(choice: &mut Choice, certificate: &Arc<Certificate>) {
    let at = choice.iter().position(|other| certificate.is_elliptic() && !other.is_elliptic()).unwrap_or(choice.len());
    choice.insert(at, certificate.clone());
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if asks_for_challenge(&hello) {
            return self.challenges.certificate(&hello.server_name()?.to_ascii_lowercase());
        }
        self.find(hello.server_name(), hello.signature_schemes()).map(|found| found.key().clone())
    }
}

/// Returns whether a client checks a challenge: it offers that protocol and no other (RFC 8737 §3).
pub fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_PROTOCOL) && offered.next().is_none())
}
