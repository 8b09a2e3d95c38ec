//! The rules as iptables and ip6tables keep them: chains of Weir's own, and a jump to each.
//!
//! What is there is looked at first; then each table is changed from that to what is wanted in one transaction
//! (`iptables-restore --noflush`), in which a jump that is there stays where it is. Where a table or the other family refuses,
//! all is put back.

use super::args::{Capture, MARK, Mode};
use super::program::{Failure, has_ipv6, run, script};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The mark in the kernel's table of connections of those that are led to Weir as they are.
const LED: &str = "88";
const CHAINS: [&str; 5] = ["WEIR_OUT", "WEIR_IN", "WEIR_COMING", "WEIR_ANSWERS", "WEIR_THROUGH"];

/// The programs of one family.
#[derive(Debug, Clone, Copy)]
struct Family {
    save: &'static str,
    restore: &'static str,
    loopback: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family { save: "iptables-save", restore: "iptables-restore", loopback: "127.0.0.0/8" },
    Family { save: "ip6tables-save", restore: "ip6tables-restore", loopback: "::1/128" },
];

fn families() -> impl Iterator<Item = Family> {
    FAMILIES.into_iter().take(if has_ipv6() { 2 } else { 1 })
}

/// What is Weir's in a table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Table {
    /// By name, in their order.
    chains: BTreeMap<&'static str, Vec<String>>,
    /// What leads there from other chains.
    jumps: Vec<String>,
}

impl Table {
    /// Adds a chain of these rules that all connections of another are led to.
    fn chain(&mut self, name: &'static str, from: &str, rules: impl IntoIterator<Item = String>) {
        self.chains.entry(name).or_default().extend(rules.into_iter().map(|rule| format!("-A {name} {rule}")));
        self.jumps.push(format!("-A {from} -p tcp -j {name}"));
    }

    /// Returns the lines that make of this what is wanted; none where it is that.
    fn change(&self, wanted: &Self) -> String {
        let mut text = String::new();
        if self == wanted {
            return text;
        }
        // Made, or emptied.
        for name in CHAINS.iter().filter(|name| self.chains.contains_key(*name) || wanted.chains.contains_key(*name)) {
            let _ = writeln!(text, ":{name} - [0:0]");
        }
        for rule in wanted.chains.values().flatten() {
            let _ = writeln!(text, "{rule}");
        }
        let mut missing = wanted.jumps.clone();
        for jump in &self.jumps {
            match missing.iter().position(|wanted| wanted == jump) {
                Some(known) => drop(missing.remove(known)),
                None => drop(writeln!(text, "{}", jump.replacen("-A", "-D", 1))),
            }
        }
        for jump in missing {
            let _ = writeln!(text, "{jump}");
        }
        for name in self.chains.keys().filter(|name| !wanted.chains.contains_key(*name)) {
            let _ = writeln!(text, "-X {name}");
        }
        text
    }
}

/// What is Weir's for one family.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Rules {
    nat: Table,
    mangle: Table,
}

impl Rules {
    /// Reads what `iptables-save` prints.
    fn read(saved: &str) -> Self {
        let mut rules = Self::default();
        let mut table = None;
        for line in saved.lines() {
            match line.strip_prefix('*') {
                Some("nat") => table = Some(&mut rules.nat),
                Some("mangle") => table = Some(&mut rules.mangle),
                Some(_) => table = None,
                None => {}
            }
            let Some(table) = &mut table else { continue };
            let own = |word: &str| CHAINS.into_iter().find(|name| *name == word);
            let mut words = line.split(' ');
            let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if let Some(name) = first.strip_prefix(':').and_then(own) {
                table.chains.entry(name).or_default();
            } else if let ("-A", Some(name)) = (first, own(second)) {
                table.chains.entry(name).or_default().push(line.to_owned());
            } else if first == "-A" && words.any(|word| own(word).is_some()) {
                table.jumps.push(line.to_owned());
            }
        }
        rules
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what `iptables-restore` reads to make of this what is wanted; empty where it is that.
    fn change(&self, wanted: &Self) -> String {
        let mut text = String::new();
        for (name, now, wanted) in [("nat", &self.nat, &wanted.nat), ("mangle", &self.mangle, &wanted.mangle)] {
            let lines = now.change(wanted);
            if !lines.is_empty() {
                let _ = write!(text, "*{name}\n{lines}COMMIT\n");
            }
        }
        text
    }
}

impl Family {
    fn look(self) -> Result<Rules, Failure> {
        run(self.save, "-t nat", "")
            .and_then(|nat| Ok(nat + &run(self.save, "-t mangle", "")?))
            .map(|saved| Rules::read(&saved))
    }

