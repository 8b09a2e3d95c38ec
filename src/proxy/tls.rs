//! TLS of listeners as workers see it: which listener speaks it and how, how many handshakes are under way, and what a
//! connection's session means for its requests.
//!
//! `app` makes [`TlsListener`]s from files and puts them here by the listener's name; a worker finds them at each accept, so
//! that a change holds for the next connection and touches none that is open. A worker does a bounded number of handshakes
//! at a time: the oldest makes room for the newest, so that clients who do not go on keep nobody out. The handshake itself
//! is in `handshake.rs`.

use crate::http1::digest::base64;
use crate::net::tls::{Clients, Refusal, Server};
use crate::table::certificates::{Certificates, subject};
use crate::telemetry::Handshakes;
use arc_swap::ArcSwap;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// One line about refused handshakes in so many milliseconds for each worker; the others are counted in the next.
const LINE_EVERY_MS: u64 = 1000;

/// TLS of all listeners; a cheap handle.
#[derive(Debug, Clone)]
pub struct Tls {
    listeners: Arc<ArcSwap<Listeners>>,
    pub(crate) handshakes: Handshakes,
    clients: Clients,
}

type Listeners = HashMap<Arc<str>, Arc<TlsListener>>;

/// How one listener speaks TLS.
#[derive(Debug)]
pub struct TlsListener {
    server: Server,
    certificates: Certificates,
    /// The field line that every answer has, or nothing.
    hsts: Box<str>,
}

/// What the TLS session of a connection means for its requests.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) listener: Arc<TlsListener>,
    /// The host that the client asked for in its handshake, in lower case.
    pub(crate) server_name: Option<Box<str>>,
    /// Field lines that tell endpoints who the client is, or nothing.
    pub(crate) identity: Box<[u8]>,
}

/// The handshakes of one worker that are under way.
#[derive(Debug, Default)]
pub(crate) struct Underway {
    next: Cell<u64>,
    /// By age, those first of whom no whole ClientHello has come: they go before the others. Dropping the sender ends one.
    running: RefCell<BTreeMap<(bool, u64), oneshot::Sender<()>>>,
    line_ms: Cell<u64>,
    unsaid: Cell<u64>,
}

impl Tls {
    /// Makes the handle without any listener.
    pub fn new(handshakes: Handshakes) -> Self {
        Self { listeners: Arc::default(), handshakes, clients: Clients::default() }
    }

    /// Returns how services' endpoints are spoken to in TLS.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Takes up how listeners speak TLS, by their names; those that are not named speak none.
    pub fn set(&self, listeners: HashMap<Arc<str>, Arc<TlsListener>>) {
        self.listeners.store(Arc::new(listeners));
    }

    /// Returns how a listener speaks TLS.
    pub fn find(&self, name: &str) -> Option<Arc<TlsListener>> {
        self.listeners.load().get(name).cloned()
    }
}

impl TlsListener {
    /// Puts together what a listener's connections need; `hsts` is the `max-age` of RFC 6797, zero for no such field.
    pub fn new(server: Server, certificates: Certificates, hsts: Duration) -> Self {
        let hsts = match hsts.as_secs() {
            0 => Box::default(),
            seconds => format!("Strict-Transport-Security: max-age={seconds}\r\n").into(),
        };
        Self { server, certificates, hsts }
    }

    /// Returns what its handshakes are done with.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Returns the listener's certificates.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }
}

