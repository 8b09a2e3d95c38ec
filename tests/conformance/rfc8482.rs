//! RFC 8482: ANY gets a minimal answer.

use crate::dns::{ask, assert_no_data, code};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

#[test]
fn rfc8482_4_2_any_is_answered_with_hinfo() {
    for name in [
        "web.weir.internal.",
        "big.weir.internal.",
        "weir.internal.",
        "web-1.web.default.weir.internal.",
        "1.0.1.10.in-addr.arpa.",
    ] {
        let answer = ask(name, RecordType::ANY);
        assert_eq!(code(&answer), ResponseCode::NoError);
        let [record] = &answer.answers[..] else { panic!("{name}: {answer:?}") };
        let RData::HINFO(hinfo) = &record.data else { panic!("{record:?}") };
        assert_eq!((&*hinfo.cpu, &*hinfo.os), (&b"RFC8482"[..], &b""[..]));
    }
}

#[test]
fn rfc8482_4_any_of_nothing_is_negative() {
    assert_eq!(code(&ask("nope.weir.internal.", RecordType::ANY)), ResponseCode::NXDomain);
    assert_eq!(code(&ask("example.com.", RecordType::ANY)), ResponseCode::Refused);
    assert_no_data(&ask("staging.weir.internal.", RecordType::ANY));
}
