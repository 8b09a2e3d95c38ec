//! File value → the `Options` that each module owns, and the definitions as used.

use crate::admin::Options as AdminOptions;
use crate::config::acme;
use crate::config::addresses;
use crate::config::bounds::{size, time, within};
use crate::config::dns_log;
use crate::config::dns_tls;
use crate::config::docker;
use crate::config::environment::Environment;
use crate::config::file::{Admin, Control, Dns, File, Level, Listen, Log, LogFormat, Node, OnExit, Proxy};
use crate::config::forward;
use crate::config::http2;
use crate::config::loaded::Loaded;
use crate::config::naming;
use crate::config::rate_limit;
use crate::config::relations::{self, Index};
use crate::config::remote;
use crate::config::source;
use crate::config::views;
use crate::control::Options as ControlOptions;
use crate::dns::Options as DnsOptions;
use crate::model::{self, NodeId, parse_label};
use crate::proxy::{Limits as ProxyLimits, Options as ProxyOptions, Timeouts as ProxyTimeouts};
use crate::spec::{Address, Duration, KeyPath, Listener, Problem, Problems, Service, Size};
use crate::telemetry::{Format, LogOptions};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration as Time;

/// Longest path of a Unix socket in octets, without its final NUL: `sockaddr_un` on Linux.
const MAX_SOCKET_OCTETS: usize = 107;
/// Least memory budget, in octets.
const MIN_MEMORY: u64 = 16 << 20;
/// Longest DNS zone in octets: a service, namespace, port and protocol label still fit in a name of 253.
const MAX_ZONE_OCTETS: usize = 64;
const SECOND: Time = Time::from_secs(1);
const DAY: Time = Time::from_secs(24 * 3600);
const MAX: Time = Time::from_secs(365 * 24 * 3600);
const MS: Time = Time::from_millis(1);

/// Builds what the file says; `line_of` tells the line of a key for hints. `None` only together with problems.
pub(super) fn build(
    file: &File,
    environment: &Environment,
    line_of: &dyn Fn(&KeyPath) -> Option<usize>,
) -> (Option<Loaded>, Vec<Problem>) {
    let mut problems = Problems::new();
    let p = &mut problems;
    let index = Index::new(file);
    let (node, pin) = read_node(p, &file.node.clone().unwrap_or_default());
    let state = read_state(p, file, environment);
    let control = read_control(p, file, environment, node, &state);
    let own = control.service_addresses;
    let loaded = Loaded {
        control,
        proxy: read_proxy(p, &file.proxy.clone().unwrap_or_default(), pin),
        dns: file.dns.as_ref().map(|section| read_dns(p, section, own)),
        admin: read_admin(p, file, &state),
        log: read_log(p, &file.log.clone().unwrap_or_default()),
        listeners: collect(p, "listener", &file.listeners, |listener| {
            listener.to_model(&|service| index.find(service).map(Service::port_names))
        }),
        services: collect(p, "service", &file.services, |service| service.to_model().map(Arc::new)),
        routes: collect(p, "route", &file.routes, |route| {
            route.to_model(index.find(route.service.as_deref()).map(Service::port_names).as_deref())
        }),
    };
    relations::check(p, file, &index, &loaded, line_of);
    let problems = problems.into_vec();
    (problems.is_empty().then_some(loaded), problems)
}

/// Converts each definition of a list and collects their problems.
fn collect<D, M>(
    p: &mut Problems,
    list: &str,
    definitions: &[D],
    convert: impl Fn(&D) -> Result<M, Vec<Problem>>,
) -> Vec<M> {
    let mut models = Vec::with_capacity(definitions.len());
    for (i, definition) in definitions.iter().enumerate() {
        match convert(definition) {
            Ok(model) => models.push(model),
            Err(problems) => p.within(list, i, |p| p.extend(problems)),
        }
    }
    models
}

/// What `[node]` says to the control plane.
struct NodeValues {
    name: Option<NodeId>,
    ports: RangeInclusive<u16>,
    on_exit: model::OnExit,
}

/// What `[node]` says to the data plane: workers and pinning.
type Workers = (Option<usize>, Option<bool>);

