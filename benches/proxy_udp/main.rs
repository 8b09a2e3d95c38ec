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

#[path = "../support/proxies/cpu.rs"]
mod cpu;
mod echo;
#[path = "../support/proxies/load.rs"]
#[allow(dead_code, reason = "shared; a part is for TCP")]
mod load;
#[path = "../support/proxies/message.rs"]
#[allow(dead_code, reason = "shared; a part is for HTTP")]
mod message;
mod peers;
#[path = "../support/proxies/process.rs"]
#[allow(dead_code, reason = "shared; a part is for HTTP")]
mod process;
#[path = "../support/proxies/report.rs"]
mod report;
#[path = "../support/proxies/rounds.rs"]
#[allow(dead_code, reason = "shared; a part is for TCP")]
mod rounds;

use echo::Clients;
use process::Peer;
use report::Cell;
use rounds::{Meter, Method};
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use weir::clock;

const HELP: &str = "usage: cargo bench --bench proxy_udp -- [options]

  --peers A,B        of weir, nginx, envoy (default: all)
  --scenarios A,B    of small, large (default: all)
  --rounds N         quiet rounds for each peer and scenario (default 8; at most three times as many are run)
  --seconds S        length of one measured stretch (default 0.5)
  --flows N          client sockets (default 32)
  --window N         datagrams that each has on the way (default 2)
  --max-other P      drop a round with more than P % other load on either CPU (default 5)
  --weir PATH        another Weir binary
  --check            exit 1 when a bound is missed: CPU per datagram 0.5 x nginx, 1.0 x Envoy
";

/// Scenarios by name, with the octets of a datagram.
const SCENARIOS: [(&str, usize); 2] = [("small", 32), ("large", 1200)];

struct Options {
    peers: Vec<String>,
    scenarios: Vec<String>,
    method: Method,
    flows: usize,
    window: usize,
    weir: PathBuf,
    check: bool,
}

fn main() {
    match options().and_then(|options| compare(&options).map(|good| good || !options.check)) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("proxy_udp: {error}");
            std::process::exit(2);
        }
    }
}

fn options() -> Result<Options, Box<dyn Error>> {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut options = Options {
        peers: list("weir,nginx,envoy"),
        scenarios: list("small,large"),
        method: Method { rounds: 8, seconds: 0.5, max_other: 0.05, cpus: [0, 1] },
        flows: 32,
        window: 2,
        weir: env!("CARGO_BIN_EXE_weir").into(),
        check: false,
    };
    let mut rest = std::env::args().skip(1);
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            // Cargo says that it benches.
            "--bench" => {}
            "--help" | "-h" => {
                print!("{HELP}");
                std::process::exit(0);
            }
            "--peers" => options.peers = list(&value()?),
            "--scenarios" => options.scenarios = list(&value()?),
            "--rounds" => options.method.rounds = value()?.parse()?,
            "--seconds" => options.method.seconds = value()?.parse()?,
            "--flows" => options.flows = value()?.parse()?,
            "--window" => options.window = value()?.parse()?,
            "--max-other" => options.method.max_other = value()?.parse::<f64>()? / 100.0,
            "--weir" => options.weir = value()?.into(),
            "--check" => options.check = true,
            other => return Err(format!("unknown option {other}; see --help").into()),
        }
    }
    Ok(options)
}

/// The temporary folder of configurations and logs.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs every scenario; false when datagrams came back wrong, or a bound was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&names)?;
    peers::install(&names)?;
    let method = options.method;
    weir::sys::thread::pin(method.cpus[1])?;
    let folder = Folder(std::env::temp_dir().join(format!("weir-proxy-udp-{}", std::process::id())));
    std::fs::create_dir_all(&folder.0)?;
    let backend = echo::serve()?;
    let mut running: Vec<(Peer, SocketAddr)> = Vec::new();
    for name in names {
        running.push(peers::start(name, &folder.0, (method.cpus[0], backend), &options.weir)?);
    }
    let peers: Vec<&Peer> = running.iter().map(|(peer, _)| peer).collect();
    let mut good = true;
    for scenario in &options.scenarios {
        let found = SCENARIOS.iter().find(|(name, _)| name == scenario);
        let (_, octets) = found.ok_or_else(|| format!("no scenario {scenario}"))?;
        let mut clients = BTreeMap::new();
        for (peer, address) in &running {
            let mut own = Clients::open(*address, (options.flows, options.window, *octets))?;
            own.warm().map_err(|error| format!("{}: {error}", peer.name))?;
            clients.insert(peer.name, own);
        }
        let cells = rounds::each(&peers, &method, |peer| {
            let own = clients.get_mut(peer.name).ok_or("a peer without clients")?;
            measure(own, peer, &method)
        })?;
        let title = format!(
            "{scenario}: {} flows with {} datagrams of {octets} octets on the way; us is CPU time per datagram that the proxy passes on",
            options.flows, options.window
        );
        let costs = report::print(&title, &cells, method.max_other);
        good &= cells.iter().all(|(_, rounds)| rounds.iter().all(|cell| cell.errors == 0));
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
