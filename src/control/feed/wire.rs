//! The feed on the wire: JSON lines, one value each, the same in a stream, in a file, and in what is kept on disk.
//!
//! ```text
//! {"hello":{"format":1,…}}                              who speaks; once, first
//! {"begin":{"generation":7,"after":null,"by":[]}}       an update: whole (`after` null) or what changed since `after`
//! {"service":{"definition":{…},"endpoints":[…]}}        a service that is new or changed
//! {"remove":"name"}                                     a service that is gone
//! {"routes":[…]}                                        all routes, when they changed
//! {"end":{"generation":7,"lines":3}}                    the update is complete: only now it counts
//! {"heartbeat":{"generation":7}}                        nothing changed
//! ```

use crate::control::feed::authorities::Authorities;
use crate::control::feed::table::{FedEndpoint, FedService};
use crate::model::{InstanceId, PortSpec, RouteSpec, ServiceSpec, ToldSpec};
use crate::spec;
use crate::table::{Endpoint, Service, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The version of the format; a reader takes no other.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Hello(Hello),
    Begin(Begin),
    Service(Box<ServiceLine>),
    Remove(String),
    Routes(Vec<spec::Route>),
    End(End),
    Heartbeat(Heartbeat),
}

/// Who speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) format: u32,
    /// Version of the Weir that speaks, for people.
    pub(super) weir: String,
    /// Its machine.
    pub(super) node: String,
    /// What its generations are counted in: another after each start.
    pub(super) epoch: String,
    /// What the subscriber called this subscription: an older stream has another.
    pub(super) session: String,
    /// A line follows at least this often, in milliseconds.
    pub(super) heartbeat_ms: u64,
}

/// Begins an update.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) generation: u64,
    /// The generation that it changes; `None`: it is whole.
    pub(super) after: Option<u64>,
    /// The Weirs by which it came to who speaks, the nearest first, as their epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) by: Vec<String>,
}

/// Ends an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) generation: u64,
    /// Lines between the two.
    pub(super) lines: usize,
}

/// Says that nothing changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heartbeat {
    pub(super) generation: u64,
    /// As in `begin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) by: Vec<String>,
}

/// A service with its endpoints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ServiceLine {
    /// Without how replicas are run and sized: nobody but who runs them needs that, and secrets may be in it.
    pub(super) definition: spec::Service,
    pub(super) endpoints: Vec<EndpointLine>,
    /// The authorities that its endpoints' certificates are checked against, PEM; absent: the file that it names is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) authorities: Option<String>,
    /// How its replicas are sized, as far as others need it; absent: no Weir runs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<RunLine>,
}

/// What others need to know of how replicas are sized, so that they hold requests for a first one and count what is late.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct RunLine {
    pub(super) wakes: bool,
    pub(super) wake_timeout_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) latency_us: Option<u64>,
}

