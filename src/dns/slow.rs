//! Everything unusual: decoded in full by hickory, then refused with the right code or answered as any question.
//!
//! Other operations: NOTIMP. What hickory cannot decode, two OPT records among it: FORMERR. EDNS above version 0: BADVERS.
//! A question for a cookie alone gets it; one for the server's identity gets that beside its answer. Signed: NOTAUTH, as no key is known here. Class CHAOS: the version. Transfers: REFUSED. ANY gets the minimal answer of
//! RFC 8482 from the handler. Not on the hot path: it allocates.

use crate::dns::authority::version;
use crate::dns::cookies::Baker;
use crate::dns::handler::{Transport, answer};
use crate::dns::view::View;
use crate::dns::{Reply, Scratch};
use crate::dnswire::{
    Answer, Edns, MAX_NAME_BYTES, OWNER_IS_QUESTION, Query, Section, class, lower_into, parse_name, rcode, record,
    reject, rtype,
};
use hickory_proto::op::{Message, OpCode};
use hickory_proto::rr::rdata::opt::EdnsCode;
use std::net::IpAddr;

/// Meta types without an answer here (IANA): zone transfers are refused, mail agents are obsolete.
const IXFR: u16 = 251;
const AXFR: u16 = 252;
const MAILB: u16 = 253;
const MAILA: u16 = 254;
/// Octets of a client's cookie alone, RFC 7873 §4.
const CLIENT_COOKIE_BYTES: usize = 8;
/// The names under which servers tell their version in class CHAOS, RFC 4892 §2.
const VERSION_NAMES: [&str; 2] = ["version.bind", "version.server"];

/// What to do with an unusual message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Answer from the table.
    Data,
    /// Tell the version.
    Version,
    /// Answer with this code.
    Code(u16),
}

