#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! Weir as an edge proxy beside nginx, HAProxy, Envoy, Traefik and Caddy: HTTP/1.1, TLS, HTTP/2, handshakes, memory.
//!
//! `cargo bench --bench edge -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod clients;
mod foreign;
mod peers;
#[path = "../support/proxies/mod.rs"]
mod proxies;
mod steady;

use clap::Parser;
use peers::Setting;
use proxies::common::{Common, Folder};
use proxies::load::{Load, Shape, Stretch};
use proxies::message::Kind;
use proxies::process::Peer;
use proxies::report::Cell;
use proxies::rounds::{Meter, Method, Quiet};
use proxies::{cpu, memory, process, pypi, report, rounds};
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// A scenario: its name, what it is, and the bounds on Weir's cost: beside which peers, and how much at most.
struct Scenario {
    name: &'static str,
    title: &'static str,
    bounds: &'static [(&'static str, f64)],
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "tiny",
        title: "HTTP/1.1, 128 B, keepalive, 64 connections",
        bounds: &[("nginx", 0.80), ("haproxy", 0.75)],
    },
    Scenario {
        name: "16k",
        title: "HTTP/1.1, 16 KiB, keepalive, 64 connections",
        bounds: &[("nginx", 0.80), ("haproxy", 0.80)],
    },
    Scenario {
        name: "close",
        title: "HTTP/1.1, 128 B, a connection per request",
        bounds: &[("nginx", 0.90), ("haproxy", 0.90)],
    },
    Scenario {
        name: "1m",
        title: "HTTP/1.1, 1 MiB, keepalive, 8 connections",
        bounds: &[("nginx", 0.8), ("haproxy", 0.7)],
    },
    Scenario {
        name: "tls",
        title: "HTTP/1.1 over TLS 1.3, 128 B, keepalive, 64 connections",
        bounds: &[("nginx", 0.85), ("haproxy", 0.85)],
    },
    Scenario {
        name: "h2",
        title: "HTTP/2 over TLS 1.3 to HTTP/1.1, 128 B, 8 connections with 32 streams",
        bounds: &[("best", 0.8)],
    },
    Scenario {
        name: "handshake",
        title: "full TLS 1.3 handshake and one request, one after the other",
        bounds: &[("best", 1.05)],
    },
];

/// Who is measured.
const PEERS: [&str; 6] = ["weir", "nginx", "haproxy", "envoy", "traefik", "caddy"];
/// What is measured.
const NAMES: [&str; 12] =
    ["tiny", "16k", "close", "1m", "tls", "h2", "handshake", "memory", "p99", "p99-one", "change", "turn"];

/// Weir beside the others as an edge: CPU per request, memory, latency, turns.
#[derive(Debug, Parser)]
struct Options {
    /// Proxies, parted by commas
    #[arg(long, value_delimiter = ',', default_values = PEERS, value_parser = PEERS)]
    peers: Vec<String>,
    /// Scenarios, parted by commas
    #[arg(long, value_delimiter = ',', default_values = NAMES, value_parser = NAMES)]
    scenarios: Vec<String>,
    /// Idle connections of `memory`
    #[arg(long, value_name = "N", default_value_t = 5000)]
    idle: usize,
    #[command(flatten)]
    quiet: Quiet<10, 500>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    options.common.end("edge", compare(&options))
}

