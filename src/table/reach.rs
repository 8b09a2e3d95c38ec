//! Where a name leads: to the endpoints themselves, or to the service's own address.
//!
//! Endpoints are named only where each listens on the port that the service declares, at an address that the asker reaches;
//! an address of loopback is the asker's own and never told to another machine or container.

use crate::table::Service;
use std::net::IpAddr;

/// Where an asker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whereabouts {
    /// On this machine, in the network that Weir is in.
    Here,
    /// In a network of containers, by network and prefix length: they reach each other there.
    Inside((IpAddr, u8)),
    /// Anywhere else.
    Elsewhere,
}

/// What an address question about a service is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// Its usable endpoints.
    Endpoints,
    /// Those of its usable endpoints that the asker reaches.
    Reachable,
    /// Its own address.
    Own(IpAddr),
}

impl Whereabouts {
    /// Returns whether an asker there reaches an endpoint at this address.
    pub fn reaches(self, endpoint: IpAddr) -> bool {
        match self {
            Self::Here => true,
            Self::Inside(network) => !endpoint.is_loopback() && holds(network, endpoint),
            Self::Elsewhere => !endpoint.is_loopback(),
        }
    }
}

impl Service {
    /// Gives it its own address, and finds out what decides where its name leads.
    pub(crate) fn settle(&mut self, address: Option<IpAddr>) {
        self.address = address;
        let serves =
            |port: usize, number: u16| self.endpoints.iter().all(|endpoint| endpoint.ports.get(port) == Some(&number));
        self.is_direct = self.spec.served().all(|(port, number)| serves(port, number));
        self.is_plain = match address {
            None => !self.endpoints.iter().any(|endpoint| endpoint.address.is_loopback()),
            Some(_) => self.is_direct && !self.endpoints.is_empty(),
        };
    }

    /// Returns where its name leads an asker; a few comparisons where every endpoint may be told to everybody.
    pub fn lead(&self, asker: Whereabouts) -> Lead {
        let reaches_all = || self.endpoints.iter().all(|endpoint| asker.reaches(endpoint.address));
        match self.address {
            _ if self.is_plain && (self.address.is_none() || asker == Whereabouts::Here) => Lead::Endpoints,
            None if asker == Whereabouts::Here => Lead::Endpoints,
            None => Lead::Reachable,
            // Nobody serves there: nothing is declared.
            Some(_) if self.spec.served().next().is_none() => Lead::Reachable,
            Some(_) if self.is_direct && !self.endpoints.is_empty() && reaches_all() => Lead::Endpoints,
            Some(own) => Lead::Own(own),
        }
    }

    /// Returns whether none of its endpoints is at an address of loopback.
    pub fn is_everywhere(&self) -> bool {
        self.is_plain && self.address.is_none()
    }

    /// Returns the service's own address with the number of a port, where an asker does not reach every endpoint that the
    /// port is offered by: records that name the port's number otherwise lead to each endpoint as it is.
    pub fn lead_to_port(&self, port: usize, asker: Whereabouts) -> Option<(IpAddr, u16)> {
        let own = self.address.filter(|_| asker != Whereabouts::Here)?;
        let (_, number) = self.spec.served().find(|(index, _)| *index == port)?;
        let reaches_all = self.endpoints.iter().all(|endpoint| asker.reaches(endpoint.address));
        (!reaches_all || self.endpoints.is_empty()).then_some((own, number))
    }
}