fn read_node(p: &mut Problems, node: &Node) -> (NodeValues, Workers) {
    let name = node.name.as_deref().and_then(|name| {
        NodeId::parse(name)
            .map_err(|error| p.add("node.name", error.to_string(), "use one DNS label, such as \"node-1\""))
            .ok()
    });
    let workers = node.workers.map(|workers| within(p, "node.workers", Some(workers), 1, &(1..=512)));
    let ports = node.port_range.as_ref().map_or(ControlOptions::default().port_range, crate::spec::Range::get);
    if *ports.start() < 1024 {
        p.add("node.port_range", "begins below 1024", "those ports belong to the system: begin at 1024 or above");
    }
    let on_exit = match node.workloads_on_exit {
        None => model::OnExit::default(),
        Some(OnExit::Keep) => model::OnExit::Keep,
        Some(OnExit::Stop) => model::OnExit::Stop,
    };
    (NodeValues { name, ports, on_exit }, (workers, node.pin))
}

fn read_state(p: &mut Problems, file: &File, environment: &Environment) -> PathBuf {
    match file.store.as_ref().and_then(|store| store.path.as_deref()) {
        Some("") => p.add("store.path", "is empty", "write a directory, such as \"/var/lib/weir\""),
        Some(path) => return path.into(),
        None => match environment.default_state() {
            Some(path) => return path,
            None => p.add(
                "store.path",
                "has no default here: neither XDG_STATE_HOME nor HOME is set",
                "write a directory, such as path = \"/var/lib/weir\", or set WEIR_STORE_PATH",
            ),
        },
    }
    PathBuf::new()
}

fn read_control(
    p: &mut Problems,
    file: &File,
    environment: &Environment,
    node: NodeValues,
    state: &Path,
) -> ControlOptions {
    let section: Control = file.control.clone().unwrap_or_default();
    let defaults = ControlOptions::default();
    ControlOptions {
        node: node.name,
        state: state.to_owned(),
        port_range: node.ports,
        on_exit: node.on_exit,
        publish_interval: time(
            p,
            "control.publish_interval",
            section.publish_interval,
            defaults.publish_interval,
            Time::ZERO..=SECOND,
        ),
        default_lease: time(p, "control.default_lease", section.default_lease, defaults.default_lease, SECOND..=DAY),
        gone_listed: time(p, "control.gone_listed", section.gone_listed, defaults.gone_listed, Time::ZERO..=DAY),
        max_probes: within(p, "control.max_probes", section.max_probes, defaults.max_probes, &(1..=65_536)),
        docker: docker::read(p, file, environment),
        acme: acme::read(p, file.acme.as_ref(), file.listeners.iter().any(Listener::is_plain_http)),
        sources: source::read(p, file.source.as_ref()),
        service_addresses: addresses::read(p, file.dns.as_ref()),
    }
}

fn read_proxy(p: &mut Problems, section: &Proxy, (workers, pin): Workers) -> ProxyOptions {
    let defaults = ProxyOptions::default();
    let idle = section.max_idle_per_endpoint;
    ProxyOptions {
        workers,
        pin,
        limits: read_proxy_limits(p, section),
        http2: http2::read(p, &section.http2.clone().unwrap_or_default()),
        timeouts: read_proxy_timeouts(p, section),
        max_idle_per_endpoint: within(
            p,
            "proxy.max_idle_per_endpoint",
            idle,
            defaults.max_idle_per_endpoint,
            &(0..=65_536),
        ),
        pool_idle: time(p, "proxy.pool_idle", section.pool_idle, defaults.pool_idle, MS..=DAY),
    }
}

fn read_proxy_limits(p: &mut Problems, section: &Proxy) -> ProxyLimits {
    let defaults = ProxyLimits::default();
    let limits = section.limits.clone().unwrap_or_default();
    let head = size(p, "proxy.limits.head", limits.head, defaults.head_bytes, 1024..=1 << 20);
    let uri = limits.uri.map_or_else(|| defaults.uri_bytes.min(head), Size::octets);
    if uri == 0 {
        p.add("proxy.limits.uri", "is zero", "write a size above zero; \"16KiB\" is the default");
    } else if uri > head {
        let (uri, head) = (Size::new(uri as u64), Size::new(head as u64));
        p.add(
            "proxy.limits.uri",
            format!("{uri} is above head {head}"),
            "the target is part of the head: lower uri or raise head",
        );
    }
    if let Some(memory) = limits.memory.filter(|memory| memory.get() < MIN_MEMORY) {
        let hint = format!("write at least \"{}\": what an idle process needs", Size::new(MIN_MEMORY));
        p.add("proxy.limits.memory", format!("is {memory}"), hint);
    }
    ProxyLimits {
        connections: within(p, "proxy.limits.connections", limits.connections, defaults.connections, &(1..=10_000_000)),
        head_bytes: head,
        header_fields: within(
            p,
            "proxy.limits.header_fields",
            limits.header_fields,
            defaults.header_fields,
            &(1..=4096),
        ),
        partial_heads_bytes: size(
            p,
            "proxy.limits.partial_heads",
            limits.partial_heads,
            defaults.partial_heads_bytes,
            64 << 10..=1 << 40,
        ),
        uri_bytes: uri,
        memory_bytes: limits.memory.map(Size::get),
        body_bytes: limits.body.map(Size::get),
        retry_body_bytes: size(
            p,
            "proxy.limits.retry_body",
            limits.retry_body,
            defaults.retry_body_bytes,
            0..=16 << 20,
        ),
        handshakes: within(p, "proxy.limits.handshakes", limits.handshakes, defaults.handshakes, &(1..=65_536)),
    }
}