    fn make(self, now: &Rules, wanted: &Rules) -> Result<(), Failure> {
        let text = now.change(wanted);
        if text.is_empty() { Ok(()) } else { run(self.restore, "-w --noflush", &text).map(drop) }
    }
}

/// Puts the rules in the place of what was there, which stays, or is put back, when they are refused.
pub(super) fn install(capture: &Capture) -> Result<(), Failure> {
    replace(|family| wanted(family, capture))
}

/// Removes the rules, if there are any.
pub(super) fn remove() -> Result<(), Failure> {
    replace(|_| Rules::default())
}

fn replace(wanted: impl Fn(Family) -> Rules) -> Result<(), Failure> {
    let before: Vec<(Family, Rules)> =
        families().map(|family| Ok((family, family.look()?))).collect::<Result<_, Failure>>()?;
    for (family, rules) in &before {
        let Err(error) = family.make(rules, &wanted(*family)) else { continue };
        // What has been changed by now is looked for: of two tables one may be.
        let back = before.iter().try_for_each(|(family, rules)| family.make(&family.look()?, rules));
        return Err(match (back, error) {
            (Err(worse), Failure::Said(what, said)) => {
                Failure::Said(what, format!("{said}; what was there before could not be put back: {worse}"))
            }
            (_, error) => error,
        });
    }
    Ok(())
}

/// Returns whether there are rules.
pub(super) fn look() -> Result<bool, Failure> {
    for family in families() {
        if !family.look()?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds the rules to a script.
pub(super) fn print(text: &mut String, capture: &Capture) {
    for family in families() {
        script(text, family.restore, "-w --noflush", &Rules::default().change(&wanted(family, capture)));
    }
}

fn wanted(family: Family, capture: &Capture) -> Rules {
    let leave: Vec<String> = capture.excluded().iter().map(|port| format!("-p tcp --dport {port} -j RETURN")).collect();
    let (mut nat, mut mangle) = (Table::default(), Table::default());
    if let Some(port) = capture.outbound() {
        let others =
            [format!("-m owner --uid-owner {} -j RETURN", capture.user), format!("-d {} -j RETURN", family.loopback)];
        let led = format!("-p tcp -j REDIRECT --to-ports {port}");
        nat.chain("WEIR_OUT", "OUTPUT", others.into_iter().chain(leave.clone()).chain([led]));
    }
    if let Some(port) = capture.inbound(Mode::Redirect) {
        let led = format!("-p tcp -m addrtype --dst-type LOCAL -j REDIRECT --to-ports {port}");
        nat.chain("WEIR_IN", "PREROUTING", leave.iter().cloned().chain([led]));
    }
    if let Some(port) = capture.inbound(Mode::Tproxy) {
        // What Weir makes with a client's address goes over lo, and what the workload answers must come back over it.
        let over_lo =
            [format!("-i lo -m mark --mark {MARK} -j CONNMARK --set-mark {MARK}"), "-i lo -j RETURN".to_owned()];
        let led = tproxy(port, "! --dst-type LOCAL", &leave);
        mangle.chain("WEIR_COMING", "PREROUTING", over_lo.into_iter().chain(led));
        let answers = format!("-m connmark --mark {MARK} -m conntrack --ctdir REPLY -j MARK --set-mark {MARK}");
        mangle.chain("WEIR_ANSWERS", "OUTPUT", [answers]);
    }
    if let Some(port) = capture.through {
        mangle.chain("WEIR_THROUGH", "PREROUTING", tproxy(port, "--dst-type LOCAL", &leave));
    }
    Rules { nat, mangle }
}

/// Returns the rules that lead to a port as it is what comes to them, but what goes elsewhere, to excluded ports, or is no
/// connection that begins here, such as what this machine is answered: TPROXY of iptables drops what it finds no socket for,
/// where that of nftables passes it on.
fn tproxy(port: u16, elsewhere: &str, leave: &[String]) -> Vec<String> {
    let known = [
        format!("-p tcp -m socket --transparent -j MARK --set-mark {MARK}"),
        format!("-m mark --mark {MARK} -j ACCEPT"),
    ];
    let begun = [
        format!("-m addrtype {elsewhere} -j RETURN"),
        format!("-p tcp --syn -j CONNMARK --set-mark {LED}"),
        format!("-m connmark ! --mark {LED} -j RETURN"),
        format!("-p tcp -j TPROXY --on-port {port} --tproxy-mark {MARK}"),
    ];
    known.into_iter().chain(leave.iter().cloned()).chain(begun).collect()
}

#[cfg(test)]
mod tests {
    use super::{CHAINS, Rules};

    const SAVED: &str = "# Generated\n*filter\n:WEIR_IN - [0:0]\nCOMMIT\n*nat\n:OUTPUT ACCEPT [1:2]\n:WEIR_OUT - [0:0]\n:OWN - [0:0]\n\
        -A OUTPUT -p tcp -j OWN\n-A OUTPUT -p tcp -j WEIR_OUT\n-A OUTPUT -p tcp -j WEIR_OUT\n-A WEIR_OUT -p tcp -j RETURN\n\
        -A OWN -j WEIR_OUTSIDE\nCOMMIT\n*mangle\n:WEIR_THROUGH - [0:0]\n-A PREROUTING -p tcp -j WEIR_THROUGH\nCOMMIT\n";

    #[test]
    fn reads_what_is_weir_s_and_nothing_of_others() {
        let rules = Rules::read(SAVED);
        assert_eq!(rules.nat.chains.keys().copied().collect::<Vec<_>>(), ["WEIR_OUT"]);
        assert_eq!(rules.nat.chains["WEIR_OUT"], ["-A WEIR_OUT -p tcp -j RETURN"]);
        assert_eq!(rules.nat.jumps, ["-A OUTPUT -p tcp -j WEIR_OUT"; 2]);
        assert_eq!(rules.mangle.chains["WEIR_THROUGH"], [""; 0]);
        assert_eq!(rules.mangle.jumps, ["-A PREROUTING -p tcp -j WEIR_THROUGH"]);
        assert!(Rules::read("*filter\n:WEIR_IN - [0:0]\nCOMMIT\n").is_empty());
    }

    #[test]
    fn changes_as_little_as_leads_to_what_is_wanted() {
        let rules = Rules::read(SAVED);
        assert_eq!(rules.change(&rules), "", "nothing to do");
        let mut other = rules.clone();
        other.mangle = Rules::default().mangle;
        other.nat.jumps.pop();
        other.nat.chains.insert(CHAINS[0], vec!["-A WEIR_OUT -j ACCEPT".to_owned()]);
        assert_eq!(
            rules.change(&other),
            "*nat\n:WEIR_OUT - [0:0]\n-A WEIR_OUT -j ACCEPT\n-D OUTPUT -p tcp -j WEIR_OUT\nCOMMIT\n\
             *mangle\n:WEIR_THROUGH - [0:0]\n-D PREROUTING -p tcp -j WEIR_THROUGH\n-X WEIR_THROUGH\nCOMMIT\n"
        );
        assert_eq!(
            Rules::default().change(&other),
            "*nat\n:WEIR_OUT - [0:0]\n-A WEIR_OUT -j ACCEPT\n-A OUTPUT -p tcp -j WEIR_OUT\nCOMMIT\n"
        );
    }
}
