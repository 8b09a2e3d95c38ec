//! Naming schemas: which zones this server answers for, and what their names look like.
//!
//! A schema maps the names of another product to services, instances and ports of the table ([`crate::dns::locate`]), and
//! writes the targets of its answers in its own form, so that they resolve where the question was asked. All of them are
//! answered from the same records.

use crate::dns::options::SchemaOptions;
use crate::dnswire::{MAX_NAME_BYTES, parse_name};
use std::net::IpAddr;

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// Label of services below a zone of Kubernetes, as a wire label.
pub(crate) const SVC: &[u8] = b"\x03svc";
/// Label of addresses below a zone of Consul, as a wire label.
pub(crate) const ADDR: &[u8] = b"\x04addr";

/// What the names of a zone look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `<service>[.<namespace>]`.
    Native,
    /// `<service>.<namespace>.svc`, of the Kubernetes DNS specification 1.1.
    Kubernetes,
    /// `[<tag>.]<service>.service[.<datacenter>]`; with the data center as a wire label.
    Consul(Box<[u8]>),
    /// `<service>` and `tasks.<service>` without any zone.
    Docker,
}

/// One schema with its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    pub(crate) kind: Kind,
    /// Wire name of the zone, lower case; of Docker the zone in which the server itself has its name.
    pub(crate) zone: Box<[u8]>,
}

/// The schemas of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schemas {
    /// Longest zone first, so that one inside another is found.
    listed: Box<[Schema]>,
    docker: Option<Schema>,
    /// Whose names PTR records give: the first that was listed.
    first: Schema,
}

/// The wire name of a target that is written for one answer.
#[derive(Debug)]
pub(crate) struct Target {
    octets: [u8; MAX_NAME_BYTES],
    length: usize,
}

impl Schema {
    /// Returns the name of the schema, as it is configured.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Native => "native",
            Kind::Kubernetes => "kubernetes",
            Kind::Consul(_) => "consul",
            Kind::Docker => "docker",
        }
    }

    /// Writes the name of an instance in this schema: `native` is its encoded name, which ends with `zone`. `None` where
    /// that name serves as it is, or would be too long here.
    pub(crate) fn target(&self, native: &[u8], zone: &[u8], address: Option<IpAddr>) -> Option<Target> {
        let relative = native.strip_suffix(zone)?;
        match (&self.kind, address) {
            (Kind::Native | Kind::Docker, _) | (Kind::Consul(_), None) => None,
            (Kind::Kubernetes, _) => Target::of(&[relative, SVC, &self.zone]),
            (Kind::Consul(datacenter), Some(address)) => {
                let mut label = [0u8; 33];
                Target::of(&[hex_label(address, &mut label), ADDR, datacenter, &self.zone])
            }
        }
    }

    /// Writes the name of a service in this schema; `key` is its name in the table.
    pub(crate) fn service(&self, key: &[u8]) -> Option<Target> {
        match &self.kind {
            Kind::Native | Kind::Docker => Target::of(&[key, &self.zone]),
            Kind::Kubernetes => Target::of(&[key, SVC, &self.zone]),
            Kind::Consul(_) => {
                let name = key.get(..=usize::from(*key.first()?))?;
                let namespace = key.get(name.len()..)?;
                Target::of(&[name, b"\x07service", namespace, b"\x02ns", &self.zone])
            }
        }
    }
}

impl Schemas {
    /// Makes the schemas of the options; `zone` is the zone of native names. Zones that are no names are left out; `config`
    /// refuses them.
    pub fn new(options: &[SchemaOptions], zone: &str) -> Self {
        let native = Schema { kind: Kind::Native, zone: parse_name(zone).unwrap_or_default().into() };
        let make = |option: &SchemaOptions| {
            let (kind, zone) = match option {
                SchemaOptions::Native => return Some(native.clone()),
                SchemaOptions::Docker => return Some(Schema { kind: Kind::Docker, zone: native.zone.clone() }),
                SchemaOptions::Kubernetes { zone } => (Kind::Kubernetes, zone),
                SchemaOptions::Consul { zone, datacenter } => {
                    let label = parse_name(datacenter)?;
                    (Kind::Consul(label.strip_suffix(&[0])?.into()), zone)
                }
            };
            Some(Schema { kind, zone: parse_name(zone)?.into() })
        };
        let made: Vec<Schema> = options.iter().filter_map(make).collect();
        let first = made.first().filter(|schema| schema.kind != Kind::Docker).unwrap_or(&native).clone();
        let (docker, mut listed): (Vec<_>, Vec<_>) = made.into_iter().partition(|schema| schema.kind == Kind::Docker);
        listed.sort_by_key(|schema| std::cmp::Reverse(schema.zone.len()));
        Self { listed: listed.into(), docker: docker.into_iter().next(), first }
    }

    /// Returns the schemas with a zone, in the order in which a name is compared with them.
    pub(crate) fn listed(&self) -> &[Schema] {
        &self.listed
    }

    /// Returns the schema of names without a zone.
    pub(crate) fn docker(&self) -> Option<&Schema> {
        self.docker.as_ref()
    }

    /// Returns the schema in whose form PTR records name instances.
    pub(crate) fn first(&self) -> &Schema {
        &self.first
    }
}

