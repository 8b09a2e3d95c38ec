//! `weir sidecar rules`: what leads a workload's connections to Weir, printed, installed and removed.
//!
//! Everything stands in chains, or a table, of Weir's own: installing twice is the same as once, removing leaves no trace, and
//! nothing of anybody else's is touched but a jump at the end of a chain. Weir's own user is left out, or its connections
//! would come back to it.

use crate::cli::output;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, ExitCode, Stdio};

/// `weir sidecar rules`.
#[derive(Debug, Args)]
pub(super) struct RulesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the commands that `install` runs
    Print(Capture),
    /// Lead connections to Weir; what was installed before is replaced
    Install(Capture),
    /// Take every rule of Weir's away again
    Remove {
        /// Whose rules
        #[arg(long, value_enum, default_value_t = Backend::Nft)]
        backend: Backend,
    },
}

/// Who keeps the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// nftables: a table of Weir's own
    Nft,
    /// iptables and ip6tables: chains of Weir's own in the table nat
    Iptables,
}

/// How connections are led.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// REDIRECT: Weir needs no privilege
    Redirect,
    /// TPROXY: Weir needs CAP_NET_ADMIN
    Tproxy,
}

/// What is led to Weir.
#[derive(Debug, Clone, Args)]
struct Capture {
    /// Port of the listener with [listener.capture] that takes what the workload sends; 15001 when no port is named
    #[arg(long)]
    outbound: Option<u16>,
    /// Port of the listener that takes what comes to the workload
    #[arg(long)]
    inbound: Option<u16>,
    /// How that is led to it, as the listener's mode says; with tproxy and keep_source the workload sees its clients' addresses
    #[arg(long, value_enum, default_value_t = Mode::Redirect, requires = "inbound")]
    inbound_mode: Mode,
    /// Port of the listener with mode = "tproxy" that takes what is routed through this machine
    #[arg(long)]
    through: Option<u16>,
    /// User that Weir runs as, by number: its own connections are not captured
    #[arg(long, value_name = "UID")]
    user: u32,
    /// Ports of destinations that are not captured, as well as those of Weir's own listeners
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    exclude: Vec<u16>,
    /// Who keeps the rules
    #[arg(long, value_enum, default_value_t = Backend::Nft)]
    backend: Backend,
}

impl Capture {
    fn outbound(&self) -> Option<u16> {
        self.outbound.or((self.inbound.is_none() && self.through.is_none()).then_some(15001))
    }
}

impl Capture {
    /// Whether connections are led to Weir as they are.
    fn uses_tproxy(&self) -> bool {
        self.through.is_some() || (self.inbound.is_some() && self.inbound_mode == Mode::Tproxy)
    }
}

/// The mark of connections that are led to Weir as they are, and the table that routes them here. Weir itself marks those that
/// it makes with a client's address to this machine (`proxy/connect.rs`).
const MARK: &str = "87";
/// The mark in the kernel's table of connections of those that iptables leads to Weir as they are.
const LED: &str = "88";

/// A program with its arguments, and what it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Step {
    program: &'static str,
    arguments: Vec<String>,
    input: String,
    /// Whether it may fail: what is to be removed may not be there.
    may_fail: bool,
}

/// Runs the command.
pub(super) fn rules(args: &RulesArgs) -> Result<ExitCode> {
    match &args.what {
        What::Print(capture) => output::write(&print(&steps(capture)))?,
        What::Install(capture) => install(capture)?,
        What::Remove { backend } => run(&remove(*backend))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs the rules in place of what was there.
fn install(capture: &Capture) -> Result<()> {
    match capture.backend {
        // One transaction: what was there captures until the new rules do, and stays when they are refused.
        Backend::Nft => {
            run(&nft(capture))?;
            run(&unrouted())?;
        }
        Backend::Iptables => run(&remove(Backend::Iptables))?,
    }
    let rest = match capture.backend {
        Backend::Nft => routed(capture),
        Backend::Iptables => steps(capture),
    };
    if let Err(error) = run(&rest) {
        // All or nothing.
        run(&remove(capture.backend))?;
        return Err(error);
    }
    Ok(())
}

fn print(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let _ = writeln!(text, "{} {}", step.program, step.arguments.join(" "));
        text.push_str(&step.input);
    }
    text
}

fn run(steps: &[Step]) -> Result<()> {
    for step in steps {
        let mut child = Command::new(step.program)
            .args(&step.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}: install it, or choose another --backend", step.program))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(step.input.as_bytes()).with_context(|| format!("tell {} what to do", step.program))?;
        }
        let done = child.wait_with_output().with_context(|| format!("wait for {}", step.program))?;
        if !done.status.success() && !step.may_fail {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("{} {}: {}", step.program, step.arguments.join(" "), said.trim());
        }
    }
    Ok(())
}

