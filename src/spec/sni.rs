//! The definition of a rule of a TCP listener: what a client's TLS asks for → service.

use crate::model::{self, ServiceName};
use crate::spec::Problems;
use crate::spec::listener::find_port;
use crate::spec::route::read_host;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use utoipa::ToSchema;

/// Where connections go whose TLS handshake asks for a host or a protocol. The closest host wins: exact before `*.host`, longer
/// before shorter, then a rule whose protocol is offered, then the first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SniDefinition)]
pub struct Sni {
    /// Hosts, or `*.example.com` for every host below; default any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Protocols by their ALPN names, such as `h2`: one of them must be offered; default any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// The service, `name` or `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub service: Option<String>,
    /// Name of the service's port; default its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// How a client begins TLS inside of a protocol of clear text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StartTls {
    /// PostgreSQL's SSLRequest.
    Postgres,
}

impl Sni {
    /// Converts the definition; `ports` are the names of the ports of its service.
    pub(super) fn read(&self, p: &mut Problems, ports: Option<&[String]>) -> Option<model::SniRoute> {
        let mut names = Vec::with_capacity(self.names.len());
        for (i, name) in self.names.iter().enumerate() {
            let is_address = name.parse::<IpAddr>().is_ok();
            if is_address {
                let hint =
                    "clients name no address there (RFC 6066): name hosts, or the service at the listener itself";
                p.within("names", i, |p| p.add("", format!("{name:?} is an address"), hint));
            }
            names.extend(p.within("names", i, |p| read_host(p, "", name)).filter(|_| !is_address).map(Into::into));
        }
        if self.names.is_empty() && self.alpn.is_empty() {
            p.add("", "fits any client", "write names or alpn, or name the service at the listener itself");
        }
        for (i, _) in self.alpn.iter().enumerate().filter(|(_, name)| name.is_empty() || name.len() > 255) {
            p.within("alpn", i, |p| p.add("", "has no or too many characters", "write it as in ALPN, such as \"h2\""));
        }
        let port = match (&self.port, ports) {
            (Some(port), Some(ports)) => find_port(p, "port", port, ports),
            _ => Some(0),
        };
        let Some(service) = &self.service else {
            p.absent("service", "add the service that such connections go to, such as service = \"db\"");
            return None;
        };
        let service = ServiceName::parse(service)
            .map_err(|error| p.add("service", error.to_string(), "write name or namespace/name of a service"))
            .ok();
        let alpn = self.alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
        Some(model::SniRoute { names, alpn, service: service?, port: port? })
    }

    /// Writes a rule in use; `ports` are those of its service.
    pub fn from_model(model: &model::SniRoute, ports: &[model::PortSpec]) -> Self {
        Self {
            names: model.names.iter().map(ToString::to_string).collect(),
            alpn: model.alpn.iter().map(|protocol| String::from_utf8_lossy(protocol).into_owned()).collect(),
            service: Some(model.service.to_string()),
            port: ports.get(model.port).map(|port| port.name.to_string()),
        }
    }
}

impl From<StartTls> for model::StartTls {
    fn from(starttls: StartTls) -> Self {
        match starttls {
            StartTls::Postgres => Self::Postgres,
        }
    }
}

impl From<model::StartTls> for StartTls {
    fn from(starttls: model::StartTls) -> Self {
        match starttls {
            model::StartTls::Postgres => Self::Postgres,
        }
    }
}
