//! One question against one snapshot: pure but for the stamps on the endpoints that it names.
//!
//! Outside the zones and the table's addresses: REFUSED, or for the forwarder where the client may use it. Before the first
//! snapshot: SERVFAIL, never a wrong NXDOMAIN. A name that exists in any type, or has names below it: no error, with SOA when
//! there is no record. Else NXDOMAIN with SOA. An alias is followed inside the answer; where that leads out of the zones,
//! the answer so far goes to the forwarder.

use crate::dns::alias::{Alias, To};
use crate::dns::answer::{
    Ask, Scratch, add_address, add_addresses, add_instance, add_meta, add_names, add_services, add_texts, knows,
};
use crate::dns::authority::{Authority, Soa};
use crate::dns::locate::{Located, Pick, locate};
use crate::dns::order::Fit;
use crate::dns::schema::{Kind, Schema, Target};
use crate::dns::view::View;
use crate::dnswire::{
    Answer, HEADER_BYTES, MAX_NAME_BYTES, OWNER_IS_QUESTION, Query, Section, address_of_reverse, lower_into, rcode,
    record, rtype,
};
use crate::table::Service;
use crate::table::names::{Owner, below};
use std::net::IpAddr;

/// Largest answer over TCP, RFC 1035 §4.2.2.
pub(crate) const TCP_BYTES: usize = 65_535;
/// The RD bit, RFC 1035 §4.1.1.
const RECURSION_DESIRED: u16 = 0x0100;
/// Aliases that are followed in one answer; a longer chain is a mistake, or a loop.
const MAX_HOPS: u8 = 8;

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
    /// Whether the question is for the forwarder. With octets in the buffer, these are an answer that ends with an alias, and
    /// the forwarder is to be asked for where that leads.
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
    /// The SOA to add when there is no record at the end; `None`: not our name.
    soa: Option<Soa<'z>>,
    forward: bool,
}

impl End<'_> {
    fn bare(rcode: u16) -> Self {
        Self { rcode, fit: Fit::All, soa: None, forward: false }
    }
}

/// One question while it is answered.
struct Turn<'t, 's, 'o> {
    view: &'t View<'s>,
    query: &'t Query<'t>,
    answer: Answer<'t, 'o>,
    scratch: &'t mut Scratch,
    /// Aliases that were followed.
    hops: u8,
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
    let Some(answer) = Answer::begin(query, out, max_bytes) else {
        return Reply::new(0, rcode::SERVFAIL);
    };
    let mut room = [0u8; MAX_NAME_BYTES];
    let name = lower_into(query.name(), &mut room);
    let mut turn = Turn { view, query, answer, scratch, hops: 0 };
    let end = turn.name(name, HEADER_BYTES);
    let Turn { mut answer, hops, .. } = turn;
    if end.forward && hops == 0 {
        return Reply { bytes: 0, rcode: rcode::NOERROR, forward: true };
    }
    if let Some(soa) = end.soa.filter(|_| answer.answers() == u16::from(hops) && end.fit == Fit::All) {
        view.authority.add_soa(&mut answer, Section::Authority, soa);
    }
    if end.fit == Fit::Part && transport == Transport::Udp {
        answer.truncate();
    }
    let authoritative = end.soa.is_some() || hops > 0;
    Reply { forward: end.forward, ..Reply::new(answer.finish(end.rcode, authoritative), end.rcode) }
}

