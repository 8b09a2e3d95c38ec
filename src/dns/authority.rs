//! What the server says about its zone and itself: SOA, NS, version texts; encoded once from the options.

use crate::dns::Options;
use crate::dns::network::contains;
use crate::dnswire::{Answer, OWNER_IS_QUESTION, Section, record, rtype, skip_label};
use std::net::IpAddr;
use std::time::Duration;

/// TTL of records that only a restart changes, in seconds.
const STATIC_TTL_SECONDS: u32 = 60;
/// Name server and mailbox of the SOA, as labels before the zone.
const SERVER: &[u8] = b"\x02ns\x03dns";
const MAILBOX: &[u8] = b"\x0ahostmaster";
/// Refresh, retry and expire of the SOA in seconds: for secondaries, of which there are none.
const SOA_TIMES: [u32; 3] = [3600, 600, 86_400];
/// Version of the naming scheme, told at `dns-version.<zone>` as the Kubernetes DNS specification has it.
const SCHEME: &str = "1.1.0";
/// The minimal answer to ANY: HINFO with CPU `RFC8482` and no system, RFC 8482 §4.2.
const HINFO: &[u8] = b"\x07RFC8482\x00";

/// Records of the zone itself.
#[derive(Debug, Clone)]
pub struct Authority {
    pub(crate) negative_ttl_seconds: u32,
    /// TTL of the records of a service that changed a moment ago, in seconds.
    pub(crate) changed_ttl_seconds: u32,
    /// How long that moment is, in milliseconds.
    pub(crate) settle_ms: u64,
    /// Services have their addresses of this range.
    service_addresses: Option<(IpAddr, u8)>,
    /// Largest UDP answer, in octets.
    pub(crate) max_udp_bytes: u16,
    /// Address records of `ns.dns.<zone>`: the listening addresses that are not wildcards.
    servers: Vec<Vec<u8>>,
    version: Vec<u8>,
    scheme: Vec<u8>,
    hinfo: Vec<u8>,
    /// What the server calls itself, RFC 5001; empty: it does not say.
    pub(crate) nsid: Box<[u8]>,
}

/// A name that the server owns itself, unless a service has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserved {
    /// `ns.dns.<zone>`: this server.
    Server,
    /// `dns.<zone>`: only has names below it.
    Empty,
    /// `version.<zone>`: TXT with the product's version.
    Version,
    /// `dns-version.<zone>`: TXT with the version of the naming scheme.
    Scheme,
}

impl Authority {
    /// Encodes the records; `bound` are the addresses that the server listens on.
    pub fn new(options: &Options, bound: &[IpAddr]) -> Self {
        let mut servers: Vec<Vec<u8>> = Vec::new();
        for address in bound.iter().filter(|address| !address.is_unspecified()) {
            let mut encoded = Vec::new();
            record::push_address(&mut encoded, *address, STATIC_TTL_SECONDS);
            if !servers.contains(&encoded) {
                servers.push(encoded);
            }
        }
        let text = |text: &str| {
            let mut encoded = Vec::new();
            record::push_txt(&mut encoded, STATIC_TTL_SECONDS, text);
            encoded
        };
        let hinfo = [&record::fixed(rtype::HINFO, STATIC_TTL_SECONDS, HINFO.len())[..], HINFO].concat();
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        Self {
            negative_ttl_seconds: seconds(options.negative_ttl),
            changed_ttl_seconds: seconds(options.changed_ttl),
            settle_ms: u64::try_from(options.settle.as_millis()).unwrap_or(u64::MAX),
            service_addresses: options.service_addresses.map(|(network, prefix)| (network.into(), prefix)),
            max_udp_bytes: options.max_udp_bytes,
            servers,
            version: text(version()),
            scheme: text(SCHEME),
            hinfo,
            nsid: options.nsid.as_deref().unwrap_or_default().as_bytes().into(),
        }
    }

    /// Returns whether an address is for services, whether one has it or not.
    pub(crate) fn gives(&self, address: IpAddr) -> bool {
        self.service_addresses.is_some_and(|range| contains(range, address))
    }

    /// Returns the octets of a reverse name in front of the part that the whole range has in common.
    pub(crate) fn above_range(&self, name: &[u8]) -> u16 {
        let common = self.service_addresses.map_or(4, |(_, prefix)| usize::from(prefix) / 8);
        let mut rest = name;
        for _ in common..4 {
            rest = skip_label(rest).unwrap_or(rest);
        }
        u16::try_from(name.len() - rest.len()).unwrap_or(0)
    }

