//! Answers to the challenges by which an authority sees that a name leads here (RFC 8555 §8.3, RFC 8737).
//!
//! A cheap handle, shared by every listener: whoever obtains certificates puts answers in and takes them out again.

use arc_swap::ArcSwap;
use rustls::sign::CertifiedKey;
use std::collections::HashMap;
use std::sync::Arc;

/// The application protocol of tls-alpn-01 (RFC 8737 §6.2).
pub const ACME_PROTOCOL: &[u8] = b"acme-tls/1";
/// Answers of each kind at a time; the authority asks within seconds, so more means that nobody takes them out.
const MAX_CHALLENGES: usize = 4096;

/// What is answered to challenges now.
#[derive(Debug, Clone, Default)]
pub struct Challenges {
    answers: Arc<ArcSwap<Answers>>,
}

#[derive(Debug, Clone, Default)]
struct Answers {
    /// By name, lower case.
    certificates: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By token.
    tokens: HashMap<Box<str>, Arc<str>>,
}

impl Challenges {
    /// Answers tls-alpn-01 for a name with a certificate (RFC 8737 §3). Returns whether there was room.
    pub fn put_certificate(&self, name: &str, key: Arc<CertifiedKey>) -> bool {
        let name: Box<str> = name.to_ascii_lowercase().into();
        self.change(|answers| {
            answers.certificates.insert(name.clone(), key.clone());
        })
    }

    /// Answers tls-alpn-01 for a name no more.
    pub fn remove_certificate(&self, name: &str) {
        let name = name.to_ascii_lowercase();
        self.change(|answers| drop(answers.certificates.remove(name.as_str())));
    }

    /// Answers http-01 for a token with its key authorization (RFC 8555 §8.3). Returns whether there was room.
    pub fn put_token(&self, token: &str, authorization: &str) -> bool {
        self.change(|answers| {
            answers.tokens.insert(token.into(), authorization.into());
        })
    }

    /// Answers http-01 for a token no more.
    pub fn remove_token(&self, token: &str) {
        self.change(|answers| drop(answers.tokens.remove(token)));
    }

    /// Returns the certificate for a name, in lower case.
    pub fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.answers.load().certificates.get(name).cloned()
    }

    /// Returns the key authorization of a token.
    pub fn token(&self, token: &str) -> Option<Arc<str>> {
        self.answers.load().tokens.get(token).cloned()
    }

    /// Returns whether nothing is answered: what every request outside of an order finds.
    pub fn is_empty(&self) -> bool {
        let answers = self.answers.load();
        answers.certificates.is_empty() && answers.tokens.is_empty()
    }

    fn change(&self, change: impl Fn(&mut Answers)) -> bool {
        let mut fits = true;
        self.answers.rcu(|answers| {
            let mut next = Answers::clone(answers);
            change(&mut next);
            fits = next.certificates.len() <= MAX_CHALLENGES && next.tokens.len() <= MAX_CHALLENGES;
            if fits { Arc::new(next) } else { answers.clone() }
        });
        fits
    }
}
