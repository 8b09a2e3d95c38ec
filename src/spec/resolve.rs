//! The definition of endpoints that DNS names.

use crate::model;
use crate::spec::{Address, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Longest DNS name in its usual form.
const MAX_NAME_OCTETS: usize = 253;
const MAX_LABEL_OCTETS: usize = 63;

/// Endpoints of a service that DNS names: asked for again when their TTL is over, and kept while nobody answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ResolveDefinition)]
pub struct Resolve {
    /// The name, whole: no search domain is added. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// What is asked for: `address` is A and AAAA, `srv` is RFC 2782, which brings port and weight. Default `address`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ResolveType>,
    /// The first port, 1 to 65535; required with addresses, with `srv` the records have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// DNS servers that are asked, as `IP:PORT`; default those of `/etc/resolv.conf`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<Address>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ResolveType {
    /// A and AAAA.
    Address,
    /// A only.
    A,
    /// AAAA only.
    Aaaa,
    /// SRV, and the addresses of its targets.
    Srv,
}

impl Resolve {
    /// Converts it; problems are collected below `resolve`.
    pub(super) fn read(&self, p: &mut Problems, further: impl Iterator<Item = u16>) -> Option<model::ResolveSpec> {
        let Some(name) = self.name.as_deref() else {
            p.absent("resolve.name", "add name = \"...\": the DNS name of the endpoints");
            return None;
        };
        let bare = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if let Some(why) = fault(&bare) {
            p.add(
                "resolve.name",
                format!("{name:?} is no DNS name: {why}"),
                "write one such as \"db.example.internal\"",
            );
        }
        let kind = match self.kind {
            None | Some(ResolveType::Address) => model::ResolveKind::Address,
            Some(ResolveType::A) => model::ResolveKind::V4,
            Some(ResolveType::Aaaa) => model::ResolveKind::V6,
            Some(ResolveType::Srv) => model::ResolveKind::Service,
        };
        let port = match (self.port, kind) {
            (None, model::ResolveKind::Service) => 0,
            (Some(_), model::ResolveKind::Service) => {
                p.add(
                    "resolve.port",
                    "is not for SRV records, which have a port each",
                    "remove port, or ask for addresses",
                );
                0
            }
            (None, _) => {
                p.absent("resolve.port", "add port = N: addresses have none");
                0
            }
            (Some(0), _) => {
                p.add("resolve.port", "is 0", "write the port that the endpoints listen on");
                0
            }
            (Some(port), _) => port,
        };
        for (i, server) in self.servers.iter().enumerate() {
            if server.get().port() == 0 || server.get().ip().is_unspecified() {
                p.add(
                    &format!("resolve.servers[{i}]"),
                    format!("{server} is no server"),
                    "write IP:PORT of a DNS server",
                );
            }
        }
        let servers = self.servers.iter().map(|server| server.get()).collect::<Vec<SocketAddr>>();
        Some(model::ResolveSpec {
            name: bare.into(),
            kind,
            ports: [port].into_iter().chain(further).collect(),
            servers,
        })
    }

    /// Writes the definition that says the same.
    pub(super) fn write(model: &model::ResolveSpec) -> Self {
        Self {
            name: Some(model.name.to_string()),
            kind: Some(match model.kind {
                model::ResolveKind::Address => ResolveType::Address,
                model::ResolveKind::V4 => ResolveType::A,
                model::ResolveKind::V6 => ResolveType::Aaaa,
                model::ResolveKind::Service => ResolveType::Srv,
            }),
            port: model.ports.first().copied().filter(|port| *port != 0),
            servers: model.servers.iter().map(|server| Address::new(*server)).collect(),
        }
    }
}

fn fault(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > MAX_NAME_OCTETS {
        return Some(format!("it must have 1 to {MAX_NAME_OCTETS} characters"));
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        return Some("it is an address, which is for [[service.endpoint]]".to_owned());
    }
    let is_label = |label: &str| {
        let known = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
        !label.is_empty() && label.len() <= MAX_LABEL_OCTETS && label.bytes().all(known)
    };
    let wrong = name.split('.').find(|label| !is_label(label))?;
    Some(format!("{wrong:?} is no label of one"))
}
