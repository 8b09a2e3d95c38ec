//! An answer that begins here and ends elsewhere: aliases that lead out of the zones.
//!
//! The handler leaves an answer that ends with an alias; [`question`] makes the question for where that leads, the forwarder
//! answers it, and [`join`] puts both into one message. Only on the slow path: it allocates.

use crate::dnswire::{HEADER_BYTES, Query, rcode, reject};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::BinEncodable;

/// Returns the question of `message` for the name that the last alias of `begun` leads to.
pub(crate) fn question(message: &[u8], begun: &[u8]) -> Option<Vec<u8>> {
    let (asked, rest) = Query::question_of(message)?;
    let begun = Message::from_vec(begun).ok()?;
    let target = begun.answers.iter().rev().find_map(|record| match &record.data {
        RData::CNAME(target) => target.0.to_bytes().ok(),
        _ => None,
    })?;
    let kind = asked.question.get(asked.name().len()..)?;
    Some([message.get(..HEADER_BYTES)?, &target, kind, rest].concat())
}

/// Joins the answer that was begun with the one from elsewhere. `max_udp_bytes` bounds it over UDP: TC and no records when
/// it does not fit.
pub(crate) fn join(message: &[u8], begun: &[u8], end: &[u8], max_udp_bytes: Option<u16>) -> Vec<u8> {
    joined(message, begun, end, max_udp_bytes).unwrap_or_else(|| {
        let mut out = vec![0; HEADER_BYTES];
        let length = reject(message, rcode::SERVFAIL, &mut out);
        out.truncate(length);
        out
    })
}

fn joined(message: &[u8], begun: &[u8], end: &[u8], max_udp_bytes: Option<u16>) -> Option<Vec<u8>> {
    let (begun, mut whole) = (Message::from_vec(begun).ok()?, Message::from_vec(end).ok()?);
    let (asked, _) = Query::question_of(message)?;
    whole.queries = begun.queries;
    whole.answers.splice(0..0, begun.answers);
    if whole.metadata.response_code == ResponseCode::ServFail {
        whole.answers.clear();
    }
    let room = max_udp_bytes.map_or(usize::from(u16::MAX), |own| {
        let client = whole.edns.is_some().then(|| Message::from_vec(message).ok()?.edns.map(|edns| edns.max_payload()));
        usize::from(client.flatten().map_or(512, |client| client.min(own).max(512)))
    });
    let fits = |whole: &Message| whole.to_vec().ok().filter(|octets| octets.len() <= room);
    let mut octets = fits(&whole).or_else(|| {
        whole.metadata.truncation = max_udp_bytes.is_some();
        whole.answers.clear();
        whole.authorities.clear();
        whole.additionals.clear();
        fits(&whole)
    })?;
    // The question as it was sent, letter by letter.
    octets.get_mut(HEADER_BYTES..HEADER_BYTES + asked.question.len())?.copy_from_slice(asked.question);
    Some(octets)
}

#[cfg(test)]
mod tests {
    use super::{join, question};
    use crate::dnswire::{Answer, Edns, OWNER_IS_QUESTION, Parsed, Query, Section, parse_name, record, rtype};
    use hickory_proto::op::Message;

    fn asked(name: &str) -> Vec<u8> {
        let mut message = vec![9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend(parse_name(name).unwrap());
        message.extend([0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        message
    }

    /// An answer with one record of the question.
    fn answered(message: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let Parsed::Fast(query) = Query::parse(message) else { panic!("unusual") };
        assert_eq!(query.edns, Some(Edns { udp_bytes: 1232, dnssec_ok: false }));
        let mut out = [0; 512];
        let mut answer = Answer::begin(&query, &mut out, 512).unwrap();
        let fixed = record::fixed(kind, 5, data.len());
        answer.add(Section::Answer, OWNER_IS_QUESTION, &[&fixed, data]).unwrap();
        let length = answer.finish(0, true);
        out[..length].to_vec()
    }

    #[test]
    fn the_target_is_asked_for_and_joined_behind_the_alias() {
        let mut message = asked("db.weir.internal");
        message[13] = b'D';
        let begun = answered(&message, rtype::CNAME, &parse_name("db.example.com").unwrap());
        let next = question(&message, &begun).unwrap();
        assert_eq!(next, asked("db.example.com"));
        let end = answered(&next, rtype::A, &[10, 0, 0, 9]);
        let whole = join(&message, &begun, &end, Some(1232));
        let decoded = Message::from_vec(&whole).unwrap();
        let shown: Vec<String> = decoded.answers.iter().map(|record| record.to_string()).collect();
        assert_eq!(
            shown,
            ["Db.weir.internal. 5 IN CNAME db.example.com.", "db.example.com. 5 IN A 10.0.0.9"],
            "{decoded}"
        );
        assert_eq!(whole[12..17], [2, b'D', b'b', 4, b'w'], "the letters of the question come back");
    }

    #[test]
    fn what_cannot_be_joined_is_a_failure_of_the_server() {
        let message = asked("db.weir.internal");
        assert_eq!(join(&message, &[1, 2], &[3], None)[3] & 0xF, 2);
        assert!(question(&message, &answered(&message, rtype::A, &[10, 0, 0, 1])).is_none());
    }
}
