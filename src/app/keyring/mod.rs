//! Files of certificates and keys → what listeners show; read again when they change.
//!
//! A file counts when its content differs. What cannot be used (half-written, of another key, expired, unreadable) changes
//! nothing: what was read before stays, and the file is named in the log, in metrics, in `weir status` and in `weir
//! certificates` until it is over. `read.rs` reads, `check.rs` is `weir check`. Tickets outlive a change of certificates; a change of the client policy ends them. Next on the path:
//! `proxy/tls.rs`.

mod check;
mod read;

pub use check::check;

use crate::app::tickets::Book;
use crate::clock;
use crate::model::{CertificateFiles, ListenerSpec, TlsSpec, UpstreamTlsSpec};
use crate::net::tls::{BadFile, ClientPolicy, Server, ServerError, ServerOptions};
use crate::proxy::{Tls, TlsListener};
use crate::spec::{Key, KeyPath};
use crate::table::certificates::{Certificate, Certificates, Challenges, RefusedFile, Report, SOON_S, Standing};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// What is spoken inside, the preferred first.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The name under which the certificates of DNS are kept; no listener can be called so.
const NAMES: &str = "[dns]";

/// The source of what clients are checked against, among faults.
const POLICY: &str = "clients";

/// Something wrong with what a listener names: the key inside its definition, what is wrong, what to do.
type Fault = (KeyPath, String, String);

/// The certificates of all listeners and whence they come; a cheap handle.
#[derive(Debug, Clone)]
pub struct Keyring {
    tls: Tls,
    challenges: Challenges,
    book: Book,
    report: Report,
    expiry: IntGaugeVec,
    refused: IntGauge,
    refused_files: IntGaugeVec,
    /// Never held across a wait.
    state: Arc<Mutex<State>>,
    /// Rings when other files are of interest.
    moved: Arc<Notify>,
}

type State = HashMap<Arc<str>, Holding>;

/// What is held for one listener.
#[derive(Debug, Clone)]
struct Holding {
    spec: Arc<TlsSpec>,
    certificates: Certificates,
    book: Book,
    listener: Arc<TlsListener>,
    /// What was read and is not in use yet, in order.
    fresh: Vec<(Arc<str>, Arc<Certificate>)>,
    /// Hash of each pair of files in use, by its source.
    pairs: HashMap<String, u64>,
    /// Hash of the files of the client policy.
    policy: u64,
    /// What is wrong with files now, by source; [`POLICY`] is that of what clients are checked against.
    faults: HashMap<String, BadFile>,
}

/// How listeners will speak TLS, read and ready.
#[derive(Debug)]
pub struct Prepared(State);

impl Keyring {
    /// Makes one that holds nothing yet.
    ///
    /// # Errors
    /// Never with the names of its metrics; the exposition's library checks them.
    pub(super) fn new(tls: Tls, book: Book) -> prometheus::Result<Self> {
        let expiry =
            Opts::new("weir_certificate_expiry_seconds", "The end of each certificate in use, seconds since 1970.");
        let refused = "Files of certificates, keys, authorities and revocation lists that cannot be used now.";
        let files = "1 for each of these files; what was read before stays in use.";
        Ok(Self {
            tls,
            challenges: Challenges::default(),
            book,
            report: Report::default(),
            expiry: IntGaugeVec::new(expiry, &["listener", "name", "source"])?,
            refused: IntGauge::new("weir_certificates_refused", refused)?,
            refused_files: IntGaugeVec::new(Opts::new("weir_certificate_file_refused", files), &["owner", "file"])?,
            state: Arc::default(),
            moved: Arc::default(),
        })
    }

