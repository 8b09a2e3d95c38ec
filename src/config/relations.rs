//! What the parts of a configuration say about each other: names, references, addresses, ports.

use crate::config::file::File;
use crate::config::loaded::Loaded;
use crate::dns::AliasTargetOptions;
use crate::model::{ContainerAddress, RunSpec, ServiceName};
use crate::spec::{KeyPath, Listener, ListenerProtocol, Port, Problems, Protocol, Service, nearest};
use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Tells the line of a key.
type LineOf<'a> = &'a dyn Fn(&KeyPath) -> Option<usize>;

/// The services of a file by name; the first where a name is defined twice.
pub(super) struct Index<'a>(HashMap<ServiceName, &'a Service>);

impl<'a> Index<'a> {
    /// Indexes the services whose names can be read.
    pub(super) fn new(file: &'a File) -> Self {
        let mut services = HashMap::with_capacity(file.services.len());
        for service in &file.services {
            if let Some(name) = service.full_name() {
                services.entry(name).or_insert(service);
            }
        }
        Self(services)
    }

    /// Returns the service that a route names.
    pub(super) fn find(&self, name: Option<&str>) -> Option<&'a Service> {
        self.0.get(&ServiceName::parse(name?).ok()?).copied()
    }
}

/// Records what does not fit together.
pub(super) fn check(p: &mut Problems, file: &File, index: &Index<'_>, loaded: &Loaded, line_of: LineOf<'_>) {
    let listeners = file.listeners.iter().map(|listener| listener.name.clone());
    unique(p, ("listener", "name"), listeners, line_of, |name| format!("listener {name:?} is defined twice"));
    let routes = file.routes.iter().map(|route| route.name.clone());
    unique(p, ("route", "name"), routes, line_of, |name| format!("route {name:?} is defined twice"));
    let services = file.services.iter().map(Service::full_name);
    unique(p, ("service", "name"), services, line_of, |name| format!("service {:?} is defined twice", name.as_str()));
    addresses(p, file, loaded, line_of);
    references(p, file, index);
    patterns(p, file, line_of);
    transports(p, file, index);
    port_demand(p, file, loaded);
    binds(p, loaded, file);
    authorities(p, file);
    aliases(p, loaded, line_of);
    ports_elsewhere(p, file, index);
}

/// Records aliases that have the name of a service: the service is what would be answered.
fn aliases(p: &mut Problems, loaded: &Loaded, line_of: LineOf<'_>) {
    for (i, alias) in loaded.dns.iter().flat_map(|dns| dns.aliases.iter()).enumerate() {
        let Ok(name) = ServiceName::parse(&format!("{}/{}", alias.namespace, alias.name)) else { continue };
        let Some(at) = loaded.services.iter().position(|service| service.name == name) else { continue };
        let line = line_of(&KeyPath::default().key("service").index(at).key("name"));
        let place = line.map_or_else(String::new, |line| format!(" on line {line}"));
        let leads = if matches!(alias.to, AliasTargetOptions::Name(_)) { "target" } else { "service" };
        p.within("dns.alias", i, |p| {
            let message =
                format!("{:?} is also the service{place}, which is what its name is answered with", alias.name);
            p.add(
                "name",
                message,
                format!("give one of them another name, or remove the alias: its {leads} would never be answered"),
            );
        });
    }
}

/// Records ports of services that only another table may have: which they are is not known here.
fn ports_elsewhere(p: &mut Problems, file: &File, index: &Index<'_>) {
    let mut check = |list: &str, i: usize, service: Option<&str>, port: &Option<String>| {
        if file.source.is_some() && service.is_some() && port.is_some() && index.find(service).is_none() {
            let hint = "leave port out: the first port of a service of another table can be led to";
            p.within(list, i, |p| p.add("port", "is one of a service that is not defined in this file", hint));
        }
    };
    for (i, route) in file.routes.iter().enumerate() {
        check("route", i, route.service.as_deref(), &route.port);
    }
    for (i, listener) in file.listeners.iter().enumerate().filter(|(_, listener)| is_tcp(listener)) {
        check("listener", i, listener.service.as_deref(), &listener.port);
    }
}

