//! What is read from files of the system, and read again when they have changed: names of hosts, and resolvers.
//!
//! Looked at by the question that comes a second after the last look: a server that nobody asks looks at nothing, and what
//! is mounted, linked or replaced is found whatever a watch would have heard of it.

use crate::dns::forward::hosts::Hosts;
use crate::dns::forward::zones::{Making, Zones, nameservers};
use crate::dns::options::{ForwardOptions, ServerOptions};
use crate::model::UpstreamTlsSpec;
use crate::net::tls::build_client;
use arc_swap::{ArcSwap, Guard};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Time between two looks.
const LOOK_MS: u64 = 1000;
/// Largest file that is read: some 20,000 names.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Files and what they say.
pub(crate) struct Files {
    own: Vec<SocketAddr>,
    tls: rustls::ClientConfig,
    hosts: ArcSwap<Hosts>,
    zones: ArcSwap<Zones>,
    looked_ms: AtomicU64,
    seen: Mutex<Seen>,
}

/// What the files looked like when they were read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    hosts: Look,
    system: Look,
}

type Look = Option<(u64, SystemTime)>;

impl Files {
    /// Reads the files of the options.
    pub(crate) fn new(options: &ForwardOptions, own: &[SocketAddr]) -> Self {
        let tls = tls(options);
        let seen = Seen {
            hosts: options.hosts.as_deref().and_then(look),
            system: uses_system(options).then(|| look(&options.system_file)).flatten(),
        };
        let zones = zones(options, own, &tls, None);
        let hosts = ArcSwap::from_pointee(hosts(options.hosts.as_deref()));
        let looked_ms = AtomicU64::new(0);
        Self { own: own.to_vec(), tls, hosts, zones: ArcSwap::from_pointee(zones), looked_ms, seen: Mutex::new(seen) }
    }

    /// Returns whether it is time to look again.
    pub(crate) fn are_due(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.looked_ms.load(Ordering::Relaxed)) >= LOOK_MS
    }

    /// Looks whether files have changed, and reads those that have. Only the thread `dns-slow` does.
    pub(crate) fn check(&self, now_ms: u64, options: &ForwardOptions) {
        if !self.are_due(now_ms) {
            return;
        }
        self.looked_ms.store(now_ms, Ordering::Relaxed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = options.hosts.as_deref().and_then(look);
        if found != seen.hosts {
            seen.hosts = found;
            self.hosts.store(Arc::new(hosts(options.hosts.as_deref())));
            tracing::info!(file = ?options.hosts, "read the names of hosts again");
        }
        if !uses_system(options) {
            return;
        }
        let found = look(&options.system_file);
        if found != seen.system {
            seen.system = found;
            let before = self.zones.load();
            self.zones.store(Arc::new(zones(options, &self.own, &self.tls, Some(&before))));
            tracing::info!(file = %options.system_file.display(), "read the system's resolvers again");
        }
    }

    /// Returns the names of hosts.
    pub(crate) fn hosts(&self) -> Guard<Arc<Hosts>> {
        self.hosts.load()
    }

    /// Returns the resolvers.
    pub(crate) fn zones(&self) -> Arc<Zones> {
        self.zones.load_full()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("zones", &self.zones).field("seen", &self.seen).finish_non_exhaustive()
    }
}

fn uses_system(options: &ForwardOptions) -> bool {
    let mut lists = options.zones.iter().map(|zone| &zone.servers).chain([&options.servers]);
    lists.any(|servers| servers.contains(&ServerOptions::System))
}

fn zones(options: &ForwardOptions, own: &[SocketAddr], tls: &rustls::ClientConfig, before: Option<&Zones>) -> Zones {
    let text = uses_system(options).then(|| read(&options.system_file)).flatten();
    let system = text.map_or_else(Vec::new, |text| nameservers(&text));
    Zones::new(Making { options, own, tls, system: &system }, before)
}

fn hosts(path: Option<&Path>) -> Hosts {
    path.and_then(read).map_or_else(Hosts::default, |text| Hosts::read(&text))
}

fn read(path: &Path) -> Option<String> {
    let length = std::fs::metadata(path).ok()?.len();
    if length > MAX_FILE_BYTES {
        tracing::warn!(file = %path.display(), "has more than {MAX_FILE_BYTES} octets; it is not read");
        return None;
    }
    let read =
        std::fs::read(path).inspect_err(|error| tracing::warn!(file = %path.display(), %error, "cannot be read"));
    Some(String::from_utf8_lossy(&read.ok()?).into_owned())
}

fn look(path: &Path) -> Look {
    let found = std::fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok()?))
}

/// Makes what resolvers are spoken to with in TLS. Without usable authorities none of them is believed.
fn tls(options: &ForwardOptions) -> rustls::ClientConfig {
    let spec = |ca: Option<PathBuf>| UpstreamTlsSpec { ca, ..UpstreamTlsSpec::default() };
    let mut config = build_client(&spec(options.ca.clone())).unwrap_or_else(|(_, error)| {
        if encrypts(options) {
            tracing::error!(%error, "resolvers in TLS cannot be asked: there are no authorities to check them against");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(rustls::ALL_VERSIONS);
        #[expect(clippy::expect_used, reason = "the provider has both versions")]
        let builder = builder.expect("TLS 1.2 and 1.3");
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    });
    // Told by each protocol itself.
    config.alpn_protocols.clear();
    config
}

fn encrypts(options: &ForwardOptions) -> bool {
    let mut lists = options.zones.iter().map(|zone| &zone.servers).chain([&options.servers]);
    let encrypted = |server: &ServerOptions| matches!(server, ServerOptions::Tls { .. } | ServerOptions::Https { .. });
    lists.any(|servers| servers.iter().any(encrypted))
}