/// An endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EndpointLine {
    pub(super) id: String,
    pub(super) address: IpAddr,
    pub(super) ports: Vec<u16>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) meta: BTreeMap<String, String>,
    /// The verdict of whoever checks it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) unhealthy: bool,
    /// Withdrawn: it only finishes what it has.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) draining: bool,
}

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Line {
    /// Appends the line to a buffer.
    pub(super) fn write(&self, buffer: &mut Vec<u8>) {
        // Writing to memory does not fail, and every value here has a form in JSON.
        if serde_json::to_writer(&mut *buffer, self).is_ok() {
            buffer.push(b'\n');
        }
    }

    /// Returns the line of a service as it is in a table.
    pub(super) fn service(service: &Service, authorities: &Authorities) -> Self {
        let ready = service.endpoints.iter().zip(&service.candidates).map(|pair| (pair, false));
        let leaving = service.draining.iter().map(|(endpoint, candidate)| ((endpoint, candidate), true));
        let endpoint = |((endpoint, candidate), draining)| {
            let endpoint: &Endpoint = endpoint;
            let candidate: &crate::balance::Candidate = candidate;
            FedEndpoint {
                id: endpoint.id.clone(),
                address: endpoint.address,
                ports: endpoint.ports.to_vec(),
                weight: candidate.weight,
                traits: endpoint.traits.clone(),
                unhealthy: !candidate.healthy,
                draining,
            }
        };
        let endpoints = ready.chain(leaving).map(endpoint).collect();
        let spec = ServiceSpec { tls: authorities.told(&service.spec), ..told(service) };
        Self::fed(&FedService { spec: Arc::new(spec), endpoints })
    }

    /// Returns the line of a service as it was told.
    pub(super) fn fed(service: &FedService) -> Self {
        let endpoints = service.endpoints.iter().map(|endpoint| {
            let (zone, tags, meta) = spec::written(endpoint.traits.as_deref());
            EndpointLine {
                id: endpoint.id.to_string(),
                address: endpoint.address,
                ports: endpoint.ports.clone(),
                weight: endpoint.weight,
                zone,
                tags,
                meta,
                unhealthy: endpoint.unhealthy,
                draining: endpoint.draining,
            }
        });
        let definition = spec::Service::from_model(&service.spec);
        let run = service.spec.told.map(|told| RunLine {
            wakes: told.wakes,
            wake_timeout_ms: u64::try_from(told.wake_timeout.as_millis()).unwrap_or(u64::MAX),
            latency_us: told.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
        });
        let authorities = service.spec.tls.as_ref().and_then(|tls| tls.authorities.as_deref().map(str::to_owned));
        Self::Service(Box::new(ServiceLine { definition, endpoints: endpoints.collect(), authorities, run }))
    }

    /// Returns the line of the routes of a table.
    pub(super) fn routes(snapshot: &Snapshot) -> Self {
        Self::of_routes(snapshot.routes.specs(), |route| {
            snapshot.services.get(&route.service).map_or(&[], |service| &service.spec.ports)
        })
    }

    /// Returns the line of some routes; `ports` are those of a route's service.
    pub(super) fn of_routes<'a>(routes: &[RouteSpec], ports: impl Fn(&RouteSpec) -> &'a [PortSpec]) -> Self {
        Self::Routes(routes.iter().map(|route| spec::Route::from_model(route, ports(route))).collect())
    }
}

/// Returns a definition as others are told it.
fn told(service: &Service) -> ServiceSpec {
    let spec = &service.spec;
    let run = spec.is_run().then(|| ToldSpec {
        wakes: service.may_wake(),
        wake_timeout: spec.wake_timeout(),
        latency: spec.scaled_by(),
    });
    let mut told = ServiceSpec {
        endpoints: Vec::new(),
        run: None,
        replicas: 0,
        scale: None,
        told: run,
        resolve: None,
        revision: 0,
        ..ServiceSpec::clone(spec)
    };
    // What the numbers follow from is not told.
    let declared: Vec<_> = (0..spec.ports.len()).map(|port| spec.declared(port)).collect();
    for (port, declared) in told.ports.iter_mut().zip(declared) {
        port.serve = declared;
    }
    told
}

impl ServiceLine {
    /// Converts it.
    pub(super) fn read(&self) -> Result<FedService, String> {
        let named = || self.definition.name.as_deref().unwrap_or_default().to_owned();
        let mut spec = self.definition.to_model().map_err(|problems| {
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            format!("service {:?}: {first}", named())
        })?;
        if spec.run.is_some() || spec.resolve.is_some() || !spec.endpoints.is_empty() {
            return Err(format!("service {:?}: a table says nothing of how endpoints come to be", named()));
        }
        spec.told = self.run.map(|run| ToldSpec {
            wakes: run.wakes,
            wake_timeout: Duration::from_millis(run.wake_timeout_ms),
            latency: run.latency_us.map(Duration::from_micros),
        });
        if let (Some(tls), Some(text)) = (&mut spec.tls, &self.authorities) {
            Arc::make_mut(tls).authorities = Some(text.as_str().into());
        }
        let endpoints = self.endpoints.iter().map(EndpointLine::read).collect::<Result<_, _>>();
        Ok(FedService {
            spec: Arc::new(spec),
            endpoints: endpoints.map_err(|why| format!("service {:?}: {why}", named()))?,
        })
    }
}

impl EndpointLine {
    fn read(&self) -> Result<FedEndpoint, String> {
        let id = InstanceId::parse(&self.id).map_err(|error| error.to_string())?;
        let mut problems = spec::Problems::new();
        let said = spec::Said { zone: self.zone.as_deref(), tags: &self.tags, meta: &self.meta };
        let traits = said.read(&mut problems);
        if let Some(problem) = problems.into_vec().first() {
            return Err(format!("endpoint {id}: {problem}"));
        }
        Ok(FedEndpoint {
            id,
            address: self.address,
            ports: self.ports.clone(),
            weight: self.weight,
            traits,
            unhealthy: self.unhealthy,
            draining: self.draining,
        })
    }
}
