//! The same names for everybody: a table for Weir, a zone file for its peers, questions, and their right answers.

use crate::client;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use weir::rng::Rng;

/// The zone of everybody.
pub(crate) const ZONE: &str = "weir.internal";
/// Endpoints of a service: three of IPv4, one of IPv6.
const ENDPOINTS: u32 = 4;
const IPV6: u32 = 3;
/// First port of a service's endpoints; each has its own, so that SRV records are told apart.
const FIRST_PORT: u16 = 8080;
/// Names of a service: its own, its port's, its instances'.
const NAMES: u32 = 2 + ENDPOINTS;

/// So many services.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub(crate) services: u32,
}

/// One question and what it must be answered.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    /// Addresses, or ports of SRV records, sorted; `None`: the name does not exist.
    pub(crate) expected: Option<Vec<String>>,
}

/// Instance names by service, in the order of their ports: Weir makes them up.
pub(crate) type Instances = Vec<Vec<String>>;

fn address(service: u32, endpoint: u32) -> IpAddr {
    if endpoint < IPV6 {
        // Nobody connects: ports of UDP are not checked.
        IpAddr::V4(Ipv4Addr::from(0x0a00_0001 + service * ENDPOINTS + endpoint))
    } else {
        IpAddr::V6(Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(service + 1)))
    }
}

fn service_name(service: u32) -> String {
    format!("s{service:05}.default.{ZONE}.")
}

fn port_name(service: u32) -> String {
    format!("_dns._udp.{}", service_name(service))
}

impl Table {
    /// Returns a table with at least so many names.
    pub(crate) fn with_names(names: u32) -> Self {
        Self { services: names.div_ceil(NAMES) }
    }

    /// Returns how many names it has.
    pub(crate) fn names(self) -> u32 {
        self.services * NAMES
    }

    /// Returns Weir's services as configuration.
    pub(crate) fn toml(self) -> String {
        let mut text = String::new();
        for service in 0..self.services {
            let _ = write!(
                text,
                "\n[[service]]\nname = \"s{service:05}\"\n[[service.port]]\nname = \"dns\"\nprotocol = \"udp\"\n"
            );
            for endpoint in 0..ENDPOINTS {
                let port = FIRST_PORT + endpoint as u16;
                let address = SocketAddr::new(address(service, endpoint), port);
                let _ = writeln!(text, "[[service.endpoint]]\naddress = \"{address}\"");
            }
        }
        text
    }

    /// Asks Weir, which has the table, for the names of its instances.
    pub(crate) fn instances(self, weir: SocketAddr) -> Result<Instances, Box<dyn Error>> {
        let mut stream = client::Stream::plain(weir)?;
        let mut found = Vec::new();
        for service in 0..self.services {
            let answer = stream.ask(&port_name(service), RecordType::SRV)?;
            let by_port: BTreeMap<u16, String> = targets(&answer).into_iter().collect();
            if by_port.len() != ENDPOINTS as usize {
                return Err(format!("{} has {} instances", service_name(service), by_port.len()).into());
            }
            found.push(by_port.into_values().collect());
        }
        Ok(found)
    }

    /// Returns the zone as a master file (RFC 1035 §5).
    pub(crate) fn master_file(self, instances: &Instances) -> String {
        let mut text = format!(
            "$ORIGIN {ZONE}.\n$TTL 5\n@ 60 IN SOA ns.dns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 5\n@ 60 IN NS ns.dns.{ZONE}.\n\
             ns.dns 60 IN A 127.0.0.1\n"
        );
        for (service, names) in (0..self.services).zip(instances) {
            let own = service_name(service);
            for (endpoint, name) in (0..ENDPOINTS).zip(names) {
                let address = address(service, endpoint);
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                let port = FIRST_PORT + endpoint as u16;
                let _ = writeln!(text, "{own} IN {kind} {address}\n{name} IN {kind} {address}");
                let _ = writeln!(text, "{} IN SRV 0 1 {port} {name}", port_name(service));
            }
        }
        text
    }

    /// Returns distinct questions in random order: some 54 % A, 26 % AAAA, 19 % SRV and 1 % for what does not exist.
    pub(crate) fn cases(self, count: u32, instances: &Instances) -> Vec<Case> {
        let mut rng = Rng::from_seed(7);
        (0..count)
            .map(|n| {
                let service = (n as usize * 7919) % self.services as usize;
                let (number, names) = (service as u32, &instances[service]);
                let endpoint = rng.below(ENDPOINTS as usize);
                let of_kind = |v4: bool, endpoints: std::ops::Range<u32>| {
                    let all = endpoints.map(|e| address(number, e)).filter(|a| a.is_ipv4() == v4);
                    let mut all: Vec<String> = all.map(|a| a.to_string()).collect();
                    all.sort_unstable();
                    Some(all)
                };
                let kind = |v4| if v4 { RecordType::A } else { RecordType::AAAA };
                match rng.below(100) {
                    0 => {
                        Case { name: format!("x{n}.{}", service_name(number)), kind: kind(n % 2 == 0), expected: None }
                    }
                    1..20 => {
                        let ports = (0..ENDPOINTS).map(|e| (FIRST_PORT + e as u16).to_string()).collect();
                        Case { name: port_name(number), kind: RecordType::SRV, expected: Some(ports) }
                    }
                    20..60 => {
                        let v4 = rng.below(3) > 0;
                        Case { name: service_name(number), kind: kind(v4), expected: of_kind(v4, 0..ENDPOINTS) }
                    }
                    _ => {
                        let (v4, e) = (rng.below(3) > 0, endpoint as u32);
                        Case { name: names[endpoint].clone(), kind: kind(v4), expected: of_kind(v4, e..e + 1) }
                    }
                }
            })
            .collect()
    }
}

/// Returns port and target of each SRV record.
fn targets(answer: &Message) -> Vec<(u16, String)> {
    let of = |data: &RData| match data {
        RData::SRV(srv) => Some((srv.port, srv.target.to_ascii())),
        _ => None,
    };
    answer.answers.iter().filter_map(|record| of(&record.data)).collect()
}

impl Case {
    /// Returns what is wrong with an answer.
    pub(crate) fn complaint(&self, answer: &Message) -> Option<String> {
        let code = if self.expected.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let mut found: Vec<String> = match self.kind {
            RecordType::SRV => targets(answer).into_iter().map(|(port, _)| port.to_string()).collect(),
            _ => answer.answers.iter().map(|record| record.data.to_string()).collect(),
        };
        found.sort_unstable();
        let owner = Name::from_ascii(&self.name).ok();
        let good = answer.metadata.response_code == code
            && answer.metadata.authoritative
            && !answer.metadata.truncation
            && found == *self.expected.as_ref().unwrap_or(&Vec::new())
            && answer.answers.iter().all(|record| Some(&record.name) == owner.as_ref())
            && answer.authorities.is_empty() != answer.answers.is_empty();
        // What some peers say beside an answer, its name servers, is no fault.
        let good = good
            || (!answer.answers.is_empty()
                && answer.metadata.response_code == code
                && found == *self.expected.as_ref()?);
        (!good).then(|| format!("{} {}: wanted {:?}, got {answer:?}", self.name, self.kind, self.expected))
    }
}
