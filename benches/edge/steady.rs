//! What stays steady: latency at saturation, cost and errors while endpoints change, the worker's turns under a mix.

use crate::clients;
use crate::peers::{self, Setting};
use crate::proxies::load::{Load, Shape};
use crate::proxies::message::{self, Kind};
use crate::proxies::process::Peer;
use crate::proxies::report::quantile;
use crate::proxies::rounds::{Meter, Method};
use crate::report_bound;
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use weir::clock;

const TINY: Shape = Shape { kind: Kind::Tiny, connections: 64, close: false, rate: None };

/// Ten quiet pairs, Weir and nginx in alternating order: in how many Weir's p99 at saturation is at most 0.85 of nginx's.
pub(crate) fn tail(load: &mut Load, peers: &[&Peer], method: &Method) -> Result<bool, Box<dyn Error>> {
    const PAIRS: usize = 10;
    let named = |name: &str| peers.iter().find(|peer| peer.name == name);
    let (Some(weir), Some(nginx)) = (named("weir"), named("nginx")) else {
        println!("\np99: needs weir and nginx");
        return Ok(false);
    };
    println!("\np99: 64 keepalive connections in a closed loop, 1 s each, in pairs weir/nginx; microseconds");
    let mut ratios = Vec::new();
    for pair in 0..PAIRS * 3 {
        let order = if pair % 2 == 0 { [*weir, *nginx] } else { [*nginx, *weir] };
        let (p99, quiet) = tails(load, &order, TINY, method)?;
        print!("  {}/{}{}", p99["weir"], p99["nginx"], if quiet { "" } else { "*" });
        if quiet {
            ratios.push(p99["weir"] / p99["nginx"]);
        }
        if ratios.len() == PAIRS {
            break;
        }
    }
    println!();
    let missed = ratios.iter().filter(|&&ratio| ratio > 0.85).count();
    println!("  median ratio {:.3} of {} quiet pairs", quantile(&ratios, 0.5), ratios.len());
    let enough = report_bound("quiet pairs missing", (PAIRS - ratios.len()) as f64, 0.0);
    Ok(report_bound("pairs of ten with weir above 0.85 x nginx", missed as f64, 1.0) & enough)
}

/// By peer, in microseconds.
type Tails = BTreeMap<&'static str, f64>;

/// The p99 of each peer in turn, 1 s each, and whether nothing else ran meanwhile.
fn tails(load: &mut Load, peers: &[&Peer], shape: Shape, method: &Method) -> Result<(Tails, bool), Box<dyn Error>> {
    let (mut p99, mut quiet) = (BTreeMap::new(), true);
    for peer in peers {
        load.run(peer.listen[0], shape, Duration::from_millis(100))?;
        let meter = Meter::start(peer.pid());
        let stretch = load.run(peer.listen[0], shape, Duration::from_secs(1))?;
        quiet &= is_quiet(meter, method);
        let place = stretch.latencies_us.len() * 99 / 100;
        p99.insert(peer.name, f64::from(stretch.latencies_us.get(place).copied().unwrap_or(u32::MAX)));
    }
    Ok((p99, quiet))
}

/// Ten quiet rounds at one connection: Weir's median p99 is at most that of the better of nginx and HAProxy, within that peer's
/// spread (its upper quartile).
pub(crate) fn single(load: &mut Load, peers: &[&Peer], method: &Method) -> Result<bool, Box<dyn Error>> {
    const ROUNDS: usize = 10;
    let names = ["weir", "nginx", "haproxy"];
    let mut order: Vec<&Peer> = peers.iter().copied().filter(|peer| names.contains(&peer.name)).collect();
    if order.len() < names.len() {
        println!("\np99-one: needs weir, nginx and haproxy");
        return Ok(false);
    }
    println!("\np99-one: one keepalive connection, 1 s each, weir/nginx/haproxy; microseconds");
    let mut seen: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..ROUNDS * 3 {
        order.rotate_left(1);
        let (p99, quiet) = tails(load, &order, Shape { connections: 1, ..TINY }, method)?;
        print!("  {}/{}/{}{}", p99["weir"], p99["nginx"], p99["haproxy"], if quiet { "" } else { "*" });
        if quiet {
            p99.iter().for_each(|(name, value)| seen.entry(name).or_default().push(*value));
        }
        if seen.get("weir").is_some_and(|rounds| rounds.len() == ROUNDS) {
            break;
        }
    }
    println!();
    let at = |name: &str, part: f64| seen.get(name).map_or(f64::NAN, |rounds| quantile(rounds, part));
    let better = if at("nginx", 0.5) < at("haproxy", 0.5) { "nginx" } else { "haproxy" };
    println!("  medians {} / {} / {}", at("weir", 0.5), at("nginx", 0.5), at("haproxy", 0.5));
    let missing = (ROUNDS - seen.get("weir").map_or(0, Vec::len)) as f64;
    let enough = report_bound("quiet rounds missing", missing, 0.0);
    let (ratio, spread) = (at("weir", 0.5) / at(better, 0.5), at(better, 0.75) / at(better, 0.5));
    Ok(report_bound(&format!("p99 at one connection / {better}"), ratio, spread) & enough)
}

