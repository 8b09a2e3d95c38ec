//! The definition of a listener.

use crate::model::{self, ServiceName, parse_label};
use crate::spec::{Address, ListenerTls, Network, Problem, Problems, nearest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest name of a listener or route in octets: one DNS label, RFC 1035 §2.3.4.
pub(crate) const MAX_NAME_OCTETS: usize = 63;

/// An address where traffic enters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ListenerDefinition)]
pub struct Listener {
    /// Name, one DNS label, unique among listeners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub name: Option<String>,
    /// Where it listens: `127.0.0.1:8080`, `[::1]:8080`, or `:8080` for every address of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    #[schema(required)]
    pub address: Option<Address>,
    /// What it speaks; default `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ListenerProtocol>,
    /// Only with `protocol = "tcp"`: the service that every connection goes to, `name` or `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only with `protocol = "tcp"`: name of the service's port; default its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Networks whose `X-Forwarded-*` and `Forwarded` fields are believed; default none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Network>,
    /// How it speaks TLS; without this section it speaks clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Whether every request is answered 308 with the same address under https; only without `tls`; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_https: Option<bool>,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerProtocol {
    /// HTTP/1.1, in clear text or with `tls`.
    #[default]
    Http,
    /// Any octets, to one service.
    Tcp,
}

impl Listener {
    /// Converts the definition, with every default filled in; `ports` are the names of the ports of the service that it
    /// names, in order, and `None` when there is no such service or its ports are not known.
    ///
    /// # Errors
    /// Every problem of it, but that its service does not exist.
    pub fn to_model(&self, ports: Option<&[String]>) -> Result<model::ListenerSpec, Vec<Problem>> {
        let mut problems = Problems::new();
        let name = name(&mut problems, self.name.as_deref(), "listener");
        if self.address.is_none() {
            problems.absent("address", "add where it listens, such as address = \"127.0.0.1:8080\"");
        }
        let protocol = match self.protocol.unwrap_or_default() {
            ListenerProtocol::Http => self.read_http(&mut problems),
            ListenerProtocol::Tcp => self.read_tcp(&mut problems, ports),
        };
        let tls = self.tls.as_ref().map(|tls| Arc::new(tls.read(&mut problems)));
        match (name, self.address, protocol) {
            (Some(name), Some(address), Some(protocol)) if problems.is_empty() => Ok(model::ListenerSpec {
                name: name.into(),
                address: address.get(),
                protocol,
                trusted_proxies: self.trusted_proxies.iter().map(|network| network.get()).collect(),
                tls,
                redirect_https: self.redirect_https.unwrap_or_default(),
            }),
            _ => Err(problems.into_vec()),
        }
    }

    /// Returns whether it takes HTTP in clear text.
    pub fn is_plain_http(&self) -> bool {
        self.protocol.unwrap_or_default() == ListenerProtocol::Http && self.tls.is_none()
    }

    fn read_http(&self, problems: &mut Problems) -> Option<model::ListenerProtocol> {
        let hint =
            "routes lead from an http listener to services; write protocol = \"tcp\" to pass on whole connections";
        if self.service.is_some() {
            problems.add("service", "is only for protocol = \"tcp\"", hint);
        }
        if self.port.is_some() {
            problems.add("port", "is only for protocol = \"tcp\"", hint);
        }
        if self.tls.is_some() && self.redirect_https == Some(true) {
            problems.add(
                "redirect_https",
                "is only for a listener without tls",
                "write it at the listener that takes clear text",
            );
        }
        Some(model::ListenerProtocol::Http)
    }

    fn read_tcp(&self, problems: &mut Problems, ports: Option<&[String]>) -> Option<model::ListenerProtocol> {
        if !self.trusted_proxies.is_empty() {
            problems.add(
                "trusted_proxies",
                "is only for protocol = \"http\"",
                "a tcp listener reads no header fields: remove it",
            );
        }
        let hint = "a tcp listener passes octets on as they are: remove it";
        if self.tls.is_some() {
            problems.add("tls", "is only for protocol = \"http\"", hint);
        }
        if self.redirect_https.is_some() {
            problems.add("redirect_https", "is only for protocol = \"http\"", hint);
        }
        let port = match (&self.port, ports) {
            (Some(port), Some(ports)) => find_port(problems, "port", port, ports),
            _ => Some(0),
        };
        let Some(service) = &self.service else {
            let hint = "add the service that its connections go to, such as service = \"db\"";
            problems.absent("service", hint);
            return None;
        };
        let service = ServiceName::parse(service)
            .map_err(|error| problems.add("service", error.to_string(), "write name or namespace/name of a service"))
            .ok();
        Some(model::ListenerProtocol::Tcp { service: service?, port: port? })
    }

    /// Writes the definition of a listener in use; `ports` are the names of the ports of its service.
    pub fn from_model(model: &model::ListenerSpec, ports: &[model::PortSpec]) -> Self {
        let (protocol, service, port) = match &model.protocol {
            // Those of services' own addresses are written nowhere.
            model::ListenerProtocol::Http | model::ListenerProtocol::Service { .. } => {
                (ListenerProtocol::Http, None, None)
            }
            model::ListenerProtocol::Tcp { service, port } => {
                (ListenerProtocol::Tcp, Some(service.to_string()), ports.get(*port).map(|port| port.name.to_string()))
            }
        };
        Self {
            name: Some(model.name.to_string()),
            address: Some(Address::new(model.address)),
            protocol: Some(protocol),
            service,
            port,
            trusted_proxies: model.trusted_proxies.iter().map(|(ip, prefix)| Network::new(*ip, *prefix)).collect(),
            tls: model.tls.as_deref().map(ListenerTls::from_model),
            // Elsewhere it cannot be said.
            redirect_https: (protocol == ListenerProtocol::Http).then_some(model.redirect_https),
        }
    }
}

/// Checks the name of a listener or route: one DNS label.
pub(crate) fn name<'a>(problems: &mut Problems, name: Option<&'a str>, what: &str) -> Option<&'a str> {
    let Some(name) = name else {
        problems.absent("name", format!("add name = \"...\": logs, metrics and references name the {what} by it"));
        return None;
    };
    match parse_label(name, MAX_NAME_OCTETS) {
        Ok(()) => Some(name),
        Err(error) => {
            problems.add("name", error.to_string(), "use one DNS label, such as \"web\" or \"web-2\"");
            None
        }
    }
}

