//! The rules as nftables keeps them: a table of Weir's own, replaced in one transaction.

use super::args::{Capture, MARK, Mode};
use super::program::{Failure, run, script};
use std::fmt::Write as _;

const TABLE: &str = "table inet weir";

/// Puts the rules in the place of what was there, which stays when they are refused.
pub(super) fn install(capture: &Capture) -> Result<(), Failure> {
    run("nft", "-f -", &text(capture)).map(drop)
}

/// Removes the rules, if there are any.
pub(super) fn remove() -> Result<(), Failure> {
    run("nft", "-f -", &format!("{TABLE}\ndelete {TABLE}\n")).map(drop)
}

/// Returns whether there are rules.
pub(super) fn look() -> Result<bool, Failure> {
    match run("nft", &format!("list {TABLE}"), "") {
        Err(Failure::Said(_, said)) if said.contains("No such file") => Ok(false),
        other => other.map(|_| true),
    }
}

/// Adds the rules to a script.
pub(super) fn print(script_text: &mut String, capture: &Capture) {
    script(script_text, "nft", "-f -", &text(capture));
}

fn text(capture: &Capture) -> String {
    let ports = capture.excluded().join(", ");
    // Declared, so that there is one to delete; all of it is one transaction.
    let mut text = format!("{TABLE}\ndelete {TABLE}\n{TABLE} {{\n");
    if let Some(port) = capture.outbound() {
        let _ = write!(
            text,
            "  chain out {{\n    type nat hook output priority -100; policy accept;\n    meta skuid {} return\n    \
             ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n    tcp dport {{ {ports} }} return\n    \
             meta l4proto tcp redirect to :{port}\n  }}\n",
            capture.user
        );
    }
    if let Some(port) = capture.inbound(Mode::Redirect) {
        let _ = write!(
            text,
            "  chain in {{\n    type nat hook prerouting priority -100; policy accept;\n    tcp dport {{ {ports} }} return\n    \
             fib daddr type local meta l4proto tcp redirect to :{port}\n  }}\n"
        );
    }
    if let Some(port) = capture.inbound(Mode::Tproxy) {
        // What Weir makes with a client's address goes over lo, and what the workload answers must come back over it.
        let _ = write!(
            text,
            "  chain coming {{\n    type filter hook prerouting priority mangle; policy accept;\n    \
             iif lo meta mark {MARK} ct mark set {MARK}\n    iif lo return\n    \
             meta l4proto tcp socket transparent 1 meta mark set {MARK} accept\n    tcp dport {{ {ports} }} return\n    \
             fib daddr type != local return\n{}  }}\n  \
             chain answers {{\n    type route hook output priority mangle; policy accept;\n    \
             meta l4proto tcp ct mark {MARK} ct direction reply meta mark set {MARK}\n  }}\n",
            tproxy(port)
        );
    }
    if let Some(port) = capture.through {
        let _ = write!(
            text,
            "  chain through {{\n    type filter hook prerouting priority mangle; policy accept;\n    \
             meta l4proto tcp socket transparent 1 meta mark set {MARK} accept\n    tcp dport {{ {ports} }} return\n    \
             fib daddr type local return\n{}  }}\n",
            tproxy(port)
        );
    }
    text.push_str("}\n");
    text
}

/// Returns the rules that lead to a port as it is what comes to them. Where nobody listens there, the kernel passes on what it should
/// lead: what would go past Weir is dropped, as iptables does, and is sent again by who sent it.
fn tproxy(port: u16) -> String {
    [("ipv4", "ip"), ("ipv6", "ip6")]
        .map(|(protocol, family)| {
            format!(
                "    meta nfproto {protocol} meta l4proto tcp tproxy {family} to :{port} meta mark set {MARK} accept\n"
            )
        })
        .concat()
        + "    meta l4proto tcp ct state new drop\n"
}