fn step(program: &'static str, words: &str, may_fail: bool) -> Step {
    Step { program, arguments: words.split(' ').map(str::to_owned).collect(), input: String::new(), may_fail }
}

fn steps(capture: &Capture) -> Vec<Step> {
    let mut steps = match capture.backend {
        Backend::Nft => nft(capture),
        Backend::Iptables => ["iptables", "ip6tables"].iter().flat_map(|program| iptables(program, capture)).collect(),
    };
    steps.extend(routed(capture));
    steps
}

/// Routes what is marked to this machine.
fn routed(capture: &Capture) -> Vec<Step> {
    let families = ["-4", "-6"].into_iter().filter(|_| capture.uses_tproxy());
    let of = |family| {
        [
            format!("{family} rule add fwmark {MARK} lookup {MARK}"),
            format!("{family} route add local default dev lo table {MARK}"),
        ]
    };
    families.flat_map(of).map(|words| step("ip", &words, false)).collect()
}

/// Routes nothing any more.
fn unrouted() -> Vec<Step> {
    let of = |family| {
        [format!("{family} rule del fwmark {MARK} lookup {MARK}"), format!("{family} route flush table {MARK}")]
    };
    ["-4", "-6"].into_iter().flat_map(of).map(|words| step("ip", &words, true)).collect()
}

fn remove(backend: Backend) -> Vec<Step> {
    let mut steps = unrouted();
    if backend == Backend::Nft {
        steps.push(step("nft", "delete table inet weir", true));
        return steps;
    }
    let words = [
        "-t nat -D OUTPUT -p tcp -j WEIR_OUT",
        "-t nat -D PREROUTING -p tcp -j WEIR_IN",
        "-t mangle -D PREROUTING -p tcp -j WEIR_THROUGH",
        "-t mangle -D PREROUTING -p tcp -j WEIR_COMING",
        "-t mangle -D OUTPUT -p tcp -j WEIR_ANSWERS",
        "-t nat -F WEIR_OUT",
        "-t nat -F WEIR_IN",
        "-t mangle -F WEIR_THROUGH",
        "-t mangle -F WEIR_COMING",
        "-t mangle -F WEIR_ANSWERS",
        "-t nat -X WEIR_OUT",
        "-t nat -X WEIR_IN",
        "-t mangle -X WEIR_THROUGH",
        "-t mangle -X WEIR_COMING",
        "-t mangle -X WEIR_ANSWERS",
    ];
    let of = |program| words.map(|words| step(program, &format!("-w {words}"), true));
    steps.extend(["iptables", "ip6tables"].into_iter().flat_map(of));
    steps
}

/// Returns the ports that are left alone: Weir's own listeners and those that were named.
fn excluded(capture: &Capture) -> Vec<String> {
    let mut ports: Vec<u16> = [capture.outbound(), capture.inbound, capture.through].into_iter().flatten().collect();
    ports.extend(&capture.exclude);
    ports.sort_unstable();
    ports.dedup();
    ports.iter().map(u16::to_string).collect()
}