/// Finds a port by name.
pub(crate) fn find_port(problems: &mut Problems, key: &str, port: &str, ports: &[String]) -> Option<usize> {
    let found = ports.iter().position(|name| name == port);
    if found.is_none() {
        let known = ports.iter().map(String::as_str);
        let hint = nearest(port, known.clone()).map_or_else(
            || format!("its ports: {}", known.collect::<Vec<_>>().join(", ")),
            |near| format!("did you mean {near:?}?"),
        );
        problems.unknown(key, format!("the service has no port {port:?}"), hint);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Listener, ListenerProtocol};
    use crate::model;

    fn listener(protocol: Option<ListenerProtocol>) -> Listener {
        Listener {
            name: Some("web".into()),
            address: Some("127.0.0.1:80".parse().unwrap()),
            protocol,
            ..Listener::default()
        }
    }

    fn messages(listener: &Listener) -> Vec<String> {
        let ports = ["db".to_owned(), "admin".to_owned()];
        let problems = listener.to_model(Some(&ports)).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn converts_there_and_back() {
        let http = Listener { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..listener(None) };
        let model = http.to_model(None).unwrap();
        assert_eq!(model.trusted_proxies, [("10.0.0.0".parse().unwrap(), 8)]);
        assert_eq!(Listener::from_model(&model, &[]).to_model(None).unwrap(), model);

        let tcp = Listener {
            service: Some("db".into()),
            port: Some("admin".into()),
            ..listener(Some(ListenerProtocol::Tcp))
        };
        let names = ["db", "admin"];
        let model = tcp.to_model(Some(&names.map(str::to_owned))).unwrap();
        assert!(matches!(&model.protocol, model::ListenerProtocol::Tcp { port: 1, .. }));
        let ports = names.map(model::PortSpec::tcp);
        let written = Listener::from_model(&model, &ports);
        assert_eq!((written.service.as_deref(), written.port.as_deref()), (Some("db"), Some("admin")));
        assert_eq!(written.to_model(Some(&names.map(str::to_owned))).unwrap(), model);
    }

    #[test]
    fn names_all_that_is_missing() {
        assert_eq!(messages(&Listener::default()), ["name: is missing", "address: is missing"]);
        assert_eq!(messages(&listener(Some(ListenerProtocol::Tcp))), ["service: is missing"]);
    }

    #[test]
    fn refuses_what_is_for_the_other_protocol() {
        let http = Listener { service: Some("db".into()), port: Some("db".into()), ..listener(None) };
        assert_eq!(
            messages(&http),
            ["service: is only for protocol = \"tcp\"", "port: is only for protocol = \"tcp\""]
        );
        let tcp = Listener {
            service: Some("db".into()),
            port: Some("admni".into()),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..listener(Some(ListenerProtocol::Tcp))
        };
        assert_eq!(
            messages(&tcp),
            ["trusted_proxies: is only for protocol = \"http\"", "port: the service has no port \"admni\""]
        );
    }
}
