//! `[dns.tls]`: the section, its meaning, and the way back.

use crate::dns::TlsOptions;
use crate::spec::{Address, CertificateFiles, KeyPath, ListenerTls, Problem, Problems, TlsVersion};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

/// The port of DNS over TLS where none is named: RFC 7858 has 853, which needs a privilege.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8853);

/// DNS over TLS and over HTTPS; without this section there is neither.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsTls {
    /// Addresses for DNS over TLS (RFC 7858); default `["127.0.0.1:8853"]`, `[]` for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<Address>>,
    /// Addresses for DNS over HTTPS (RFC 8484), at the path `/dns-query`, by HTTP/2 and HTTP/1.1; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<Vec<Address>>,
    /// Its certificates; the first is for clients that name no host, or one that no certificate is for. They are read again
    /// when the files change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(required)]
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that it speaks; default `1.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<TlsVersion>,
}

/// Reads the section; the result counts only when nothing was recorded.
pub(super) fn read(p: &mut Problems, section: &DnsTls) -> TlsOptions {
    let list = |list: &Option<Vec<Address>>| list.as_ref().map(|list| list.iter().map(|a| a.get()).collect::<Vec<_>>());
    let (listen, https) =
        (list(&section.listen).unwrap_or_else(|| vec![DEFAULT]), list(&section.https).unwrap_or_default());
    if listen.is_empty() && https.is_empty() {
        p.unknown("dns.tls.listen", "is empty, and so is https", "write an address, or remove [dns.tls]");
    }
    let tls = ListenerTls {
        certificates: section.certificates.clone(),
        minimum_version: section.minimum_version,
        ..ListenerTls::default()
    };
    let mut inner = Problems::new();
    let spec = tls.read(&mut inner);
    if section.certificates.is_empty() {
        let hint = "add certificates = [{ certificate = \"dns.pem\", key = \"dns.key\" }]";
        p.absent("dns.tls.certificates", hint);
    } else {
        let root = KeyPath::default().key("dns");
        p.extend(inner.into_vec().into_iter().map(|found| Problem { key: root.join(&found.key), ..found }).collect());
    }
    TlsOptions { listen, https, spec: Arc::new(spec) }
}

/// Writes the section that says the same.
pub(super) fn write(options: &TlsOptions) -> DnsTls {
    let list = |list: &[SocketAddr]| Some(list.iter().map(|address| Address::new(*address)).collect());
    let ListenerTls { certificates, minimum_version, .. } = ListenerTls::from_model(&options.spec);
    DnsTls { listen: list(&options.listen), https: list(&options.https), certificates, minimum_version }
}
