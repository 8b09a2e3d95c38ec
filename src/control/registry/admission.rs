//! Whether a registration may enter, and in which state. Pure.

use crate::control::registry::{Registration, RegistryError};
use crate::model::{Instance, InstanceState, Protocol, ServiceSpec, Source};
use std::net::IpAddr;
use std::time::Duration;

/// Shortest lease: below it a renewal would be a busy loop.
const MIN_LEASE: Duration = Duration::from_millis(100);

/// Longest lease: whoever needs more wants no lease.
const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

/// Largest weight, as in the configuration.
const MAX_WEIGHT: u32 = 1000;

/// Checks a registration against its service and completes its ports.
///
/// # Errors
/// [`RegistryError::Invalid`] names what is wrong.
pub(super) fn check(mut registration: Registration, spec: &ServiceSpec) -> Result<Registration, RegistryError> {
    let invalid = |message: String| Err(RegistryError::Invalid(message));
    if registration.ports.len() > spec.ports.len() {
        let (given, known) = (registration.ports.len(), spec.ports.len());
        return invalid(format!("{given} ports given, but service {} has {known}", spec.name));
    }
    if registration.ports.iter().all(|&port| port == 0) {
        return invalid("no port given: an instance offers at least one".to_owned());
    }
    registration.ports.resize(spec.ports.len(), 0);
    if let Some(check) = &spec.health
        && registration.ports.get(check.port).is_none_or(|&port| port == 0)
    {
        let name = spec.ports.get(check.port).map_or("", |port| &port.name);
        return invalid(format!("no number given for port {name:?}, which the health check of {} uses", spec.name));
    }
    if !(1..=MAX_WEIGHT).contains(&registration.weight) {
        return invalid(format!("weight {} is not in 1..={MAX_WEIGHT}", registration.weight));
    }
    if let Some(problem) = address_problem(registration.address, registration.source) {
        return invalid(format!("address {} {problem}", registration.address));
    }
    Ok(registration)
}

/// Whoever may register over the API must not make Weir connect to what answers only to this machine's own link.
fn address_problem(address: IpAddr, source: Source) -> Option<&'static str> {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("is no address to connect to")
    } else if address.is_multicast() || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        Some("is a group address")
    } else if link_local && source == Source::Api {
        Some("is link-local, which is refused over the API (metadata services live there)")
    } else {
        None
    }
}

/// Returns the lease of a registration: the default over the API, none for what is told when to go.
///
/// # Errors
/// [`RegistryError::Invalid`] when it is too short or too long.
pub(super) fn lease_of(registration: &Registration, default: Duration) -> Result<Option<Duration>, RegistryError> {
    let lease = match (registration.lease, registration.source) {
        (None, Source::Api) => Some(default),
        (lease, _) => lease,
    };
    match lease {
        Some(length) if !(MIN_LEASE..=MAX_LEASE).contains(&length) => {
            Err(RegistryError::Invalid(format!("a lease of {length:?} is not in {MIN_LEASE:?}..={MAX_LEASE:?}")))
        }
        lease => Ok(lease),
    }
}

/// Returns the state that an instance starts in: only what offers nothing to connect to is ready at once.
pub(super) fn first_state(spec: &ServiceSpec, ports: &[u16]) -> InstanceState {
    let is_checked = spec.health.is_some() || gate_port(spec, ports).is_some();
    if is_checked { InstanceState::Starting } else { InstanceState::Ready }
}

/// Returns the number of the port that one connection tries where no check is configured: the first TCP port offered.
pub(crate) fn gate_port(spec: &ServiceSpec, ports: &[u16]) -> Option<u16> {
    let offered = spec.ports.iter().zip(ports).filter(|(port, number)| port.protocol == Protocol::Tcp && **number != 0);
    offered.map(|(_, number)| *number).next()
}

/// Says for people who registered what.
pub(super) fn describe(instance: &Instance, lease: Option<Duration>) -> String {
    let by = match instance.source {
        Source::File => "the configuration",
        Source::Api => "the API",
        Source::Scheduler => "the scheduler",
        Source::Feed => "another table",
    };
    let ports: Vec<String> = instance.ports.iter().filter(|&&port| port != 0).map(u16::to_string).collect();
    let at = match instance.address {
        IpAddr::V4(v4) => format!("{v4}:{}", ports.join(",")),
        IpAddr::V6(v6) => format!("[{v6}]:{}", ports.join(",")),
    };
    match lease {
        Some(length) => format!("registered by {by} at {at} with a lease of {length:?}"),
        None => format!("registered by {by} at {at}"),
    }
}