impl Session {
    /// Returns whether the connection may carry requests for a host, in lower case and without port: it is the one that the
    /// client asked for, or the same certificate is for both (RFC 9110 §7.4, §15.5.20). A client that named none may ask
    /// for any: it got what is for everybody.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let Some(name) = &self.server_name else { return true };
        **name == *host || self.listener.certificates.covers(name, host)
    }

    /// Returns the field line that every answer has, or nothing.
    pub(crate) fn hsts(&self) -> &str {
        &self.listener.hsts
    }

    /// Adds that line to a whole head, unless the endpoint's answer has such a field (RFC 6797 §7.1).
    pub(crate) fn add_hsts<'a>(&self, head: &mut Vec<u8>, mut names: impl Iterator<Item = &'a [u8]>) {
        let line = self.hsts();
        if !line.is_empty() && !names.any(|name| name.eq_ignore_ascii_case(b"strict-transport-security")) {
            head.truncate(head.len().saturating_sub(2));
            head.extend_from_slice(line.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
}

impl Underway {
    /// Begins one; where there are too many the oldest ends.
    pub(crate) fn begin(&self, max: usize) -> (u64, oneshot::Receiver<()>) {
        let id = self.next.get();
        self.next.set(id + 1);
        let (keep, crowded) = oneshot::channel();
        let mut running = self.running.borrow_mut();
        while running.len() >= max.max(1) {
            running.pop_first();
        }
        running.insert((false, id), keep);
        (id, crowded)
    }

    pub(crate) fn end(&self, id: u64) {
        let mut running = self.running.borrow_mut();
        running.remove(&(false, id));
        running.remove(&(true, id));
    }

    /// Says that a client's hello has come.
    pub(crate) fn spoke(&self, id: u64) {
        let mut running = self.running.borrow_mut();
        if let Some(keep) = running.remove(&(false, id)) {
            running.insert((true, id), keep);
        }
    }

    /// Writes a line about a refusal, unless there was one a moment ago.
    pub(crate) fn say(&self, now_ms: u64, listener: &str, peer: IpAddr, refusal: Refusal) {
        let Some(unsaid) = self.may_say(now_ms) else { return };
        tracing::info!(listener, client = %peer, reason = refusal.reason(), unsaid, "TLS handshake refused");
    }

    /// As [`Self::say`], about a connection that was closed for what stands before its traffic.
    pub(crate) fn say_preface(&self, now_ms: u64, listener: &str, peer: IpAddr, reason: &'static str) {
        let Some(unsaid) = self.may_say(now_ms) else { return };
        tracing::info!(listener, client = %peer, reason, unsaid, "connection closed");
    }

    /// As [`Self::say`], about datagrams.
    pub(crate) fn say_dropped(&self, now_ms: u64, listener: &str, peer: IpAddr, reason: &'static str) {
        let Some(unsaid) = self.may_say(now_ms) else { return };
        tracing::info!(listener, client = %peer, reason, unsaid, "datagram dropped");
    }

    /// As [`Self::say`], about a handshake with an endpoint.
    pub(crate) fn say_upstream(&self, now_ms: u64, endpoint: SocketAddr, error: &std::io::Error) {
        let Some(unsaid) = self.may_say(now_ms) else { return };
        tracing::warn!(%endpoint, %error, unsaid, "TLS with an endpoint failed");
    }

    /// Returns how many were not told of, unless there was a line a moment ago.
    fn may_say(&self, now_ms: u64) -> Option<u64> {
        if now_ms < self.line_ms.get() + LINE_EVERY_MS && self.line_ms.get() != 0 {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.line_ms.set(now_ms);
        Some(self.unsaid.replace(0))
    }
}

/// Writes who the client is: its certificate (RFC 9440 §2.2), and for people its subject and alternative names.
pub(crate) fn identity(certificate: &[u8]) -> Box<[u8]> {
    let (subject, names) = subject(certificate);
    let mut lines = format!("Client-Cert: :{}:\r\n", base64(certificate));
    for (field, value) in [("X-Client-Cert-Subject", subject), ("X-Client-Cert-San", names)] {
        // What is no visible ASCII must not get into a field.
        let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        let value: String = value.chars().map(clean).collect();
        lines += &format!("{field}: {}\r\n", value.trim());
    }
    lines.into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::Underway;
    use tokio::sync::oneshot::error::TryRecvError;

    #[test]
    fn the_oldest_handshake_makes_room() {
        let underway = Underway::default();
        let (first, mut a) = underway.begin(2);
        let (_, mut b) = underway.begin(2);
        assert_eq!(a.try_recv(), Err(TryRecvError::Empty));
        let (_, mut c) = underway.begin(2);
        assert_eq!(a.try_recv(), Err(TryRecvError::Closed));
        assert_eq!((b.try_recv(), c.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Empty)));
        underway.end(first);
        let (_, _d) = underway.begin(3);
        assert_eq!(b.try_recv(), Err(TryRecvError::Empty));
        // Who spoke stays longer than who did not.
        underway.spoke(1);
        let (_, _e) = underway.begin(3);
        assert_eq!((b.try_recv(), c.try_recv()), (Err(TryRecvError::Empty), Err(TryRecvError::Closed)));
    }
}
