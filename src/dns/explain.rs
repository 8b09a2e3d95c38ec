//! Why an answer is what it is: the same steps as `handler.rs` takes, and its own answer, for people.
//!
//! The answer is made by [`answer()`] itself on the table in force; what is told beside it comes from the same [`locate()`].
//! Not on any path of a client: it allocates.

use crate::dns::handler::{Transport, answer};
use crate::dns::locate::{Located, Pick, locate};
use crate::dns::settings::Settings;
use crate::dns::view::{Asker, View};
use crate::dns::{Reply, Scratch};
use crate::dnswire::{HEADER_BYTES, Parsed, Query, address_of_reverse, lower_into, parse_name, rcode};
use crate::rng::Rng;
use crate::table::{Lead, Service, Snapshot};
use hickory_proto::op::Message;
use hickory_proto::rr::{Record, RecordType};
use std::net::{IpAddr, SocketAddr};

/// Largest answer.
const ANSWER_BYTES: usize = 65_535;

/// What is asked, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Riddle {
    /// The whole name, in dotted form.
    pub name: String,
    /// The type: a name such as `A`, or a number.
    pub kind: String,
    /// The client that is supposed to ask.
    pub client: IpAddr,
    /// The listener that it is supposed to ask.
    pub listener: Option<SocketAddr>,
}

/// An answer, and why it is that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The generation of the table.
    pub generation: u64,
    /// The view of the asker; empty: none was configured for it.
    pub view: String,
    /// The namespace of its short names.
    pub namespace: String,
    /// The schema whose zone the name is in; empty: in none.
    pub schema: String,
    /// What the name stands for, as a sentence.
    pub rule: String,
    /// How it is answered: `fast`, `full` or `forwarded`.
    pub path: String,
    /// The response code.
    pub rcode: String,
    /// The records, section by section.
    pub records: Vec<Line>,
    /// Endpoints of the service that the name stands for.
    pub endpoints: Vec<Candidacy>,
    /// Why the TTL is what it is; empty: there is no service.
    pub ttl: String,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `answer`, `authority` or `additional`.
    pub section: String,
    /// The name that it is of.
    pub name: String,
    /// For how long it may be kept, in seconds.
    pub ttl_s: u32,
    /// Its type.
    pub kind: String,
    /// Its data.
    pub data: String,
}

/// Whether an endpoint may be named, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidacy {
    /// The instance.
    pub id: String,
    /// Its address.
    pub address: String,
    /// Whether answers may name it now.
    pub usable: bool,
    /// Why.
    pub because: String,
}

/// Answers a question and explains the answer.
///
/// # Errors
/// When the name or the type cannot be read.
pub(crate) fn explain(
    settings: &Settings,
    snapshot: &Snapshot,
    now_ms: u64,
    riddle: &Riddle,
) -> Result<Explanation, String> {
    let name = parse_name(&riddle.name).ok_or_else(|| format!("name: {:?} is no DNS name", riddle.name))?;
    let kind = record_type(&riddle.kind).ok_or_else(|| format!("type: {:?} is no type", riddle.kind))?;
    // A container asks the gateway of its network.
    let listener = riddle.listener.or_else(|| settings.gateway(riddle.client));
    let view = settings.view(snapshot, now_ms, Asker::new(Some(riddle.client), listener));
    let message = message(&name, kind);
    let mut out = vec![0; ANSWER_BYTES];
    let mut scratch = Scratch::new(Rng::from_os());
    let (reply, path) = match Query::parse(&message) {
        Parsed::Fast(query) => (answer(&view, &query, Transport::Tcp, &mut scratch, &mut out), "fast"),
        _ => (Reply::new(0, rcode::NOTIMP), "full"),
    };
    let mut lowered = [0; 255];
    let lowered = lower_into(&name, &mut lowered);
    let place = locate(&view, lowered);
    let decoded = out.get(..reply.bytes).and_then(|octets| Message::from_vec(octets).ok());
    let service = match place.located {
        Located::Service(service, pick) => Some((service, pick)),
        Located::Port(service, port) => Some((service, Pick { port: Some(port), ..Pick::default() })),
        Located::Instance(service, _) => Some((service, Pick::default())),
        _ => None,
    };
    Ok(Explanation {
        generation: snapshot.generation,
        view: view.scope.name().to_owned(),
        namespace: view.scope.namespace().to_owned(),
        schema: place.schema.map(|schema| schema.name()).unwrap_or_default().to_owned(),
        rule: behind(&view, lowered).unwrap_or_else(|| rule(&place.located, &view)),
        path: if reply.forward { "forwarded" } else { path }.to_owned(),
        rcode: if reply.forward { "-".to_owned() } else { code(reply.rcode) },
        records: decoded.as_ref().map(records).unwrap_or_default(),
        endpoints: service.map(|(service, pick)| candidacies(&view, service, &pick)).unwrap_or_default(),
        ttl: service.map(|(service, _)| ttl(&view, service)).unwrap_or_default(),
    })
}

