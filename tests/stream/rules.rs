//! `weir sidecar rules` in network namespaces: what is there is replaced without a gap, and stays when that fails. Needs root,
//! `ip`, `nft`, `iptables` and `setpriv`.

use crate::capture::World;
use crate::space::{Space, pair};
use crate::support::process::{Folder, WEIR};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const BOTH: [&str; 2] = ["nft", "iptables"];
/// What was sent before, and another set that has none of its chains.
const OUTBOUND: &[&str] = &["--user", "0"];
const THROUGH: &[&str] = &["--user", "0", "--through", "15002"];
const COMING: &[&str] = &["--user", "0", "--outbound", "15001", "--inbound", "15006", "--inbound-mode", "tproxy"];

fn install(space: &Space, backend: &str, words: &[&str]) {
    space.rules(&[&["install", "--backend", backend], words].concat());
}

/// Runs `weir sidecar rules` where a program of this name fails; returns what it says.
fn fails_without(space: &Space, program: &str, words: &[&str]) -> String {
    let folder = Folder::new("rules");
    let shim = folder.write(program, "#!/bin/sh\necho told to fail >&2\nexit 3\n");
    std::fs::set_permissions(&shim, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", folder.0.display(), std::env::var("PATH").unwrap());
    let failed = space.run("env", &[&[&path, WEIR, "sidecar", "rules"], words].concat());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("told to fail"), "{words:?}: {said}");
    said
}

#[test]
fn an_install_that_fails_leaves_what_was() {
    let space = Space::new(&[]);
    space.rules(&["remove"]);
    let none = space.ruleset();
    for backend in BOTH {
        for words in [OUTBOUND, THROUGH, COMING] {
            install(&space, backend, words);
            let before = space.ruleset();
            for (program, others) in [
                ("nft", &[("nft", COMING), ("nft", OUTBOUND)][..]),
                // The second family, when the first is done.
                ("ip6tables-restore", &[("iptables", COMING), ("iptables", THROUGH), ("iptables", OUTBOUND)]),
                ("ip", &[("nft", COMING), ("iptables", COMING)]),
            ] {
                for (other, instead) in others.iter().filter(|(other, instead)| (*other, *instead) != (backend, words))
                {
                    let said = fails_without(&space, program, &[&["install", "--backend", other], *instead].concat());
                    assert_eq!(space.ruleset(), before, "{backend} {words:?} then {other} {instead:?}: {said}");
                }
            }
        }
        let before = space.ruleset();
        let program = if backend == "nft" { "nft" } else { "ip6tables-restore" };
        fails_without(&space, program, &["remove"]);
        assert_eq!(space.ruleset(), before, "removed by half");
        space.rules(&["remove"]);
        assert_eq!(space.ruleset(), none, "without a trace");
    }
}

#[test]
fn one_kind_of_rules_takes_the_place_of_the_other() {
    let space = Space::new(&[]);
    space.rules(&["remove"]);
    let none = space.ruleset();
    let mut only = Vec::new();
    for backend in BOTH {
        install(&space, backend, COMING);
        only.push(space.ruleset());
        space.rules(&["remove", "--backend", backend]);
        assert_eq!(space.ruleset(), none);
        // What is printed does the same.
        let script = space.said(WEIR, &[&["sidecar", "rules", "print", "--backend", backend], COMING].concat());
        let done = space.run("sh", &["-ec", &script]);
        assert!(done.status.success(), "{done:?}\n{script}");
        assert_eq!(&space.ruleset(), only.last().unwrap(), "{script}");
        space.rules(&["remove"]);
    }
    for round in 0..4 {
        // The routes are the same for both.
        install(&space, BOTH[round % 2], if round < 2 { COMING } else { THROUGH });
        install(&space, BOTH[(round + 1) % 2], COMING);
        assert_eq!(space.ruleset(), only[(round + 1) % 2], "{round}");
    }
    // Whose rules they are need not be said.
    space.rules(&["remove"]);
    assert_eq!(space.ruleset(), none);
    space.rules(&["remove"]);
}

#[test]
fn what_is_others_stays_where_it_is() {
    let space = Space::new(&[]);
    let before = "iptables -t nat -A OUTPUT -p tcp --dport 7 -j ACCEPT";
    let after = "iptables -t nat -A OUTPUT -p tcp --dport 9 -j ACCEPT && ip route add 192.0.2.0/24 dev lo table 87";
    assert!(space.run("sh", &["-c", before]).status.success());
    install(&space, "iptables", OUTBOUND);
    assert!(space.run("sh", &["-c", after]).status.success());
    let rules = || space.said("iptables-save", &["-t", "nat"]);
    let order = |rules: &str| {
        let lines = rules.lines().filter(|line| line.starts_with("-A OUTPUT"));
        lines.map(|line| line.rsplit(' ').next().unwrap().to_owned() + &line[line.len() - 10..]).collect::<Vec<_>>()
    };
    let first = order(&rules());
    assert!(first.len() == 3 && first[1].starts_with("WEIR_OUT"), "{first:?}");
    install(&space, "iptables", COMING);
    assert_eq!(order(&rules()), first, "a jump stays in its place");
    space.rules(&["remove"]);
    assert_eq!(order(&rules()).len(), 2);
    assert!(space.said("ip", &["route", "show", "table", "87"]).starts_with("192.0.2.0/24"));
}

