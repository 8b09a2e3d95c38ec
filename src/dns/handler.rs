//! One question against one snapshot: pure but for the stamps on the endpoints that it names.
//!
//! Outside the zone and the table's addresses: REFUSED, or for the forwarder where the client may use it. Before the first snapshot: SERVFAIL, never a wrong NXDOMAIN. A name
//! that exists in any type, or has names below it: no error, with SOA when there is no record. Else NXDOMAIN with SOA.

use crate::dns::answer::{Fit, Scratch, add_addresses, add_draining, add_instance, add_names, add_services, draining};
use crate::dns::authority::{Authority, Soa};
use crate::dns::locate::{Located, locate};
use crate::dns::view::View;
use crate::dnswire::{Answer, MAX_NAME_BYTES, Query, Section, address_of_reverse, lower_into, rcode, rtype};
use crate::table::names::Owner;
use std::net::IpAddr;

/// Largest answer over TCP, RFC 1035 §4.2.2.
pub(crate) const TCP_BYTES: usize = 65_535;
/// The RD bit, RFC 1035 §4.1.1.
const RECURSION_DESIRED: u16 = 0x0100;

/// How the answer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; what does not fit sets TC.
    Udp = 0,
    /// A stream: up to 64 KiB; of more than that a random part is given, as there is no larger transport to send the client to.
    Tcp = 1,
    /// A stream inside of TLS (RFC 7858), which holds as much.
    Tls = 2,
    /// An exchange of HTTP inside of TLS (RFC 8484), which holds as much.
    Https = 3,
}

impl Transport {
    /// Returns the size that an answer may have.
    pub(crate) fn max_bytes(self, query: &Query<'_>, max_udp_bytes: u16) -> usize {
        match self {
            Self::Udp => Answer::udp_bytes(query, max_udp_bytes),
            Self::Tcp | Self::Tls | Self::Https => TCP_BYTES,
        }
    }
}

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// Octets in the buffer; 0: send nothing.
    pub bytes: usize,
    /// The response code.
    pub rcode: u16,
    /// Whether the question is for the forwarder: nothing was answered.
    pub forward: bool,
}

impl Reply {
    /// Makes a reply that is no business of the forwarder.
    pub(crate) fn new(bytes: usize, rcode: u16) -> Self {
        Self { bytes, rcode, forward: false }
    }
}

/// How an answer ends.
struct End<'z> {
    rcode: u16,
    fit: Fit,
    /// The SOA to add when there is no answer record; `None`: not our name.
    soa: Option<Soa<'z>>,
}

/// Answers a question into `out`; about 100 ns for a service of three endpoints.
pub fn answer(
    view: &View<'_>,
    query: &Query<'_>,
    transport: Transport,
    scratch: &mut Scratch,
    out: &mut [u8],
) -> Reply {
    let max_bytes = transport.max_bytes(query, view.authority.max_udp_bytes);
    let Some(mut answer) = Answer::begin(query, out, max_bytes) else {
        return Reply::new(0, rcode::SERVFAIL);
    };
    let mut room = [0u8; MAX_NAME_BYTES];
    let name = lower_into(query.name(), &mut room);
    let located = locate(view, name);
    if view.forwards && matches!(located, Located::Outside) && is_foreign(view, name, query) {
        return Reply { bytes: 0, rcode: rcode::NOERROR, forward: true };
    }
    let end = match located {
        Located::Outside => outside(view, &mut answer, name, query),
        _ if view.snapshot.generation == 0 => End { rcode: rcode::SERVFAIL, fit: Fit::All, soa: None },
        located => inside(view, &mut answer, located, query, scratch),
    };
    if let Some(soa) = end.soa.filter(|_| answer.is_empty() && end.fit == Fit::All) {
        view.authority.add_soa(&mut answer, Section::Authority, query, soa);
    }
    if end.fit == Fit::Part && transport == Transport::Udp {
        answer.truncate();
    }
    Reply::new(answer.finish(end.rcode, end.soa.is_some()), end.rcode)
}

/// Returns whether a question outside the zone is for other resolvers: not about an address in the table, not ANY, which
/// gets its minimal answer here (RFC 8482 covers every responder), and with recursion desired: what others asked before is
/// nobody's business.
fn is_foreign(view: &View<'_>, name: &[u8], query: &Query<'_>) -> bool {
    let ours = address_of_reverse(name).is_some_and(|address| owners(view, address).is_some());
    !ours && query.rtype != rtype::ANY && query.flags & RECURSION_DESIRED != 0
}