fn record_type(text: &str) -> Option<u16> {
    let named = text.to_ascii_uppercase().parse::<RecordType>().ok().map(u16::from);
    named.or_else(|| text.parse().ok())
}

/// Returns a question of the common shape, with recursion desired.
fn message(name: &[u8], kind: u16) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    debug_assert_eq!(message.len(), HEADER_BYTES);
    message.extend_from_slice(name);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn code(code: u16) -> String {
    match code {
        rcode::NOERROR => "NOERROR",
        rcode::FORMERR => "FORMERR",
        rcode::SERVFAIL => "SERVFAIL",
        rcode::NXDOMAIN => "NXDOMAIN",
        rcode::NOTIMP => "NOTIMP",
        rcode::REFUSED => "REFUSED",
        _ => return code.to_string(),
    }
    .to_owned()
}

fn rule(located: &Located<'_, '_>, view: &View<'_>) -> String {
    let port = |service: &Service, port: usize| {
        service.spec.ports.get(port).map(|port| port.name.to_string()).unwrap_or_default()
    };
    match located {
        Located::Outside if view.forwards => "in no zone of this server; the forwarder may be asked".to_owned(),
        Located::Outside => "in no zone of this server, and this client may not have names resolved".to_owned(),
        Located::Apex => "a zone itself".to_owned(),
        Located::Service(service, Pick { tag: Some(tag), .. }) => {
            format!("service {}, endpoints with the tag {}", service.name(), String::from_utf8_lossy(tag))
        }
        Located::Service(service, _) => format!("service {}{}", service.name(), own(view, service)),
        Located::Port(service, index) => {
            let own = service.lead_to_port(*index, view.asker.whereabouts()).filter(|_| !service.spec.dns.headless);
            let own =
                own.map(|(own, _)| format!(", at its own address {own}: the asker does not reach every endpoint"));
            format!("port {} of service {}{}", port(service, *index), service.name(), own.unwrap_or_default())
        }
        Located::Instance(service, index) => {
            let id = service.endpoints.get(*index).map(|endpoint| endpoint.id.to_string()).unwrap_or_default();
            format!("instance {id} of service {}", service.name())
        }
        Located::Draining(address) => format!("an instance at {address} that is withdrawn: not to be kept"),
        Located::Address(address) => format!("the address {address}, which the name tells"),
        Located::Alias(_) => "an alias; what follows is where it leads".to_owned(),
        Located::Empty => "nothing, but names below it exist".to_owned(),
        Located::Missing(_) => "nothing that this asker may see".to_owned(),
    }
}

/// Says that a service is answered with its own address, and why.
fn own(view: &View<'_>, service: &Service) -> String {
    let Lead::Own(own) = service.lead(view.asker.whereabouts()) else { return String::new() };
    let why = if service.endpoints.is_empty() {
        "it has no endpoint"
    } else if !service.is_direct {
        "not every endpoint listens on the declared number"
    } else {
        "the asker does not reach every endpoint"
    };
    if service.spec.dns.headless { String::new() } else { format!(", at its own address {own}: {why}") }
}

