//! What each clause asks for, seen by dig, kdig, drill and dnspython.

use crate::server::{WAIT, exchange, question, shared};
use crate::tools::{dig, drill, kdig, python};
use hickory_proto::rr::RecordType;
use std::time::Duration;

#[test]
fn rfc1035_4_2_1_and_rfc2181_9_what_does_not_fit_in_512_octets_sets_tc() {
    let server = shared().address;
    for words in ["+bufsize=512 +ignore +nocookie", "+noedns +ignore"] {
        dig(server, &format!("{words} _http._tcp.big.default.weir.internal srv")).has(&["status: NOERROR", " tc"]);
        kdig(server, &format!("{} _http._tcp.big.default.weir.internal srv", words.replace(" +nocookie", "")))
            .has(&["NOERROR", " tc"]);
    }
    // RFC 2181 §9: additional data that does not fit is no truncation.
    dig(server, "+noedns +ignore _http._tcp.web.default.weir.internal srv").lacks(&[" tc"]);
}

#[test]
fn rfc7766_5_a_truncated_answer_is_followed_by_tcp() {
    let server = shared().address;
    dig(server, "+bufsize=512 _http._tcp.big.default.weir.internal srv").has(&["Truncated, retrying in TCP mode"]);
    let many = dig(server, "+tcp +short _http._tcp.big.default.weir.internal srv");
    assert!(many.lines().len() > 500, "{}", many.lines().len());
    python(
        server,
        "import sys, dns.message, dns.query
q = dns.message.make_query('_http._tcp.big.default.weir.internal.', 'SRV', use_edns=0, payload=512)
r, tcp = dns.query.udp_with_fallback(q, sys.argv[1], port=int(sys.argv[2]), timeout=5)
assert tcp and len(r.answer[0]) > 500, (tcp, r)",
    );
}

#[test]
fn rfc9715_3_no_answer_over_udp_is_above_1232_octets() {
    let said = dig(shared().address, "+bufsize=4096 +ignore _http._tcp.big.default.weir.internal srv");
    let size = said.text.split("MSG SIZE  rcvd: ").nth(1).unwrap().trim();
    assert!(size.parse::<usize>().unwrap() <= 1232, "{size}");
    said.has(&["udp: 1232", " tc"]);
}

#[test]
fn rfc6891_6_1_1_no_opt_without_one_and_one_with_one() {
    let server = shared().address;
    dig(server, "+noedns web.weir.internal").has(&["status: NOERROR"]).lacks(&["OPT PSEUDOSECTION"]);
    dig(server, "+edns=0 web.weir.internal").has(&["OPT PSEUDOSECTION", "EDNS: version: 0"]);
    kdig(server, "+edns web.weir.internal").has(&["EDNS PSEUDOSECTION", "Version: 0"]);
    drill(server, "web.weir.internal").has(&["NOERROR"]);
}

#[test]
fn rfc6891_6_1_3_a_later_version_is_badvers_also_over_tcp() {
    let server = shared().address;
    for words in ["", "+tcp"] {
        dig(server, &format!("{words} +edns=1 +noednsneg web.weir.internal")).has(&["status: BADVERS", "version: 0"]);
        kdig(server, &format!("{words} +edns=7 web.weir.internal")).has(&["BADVERS"]);
    }
    // A client that negotiates gets its answer.
    dig(server, "+edns=1 web.weir.internal A").has(&["status: NOERROR", "10.1.0.1"]);
}

#[test]
fn rfc3225_3_do_comes_back_and_brings_no_signatures_of_an_unsigned_zone() {
    let server = shared().address;
    dig(server, "+dnssec web.weir.internal A").has(&["flags: do;", "10.1.0.1"]).lacks(&["RRSIG"]);
    drill(server, "-D web.weir.internal A").has(&["10.1.0.1"]).lacks(&["RRSIG"]);
    dig(server, "+nodnssec web.weir.internal A").lacks(&["flags: do;"]);
}

#[test]
fn rfc7873_5_2_and_rfc9018_4_a_cookie_is_answered_with_the_client_s_own_and_one_of_24_octets() {
    let server = shared().address;
    for words in ["+cookie=0123456789abcdef", "+tcp +cookie=0123456789abcdef", "+cookie=0123456789abcdef any"] {
        let said = dig(server, &format!("{words} web.weir.internal"));
        let cookie = said.text.split("COOKIE: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
        assert_eq!(
            (cookie.len(), &cookie[..16], &cookie[16..24]),
            (48, "0123456789abcdef", "01000000"),
            "{}",
            said.text
        );
        said.has(&["(good)"]);
        // Shown again it is taken, and another one given.
        dig(server, &format!("+cookie={cookie} web.weir.internal")).has(&["(good)", "status: NOERROR"]);
    }
    kdig(server, "+cookie web.weir.internal A").has(&["COOKIE:", "10.1.0.1"]);
    // Without a cookie none is given.
    dig(server, "+nocookie web.weir.internal").lacks(&["COOKIE"]);
}

#[test]
fn rfc7873_5_2_2_a_cookie_of_a_wrong_length_is_a_format_error() {
    for length in [0u8, 7, 9, 15, 41] {
        for kind in [RecordType::A, RecordType::ANY] {
            let mut message = question("web.weir.internal.", kind).to_vec().unwrap();
            message[11] = 1;
            message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4 + length, 0, 10, 0, length]);
            message.extend(std::iter::repeat_n(7, usize::from(length)));
            let answer = exchange(shared().address, &message, WAIT).unwrap();
            assert_eq!(answer[3] & 15, 1, "{length} {kind}");
        }
    }
}

