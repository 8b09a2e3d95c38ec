//! `[admin.remote]`: the part of the admin API that other machines may use; and the way back.

use crate::admin::RemoteOptions;
use crate::model::CertificateFiles as Files;
use crate::spec::{Address, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What other machines may ask: to follow the table, and to register instances. Without this section nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminRemote {
    /// TCP address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub listen: Option<Address>,
    /// File of tokens, one a line of at least 16 characters, each good by itself; read again when it changes. Whoever shows one
    /// is let in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub token_file: Option<String>,
    /// File of its certificate, PEM, its own first; read again when it changes. Only a loopback address may be without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// File of the certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Reads the section.
pub(super) fn read(p: &mut Problems, section: Option<&AdminRemote>) -> Option<RemoteOptions> {
    let section = section?;
    if section.listen.is_none() {
        p.absent("admin.remote.listen", "add where it listens, such as listen = \":9601\"");
    }
    if section.token_file.as_deref().is_none_or(str::is_empty) {
        p.absent("admin.remote.token_file", "add the file of the tokens that let others in");
    }
    let tls = match (&section.certificate, &section.key) {
        (Some(certificate), Some(key)) => Some(Files { certificate: certificate.into(), key: key.into() }),
        (Some(_), None) => {
            p.absent("admin.remote.key", "add the file of the certificate's key");
            None
        }
        (None, Some(_)) => {
            p.absent("admin.remote.certificate", "add the file of the certificate");
            None
        }
        (None, None) => None,
    };
    let address = section.listen?.get();
    if tls.is_none() && section.key.is_none() && section.certificate.is_none() && !address.ip().is_loopback() {
        let hint = "without them anybody on the way reads the token and the table";
        p.absent("admin.remote.certificate", format!("add certificate and key: {hint}"));
    }
    Some(RemoteOptions { listen: address, token_file: section.token_file.as_ref()?.into(), tls })
}

/// Writes the section.
pub(super) fn write(options: &RemoteOptions) -> AdminRemote {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    AdminRemote {
        listen: Some(Address::new(options.listen)),
        token_file: Some(text(&options.token_file)),
        certificate: options.tls.as_ref().map(|files| text(&files.certificate)),
        key: options.tls.as_ref().map(|files| text(&files.key)),
    }
}
