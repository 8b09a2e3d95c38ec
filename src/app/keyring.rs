//! Files of certificates and keys → what listeners show; read again when they change.
//!
//! A file counts when its content differs. What cannot be used (half-written, of another key, expired, unreadable) changes
//! nothing: the certificate before stays, and the problem is named in the log, in metrics and in `weir status` until it is
//! over. Tickets outlive a change of certificates; a change of the client policy ends them. Next on the path:
//! `proxy/tls.rs`.

use crate::clock;
use crate::model::{CertificateFiles, ClientCertificate, ListenerSpec, TlsSpec};
use crate::net::tls::{ClientPolicy, Server, ServerOptions};
use crate::proxy::{Tls, TlsListener};
use crate::spec::{Key, KeyPath};
use crate::table::certificates::{Certificate, Certificates, Challenges, Report, SOON_S, Standing};
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64;

/// Largest file that is read, in octets: a bundle of all public authorities has a quarter of it.
const MAX_FILE_OCTETS: u64 = 1024 * 1024;
/// What is spoken inside, the preferred first.
const PROTOCOLS: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Something wrong with what a listener names: the key inside its definition, what is wrong, what to do.
type Fault = (KeyPath, String, String);

/// The certificates of all listeners and whence they come; a cheap handle.
#[derive(Debug, Clone)]
pub struct Keyring {
    tls: Tls,
    challenges: Challenges,
    report: Report,
    expiry: IntGaugeVec,
    refused: IntGauge,
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
    listener: Arc<TlsListener>,
    /// What was read and is not in use yet, in order.
    fresh: Vec<(Arc<str>, Arc<Certificate>)>,
    /// Hash of each pair of files in use, by its source.
    pairs: HashMap<String, u64>,
    /// Hash of the files of the client policy.
    policy: u64,
    /// What is wrong with files now, by source.
    faults: HashMap<String, String>,
}

/// How listeners will speak TLS, read and ready.
#[derive(Debug)]
pub struct Prepared(State);