fn outside<'s>(view: &View<'s>, answer: &mut Answer<'_, '_>, name: &[u8], query: &Query<'_>) -> End<'s> {
    let refused = |rcode| End { rcode, fit: Fit::All, soa: None };
    if view.forwards && query.rtype == rtype::ANY && address_of_reverse(name).is_none() {
        view.authority.add_hinfo(answer);
        return refused(rcode::NOERROR);
    }
    let Some(address) = address_of_reverse(name) else { return refused(rcode::REFUSED) };
    if view.snapshot.generation == 0 {
        return refused(rcode::SERVFAIL);
    }
    let Some(owners) = owners(view, address) else { return refused(rcode::REFUSED) };
    reverse(view, answer, owners, query)
}

/// Returns the instances of an address if the asker sees one of them.
fn owners<'s>(view: &View<'s>, address: IpAddr) -> Option<&'s [Owner]> {
    let sees = |owner: &Owner| view.snapshot.services.at(owner.slot).is_some_and(|s| view.scope.sees_service(s));
    view.snapshot.names.owners(address).filter(|owners| view.scope.sees_all() || owners.iter().any(sees))
}

fn reverse<'s>(view: &View<'s>, answer: &mut Answer<'_, '_>, owners: &[Owner], query: &Query<'_>) -> End<'s> {
    let soa = soa(view, false);
    let fit = match query.rtype {
        rtype::PTR => add_names(answer, view, owners),
        rtype::SOA => {
            view.authority.add_soa(answer, Section::Answer, query, soa);
            Fit::All
        }
        rtype::ANY => {
            view.authority.add_hinfo(answer);
            Fit::All
        }
        _ => Fit::All,
    };
    End { rcode: rcode::NOERROR, fit, soa: Some(soa) }
}

fn inside<'s>(
    view: &View<'s>,
    answer: &mut Answer<'_, '_>,
    located: Located<'s, '_>,
    query: &Query<'_>,
    scratch: &mut Scratch,
) -> End<'s> {
    let soa = soa(view, true);
    let end = |rcode, fit| End { rcode, fit, soa: Some(soa) };
    let kind = query.rtype;
    let (code, fit) = match located {
        Located::Missing(relative) => match Authority::reserved(relative) {
            Some(name) => {
                view.authority.add_reserved(answer, name, kind);
                (rcode::NOERROR, Fit::All)
            }
            None => (rcode::NXDOMAIN, Fit::All),
        },
        Located::Empty | Located::Outside => (rcode::NOERROR, Fit::All),
        Located::Below(service, label) => match service.records.find(label) {
            None => match draining(service, label) {
                None => (rcode::NXDOMAIN, Fit::All),
                Some(address) => (rcode::NOERROR, add_draining(answer, address, kind)),
            },
            Some(_) if kind == rtype::ANY => (rcode::NOERROR, hinfo(view, answer)),
            Some(index) => (rcode::NOERROR, add_instance(answer, service, index, kind, view.now_ms)),
        },
        _ if kind == rtype::ANY => (rcode::NOERROR, hinfo(view, answer)),
        Located::Apex => {
            apex(view, answer, query, soa);
            (rcode::NOERROR, Fit::All)
        }
        Located::Service(service) => match kind {
            rtype::A | rtype::AAAA => (rcode::NOERROR, add_addresses(answer, service, kind, view.now_ms, scratch)),
            _ => (rcode::NOERROR, Fit::All),
        },
        Located::Port(service, port) => match kind {
            rtype::SRV => (rcode::NOERROR, add_services(answer, service, port, view.now_ms, scratch)),
            _ => (rcode::NOERROR, Fit::All),
        },
    };
    end(code, fit)
}

fn apex(view: &View<'_>, answer: &mut Answer<'_, '_>, query: &Query<'_>, soa: Soa<'_>) {
    match query.rtype {
        rtype::SOA => view.authority.add_soa(answer, Section::Answer, query, soa),
        rtype::NS => view.authority.add_ns(answer, query, view.snapshot.names.zone()),
        _ => {}
    }
}

fn hinfo(view: &View<'_>, answer: &mut Answer<'_, '_>) -> Fit {
    view.authority.add_hinfo(answer);
    Fit::All
}

fn soa<'s>(view: &View<'s>, zone_is_in_question: bool) -> Soa<'s> {
    Soa { zone: view.snapshot.names.zone(), zone_is_in_question, generation: view.snapshot.generation }
}
