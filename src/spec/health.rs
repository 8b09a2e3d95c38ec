//! Health checks as users write them ↔ as they are used.

use crate::model;
use crate::spec::bounds::{bounded, positive};
use crate::spec::listener::find_port;
use crate::spec::route::check_path;
use crate::spec::{Duration, Health, ProbeType, Problems, Range};
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration as Time;

/// Bound of `rise` and `fall`.
const THRESHOLD: RangeInclusive<u32> = 1..=100;
/// Shortest time between checks; below that, checks are a load of their own.
const MIN_INTERVAL: Time = Time::from_millis(10);
/// What octets in hexadecimal digits begin with.
const HEX: &str = "hex:";
/// Longest datagram of a check: one that every way takes whole.
const DATAGRAM_BYTES: usize = 1200;

pub(super) fn read_health(
    p: &mut Problems,
    health: &Health,
    (names, ports): (&[String], &[model::PortSpec]),
) -> model::HealthCheck {
    let interval = health.interval.map_or(Time::from_secs(5), Duration::get);
    for (key, value) in [("health.interval", health.interval), ("health.fast_interval", health.fast_interval)] {
        if value.is_some_and(|value| value.get() < MIN_INTERVAL) {
            p.add(key, "is shorter than 10ms", "write \"10ms\" or more");
        }
    }
    for (key, value) in [("health.timeout", health.timeout), ("health.fast_interval", health.fast_interval)] {
        if let Some(value) = value.filter(|value| value.get() > interval) {
            let hint = "one check ends before the next begins: lower it or raise health.interval";
            p.add(key, format!("{value} is above interval {}", Duration::new(interval)), hint);
        }
    }
    model::HealthCheck {
        probe: read_probe(p, health),
        port: read_port(p, health, (names, ports)),
        interval,
        fast_interval: health.fast_interval.map_or_else(|| Time::from_secs(1).min(interval), Duration::get),
        timeout: positive(p, "health.timeout", health.timeout, Time::from_secs(2).min(interval)),
        rise: bounded(p, "health.rise", health.rise, 2, &THRESHOLD),
        fall: bounded(p, "health.fall", health.fall, 3, &THRESHOLD),
    }
}

/// Reads which port is checked, one that speaks what the check does: the one that is named, else the first for `udp` checks,
/// else the first of all.
fn read_port(p: &mut Problems, health: &Health, (names, ports): (&[String], &[model::PortSpec])) -> usize {
    let (wanted, is, hint) = match health.kind {
        Some(ProbeType::Udp) => (model::Protocol::Udp, "TCP", "name a UDP port, or write another type"),
        _ => (model::Protocol::Tcp, "UDP", "name a TCP port, or write type = \"udp\""),
    };
    let fits = |port: &model::PortSpec| port.protocol == wanted;
    let default = || if wanted == model::Protocol::Udp { ports.iter().position(fits) } else { None };
    let named = health.port.as_ref().and_then(|port| find_port(p, "health.port", port, names));
    let port = named.or_else(default).unwrap_or(0);
    if let Some(other) = ports.get(port).filter(|port| !fits(port)) {
        p.add("health.port", format!("port {:?} is {is}", &*other.name), hint);
    }
    port
}

fn read_probe(p: &mut Problems, health: &Health) -> model::Probe {
    let written = [
        ("health.path", health.path.is_some()),
        ("health.host", health.host.is_some()),
        ("health.status", health.status.is_some()),
        ("health.grpc_service", health.grpc_service.is_some()),
        ("health.send", health.send.is_some()),
        ("health.expect", health.expect.is_some()),
    ];
    let (name, meaning): (_, &[&str]) = match health.kind {
        None => {
            p.absent("health.type", "add type = \"http\", \"tcp\", \"grpc\" or \"udp\"");
            ("", &written.map(|(key, _)| key))
        }
        Some(ProbeType::Http) => ("http", &["health.path", "health.host", "health.status"]),
        Some(ProbeType::Tcp) => ("tcp", &[]),
        Some(ProbeType::Grpc) => ("grpc", &["health.host", "health.grpc_service"]),
        Some(ProbeType::Udp) => ("udp", &["health.send", "health.expect"]),
    };
    for (key, _) in written.into_iter().filter(|(key, written)| *written && !meaning.contains(key)) {
        let other = match key {
            "health.send" | "health.expect" => "udp",
            "health.grpc_service" => "grpc",
            _ => "http",
        };
        p.add(key, format!("has no meaning for type = \"{name}\""), format!("remove it, or write type = \"{other}\""));
    }
    let host = read_host(p, health);
    match health.kind {
        Some(ProbeType::Tcp) => return model::Probe::Tcp,
        Some(ProbeType::Grpc) => {
            return model::Probe::Grpc { service: health.grpc_service.as_deref().unwrap_or_default().into(), host };
        }
        Some(ProbeType::Udp) => {
            let [send, expect] = [("health.send", &health.send), ("health.expect", &health.expect)]
                .map(|(key, text)| text.as_deref().map_or_else(Arc::default, |text| read_octets(p, key, text)));
            return model::Probe::Udp { send, expect };
        }
        None | Some(ProbeType::Http) => {}
    }
    let path = health.path.as_deref().unwrap_or("/");
    check_path(p, "health.path", path, true);
    let status = health.status.as_ref().map_or(200..=399, Range::get);
    if *status.start() < 100 || *status.end() > 599 {
        p.add("health.status", "holds codes outside 100 to 599", "write a range of status codes, such as \"200-399\"");
    }
    model::Probe::Http { path: path.into(), host, status }
}

