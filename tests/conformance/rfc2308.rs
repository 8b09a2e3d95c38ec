//! RFC 2308 and RFC 8020: negative answers.

use crate::dns::{ask, assert_no_data, assert_soa, code};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

#[test]
fn rfc2308_2_1_a_name_that_does_not_exist_is_nxdomain_with_soa() {
    for name in [
        "nope.weir.internal.",
        "nope.default.weir.internal.",
        "_grpc._tcp.web.weir.internal.",
        "_http._udp.web.weir.internal.",
        "nope.web.default.weir.internal.",
        "web-1.web.weir.internal.",
        "x.web-1.web.default.weir.internal.",
    ] {
        let answer = ask(name, RecordType::A);
        assert_eq!(code(&answer), ResponseCode::NXDomain, "{name}");
        assert!(answer.metadata.authoritative && answer.answers.is_empty());
        assert_soa(&answer, "weir.internal.");
    }
}

#[test]
fn rfc2308_2_2_a_name_without_the_type_is_no_data_with_soa() {
    assert_no_data(&ask("web.weir.internal.", RecordType::MX));
    assert_no_data(&ask("web.weir.internal.", RecordType::SRV));
    assert_no_data(&ask("web.weir.internal.", RecordType::Unknown(1000)));
    assert_no_data(&ask("staging.weir.internal.", RecordType::A));
    assert_no_data(&ask("_http._tcp.web.weir.internal.", RecordType::A));
    assert_no_data(&ask("web-1.web.default.weir.internal.", RecordType::AAAA));
    assert_no_data(&ask("weir.internal.", RecordType::A));
}

#[test]
fn rfc2308_2_2_aaaa_of_an_ipv4_service_is_no_data_never_nxdomain() {
    assert_no_data(&ask("local.weir.internal.", RecordType::AAAA));
}

#[test]
fn rfc2308_2_2_a_known_service_without_endpoints_is_no_data() {
    assert_no_data(&ask("none.weir.internal.", RecordType::A));
    assert_no_data(&ask("_http._tcp.none.weir.internal.", RecordType::SRV));
}

#[test]
fn rfc8020_2_empty_non_terminals_exist() {
    for name in [
        "default.weir.internal.",
        "staging.weir.internal.",
        "_tcp.web.weir.internal.",
        "_tcp.api.staging.weir.internal.",
    ] {
        assert_no_data(&ask(name, RecordType::A));
    }
}
