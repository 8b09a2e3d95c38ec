//! Everything unusual: decoded in full by hickory, then refused with the right code or answered as any question.
//!
//! Other operations: NOTIMP. What hickory cannot decode, two OPT records among it: FORMERR. EDNS above version 0: BADVERS.
//! Signed: NOTAUTH, as no key is known here. Class CHAOS: the version. Transfers: REFUSED. ANY gets the minimal answer of
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

/// Meta types without an answer here (IANA): zone transfers are refused, mail agents are obsolete.
const IXFR: u16 = 251;
const AXFR: u16 = 252;
const MAILB: u16 = 253;
const MAILA: u16 = 254;
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
    let reply = match verdict(message, decoded.as_ref(), &query) {
        Verdict::Data => answer(view, &query, transport, scratch, out),
        Verdict::Version => code_only(view, &query, transport, rcode::NOERROR, out),
        Verdict::Code(code) => code_only(view, &query, transport, code, out),
    };
    (reply, query.rtype)
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