/// Says who is behind the address that a reverse name is of; `None` where it is none of the table.
fn behind(view: &View<'_>, name: &[u8]) -> Option<String> {
    let address = address_of_reverse(name)?;
    let owners = view.snapshot.names.owners(address).unwrap_or_default().iter().filter_map(|owner| {
        let service = view.snapshot.services.at(owner.slot).filter(|service| view.scope.sees_service(service))?;
        let name = service.name();
        Some(match &owner.id {
            Some(id) => format!("instance {id} of service {name}"),
            None => format!("service {name}, whose own it is"),
        })
    });
    let owners = owners.collect::<Vec<_>>().join(", ");
    match owners.is_empty() {
        true if view.authority.gives(address) => Some(format!("the address {address}: of no service")),
        empty => (!empty).then(|| format!("the address {address}: {owners}")),
    }
}

fn records(message: &Message) -> Vec<Line> {
    let lines = |section: &'static str, records: &[Record]| {
        let line = move |record: &Record| Line {
            section: section.to_owned(),
            name: record.name.to_ascii(),
            ttl_s: record.ttl,
            kind: record.record_type().to_string(),
            data: record.data.to_string(),
        };
        records.iter().map(line).collect::<Vec<_>>()
    };
    let mut all = lines("answer", &message.answers);
    all.extend(lines("authority", &message.authorities));
    all.extend(lines("additional", &message.additionals));
    all
}

fn candidacies(view: &View<'_>, service: &Service, pick: &Pick<'_>) -> Vec<Candidacy> {
    let now_ms = view.now_ms;
    let usable: Vec<usize> = service.candidates(now_ms).collect();
    let open = service.fails_open(now_ms);
    let zone = view.scope.zone().filter(|_| service.spec.dns.prefer_zone);
    let reaches = |address: IpAddr| view.asker.whereabouts().reaches(address);
    let near = |index: usize| service.endpoints.get(index).is_some_and(|endpoint| endpoint.zone() == zone);
    let only_near = zone.is_some() && usable.iter().any(|&index| near(index));
    let ready = service.endpoints.iter().zip(&service.candidates).enumerate().map(|(index, (endpoint, candidate))| {
        let offers = pick.port.is_none_or(|port| endpoint.socket(port).is_some());
        let because = if !usable.contains(&index) {
            if candidate.healthy { "ejected after failures" } else { "its checks fail" }
        } else if !reaches(endpoint.address) {
            "out of the asker's reach"
        } else if pick.tag.is_some_and(|tag| !endpoint.has_tag(tag)) {
            "has another tag"
        } else if only_near && !near(index) {
            "in another zone than the asker"
        } else if !offers {
            "does not offer the port"
        } else if open {
            "nothing is usable, so that all are used"
        } else {
            "usable"
        };
        let named = because == "usable" || (open && because.starts_with("nothing"));
        Candidacy {
            id: endpoint.id.to_string(),
            address: endpoint.address.to_string(),
            usable: named,
            because: because.to_owned(),
        }
    });
    let draining = service.draining.iter().map(|(endpoint, _)| Candidacy {
        id: endpoint.id.to_string(),
        address: endpoint.address.to_string(),
        usable: false,
        because: "withdrawn".to_owned(),
    });
    ready.chain(draining).collect()
}

fn ttl(view: &View<'_>, service: &Service) -> String {
    let (own_s, short_s) = (service.records.ttl_ms() / 1000, u64::from(view.authority.changed_ttl_seconds));
    let since_ms = view.now_ms.saturating_sub(service.changed_ms);
    let settling = service.changed_ms != 0 && since_ms < view.authority.settle_ms && short_s < own_s;
    if settling {
        return format!("{short_s} s instead of {own_s} s: its endpoints changed {since_ms} ms ago");
    }
    format!("{own_s} s, its own")
}

#[cfg(test)]
mod tests {
    use super::{Riddle, explain};
    use crate::dns::settings::Settings;
    use crate::dns::{Gateway, Options, ViewOptions};
    use crate::model::{InstanceState, PortSpec, ServiceSpec, Verdict};
    use crate::table::fixture::{empty, instance, set, spec};
    use crate::table::{Change, Changes, Snapshot, build};
    use arc_swap::ArcSwap;
    use std::sync::Arc;

    fn riddle(name: &str, kind: &str) -> Riddle {
        Riddle { name: name.to_owned(), kind: kind.to_owned(), client: [10, 0, 0, 1].into(), listener: None }
    }

