#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! Weir's UDP listeners beside nginx and Envoy: CPU per datagram, small and of 1,200 octets.
//!
//! `cargo bench --bench proxy_udp -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod echo;
mod peers;
#[path = "../support/proxies/mod.rs"]
mod proxies;
mod relay;

use clap::Parser;
use echo::Clients;
use proxies::common::{Common, Folder};
use proxies::process::Peer;
use proxies::report::Cell;
use proxies::rounds::{Meter, Method, Quiet};
use proxies::{process, pypi, report, rounds};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir::clock;

/// One scenario.
struct Scenario {
    name: &'static str,
    octets: usize,
    flows: usize,
    /// Datagrams that each flow has on the way.
    window: usize,
    /// Whether both ends send what they have together, and take it so (`UDP_SEGMENT`, `UDP_GRO`), as programs that speak QUIC.
    trains: bool,
}

/// Each datagram passes nearly alone; or several of a flow are there at a time, and leave together; or both ends send them so.
const SCENARIOS: [Scenario; 6] = [
    Scenario { name: "small", octets: 32, flows: 32, window: 2, trains: false },
    Scenario { name: "large", octets: 1200, flows: 32, window: 2, trains: false },
    Scenario { name: "small-many", octets: 32, flows: 8, window: 12, trains: false },
    Scenario { name: "large-many", octets: 1200, flows: 8, window: 12, trains: false },
    Scenario { name: "small-trains", octets: 32, flows: 8, window: 12, trains: true },
    Scenario { name: "large-trains", octets: 1200, flows: 8, window: 12, trains: true },
];

/// Who is measured.
const PEERS: [&str; 4] = ["weir", "nginx", "envoy", "relay"];
/// What is measured.
const NAMES: [&str; 6] = ["small", "large", "small-many", "large-many", "small-trains", "large-trains"];

/// Weir's datagrams beside the others'.
#[derive(Debug, Parser)]
struct Options {
    /// Proxies, parted by commas
    #[arg(long, value_delimiter = ',', default_values = PEERS, value_parser = PEERS)]
    peers: Vec<String>,
    /// Scenarios, parted by commas
    #[arg(long, value_delimiter = ',', default_values = NAMES, value_parser = NAMES)]
    scenarios: Vec<String>,
    /// Client sockets; default by scenario
    #[arg(long, value_name = "N")]
    flows: Option<usize>,
    /// Datagrams that each has on the way; default by scenario
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Be the relay instead, from LISTEN=ENDPOINT
    #[arg(long, hide = true, requires = "relay_runs")]
    relay: Option<String>,
    /// Where the relay can be seen to run
    #[arg(long, hide = true)]
    relay_runs: Option<SocketAddr>,
    #[command(flatten)]
    quiet: Quiet<8, 500>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let good = match (&options.relay, options.relay_runs) {
        (Some(relay), Some(tcp)) => relay::run(relay, tcp).map(|()| true),
        _ => compare(&options),
    };
    options.common.end("proxy_udp", good)
}

/// Runs every scenario; false when datagrams came back wrong, or a bound was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&names)?;
    pypi::install(&names)?;
    let method = options.quiet.method();
    weir::sys::thread::pin(method.cpus[1])?;
    let folder = Folder::new("proxy-udp")?;
    let backend = echo::serve()?;
    let mut running: Vec<(Peer, SocketAddr)> = Vec::new();
    for name in names {
        running.push(peers::start(name, &folder.0, (method.cpus[0], backend), &options.common.weir)?);
    }
    let peers: Vec<&Peer> = running.iter().map(|(peer, _)| peer).collect();
    let mut good = true;
    for scenario in SCENARIOS.iter().filter(|scenario| options.scenarios.iter().any(|name| name == scenario.name)) {
        let &Scenario { name, octets, .. } = scenario;
        let (flows, window) = (options.flows.unwrap_or(scenario.flows), options.window.unwrap_or(scenario.window));
        echo::TRAINS.store(scenario.trains, Ordering::Relaxed);
        let mut clients = BTreeMap::new();
        for (peer, address) in &running {
            let mut own = Clients::open(*address, (flows, window, octets))?;
            match own.warm() {
                Ok(()) => drop(clients.insert(peer.name, own)),
                Err(error) if peer.name == "weir" => return Err(format!("weir: {error}").into()),
                Err(error) => println!("\n{name}: {} is left out: {error}", peer.name),
            }
        }
        let able: Vec<&Peer> = peers.iter().copied().filter(|peer| clients.contains_key(peer.name)).collect();
        let cells = rounds::each(&able, &method, |peer| {
            let own = clients.get_mut(peer.name).ok_or("a peer without clients")?;
            measure(own, peer, &method)
        })?;
        let title = format!(
            "{name}: {flows} flows with {window} datagrams of {octets} octets on the way; us is CPU time per datagram that the proxy passes on"
        );
        let costs = report::print(&title, &cells, method.max_other);
        // What others lose is printed.
        good &= cells.iter().all(|(name, rounds)| *name != "weir" || rounds.iter().all(|cell| cell.errors == 0));
        good &= verdict(&costs, "nginx", 0.5) & verdict(&costs, "envoy", 1.0);
    }
    Ok(good)
}

fn measure(clients: &mut Clients, peer: &Peer, method: &Method) -> Result<Cell, Box<dyn Error>> {
    clients.run(Duration::from_millis(60))?;
    std::thread::park_timeout(Duration::from_millis(10));
    let (meter, start) = (Meter::start(peer.pid()), clock::now());
    let count = clients.run(Duration::from_secs_f64(method.seconds))?;
    let seconds = (clock::now() - start).as_secs_f64();
    std::thread::park_timeout(Duration::from_millis(5));
    let (peer_ns, other) = meter.stop(method.cpus);
    // There and back.
    let passed = 2 * count.returned;
    Ok(Cell {
        us_per_request: peer_ns as f64 / 1e3 / passed.max(1) as f64,
        requests_per_second: passed as f64 / seconds,
        p50_us: 0,
        p99_us: 0,
        errors: count.wrong + count.lost,
        other,
    })
}

/// Compares Weir with a peer; nothing measured is no verdict.
fn verdict(costs: &BTreeMap<&'static str, f64>, other: &str, bound: f64) -> bool {
    let (Some(own), Some(other_cost)) = (costs.get("weir"), costs.get(other)) else { return true };
    let ratio = own / other_cost;
    let word = match ratio.is_nan() {
        true => "not measured",
        false if ratio <= bound => "met",
        false => "MISSED",
    };
    println!("  weir / {other} = {ratio:.3}, wanted at most {bound}: {word}");
    ratio <= bound
}