impl<'s> Turn<'_, 's, '_> {
    /// Adds what a lower-case name has; `at` is where it stands in the message.
    fn name(&mut self, name: &[u8], at: usize) -> End<'s> {
        let owner = Answer::pointer(at).unwrap_or(OWNER_IS_QUESTION);
        let place = locate(self.view, name);
        let Some(schema) = place.schema else { return self.outside(name, owner) };
        if self.view.snapshot.generation == 0 {
            return End::bare(rcode::SERVFAIL);
        }
        let soa = match Answer::pointer(at + name.len().saturating_sub(schema.zone.len())) {
            // Names without a zone are their own.
            Some(zone) if schema.kind != Kind::Docker => self.soa(zone, true, &schema.zone),
            _ => self.soa(owner, false, &schema.zone),
        };
        let ask = Ask { view: self.view, schema, name, owner, kind: self.query.rtype };
        if let Located::Alias(alias) = place.located {
            return self.alias(alias, &ask, soa);
        }
        let (code, fit) = self.located(&ask, place.located, soa);
        if code == rcode::NXDOMAIN
            && self.hops == 0
            && let Some(end) = self.complete(name, &ask)
        {
            return end;
        }
        End { rcode: code, fit, soa: Some(soa), forward: false }
    }

    fn located(&mut self, ask: &Ask<'_, 's>, located: Located<'s, '_>, soa: Soa<'s>) -> (u16, Fit) {
        let Self { view, answer, scratch, .. } = self;
        let kind = ask.kind;
        let fit = match located {
            Located::Missing(relative) => match Authority::reserved(relative) {
                Some(name) => {
                    view.authority.add_reserved(answer, ask.owner, name, kind);
                    Fit::All
                }
                None => return (rcode::NXDOMAIN, Fit::All),
            },
            Located::Service(service, pick) if !exists(ask, service, &pick) => return (rcode::NXDOMAIN, Fit::All),
            Located::Empty | Located::Outside | Located::Alias(_) => Fit::All,
            _ if kind == rtype::ANY => {
                view.authority.add_hinfo(answer, ask.owner);
                Fit::All
            }
            Located::Apex => {
                match kind {
                    rtype::SOA => view.authority.add_soa(answer, Section::Answer, soa),
                    rtype::NS => view.authority.add_ns(answer),
                    _ => {}
                }
                Fit::All
            }
            Located::Instance(service, index) if kind == rtype::TXT => add_meta(answer, ask, service, index),
            Located::Instance(service, index) => add_instance(answer, ask, service, index),
            Located::Draining(address) => add_address(answer, ask, address, 0),
            Located::Address(address) => add_address(answer, ask, address, view.authority.negative_ttl_seconds),
            Located::Service(service, pick) => match kind {
                rtype::A | rtype::AAAA => add_addresses(answer, ask, service, &pick, scratch),
                rtype::SRV => add_services(answer, ask, service, &pick, scratch),
                rtype::TXT => add_texts(answer, ask, service),
                _ => Fit::All,
            },
            Located::Port(service, port) if kind == rtype::SRV => {
                add_services(answer, ask, service, &Pick { port: Some(port), ..Pick::default() }, scratch)
            }
            Located::Port(..) => Fit::All,
        };
        (rcode::NOERROR, fit)
    }

    /// Adds where an alias leads, and what is there.
    fn alias(&mut self, alias: &Alias, ask: &Ask<'_, 's>, soa: Soa<'s>) -> End<'s> {
        if ask.kind == rtype::ANY {
            self.view.authority.add_hinfo(&mut self.answer, ask.owner);
            return End { soa: Some(soa), ..End::bare(rcode::NOERROR) };
        }
        let target = match &alias.to {
            To::Service(key) => ask.schema.service(key),
            To::Name(name) => Target::of(&[name]),
        };
        match target {
            Some(target) if self.hops < MAX_HOPS => self.lead(&target, ask.owner, alias.ttl_seconds),
            _ => End::bare(rcode::SERVFAIL),
        }
    }

    /// Adds a CNAME to `target` and what that name has.
    fn lead(&mut self, target: &Target, owner: u16, ttl_seconds: u32) -> End<'s> {
        let fixed = record::fixed(rtype::CNAME, ttl_seconds, target.name().len());
        let Some(at) = self.answer.add(Section::Answer, owner, &[&fixed, target.name()]) else {
            return End { fit: Fit::Part, ..End::bare(rcode::NOERROR) };
        };
        self.hops += 1;
        if self.query.rtype == rtype::CNAME {
            return End::bare(rcode::NOERROR);
        }
        self.name(target.name(), at + fixed.len())
    }

    /// Answers a name that a client completed in vain with its first search domain as the client would get it in the end:
    /// by the next domain, or as it was before. Only where this server knows every name on that way.
    fn complete(&mut self, name: &[u8], ask: &Ask<'_, 's>) -> Option<End<'s>> {
        let (first, next) = self.view.scope.search().split_first()?;
        let (base, depth) = below(name, first).filter(|(_, depth)| *depth > 0)?;
        if matches!(ask.kind, rtype::ANY | rtype::CNAME) {
            return None;
        }
        let ttl = self.view.authority.negative_ttl_seconds;
        for domain in next {
            let candidate = Target::of(&[base, domain])?;
            let place = locate(self.view, candidate.name());
            match place.located {
                // A domain of somebody else: the client goes on by itself.
                _ if place.schema.is_none() => return None,
                Located::Missing(relative) if Authority::reserved(relative).is_none() => {}
                _ => return Some(self.lead(&candidate, ask.owner, ttl)),
            }
        }
        let whole = Target::of(&[base, &[0]]).filter(|_| depth > 1)?;
        let place = locate(self.view, whole.name());
        let known = match place.located {
            Located::Missing(_) => false,
            _ if place.schema.is_some() => true,
            _ => self.view.forwards && self.is_foreign(whole.name()),
        };
        known.then(|| self.lead(&whole, ask.owner, ttl))
    }

    /// Returns whether a question outside the zones is for other resolvers: not about an address in the table, not ANY, which
    /// gets its minimal answer here (RFC 8482 covers every responder), and with recursion desired: what others asked before is
    /// nobody's business.
    fn is_foreign(&self, name: &[u8]) -> bool {
        let ours = address_of_reverse(name)
            .is_some_and(|address| self.view.authority.gives(address) || owners(self.view, address).is_some());
        !ours && self.query.rtype != rtype::ANY && self.query.flags & RECURSION_DESIRED != 0
    }

    fn outside(&mut self, name: &[u8], owner: u16) -> End<'s> {
        let view = self.view;
        if view.snapshot.generation == 0 && self.is_short(name) {
            return End::bare(rcode::SERVFAIL);
        }
        if view.forwards && self.is_foreign(name) {
            return End { forward: true, ..End::bare(rcode::NOERROR) };
        }
        let Some(address) = address_of_reverse(name) else {
            if view.forwards && self.query.rtype == rtype::ANY {
                view.authority.add_hinfo(&mut self.answer, owner);
                return End::bare(rcode::NOERROR);
            }
            return End::bare(self.refusal(name));
        };
        if view.snapshot.generation == 0 {
            return End::bare(rcode::SERVFAIL);
        }
        match owners(view, address) {
            Some(owners) => self.reverse(owners, owner),
            None if view.authority.gives(address) => {
                // The zone of the whole range, as far as whole numbers tell it (RFC 2308 §3).
                let apex = if self.hops == 0 { owner.saturating_add(view.authority.above_range(name)) } else { owner };
                End { soa: Some(self.soa(apex, false, view.snapshot.names.zone())), ..End::bare(rcode::NXDOMAIN) }
            }
            None => End::bare(self.refusal(name)),
        }
    }

    /// Returns the code for a name that nobody here answers for. Where an alias leads to it, the client goes on. A short name is
    /// not there where short names are answered: refused, a client would take this server for broken.
    fn refusal(&self, name: &[u8]) -> u16 {
        match self.hops {
            0 if self.is_short(name) => rcode::NXDOMAIN,
            0 => rcode::REFUSED,
            _ => rcode::NOERROR,
        }
    }

    /// Returns whether a name is of one label where such names are answered.
    fn is_short(&self, name: &[u8]) -> bool {
        let first = usize::from(name.first().copied().unwrap_or(0));
        first > 0 && name.get(1 + first) == Some(&0) && self.view.schemas.docker().is_some()
    }

    fn reverse(&mut self, owners: &[Owner], owner: u16) -> End<'s> {
        let Self { view, answer, .. } = self;
        let schema: &'s Schema = view.schemas.first();
        let ask = Ask { view, schema, name: &[], owner, kind: self.query.rtype };
        let soa = Soa { owner, is_zone: false, zone: view.snapshot.names.zone(), generation: view.snapshot.generation };
        let mut fit = Fit::All;
        match ask.kind {
            rtype::PTR => fit = add_names(answer, &ask, owners),
            rtype::SOA => view.authority.add_soa(answer, Section::Answer, soa),
            rtype::ANY => view.authority.add_hinfo(answer, owner),
            _ => {}
        }
        End { fit, soa: Some(soa), ..End::bare(rcode::NOERROR) }
    }

    fn soa(&self, owner: u16, is_zone: bool, zone: &'s [u8]) -> Soa<'s> {
        Soa { owner, is_zone, zone, generation: self.view.snapshot.generation }
    }
}

/// Returns whether the name of a service exists: not with a tag that no endpoint has, and in Kubernetes not while it is
/// headless and none of its endpoints is ready (specification 1.1, section 2.4.1).
fn exists(ask: &Ask<'_, '_>, service: &Service, pick: &Pick<'_>) -> bool {
    let headless = ask.schema.kind == Kind::Kubernetes && service.front.is_headless();
    knows(service, pick) && !(headless && service.candidates(ask.view.now_ms).next().is_none())
}

/// Returns the instances of an address if the asker sees one of them.
fn owners<'s>(view: &View<'s>, address: IpAddr) -> Option<&'s [Owner]> {
    let sees = |owner: &Owner| view.snapshot.services.at(owner.slot).is_some_and(|s| view.scope.sees_service(s));
    view.snapshot.names.owners(address).filter(|owners| view.scope.sees_all() || owners.iter().any(sees))
}