/// Records names whose certificates nobody can obtain, and names that two would.
fn authorities(p: &mut Problems, file: &File) {
    let acme = file.acme.as_ref();
    let all = || file.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    for (i, listener) in file.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        p.within("listener", i, |p| {
            let on_demand = tls.on_demand == Some(true);
            if acme.is_none() && (!tls.acme.is_empty() || on_demand) {
                let key = if on_demand { "tls.on_demand" } else { "tls.acme" };
                p.add(key, "there is no authority", "add [acme] with terms_agreed = true, or use tls.internal");
            }
            if on_demand && acme.is_some_and(|acme| acme.on_demand_ask.is_none()) {
                let hint = "add acme.on_demand_ask: without it anybody could have certificates ordered for any name";
                p.add("tls.on_demand", "nobody says which names are welcome", hint);
            }
            for (j, name) in tls.acme.iter().enumerate() {
                if all().any(|other| other.internal.iter().any(|known| known.eq_ignore_ascii_case(name))) {
                    let message = format!("{name:?} is also a name of tls.internal");
                    p.within("tls.acme", j, |p| p.add("", message, "one authority issues for a name: remove one"));
                }
            }
        });
    }
}

/// Records each value that stood earlier in the list; `None` stands for what has no value.
fn unique<T: Hash + Eq>(
    p: &mut Problems,
    (list, key): (&str, &str),
    values: impl Iterator<Item = Option<T>>,
    line_of: LineOf<'_>,
    message: impl Fn(&T) -> String,
) {
    let mut first: HashMap<T, usize> = HashMap::new();
    for (i, value) in values.enumerate() {
        let Some(value) = value else { continue };
        match first.get(&value) {
            Some(at) => {
                let line = line_of(&KeyPath::default().key(list).index(*at).key(key));
                p.within(list, i, |p| p.add(key, message(&value), other_line(line)));
            }
            None => {
                first.insert(value, i);
            }
        }
    }
}

fn other_line(line: Option<usize>) -> String {
    line.map_or_else(
        || "remove or change one of them".to_owned(),
        |line| format!("the first is on line {line}: remove or change one of them"),
    )
}

/// An address that is taken, and by which key.
struct Taken {
    address: SocketAddr,
    /// TCP, UDP.
    transports: [bool; 2],
    key: KeyPath,
    what: String,
}

const TCP: [bool; 2] = [true, false];

/// Returns whether both are of one transport.
fn meets(one: &Taken, other: &Taken) -> bool {
    one.transports.iter().zip(other.transports).any(|(one, other)| *one && other)
}

/// Records addresses that cannot be bound together.
fn addresses(p: &mut Problems, file: &File, loaded: &Loaded, line_of: LineOf<'_>) {
    let root = KeyPath::default();
    let mut taken: Vec<Taken> = Vec::new();
    let mut claim = |p: &mut Problems, new: Taken| {
        if let Some(other) = taken.iter().find(|other| meets(other, &new) && overlap(other.address, new.address)) {
            let line = line_of(&other.key).map_or_else(String::new, |line| format!(" on line {line}"));
            let message = format!("{} is already the address of {}{line}", shown(new.address), other.what);
            p.at(&new.key, message, "give each its own address or port");
        }
        taken.push(new);
    };
    if let Some(remote) = &loaded.admin.remote {
        let (address, key) = (remote.listen, root.key("admin.remote.listen"));
        claim(p, Taken { address, transports: TCP, key, what: "the admin API for other machines".to_owned() });
    }
    if let Some(address) = loaded.admin.listen {
        claim(p, Taken { address, transports: TCP, key: root.key("admin.listen"), what: "the admin API".to_owned() });
    }
    for (i, address) in loaded.dns.iter().flat_map(|dns| dns.listen.iter().enumerate()) {
        let listed = file.dns.as_ref().is_some_and(|dns| dns.listen.is_some());
        // Between the addresses there may be `containers`.
        let places = || file.dns.iter().flat_map(|dns| dns.listen.iter().flatten()).enumerate();
        let i = places().filter(|(_, place)| place.address().is_some()).map(|(at, _)| at).nth(i).unwrap_or(i);
        let key = if listed { root.key("dns.listen").index(i) } else { root.key("dns") };
        claim(p, Taken { address: *address, transports: [true; 2], key, what: "the DNS server".to_owned() });
    }
    let tls = loaded.dns.iter().filter_map(|dns| dns.tls.as_ref());
    for (name, list) in tls.flat_map(|tls| [("dns.tls.listen", &tls.listen), ("dns.tls.https", &tls.https)]) {
        for (i, address) in list.iter().enumerate() {
            let own = file.dns.as_ref().and_then(|dns| dns.tls.as_ref());
            let listed = name.ends_with("https") || own.is_some_and(|tls| tls.listen.is_some());
            let key = if listed { root.key(name).index(i) } else { root.key("dns.tls") };
            let what = "the DNS server with TLS".to_owned();
            claim(p, Taken { address: *address, transports: TCP, key, what });
        }
    }
    for (i, listener) in file.listeners.iter().enumerate() {
        let Some(address) = listener.address else { continue };
        let what = format!("listener {:?}", listener.name.as_deref().unwrap_or_default());
        let key = root.key("listener").index(i).key("address");
        let transports = if is_udp(listener) { [false, true] } else { TCP };
        claim(p, Taken { address: address.get(), transports, key, what });
    }
}

