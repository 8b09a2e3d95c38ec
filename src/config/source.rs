//! `[source]`: where services, endpoints and routes come from beside the file; and the way back.

use crate::control::{AnnounceOptions, PlaceOptions, SourceOptions};
use crate::model::{ServiceName, UpstreamTlsSpec, parse_label};
use crate::spec::{Address, KeyPath, Problems};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Longest name of a subscriber: one DNS label.
const MAX_NAME: usize = 63;
/// Most Weirs in `from`.
const MAX_PLACES: usize = 8;

/// Where services, endpoints and routes come from beside this file. The first that lives is used: the Weirs in their order,
/// then the file; while none lives, the last table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Another Weir, whose table this one follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weir: Option<SourceWeir>,
    /// A file of a table, as `GET /v1/table?watch` tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<SourceFile>,
}

/// Another Weir, whose table this one follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceWeir {
    /// Its admin API: `HOST:PORT` or `unix:PATH`; or a list of up to 8, the preferred one first. Other machines are spoken to in
    /// TLS only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub from: Option<Places>,
    /// File with the token that it asks for; read at each connection. Default none; other machines ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// File of the authorities that its certificate is from, PEM; default those of the system. On this machine TLS is spoken only
    /// where `ca` or `server_name` is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name that its certificate must be for; default the host in `from`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// What this Weir is called there, one DNS label, another for each that follows; default `node.name` and a number of this
    /// machine and state directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What runs beside this Weir: registered there with a lease while it answers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<Announce>,
}

/// A workload that the other Weir is told of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// The service that it is an instance of, `name` or `namespace/name`; defined at the other Weir.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub service: Option<String>,
    /// IP address and port, as others reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub address: Option<Address>,
    /// Path that is asked by HTTP to see whether it answers; default: a connection that is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A file of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its path; replaced by a rename, and read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub path: Option<String>,
}

/// One address, or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(pub Vec<String>);

