#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! CPU per request of Weir beside nginx, HAProxy and a relay that parses nothing.
//!
//! `cargo bench --bench proxy_http -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod peers;
#[path = "../support/proxies/mod.rs"]
mod proxies;

use clap::Parser;
use peers::Setting;
use proxies::common::{Common, Folder};
use proxies::load::{Load, Shape};
use proxies::message::Kind;
use proxies::process::Peer;
use proxies::report::Cells;
use proxies::rounds::{Method, rounds};
use proxies::{process, relay, report, rounds};
use std::error::Error;
use std::process::ExitCode;

/// Who is measured.
const PEERS: [&str; 4] = ["weir", "nginx", "haproxy", "relay"];
/// What is measured.
const NAMES: [&str; 5] = ["tiny", "16k", "head", "close", "two"];

/// Weir's HTTP/1.1 beside the others' and beside a relay that parses nothing.
#[derive(Debug, Parser)]
struct Options {
    /// Proxies, parted by commas
    #[arg(long, value_delimiter = ',', default_values = PEERS, value_parser = PEERS)]
    peers: Vec<String>,
    /// Scenarios, parted by commas
    #[arg(long, value_delimiter = ',', default_values = NAMES, value_parser = NAMES)]
    scenarios: Vec<String>,
    /// Quiet rounds for each peer and scenario; at most three times as many are run
    #[arg(long, value_name = "N", default_value_t = 12)]
    rounds: usize,
    /// Seconds of one measured stretch
    #[arg(long, value_name = "S", default_value_t = 0.5)]
    seconds: f64,
    /// Drop a round with more than so many percent of other load on either CPU
    #[arg(long, value_name = "P", default_value_t = 5.0)]
    max_other: f64,
    /// Client connections
    #[arg(long, value_name = "N", default_value_t = 64)]
    connections: usize,
    /// Open loop with so many requests a second instead of a closed loop
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// CPU of the proxies
    #[arg(long, value_name = "N", default_value_t = 0)]
    proxy_cpu: usize,
    /// CPU of backend and load
    #[arg(long, value_name = "N", default_value_t = 1)]
    load_cpu: usize,
    /// nginx and HAProxy add no forwarding fields (to compare with other benches, not with Weir)
    #[arg(long)]
    no_fields: bool,
    /// With `--check`: exit 1 when Weir is above so many times nginx or HAProxy in tiny or 16k
    #[arg(long, value_name = "R")]
    limit: Option<f64>,
    /// Be the relays instead, one for each of these LISTEN=UPSTREAM,...
    #[arg(long, hide = true, num_args = 1..)]
    relay: Vec<String>,
    #[command(flatten)]
    common: Common,
}

struct Scenario {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    close: bool,
    /// Which of a peer's two listeners: 0 for one endpoint, 1 for two.
    listener: usize,
}

const fn scenario(name: &'static str, title: &'static str, kind: Kind, close: bool, listener: usize) -> Scenario {
    Scenario { name, title, kind, close, listener }
}

const SCENARIOS: &[Scenario] = &[
    scenario("tiny", "128 B body, keepalive, 1 endpoint", Kind::Tiny, false, 0),
    scenario("16k", "16 KiB body, keepalive, 1 endpoint", Kind::Large, false, 0),
    scenario("head", "browser-like heads, 128 B body, keepalive, 1 endpoint", Kind::Browser, false, 0),
    scenario("close", "128 B body, one connection a request, 1 endpoint", Kind::Tiny, true, 0),
    scenario("two", "128 B body, keepalive, 2 endpoints", Kind::Tiny, false, 1),
];

fn main() -> ExitCode {
    let options = Options::parse();
    let good = if options.relay.is_empty() { compare(&options) } else { relay::all(&options.relay).map(|()| true) };
    options.common.end("proxy_http", good)
}

/// Runs every scenario; false when there were errors or a limit was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&names)?;
    weir::sys::thread::pin(options.load_cpu)?;
    let folder = Folder::new("proxy-http")?;
    let mut load = Load::open(2)?;
    let endpoints = load.endpoints()?;
    let setting = Setting {
        folder: &folder.0,
        cpu: options.proxy_cpu,
        endpoints: &endpoints,
        fields: !options.no_fields,
        weir: &options.common.weir,
    };
    let mut running = Vec::new();
    for name in names {
        let peer = peers::start(name, &setting)?;
        verify(&mut load, &peer, !options.no_fields)?;
        running.push(peer);
    }
    println!(
        "CPU {} runs one proxy at a time with one worker, CPU {} backend and load; {} connections, {} s a round",
        options.proxy_cpu, options.load_cpu, options.connections, options.seconds
    );
    println!(
        "cost: CPU time of the peer's processes per request, lower quartile of the quiet rounds; * marks a dropped round"
    );
    let (rounds_wanted, seconds, cpus) = (options.rounds, options.seconds, [options.proxy_cpu, options.load_cpu]);
    let method = Method { rounds: rounds_wanted, seconds, max_other: options.max_other / 100.0, cpus };
    let mut good = true;
    for wanted in &options.scenarios {
        let scenario = SCENARIOS.iter().find(|s| s.name == wanted).ok_or(format!("no scenario {wanted}"))?;
        let peers: Vec<&Peer> = running.iter().filter(|peer| peer.closes || !scenario.close).collect();
        let shape =
            Shape { kind: scenario.kind, connections: options.connections, close: scenario.close, rate: options.rate };
        let cells: Cells = rounds(&mut load, &peers, (shape, scenario.listener), &method)?;
        let title = format!("{}: {}", scenario.name, scenario.title);
        let quartiles = report::print(&title, &cells, options.max_other / 100.0);
        good &= cells.iter().all(|(_, rounds)| rounds.iter().all(|cell| cell.errors == 0));
        if let (Some(limit), Some(own)) = (options.limit, quartiles.get("weir"))
            && ["tiny", "16k"].contains(&scenario.name)
        {
            for other in ["nginx", "haproxy"] {
                let Some(theirs) = quartiles.get(other) else { continue };
                let ratio = own / theirs;
                let verdict = match ratio.is_nan() {
                    true => "not measured, the machine was never quiet",
                    false if ratio <= limit => "met",
                    false => "MISSED",
                };
                println!("  weir / {other} = {ratio:.3}, wanted at most {limit}: {verdict}");
                good &= ratio <= limit;
            }
        }
    }
    Ok(good)
}

/// Requests through the peer until all are answered; their head must carry the forwarding fields.
fn verify(load: &mut Load, peer: &Peer, fields: bool) -> Result<(), Box<dyn Error>> {
    let shape = Shape { kind: Kind::Tiny, connections: 1, close: false, rate: None };
    for target in peer.listen {
        rounds::answers(load, peer, target, shape)?;
    }
    let head = String::from_utf8_lossy(&load.last_head).to_ascii_lowercase();
    for field in ["x-forwarded-for:", "x-forwarded-proto:", "x-forwarded-host:", "x-request-id:", "via:"] {
        if fields && peer.name != "relay" && !head.contains(&format!("\n{field}")) {
            return Err(format!("{} does not add {field} its request was:\n{head}", peer.name).into());
        }
    }
    Ok(())
}