/// Ends a measured stretch; returns whether nothing else ran beside it.
fn is_quiet(meter: Meter, method: &Method) -> bool {
    meter.stop(method.cpus).1.iter().all(|&share| share <= method.max_other)
}

/// The endpoints of Weir change once a second, by its configuration file, in every other stretch.
pub(crate) fn changes(
    load: &mut Load,
    weir: &Peer,
    setting: &Setting<'_>,
    method: &Method,
) -> Result<bool, Box<dyn Error>> {
    println!("\nchange: stretches of 2 s with and without a change of the endpoints each second; us CPU per request");
    let (mut quiet, mut changing, mut errors) = (Vec::new(), Vec::new(), 0);
    let (before, mut written) = (applied(setting)?, 0.0);
    for round in 0..2 * method.rounds {
        let with = round % 2 == 1;
        load.run(weir.listen[0], TINY, Duration::from_millis(60))?;
        load.idle(Duration::from_millis(10))?;
        let meter = Meter::start(weir.pid());
        let (mut requests, mut failed) = (0, 0);
        for half in 0..2 {
            if with {
                let endpoints = &setting.endpoints[..if half == 0 { 1 } else { 2 }];
                peers::change_endpoints(weir, setting, endpoints)?;
                written += 1.0;
            }
            let stretch = load.run(weir.listen[0], TINY, Duration::from_secs(1))?;
            requests += stretch.requests;
            failed += stretch.errors;
        }
        load.idle(Duration::from_millis(5))?;
        let (ns, other) = meter.stop(method.cpus);
        errors += failed;
        let cost = ns as f64 / 1e3 / requests.max(1) as f64;
        let dropped = other.iter().any(|&share| share > method.max_other);
        print!("  {cost:.2}{}{}", if with { "c" } else { "" }, if dropped { "*" } else { "" });
        if !dropped {
            if with { changing.push(cost) } else { quiet.push(cost) }
        }
    }
    println!();
    let ratio = quantile(&changing, 0.25) / quantile(&quiet, 0.25);
    let taken = report_bound("changes not taken up", written - (applied(setting)? - before), 0.0);
    let failed = report_bound("failed requests", errors as f64, 0.0);
    Ok(report_bound("with changes / without", ratio, 1.02) & failed & taken)
}

