//! What definitions say of connections as such: the PROXY protocol, flows of datagrams.

use crate::model::{self, ProxyVersion};
use crate::spec::bounds::{bounded, positive};
use crate::spec::{Duration, Network, Problems};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What proxies in front say of their clients with the PROXY protocol, version 1 or 2, before anything else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProxyProtocolDefinition)]
pub struct ProxyProtocol {
    /// Networks of the proxies that are believed. A header from elsewhere closes the connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(required)]
    #[schema(required)]
    pub from: Vec<Network>,
    /// Whether a connection without a header is closed; default `required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<ProxyMode>,
}

/// Whether the header of the PROXY protocol must be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyMode {
    /// A connection without it is closed.
    #[default]
    Required,
    /// A connection without it is the client's own.
    Optional,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyProtocolVersion {
    /// One line of text.
    V1,
    /// Binary, with host, ALPN and version of the client's TLS where they are known.
    V2,
}

impl ProxyProtocol {
    pub(super) fn read(&self, p: &mut Problems) -> model::ProxyProtocolSpec {
        if self.from.is_empty() {
            let hint = "add the networks of the proxies, such as from = [\"10.0.0.0/8\"]: whoever is believed can claim any address";
            p.absent("proxy_protocol.from", hint);
        }
        model::ProxyProtocolSpec {
            required: self.mode.unwrap_or_default() == ProxyMode::Required,
            from: self.from.iter().map(|network| network.get()).collect(),
        }
    }

    pub(super) fn write(model: &model::ProxyProtocolSpec) -> Self {
        Self {
            from: model.from.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect(),
            mode: Some(if model.required { ProxyMode::Required } else { ProxyMode::Optional }),
        }
    }
}

impl From<ProxyProtocolVersion> for ProxyVersion {
    fn from(version: ProxyProtocolVersion) -> Self {
        match version {
            ProxyProtocolVersion::V1 => Self::V1,
            ProxyProtocolVersion::V2 => Self::V2,
        }
    }
}

impl From<ProxyVersion> for ProxyProtocolVersion {
    fn from(version: ProxyVersion) -> Self {
        match version {
            ProxyVersion::V1 => Self::V1,
            ProxyVersion::V2 => Self::V2,
        }
    }
}

/// Bound of connections of a listener, streams of a service.
pub(super) const CONNECTIONS: std::ops::RangeInclusive<u32> = 1..=10_000_000;

/// Bounds on a listener's connections, over all workers. What comes above them is reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ListenerLimitsDefinition)]
pub struct ListenerLimits {
    /// Connections at a time, from 1; default no bound but `proxy.limits.connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections: Option<u32>,
    /// Of them those of one client address, from 1; default no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub connections_per_client: Option<u32>,
}

impl ListenerLimits {
    /// Returns both bounds.
    pub(super) fn read(&self, p: &mut Problems) -> (Option<u32>, Option<u32>) {
        let mut within = |key: &str, value: Option<u32>| value.map(|_| bounded(p, key, value, 1, &CONNECTIONS));
        let (all, client) = (
            within("limits.connections", self.connections),
            within("limits.connections_per_client", self.connections_per_client),
        );
        if let (Some(all), Some(client)) = (all, client)
            && client > all
        {
            let message = format!("{client} is above connections {all}");
            p.add("limits.connections_per_client", message, "lower it or raise connections");
        }
        (all, client)
    }

    pub(super) fn write(model: &model::AdmissionSpec) -> Option<Self> {
        let model::AdmissionSpec { connections, connections_per_client, .. } = *model;
        (connections.is_some() || connections_per_client.is_some())
            .then_some(Self { connections, connections_per_client })
    }
}

/// Bound of the flows of a listener: each has a socket.
const FLOWS: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// Flows of datagrams: a client's address and port, led to one endpoint for as long as something comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UdpDefinition)]
pub struct Udp {
    /// Longest pause of a flow; default `1m`. Where the client sent but one datagram, at most `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Duration>,
    /// Flows at a time; default 10000. Each has a socket. Above, those whose client sent but one datagram make room.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub flows: Option<u32>,
    /// Those of one client address at each worker; default 1000, at most `flows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub flows_per_client: Option<u32>,
}

impl Udp {
    pub(super) fn read(&self, p: &mut Problems) -> model::UdpSpec {
        let defaults = model::UdpSpec::default();
        let flows = bounded(p, "udp.flows", self.flows, defaults.flows, &FLOWS);
        let per_client = self.flows_per_client.or(Some(defaults.flows_per_client.min(flows)));
        let flows_per_client = bounded(p, "udp.flows_per_client", per_client, 1, &FLOWS);
        if flows_per_client > flows {
            let message = format!("{flows_per_client} is above flows {flows}");
            p.add("udp.flows_per_client", message, "lower it or raise flows");
        }
        model::UdpSpec { idle: positive(p, "udp.idle", self.idle, defaults.idle), flows, flows_per_client }
    }

    pub(super) fn write(model: &model::UdpSpec) -> Self {
        let (flows, flows_per_client) = (Some(model.flows), Some(model.flows_per_client));
        Self { idle: Some(model.idle.into()), flows, flows_per_client }
    }
}
