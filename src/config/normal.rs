//! A loaded configuration → the file that says the same, with every default written out.

use crate::config::acme;
use crate::config::addresses;
use crate::config::docker;
use crate::config::file::{
    Admin, AdminLimits, Control, Dns, DnsLimits, File, Level, Listen, Log, LogFormat, Node, OnExit, Proxy, ProxyLimits,
    ProxyTimeouts, Store,
};
use crate::config::http2;
use crate::config::loaded::Loaded;
use crate::config::naming;
use crate::config::places::DnsListen;
use crate::config::views;
use crate::config::{dns_log, dns_tls, forward, rate_limit, remote, source};
use crate::dns::Options as DnsOptions;
use crate::model::{self, ListenerSpec, PortSpec, RouteSpec, ServiceName};
use crate::proxy::Options as ProxyOptions;
use crate::spec::{Address, Listener, Range, Route, Service, Size};
use crate::telemetry::{Format, LogOptions};

impl Loaded {
    /// Writes the file that says the same; loading it again gives the same configuration.
    pub fn to_file(&self) -> File {
        File {
            node: Some(Node {
                name: self.control.node.as_ref().map(|node| node.as_str().to_owned()),
                workers: self.proxy.workers,
                pin: self.proxy.pin,
                port_range: Some(Range::new(self.control.port_range.clone())),
                workloads_on_exit: Some(match self.control.on_exit {
                    model::OnExit::Keep => OnExit::Keep,
                    model::OnExit::Stop => OnExit::Stop,
                }),
            }),
            admin: Some(self.write_admin()),
            dns: self.dns.as_ref().map(|dns| self.write_dns(dns)),
            store: Some(Store { path: Some(self.control.state.to_string_lossy().into_owned()) }),
            log: Some(write_log(&self.log)),
            proxy: Some(write_proxy(&self.proxy)),
            control: Some(Control {
                publish_interval: Some(self.control.publish_interval.into()),
                default_lease: Some(self.control.default_lease.into()),
                gone_listed: Some(self.control.gone_listed.into()),
                max_probes: Some(self.control.max_probes),
            }),
            listeners: self.listeners.iter().map(|listener| self.write_listener(listener)).collect(),
            docker: Some(docker::write(&self.control.docker)),
            acme: self.control.acme.as_ref().map(acme::write),
            source: self.control.sources.as_ref().map(source::write),
            routes: self.routes.iter().map(|route| self.write_route(route)).collect(),
            services: self.services.iter().map(|service| Service::from_model(service)).collect(),
        }
    }

    /// Writes that file as TOML.
    ///
    /// # Errors
    /// When a value has no form in TOML; none that was loaded has.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(&self.to_file())
    }

    fn write_admin(&self) -> Admin {
        let off = || "off".to_owned();
        Admin {
            listen: Some(self.admin.listen.map_or(Listen::Off, |address| Listen::At(Address::new(address)))),
            socket: Some(self.admin.socket.as_ref().map_or_else(off, |path| path.to_string_lossy().into_owned())),
            remote: self.admin.remote.as_ref().map(remote::write),
            limits: Some(AdminLimits {
                connections: Some(self.admin.connections),
                followers: Some(self.admin.followers),
                body: Some(Size::new(self.admin.body_bytes as u64)),
            }),
        }
    }

    fn write_dns(&self, dns: &DnsOptions) -> Dns {
        Dns { service_addresses: self.control.service_addresses.map(addresses::write), ..write_dns(dns) }
    }

    fn write_listener(&self, listener: &ListenerSpec) -> Listener {
        Listener::from_model(listener, |service| self.ports_of(service))
    }

    fn write_route(&self, route: &RouteSpec) -> Route {
        Route::from_model(route, self.ports_of(&route.service))
    }

    fn ports_of(&self, name: &ServiceName) -> &[PortSpec] {
        self.services.iter().find(|service| service.name == *name).map_or(&[], |service| &service.ports)
    }
}

fn write_dns(options: &DnsOptions) -> Dns {
    let (schemas, kubernetes, consul) = naming::write_schemas(options);
    let addresses = options.listen.iter().map(|address| DnsListen::At(Address::new(*address)));
    Dns {
        service_addresses: None,
        listen: Some(addresses.chain(options.containers.map(DnsListen::Containers)).collect()),
        zone: Some(options.zone.clone()),
        threads: Some(options.threads),
        negative_ttl: Some(options.negative_ttl.into()),
        tcp_idle: Some(options.tcp_idle.into()),
        limits: Some(DnsLimits {
            udp_answer: Some(Size::new(options.max_udp_bytes.into())),
            tcp_connections: Some(options.tcp_connections),
            tcp_connections_per_client: Some(options.tcp_connections_per_client),
        }),
        forward: options.forward.as_ref().map(forward::write),
        changed_ttl: Some(options.changed_ttl.into()),
        settle: Some(options.settle.into()),
        schemas: Some(schemas),
        kubernetes,
        consul,
        aliases: naming::write_aliases(&options.aliases),
        views: views::write(&options.views),
        tls: options.tls.as_ref().map(dns_tls::write),
        rate_limit: Some(rate_limit::write(&options.rate_limit)),
        nsid: options.nsid.as_deref().map(str::to_owned),
        log: options.log.as_ref().map(dns_log::write),
    }
}

fn write_log(options: &LogOptions) -> Log {
    Log {
        level: Some(match options.level {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        }),
        format: Some(options.format.into()),
        access: Some(options.access),
        access_format: Some(options.access_format.into()),
        access_queue: Some(options.access_queue),
    }
}

impl From<Format> for LogFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

fn write_proxy(options: &ProxyOptions) -> Proxy {
    let size = |octets: usize| Some(Size::new(octets as u64));
    Proxy {
        max_idle_per_endpoint: Some(options.max_idle_per_endpoint),
        pool_idle: Some(options.pool_idle.into()),
        limits: Some(ProxyLimits {
            connections: Some(options.limits.connections),
            head: size(options.limits.head_bytes),
            header_fields: Some(options.limits.header_fields),
            partial_heads: size(options.limits.partial_heads_bytes),
            uri: size(options.limits.uri_bytes),
            body: options.limits.body_bytes.map(Size::new),
            retry_body: size(options.limits.retry_body_bytes),
            memory: options.limits.memory_bytes.map(Size::new),
            handshakes: Some(options.limits.handshakes),
        }),
        http2: Some(http2::write(&options.http2)),
        timeouts: Some(ProxyTimeouts {
            handshake: Some(options.timeouts.handshake.into()),
            head: Some(options.timeouts.head.into()),
            keepalive: Some(options.timeouts.keepalive.into()),
            body_idle: Some(options.timeouts.body_idle.into()),
            body_min_bytes_per_second: Some(options.timeouts.body_min_bytes_per_second),
            answer_window: Some(options.timeouts.answer_window.into()),
            answer_min_bytes_per_second: Some(options.timeouts.answer_min_bytes_per_second),
            drain_idle: Some(options.timeouts.drain_idle.into()),
            drain: Some(options.timeouts.drain.into()),
        }),
    }
}