    /// Shows its metrics in a registry.
    ///
    /// # Errors
    /// When they are there already.
    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.expiry.clone()))?;
        registry.register(Box::new(self.refused_files.clone()))?;
        registry.register(Box::new(self.refused.clone()))
    }

    /// Returns how certificates stand.
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// Returns the certificates of a listener that speaks TLS, for others to put some in.
    pub fn certificates(&self, listener: &str) -> Option<Certificates> {
        self.lock().get(listener).map(|holding| holding.certificates.clone())
    }

    /// Returns the challenges that every listener answers.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Reads what listeners need; nothing is in use yet.
    ///
    /// # Errors
    /// Everything that cannot be used, each with its key in the configuration. What has expired is used all the same: it
    /// is better than nothing, and the log says so.
    pub fn prepare(&self, listeners: &[ListenerSpec]) -> Result<Prepared, Vec<Fault>> {
        let held = self.lock();
        let (mut state, mut faults) = (State::new(), Vec::new());
        for (i, listener) in listeners.iter().enumerate() {
            let Some(spec) = &listener.tls else { continue };
            let known = held.get(&listener.name);
            match Holding::read((&listener.name, spec), known, self) {
                Ok(holding) => drop(state.insert(listener.name.clone(), holding)),
                Err(found) => {
                    let at = KeyPath::new(vec![Key::Name("listener".to_owned()), Key::Index(i)]);
                    faults.extend(found.into_iter().map(|(key, message, hint)| (at.join(&key), message, hint)));
                }
            }
        }
        if faults.is_empty() { Ok(Prepared(state)) } else { Err(faults) }
    }

    /// Reads what DNS over TLS needs; nothing is in use yet.
    ///
    /// # Errors
    /// As [`Keyring::prepare`].
    pub fn prepare_names(&self, spec: &Arc<TlsSpec>) -> Result<Prepared, Vec<Fault>> {
        let known = self.lock().get(NAMES).cloned();
        let holding = Holding::read((NAMES, spec), known.as_ref(), self).map_err(|found| {
            let at = KeyPath::default().key("dns");
            found.into_iter().map(|(key, message, hint)| (at.join(&key), message, hint)).collect::<Vec<_>>()
        })?;
        Ok(Prepared(State::from([(NAMES.into(), holding)])))
    }

    /// Returns how DNS over TLS is spoken.
    pub(super) fn names_server(&self) -> Option<Server> {
        self.lock().get(NAMES).map(|holding| holding.listener.server().clone())
    }

    /// Takes up what was prepared, beside what is in use for other listeners.
    pub fn add(&self, prepared: Prepared) {
        let mut held = self.lock();
        for (name, mut holding) in prepared.0 {
            let now = unix_s();
            for (source, _) in holding.fresh.iter().filter(|(_, certificate)| !certificate.is_valid_at(now)) {
                tracing::warn!(listener = %name, certificate = %source, "it is not valid now, and used for want of another");
            }
            holding.certificates.replace("file ", &std::mem::take(&mut holding.fresh));
            held.insert(name, holding);
        }
        self.publish(&held);
        self.moved.notify_one();
    }

    /// Lets go of listeners that are no more.
    pub fn keep_only(&self, listeners: &[ListenerSpec]) {
        let mut held = self.lock();
        held.retain(|name, _| {
            **name == *NAMES || listeners.iter().any(|listener| listener.name == *name && listener.tls.is_some())
        });
        self.publish(&held);
        self.moved.notify_one();
    }

    /// Reads every file again and takes up what changed and can be used; forgets TLS towards endpoints that nobody uses.
    pub(super) fn refresh(&self, is_used: impl Fn(&UpstreamTlsSpec) -> bool) {
        self.tls.clients().refresh(is_used);
        let mut held = self.lock();
        for (name, holding) in held.iter_mut() {
            holding.refresh(name);
        }
        self.publish(&held);
    }

    /// Waits until TLS towards some endpoints is asked for that was not read yet.
    pub(super) async fn asked(&self) {
        self.tls.clients().asked().await;
    }

    /// Returns every file that is of interest.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let own: Vec<_> = self.lock().values().flat_map(|holding| files(&holding.spec)).collect();
        own.into_iter().chain(self.tls.clients().files()).collect()
    }

    /// Waits until other files are of interest.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
    }

    fn publish(&self, held: &State) {
        self.tls.set(held.iter().map(|(name, holding)| (name.clone(), holding.listener.clone())).collect());
        let (mut standings, mut refused) = (Vec::new(), Vec::new());
        for (name, holding) in held {
            // What is obtained renews itself, and is told of by who obtains it.
            let from_files = holding.certificates.list().into_iter().filter(|(source, _)| source.starts_with("file "));
            standings.extend(from_files.map(|(source, certificate)| Standing {
                listener: name.clone(),
                names: certificate.names().to_vec(),
                not_after_unix_s: certificate.not_after_unix_s(),
                source,
            }));
            refused.extend(holding.faults.values().map(|bad| refusal(&format!("listener {name}"), bad, true)));
        }
        let towards = self.tls.clients().bad_files();
        refused.extend(towards.iter().map(|(bad, stays)| refusal("endpoints", bad, *stays)));
        standings.sort_by(|a, b| (&a.listener, &a.source).cmp(&(&b.listener, &b.source)));
        refused.sort();
        refused.dedup();
        self.expiry.reset();
        for Standing { listener, source, names, not_after_unix_s, .. } in &standings {
            let name = names.first().map_or("", |name| name);
            self.expiry.with_label_values(&[&**listener, name, &**source]).set(*not_after_unix_s);
        }
        self.refused_files.reset();
        for RefusedFile { owner, file, .. } in &refused {
            self.refused_files.with_label_values(&[&**owner, &**file]).set(1);
        }
        self.refused.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
        self.report.set(standings, refused);
        self.warn();
    }

    /// Says what ends soon, once for each look.
    fn warn(&self) {
        let now = unix_s();
        for standing in self.report.standings().iter().filter(|standing| standing.not_after_unix_s < now + SOON_S) {
            let Standing { listener, source, not_after_unix_s, .. } = standing;
            let days = (not_after_unix_s - now) / 86_400;
            tracing::warn!(%listener, certificate = %source, days, "the certificate ends soon, or has ended");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    fn read((name, spec): (&str, &Arc<TlsSpec>), known: Option<&Self>, ring: &Keyring) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let certificates =
            known.map_or_else(|| Certificates::new(ring.challenges.clone()), |known| known.certificates.clone());
        let mut pairs = HashMap::new();
        let mut fresh = Vec::new();
        for (i, files) in spec.certificates.iter().enumerate() {
            let at = KeyPath::default().key("tls.certificates").index(i);
            match read::pair(files) {
                Ok((hash, certificate)) => {
                    pairs.insert(source(files), hash);
                    fresh.push((source(files).into(), Arc::new(certificate)));
                }
                Err((key, bad)) => faults.push((at.key(key), bad.to_string(), bad.hint.to_owned())),
            }
        }
        let (policy, clients) = match read::policy(spec) {
            Ok(read) => read,
            Err((key, bad)) => {
                faults.push((KeyPath::default().key(key), bad.to_string(), bad.hint.to_owned()));
                (0, ClientPolicy::default())
            }
        };
        let terms = |spec: &TlsSpec| (spec.minimum_version, spec.ticket_rotation);
        let same = known.filter(|known| known.policy == policy && terms(&known.spec) == terms(spec));
        let server = match same {
            Some(known) => Ok(known.listener.server().clone()),
            None if faults.is_empty() => server(&certificates, (name, spec), (policy, clients), &ring.book),
            None => return Err(faults),
        };
        let server = server.map_err(|error| {
            vec![(KeyPath::default().key("tls"), error.to_string(), "put the right files there".to_owned())]
        })?;
        if !faults.is_empty() {
            return Err(faults);
        }
        let listener = Arc::new(TlsListener::new(server, certificates.clone(), spec.hsts));
        let (spec, book, faults) = (spec.clone(), ring.book.clone(), HashMap::new());
        Ok(Self { spec, certificates, book, listener, fresh, pairs, policy, faults })
    }

    fn refresh(&mut self, name: &str) {
        for files in &self.spec.certificates {
            let source = source(files);
            let taken = read::pair(files).map_err(|(_, bad)| bad).and_then(|(hash, certificate)| {
                if self.pairs.get(&source) == Some(&hash) {
                    return Ok(None);
                }
                check::timely(&files.certificate, &certificate)?;
                Ok(Some((hash, certificate)))
            });
            match taken {
                Ok(taken) => {
                    self.faults.remove(&source);
                    let Some((hash, certificate)) = taken else { continue };
                    tracing::info!(listener = name, certificate = source, names = ?certificate.names(), "new certificate");
                    self.certificates.put(&source, Arc::new(certificate));
                    self.pairs.insert(source, hash);
                }
                Err(bad) if self.faults.get(&source) == Some(&bad) => {}
                Err(bad) => {
                    tracing::warn!(listener = name, certificate = source, problem = %bad, "the certificate before stays");
                    self.faults.insert(source, bad);
                }
            }
        }
        self.refresh_policy(name);
    }

    fn refresh_policy(&mut self, name: &str) {
        let policy = read::policy(&self.spec).map_err(|(_, bad)| bad).and_then(|(hash, clients)| {
            if hash == self.policy {
                return Ok(None);
            }
            let server = server(&self.certificates, (name, &self.spec), (hash, clients), &self.book);
            let unfit = |error| {
                let path = self.spec.client_ca.clone().unwrap_or_default();
                BadFile::new(&path, error, "put the right files there")
            };
            server.map(|server| Some((hash, server))).map_err(unfit)
        });
        match policy {
            Ok(taken) => {
                self.faults.remove(POLICY);
                let Some((hash, server)) = taken else { return };
                tracing::info!(listener = name, "new authorities of clients or lists of revoked certificates");
                self.policy = hash;
                let listener = TlsListener::new(server, self.certificates.clone(), self.spec.hsts);
                self.listener = Arc::new(listener);
            }
            Err(bad) if self.faults.get(POLICY) == Some(&bad) => {}
            Err(bad) => {
                tracing::warn!(listener = name, problem = %bad, "the authorities of clients before stay");
                self.faults.insert(POLICY.to_owned(), bad);
            }
        }
    }
}

fn refusal(owner: &str, bad: &BadFile, stays: bool) -> RefusedFile {
    RefusedFile {
        owner: owner.into(),
        file: bad.file.display().to_string().into(),
        problem: bad.problem.clone(),
        hint: bad.hint,
        stays,
    }
}

fn source(files: &CertificateFiles) -> String {
    format!("file {}", files.certificate.display())
}

fn files(spec: &TlsSpec) -> impl Iterator<Item = PathBuf> {
    let pairs = spec.certificates.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
    pairs.chain(spec.client_ca.clone()).chain(spec.client_crl.clone())
}

/// Makes what handshakes are done with. Tickets are bound to the listener and to what its clients are checked against.
fn server(
    certificates: &Certificates,
    (name, spec): (&str, &TlsSpec),
    (policy, clients): (u64, ClientPolicy),
    book: &Book,
) -> Result<Server, ServerError> {
    let TlsSpec { minimum_version, ticket_rotation, .. } = *spec;
    let tickets = book.tickets(&format!("{minimum_version:?} {policy:016x} {name}"), ticket_rotation)?;
    let protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Server::new(Arc::new(certificates.clone()), &ServerOptions { minimum_version, clients, tickets, protocols })
}

fn unix_s() -> i64 {
    i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX)
}