/// Answers an unusual message into `out`.
pub(crate) fn answer_unusual(
    view: &View<'_>,
    message: &[u8],
    transport: Transport,
    (scratch, baker): (&mut Scratch, &mut Baker),
    out: &mut [u8],
) -> (Reply, u16) {
    if let Some(query) = Query::cookie_alone(message) {
        return (cookie_alone(query, view.asker.client, baker, out), 0);
    }
    let mut decoded = Message::from_vec(message).ok();
    let Some((mut query, rest)) = Query::question_of(message).filter(|_| question_count(message) == 1) else {
        let code = if opcode(message) == u8::from(OpCode::Query) { rcode::FORMERR } else { rcode::NOTIMP };
        return (Reply::new(reject(message, code, out), code), 0);
    };
    if decoded.is_some() && !query.take_cookie(rest) {
        // What hickory overlooks: a cookie of a wrong length, RFC 7873 §5.2.2.
        decoded = None;
    }
    let edns = decoded.as_ref().and_then(|message| message.edns.as_ref());
    if edns.is_some_and(|edns| edns.version() == 0) {
        baker.serve(&mut query, view.asker.client);
    }
    query.edns = edns.map(|edns| Edns { udp_bytes: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
    let mut reply = match verdict(message, decoded.as_ref(), &query) {
        Verdict::Data => answer(view, &query, transport, scratch, out),
        Verdict::Version => code_only(view, &query, transport, rcode::NOERROR, out),
        Verdict::Code(code) => code_only(view, &query, transport, code, out),
    };
    if edns.is_some_and(|edns| edns.option(EdnsCode::NSID).is_some()) {
        let most = transport.max_bytes(&query, view.authority.max_udp_bytes);
        add_nsid(&view.authority.nsid, &query, most, &mut reply, out);
    }
    (reply, query.rtype)
}

/// Gives a cookie to who asks for nothing else, or says whether the one that was shown is good: RFC 7873 §5.4.
fn cookie_alone(mut query: Query<'_>, client: Option<IpAddr>, baker: &mut Baker, out: &mut [u8]) -> Reply {
    let is_shown = query.cookie.is_some_and(|cookie| cookie.len() > CLIENT_COOKIE_BYTES);
    let is_good = baker.serve(&mut query, client);
    let code = if is_shown && !is_good { rcode::BADCOOKIE } else { rcode::NOERROR };
    let Some(answer) = Answer::begin(&query, out, usize::from(u16::MAX)) else { return Reply::new(0, code) };
    let bytes = answer.finish(code, false);
    // There was no question, so none comes back.
    if let Some(count) = out.get_mut(4..6) {
        count.fill(0);
    }
    Reply::new(bytes, code)
}

/// Adds the server's identity to the OPT record, which ends an answer, where it has one and it fits: RFC 5001 §2.2.
fn add_nsid(nsid: &[u8], query: &Query<'_>, most: usize, reply: &mut Reply, out: &mut [u8]) {
    let cookie = query.reply_cookie.map_or(0, |cookie| 4 + cookie.len());
    let end = reply.bytes + 4 + nsid.len();
    let Some(length_at) = reply.bytes.checked_sub(cookie + 2) else { return };
    if nsid.is_empty() || reply.forward || end > most.min(out.len()) {
        return;
    }
    let [l0, l1] = u16::try_from(nsid.len()).unwrap_or(0).to_be_bytes();
    let option = [0, 3, l0, l1].into_iter().chain(nsid.iter().copied());
    for (place, octet) in out.iter_mut().skip(reply.bytes).zip(option) {
        *place = octet;
    }
    let all = u16::try_from(cookie + 4 + nsid.len()).unwrap_or(0).to_be_bytes();
    if let Some(place) = out.get_mut(length_at..length_at + 2) {
        place.copy_from_slice(&all);
    }
    reply.bytes = end;
}

fn verdict(message: &[u8], decoded: Option<&Message>, query: &Query<'_>) -> Verdict {
    if opcode(message) != u8::from(OpCode::Query) {
        return Verdict::Code(rcode::NOTIMP);
    }
    let Some(decoded) = decoded else { return Verdict::Code(rcode::FORMERR) };
    if decoded.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Verdict::Code(rcode::BADVERS);
    }
    if decoded.signature.is_some() {
        return Verdict::Code(rcode::NOTAUTH);
    }
    match (query.class, query.rtype) {
        (class::CH, rtype::TXT | rtype::ANY) if asks_version(query) => Verdict::Version,
        (class::IN, IXFR | AXFR) => Verdict::Code(rcode::REFUSED),
        (class::IN, MAILB | MAILA) => Verdict::Code(rcode::NOTIMP),
        (class::IN, rtype::OPT | 0) => Verdict::Code(rcode::FORMERR),
        (class::IN, _) => Verdict::Data,
        _ => Verdict::Code(rcode::REFUSED),
    }
}

fn asks_version(query: &Query<'_>) -> bool {
    let mut room = [0; MAX_NAME_BYTES];
    let name = lower_into(query.name(), &mut room);
    VERSION_NAMES.iter().any(|known| parse_name(known).as_deref() == Some(name))
}

/// Answers with a code; no error means the version of the product.
fn code_only(view: &View<'_>, query: &Query<'_>, transport: Transport, code: u16, out: &mut [u8]) -> Reply {
    let max_bytes = transport.max_bytes(query, view.authority.max_udp_bytes);
    let Some(mut answer) = Answer::begin(query, out, max_bytes) else { return Reply::new(0, code) };
    if code == rcode::NOERROR {
        let mut text = Vec::new();
        record::push_txt(&mut text, 0, version());
        // The same record, but of class CHAOS.
        if let Some(place) = text.get_mut(2..4) {
            place.copy_from_slice(&class::CH.to_be_bytes());
        }
        let _ = answer.add(Section::Answer, OWNER_IS_QUESTION, &[&text]);
    }
    Reply::new(answer.finish(code, code == rcode::NOERROR), code)
}

fn opcode(message: &[u8]) -> u8 {
    message.get(2).map_or(0, |flags| (flags >> 3) & 0xF)
}

fn question_count(message: &[u8]) -> u16 {
    message.get(4..6).and_then(|count| count.first_chunk::<2>()).map_or(0, |count| u16::from_be_bytes(*count))
}
