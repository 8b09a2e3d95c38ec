#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    clippy::indexing_slicing,
    reason = "a program for people"
)]
//! Weir's DNS beside an echo (the floor), Knot, gdnsd and NSD: CPU per query over UDP, TCP and TLS, and latency at a rate.
//!
//! `cargo bench --bench dns -- [options]`; see `benches/README.md` for the method and `--help` for the options.

mod client;
mod forward;
mod forwarders;
#[path = "../support/proxies/mod.rs"]
mod proxies;
mod servers;
mod upstream;
mod zone;

use clap::Parser;
use client::{Load, Mode, Run, dnsperf, verify};
use hickory_proto::rr::RecordType;
use proxies::common::{Common, Folder};
use proxies::process::Peer;
use proxies::report::{Cell, Cells, quantile};
use proxies::rounds::{Meter, Method, Quiet};
use proxies::{process, rounds};
use servers::Setting;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use weir::clock;
use zone::{Case, Table};

/// A scenario: its name, what it is, how questions travel, and the bounds on Weir's cost: beside whom, and how much at most.
struct Scenario {
    name: &'static str,
    title: &'static str,
    mode: Mode,
    bounds: &'static [(&'static str, f64)],
}

const UDP: &[(&str, f64)] = &[("echo", 1.15), ("best", 1.05)];
const SCENARIOS: [Scenario; 4] = [
    Scenario { name: "udp", title: "UDP, 100 in flight on 10 sockets", mode: Mode::Udp, bounds: UDP },
    Scenario { name: "tcp", title: "TCP, 100 in flight on 4 connections", mode: Mode::Tcp, bounds: &[("echo", 0.8)] },
    Scenario {
        name: "dot",
        title: "DNS over TLS, 100 in flight on 4 connections",
        mode: Mode::Dot,
        bounds: &[("echo", 1.2)],
    },
    Scenario { name: "names", title: "UDP, the large table", mode: Mode::Udp, bounds: UDP },
];
/// Those that Weir is compared with; the best of them counts.
const PEERS: [&str; 3] = ["knot", "gdnsd", "nsd"];
/// Questions per second of `p99`.
const RATE: u32 = 20_000;
/// Distinct questions of the small and the large table.
const QUESTIONS: [u32; 2] = [1_000, 20_000];

/// Who is measured.
const SERVERS: [&str; 7] = ["echo", "weir", "knot", "gdnsd", "nsd", "unbound", "dnsmasq"];
/// What is measured.
const NAMES: [&str; 6] = ["udp", "tcp", "dot", "p99", "names", "forward"];

/// Weir's DNS beside the others': CPU per query, latency at a rate, forwarding.
#[derive(Debug, Parser)]
struct Options {
    /// Servers, parted by commas; forwarding: weir, unbound, dnsmasq
    #[arg(long, value_delimiter = ',', default_values = SERVERS, value_parser = SERVERS)]
    peers: Vec<String>,
    /// Scenarios, parted by commas
    #[arg(long, value_delimiter = ',', default_values = NAMES, value_parser = NAMES)]
    scenarios: Vec<String>,
    /// Services of the small table
    #[arg(long, value_name = "N", default_value_t = 200)]
    services: u32,
    /// Names of the large table
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    names: u32,
    /// Be the echo instead, at this address
    #[arg(long, hide = true)]
    echo: Option<SocketAddr>,
    #[command(flatten)]
    quiet: Quiet<8, 1000>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(address) = options.echo {
        return options.common.end("echo", client::echo(address).map(|()| true).map_err(Into::into));
    }
    options.common.end("dns", compare(&options))
}