#[test]
fn rfc7873_5_2_3_a_question_with_a_strange_cookie_is_answered_all_the_same() {
    let strange = "+cookie=0123456789abcdef01000000deadbeef0011223344556677";
    dig(shared().address, &format!("{strange} web.weir.internal A")).has(&["status: NOERROR", "10.1.0.1", "(good)"]);
}

#[test]
fn rfc4892_2_version_in_class_chaos_and_nothing_else_of_it() {
    let server = shared().address;
    for name in ["version.bind", "version.server", "VERSION.bind"] {
        dig(server, &format!("ch txt {name}")).has(&["status: NOERROR", "CH\tTXT\t\"weir "]);
    }
    for question in ["ch txt hostname.bind", "ch txt id.server", "ch txt web.weir.internal", "hs txt version.bind"] {
        dig(server, question).has(&["status: REFUSED", "ANSWER: 0"]);
    }
}

#[test]
fn rfc5001_2_1_nsid_is_not_told() {
    // "A name server which does not implement NSID, or does not wish to, ignores the option."
    dig(shared().address, "+nsid web.weir.internal A").has(&["status: NOERROR", "10.1.0.1"]).lacks(&["NSID"]);
}

#[test]
fn rfc1035_4_1_1_and_rfc6895_2_2_other_opcodes_are_notimp() {
    let server = shared().address;
    for opcode in [1, 2, 3, 4, 5, 6, 7, 15] {
        dig(server, &format!("+opcode={opcode} soa weir.internal")).has(&["status: NOTIMP"]);
        dig(server, &format!("+tcp +opcode={opcode} soa weir.internal")).has(&["status: NOTIMP"]);
    }
}

#[test]
fn rfc5936_2_2_1_and_rfc1995_2_transfers_are_refused() {
    let server = shared().address;
    dig(server, "axfr weir.internal").has(&["Transfer failed"]).lacks(&["10.1.0.1"]);
    dig(server, "+tcp ixfr=1 weir.internal").lacks(&["10.1.0.1"]);
    let said = python(
        server,
        "import sys, dns.query, dns.message
for kind in ('AXFR', 'IXFR'):
    for ask in (dns.query.udp, dns.query.tcp):
        r = ask(dns.message.make_query('weir.internal.', kind), sys.argv[1], port=int(sys.argv[2]), timeout=5)
        print(kind, r.rcode(), len(r.answer))",
    );
    assert_eq!(said.text.lines().filter(|line| line.ends_with("5 0")).count(), 4, "{}", said.text);
}

#[test]
fn rfc8482_4_2_any_is_answered_with_one_short_record() {
    let server = shared().address;
    for words in ["any web.weir.internal", "+tcp any web.weir.internal", "any weir.internal"] {
        dig(server, words).has(&["status: NOERROR", "ANSWER: 1", "HINFO\t\"RFC8482\" \"\""]);
    }
    kdig(server, "-t ANY web.weir.internal").has(&["HINFO", "RFC8482"]);
}

#[test]
fn rfc1035_7_3_an_answer_is_answered_with_silence() {
    let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
    for kind in [0x80, 0x84, 0xA8, 0xF8] {
        message[2] = kind;
        assert_eq!(exchange(shared().address, &message, Duration::from_millis(200)), None, "{kind:x}");
    }
}

#[test]
fn rfc9619_4_more_than_one_question_or_none_is_a_format_error() {
    for count in [0u8, 2, 255] {
        let mut message = question("web.weir.internal.", RecordType::A).to_vec().unwrap();
        message[5] = count;
        assert_eq!(exchange(shared().address, &message, WAIT).unwrap()[3] & 15, 1, "{count}");
    }
}

#[test]
fn draft_0x20_and_rfc4343_3_1_the_case_of_a_question_comes_back() {
    let server = shared().address;
    for words in ["", "+tcp"] {
        dig(server, &format!("{words} +noall +question +answer wEb.WEIR.iNtErNaL A"))
            .has(&[";wEb.WEIR.iNtErNaL.", "wEb.WEIR.iNtErNaL.\t5\tIN\tA\t10.1.0.1"]);
    }
    drill(server, "wEb.WEIR.iNtErNaL A").has(&["wEb.WEIR.iNtErNaL."]);
}

#[test]
fn rfc4035_3_2_2_and_rfc6840_5_7_cd_comes_back_and_ad_does_not() {
    dig(shared().address, "+cd +ad web.weir.internal A").has(&[" cd"]).lacks(&[" ad;", " ad "]);
}

#[test]
fn rfc8945_5_2_a_signed_question_is_not_taken_for_a_good_one() {
    let key = "hmac-sha256:nobody:c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";
    dig(shared().address, &format!("-y {key} web.weir.internal A")).lacks(&["10.1.0.1"]);
}
