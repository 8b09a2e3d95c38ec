#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! Weir's TCP proxy beside nginx and HAProxy: CPU per round trip, CPU per gigabyte, memory of idle connections.
//!
//! `cargo bench --bench proxy_tcp -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod bulk;
mod peers;
#[path = "../support/proxies/mod.rs"]
mod proxies;

use bulk::Bulk;
use clap::Parser;
use peers::Setting;
use proxies::common::{Common, Folder};
use proxies::load::{Load, Shape};
use proxies::message::Kind;
use proxies::process::Peer;
use proxies::report::Cell;
use proxies::rounds::{Meter, Method, Quiet};
use proxies::{cpu, memory, process, relay, report, rounds};
use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use weir::clock;

/// Who is measured.
const PEERS: [&str; 4] = ["weir", "nginx", "haproxy", "relay"];
/// What is measured.
const NAMES: [&str; 4] = ["tiny", "bulk1", "bulk8", "idle"];

/// Weir's TCP relay beside the others'.
#[derive(Debug, Parser)]
struct Options {
    /// Proxies, parted by commas; `own`: Weir at services' own addresses, as root
    #[arg(long, value_delimiter = ',', default_values = PEERS, value_parser = ["weir", "nginx", "haproxy", "relay", "own"])]
    peers: Vec<String>,
    /// Scenarios, parted by commas
    #[arg(long, value_delimiter = ',', default_values = NAMES, value_parser = NAMES)]
    scenarios: Vec<String>,
    /// Octets of one bulk answer on one connection, shared by the eight of `bulk8`
    #[arg(long, value_name = "N", default_value_t = 1 << 30)]
    bytes: u64,
    /// Idle connections
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    idle: usize,
    /// Be the relays instead, one for each of these LISTEN=UPSTREAM,...
    #[arg(long, hide = true, num_args = 1..)]
    relay: Vec<String>,
    #[command(flatten)]
    quiet: Quiet<8, 500>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let good = if options.relay.is_empty() { compare(&options) } else { relay::all(&options.relay).map(|()| true) };
    options.common.end("proxy_tcp", good)
}

/// Runs every scenario; false when there were errors or a bound was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&names)?;
    // Each idle connection takes two descriptors here and two in the peer. Weir leaves a sixteenth of its own alone, and accepts
    // nothing more from there on.
    let descriptors = memory::raise_descriptors(2 * options.idle as u64 * 16 / 15 + 400)? as usize;
    let most_idle = (descriptors - descriptors / 16 - 200) / 2;
    let method = options.quiet.method();
    weir::sys::thread::pin(method.cpus[1])?;
    let folder = Folder::new("proxy-tcp")?;
    let (mut load, mut bulk) = (Load::open(1)?, Bulk::open()?);
    let backends = [load.endpoints()?[0], bulk.address()?];
    let setting = Setting { folder: &folder.0, cpu: method.cpus[0], backends, weir: &options.common.weir };
    let shape = Shape { kind: Kind::Tiny, connections: 64, close: false, rate: None };
    let mut running = Vec::new();
    for name in names {
        let peer = peers::start(name, &setting)?;
        rounds::answers(&mut load, &peer, peer.listen[0], Shape { connections: 1, ..shape })?;
        reach(&mut bulk, &peer)?;
        running.push(peer);
    }
    let peers: Vec<&Peer> = running.iter().collect();
    let mut good = true;
    for scenario in &options.scenarios {
        match scenario.as_str() {
            "tiny" => {
                let cells = rounds::rounds(&mut load, &peers, (shape, 0), &method)?;
                let title = "tiny: round trips of 40 B and 200 B on 64 connections; us is CPU time per round trip";
                let costs = report::print(title, &cells, method.max_other);
                good &= cells.iter().all(|(_, rounds)| rounds.iter().all(|cell| cell.errors == 0));
                good &= verdict(&costs, &["nginx", "haproxy"], 0.95);
                if let (Some(own), Some(weir)) = (costs.get("own"), costs.get("weir")) {
                    let (ratio, bound) = (own / weir, 1.1);
                    let word = if ratio <= bound { "met" } else { "MISSED" };
                    println!("  own / weir = {ratio:.3}, wanted at most {bound}: {word}");
                    good &= ratio <= bound;
                }
            }
            "bulk1" | "bulk8" => {
                let count = if scenario == "bulk1" { 1 } else { 8 };
                let share = options.bytes / count as u64;
                let cells = rounds::each(&peers, &method, |peer| fetch(&mut bulk, peer, (count, share), &method))?;
                let title =
                    format!("{scenario}: {count} x {share} octets to the client; us is CPU ms per GB, req/s is MB/s");
                let costs = report::print(&title, &cells, method.max_other);
                good &= verdict(&costs, &["haproxy"], 0.7);
            }
            "idle" => good &= idle(&mut bulk, &peers, options.idle.min(most_idle))?,
            other => return Err(format!("no scenario {other}").into()),
        }
    }
    Ok(good)
}

