//! Typed options of the control plane.

use crate::model::{AcmeDirectory, Challenge, NodeId, OnExit, ServiceName, UpstreamTlsSpec};
use crate::net::tls::{BadFile, files};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Options of the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// This machine's name.
    pub node: Option<NodeId>,
    /// Directory of state: logs of replicas, the admin socket.
    pub state: PathBuf,
    /// Ports handed to processes.
    pub port_range: RangeInclusive<u16>,
    /// What becomes of replicas when Weir ends.
    pub on_exit: OnExit,
    /// Publishes follow each other at least this far apart; removals are never delayed.
    pub publish_interval: Duration,
    /// Lease of a registration that names none.
    pub default_lease: Duration,
    /// An expired or gone instance is listed for this long.
    pub gone_listed: Duration,
    /// Checks in flight at a time.
    pub max_probes: usize,
    /// How containers are run.
    pub docker: DockerOptions,
    /// Where certificates are ordered; `None`: nowhere.
    pub acme: Option<AcmeOptions>,
    /// Where the table comes from beside the configuration; `None`: nowhere.
    pub sources: Option<SourceOptions>,
    /// Range of which each service gets an address of its own: network and prefix length. `None`: services have none.
    pub service_addresses: Option<(Ipv4Addr, u8)>,
}

/// Options of certificates from an ACME authority (RFC 8555).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeOptions {
    /// The authority.
    pub directory: AcmeDirectory,
    /// File of the root that the authority's own certificate is from, PEM; `None`: as the system trusts.
    pub directory_ca: Option<PathBuf>,
    /// Where the authority may write to.
    pub email: Option<String>,
    /// What binds the account to one that there is with the authority already.
    pub binding: Option<AccountBindingOptions>,
    /// How it sees that a name leads here; after a failure the next one is tried.
    pub challenges: Vec<Challenge>,
    /// URL that is asked whether a certificate may be ordered for a name that no configuration lists: answered with 200
    /// where it may. `None`: for none.
    pub on_demand_ask: Option<String>,
    /// Orders for such names within any hour.
    pub on_demand_per_hour: usize,
}

/// What binds an ACME account to an account with the authority (RFC 8555 §7.3.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountBindingOptions {
    /// What the authority calls its key.
    pub key_id: String,
    /// File of the key, base64url.
    pub key_file: PathBuf,
}

impl AccountBindingOptions {
    /// Reads the key.
    ///
    /// # Errors
    /// [`BadFile`].
    pub fn key(&self) -> Result<Vec<u8>, BadFile> {
        let text = files::read(&self.key_file)?;
        let hint = "write the key as the authority gave it out, base64url, and nothing else";
        match base64url(text.trim_ascii()) {
            None => Err(BadFile::new(&self.key_file, "is no base64url", hint)),
            Some(key) if key.is_empty() => Err(BadFile::new(&self.key_file, "is empty", hint)),
            Some(key) => Ok(key),
        }
    }
}

/// Decodes base64url (RFC 4648 §5), padded or not; the digits of plain base64 are taken too.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    let mut octets = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0u32);
    for digit in text {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        (bits, count) = ((bits << 6) | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            octets.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // What is left over is less than a digit and zero.
    (count < 6 && bits == 0).then_some(octets)
}

/// Where the table comes from, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceOptions {
    /// Other Weirs.
    pub places: Vec<PlaceOptions>,
    /// A file of a table; after all Weirs.
    pub file: Option<PathBuf>,
    /// What this Weir is called there, one DNS label; `None`: after its node, machine and state directory.
    pub name: Option<String>,
    /// What runs beside this Weir and is told there.
    pub announce: Vec<AnnounceOptions>,
}

/// A workload that another Weir is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceOptions {
    /// The service that it is an instance of.
    pub service: ServiceName,
    /// Where it is reached.
    pub address: SocketAddr,
    /// What is asked by HTTP to see whether it answers; `None`: one connection is made.
    pub path: Option<String>,
}

/// Where another Weir is, and how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceOptions {
    /// `HOST:PORT`, or `unix:PATH`.
    pub address: String,
    /// File of the token; read at each connection. `None`: the other one asks for none.
    pub token_file: Option<PathBuf>,
    /// How it speaks TLS; `None`: in clear text.
    pub tls: Option<Arc<UpstreamTlsSpec>>,
}

impl PlaceOptions {
    /// Returns whether it is on this machine for sure.
    pub fn is_local(&self) -> bool {
        let host = self.host();
        self.address.starts_with("unix:")
            || host == "localhost"
            || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }

    /// Returns the host.
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl Default for AcmeOptions {
    fn default() -> Self {
        Self {
            directory: AcmeDirectory::default(),
            directory_ca: None,
            email: None,
            binding: None,
            challenges: vec![Challenge::Http01, Challenge::TlsAlpn01],
            on_demand_ask: None,
            on_demand_per_hour: 60,
        }
    }
}

/// Options of the Docker runtime; it connects when the first service names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// The network of containers that name none.
    pub network: String,
    /// Time after which the engine is held to be stuck.
    pub call_timeout: Duration,
    /// Folders of the machine that containers may be given; nothing else.
    pub binds: Vec<PathBuf>,
    /// The zone of the names that containers ask Weir for, at the gateway of their network; `None`: they ask others.
    pub zone: Option<String>,
    /// Resolvers that containers ask when Weir does not answer.
    pub dns: Vec<IpAddr>,
}

impl DockerOptions {
    /// Returns whether a container may see this path of the machine.
    pub fn allows(&self, path: &Path) -> bool {
        self.binds.iter().any(|folder| path.starts_with(folder))
    }
}

impl Default for DockerOptions {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/var/run/docker.sock"),
            network: "weir".to_owned(),
            call_timeout: Duration::from_secs(10),
            binds: Vec::new(),
            zone: None,
            dns: Vec::new(),
        }
    }
}

impl Options {
    /// Returns this machine's name, `local` when none is set.
    #[expect(clippy::expect_used, reason = "a literal that is one DNS label")]
    pub fn node_id(&self) -> NodeId {
        self.node.clone().unwrap_or_else(|| NodeId::parse("local").expect("`local` is a label"))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            node: None,
            state: PathBuf::from("/var/lib/weir"),
            port_range: 20_000..=29_999,
            on_exit: OnExit::default(),
            publish_interval: Duration::from_millis(5),
            default_lease: Duration::from_secs(30),
            gone_listed: Duration::from_secs(60),
            max_probes: 256,
            docker: DockerOptions::default(),
            acme: None,
            sources: None,
            service_addresses: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base64url;

    #[test]
    fn decodes_base64url_as_the_rfc_does() {
        for (text, octets) in
            [("", ""), ("Zg", "f"), ("Zg==", "f"), ("Zm8", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar")]
        {
            assert_eq!(base64url(text.as_bytes()).as_deref(), Some(octets.as_bytes()), "{text}");
        }
        assert_eq!(base64url(b"-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(base64url(b"+/8="), Some(vec![0xfb, 0xff]));
        for text in ["Z", "Zm9vY", "Zh", "Zm 8", "Zm8!", "Z=g", "==="] {
            assert_eq!(base64url(text.as_bytes()), None, "{text}");
        }
    }
}
