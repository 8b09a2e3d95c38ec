//! The definition of a listener.

use crate::model::{self, ServiceName, parse_label};
use crate::spec::{
    Address, Capture, ListenerLimits, ListenerTls, Network, Problem, Problems, ProxyProtocol, Sni, StartTls, Udp,
    nearest,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest name of a listener or route in octets: one DNS label, RFC 1035 §2.3.4.
pub(crate) const MAX_NAME_OCTETS: usize = 63;

/// Gives the names of the ports of a service by its name as written.
pub type PortsOf<'a> = &'a dyn Fn(Option<&str>) -> Option<Vec<String>>;

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
    /// Only with `protocol = "tcp"` or `"udp"`: the service that every connection or flow goes to, `name` or `namespace/name`;
    /// with `sni` those that no rule fits: without it they are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only with `protocol = "tcp"` or `"udp"`: name of the service's port; default its first.
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
    /// What proxies in front say of their clients; without this section nothing is read before the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Bounds on its connections; not with `protocol = "udp"`, see `udp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ListenerLimits>,
    /// Only with `protocol = "tcp"`: how clients begin TLS inside of the protocol; default: at once, if at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starttls: Option<StartTls>,
    /// Only with `protocol = "tcp"`: where connections go by what their TLS asks for; it is passed through, or ended with `tls`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<Sni>,
    /// Only with `protocol = "tcp"`: connections that rules of the kernel lead here go where they were going.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<Capture>,
    /// Only with `protocol = "udp"`: its flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
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
    /// Datagrams, to one service.
    Udp,
}