    /// Returns what the server itself has at a lower-case name without the zone.
    pub(crate) fn reserved(relative: &[u8]) -> Option<Reserved> {
        match relative {
            b"\x02ns\x03dns" => Some(Reserved::Server),
            b"\x03dns" => Some(Reserved::Empty),
            b"\x07version" => Some(Reserved::Version),
            b"\x0bdns-version" => Some(Reserved::Scheme),
            _ => None,
        }
    }

    /// Adds the records of a reserved name that the question asks for.
    pub(crate) fn add_reserved(&self, answer: &mut Answer<'_, '_>, owner: u16, name: Reserved, kind: u16) {
        match (name, kind) {
            (Reserved::Server, rtype::A | rtype::AAAA) => self.add_servers(answer, Section::Answer, owner, kind),
            (Reserved::Version, rtype::TXT) => add(answer, Section::Answer, owner, &[&self.version]),
            (Reserved::Scheme, rtype::TXT) => add(answer, Section::Answer, owner, &[&self.scheme]),
            _ => {}
        }
    }

    /// Adds the name server of the zone, which is the question's name, and its addresses.
    pub(crate) fn add_ns(&self, answer: &mut Answer<'_, '_>) {
        let zone_at = OWNER_IS_QUESTION;
        let fixed = record::fixed(rtype::NS, STATIC_TTL_SECONDS, SERVER.len() + 2);
        let Some(at) = answer.add(Section::Answer, OWNER_IS_QUESTION, &[&fixed, SERVER, &zone_at.to_be_bytes()]) else {
            return;
        };
        if let Some(owner) = Answer::pointer(at + fixed.len()) {
            self.add_servers(answer, Section::Additional, owner, rtype::A);
            self.add_servers(answer, Section::Additional, owner, rtype::AAAA);
        }
    }

    /// Adds the SOA of the zone: its serial is the table's generation, its TTL that of negative answers (RFC 2308 §3).
    pub(crate) fn add_soa(&self, answer: &mut Answer<'_, '_>, section: Section, of: Soa<'_>) {
        let pointer = of.owner.to_be_bytes();
        // A reverse name is its own zone; the server's names are spelled out.
        let end = if of.is_zone { &pointer[..] } else { of.zone };
        let names = SERVER.len() + MAILBOX.len() + 2 * end.len();
        let fixed = record::fixed(rtype::SOA, self.negative_ttl_seconds, names + 20);
        let mut numbers = [0u8; 20];
        let [refresh, retry, expire] = SOA_TIMES;
        // RFC 1982: serials wrap at 32 bits.
        let serial = (of.generation & u64::from(u32::MAX)) as u32;
        let words = [serial, refresh, retry, expire, self.negative_ttl_seconds];
        for (place, word) in numbers.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        add(answer, section, of.owner, &[&fixed, SERVER, end, MAILBOX, end, &numbers]);
    }

    /// Adds the minimal answer to ANY, RFC 8482 §4.2.
    pub(crate) fn add_hinfo(&self, answer: &mut Answer<'_, '_>, owner: u16) {
        add(answer, Section::Answer, owner, &[&self.hinfo]);
    }

    fn add_servers(&self, answer: &mut Answer<'_, '_>, section: Section, owner: u16, kind: u16) {
        for server in self.servers.iter().filter(|server| record::kind(server) == kind) {
            add(answer, section, owner, &[server]);
        }
    }
}

/// Which SOA to add.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Soa<'a> {
    /// Pointer to the name that the record is of.
    pub(crate) owner: u16,
    /// Whether that is the zone, so that the names in the record can point to it.
    pub(crate) is_zone: bool,
    /// Wire name of the zone.
    pub(crate) zone: &'a [u8],
    /// The table's generation.
    pub(crate) generation: u64,
}

/// Returns the product and its version, as the version texts tell it.
pub(crate) fn version() -> &'static str {
    concat!("weir ", env!("CARGO_PKG_VERSION"))
}

/// Adds a record of the server itself; these fit in 512 octets, or are of the kind that may be left out.
fn add(answer: &mut Answer<'_, '_>, section: Section, owner: u16, parts: &[&[u8]]) {
    let _ = answer.add(section, owner, parts);
}