fn read_host(p: &mut Problems, health: &Health) -> Option<Arc<str>> {
    let host = health.host.as_deref()?;
    if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) {
        p.add("health.host", format!("{host:?} is no Host field"), "write a host name, with :PORT where it is needed");
    }
    Some(host.into())
}

/// Reads octets: a text, or `hex:` and hexadecimal digits.
fn read_octets(p: &mut Problems, key: &'static str, text: &str) -> Arc<[u8]> {
    let octets = match text.strip_prefix(HEX) {
        None => Some(text.as_bytes().to_vec()),
        Some(digits) => digits.as_bytes().chunks(2).map(octet).collect(),
    };
    if octets.is_none() {
        p.add(key, "is not hexadecimal", "write two digits for each octet, such as \"hex:ffffffff54\"");
    }
    let octets = octets.unwrap_or_default();
    if octets.len() > DATAGRAM_BYTES {
        p.add(key, format!("has {} octets", octets.len()), "write at most 1200");
    }
    octets.into()
}

/// Reads an octet of two hexadecimal digits.
fn octet(digits: &[u8]) -> Option<u8> {
    let &[high, low] = digits else { return None };
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

/// Writes octets so that `read_octets` reads the same; none are left out.
fn write_octets(octets: &[u8]) -> Option<String> {
    if octets.is_empty() {
        return None;
    }
    let plain = |text: &&str| !text.starts_with(HEX) && !text.chars().any(char::is_control);
    let hexadecimal = || {
        octets.iter().fold(HEX.to_owned(), |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        })
    };
    Some(std::str::from_utf8(octets).ok().filter(plain).map_or_else(hexadecimal, str::to_owned))
}

pub(super) fn write_health(health: &model::HealthCheck, ports: &[model::PortSpec]) -> Health {
    let probe = match &health.probe {
        model::Probe::Tcp => Health { kind: Some(ProbeType::Tcp), ..Health::default() },
        model::Probe::Grpc { service, host } => Health {
            kind: Some(ProbeType::Grpc),
            host: host.as_deref().map(str::to_owned),
            grpc_service: Some(service.to_string()).filter(|service| !service.is_empty()),
            ..Health::default()
        },
        model::Probe::Http { path, host, status } => Health {
            kind: Some(ProbeType::Http),
            path: Some(path.to_string()),
            host: host.as_deref().map(str::to_owned),
            status: Some(Range::new(status.clone())),
            ..Health::default()
        },
        model::Probe::Udp { send, expect } => Health {
            kind: Some(ProbeType::Udp),
            send: write_octets(send),
            expect: write_octets(expect),
            ..Health::default()
        },
    };
    Health {
        port: ports.get(health.port).map(|port| port.name.to_string()),
        interval: Some(health.interval.into()),
        fast_interval: Some(health.fast_interval.into()),
        timeout: Some(health.timeout.into()),
        rise: Some(health.rise),
        fall: Some(health.fall),
        ..probe
    }
}

#[cfg(test)]
mod tests {
    use super::{read_octets, write_octets};
    use crate::spec::Problems;

    #[test]
    fn octets_are_texts_or_hexadecimal_and_are_written_so_that_they_are_read_again() {
        for (text, octets) in [
            ("ping", &b"ping"[..]),
            ("hex:ffFF54", b"\xff\xff\x54"),
            ("hex:0a", b"\n"),
            ("hex:6865783a41", b"hex:A"),
            ("gr\u{fc}n", "gr\u{fc}n".as_bytes()),
        ] {
            let mut problems = Problems::new();
            assert_eq!(*read_octets(&mut problems, "health.send", text), *octets, "{text}");
            assert!(problems.into_vec().is_empty());
            assert_eq!(write_octets(octets), Some(text.to_lowercase()));
        }
        assert_eq!(write_octets(b""), None);
        for text in ["hex:f", "hex:fg", "hex:+f", &"x".repeat(1201)] {
            let mut problems = Problems::new();
            read_octets(&mut problems, "health.send", text);
            assert_eq!(problems.into_vec().len(), 1, "{text}");
        }
    }
}