/// Runs every scenario; false when an answer was wrong or lost, or a bound was missed.
fn compare(options: &Options) -> Result<bool, Box<dyn Error>> {
    let names: Vec<&str> = options.peers.iter().map(String::as_str).collect();
    process::install(&[names.as_slice(), forward::needs(&options.scenarios), &["dnsperf"]].concat())?;
    weir::sys::thread::pin(options.quiet.method().cpus[1])?;
    let folder = Folder::new("dns")?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(folder.0.join("certificate.pem"), made.cert.pem())?;
    std::fs::write(folder.0.join("key.pem"), made.signing_key.serialize_pem())?;
    println!(
        "CPU {} runs one server at a time with one thread for questions, CPU {} dnsperf; cost: CPU time of the server's processes \
         per query, lower quartile of the quiet rounds; * marks a dropped round",
        options.quiet.method().cpus[0],
        options.quiet.method().cpus[1]
    );
    let mut good = true;
    let small = ["udp", "tcp", "dot", "p99"];
    if options.scenarios.iter().any(|name| small.contains(&name.as_str())) {
        let table = Table { services: options.services };
        good &= with_table(options, table, QUESTIONS[0], &small, &folder.0.join("small"))?;
    }
    if options.scenarios.iter().any(|name| name == "names") {
        let table = Table::with_names(options.names);
        good &= with_table(options, table, QUESTIONS[1], &["names"], &folder.0.join("large"))?;
    }
    if options.scenarios.iter().any(|name| name == "forward") {
        let wanted = |name: &&str| names.contains(name);
        let peers: Vec<&str> = forwarders::PEERS.into_iter().filter(wanted).collect();
        let folder = folder.0.join("forward");
        good &= forward::compare(&forward::Setup {
            peers,
            folder: &folder,
            weir: &options.common.weir,
            method: options.quiet.method(),
        })?;
    }
    Ok(good)
}

/// What one table is asked, and by whom it is served.
struct Bench<'a> {
    folder: &'a Path,
    running: Vec<Peer>,
    cases: Vec<Case>,
    questions: PathBuf,
    certificate: PathBuf,
    /// Mean size of an answer by server, from the checked ones.
    sizes: BTreeMap<&'static str, f64>,
}

fn with_table(
    options: &Options,
    table: Table,
    questions: u32,
    possible: &[&str],
    folder: &Path,
) -> Result<bool, Box<dyn Error>> {
    std::fs::create_dir_all(folder)?;
    let parent = folder.parent().unwrap_or(folder);
    let (services, zone) = (table.toml(), folder.join("zone"));
    let (certificate, key) = (parent.join("certificate.pem"), parent.join("key.pem"));
    let setting = Setting {
        folder,
        cpu: options.quiet.method().cpus[0],
        weir: &options.common.weir,
        services: &services,
        zone: &zone,
        certificate: &certificate,
        key: &key,
    };
    // Weir comes first: it makes up the names of its instances.
    let weir = servers::start("weir", &setting)?;
    wait_for(&weir, table)?;
    let instances = table.instances(weir.listen[0])?;
    std::fs::write(&zone, table.master_file(&instances))?;
    let cases = table.cases(questions, &instances);
    let file = folder.join("questions");
    std::fs::write(&file, cases.iter().map(|case| format!("{} {}\n", case.name, case.kind)).collect::<String>())?;
    println!("\n{} services, {} names, {} distinct questions", table.services, table.names(), cases.len());
    let mut running = vec![weir];
    for name in options.peers.iter().filter(|name| *name != "weir" && !forwarders::PEERS.contains(&name.as_str())) {
        running.push(servers::start(name, &setting)?);
    }
    let mut bench = Bench { folder, running, cases, questions: file, certificate, sizes: BTreeMap::new() };
    bench.check()?;
    let mut good = true;
    for wanted in options.scenarios.iter().map(String::as_str).filter(|name| possible.contains(name)) {
        good &= match wanted {
            "p99" => bench.tail(&options.quiet.method())?,
            _ => {
                let scenario = SCENARIOS.iter().find(|s| s.name == wanted).ok_or(format!("no scenario {wanted}"))?;
                bench.run(scenario, &options.quiet.method())?
            }
        };
    }
    Ok(good)
}

