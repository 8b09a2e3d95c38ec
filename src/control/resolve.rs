//! Endpoints that DNS names → registry: asked for when their TTL is over, the last good ones kept while nobody answers.
//!
//! One task for each such service, which `discovery.rs` starts and ends. What changes is contributed in one publish; who is
//! no longer named leaves by `leaving.rs`, as one that the configuration no longer lists. An answer without records changes
//! nothing: a name that fails for a moment must not empty a service. Follows RFC 1035 §7, RFC 2782.

use crate::clock;
use crate::control::events::{EventKind, Events};
use crate::control::leaving::Leaving;
use crate::control::registry::{Contribution, Registration};
use crate::model::{InstanceId, NodeId, ResolveKind, ResolveSpec, ServiceName, StaticEndpoint};
use crate::rng::Rng;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use xxhash_rust::xxh3::xxh3_64;

/// An answer is asked for again after its TTL, within these.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// After a failure it is asked for again after the first, then twice as long, up to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// One question, with its repetitions.
const QUESTION: Duration = Duration::from_secs(5);
/// Endpoints that one name may have.
const MAX_ENDPOINTS: usize = 1000;
/// Largest weight of an endpoint; SRV has up to 65535.
const MAX_WEIGHT: u32 = 1000;
/// Parts by which waits differ, so that services do not ask all at once.
const JITTER: f64 = 0.1;

/// What DNS names now, by id; shared by the task and `discovery.rs`, which withdraws it when the service is no longer resolved.
pub(super) type Known = Arc<Mutex<BTreeMap<InstanceId, StaticEndpoint>>>;

/// The task of one service.
#[derive(Debug)]
pub(super) struct Resolving {
    pub(super) service: ServiceName,
    pub(super) spec: Arc<ResolveSpec>,
    pub(super) node: NodeId,
    pub(super) leaving: Leaving,
    pub(super) events: Events,
    pub(super) known: Known,
}

/// What was found, and how long it holds.
#[derive(Debug)]
struct Found {
    endpoints: Vec<StaticEndpoint>,
    ttl: Duration,
}

impl Resolving {
    /// Asks and contributes until it is aborted.
    pub(super) async fn run(mut self) {
        let (mut failed, mut rng) = (0_u32, Rng::from_os());
        loop {
            let found = find(&self.spec).await;
            let wait = match found {
                Ok(found) => {
                    if failed > 0 {
                        tracing::info!(service = %self.service, name = %self.spec.name, "the endpoints are resolved again");
                    }
                    failed = 0;
                    self.take(found.endpoints).await;
                    found.ttl.clamp(TTL.0, TTL.1)
                }
                Err(why) => {
                    if failed == 0 {
                        self.tell(&why);
                    }
                    failed += 1;
                    RETRY.0.saturating_mul(1 << failed.saturating_sub(1).min(10)).min(RETRY.1)
                }
            };
            sleep(rng.jitter(wait, JITTER)).await;
        }
    }

    fn tell(&self, why: &str) {
        let kept = self.known().len();
        let message = format!("{:?} was not resolved: {why}; {kept} endpoints are kept", &*self.spec.name);
        self.events.emit(
            self.leaving.generation(),
            EventKind::ResolveFailed,
            Some(self.service.clone()),
            None,
            message,
        );
    }

    fn known(&self) -> BTreeMap<InstanceId, StaticEndpoint> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Contributes what differs.
    async fn take(&mut self, endpoints: Vec<StaticEndpoint>) {
        let before = self.known();
        let listed = endpoints.into_iter().map(|endpoint| (endpoint_id(&self.service, &endpoint), endpoint));
        let after: BTreeMap<InstanceId, StaticEndpoint> = listed.collect();
        if before == after {
            return;
        }
        let contribution = Contribution {
            withdraw: before.keys().filter(|id| !after.contains_key(id)).cloned().collect(),
            register: after
                .iter()
                .filter(|(id, endpoint)| before.get(id) != Some(endpoint))
                .map(|(id, endpoint)| Registration::listed(&self.service, id.clone(), endpoint, &self.node))
                .collect(),
            ..Contribution::default()
        };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = after;
        let back = self.leaving.call_back(&contribution);
        if let Err(error) = self.leaving.registry().contribute(contribution.clone()).await {
            tracing::warn!(service = %self.service, %error, "failed to take up what DNS names");
        }
        self.leaving.restore(back).await;
        self.leaving.see_off(contribution.withdraw, Vec::new());
    }
}

fn endpoint_id(service: &ServiceName, endpoint: &StaticEndpoint) -> InstanceId {
    let place = format!("{service} {} {:?}", endpoint.address, endpoint.ports);
    InstanceId::random(service, xxh3_64(place.as_bytes()))
}