fn read_proxy_timeouts(p: &mut Problems, section: &Proxy) -> ProxyTimeouts {
    let defaults = ProxyTimeouts::default();
    let timeouts = section.timeouts.clone().unwrap_or_default();
    let drain = time(p, "proxy.timeouts.drain", timeouts.drain, defaults.drain, Time::ZERO..=MAX);
    let drain_idle = timeouts.drain_idle.map_or_else(|| defaults.drain_idle.min(drain), Duration::get);
    if drain_idle > drain {
        let (idle, drain) = (Duration::new(drain_idle), Duration::new(drain));
        p.add("proxy.timeouts.drain_idle", format!("{idle} is above drain {drain}"), "lower drain_idle or raise drain");
    }
    ProxyTimeouts {
        handshake: time(p, "proxy.timeouts.handshake", timeouts.handshake, defaults.handshake, MS..=MAX),
        head: time(p, "proxy.timeouts.head", timeouts.head, defaults.head, MS..=MAX),
        keepalive: time(p, "proxy.timeouts.keepalive", timeouts.keepalive, defaults.keepalive, MS..=MAX),
        body_idle: time(p, "proxy.timeouts.body_idle", timeouts.body_idle, defaults.body_idle, MS..=MAX),
        body_min_bytes_per_second: timeouts.body_min_bytes_per_second.unwrap_or(defaults.body_min_bytes_per_second),
        answer_window: time(
            p,
            "proxy.timeouts.answer_window",
            timeouts.answer_window,
            defaults.answer_window,
            MS..=MAX,
        ),
        answer_min_bytes_per_second: timeouts
            .answer_min_bytes_per_second
            .unwrap_or(defaults.answer_min_bytes_per_second),
        drain_idle,
        drain,
    }
}

fn read_dns(p: &mut Problems, section: &Dns, own: Option<(Ipv4Addr, u8)>) -> DnsOptions {
    let defaults = DnsOptions::default();
    let limits = section.limits.clone().unwrap_or_default();
    let listed = section.listen.as_ref();
    let listen = listed.map_or(defaults.listen, |list| list.iter().filter_map(|place| place.address()).collect());
    let containers = listed.and_then(|list| list.iter().find_map(|place| place.port()));
    if section.listen.as_ref().is_some_and(Vec::is_empty) {
        p.unknown("dns.listen", "is empty", "write an address, or remove [dns] to run no DNS server");
    }
    let answer = size(p, "dns.limits.udp_answer", limits.udp_answer, defaults.max_udp_bytes.into(), 512..=4096);
    let negative_ttl = whole_seconds(p, "dns.negative_ttl", section.negative_ttl, defaults.negative_ttl);
    let zone = section.zone.as_deref().map_or(defaults.zone, |zone| read_zone(p, zone));
    let sections = (section.kubernetes.as_ref(), section.consul.as_ref());
    let schemas = naming::read_schemas(p, section.schemas.as_deref(), sections, &zone);
    DnsOptions {
        forward: section.forward.as_ref().map(|forward| forward::read(p, forward, &listen, &zone)),
        listen,
        zone,
        containers,
        threads: within(p, "dns.threads", section.threads, defaults.threads, &(1..=64)),
        service_addresses: own,
        negative_ttl,
        max_udp_bytes: u16::try_from(answer).unwrap_or(defaults.max_udp_bytes),
        tcp_connections: within(
            p,
            "dns.limits.tcp_connections",
            limits.tcp_connections,
            defaults.tcp_connections,
            &(1..=1_000_000),
        ),
        tcp_connections_per_client: within(
            p,
            "dns.limits.tcp_connections_per_client",
            limits.tcp_connections_per_client,
            defaults.tcp_connections_per_client,
            &(1..=1_000_000),
        ),
        tls: section.tls.as_ref().map(|tls| dns_tls::read(p, tls)),
        rate_limit: rate_limit::read(p, &section.rate_limit.clone().unwrap_or_default()),
        nsid: dns_log::read_nsid(p, section.nsid.as_deref()),
        log: section.log.as_ref().map(|log| dns_log::read(p, log)),
        tcp_idle: time(p, "dns.tcp_idle", section.tcp_idle, defaults.tcp_idle, MS..=DAY),
        changed_ttl: whole_seconds(p, "dns.changed_ttl", section.changed_ttl, defaults.changed_ttl),
        settle: time(p, "dns.settle", section.settle, defaults.settle, Time::ZERO..=DAY),
        schemas,
        aliases: naming::read_aliases(p, &section.aliases),
        views: views::read(p, &section.views),
    }
}

