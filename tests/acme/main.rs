#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]
//! Certificates that Weir obtains, from outside: pebble as the authority, Weir as a process, curl and rustls as clients.

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod internal;
mod on_demand;
mod orders;
mod pebble;
mod proxy;

use pebble::Pebble;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use support::backend::answering;
pub(crate) use support::secure::World;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Longest wait for anything that is not about time.
pub(crate) const WAIT: Duration = Duration::from_secs(30);

impl World {
    /// Starts it; `acme` stands in `[acme]` beside the directory, `tls` in `[listener.tls]`. The authority looks for names at
    /// the addresses of this Weir.
    pub(crate) async fn start(name: &str, directory: Option<(&str, &str)>, acme: &str, tls: &str) -> Self {
        let authority = directory.map_or_else(String::new, |(url, root)| {
            format!("[acme]\ndirectory = \"{url}\"\ndirectory_ca = \"{root}\"\nterms_agreed = true\n{acme}\n\n")
        });
        Self::around(name, answering("fine"), (&authority, tls, "")).await
    }

    /// Returns what `weir certificates` says of a name.
    pub(crate) async fn certificate(&self, name: &str) -> serde_json::Value {
        let finished = self.weir.cli(&["certificates", "-o", "json"]).await;
        assert_eq!(finished.code, 0, "{finished:?}\n{}", self.weir.log());
        let value: serde_json::Value = serde_json::from_str(&finished.out).unwrap();
        let list = value["certificates"].as_array().cloned().unwrap_or_default();
        list.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    }

    /// Waits until there is a certificate for a name that this root has issued, and returns it as it is shown.
    pub(crate) async fn shown(&self, name: &str, root: &str) -> Vec<u8> {
        let what = format!("a certificate for {name}");
        let found = tokio::time::timeout(WAIT, async {
            loop {
                if let Ok(leaf) = leaf(self.https, name, root).await {
                    return leaf;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("not within {WAIT:?}: {what}\n{}", self.weir.log()))
    }

    /// Waits until a certificate differs from the one before.
    pub(crate) async fn renewed(&self, name: &str, root: &str, before: &[u8]) -> Vec<u8> {
        let found = tokio::time::timeout(WAIT, async {
            loop {
                let leaf = self.shown(name, root).await;
                if leaf != before {
                    return leaf;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("not renewed within {WAIT:?}\n{}", self.weir.log()))
    }
}

/// Connects by TLS to a name; only what this root has issued is trusted.
pub(crate) async fn connect(at: SocketAddr, name: &str, root: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(root.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(at).await?).await
}

/// Returns the certificate that is shown for a name.
pub(crate) async fn leaf(at: SocketAddr, name: &str, root: &str) -> std::io::Result<Vec<u8>> {
    let stream = connect(at, name, root).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

/// Asks by curl, which trusts only this root; returns the body.
pub(crate) async fn curl(world: &World, name: &str, root: &str) -> String {
    let file = world.weir.folder.write("root.pem", root);
    let port = world.https.port();
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--cacert"])
        .arg(&file)
        .args(["--resolve", &format!("{name}:{port}:127.0.0.1"), &format!("https://{name}:{port}/")])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
