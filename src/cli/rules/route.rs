//! Routes what is marked to this machine: a rule of the kernel's routing, and a table that says so.

use super::args::MARK;
use super::program::{Failure, run, script, uses_ipv6};

/// How `ip` shows the rule.
const SHOWN: &str = "fwmark 0x57 lookup 87";
/// Rules that are taken away for one family at most: who installed with an older Weir may have more than one.
const MANY: usize = 16;

fn families() -> impl Iterator<Item = &'static str> {
    ["-4", "-6"].into_iter().filter(|family| *family == "-4" || uses_ipv6())
}

/// Routes it; returns the families for which that was not so before.
pub(super) fn lead() -> Result<Vec<&'static str>, Failure> {
    let mut fresh = Vec::new();
    for family in families() {
        if let Err(error) = lead_one(family, &mut fresh) {
            back(&fresh);
            return Err(error);
        }
    }
    Ok(fresh)
}

fn lead_one(family: &'static str, fresh: &mut Vec<&'static str>) -> Result<(), Failure> {
    let known = is_led(family)?;
    if !known {
        fresh.push(family);
    }
    run("ip", &format!("{family} route replace {}", route()), "")?;
    if !known {
        run("ip", &format!("{family} rule add {}", rule()), "")?;
    }
    Ok(())
}

/// Takes back what [`lead`] did, as far as that goes.
pub(super) fn back(fresh: &[&'static str]) {
    for family in fresh {
        let _ = leave_one(family);
    }
}

/// Routes nothing any more.
pub(super) fn leave() -> Result<(), Failure> {
    ["-4", "-6"].into_iter().try_for_each(leave_one)
}

fn leave_one(family: &str) -> Result<(), Failure> {
    // Where there is no `ip`, or no such family, nobody had anything led.
    for _ in 0..MANY {
        if !is_led(family).unwrap_or(false) {
            break;
        }
        run("ip", &format!("{family} rule del {}", rule()), "")?;
    }
    let routes = run("ip", &format!("{family} route show table {MARK}"), "");
    if routes.is_ok_and(|routes| routes.contains("local default dev lo")) {
        run("ip", &format!("{family} route del {}", route()), "")?;
    }
    Ok(())
}

fn is_led(family: &str) -> Result<bool, Failure> {
    Ok(run("ip", &format!("{family} rule show"), "")?.contains(SHOWN))
}

/// Adds that to a script.
pub(super) fn print(text: &mut String) {
    for family in families() {
        script(text, "ip", &format!("{family} route replace {}", route()), "");
        script(text, "ip", &format!("{family} rule add {}", rule()), "");
    }
}

fn rule() -> String {
    format!("fwmark {MARK} lookup {MARK}")
}

fn route() -> String {
    format!("local default dev lo table {MARK}")
}
