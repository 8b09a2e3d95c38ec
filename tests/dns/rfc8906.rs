//! The checks of RFC 8906 (§8, what a server must do with well-formed but uncommon questions) and some of service
//! discovery, with dig as the client: 26, each by its own name.

use crate::server::shared;
use crate::tools::dig;

/// A check: its name, what dig is told, what must be in its output, what must not.
type Check = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const SOA: &str = "IN\tSOA\t";
const OPT: &str = "OPT PSEUDOSECTION";
const NO_ERROR: &str = "status: NOERROR";

const CHECKS: [Check; 26] = [
    // §8.1: without EDNS.
    ("8.1.1 plain", "+noedns +noad soa weir.internal", &[NO_ERROR, SOA, " aa"], &[OPT]),
    ("8.1.2 unknown type", "+noedns +noad type1000 weir.internal", &[NO_ERROR, "ANSWER: 0", " aa"], &[OPT]),
    ("8.1.3.1 CD", "+noedns +noad +cd soa weir.internal", &[NO_ERROR, SOA], &[OPT]),
    ("8.1.3.2 AD", "+noedns +ad soa weir.internal", &[NO_ERROR, SOA], &["flags: qr aa ad", " ad;"]),
    ("8.1.3.3 reserved bit", "+noedns +noad +zflag soa weir.internal", &[NO_ERROR, SOA], &["MBZ"]),
    ("8.1.3.4 RD", "+noedns +noad +rec soa weir.internal", &[NO_ERROR, SOA, " rd"], &[OPT]),
    ("8.1.4 opcode 15", "+noedns +noad +opcode=15 +header-only", &["status: NOTIMP"], &[OPT]),
    ("8.1.4 STATUS", "+noedns +noad +opcode=2 soa weir.internal", &["status: NOTIMP"], &[OPT]),
    ("8.1.5 TCP", "+noedns +noad +tcp soa weir.internal", &[NO_ERROR, SOA], &[OPT]),
    // §8.2: with EDNS.
    (
        "8.2.1 EDNS 0",
        "+edns=0 +nocookie +noad soa weir.internal",
        &[NO_ERROR, SOA, OPT, "EDNS: version: 0", " aa"],
        &[],
    ),
    (
        "8.2.2 EDNS 1",
        "+edns=1 +noednsneg +nocookie +noad soa weir.internal",
        &["status: BADVERS", OPT, "EDNS: version: 0", "ANSWER: 0"],
        &[SOA],
    ),
    (
        "8.2.3 unknown option",
        "+edns=0 +nocookie +noad +ednsopt=100 soa weir.internal",
        &[NO_ERROR, SOA, "EDNS: version: 0"],
        &["OPT=100"],
    ),
    (
        "8.2.4 unknown flags",
        "+edns=0 +nocookie +noad +ednsflags=0x40 soa weir.internal",
        &[NO_ERROR, SOA, "EDNS: version: 0"],
        &["MBZ"],
    ),
    (
        "8.2.5 EDNS 1 and flags",
        "+edns=1 +noednsneg +nocookie +noad +ednsflags=0x40 soa weir.internal",
        &["status: BADVERS", "ANSWER: 0"],
        &["MBZ", SOA],
    ),
    (
        "8.2.6 EDNS 1 and option",
        "+edns=1 +noednsneg +nocookie +noad +ednsopt=100 soa weir.internal",
        &["status: BADVERS", "EDNS: version: 0", "ANSWER: 0"],
        &["OPT=100", SOA],
    ),
    ("8.2.7 truncation", "+edns=0 +nocookie +noad +dnssec +bufsize=512 dnskey weir.internal", &[NO_ERROR, OPT], &[]),
    ("8.2.8 DO", "+edns=0 +nocookie +noad +dnssec soa weir.internal", &[NO_ERROR, SOA, "flags: do;"], &[]),
    ("8.2.9 EDNS and TCP", "+edns=0 +nocookie +noad +tcp soa weir.internal", &[NO_ERROR, SOA, OPT], &[]),
    ("8.2.10 cookie", "+edns=0 +cookie +noad soa weir.internal", &[NO_ERROR, SOA, "(good)"], &["(bad)"]),
    (
        "8.2.10 many options",
        "+edns=0 +noad +nsid +subnet=0.0.0.0/0 +ednsopt=100 +cookie soa weir.internal",
        &[NO_ERROR, SOA, "(good)"],
        &["OPT=100"],
    ),
    // What discovery needs beside it.
    ("RFC 4343 case", "+noedns a WeB.weir.internal", &[NO_ERROR, "WeB.weir.internal.\t5\tIN\tA"], &[]),
    ("RFC 8020 empty non-terminal", "+noedns a default.weir.internal", &[NO_ERROR, "ANSWER: 0", SOA], &[]),
    ("RFC 2308 2.1 no such name", "+noedns a nope.weir.internal", &["status: NXDOMAIN", SOA], &[]),
    ("RFC 2308 2.2 no such type", "+noedns mx web.weir.internal", &[NO_ERROR, "ANSWER: 0", SOA], &[]),
    (
        "RFC 2782 additional addresses",
        "+noedns srv _http._tcp.web.default.weir.internal",
        &[NO_ERROR, "ANSWER: 3", "IN\tAAAA", "IN\tA\t"],
        &[],
    ),
    ("RFC 8499 6 not our zone", "+noedns a example.com", &["status: REFUSED"], &[SOA]),
];

#[test]
fn rfc8906_8_all_26_checks() {
    let server = shared().address;
    let mut failed = Vec::new();
    for (name, words, wanted, unwanted) in CHECKS {
        let said = dig(server, &format!("+norec +ignore {words}"));
        let missing: Vec<_> = wanted.iter().filter(|text| !said.text.contains(**text)).collect();
        let there: Vec<_> = unwanted.iter().filter(|text| said.text.contains(**text)).collect();
        if !missing.is_empty() || !there.is_empty() {
            failed.push(format!("{name}: misses {missing:?}, has {there:?} in\n{}", said.text));
        }
    }
    assert!(failed.is_empty(), "{} of {} checks failed:\n{}", failed.len(), CHECKS.len(), failed.join("\n"));
}