impl Serialize for Places {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            list => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Places;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address with its port, such as \"10.0.0.5:9601\", or a list of them")
            }
            fn visit_str<E>(self, text: &str) -> Result<Places, E> {
                Ok(Places(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Places, A::Error> {
                let mut places = Vec::new();
                while let Some(place) = list.next_element()? {
                    places.push(place);
                }
                Ok(Places(places))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl JsonSchema for Places {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Places".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "maxItems": 8 }] })
    }
}

/// Reads the section.
pub(super) fn read(p: &mut Problems, section: Option<&Source>) -> Option<SourceOptions> {
    let section = section?;
    if section.weir.is_none() && section.file.is_none() {
        p.add("source", "names no source", "add [source.weir] with from, or [source.file] with path");
    }
    let weir = section.weir.clone().unwrap_or_default();
    if section.weir.is_some() && weir.from.as_ref().is_none_or(|places| places.0.is_empty()) {
        p.absent("source.weir.from", "add the admin API of the other Weir, such as from = \"10.0.0.5:9601\"");
    }
    let places = weir.from.clone().unwrap_or_default().0;
    if places.len() > MAX_PLACES {
        p.add("source.weir.from", format!("has {} addresses", places.len()), format!("write at most {MAX_PLACES}"));
    }
    for (i, place) in places.iter().enumerate().filter(|(i, place)| places.iter().take(*i).any(|one| one == *place)) {
        let at = KeyPath::default().key("source.weir.from").index(i);
        p.at(&at, format!("{place:?} is there twice"), "remove one of them: a name stands for one follower there");
    }
    for (key, value) in [("token_file", &weir.token_file), ("ca", &weir.ca), ("server_name", &weir.server_name)] {
        if value.as_deref() == Some("") {
            p.add(&format!("source.weir.{key}"), "is empty", "write a value, or remove the key");
        }
    }
    if let Some(Err(error)) = weir.name.as_deref().map(|name| parse_label(name, MAX_NAME)) {
        p.add("source.weir.name", error.to_string(), "use one DNS label, such as \"edge-1\"");
    }
    let file = section.file.as_ref().and_then(|file| match file.path.as_deref() {
        None | Some("") => {
            p.absent("source.file.path", "add the file, such as path = \"/etc/weir/table.jsonl\"");
            None
        }
        Some(path) => Some(path.into()),
    });
    let places = places.iter().filter_map(|place| read_place(p, place, &weir)).collect();
    let announce = weir.announce.iter().enumerate().filter_map(|(i, one)| {
        let key = KeyPath::default().key("source.weir.announce").index(i);
        read_announce(p, &key, one)
    });
    let announce = announce.collect();
    Some(SourceOptions { places, file, name: weir.name, announce })
}

fn read_announce(p: &mut Problems, at: &KeyPath, section: &Announce) -> Option<AnnounceOptions> {
    if section.path.as_deref().is_some_and(|path| !path.starts_with('/') || path.contains(char::is_whitespace)) {
        p.at(&at.key("path"), "is no path", "write one such as \"/health\"");
    }
    let hint = "add the service that it is an instance of, such as service = \"web\"";
    let service = match section.service.as_deref().map(ServiceName::parse) {
        None => {
            p.at(&at.key("service"), "is missing", hint);
            None
        }
        Some(Err(error)) => {
            p.at(&at.key("service"), error.to_string(), hint);
            None
        }
        Some(Ok(name)) => Some(name),
    };
    let address = section.address.map(Address::get).filter(|address| !address.ip().is_unspecified());
    if address.is_none_or(|address| address.port() == 0) {
        p.at(&at.key("address"), "is no address that others reach", "write IP:PORT, such as \"127.0.0.1:3000\"");
    }
    Some(AnnounceOptions { service: service?, address: address?, path: section.path.clone() })
}

fn read_place(p: &mut Problems, place: &str, weir: &SourceWeir) -> Option<PlaceOptions> {
    let port = place.rsplit_once(':').and_then(|(host, port)| {
        (!host.is_empty() && (!host.contains(':') || host.starts_with('['))).then(|| port.parse::<u16>().ok())?
    });
    let is_path = place.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    if !is_path && port.is_none_or(|port| port == 0) {
        let hint = "write HOST:PORT, such as \"10.0.0.5:9601\", or \"unix:/path/weir.sock\"";
        p.add("source.weir.from", format!("{place:?} is no address"), hint);
        return None;
    }
    let mut options =
        PlaceOptions { address: place.to_owned(), token_file: weir.token_file.as_ref().map(Into::into), tls: None };
    let spec = UpstreamTlsSpec {
        ca: weir.ca.as_ref().map(Into::into),
        server_name: weir.server_name.as_deref().map(Into::into),
        ..UpstreamTlsSpec::default()
    };
    if !is_path && (!options.is_local() || spec.ca.is_some() || spec.server_name.is_some()) {
        options.tls = Some(Arc::new(spec));
    }
    if !options.is_local() && weir.token_file.is_none() {
        let hint = "add token_file: other machines answer to who shows their token only";
        p.absent("source.weir.token_file", hint);
    }
    Some(options)
}

fn write_announce(options: &AnnounceOptions) -> Announce {
    Announce {
        service: Some(options.service.to_string()),
        address: Some(Address::new(options.address)),
        path: options.path.clone(),
    }
}

/// Writes the section.
pub(super) fn write(options: &SourceOptions) -> Source {
    let first = options.places.first();
    let tls = options.places.iter().find_map(|place| place.tls.as_deref());
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    Source {
        weir: first.map(|first| SourceWeir {
            from: Some(Places(options.places.iter().map(|place| place.address.clone()).collect())),
            token_file: first.token_file.as_deref().map(text),
            ca: tls.and_then(|tls| tls.ca.as_deref()).map(text),
            server_name: tls.and_then(|tls| tls.server_name.as_deref()).map(str::to_owned),
            name: options.name.clone(),
            announce: options.announce.iter().map(write_announce).collect(),
        }),
        file: options.file.as_deref().map(|path| SourceFile { path: Some(text(path)) }),
    }
}