/// Runs every scenario; false when there were errors or a bound was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&[names.as_slice(), &["h2load"]].concat())?;
    pypi::install(&names)?;
    memory::raise_descriptors(40_000)?;
    weir::sys::thread::pin(options.quiet.method().cpus[1])?;
    let folder = Folder::new("edge")?;
    let (certificate, key) = (folder.0.join("certificate.pem"), folder.0.join("key.pem"));
    let made = rcgen::generate_simple_self_signed([clients::NAME.to_owned()])?;
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let mut load = Load::open(2)?;
    let endpoints = load.endpoints()?;
    let setting = Setting {
        folder: &folder.0,
        cpu: options.quiet.method().cpus[0],
        endpoints: &endpoints,
        weir: &options.common.weir,
        certificate: &certificate,
        key: &key,
    };
    let mut good = true;
    if options.scenarios.iter().any(|name| name == "memory") {
        good &= idle_connections(options, &mut load, &setting)?;
    }
    let mut running = Vec::new();
    for name in names {
        let peer = peers::start(name, &setting)?;
        verify(&mut load, &peer, &setting)?;
        running.push(peer);
    }
    println!(
        "CPU {} runs one proxy at a time with one worker, CPU {} backend and load; cost: CPU time of the peer's processes per \
         request, lower quartile of the quiet rounds; * marks a dropped round",
        options.quiet.method().cpus[0],
        options.quiet.method().cpus[1]
    );
    let running: Vec<&Peer> = running.iter().collect();
    let weir = running.iter().find(|peer| peer.name == "weir");
    for wanted in options.scenarios.iter().map(String::as_str) {
        good &= match (wanted, weir) {
            ("memory", _) | ("change" | "turn", None) => true,
            ("p99", _) => steady::tail(&mut load, &running, &options.quiet.method())?,
            ("p99-one", _) => steady::single(&mut load, &running, &options.quiet.method())?,
            ("change", Some(weir)) => steady::changes(&mut load, weir, &setting, &options.quiet.method())?,
            ("turn", Some(weir)) => steady::turns(&mut load, weir, &setting, &options.quiet.method())?,
            _ => {
                let scenario = SCENARIOS.iter().find(|s| s.name == wanted).ok_or(format!("no scenario {wanted}"))?;
                run(scenario, &running, (&mut load, &setting), &options.quiet.method())?
            }
        };
    }
    Ok(good)
}