impl Default for Schemas {
    fn default() -> Self {
        Self::new(&[SchemaOptions::Native], "weir.internal")
    }
}

impl Target {
    /// Joins parts to a wire name; `None` when it is longer than a name may be.
    pub(crate) fn of(parts: &[&[u8]]) -> Option<Self> {
        let (mut octets, mut length) = ([0; MAX_NAME_BYTES], 0);
        for part in parts {
            octets.get_mut(length..length + part.len())?.copy_from_slice(part);
            length += part.len();
        }
        Some(Self { octets, length })
    }

    /// Returns the wire name.
    pub(crate) fn name(&self) -> &[u8] {
        self.octets.get(..self.length).unwrap_or_default()
    }
}

/// Writes an address as one wire label of hexadecimal digits: 8 for IPv4, 32 for IPv6.
fn hex_label(address: IpAddr, room: &mut [u8; 33]) -> &[u8] {
    let (v4, v6);
    let octets: &[u8] = match address.to_canonical() {
        IpAddr::V4(address) => {
            v4 = address.octets();
            &v4
        }
        IpAddr::V6(address) => {
            v6 = address.octets();
            &v6
        }
    };
    let digit = |value: u8| DIGITS.get(usize::from(value & 0xF)).copied().unwrap_or(b'0');
    let digits = octets.iter().flat_map(|octet| [digit(octet >> 4), digit(*octet)]);
    let label = std::iter::once(u8::try_from(octets.len() * 2).unwrap_or(0)).chain(digits);
    room.iter_mut().zip(label).for_each(|(place, octet)| *place = octet);
    room.get(..=octets.len() * 2).unwrap_or_default()
}

/// Reads such a label without its length.
pub(crate) fn address_of_hex(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    match text.len() {
        8 => u32::from_str_radix(text, 16).ok().map(|bits| IpAddr::V4(bits.into())),
        32 => u128::from_str_radix(text, 16).ok().map(|bits| IpAddr::V6(bits.into())),
        _ => None,
    }
}

/// Reads a label in which the dots or colons of an address are hyphens: `10-0-0-1`, `2001-db8--1`.
pub(crate) fn address_of_hyphens(label: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(label).ok().filter(|text| text.len() < 40)?;
    text.replace('-', ".").parse().or_else(|_| text.replace('-', ":").parse()).ok()
}

#[cfg(test)]
mod tests {
    use super::{Schemas, address_of_hex, address_of_hyphens};
    use crate::dns::options::SchemaOptions;
    use crate::dnswire::parse_name;

    fn all() -> Schemas {
        let kubernetes = SchemaOptions::Kubernetes { zone: "cluster.local".to_owned() };
        let consul = SchemaOptions::Consul { zone: "consul".to_owned(), datacenter: "dc1".to_owned() };
        Schemas::new(&[kubernetes, SchemaOptions::Native, consul, SchemaOptions::Docker], "weir.internal")
    }

    #[test]
    fn targets_are_in_the_form_of_the_schema() {
        let (zone, native) = (parse_name("weir.internal").unwrap(), parse_name("a.web.default.weir.internal").unwrap());
        let schemas = all();
        let of = |name: &str, address: &str| {
            let schema = schemas.listed().iter().find(|schema| schema.name() == name).unwrap();
            schema.target(&native, &zone, address.parse().ok()).map(|target| target.name().to_vec())
        };
        assert_eq!(of("native", "10.0.0.1"), None);
        assert_eq!(of("kubernetes", "10.0.0.1"), parse_name("a.web.default.svc.cluster.local"));
        assert_eq!(of("consul", "10.0.0.255"), parse_name("0a0000ff.addr.dc1.consul"));
        assert_eq!(of("consul", "fd00::1"), parse_name("fd000000000000000000000000000001.addr.dc1.consul"));
        let service = |name: &str| {
            let schema = schemas.listed().iter().find(|schema| schema.name() == name).unwrap();
            schema.service(b"\x02db\x04prod").map(|target| target.name().to_vec())
        };
        assert_eq!(service("native"), parse_name("db.prod.weir.internal"));
        assert_eq!(service("kubernetes"), parse_name("db.prod.svc.cluster.local"));
        assert_eq!(service("consul"), parse_name("db.service.prod.ns.consul"));
        assert_eq!(schemas.first().name(), "kubernetes");
        assert_eq!(schemas.docker().unwrap().name(), "docker");
    }

    #[test]
    fn addresses_are_read_from_labels() {
        let hex = |label: &str| address_of_hex(label.as_bytes()).map(|ip| ip.to_string());
        assert_eq!(hex("0a0000ff").unwrap(), "10.0.0.255");
        assert_eq!(hex("fd000000000000000000000000000001").unwrap(), "fd00::1");
        assert!(hex("0a0000f").is_none() && hex("0a0000fg").is_none() && hex("+a0000ff").is_none());
        let hyphens = |label: &str| address_of_hyphens(label.as_bytes()).map(|ip| ip.to_string());
        assert_eq!(hyphens("10-0-0-1").unwrap(), "10.0.0.1");
        assert_eq!(hyphens("2001-db8--1").unwrap(), "2001:db8::1");
        assert!(hyphens("10-0-0").is_none() && hyphens("web").is_none() && hyphens("").is_none());
    }
}