    #[test]
    fn says_what_matched_who_is_usable_and_what_the_answer_is() {
        let one = instance("web", "web-a", "10.0.0.1", &[80]);
        let mut two = instance("web", "web-b", "10.0.0.2", &[80]);
        two.verdict = Verdict::Unhealthy;
        let mut three = instance("web", "web-c", "10.0.0.3", &[80]);
        three.state = InstanceState::Draining;
        let table = set(&empty(), &[("web", &["http"], &[one, two, three])]);
        let views = vec![ViewOptions { name: "all".into(), ..ViewOptions::default() }];
        let settings = Settings::new(&Options { views, ..Options::default() }, &[], None);
        let of = |name: &str, kind: &str| explain(&settings, &table, 50_000, &riddle(name, kind));
        let found = of("Web.weir.internal", "a").unwrap();
        assert_eq!([&*found.view, &*found.namespace, &*found.schema], ["all", "default", "native"]);
        assert_eq!([&*found.rule, &*found.path, &*found.rcode], ["service web", "fast", "NOERROR"]);
        assert_eq!((found.records[0].data.as_str(), found.records[0].ttl_s), ("10.0.0.1", 5));
        let why: Vec<(&str, bool, &str)> =
            found.endpoints.iter().map(|e| (e.id.as_str(), e.usable, e.because.as_str())).collect();
        assert_eq!(
            why,
            [("web-a", true, "usable"), ("web-b", false, "its checks fail"), ("web-c", false, "withdrawn")]
        );
        assert_eq!(found.ttl, "5 s, its own");
        let reverse = of("1.0.0.10.in-addr.arpa", "PTR").unwrap();
        assert_eq!(reverse.rule, "the address 10.0.0.1: instance web-a of service web");
        assert_eq!(of("nope.weir.internal", "A").unwrap().rcode, "NXDOMAIN");
        assert_eq!(of("example.com", "A").unwrap().rcode, "REFUSED");
        assert!(of("a..b", "A").unwrap_err().starts_with("name"));
        assert!(of("a", "what").unwrap_err().starts_with("type"));
    }

    #[test]
    fn says_why_a_service_is_at_its_own_address_and_for_whom() {
        let plain = spec("web", &["http"]);
        let ports = vec![PortSpec { serve: Some(80), ..PortSpec::tcp("http") }];
        let web = Arc::new(ServiceSpec { ports, ..ServiceSpec::clone(&plain) });
        let table = |address: &str, port: u16| {
            let addresses = Some(Arc::new([(web.name.clone(), [198, 18, 0, 9].into())].into()));
            let services =
                vec![Change::Set { spec: web.clone(), instances: vec![instance("web", "web-a", address, &[port])] }];
            build(&empty(), Changes { services, addresses, ..Changes::default() })
        };
        let gateway = Gateway { address: [172, 18, 0, 1].into(), network: ([172, 18, 0, 0].into(), 16) };
        let shared = ArcSwap::from_pointee(Settings::new(&Options::default(), &[], None)).into();
        Settings::set_gateways(&shared, &[gateway]);
        let of = |table: &Snapshot, client: [u8; 4]| {
            let riddle = Riddle { client: client.into(), ..riddle("web.weir.internal", "A") };
            explain(&shared.load(), table, 50_000, &riddle).unwrap()
        };
        let near = table("172.18.0.5", 80);
        assert_eq!(of(&near, [172, 18, 0, 9]).rule, "service web", "asked at the gateway of its network");
        let far = table("172.19.0.5", 80);
        let found = of(&far, [172, 18, 0, 9]);
        assert_eq!(found.rule, "service web, at its own address 198.18.0.9: the asker does not reach every endpoint");
        assert_eq!((&*found.records[0].data, &*found.endpoints[0].because), ("198.18.0.9", "out of the asker's reach"));
        let moved = of(&table("172.18.0.5", 81), [172, 18, 0, 9]).rule;
        assert!(moved.ends_with("not every endpoint listens on the declared number"), "{moved}");
        let reverse = explain(&shared.load(), &near, 50_000, &riddle("9.0.18.198.in-addr.arpa", "PTR")).unwrap();
        assert_eq!(reverse.rule, "the address 198.18.0.9: service web, whose own it is");
        assert_eq!(reverse.records[0].data, "web.default.weir.internal.");
    }
}