fn holds((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    let (a, b, width) = match (network, address.to_canonical()) {
        (IpAddr::V4(n), IpAddr::V4(a)) => (u128::from(n.to_bits()), u128::from(a.to_bits()), 32),
        (IpAddr::V6(n), IpAddr::V6(a)) => (n.to_bits(), a.to_bits(), 128),
        _ => return false,
    };
    let shift = width - u32::from(prefix).min(width);
    a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Lead, Whereabouts};
    use crate::model::{PortSpec, ServiceSpec};
    use crate::table::fixture::{empty, instance, spec};
    use crate::table::{Change, Changes, Service, build};
    use std::net::IpAddr;
    use std::sync::Arc;

    const OWN: &str = "198.18.0.9";

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A service that declares 80, with endpoints at these addresses and ports; with or without an address of its own.
    fn service(own: bool, serve: Option<u16>, endpoints: &[(&str, u16)]) -> Arc<Service> {
        let plain = spec("web", &["http"]);
        let ports = vec![PortSpec { serve, ..PortSpec::tcp("http") }];
        let spec = Arc::new(ServiceSpec { ports, ..ServiceSpec::clone(&plain) });
        let ids = ["web-a", "web-b", "web-c"];
        let instances = endpoints.iter().zip(ids).map(|((address, port), id)| instance("web", id, address, &[*port]));
        let addresses = own.then(|| Arc::new([(spec.name.clone(), ip(OWN))].into()));
        let services = vec![Change::Set { spec: spec.clone(), instances: instances.collect() }];
        let snapshot = build(&empty(), Changes { services, addresses, ..Changes::default() });
        snapshot.services.get(&spec.name).unwrap().clone()
    }

    fn inside() -> Whereabouts {
        Whereabouts::Inside((ip("172.18.0.0"), 16))
    }

    #[test]
    fn endpoints_are_named_where_each_listens_on_the_declared_port_within_reach() {
        let own = Lead::Own(ip(OWN));
        let near = service(true, Some(80), &[("172.18.0.2", 80), ("172.18.0.3", 80)]);
        assert_eq!(near.lead(Whereabouts::Here), Lead::Endpoints);
        assert_eq!(near.lead(inside()), Lead::Endpoints);
        assert_eq!(near.lead(Whereabouts::Inside((ip("172.19.0.0"), 16))), own);
        let moved = service(true, Some(80), &[("172.18.0.2", 80), ("172.18.0.3", 81)]);
        assert!([Whereabouts::Here, inside(), Whereabouts::Elsewhere].map(|at| moved.lead(at)) == [own; 3]);
        let local = service(true, Some(80), &[("127.0.0.1", 80)]);
        assert_eq!(local.lead(Whereabouts::Here), Lead::Endpoints);
        assert!([inside(), Whereabouts::Elsewhere].map(|at| local.lead(at)) == [own; 2]);
        let none = service(true, Some(80), &[]);
        assert_eq!(none.lead(Whereabouts::Here), own, "a client that asks before the first replica is there");
    }

    #[test]
    fn loopback_is_told_to_this_machine_only_also_without_an_address_of_its_own() {
        for (own, serve) in [(false, Some(80)), (true, None)] {
            let mixed = service(own, serve, &[("127.0.0.1", 20_000), ("10.0.0.5", 80)]);
            assert_ne!(mixed.lead(Whereabouts::Elsewhere), Lead::Endpoints, "{own}");
            assert_ne!(mixed.lead(inside()), Lead::Endpoints, "{own}");
            assert!(!matches!(mixed.lead(Whereabouts::Here), Lead::Own(_)), "{own}");
        }
        let far = service(false, Some(80), &[("10.0.0.5", 81)]);
        assert_eq!(far.lead(Whereabouts::Elsewhere), Lead::Endpoints);
        assert!(!Whereabouts::Elsewhere.reaches(ip("127.0.0.9")) && !Whereabouts::Elsewhere.reaches(ip("::1")));
    }

    #[test]
    fn a_port_leads_to_the_own_address_where_endpoints_are_out_of_reach() {
        let local = service(true, Some(80), &[("127.0.0.1", 20_000), ("172.18.0.2", 80)]);
        assert_eq!(local.lead_to_port(0, inside()), Some((ip(OWN), 80)));
        assert_eq!(local.lead_to_port(0, Whereabouts::Here), None);
        let near = service(true, Some(80), &[("172.18.0.2", 81)]);
        assert_eq!(near.lead_to_port(0, inside()), None, "the record tells the number");
        assert_eq!(service(false, Some(80), &[("127.0.0.1", 80)]).lead_to_port(0, inside()), None);
        assert_eq!(service(true, None, &[("127.0.0.1", 80)]).lead_to_port(0, inside()), None);
    }
}