/// Asks for everything that a definition needs.
async fn find(spec: &ResolveSpec) -> Result<Found, String> {
    let resolver = resolver(spec)?;
    let mut name = Name::from_ascii(&*spec.name).map_err(|error| error.to_string())?;
    name.set_fqdn(true);
    let mut found = match spec.kind {
        ResolveKind::Service => services(&resolver, name, spec).await?,
        ResolveKind::V4 => hosts(&resolver, &name, &[RecordType::A]).await?.endpoints(spec, spec.ports.first(), 1),
        ResolveKind::V6 => hosts(&resolver, &name, &[RecordType::AAAA]).await?.endpoints(spec, spec.ports.first(), 1),
        ResolveKind::Address => {
            let kinds = [RecordType::A, RecordType::AAAA];
            hosts(&resolver, &name, &kinds).await?.endpoints(spec, spec.ports.first(), 1)
        }
    };
    found.endpoints.retain(|endpoint| !endpoint.address.is_unspecified() && !endpoint.address.is_multicast());
    found.endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.ports.clone()));
    found.endpoints.dedup_by(|a, b| a.address == b.address && a.ports == b.ports);
    found.endpoints.truncate(MAX_ENDPOINTS);
    if found.endpoints.is_empty() {
        return Err("the answer names no address that can be connected to".to_owned());
    }
    Ok(found)
}

fn resolver(spec: &ResolveSpec) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let config = if spec.servers.is_empty() {
        let (config, _) = hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| format!("/etc/resolv.conf cannot be read: {error}"))?;
        config
    } else {
        let servers = spec.servers.iter().map(|server| {
            let mut connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            for connection in &mut connections {
                connection.port = server.port();
            }
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        ResolverConfig::from_name_servers(servers.collect())
    };
    let mut builder = TokioResolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = Duration::from_secs(2);
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.case_randomization = true;
    builder.build().map_err(|error| error.to_string())
}

/// Addresses of one name.
#[derive(Debug)]
struct Hosts {
    addresses: Vec<IpAddr>,
    ttl: Duration,
}

impl Hosts {
    fn endpoints(self, spec: &ResolveSpec, port: Option<&u16>, weight: u32) -> Found {
        let ports = || {
            let first = port.copied().unwrap_or_default();
            [first].into_iter().chain(spec.ports.iter().skip(1).copied()).collect()
        };
        let endpoint =
            |address: IpAddr| StaticEndpoint { address: address.to_canonical(), ports: ports(), weight, traits: None };
        Found { endpoints: self.addresses.into_iter().map(endpoint).collect(), ttl: self.ttl }
    }
}

/// Asks for the addresses of a name; one family may have none, and what cannot be asked for fails all of it.
async fn hosts(resolver: &TokioResolver, name: &Name, kinds: &[RecordType]) -> Result<Hosts, String> {
    let mut found = Hosts { addresses: Vec::new(), ttl: TTL.1 };
    let mut nothing = None;
    for kind in kinds {
        match ask(resolver, name.clone(), *kind).await {
            Ok((data, ttl)) => {
                found.addresses.extend(data.iter().filter_map(RData::ip_addr));
                found.ttl = found.ttl.min(ttl);
            }
            Err((why, true)) => nothing = Some(why),
            Err((why, false)) => return Err(why),
        }
    }
    match nothing {
        Some(why) if found.addresses.is_empty() => Err(why),
        _ => Ok(found),
    }
}

/// Asks for services and the addresses of their targets: those of the lowest priority only, RFC 2782.
async fn services(resolver: &TokioResolver, name: Name, spec: &ResolveSpec) -> Result<Found, String> {
    let (data, mut ttl) = ask(resolver, name, RecordType::SRV).await.map_err(|(why, _)| why)?;
    let records = data.iter().filter_map(|data| if let RData::SRV(srv) = data { Some(srv) } else { None });
    let records: Vec<_> = records.filter(|srv| !srv.target.is_root()).collect();
    let first = records.iter().map(|srv| srv.priority).min();
    let mut endpoints = Vec::new();
    for srv in records.iter().filter(|srv| Some(srv.priority) == first).take(MAX_ENDPOINTS) {
        let weight = u32::from(srv.weight).clamp(1, MAX_WEIGHT);
        let found = hosts(resolver, &srv.target, &[RecordType::A, RecordType::AAAA]).await?;
        ttl = ttl.min(found.ttl);
        endpoints.extend(found.endpoints(spec, Some(&srv.port), weight).endpoints);
    }
    Ok(Found { endpoints, ttl })
}

/// Asks one question; the failure says whether the answer was that there is nothing.
async fn ask(resolver: &TokioResolver, name: Name, kind: RecordType) -> Result<(Vec<RData>, Duration), (String, bool)> {
    let lookup = match timeout(QUESTION, resolver.lookup(name, kind)).await {
        Err(_) => return Err(("nobody answered".to_owned(), false)),
        Ok(Err(error)) => return Err((error.to_string(), error.is_no_records_found())),
        Ok(Ok(lookup)) => lookup,
    };
    let ttl = lookup.valid_until().saturating_duration_since(clock::now());
    Ok((lookup.answers().iter().map(|record| record.data.clone()).collect(), ttl))
}