/// Tiny requests, bodies of 1 MiB, handshakes and a change each second at once: how long the worker's turns are. Seconds
/// with other load are left out: what runs on the worker's CPU instead of it is no turn of its own.
pub(crate) fn turns(
    load: &mut Load,
    weir: &Peer,
    setting: &Setting<'_>,
    method: &Method,
) -> Result<bool, Box<dyn Error>> {
    const SECONDS: usize = 10;
    println!(
        "\nturn: 64 connections with tiny requests, bodies of 1 MiB, handshakes, a change each second, {SECONDS} s"
    );
    let (stop, bulk, shaken) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let config = clients::config(setting.certificate)?;
    let [plain, tls] = weir.listen;
    let others = [
        work(stop.clone(), bulk.clone(), move || mebibyte(plain)),
        work(stop.clone(), shaken.clone(), move || clients::shake(tls, &config)),
    ];
    let (mut requests, mut errors, mut seconds) = (0, 0, 0);
    // Turns in all, then those within each bound.
    let mut turns = [0.0; 1 + TURN_BOUNDS.len()];
    for second in 0..SECONDS * 3 {
        let before = turns_until_now(setting)?;
        let meter = Meter::start(weir.pid());
        let endpoints = &setting.endpoints[..1 + usize::from(second % 2 == 1)];
        peers::change_endpoints(weir, setting, endpoints)?;
        let stretch = load.run(plain, TINY, Duration::from_secs(1))?;
        errors += stretch.errors;
        if is_quiet(meter, method) {
            requests += stretch.requests;
            seconds += 1;
            let after = turns_until_now(setting)?;
            turns.iter_mut().zip(after).zip(before).for_each(|((sum, after), before)| *sum += after - before);
        }
        if seconds == SECONDS {
            break;
        }
    }
    stop.store(true, Ordering::SeqCst);
    while !others.iter().all(thread::JoinHandle::is_finished) {
        load.idle(Duration::from_millis(5))?;
    }
    for other in others {
        other.join().map_err(|_panic| "a load panicked")?;
    }
    let [all, within @ ..] = turns;
    println!("  {seconds} quiet seconds: {requests} tiny requests, {all} turns");
    println!(
        "  {errors} failed, {} MiB, {} handshakes, also in other seconds",
        bulk.load(Ordering::SeqCst),
        shaken.load(Ordering::SeqCst)
    );
    for (bound, within) in TURN_BOUNDS.iter().zip(within) {
        println!("    above {:>6} us: {:>10.6} %", bound.parse::<f64>()? * 1e6, (all - within) / all * 100.0);
    }
    let above = TURN_BOUNDS.iter().zip(within).find(|(bound, _)| **bound == "0.0002").map_or(all, |(_, n)| all - n);
    let good = report_bound("per 10,000 turns above 200 us", above / all * 10_000.0, 1.0);
    let enough = report_bound("quiet seconds missing", (SECONDS - seconds) as f64, 0.0);
    Ok(report_bound("failed requests", errors as f64, 0.0) & good & enough)
}

/// Upper bounds of the buckets that are printed, seconds.
const TURN_BOUNDS: [&str; 9] = ["0.00002", "0.00005", "0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01"];

/// Returns how many turns the worker has made, then how many of them within each bound.
fn turns_until_now(setting: &Setting<'_>) -> io::Result<[f64; 1 + TURN_BOUNDS.len()]> {
    let text = exposition(setting)?;
    let mut turns = [0.0; 1 + TURN_BOUNDS.len()];
    for (at, turns) in turns.iter_mut().enumerate() {
        let name = match at.checked_sub(1).and_then(|at| TURN_BOUNDS.get(at)) {
            None => "weir_worker_turn_seconds_count{worker=\"0\"}".to_owned(),
            Some(bound) => format!("weir_worker_turn_seconds_bucket{{worker=\"0\",le=\"{bound}\"}}"),
        };
        *turns = metric(&text, &name).unwrap_or(0.0);
    }
    Ok(turns)
}

/// Does the same over and over until it is to stop; counts what went well.
fn work(
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    mut step: impl FnMut() -> io::Result<()> + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::SeqCst) {
            if step().is_ok() {
                done.fetch_add(1, Ordering::SeqCst);
            }
        }
        crate::proxies::cpu::thread_ends();
    })
}

/// Fetches 1 MiB over a connection of its own.
fn mebibyte(target: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(target)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&message::request(Kind::Bulk, true))?;
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets)?;
    if octets.len() > 1024 * 1024 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads Weir's metrics over its socket.
fn exposition(setting: &Setting<'_>) -> io::Result<String> {
    let deadline = clock::now() + Duration::from_secs(5);
    let mut stream = loop {
        match UnixStream::connect(peers::admin_socket(setting)) {
            Ok(stream) => break stream,
            Err(error) if clock::now() > deadline => return Err(error),
            Err(_) => thread::park_timeout(Duration::from_millis(20)),
        }
    };
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Returns how many changes of its configuration Weir has taken up.
fn applied(setting: &Setting<'_>) -> io::Result<f64> {
    Ok(metric(&exposition(setting)?, "weir_config_reloads_total{outcome=\"applied\"}").unwrap_or(0.0))
}

fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