fn shown(address: SocketAddr) -> crate::spec::Address {
    crate::spec::Address::new(address)
}

/// Returns whether two sockets cannot listen on both; port 0 is a new port each time. `[::]` takes IPv4 too.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: IpAddr, b: IpAddr| a == b || (a.is_unspecified() && (a.is_ipv6() || b.is_ipv4()));
    a.port() != 0 && a.port() == b.port() && (covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// Records routes to services and listeners that do not exist.
fn references(p: &mut Problems, file: &File, index: &Index<'_>) {
    let listeners: Vec<&str> = file.listeners.iter().filter_map(|listener| listener.name.as_deref()).collect();
    // With an unreadable name somewhere, what seems unknown may be that one; another table may have any.
    let all_services = file.source.is_none() && file.services.iter().all(|service| service.full_name().is_some());
    let all_listeners = listeners.len() == file.listeners.len();
    for (i, route) in file.routes.iter().enumerate() {
        p.within("route", i, |p| {
            if all_services {
                known_service(p, route.service.as_deref(), index);
            }
            for name in route.listeners.iter().filter(|name| all_listeners && !listeners.contains(&name.as_str())) {
                let known = listeners.iter().copied();
                p.unknown("listeners", format!("there is no listener {name:?}"), meant(name, known, "listener"));
            }
            for name in route
                .listeners
                .iter()
                .filter(|name| file.listeners.iter().any(|l| is_tcp(l) && l.name.as_ref() == Some(*name)))
            {
                p.add(
                    "listeners",
                    format!("listener {name:?} speaks {}: it has no requests to route", transport(file, name)),
                    "name http listeners only; a tcp listener names its service itself",
                );
            }
            if !file.listeners.iter().any(|listener| !is_tcp(listener)) && route.listeners.is_empty() {
                p.unknown("", "there is no listener for it", "add a [[listener]] with name and address");
            }
        });
    }
    for (i, listener) in file.listeners.iter().enumerate().filter(|(_, listener)| is_tcp(listener) && all_services) {
        p.within("listener", i, |p| {
            known_service(p, listener.service.as_deref(), index);
            for (j, rule) in listener.sni.iter().enumerate() {
                p.within("sni", j, |p| known_service(p, rule.service.as_deref(), index));
            }
        });
    }
}

/// Says what a listener that is named speaks.
fn transport(file: &File, name: &str) -> &'static str {
    let named = |listener: &&Listener| listener.name.as_deref() == Some(name);
    if file.listeners.iter().find(named).is_some_and(is_udp) { "udp" } else { "tcp" }
}

/// Returns whether it leads to services itself, instead of by routes.
fn is_tcp(listener: &Listener) -> bool {
    !matches!(listener.protocol, None | Some(ListenerProtocol::Http))
}

fn is_udp(listener: &Listener) -> bool {
    listener.protocol == Some(ListenerProtocol::Udp)
}

/// Records a reference to a service that does not exist.
fn known_service(p: &mut Problems, name: Option<&str>, index: &Index<'_>) {
    if let Some(name) = name.and_then(|name| ServiceName::parse(name).ok())
        && !index.0.contains_key(&name)
    {
        let known = index.0.keys().map(ServiceName::as_str);
        p.unknown(
            "service",
            format!("there is no service {:?}", name.as_str()),
            meant(name.as_str(), known, "service"),
        );
    }
}

/// Says which known name may be meant, or what to define.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>, list: &str) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("add a [[{list}]] with name = {:?}", name.rsplit('/').next().unwrap_or(name)),
    }
}

