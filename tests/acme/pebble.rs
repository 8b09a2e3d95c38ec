//! pebble, an ACME authority for tests, with names that all lead to this machine.

use crate::support::process::{Folder, free_address};
use rcgen::{CertificateParams, KeyPair};
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A running pebble; it and its name server end with this.
pub(crate) struct Pebble {
    pub(crate) address: SocketAddr,
    /// The file of the certificate that it shows itself, which is its own root.
    pub(crate) own_root: String,
    management: SocketAddr,
    folder: Folder,
    _pebble: Child,
    _names: Child,
}

impl Pebble {
    /// Starts it; it looks for names at these addresses.
    pub(crate) async fn start(http: u16, https: u16) -> Self {
        Self::with_keys(http, https, &[]).await
    }

    /// As [`Self::start`]; with any keys, an account must be bound to one: its name and itself, base64url.
    pub(crate) async fn with_keys(http: u16, https: u16, keys: &[(&str, &str)]) -> Self {
        let keys: HashMap<&str, &str> = keys.iter().copied().collect();
        let folder = Folder::new("pebble");
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let certificate = folder.write("own.pem", &own.pem());
        let key = folder.write("own.key", &key.serialize_pem());
        let (address, management) = (free_address(), free_address());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": certificate, "privateKey": key,
            "httpPort": http, "tlsPort": https,
            "ocspResponderURL": "", "externalAccountBindingRequired": !keys.is_empty(), "externalAccountMACKeys": keys,
        }});
        let config = folder.write("pebble.json", &config.to_string());
        let dns = free_address();
        let log = || fs::OpenOptions::new().create(true).append(true).open(folder.0.join("log")).unwrap();
        let names = Command::new("pebble-challtestsrv")
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
            .args(["-defaultIPv4", "127.0.0.1", "-dns01", &dns.to_string()])
            .args(["-management", &free_address().to_string()])
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .kill_on_drop(true)
            .spawn()
            .expect("pebble-challtestsrv; apt-get install pebble");
        let pebble = Command::new("pebble")
            .args(["-config", config.to_str().unwrap(), "-dnsserver", &dns.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .env("PEBBLE_AUTHZREUSE", "0")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .kill_on_drop(true)
            .spawn()
            .expect("pebble; apt-get install pebble");
        let own_root = certificate.display().to_string();
        let started = Self { address, own_root, management, folder, _pebble: pebble, _names: names };
        crate::support::eventually("pebble", crate::WAIT, || async {
            tokio::net::TcpStream::connect(started.management).await.ok()
        })
        .await;
        started
    }

    /// Returns the URL of its directory.
    pub(crate) fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// Returns the root that it issues from.
    pub(crate) async fn root(&self) -> String {
        let url = format!("https://{}/roots/0", self.management);
        let curl = Command::new("curl").args(["-sS", "--max-time", "10", "--cacert", &self.own_root, &url]).output();
        let output = tokio::time::timeout(Duration::from_secs(20), curl).await.unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Returns what it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.0.join("log")).unwrap_or_default()
    }
}
