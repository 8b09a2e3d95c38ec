//! The definition of TLS, towards clients and towards endpoints.

use crate::model;
use crate::spec::{Duration, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration as Time;
use utoipa::ToSchema;

/// Longest `hsts`: two years, what preload lists ask for, and some more.
const MAX_HSTS: Time = Time::from_secs(3 * 365 * 24 * 3600);

/// How long one key of tickets is in use: a key of every minute has hardly a ticket to take, and what tickets are taken for
/// stays secret only as long as their keys.
const TICKET_ROTATIONS: RangeInclusive<Time> = Time::from_secs(60)..=model::TlsSpec::TICKET_ROTATION;

/// How a listener speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ListenerTlsDefinition)]
pub struct ListenerTls {
    /// Its certificates; hosts are found by the names in them. The first is for clients that name no host, or one that no
    /// certificate is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateFiles>,
    /// Names that certificates are obtained for from the authority of `[acme]`, one each; no wildcards. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acme: Vec<String>,
    /// Names that the internal authority issues certificates for, one each, of a day; `weir certificates ca` prints whom
    /// clients have to trust. Default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub internal: Vec<String>,
    /// Whether a certificate is ordered when a client asks for a name that nobody listed and `acme.on_demand_ask` allows;
    /// the client waits as long as a handshake may take. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand: Option<bool>,
    /// The oldest version that it speaks; default `1.2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<TlsVersion>,
    /// Whether clients show a certificate; default `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// File of the authorities that clients' certificates are checked against, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// File of the lists of revoked certificates of those authorities, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<String>,
    /// How long sessions' tickets are made with one key, 1m to 6h; those of the key before are taken too. Default `6h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket_rotation: Option<Duration>,
    /// `max-age` of the field `Strict-Transport-Security` in every answer, up to 1095d; default `0s`: no such field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<Duration>,
}

/// A certificate and its key in files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CertificateFilesDefinition)]
pub struct CertificateFiles {
    /// PEM file of the chain, the server's own certificate first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub certificate: Option<String>,
    /// PEM file of the private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub key: Option<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// Whether a listener's clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    /// They are not asked.
    None,
    /// They are asked; one that is shown must be valid.
    Optional,
    /// Without a valid one there is no connection.
    Required,
}

/// How Weir speaks TLS to the endpoints of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ServiceTlsDefinition)]
pub struct ServiceTls {
    /// File of the authorities that certificates are checked against, PEM; default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name that certificates must be for; default the endpoint's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file of the certificate that Weir shows when asked for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether certificates are checked: `full`, or `off`, which lets anybody in between read and change everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
}

/// Whether certificates of endpoints are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Chain, validity and name.
    Full,
    /// Nothing.
    Off,
}

impl ListenerTls {
    /// Reads the section; the result counts only when nothing was recorded.
    pub(crate) fn read(&self, p: &mut Problems) -> model::TlsSpec {
        let certificates = (0..).zip(&self.certificates).filter_map(|(i, files)| {
            p.within("tls.certificates", i, |p| {
                let certificate = file(p, "certificate", files.certificate.as_deref());
                let key = file(p, "key", files.key.as_deref());
                Some(model::CertificateFiles { certificate: certificate?, key: key? })
            })
        });
        let certificates: Vec<_> = certificates.collect();
        let on_demand = self.on_demand.unwrap_or_default();
        if self.certificates.is_empty() && self.acme.is_empty() && self.internal.is_empty() && !on_demand {
            let hint =
                "add certificates = [{ certificate = \"a.pem\", key = \"a.key\" }], or names for acme or internal";
            p.absent("tls.certificates", hint);
        }
        let client_certificate = self.client_certificate.map_or_else(Default::default, Into::into);
        let is_asked = client_certificate != model::ClientCertificate::None;
        if is_asked && self.client_ca.is_none() {
            p.absent("tls.client_ca", "add the file of the authorities that clients' certificates are from");
        }
        // Whoever names authorities means them to count.
        if self.client_certificate.is_none() && (self.client_ca.is_some() || self.client_crl.is_some()) {
            let hint = "write \"required\" or \"optional\"; \"none\" asks no client for a certificate";
            p.absent("tls.client_certificate", hint);
        }
        let hsts = self.hsts.map_or(Time::ZERO, Duration::get);
        if hsts > MAX_HSTS || hsts.subsec_nanos() != 0 {
            p.add("tls.hsts", "is not in whole seconds up to 1095d", "write \"365d\", or \"0s\" for no such field");
        }
        let ticket_rotation = self.ticket_rotation.map_or(model::TlsSpec::TICKET_ROTATION, Duration::get);
        if !TICKET_ROTATIONS.contains(&ticket_rotation) || ticket_rotation.subsec_nanos() != 0 {
            p.add("tls.ticket_rotation", "is not in whole seconds from 1m to 6h", "write \"6h\", or less");
        }
        model::TlsSpec {
            certificates,
            acme: names(p, "tls.acme", &self.acme, true),
            internal: names(p, "tls.internal", &self.internal, false),
            on_demand,
            minimum_version: match self.minimum_version {
                None | Some(TlsVersion::V12) => model::TlsVersion::V12,
                Some(TlsVersion::V13) => model::TlsVersion::V13,
            },
            client_certificate,
            client_ca: optional_file(p, "tls.client_ca", self.client_ca.as_deref()),
            client_crl: optional_file(p, "tls.client_crl", self.client_crl.as_deref()),
            ticket_rotation,
            hsts,
        }
    }

