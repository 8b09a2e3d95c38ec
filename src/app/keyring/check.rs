//! `weir check`: what is wrong with the files that a configuration names, before anything runs.

use crate::app::keyring::{Fault, read, unix_s};
use crate::config::Loaded;
use crate::model::TlsSpec;
use crate::net::tls::{BadFile, build_client, files};
use crate::spec::{Key, KeyPath};
use crate::table::certificates::{Certificate, validity};
use std::path::Path;

/// Returns what is wrong with the files of certificates, keys, authorities and revocation lists that a configuration names,
/// expiry included, each with its key.
pub fn check(loaded: &Loaded) -> Vec<Fault> {
    let mut found = Vec::new();
    let at = |section: &str, i: usize| KeyPath::new(vec![Key::Name(section.to_owned()), Key::Index(i)]);
    for (i, listener) in loaded.listeners.iter().enumerate() {
        if let Some(spec) = &listener.tls {
            found.extend(listener_files(spec).into_iter().map(|(key, bad)| fault(at("listener", i).join(&key), bad)));
        }
    }
    if let Some(tls) = loaded.dns.as_ref().and_then(|dns| dns.tls.as_ref()) {
        let root = KeyPath::default().key("dns");
        found.extend(listener_files(&tls.spec).into_iter().map(|(key, bad)| fault(root.join(&key), bad)));
    }
    for (i, service) in loaded.services.iter().enumerate() {
        let Some(spec) = &service.tls else { continue };
        let tls = at("service", i).key("tls");
        let checked = match build_client(spec) {
            Err(fault) => Err(fault),
            Ok(_) => {
                let own = spec.certificate.iter().map(|files| ("certificate", &files.certificate));
                own.chain(spec.ca.iter().map(|path| ("ca", path)))
                    .try_for_each(|(key, path)| in_force(path).map_err(|bad| (key, bad)))
            }
        };
        found.extend(checked.err().map(|(key, bad)| fault(tls.key(key), bad)));
    }
    if let Some(binding) = loaded.control.acme.as_ref().and_then(|acme| acme.binding.as_ref()) {
        let key = KeyPath::default().key("acme").key("eab_key_file");
        found.extend(binding.key().err().map(|bad| fault(key, bad)));
    }
    if let Some(path) = loaded.control.acme.as_ref().and_then(|acme| acme.directory_ca.as_deref()) {
        found.extend(authorities(path).err().map(|bad| fault(KeyPath::default().key("acme").key("directory_ca"), bad)));
    }
    if let Some(path) = loaded.dns.as_ref().and_then(|dns| dns.forward.as_ref()?.ca.as_deref()) {
        found.extend(
            authorities(path).err().map(|bad| fault(KeyPath::default().key("dns").key("forward").key("ca"), bad)),
        );
    }
    found
}

/// Opens a file of authorities.
fn authorities(path: &Path) -> Result<(), BadFile> {
    let list = files::read(path).and_then(|text| files::certificates(path, &text))?;
    files::authorities(path, list).and_then(|_| in_force(path))
}

fn listener_files(spec: &TlsSpec) -> Vec<(KeyPath, BadFile)> {
    let mut found = Vec::new();
    for (i, files) in spec.certificates.iter().enumerate() {
        let checked = read::pair(files)
            .and_then(|(_, certificate)| timely(&files.certificate, &certificate).map_err(|bad| ("certificate", bad)));
        found.extend(
            checked.err().map(|(key, bad)| (KeyPath::default().key("tls.certificates").index(i).key(key), bad)),
        );
    }
    let policy = read::policy(spec)
        .and_then(|_| spec.client_ca.as_deref().map_or(Ok(()), in_force).map_err(|bad| ("tls.client_ca", bad)));
    found.extend(policy.err().map(|(key, bad)| (KeyPath::default().key(key), bad)));
    found
}

fn fault(key: KeyPath, bad: BadFile) -> Fault {
    (key, bad.to_string(), bad.hint.to_owned())
}

/// Returns whether a certificate is valid now.
///
/// # Errors
/// With what to do, where it is not.
pub(super) fn timely(path: &Path, certificate: &Certificate) -> Result<(), BadFile> {
    within(path, [(certificate.not_before_unix_s(), certificate.not_after_unix_s())])
}

/// As [`timely`], for a file that was read well: one of its certificates must be valid now.
fn in_force(path: &Path) -> Result<(), BadFile> {
    let text = files::read(path)?;
    within(path, files::certificates(path, &text)?.iter().filter_map(|certificate| validity(certificate)))
}

fn within(path: &Path, times: impl IntoIterator<Item = (i64, i64)>) -> Result<(), BadFile> {
    let now = unix_s();
    let mut last = None;
    for (not_before, not_after) in times {
        if (not_before..=not_after).contains(&now) {
            return Ok(());
        }
        last = Some(not_after);
    }
    match last {
        Some(end) if end < now => {
            Err(BadFile::new(path, format!("has expired, {} days ago", (now - end) / 86_400), "renew it"))
        }
        Some(_) => Err(BadFile::new(path, "is not valid yet", "wait, or correct the clock of this machine")),
        None => Ok(()),
    }
}