/// Runs one scenario over all peers and compares.
fn run(
    scenario: &Scenario,
    peers: &[&Peer],
    (load, setting): (&mut Load, &Setting<'_>),
    method: &Method,
) -> Result<bool, Box<dyn Error>> {
    let cells = rounds::each(peers, method, |peer| {
        stretch(scenario.name, peer, (load, setting), 0.06)?;
        load.idle(Duration::from_millis(10))?;
        let meter = Meter::start(peer.pid());
        let stretch = stretch(scenario.name, peer, (load, setting), method.seconds)?;
        load.idle(Duration::from_millis(5))?;
        let (peer_ns, other) = meter.stop(method.cpus);
        Ok(Cell::new(&stretch, peer_ns, other))
    })?;
    let quartiles = report::print(&format!("{}: {}", scenario.name, scenario.title), &cells, method.max_other);
    let mut good = cells.iter().all(|(_, rounds)| rounds.iter().all(|cell| cell.errors == 0));
    if !good {
        println!("  there were errors");
    }
    let Some(own) = quartiles.get("weir") else { return Ok(good) };
    for (peer, most) in scenario.bounds {
        let others = quartiles.iter().filter(|(name, _)| **name != "weir" && (*peer == "best" || *name == peer));
        let other = others.map(|(_, cost)| *cost).fold(f64::NAN, f64::min);
        good &= report_bound(&format!("weir / {peer}"), own / other, *most);
    }
    Ok(good)
}

/// Prints a figure beside its bound; returns whether it is met.
fn report_bound(what: &str, figure: f64, most: f64) -> bool {
    let verdict = match figure {
        figure if figure.is_nan() => "not measured",
        figure if figure <= most => "met",
        _ => "MISSED",
    };
    println!("  {what} = {figure:.3}, wanted at most {most}: {verdict}");
    figure <= most
}

/// One stretch of load of a scenario.
fn stretch(
    scenario: &str,
    peer: &Peer,
    (load, setting): (&mut Load, &Setting<'_>),
    seconds: f64,
) -> Result<Stretch, Box<dyn Error>> {
    let [plain, tls] = peer.listen;
    let time = Duration::from_secs_f64(seconds);
    let shape = |kind: Kind, close: bool| Shape { kind, connections: 64, close, rate: None };
    // As many as take about that time at the pace of a fast peer.
    let requests = |per_second: f64| ((seconds * per_second) as u64).max(640);
    Ok(match scenario {
        "tiny" => load.run(plain, shape(Kind::Tiny, false), time)?,
        "16k" => load.run(plain, shape(Kind::Large, false), time)?,
        "close" => load.run(plain, shape(Kind::Tiny, true), time)?,
        "1m" => load.run(plain, Shape { connections: 8, ..shape(Kind::Bulk, false) }, time)?,
        "tls" => clients::h2load(load, tls, (requests(20_000.0), 64, 1))?,
        "h2" => clients::h2load(load, tls, (requests(40_000.0), 8, 32))?,
        "handshake" => clients::handshakes(load, tls, clients::config(setting.certificate)?, time)?,
        other => return Err(format!("no scenario {other}").into()),
    })
}

/// What idle connections cost in memory: plain and with TLS.
fn idle_connections(options: &Options, load: &mut Load, setting: &Setting<'_>) -> Result<bool, Box<dyn Error>> {
    println!(
        "memory: {} idle keepalive connections after one exchange each; VmRSS of the peer's processes",
        options.idle
    );
    let mut good = true;
    for name in options.peers.iter().map(String::as_str) {
        let peer = peers::start(name, setting)?;
        verify(load, &peer, setting)?;
        let pids = cpu::tree(peer.pid());
        let before = memory::resident_kib(&pids);
        let plain = load.hold(peer.listen[0], options.idle)?;
        let with_plain = memory::resident_kib(&pids);
        load.release();
        load.idle(Duration::from_millis(300))?;
        let empty = memory::resident_kib(&pids);
        let held = clients::hold(load, peer.listen[1], clients::config(setting.certificate)?, options.idle)?;
        let with_tls = memory::resident_kib(&pids);
        let each = |after: u64, before: u64, count: usize| after.saturating_sub(before) as f64 / count.max(1) as f64;
        let (plain_kib, tls_kib) = (each(with_plain, before, plain), each(with_tls, empty.min(before), held.len()));
        println!(
            "  {name:8} {:6.1} MiB -> {:6.1} MiB with {plain} plain: {plain_kib:.2} KiB each; {:6.1} MiB with {} of TLS: {tls_kib:.2} KiB each",
            before as f64 / 1024.0,
            with_plain as f64 / 1024.0,
            with_tls as f64 / 1024.0,
            held.len()
        );
        if name == "weir" {
            good &= report_bound("KiB of a plain connection", plain_kib, 2.0);
            good &= report_bound("KiB of a connection with TLS", tls_kib, 15.0);
        }
    }
    Ok(good)
}

/// Requests through the peer until all are answered; their heads must carry the forwarding fields, with and without TLS.
fn verify(load: &mut Load, peer: &Peer, setting: &Setting<'_>) -> Result<(), Box<dyn Error>> {
    let shape = Shape { kind: Kind::Tiny, connections: 1, close: false, rate: None };
    rounds::answers(load, peer, peer.listen[0], shape)?;
    check_fields(load, peer, "http")?;
    let config = clients::config(setting.certificate)?;
    let stretch = clients::handshakes(load, peer.listen[1], config, Duration::from_millis(20))?;
    if stretch.errors > 0 || stretch.requests == 0 {
        return Err(format!("{} does not answer over TLS: {} errors", peer.name, stretch.errors).into());
    }
    check_fields(load, peer, "https")?;
    clients::h2load(load, peer.listen[1], (64, 1, 8)).map(|_| ())
}

fn check_fields(load: &Load, peer: &Peer, scheme: &str) -> Result<(), Box<dyn Error>> {
    let head = String::from_utf8_lossy(&load.last_head).to_ascii_lowercase();
    let scheme = format!("x-forwarded-proto: {scheme}\r");
    for field in ["x-forwarded-for:", &scheme, "x-forwarded-host:", "x-request-id:", "via:"] {
        if !head.contains(&format!("\n{field}")) {
            return Err(format!("{} does not add {field} its request was:\n{head}", peer.name).into());
        }
    }
    Ok(())
}
