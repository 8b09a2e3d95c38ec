//! RFC 1035 and RFC 1034: header, names, records, what exists.

use crate::dns::{WAIT, addresses, ask, ask_at, assert_no_data, code, exchange, question, shared};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

const SERVERS: [&str; 3] = ["web.default.weir.internal.", "web.weir.internal.", "WEB.Default.Weir.INTERNAL."];

#[test]
fn rfc1035_3_4_1_a_lists_the_ipv4_addresses() {
    for name in SERVERS {
        let answer = ask(name, RecordType::A);
        assert_eq!(code(&answer), ResponseCode::NoError);
        assert_eq!(addresses(&answer.answers), ["10.1.0.1", "10.1.0.2"]);
        assert!(answer.metadata.authoritative && !answer.metadata.truncation && !answer.metadata.recursion_available);
        assert!(answer.answers.iter().all(|r| r.ttl == 5 && r.record_type() == RecordType::A));
    }
}

#[test]
fn rfc3596_2_2_aaaa_lists_the_ipv6_addresses() {
    assert_eq!(addresses(&ask("web.weir.internal.", RecordType::AAAA).answers), ["fd00::3"]);
}

#[test]
fn rfc1035_3_3_11_ns_names_this_server_with_its_address() {
    let answer = ask("weir.internal.", RecordType::NS);
    assert_eq!(addresses(&answer.answers), ["ns.dns.weir.internal."]);
    assert_eq!(addresses(&answer.additionals), ["127.0.0.1"]);
    assert_eq!(answer.additionals[0].name.to_ascii(), "ns.dns.weir.internal.");
    assert_eq!(addresses(&ask("ns.dns.weir.internal.", RecordType::A).answers), ["127.0.0.1"]);
    assert_no_data(&ask("dns.weir.internal.", RecordType::A));
}

#[test]
fn rfc1035_3_3_13_soa_has_the_generation_as_its_serial() {
    let answer = ask("weir.internal.", RecordType::SOA);
    let [record] = &answer.answers[..] else { panic!("{answer:?}") };
    let RData::SOA(soa) = &record.data else { panic!("{record:?}") };
    assert_eq!(soa.mname.to_ascii(), "ns.dns.weir.internal.");
    assert_eq!(soa.rname.to_ascii(), "hostmaster.weir.internal.");
    assert_eq!(u64::from(soa.serial), shared().table.load().generation);
}