#[test]
fn where_ipv6_is_switched_off_connections_are_led_by_ipv4() {
    let space = Space::new(&[]);
    let off = space.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
    assert!(off.status.success());
    for backend in BOTH {
        space.captured(backend, COMING, || {
            assert!(space.said("ip", &["-4", "rule"]).contains("fwmark 0x57"));
            assert!(space.said("ip", &["-4", "route", "show", "table", "87"]).contains("local default"));
        });
    }
}

#[test]
fn who_may_not_change_rules_is_told() {
    let space = Space::new(&[]);
    for backend in BOTH {
        install(&space, backend, COMING);
        let before = space.ruleset();
        for words in [
            &["remove"][..],
            &["remove", "--backend", backend],
            &[&["install", "--backend", backend], THROUGH].concat(),
        ] {
            let bare = ["--bounding-set", "-all", "--", WEIR, "sidecar", "rules"];
            let nobody = space.run("setpriv", &[&bare[..], words].concat());
            assert!(!nobody.status.success(), "{words:?}: {nobody:?}");
            assert_eq!(space.ruleset(), before, "{words:?}");
        }
        space.rules(&["remove"]);
    }
}

/// While rules are installed again and again, also by the other, nothing that is to be closed gets through.
#[test]
fn nothing_gets_through_while_rules_are_replaced() {
    let world = World::start("rules-gap");
    // Each anew, then each by the other.
    let order = ["iptables"; 5].iter().chain(&["nft"; 4]).chain(&["iptables", "nft", "iptables", "nft"]);
    install(&world.space, "iptables", OUTBOUND);
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let asking = {
        let (over, asked, space) = (over.clone(), asked.clone(), world.space.clone());
        std::thread::spawn(move || {
            let mut through = 0;
            while !over.load(Ordering::Relaxed) {
                // Known to nobody: closed where it is captured, answered else.
                let mut stream = space.connect("10.77.0.9:80");
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                through += u32::from(!answer.is_empty());
                asked.fetch_add(1, Ordering::Relaxed);
            }
            through
        })
    };
    for backend in order {
        let before = asked.load(Ordering::Relaxed);
        install(&world.space, backend, OUTBOUND);
        world.until("somebody asks", || asked.load(Ordering::Relaxed) > before + 2);
    }
    over.store(true, Ordering::Relaxed);
    let through = asking.join().unwrap();
    println!("{through} of {} got through", asked.load(Ordering::Relaxed));
    assert_eq!(through, 0, "of {}", asked.load(Ordering::Relaxed));
}

/// What is led to Weir reaches nobody while it is not there, by whatever it is led.
#[test]
fn nothing_gets_past_a_weir_that_is_not_there() {
    let (client, weir, behind) = (Space::new(&[]), Space::new(&[]), Space::new(&[]));
    pair((&weir, "side1"), &client, ("10.78.1", "fd78:1"));
    pair((&weir, "side2"), &behind, ("10.78.2", "fd78:2"));
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    assert!(weir.run("sh", &["-c", script]).status.success());
    let folder = Folder::new("rules-alone");
    let (here, there) = (["10.78.1.1:80", "[fd78:1::1]:80", "10.78.1.1:81"], ["10.78.2.2:80", "[fd78:2::2]:80"]);
    let _servers = here.map(|address| weir.whoami(&folder, address));
    let _others = there.map(|address| behind.whoami(&folder, address));
    let ask = |to: &str| {
        let url = format!("http://{to}/");
        client.said("curl", &["-s", "--noproxy", "*", "--connect-timeout", "0.4", &url]).contains("Instance: ")
    };
    let all = || here.iter().chain(&there).filter(|to| ask(to)).copied().collect::<Vec<_>>();
    crate::space::until(&folder, "all are there", || all().len() == 5);
    for backend in BOTH {
        for (words, past) in [
            (&["--inbound", "15006"][..], &["10.78.1.1:81", there[0], there[1]][..]),
            (&["--inbound", "15006", "--inbound-mode", "tproxy"], &["10.78.1.1:81", there[0], there[1]]),
            (&["--through", "15002"], &here),
        ] {
            install(&weir, backend, &[&["--user", "0", "--exclude", "81"], words].concat());
            assert_eq!(all(), past, "{backend} {words:?}");
        }
    }
    weir.rules(&["remove"]);
    assert_eq!(all().len(), 5);
}