/// Waits until a peer passes on to the bulk backend: one that checks its endpoints first refuses for a moment.
fn reach(bulk: &mut Bulk, peer: &Peer) -> Result<(), Box<dyn Error>> {
    let deadline = clock::now() + Duration::from_secs(10);
    while let Err(error) = bulk.fetch(peer.listen[1], 1, 100) {
        bulk.close()?;
        if clock::now() > deadline {
            return Err(format!("{}: {error}", peer.name).into());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Ok(bulk.close()?)
}

/// Compares Weir with the best of the peers; without any of them there is no verdict.
fn verdict(costs: &BTreeMap<&'static str, f64>, others: &[&str], bound: f64) -> bool {
    let Some(own) = costs.get("weir").filter(|_| others.iter().any(|name| costs.contains_key(name))) else {
        return true;
    };
    let best = others.iter().filter_map(|name| costs.get(name)).copied().fold(f64::NAN, f64::min);
    let ratio = own / best;
    let word = match ratio.is_nan() {
        true => "not measured",
        false if ratio <= bound => "met",
        false => "MISSED",
    };
    println!("  weir / best of {} = {ratio:.3}, wanted at most {bound}: {word}", others.join(", "));
    ratio <= bound
}

fn fetch(bulk: &mut Bulk, peer: &Peer, (count, bytes): (usize, u64), method: &Method) -> Result<Cell, Box<dyn Error>> {
    bulk.fetch(peer.listen[1], count, 4 << 20)?;
    bulk.close()?;
    let (meter, start) = (Meter::start(peer.pid()), clock::now());
    bulk.fetch(peer.listen[1], count, bytes)?;
    let seconds = (clock::now() - start).as_secs_f64();
    bulk.close()?;
    std::thread::park_timeout(Duration::from_millis(5));
    let (peer_ns, other) = meter.stop(method.cpus);
    let gigabytes = (count as u64 * bytes) as f64 / 1e9;
    Ok(Cell {
        us_per_request: peer_ns as f64 / 1e6 / gigabytes,
        requests_per_second: gigabytes * 1e3 / seconds,
        p50_us: 0,
        p99_us: 0,
        errors: 0,
        other,
    })
}

/// Opens idle connections through each peer, each after one small exchange, and prints what they hold.
fn idle(bulk: &mut Bulk, peers: &[&Peer], count: usize) -> Result<bool, Box<dyn Error>> {
    println!("\nidle: connections that are idle after one exchange; resident memory of the peer's processes");
    let mut good = true;
    for peer in peers {
        let count = if peer.name == "haproxy" { count.min(peers::HAPROXY_CONNECTIONS - 100) } else { count };
        bulk.fetch(peer.listen[1], 8, 100)?;
        bulk.close()?;
        let before = memory::resident_kib(&cpu::tree(peer.pid()));
        bulk.fetch(peer.listen[1], count, 100)?;
        let after = memory::resident_kib(&cpu::tree(peer.pid()));
        bulk.close()?;
        let each = after.saturating_sub(before) as f64 / count as f64;
        let (before, after) = (before as f64 / 1024.0, after as f64 / 1024.0);
        let word = match (peer.name, each <= 4.0) {
            ("weir", true) => ", wanted at most 4: met",
            ("weir", false) => ", wanted at most 4: MISSED",
            _ => "",
        };
        println!("  {:8} {before:6.1} MiB -> {after:6.1} MiB with {count}: {each:.2} KiB each{word}", peer.name);
        good &= peer.name != "weir" || each <= 4.0;
    }
    Ok(good)
}