fn nft(capture: &Capture) -> Vec<Step> {
    let ports = excluded(capture).join(", ");
    // Declared, so that there is one to delete; all of it is one transaction.
    let mut text = "table inet weir\ndelete table inet weir\ntable inet weir {\n".to_owned();
    if let Some(port) = capture.outbound() {
        let _ = write!(
            text,
            "  chain out {{\n    type nat hook output priority -100; policy accept;\n    meta skuid {} return\n    \
             ip daddr 127.0.0.0/8 return\n    ip6 daddr ::1 return\n    tcp dport {{ {ports} }} return\n    \
             meta l4proto tcp redirect to :{port}\n  }}\n",
            capture.user
        );
    }
    if let Some(port) = capture.inbound.filter(|_| capture.inbound_mode == Mode::Redirect) {
        let _ = write!(
            text,
            "  chain in {{\n    type nat hook prerouting priority -100; policy accept;\n    tcp dport {{ {ports} }} return\n    \
             fib daddr type local meta l4proto tcp redirect to :{port}\n  }}\n"
        );
    }
    if let Some(port) = capture.inbound.filter(|_| capture.inbound_mode == Mode::Tproxy) {
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
    vec![Step { input: text, ..step("nft", "-f -", false) }]
}

/// Returns the rules of nftables that lead to a port as it is what comes to them.
fn tproxy(port: u16) -> String {
    [("ipv4", "ip"), ("ipv6", "ip6")]
        .map(|(protocol, family)| {
            format!(
                "    meta nfproto {protocol} meta l4proto tcp tproxy {family} to :{port} meta mark set {MARK} accept\n"
            )
        })
        .concat()
}

/// Returns the rules that leave alone what is no connection that begins here, such as what this machine is answered: TPROXY of
/// iptables drops what it finds no socket for, where that of nftables passes it on.
fn begun(chain: &str) -> [String; 2] {
    [
        format!("-A {chain} -p tcp --syn -j CONNMARK --set-mark {LED}"),
        format!("-A {chain} -m connmark ! --mark {LED} -j RETURN"),
    ]
}

fn iptables(program: &'static str, capture: &Capture) -> Vec<Step> {
    let loopback = if program == "iptables" { "127.0.0.0/8" } else { "::1/128" };
    let ports = excluded(capture);
    let leave = |chain: &str| -> Vec<String> {
        ports.iter().map(|port| format!("-A {chain} -p tcp --dport {port} -j RETURN")).collect()
    };
    let mut nat = Vec::new();
    if let Some(port) = capture.outbound() {
        nat.push("-N WEIR_OUT".to_owned());
        nat.push(format!("-A WEIR_OUT -m owner --uid-owner {} -j RETURN", capture.user));
        nat.push(format!("-A WEIR_OUT -d {loopback} -j RETURN"));
        nat.extend(leave("WEIR_OUT"));
        nat.push(format!("-A WEIR_OUT -p tcp -j REDIRECT --to-ports {port}"));
        nat.push("-A OUTPUT -p tcp -j WEIR_OUT".to_owned());
    }
    if let Some(port) = capture.inbound.filter(|_| capture.inbound_mode == Mode::Redirect) {
        nat.push("-N WEIR_IN".to_owned());
        nat.extend(leave("WEIR_IN"));
        nat.push(format!("-A WEIR_IN -p tcp -m addrtype --dst-type LOCAL -j REDIRECT --to-ports {port}"));
        nat.push("-A PREROUTING -p tcp -j WEIR_IN".to_owned());
    }
    let mut mangle = Vec::new();
    if let Some(port) = capture.inbound.filter(|_| capture.inbound_mode == Mode::Tproxy) {
        mangle.push("-N WEIR_COMING".to_owned());
        // What Weir makes with a client's address goes over lo, and what the workload answers must come back over it.
        mangle.push(format!("-A WEIR_COMING -i lo -m mark --mark {MARK} -j CONNMARK --set-mark {MARK}"));
        mangle.push("-A WEIR_COMING -i lo -j RETURN".to_owned());
        mangle.push(format!("-A WEIR_COMING -p tcp -m socket --transparent -j MARK --set-mark {MARK}"));
        mangle.push(format!("-A WEIR_COMING -m mark --mark {MARK} -j ACCEPT"));
        mangle.extend(leave("WEIR_COMING"));
        mangle.push("-A WEIR_COMING -m addrtype ! --dst-type LOCAL -j RETURN".to_owned());
        mangle.extend(begun("WEIR_COMING"));
        mangle.push(format!("-A WEIR_COMING -p tcp -j TPROXY --on-port {port} --tproxy-mark {MARK}"));
        mangle.push("-A PREROUTING -p tcp -j WEIR_COMING".to_owned());
        mangle.push("-N WEIR_ANSWERS".to_owned());
        let answers = format!("-m connmark --mark {MARK} -m conntrack --ctdir REPLY");
        mangle.push(format!("-A WEIR_ANSWERS {answers} -j MARK --set-mark {MARK}"));
        mangle.push("-A OUTPUT -p tcp -j WEIR_ANSWERS".to_owned());
    }
    if let Some(port) = capture.through {
        mangle.push("-N WEIR_THROUGH".to_owned());
        mangle.push(format!("-A WEIR_THROUGH -p tcp -m socket --transparent -j MARK --set-mark {MARK}"));
        mangle.push(format!("-A WEIR_THROUGH -m mark --mark {MARK} -j ACCEPT"));
        mangle.extend(leave("WEIR_THROUGH"));
        mangle.push("-A WEIR_THROUGH -m addrtype --dst-type LOCAL -j RETURN".to_owned());
        mangle.extend(begun("WEIR_THROUGH"));
        mangle.push(format!("-A WEIR_THROUGH -p tcp -j TPROXY --on-port {port} --tproxy-mark {MARK}"));
        mangle.push("-A PREROUTING -p tcp -j WEIR_THROUGH".to_owned());
    }
    let in_table = |table: &'static str| move |words: String| step(program, &format!("-w -t {table} {words}"), false);
    nat.into_iter().map(in_table("nat")).chain(mangle.into_iter().map(in_table("mangle"))).collect()
}

#[cfg(test)]
mod tests {
    use super::{Backend, Capture, Mode, print, remove, steps};

    fn capture(backend: Backend, inbound: Option<u16>) -> Capture {
        let (outbound, through, inbound_mode) = (Some(15001), Some(15002), Mode::Redirect);
        Capture { outbound, inbound, inbound_mode, through, user: 1337, exclude: vec![22, 15001], backend }
    }

    #[test]
    fn the_rules_of_both_leave_out_weir_its_ports_and_loopback() {
        let nft = print(&steps(&capture(Backend::Nft, None)));
        assert!(
            nft.contains("meta skuid 1337 return") && nft.contains("tcp dport { 22, 15001, 15002 } return"),
            "{nft}"
        );
        assert!(nft.contains("redirect to :15001") && !nft.contains("chain in"), "{nft}");
        let replaces = "nft -f -\ntable inet weir\ndelete table inet weir\ntable inet weir {\n";
        assert!(nft.starts_with(replaces), "what was there goes in the same transaction: {nft}");
        let tables = print(&steps(&capture(Backend::Iptables, Some(15006))));
        for program in ["iptables", "ip6tables"] {
            let of = |words: &str| tables.contains(&format!("\n{program} -w -t nat {words}\n"));
            assert!(of("-A WEIR_OUT -m owner --uid-owner 1337 -j RETURN"), "{tables}");
            assert!(of("-A WEIR_OUT -p tcp -j REDIRECT --to-ports 15001") && of("-A PREROUTING -p tcp -j WEIR_IN"));
            assert!(of("-A WEIR_IN -p tcp --dport 22 -j RETURN"), "{tables}");
        }
    }

    #[test]
    fn what_is_removed_is_all_that_is_made() {
        let by = |inbound_mode| steps(&Capture { inbound_mode, ..capture(Backend::Iptables, Some(15006)) });
        let made = [by(Mode::Redirect), by(Mode::Tproxy)].concat();
        let gone = print(&remove(Backend::Iptables));
        for step in made.iter().filter(|step| step.arguments.iter().any(|word| word == "-N")) {
            let chain = step.arguments.last().unwrap();
            let table = step.arguments.iter().find(|word| ["nat", "mangle"].contains(&word.as_str())).unwrap();
            assert!(gone.contains(&format!("{} -w -t {table} -X {chain}\n", step.program)), "{gone}");
        }
    }
}