#[test]
fn rfc1035_3_3_12_ptr_names_the_instances_behind_an_address() {
    let answer = ask("1.0.1.10.in-addr.arpa.", RecordType::PTR);
    assert_eq!(addresses(&answer.answers), ["web-1.web.default.weir.internal."]);
    let six = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(addresses(&ask(six, RecordType::PTR).answers), ["web-3.web.default.weir.internal."]);
    let other_type = ask("1.0.1.10.in-addr.arpa.", RecordType::A);
    assert_eq!((code(&other_type), other_type.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(other_type.authorities[0].record_type(), RecordType::SOA);
    assert_eq!(other_type.authorities[0].name.to_ascii(), "1.0.1.10.in-addr.arpa.");
}

#[test]
fn rfc1035_3_3_12_no_ptr_for_loopback_or_unknown_addresses() {
    for name in ["1.0.0.127.in-addr.arpa.", "9.9.1.10.in-addr.arpa.", "10.in-addr.arpa.", "arpa."] {
        assert_eq!(code(&ask(name, RecordType::PTR)), ResponseCode::Refused, "{name}");
    }
}

#[test]
fn rfc1035_3_3_14_txt_tells_the_version() {
    let expected = format!("weir {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(addresses(&ask("version.weir.internal.", RecordType::TXT).answers), [expected]);
    assert_eq!(addresses(&ask("dns-version.weir.internal.", RecordType::TXT).answers), ["1.1.0"]);
    assert_no_data(&ask("version.weir.internal.", RecordType::A));
}

#[test]
fn rfc1035_4_1_1_rd_and_cd_come_back_and_z_does_not() {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    for flags in [[0u8, 0u8], [1, 0x10], [0, 0x70]] {
        message[2..4].copy_from_slice(&flags);
        let answer = exchange(shared().address, &message, WAIT).unwrap();
        assert_eq!(answer[2], 0x84 | (flags[0] & 1), "QR, AA and RD");
        assert_eq!(answer[3], flags[1] & 0x10, "CD only");
    }
}

#[test]
fn rfc1035_4_1_1_an_answer_is_not_answered() {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    message[2] |= 0x80;
    assert_eq!(exchange(shared().address, &message, std::time::Duration::from_millis(300)), None);
}

#[test]
fn rfc1035_4_1_1_other_operations_are_not_implemented() {
    for opcode in [1u8, 2, 3, 4, 5, 6, 15] {
        let mut message = question("web.weir.internal.", RecordType::SOA).to_vec().unwrap();
        message[2] = opcode << 3;
        let answer = exchange(shared().address, &message, WAIT).unwrap();
        assert_eq!((answer[2] >> 3 & 15, answer[3] & 15), (opcode, 4), "opcode {opcode}");
        let header = [&message[..4], &[0; 8]].concat();
        let answer = exchange(shared().address, &header, WAIT).unwrap();
        assert_eq!(answer[3] & 15, 4, "opcode {opcode} without a question");
    }
}

#[test]
fn rfc9619_2_a_query_has_one_question() {
    for count in [0u8, 2, 255] {
        let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
        message[5] = count;
        let answer = exchange(shared().address, &message, WAIT).unwrap();
        assert_eq!((answer.len(), answer[3] & 15), (12, 1), "QDCOUNT {count}");
    }
}

#[test]
fn rfc1035_2_3_3_letter_case_is_ignored_and_comes_back() {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    message[13..16].copy_from_slice(b"WeB");
    let answer = exchange(shared().address, &message, WAIT).unwrap();
    assert_eq!(answer[12..message.len()], message[12..]);
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 2);
}

#[test]
fn rfc1035_4_1_4_owners_are_compressed_to_the_question() {
    let message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    let answer = exchange(shared().address, &message, WAIT).unwrap();
    assert_eq!(answer[message.len()..message.len() + 2], [0xC0, 0x0C]);
    assert_eq!(answer.len(), message.len() + 2 * 16);
}

#[test]
fn rfc1035_4_1_1_refused_outside_the_zone() {
    for name in ["example.com.", "internal.", ".", "xweir.internal.", "weir.internal.example."] {
        let answer = ask(name, RecordType::A);
        assert_eq!(code(&answer), ResponseCode::Refused, "{name}");
        assert!(!answer.metadata.authoritative && answer.answers.is_empty() && answer.authorities.is_empty());
    }
}

#[test]
fn rfc1035_3_2_4_other_classes_are_refused_but_chaos_tells_the_version() {
    let mut message = question("web.weir.internal.", RecordType::A);
    message.queries[0].query_class = hickory_proto::rr::DNSClass::HS;
    assert_eq!(code(&ask_at(shared().address, &message)), ResponseCode::Refused);
    for name in ["version.bind.", "VERSION.server."] {
        let mut message = question(name, RecordType::TXT);
        message.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
        let answer = ask_at(shared().address, &message);
        assert_eq!(addresses(&answer.answers), [format!("weir {}", env!("CARGO_PKG_VERSION"))]);
        assert_eq!(answer.answers[0].dns_class, hickory_proto::rr::DNSClass::CH);
    }
    let mut message = question("hostname.bind.", RecordType::TXT);
    message.queries[0].query_class = hickory_proto::rr::DNSClass::CH;
    assert_eq!(code(&ask_at(shared().address, &message)), ResponseCode::Refused);
}

#[test]
fn rfc1035_3_2_3_transfers_are_refused() {
    for kind in [RecordType::AXFR, RecordType::IXFR] {
        assert_eq!(code(&ask("weir.internal.", kind)), ResponseCode::Refused);
    }
}