impl Listener {
    /// Converts the definition, with every default filled in; `ports` gives the names of the ports of a service that it
    /// names, in order, and `None` when there is no such service or its ports are not known.
    ///
    /// # Errors
    /// Every problem of it, but that its service does not exist.
    pub fn to_model(&self, ports: PortsOf<'_>) -> Result<model::ListenerSpec, Vec<Problem>> {
        let mut problems = Problems::new();
        let name = name(&mut problems, self.name.as_deref(), "listener");
        if self.address.is_none() {
            problems.absent("address", "add where it listens, such as address = \"127.0.0.1:8080\"");
        }
        let protocol = match self.protocol.unwrap_or_default() {
            ListenerProtocol::Http => self.read_http(&mut problems),
            ListenerProtocol::Tcp => self.read_tcp(&mut problems, ports),
            ListenerProtocol::Udp => self.read_udp(&mut problems, ports),
        };
        let tls = self.tls.as_ref().map(|tls| Arc::new(tls.read(&mut problems)));
        let admission = self.read_admission(&mut problems, ports);
        match (name, self.address, protocol) {
            (Some(name), Some(address), Some(protocol)) if problems.is_empty() => Ok(model::ListenerSpec {
                name: name.into(),
                address: address.get(),
                protocol,
                trusted_proxies: self.trusted_proxies.iter().map(|network| network.get()).collect(),
                tls,
                redirect_https: self.redirect_https.unwrap_or_default(),
                admission,
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

    fn read_tcp(&self, problems: &mut Problems, ports: PortsOf<'_>) -> Option<model::ListenerProtocol> {
        self.refuse_http(problems, "tcp");
        if self.capture.is_some() {
            for (key, is_there) in [("service", self.service.is_some()), ("sni", !self.sni.is_empty())] {
                if is_there {
                    problems.add(
                        key,
                        "is there beside capture",
                        "captured connections go where they were going: remove it",
                    );
                }
            }
            for (key, is_there) in [("tls", self.tls.is_some()), ("starttls", self.starttls.is_some())] {
                if is_there {
                    problems.add(
                        key,
                        "is there beside capture",
                        "captured connections are passed on as they are: remove it",
                    );
                }
            }
            return Some(model::ListenerProtocol::Captured);
        }
        let named = if self.service.is_none() { self.sni.first() } else { None };
        if let Some(first) = named {
            // Nobody is led there but by its rule.
            let service = ServiceName::parse(first.service.as_deref()?).ok()?;
            return Some(model::ListenerProtocol::Tcp { service, port: 0 });
        }
        let (service, port) = self.read_service(problems, ports)?;
        Some(model::ListenerProtocol::Tcp { service, port })
    }

    fn read_udp(&self, problems: &mut Problems, ports: PortsOf<'_>) -> Option<model::ListenerProtocol> {
        self.refuse_http(problems, "udp");
        let refuse = |problems: &mut Problems, key: &str| {
            problems.add(key, "is not for protocol = \"udp\"", "datagrams have no connection: remove it");
        };
        if self.tls.is_some() {
            refuse(problems, "tls");
        }
        if self.proxy_protocol.is_some() {
            refuse(problems, "proxy_protocol");
        }
        if self.limits.is_some() {
            refuse(problems, "limits");
        }
        let (service, port) = self.read_service(problems, ports)?;
        Some(model::ListenerProtocol::Udp { service, port })
    }

    /// Records what is for HTTP alone.
    fn refuse_http(&self, problems: &mut Problems, protocol: &str) {
        if !self.trusted_proxies.is_empty() {
            let hint = format!("a {protocol} listener reads no header fields: remove it");
            problems.add("trusted_proxies", "is only for protocol = \"http\"", hint);
        }
        if self.redirect_https.is_some() {
            let hint = format!("a {protocol} listener passes octets on as they are: remove it");
            problems.add("redirect_https", "is only for protocol = \"http\"", hint);
        }
    }

    fn read_service(&self, problems: &mut Problems, ports: PortsOf<'_>) -> Option<(ServiceName, usize)> {
        let port = match (&self.port, ports(self.service.as_deref())) {
            (Some(port), Some(ports)) => find_port(problems, "port", port, &ports),
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
        service.zip(port)
    }

    fn read_admission(&self, p: &mut Problems, ports: PortsOf<'_>) -> model::AdmissionSpec {
        let protocol = self.protocol.unwrap_or_default();
        let mut only = |is_there: bool, key: &str, wanted: ListenerProtocol, name: &str| {
            if is_there && protocol != wanted {
                p.add(key, format!("is only for protocol = \"{name}\""), "remove it, or write that protocol");
            }
        };
        only(self.starttls.is_some(), "starttls", ListenerProtocol::Tcp, "tcp");
        only(!self.sni.is_empty(), "sni", ListenerProtocol::Tcp, "tcp");
        only(self.capture.is_some(), "capture", ListenerProtocol::Tcp, "tcp");
        only(self.udp.is_some(), "udp", ListenerProtocol::Udp, "udp");
        let mut sni: Vec<model::SniRoute> = Vec::with_capacity(self.sni.len());
        for (i, rule) in self.sni.iter().enumerate() {
            let read = p.within("sni", i, |p| rule.read(p, ports(rule.service.as_deref()).as_deref()));
            let Some(read) = read else { continue };
            let twice =
                |name: &&Arc<str>| sni.iter().any(|other| other.alpn == read.alpn && other.names.contains(name));
            if let Some(name) = read.names.iter().find(twice) {
                let hint = "the first would always win: remove one of them";
                p.within("sni", i, |p| p.add("names", format!("{name:?} is in an earlier rule too"), hint));
            }
            sni.push(read);
        }
        model::AdmissionSpec {
            proxy_protocol: self.proxy_protocol.as_ref().map(|said| said.read(p)),
            connections: self.limits.as_ref().and_then(|limits| limits.read(p).0),
            connections_per_client: self.limits.as_ref().and_then(|limits| limits.connections_per_client),
            named_only: self.service.is_none() && !sni.is_empty(),
            sni,
            starttls: self.starttls.map(Into::into),
            capture: self.capture.as_ref().map(|capture| capture.read(p)),
            udp: self.udp.clone().unwrap_or_default().read(p),
        }
    }

    /// Writes the definition of a listener in use; `ports` gives the ports of a service.
    pub fn from_model<'a>(model: &model::ListenerSpec, ports: impl Fn(&ServiceName) -> &'a [model::PortSpec]) -> Self {
        let named = |service: &ServiceName, port: usize| {
            let port = ports(service).get(port).map(|port| port.name.to_string());
            (
                Some(service.to_string()).filter(|_| !model.admission.named_only),
                port.filter(|_| !model.admission.named_only),
            )
        };
        let (protocol, (service, port)) = match &model.protocol {
            // Those of services' own addresses are written nowhere.
            model::ListenerProtocol::Http | model::ListenerProtocol::Service { .. } => {
                (ListenerProtocol::Http, (None, None))
            }
            model::ListenerProtocol::Captured => (ListenerProtocol::Tcp, (None, None)),
            model::ListenerProtocol::Tcp { service, port } => (ListenerProtocol::Tcp, named(service, *port)),
            model::ListenerProtocol::Udp { service, port } => (ListenerProtocol::Udp, named(service, *port)),
        };
        let admission = &model.admission;
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
            proxy_protocol: admission.proxy_protocol.as_ref().map(ProxyProtocol::write),
            limits: ListenerLimits::write(admission),
            starttls: admission.starttls.map(Into::into),
            sni: admission.sni.iter().map(|rule| Sni::from_model(rule, ports(&rule.service))).collect(),
            capture: admission.capture.as_ref().map(Capture::write),
            udp: (protocol == ListenerProtocol::Udp).then(|| Udp::write(&admission.udp)),
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
        let ports = |_: Option<&str>| Some(vec!["db".to_owned(), "admin".to_owned()]);
        let problems = listener.to_model(&ports).err().unwrap_or_default();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn converts_there_and_back() {
        let http = Listener { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..listener(None) };
        let model = http.to_model(&|_| None).unwrap();
        assert_eq!(model.trusted_proxies, [("10.0.0.0".parse().unwrap(), 8)]);
        assert_eq!(Listener::from_model(&model, |_| &[]).to_model(&|_| None).unwrap(), model);

        let tcp = Listener {
            service: Some("db".into()),
            port: Some("admin".into()),
            ..listener(Some(ListenerProtocol::Tcp))
        };
        let names = ["db", "admin"];
        let written_ports = |_: Option<&str>| Some(names.map(str::to_owned).to_vec());
        let model = tcp.to_model(&written_ports).unwrap();
        assert!(matches!(&model.protocol, model::ListenerProtocol::Tcp { port: 1, .. }));
        let ports = names.map(model::PortSpec::tcp);
        let written = Listener::from_model(&model, |_| &ports);
        assert_eq!((written.service.as_deref(), written.port.as_deref()), (Some("db"), Some("admin")));
        assert_eq!(written.to_model(&written_ports).unwrap(), model);
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