    /// Writes the section of a listener in use.
    pub(crate) fn from_model(model: &model::TlsSpec) -> Self {
        let certificates = model
            .certificates
            .iter()
            .map(|files| CertificateFiles { certificate: Some(text(&files.certificate)), key: Some(text(&files.key)) });
        Self {
            certificates: certificates.collect(),
            acme: model.acme.iter().map(ToString::to_string).collect(),
            internal: model.internal.iter().map(ToString::to_string).collect(),
            on_demand: Some(model.on_demand),
            minimum_version: Some(match model.minimum_version {
                model::TlsVersion::V12 => TlsVersion::V12,
                model::TlsVersion::V13 => TlsVersion::V13,
            }),
            client_certificate: Some(match model.client_certificate {
                model::ClientCertificate::None => ClientCertificate::None,
                model::ClientCertificate::Optional => ClientCertificate::Optional,
                model::ClientCertificate::Required => ClientCertificate::Required,
            }),
            client_ca: model.client_ca.as_deref().map(text),
            client_crl: model.client_crl.as_deref().map(text),
            ticket_rotation: Some(model.ticket_rotation.into()),
            hsts: Some(model.hsts.into()),
        }
    }
}

impl ServiceTls {
    /// Reads the section; the result counts only when nothing was recorded.
    pub(super) fn read(&self, p: &mut Problems) -> model::UpstreamTlsSpec {
        let certificate = optional_file(p, "tls.certificate", self.certificate.as_deref());
        let key = optional_file(p, "tls.key", self.key.as_deref());
        match (&self.certificate, &self.key) {
            (Some(_), None) => p.absent("tls.key", "add the file of the certificate's private key"),
            (None, Some(_)) => p.absent("tls.certificate", "add the file of the key's certificate"),
            _ => {}
        }
        if self.server_name.as_deref().is_some_and(|name| !is_host(name)) {
            p.add("tls.server_name", "is no host name", "write a name such as \"api.internal\", or an IP address");
        }
        let verify = match self.verify {
            None | Some(Verify::Full) => model::Verify::Full,
            Some(Verify::Off) => model::Verify::Off,
        };
        if verify == model::Verify::Off && self.ca.is_some() {
            p.add("tls.ca", "is not used with verify = \"off\"", "remove one of the two");
        }
        model::UpstreamTlsSpec {
            ca: optional_file(p, "tls.ca", self.ca.as_deref()),
            authorities: None,
            server_name: self.server_name.as_deref().map(|name| name.to_ascii_lowercase().into()),
            certificate: certificate.zip(key).map(|(certificate, key)| model::CertificateFiles { certificate, key }),
            verify,
        }
    }

    /// Writes the section of a service in use.
    pub(super) fn from_model(model: &model::UpstreamTlsSpec) -> Self {
        Self {
            ca: model.ca.as_deref().map(text),
            server_name: model.server_name.as_deref().map(str::to_owned),
            certificate: model.certificate.as_ref().map(|files| text(&files.certificate)),
            key: model.certificate.as_ref().map(|files| text(&files.key)),
            verify: Some(match model.verify {
                model::Verify::Full => Verify::Full,
                model::Verify::Off => Verify::Off,
            }),
        }
    }
}

impl From<ClientCertificate> for model::ClientCertificate {
    fn from(written: ClientCertificate) -> Self {
        match written {
            ClientCertificate::None => Self::None,
            ClientCertificate::Optional => Self::Optional,
            ClientCertificate::Required => Self::Required,
        }
    }
}

/// Reads names to obtain certificates for; a public authority issues for names with a dot only.
fn names(p: &mut Problems, key: &str, names: &[String], is_public: bool) -> Vec<Arc<str>> {
    let mut read: Vec<Arc<str>> = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let lower: Arc<str> = name.to_ascii_lowercase().into();
        let found = if name.starts_with("*.") && is_public {
            Some(("is a wildcard: it needs dns-01, which Weir does not do", "list each name, or use a file"))
        } else if name.parse::<std::net::IpAddr>().is_ok() || !is_host(name.strip_prefix("*.").unwrap_or(name)) {
            Some(("is no host name", "write a name such as \"www.example.test\""))
        } else if is_public && !name.contains('.') {
            Some(("has no dot: no public authority issues for it", "write it to tls.internal"))
        } else if read.contains(&lower) {
            Some(("is listed twice", "remove one of the two"))
        } else {
            None
        };
        match found {
            Some((message, hint)) => p.within(key, i, |p| p.add("", format!("{name:?} {message}"), hint)),
            None => read.push(lower),
        }
    }
    read
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn file(p: &mut Problems, key: &str, path: Option<&str>) -> Option<PathBuf> {
    if path.is_none() {
        p.absent(key, format!("add {key} = \"FILE\", in PEM"));
    }
    optional_file(p, key, path)
}

fn optional_file(p: &mut Problems, key: &str, path: Option<&str>) -> Option<PathBuf> {
    if path == Some("") {
        p.add(key, "is empty", "write the path of a file");
    }
    path.map(PathBuf::from)
}

/// Returns whether it is an address or labels with dots between them.
fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
    };
    name.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(is_label))
}