impl Keyring {
    /// Makes one that holds nothing yet.
    ///
    /// # Errors
    /// Never with the names of its metrics; the exposition's library checks them.
    pub fn new(tls: Tls) -> prometheus::Result<Self> {
        let expiry =
            Opts::new("weir_certificate_expiry_seconds", "The end of each certificate in use, seconds since 1970.");
        let refused = "Certificates whose files changed to what cannot be used, so that the ones before stay.";
        Ok(Self {
            tls,
            challenges: Challenges::default(),
            report: Report::default(),
            expiry: IntGaugeVec::new(expiry, &["listener", "name", "source"])?,
            refused: IntGauge::new("weir_certificates_refused", refused)?,
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
            match Holding::read(spec, known, &self.challenges) {
                Ok(holding) => drop(state.insert(listener.name.clone(), holding)),
                Err(found) => {
                    let at = KeyPath::new(vec![Key::Name("listener".to_owned()), Key::Index(i)]);
                    faults.extend(found.into_iter().map(|(key, message, hint)| (at.join(&key), message, hint)));
                }
            }
        }
        if faults.is_empty() { Ok(Prepared(state)) } else { Err(faults) }
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
        held.retain(|name, _| listeners.iter().any(|listener| listener.name == *name && listener.tls.is_some()));
        self.publish(&held);
        self.moved.notify_one();
    }

    /// Reads every file again and takes up what changed and can be used.
    pub(super) fn refresh(&self) {
        let mut held = self.lock();
        for (name, holding) in held.iter_mut() {
            holding.refresh(name);
        }
        self.publish(&held);
        drop(held);
        self.tls.clients().refresh();
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
        let mut standings = Vec::new();
        for (name, holding) in held {
            // What is obtained renews itself, and is told of by who obtains it.
            let from_files = holding.certificates.list().into_iter().filter(|(source, _)| source.starts_with("file "));
            standings.extend(from_files.map(|(source, certificate)| Standing {
                listener: name.clone(),
                names: certificate.names().to_vec(),
                not_after_unix_s: certificate.not_after_unix_s(),
                problem: holding.faults.get(&*source).cloned(),
                source,
            }));
        }
        standings.sort_by(|a, b| (&a.listener, &a.source).cmp(&(&b.listener, &b.source)));
        self.expiry.reset();
        for Standing { listener, source, names, not_after_unix_s, .. } in &standings {
            let name = names.first().map_or("", |name| name);
            self.expiry.with_label_values(&[&**listener, name, &**source]).set(*not_after_unix_s);
        }
        let refused = standings.iter().filter(|standing| standing.problem.is_some()).count();
        self.refused.set(i64::try_from(refused).unwrap_or(i64::MAX));
        self.report.set(standings);
        self.warn();
    }

    /// Says what ends soon, once for each look.
    fn warn(&self) {
        let now = unix_s();
        for standing in self.report.list().iter().filter(|standing| standing.not_after_unix_s < now + SOON_S) {
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
    fn read(spec: &Arc<TlsSpec>, known: Option<&Self>, challenges: &Challenges) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let certificates =
            known.map_or_else(|| Certificates::new(challenges.clone()), |known| known.certificates.clone());
        let mut pairs = HashMap::new();
        let mut fresh = Vec::new();
        for (i, files) in spec.certificates.iter().enumerate() {
            let at = KeyPath::default().key("tls.certificates").index(i);
            match read_pair(files) {
                Ok((hash, certificate)) => {
                    pairs.insert(source(files), hash);
                    fresh.push((source(files).into(), Arc::new(certificate)));
                }
                Err((key, problem)) => faults.push((at.key(key), problem, "put the right file there".to_owned())),
            }
        }
        let (policy, clients) = match read_policy(spec) {
            Ok(read) => read,
            Err((key, problem)) => {
                faults.push((KeyPath::default().key(key), problem, "put the right file there".to_owned()));
                (0, ClientPolicy::default())
            }
        };
        let same = known.filter(|known| known.policy == policy && known.spec.minimum_version == spec.minimum_version);
        let server = match same {
            Some(known) => Ok(known.listener.server().clone()),
            None if faults.is_empty() => Server::new(Arc::new(certificates.clone()), &options(spec, clients)),
            None => return Err(faults),
        };
        let server = server.map_err(|error| {
            vec![(KeyPath::default().key("tls"), error.to_string(), "put the right files there".to_owned())]
        })?;
        if !faults.is_empty() {
            return Err(faults);
        }
        let listener = Arc::new(TlsListener::new(server, certificates.clone(), spec.hsts));
        Ok(Self { spec: spec.clone(), certificates, listener, fresh, pairs, policy, faults: HashMap::new() })
    }

    fn refresh(&mut self, name: &str) {
        let now = unix_s();
        for files in &self.spec.certificates {
            let source = source(files);
            let taken = read_pair(files).map_err(|(_, problem)| problem).and_then(|(hash, certificate)| {
                if self.pairs.get(&source) == Some(&hash) {
                    return Ok(None);
                }
                if !certificate.is_valid_at(now) {
                    return Err("it has expired or is not valid yet".to_owned());
                }
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
                Err(problem) => {
                    if self.faults.get(&source) != Some(&problem) {
                        tracing::warn!(listener = name, certificate = source, %problem, "the certificate before stays");
                        self.faults.insert(source, problem);
                    }
                }
            }
        }
        self.refresh_policy(name);
    }

    fn refresh_policy(&mut self, name: &str) {
        let read = read_policy(&self.spec).map_err(|(_, problem)| problem);
        let policy = read.and_then(|(hash, clients)| {
            if hash == self.policy {
                return Ok(None);
            }
            let server = Server::new(Arc::new(self.certificates.clone()), &options(&self.spec, clients));
            server.map(|server| Some((hash, server))).map_err(|error| error.to_string())
        });
        match policy {
            Ok(None) => {}
            Ok(Some((hash, server))) => {
                tracing::info!(listener = name, "new authorities of clients or lists of revoked certificates");
                self.policy = hash;
                let listener = TlsListener::new(server, self.certificates.clone(), self.spec.hsts);
                self.listener = Arc::new(listener);
            }
            Err(problem) => {
                tracing::warn!(listener = name, %problem, "the authorities of clients before stay");
            }
        }
    }
}

fn source(files: &CertificateFiles) -> String {
    format!("file {}", files.certificate.display())
}

fn files(spec: &TlsSpec) -> impl Iterator<Item = PathBuf> {
    let pairs = spec.certificates.iter().flat_map(|files| [files.certificate.clone(), files.key.clone()]);
    pairs.chain(spec.client_ca.clone()).chain(spec.client_crl.clone())
}

fn options(spec: &TlsSpec, clients: ClientPolicy) -> ServerOptions {
    let protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    ServerOptions { minimum_version: spec.minimum_version, clients, protocols }
}

/// Reads a certificate with its key; the error comes with the key of the file that is at fault.
fn read_pair(files: &CertificateFiles) -> Result<(u64, Certificate), (&'static str, String)> {
    let chain = read(&files.certificate).map_err(|problem| ("certificate", problem))?;
    let key = read(&files.key).map_err(|problem| ("key", problem))?;
    let hash = xxh3_64(&chain) ^ xxh3_64(&key).rotate_left(1);
    use crate::table::certificates::CertificateError as E;
    let certificate = Certificate::from_pem(&chain, &key).map_err(|error| match error {
        E::NoKey | E::BadKey(_) | E::Mismatch => ("key", format!("{}: {error}", files.key.display())),
        E::NoCertificate | E::BadCertificate(_) => ("certificate", format!("{}: {error}", files.certificate.display())),
    })?;
    Ok((hash, certificate))
}

fn read_policy(spec: &TlsSpec) -> Result<(u64, ClientPolicy), (&'static str, String)> {
    let certificate = spec.client_certificate;
    if certificate == ClientCertificate::None {
        return Ok((0, ClientPolicy::default()));
    }
    let mut hash = 1 + certificate as u64;
    let mut policy = ClientPolicy { certificate, ..ClientPolicy::default() };
    if let Some(path) = &spec.client_ca {
        let bundle = read(path).map_err(|problem| ("tls.client_ca", problem))?;
        hash ^= xxh3_64(&bundle);
        policy.authorities = CertificateDer::pem_slice_iter(&bundle).collect::<Result<_, _>>().unwrap_or_default();
        if policy.authorities.is_empty() {
            return Err(("tls.client_ca", format!("{}: no certificate in it", path.display())));
        }
    }
    if let Some(path) = &spec.client_crl {
        let lists = read(path).map_err(|problem| ("tls.client_crl", problem))?;
        hash ^= xxh3_64(&lists).rotate_left(1);
        policy.revoked =
            CertificateRevocationListDer::pem_slice_iter(&lists).collect::<Result<_, _>>().unwrap_or_default();
        if policy.revoked.is_empty() {
            return Err(("tls.client_crl", format!("{}: no list of revoked certificates in it", path.display())));
        }
    }
    Ok((hash, policy))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let named = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let found = std::fs::metadata(path).map_err(|error| named(&error))?;
    if !found.is_file() {
        return Err(named(&"is no regular file"));
    }
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| named(&error))?;
    file.take(MAX_FILE_OCTETS + 1).read_to_end(&mut octets).map_err(|error| named(&error))?;
    if octets.len() as u64 > MAX_FILE_OCTETS {
        return Err(named(&"is larger than 1 MiB"));
    }
    Ok(octets)
}

fn unix_s() -> i64 {
    i64::try_from(clock::unix_ms() / 1000).unwrap_or(i64::MAX)
}

/// Returns what is wrong with the files that listeners name, expiry included, as `weir check` shows it.
pub fn check(listeners: &[ListenerSpec]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, listener) in listeners.iter().enumerate() {
        let Some(spec) = &listener.tls else { continue };
        let at = KeyPath::new(vec![Key::Name("listener".to_owned()), Key::Index(i)]);
        match Holding::read(spec, None, &Challenges::default()) {
            Err(found) => {
                faults.extend(found.into_iter().map(|(key, message, hint)| (at.join(&key), message, hint)));
            }
            Ok(holding) => {
                for (k, files) in spec.certificates.iter().enumerate() {
                    let read = holding.fresh.get(k);
                    if read.is_some_and(|(_, certificate)| !certificate.is_valid_at(unix_s())) {
                        let key = at.key("tls.certificates").index(k).key("certificate");
                        let message = format!("{}: has expired or is not valid yet", files.certificate.display());
                        faults.push((key, message, "renew it".to_owned()));
                    }
                }
            }
        }
    }
    faults
}
