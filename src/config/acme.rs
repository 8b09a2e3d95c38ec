//! `[acme]` → the options of certificates from an ACME authority, and back.

use crate::config::bounds::within;
use crate::control::{AccountBindingOptions, AcmeOptions};
use crate::model::{AcmeDirectory, Challenge};
use crate::spec::Problems;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates from an ACME authority (RFC 8555), for the names that `listener.tls.acme` lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// The authority: `production` and `staging` are those of Let's Encrypt; or the `https://` URL of another's directory.
    /// Default `production`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// File of the roots that the authority's own certificate is from, PEM; default those of the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory_ca: Option<String>,
    /// Address that the authority may write to; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether you agree to the authority's terms; it must be true.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub terms_agreed: Option<bool>,
    /// What the authority calls your account with it, where it asks for a binding (RFC 8555 §7.3.4); needs `eab_key_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_key_id: Option<String>,
    /// File of the key that the authority gave out with it, base64url. Used once, when the account is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_key_file: Option<String>,
    /// How the authority sees that a name leads here; after a failure the next one is tried. `http-01` needs a listener in
    /// clear text that port 80 leads to, `tls-alpn-01` port 443. Default both, without such a listener only the latter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenges: Option<Vec<AcmeChallenge>>,
    /// URL that is asked, with `?domain=NAME`, whether a certificate may be ordered for a name that a client asks for and no
    /// listener lists, at listeners with `tls.on_demand`; 200: yes. Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_demand_ask: Option<String>,
    /// Such names that are asked about within any hour, 1 to 10000; default 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub on_demand_per_hour: Option<usize>,
}

/// How an authority sees that a name leads here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AcmeChallenge {
    /// RFC 8555 §8.3.
    #[serde(rename = "http-01")]
    Http01,
    /// RFC 8737.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

/// Reads the section; `has_plain` says whether a listener takes HTTP in clear text.
pub(super) fn read(p: &mut Problems, section: Option<&Acme>, has_plain: bool) -> Option<AcmeOptions> {
    let section = section?;
    if cfg!(not(feature = "acme")) {
        p.add("acme", "this Weir was built without certificates from ACME", "take one built with the feature `acme`");
    }
    if section.terms_agreed != Some(true) {
        let hint = "read the authority's terms of service; if you agree, write terms_agreed = true";
        match section.terms_agreed {
            None => p.absent("acme.terms_agreed", hint),
            Some(_) => p.add("acme.terms_agreed", "is false: no authority issues without", hint),
        }
    }
    if section.email.as_deref().is_some_and(|email| !is_email(email)) {
        p.add("acme.email", "is no e-mail address", "write one such as \"ops@example.test\", or remove it");
    }
    if section.directory_ca.as_deref() == Some("") {
        p.add("acme.directory_ca", "is empty", "write the path of a file");
    }
    let binding = binding(p, section);
    let ask = section.on_demand_ask.clone();
    if ask.as_deref().is_some_and(|url| !is_url(url, &["http", "https"])) {
        p.add("acme.on_demand_ask", "is no URL", "write one such as \"http://127.0.0.1:9000/allowed\"");
    }
    Some(AcmeOptions {
        directory: directory(p, section.directory.as_deref()),
        directory_ca: section.directory_ca.as_ref().map(Into::into),
        email: section.email.clone(),
        binding,
        challenges: challenges(p, has_plain, section.challenges.as_deref()),
        on_demand_ask: ask,
        on_demand_per_hour: within(
            p,
            "acme.on_demand_per_hour",
            section.on_demand_per_hour,
            AcmeOptions::default().on_demand_per_hour,
            &(1..=10_000),
        ),
    })
}