/// Records routes and listeners that lead to ports of another transport.
fn transports(p: &mut Problems, file: &File, index: &Index<'_>) {
    let check = |p: &mut Problems, service: Option<&str>, port: &Option<String>, udp: bool| {
        let Some(service) = index.find(service) else { return };
        let named = |named: &&Port| port.is_none() || named.name == *port;
        let found = service.ports.iter().find(named);
        let is_udp = found.is_some_and(|port| port.protocol == Some(Protocol::Udp));
        if is_udp != udp && (found.is_some() || port.is_none()) {
            let (name, hint) = match udp {
                true => ("not UDP", "name a UDP port of the service: [[service.port]] with protocol = \"udp\""),
                false => ("UDP", "name a TCP port of the service"),
            };
            let shown = found.and_then(|port| port.name.as_deref()).unwrap_or("http");
            p.add("port", format!("leads to port {shown:?}, which is {name}"), hint);
        }
    };
    for (i, route) in file.routes.iter().enumerate() {
        p.within("route", i, |p| check(p, route.service.as_deref(), &route.port, false));
    }
    for (i, listener) in file.listeners.iter().enumerate().filter(|(_, listener)| is_tcp(listener)) {
        p.within("listener", i, |p| {
            check(p, listener.service.as_deref(), &listener.port, is_udp(listener));
            for (j, rule) in listener.sni.iter().enumerate() {
                p.within("sni", j, |p| check(p, rule.service.as_deref(), &rule.port, false));
            }
        });
    }
}

/// Records routes that match the same requests: the later one would never be used.
fn patterns(p: &mut Problems, file: &File, line_of: LineOf<'_>) {
    let mut first: HashMap<(String, String, &str), usize> = HashMap::new();
    for (i, route) in file.routes.iter().enumerate() {
        let host = route.host.as_deref().unwrap_or("").to_ascii_lowercase();
        let path = route.path.as_deref().unwrap_or("/").trim_end_matches('/').to_owned();
        let http = file.listeners.iter().filter(|listener| !is_tcp(listener));
        let all: Vec<&str> = http.filter_map(|listener| listener.name.as_deref()).collect();
        let own: Vec<&str> = route.listeners.iter().map(String::as_str).collect();
        let mut same = None;
        for listener in if own.is_empty() { all } else { own } {
            let at = *first.entry((host.clone(), path.clone(), listener)).or_insert(i);
            same = same.or((at != i).then_some(at));
        }
        if let Some(at) = same {
            let other = file.routes.get(at).and_then(|route| route.name.as_deref()).unwrap_or_default();
            let line = line_of(&KeyPath::default().key("route").index(at));
            p.within("route", i, |p| {
                p.add("", format!("matches the same host and path as route {other:?}"), other_line(line));
            });
        }
    }
}

/// Returns true when replicas listen on ports of the machine.
fn takes_ports(run: &RunSpec) -> bool {
    run.container.as_ref().is_none_or(|container| container.address == ContainerAddress::Host)
}

/// Records folders of the machine that no container may be given.
fn binds(p: &mut Problems, loaded: &Loaded, file: &File) {
    let docker = &loaded.control.docker;
    for (i, service) in file.services.iter().enumerate() {
        let volumes =
            service.run.iter().filter(|run| run.image.is_some()).flat_map(|run| run.volumes.iter().enumerate());
        for (j, text) in volumes {
            let source = text.split(':').next().unwrap_or_default();
            if source.starts_with('/') && !docker.allows(Path::new(source)) {
                let key = KeyPath::default().key("service").index(i).key("run.volumes").index(j);
                let hint = format!("add binds = [{source:?}] or a folder above it to [docker]");
                p.at(&key, format!("{source} is not below a folder of docker.binds"), hint);
            }
        }
    }
}

/// Records replicas that need more ports than there are.
fn port_demand(p: &mut Problems, file: &File, loaded: &Loaded) {
    let range = &loaded.control.port_range;
    let offered = u64::from(range.end() - range.start()) + 1;
    let wanted: u64 = loaded
        .services
        .iter()
        .filter(|service| service.run.as_ref().is_some_and(takes_ports))
        .map(|service| u64::from(service.replicas) * service.ports.len() as u64)
        .sum();
    if wanted > offered {
        let key =
            if file.node.as_ref().is_some_and(|node| node.port_range.is_some()) { "node.port_range" } else { "node" };
        p.add(
            key,
            format!("holds {offered} ports; the replicas of all services need {wanted}"),
            "widen node.port_range or lower replicas",
        );
    }
}