/// Returns a TTL or its default; records one that is no number of seconds.
fn whole_seconds(p: &mut Problems, key: &str, value: Option<Duration>, default: Time) -> Time {
    let ttl = time(p, key, value, default, Time::ZERO..=DAY);
    if ttl.subsec_nanos() != 0 {
        let message = format!("{} is not in whole seconds", Duration::new(ttl));
        p.add(key, message, "DNS counts in seconds: write \"1s\"");
    }
    ttl
}

/// Reads a zone; returns it in lower case without the final dot.
fn read_zone(p: &mut Problems, zone: &str) -> String {
    let lower = zone.strip_suffix('.').unwrap_or(zone).to_ascii_lowercase();
    if lower.len() > MAX_ZONE_OCTETS {
        p.add(
            "dns.zone",
            format!("is longer than {MAX_ZONE_OCTETS} characters"),
            "the names of services must fit before it",
        );
    } else if let Some(error) = lower.split('.').find_map(|label| parse_label(label, MAX_ZONE_OCTETS - 1).err()) {
        p.add(
            "dns.zone",
            format!("{zone:?} is no zone: {error}"),
            "write labels separated by dots, such as \"weir.internal\"",
        );
    }
    lower
}

fn read_admin(p: &mut Problems, file: &File, state: &Path) -> AdminOptions {
    let section: Admin = file.admin.clone().unwrap_or_default();
    let defaults = AdminOptions::default();
    let limits = section.limits.clone().unwrap_or_default();
    let listen = match section.listen {
        None => defaults.listen,
        Some(Listen::Off) => None,
        Some(Listen::At(address)) => Some(address.get()),
    };
    if let Some(address) = listen.filter(|address| !address.ip().is_loopback()) {
        let hint = format!(
            "the API has no password: write \"127.0.0.1:{}\", and reach it through ssh or its socket",
            address.port()
        );
        p.add("admin.listen", format!("{} is not a loopback address", Address::new(address)), hint);
    }
    let socket = match section.socket.as_deref() {
        None => Some(state.join("weir.sock")),
        Some("off") => None,
        Some("") => {
            p.add("admin.socket", "is empty", "write a path, or \"off\"");
            None
        }
        Some(path) => Some(path.into()),
    };
    let octets = socket.as_ref().map_or(0, |path: &PathBuf| path.as_os_str().len());
    if octets > MAX_SOCKET_OCTETS {
        let message =
            format!("the path of the admin socket has {octets} characters, at most {MAX_SOCKET_OCTETS} are possible");
        p.add(socket_key(file), message, "write a shorter admin.socket or store.path");
    }
    AdminOptions {
        listen,
        socket,
        remote: remote::read(p, section.remote.as_ref()),
        connections: within(p, "admin.limits.connections", limits.connections, defaults.connections, &(1..=65_536)),
        followers: within(p, "admin.limits.followers", limits.followers, defaults.followers, &(1..=65_536)),
        body_bytes: size(p, "admin.limits.body", limits.body, defaults.body_bytes, 1024..=1 << 30),
    }
}

/// Returns the key that decides where the admin socket is.
fn socket_key(file: &File) -> &'static str {
    let own = file.admin.as_ref().is_some_and(|admin| admin.socket.is_some());
    let store = file.store.as_ref().is_some_and(|store| store.path.is_some());
    if store && !own { "store.path" } else { "admin.socket" }
}

fn read_log(p: &mut Problems, section: &Log) -> LogOptions {
    let defaults = LogOptions::default();
    LogOptions {
        level: section.level.map_or(defaults.level, Into::into),
        format: section.format.map_or(defaults.format, Into::into),
        access: section.access.unwrap_or(defaults.access),
        access_format: section.access_format.map_or(defaults.access_format, Into::into),
        access_queue: within(p, "log.access_queue", section.access_queue, defaults.access_queue, &(1..=1_000_000)),
    }
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}