fn binding(p: &mut Problems, section: &Acme) -> Option<AccountBindingOptions> {
    match (&section.eab_key_id, &section.eab_key_file) {
        (None, None) => None,
        (Some(_), None) => {
            p.absent("acme.eab_key_file", "name the file of the key that the authority gave out with eab_key_id");
            None
        }
        (None, Some(_)) => {
            p.absent("acme.eab_key_id", "write the key identifier that the authority gave out with the key");
            None
        }
        (Some(id), Some(file)) => {
            if id.is_empty() {
                p.add("acme.eab_key_id", "is empty", "write the key identifier that the authority gave out");
            }
            if file.is_empty() {
                p.add("acme.eab_key_file", "is empty", "write the path of a file");
            }
            Some(AccountBindingOptions { key_id: id.clone(), key_file: file.into() })
        }
    }
}

fn directory(p: &mut Problems, written: Option<&str>) -> AcmeDirectory {
    match written {
        None | Some("production") => AcmeDirectory::Production,
        Some("staging") => AcmeDirectory::Staging,
        Some(url) => {
            if !is_url(url, &["https"]) {
                let hint = "write \"production\", \"staging\" or the https:// URL of a directory";
                p.add("acme.directory", format!("{url:?} is no directory"), hint);
            }
            AcmeDirectory::Url(url.to_owned())
        }
    }
}

fn challenges(p: &mut Problems, has_plain: bool, written: Option<&[AcmeChallenge]>) -> Vec<Challenge> {
    let Some(written) = written else {
        let plain = has_plain.then_some(Challenge::Http01);
        return plain.into_iter().chain([Challenge::TlsAlpn01]).collect();
    };
    let mut challenges: Vec<Challenge> = Vec::new();
    for one in written.iter().map(|one| Challenge::from(*one)) {
        if !challenges.contains(&one) {
            challenges.push(one);
        }
    }
    if challenges.is_empty() {
        p.add("acme.challenges", "is empty", "write [\"http-01\", \"tls-alpn-01\"], or one of the two");
    }
    if !has_plain && challenges.contains(&Challenge::Http01) {
        let hint = "add a [[listener]] without tls that port 80 leads to, or write challenges = [\"tls-alpn-01\"]";
        p.add("acme.challenges", "has http-01, and no listener takes requests in clear text", hint);
    }
    challenges
}

impl From<AcmeChallenge> for Challenge {
    fn from(written: AcmeChallenge) -> Self {
        match written {
            AcmeChallenge::Http01 => Self::Http01,
            AcmeChallenge::TlsAlpn01 => Self::TlsAlpn01,
        }
    }
}

/// Writes the section.
pub(super) fn write(options: &AcmeOptions) -> Acme {
    let challenge = |one: &Challenge| match one {
        Challenge::Http01 => AcmeChallenge::Http01,
        Challenge::TlsAlpn01 => AcmeChallenge::TlsAlpn01,
    };
    Acme {
        directory: Some(match &options.directory {
            AcmeDirectory::Production => "production".to_owned(),
            AcmeDirectory::Staging => "staging".to_owned(),
            AcmeDirectory::Url(url) => url.clone(),
        }),
        directory_ca: options.directory_ca.as_ref().map(|path| path.to_string_lossy().into_owned()),
        email: options.email.clone(),
        terms_agreed: Some(true),
        eab_key_id: options.binding.as_ref().map(|binding| binding.key_id.clone()),
        eab_key_file: options.binding.as_ref().map(|binding| binding.key_file.to_string_lossy().into_owned()),
        challenges: Some(options.challenges.iter().map(challenge).collect()),
        on_demand_ask: options.on_demand_ask.clone(),
        on_demand_per_hour: Some(options.on_demand_per_hour),
    }
}

fn is_email(text: &str) -> bool {
    let plain = text.bytes().all(|octet| octet.is_ascii_graphic() && !b",:;<>()".contains(&octet));
    plain
        && text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    let parsed: Result<http::Uri, _> = text.parse();
    parsed.is_ok_and(|url| url.scheme_str().is_some_and(|scheme| schemes.contains(&scheme)) && url.host().is_some())
}