/// Waits until Weir has the last service.
fn wait_for(weir: &Peer, table: Table) -> Result<(), Box<dyn Error>> {
    let deadline = clock::now() + Duration::from_secs(60);
    let last = format!("s{:05}.default.{}.", table.services - 1, zone::ZONE);
    while client::Stream::plain(weir.listen[0])?.ask(&last, RecordType::A)?.answers.is_empty() {
        if clock::now() > deadline {
            return Err("Weir does not have the services".into());
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
    Ok(())
}

impl Bench<'_> {
    /// Whether a server speaks this; the echo is the floor beside everything, always by UDP.
    fn speaks(peer: &Peer, mode: Mode) -> bool {
        mode != Mode::Dot || peer.listen[0] != peer.listen[1] || peer.name == "echo"
    }

    fn load(&self, peer: &Peer, mode: Mode, seconds: f64, rate: Option<u32>) -> Result<Run, Box<dyn Error>> {
        let mode = if peer.name == "echo" { Mode::Udp } else { mode };
        let server = peer.listen[usize::from(mode == Mode::Dot)];
        let load = Load { server, mode, questions: &self.questions, seconds, rate, once: false };
        dnsperf(&load, self.folder)
    }

    /// Asks every server every question by every way and compares the answers.
    fn check(&mut self) -> Result<(), Box<dyn Error>> {
        for peer in self.running.iter().filter(|peer| peer.name != "echo") {
            for mode in [Mode::Udp, Mode::Tcp, Mode::Dot] {
                if !Self::speaks(peer, mode) {
                    continue;
                }
                let server = peer.listen[usize::from(mode == Mode::Dot)];
                let size = verify(server, mode, &self.certificate, &self.cases)
                    .map_err(|error| format!("{} answers wrongly over {}: {error}", peer.name, mode.name()))?;
                if mode == Mode::Udp {
                    self.sizes.insert(peer.name, size);
                }
            }
        }
        let sizes: Vec<String> = self.sizes.iter().map(|(name, size)| format!("{name} {size:.0}")).collect();
        println!("every question checked by every way; octets of an answer: {}", sizes.join(", "));
        Ok(())
    }

    /// Answers under load are no others than the checked ones: none is lost, no other code, the same size in the mean.
    fn errors(&self, peer: &Peer, run: &Run) -> u64 {
        let size = self.sizes.get(peer.name).copied().unwrap_or(run.answer_bytes);
        let differs = (run.answer_bytes - size).abs() > 1.0 + size * 0.02;
        run.lost + run.wrong + u64::from(differs)
    }

    fn run(&self, scenario: &Scenario, method: &Method) -> Result<bool, Box<dyn Error>> {
        let peers: Vec<&Peer> = self.running.iter().filter(|peer| Self::speaks(peer, scenario.mode)).collect();
        let cells = rounds::each(&peers, method, |peer| {
            self.load(peer, scenario.mode, 0.1, None)?;
            std::thread::park_timeout(Duration::from_millis(10));
            let meter = Meter::start(peer.pid());
            let run = self.load(peer, scenario.mode, method.seconds, None)?;
            std::thread::park_timeout(Duration::from_millis(5));
            let (ns, other) = meter.stop(method.cpus);
            Ok(Cell {
                us_per_request: ns as f64 / 1e3 / run.answers.max(1) as f64,
                requests_per_second: run.per_second,
                p50_us: 0,
                p99_us: 0,
                errors: self.errors(peer, &run),
                other,
            })
        })?;
        let costs = print(&format!("{}: {}", scenario.name, scenario.title), &cells, method.max_other);
        let mut good = cells.iter().all(|(_, rounds)| rounds.iter().all(|cell| cell.errors == 0));
        if !good {
            println!("  answers were lost or wrong");
        }
        let weir = costs.get("weir").copied().unwrap_or(f64::NAN);
        for (peer, most) in scenario.bounds {
            let others = costs.iter().filter(|(name, _)| *name == peer || (*peer == "best" && PEERS.contains(name)));
            let other = others.map(|(_, cost)| *cost).fold(f64::NAN, f64::min);
            good &= report_bound(&format!("weir / {peer}"), weir / other, *most);
        }
        Ok(good)
    }

    /// Latency at a fixed rate; Weir's must be within the spread of the others.
    fn tail(&self, method: &Method) -> Result<bool, Box<dyn Error>> {
        println!("\np99: UDP, {RATE} questions per second, latency in microseconds by dnsperf");
        let mut found: BTreeMap<&str, Vec<[u32; 3]>> = BTreeMap::new();
        let mut good = true;
        for _ in 0..method.rounds {
            for peer in &self.running {
                let run = self.load(peer, Mode::Udp, method.seconds, Some(RATE))?;
                let at = |q: f64| run.latencies_us[((run.latencies_us.len() - 1) as f64 * q) as usize];
                if run.latencies_us.is_empty() {
                    return Err("dnsperf told no latency".into());
                }
                good &= self.errors(peer, &run) == 0;
                found.entry(peer.name).or_default().push([at(0.5), at(0.99), at(0.999)]);
            }
        }
        let column = |rows: &[[u32; 3]], n: usize| -> Vec<f64> { rows.iter().map(|row| f64::from(row[n])).collect() };
        for (name, rows) in &found {
            let median = |n| quantile(&column(rows, n), 0.5);
            let all: Vec<String> = rows.iter().map(|row| row[1].to_string()).collect();
            println!(
                "  {name:8} p50 {:5.0} p99 {:5.0} p99.9 {:5.0} | p99 of all rounds: {}",
                median(0),
                median(1),
                median(2),
                all.join(" ")
            );
        }
        let Some(weir) = found.get("weir").map(|rows| quantile(&column(rows, 1), 0.5)) else { return Ok(good) };
        let others = found.iter().filter(|(name, _)| PEERS.contains(name)).flat_map(|(_, rows)| column(rows, 1));
        let highest = others.fold(f64::NAN, f64::max);
        Ok(report_bound("p99 of weir / highest p99 of a peer's rounds", weir / highest, 1.0) && good)
    }
}

/// Prints all rounds; returns the lower quartile of each server's quiet ones.
fn print(title: &str, cells: &Cells, max_other: f64) -> BTreeMap<&'static str, f64> {
    println!("\n{title}");
    println!(
        "  {:8} {:>8} {:>7} {:>7} | {:>7} | {:>8} | {:>6} {:>6}",
        "server", "us/query", "min", "median", "/echo", "query/s", "errors", "rounds"
    );
    let quiet = |rounds: &[Cell]| -> Vec<Cell> { rounds.iter().filter(|c| c.quiet(max_other)).cloned().collect() };
    let low = |rounds: &[Cell]| quantile(&quiet(rounds).iter().map(|c| c.us_per_request).collect::<Vec<_>>(), 0.25);
    let costs: BTreeMap<&'static str, f64> = cells.iter().map(|(peer, rounds)| (*peer, low(rounds))).collect();
    for (peer, rounds) in cells {
        let kept = quiet(rounds);
        let each: Vec<f64> = kept.iter().map(|c| c.us_per_request).collect();
        let rate: Vec<f64> = kept.iter().map(|c| c.requests_per_second).collect();
        println!(
            "  {peer:8} {:8.2} {:7.2} {:7.2} | {:7.3} | {:8.0} | {:6} {:>6}",
            costs[peer],
            quantile(&each, 0.0),
            quantile(&each, 0.5),
            costs[peer] / costs.get("echo").copied().unwrap_or(f64::NAN),
            quantile(&rate, 0.5),
            rounds.iter().map(|c| c.errors).sum::<u64>(),
            format!("{}/{}", kept.len(), rounds.len()),
        );
    }
    for (peer, rounds) in cells {
        let mark = |c: &Cell| format!("{:.2}{}", c.us_per_request, if c.quiet(max_other) { "" } else { "*" });
        println!("  {peer:8} {}", rounds.iter().map(mark).collect::<Vec<_>>().join(" "));
    }
    costs
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
