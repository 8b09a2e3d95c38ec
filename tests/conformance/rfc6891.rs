//! RFC 6891: EDNS, sizes, truncation.

use crate::dns::{WAIT, ask, ask_at, ask_tcp, code, exchange, question, question_edns, shared};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

/// OPT record: root, type 41, size 1232, code, version, flags, no options.
const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

/// Returns a question with these octets as its additional section.
fn with_additional(count: u8, additional: &[u8]) -> Vec<u8> {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    message[11] = count;
    message.extend_from_slice(additional);
    message
}

fn exchange_code(message: &[u8]) -> u8 {
    exchange(shared().address, message, WAIT).unwrap()[3] & 15
}

#[test]
fn rfc6891_6_1_1_opt_is_answered_with_opt_and_only_then() {
    assert!(ask("web.weir.internal.", RecordType::A).edns.is_none());
    let answer = ask_at(shared().address, &question_edns("web.weir.internal.", RecordType::A, 4096));
    let edns = answer.edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, false));
    assert_eq!(answer.answers.len(), 2);
}

#[test]
fn rfc6891_6_1_1_two_opt_records_are_a_format_error() {
    assert_eq!(exchange_code(&with_additional(2, &[OPT, OPT].concat())), 1);
}

#[test]
fn rfc6891_6_1_2_unknown_options_are_ignored() {
    let mut opt = OPT.to_vec();
    opt[10] = 6;
    opt.extend_from_slice(&[0, 100, 0, 2, 7, 7]);
    let answer = exchange(shared().address, &with_additional(1, &opt), WAIT).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 2));
    assert!(answer.edns.unwrap().options().as_ref().is_empty());
}

#[test]
fn rfc6891_6_1_2_lying_option_lengths_are_a_format_error() {
    let mut opt = OPT.to_vec();
    opt[10] = 4;
    opt.extend_from_slice(&[0, 100, 0, 2]);
    assert_eq!(exchange_code(&with_additional(1, &opt)), 1);
}

#[test]
fn rfc6891_6_1_3_higher_versions_get_badvers_without_data() {
    let mut opt = OPT;
    opt[6] = 1;
    let answer = exchange(shared().address, &with_additional(1, &opt), WAIT).unwrap();
    let answer = Message::from_vec(&answer).unwrap();
    // 16 is BADSIG in a signature and BADVERS in EDNS.
    assert_eq!((u16::from(code(&answer)), answer.answers.len()), (16, 0));
    assert_eq!(answer.edns.unwrap().version(), 0);
}

#[test]
fn rfc6891_6_1_4_do_comes_back_and_unknown_flags_do_not() {
    let mut opt = OPT;
    opt[7..9].copy_from_slice(&[0xFF, 0xFF]);
    let answer = exchange(shared().address, &with_additional(1, &opt), WAIT).unwrap();
    assert_eq!(answer[answer.len() - 4..answer.len() - 2], [0x80, 0]);
}

#[test]
fn rfc6891_6_2_5_the_answer_fits_what_the_client_takes() {
    let size = |message: &Message| {
        let answer = exchange(shared().address, &message.to_vec().unwrap(), WAIT).unwrap();
        let decoded = Message::from_vec(&answer).unwrap();
        assert!(decoded.metadata.truncation && !decoded.answers.is_empty());
        answer.len()
    };
    // Whole records of 16 octets: up to 15 octets stay unused.
    for (asked, limit) in [(None, 512), (Some(100), 512), (Some(512), 512), (Some(900), 900), (Some(4096), 1232)] {
        let message = match asked {
            None => question("big.weir.internal.", RecordType::A),
            Some(asked) => question_edns("big.weir.internal.", RecordType::A, asked),
        };
        let size = size(&message);
        assert!(size <= limit && size > limit - 16, "{asked:?}: {size} of {limit}");
    }
}

#[test]
fn rfc2181_9_tc_is_set_only_when_an_answer_record_is_left_out() {
    let complete = ask("web.weir.internal.", RecordType::A);
    assert!(!complete.metadata.truncation);
    let cut = ask("_http._tcp.big.weir.internal.", RecordType::SRV);
    assert!(cut.metadata.truncation && cut.additionals.is_empty());
    let over_tcp = ask_tcp("big.weir.internal.", RecordType::A);
    assert_eq!((over_tcp.answers.len(), over_tcp.metadata.truncation), (3000, false));
}

#[test]
fn rfc2181_9_additional_data_is_left_out_silently() {
    // Three SRV records fit, not all of their addresses.
    let mut fixture = crate::dns::Fixture::start(|_| {});
    let instance = |n: usize| crate::dns::instance("svc", &format!("svc-{n}"), &format!("fd00::{n}"), &[80]);
    let mut count = 0;
    let (full, answer) = loop {
        count += 1;
        fixture.publish(vec![(crate::dns::spec("svc", &["http"]), (0..count).map(instance).collect())]);
        let answer = ask_at(fixture.address, &question("_http._tcp.svc.weir.internal.", RecordType::SRV));
        if answer.additionals.len() < count {
            break (count, answer);
        }
    };
    assert_eq!((answer.answers.len(), answer.metadata.truncation), (full, false));
}
