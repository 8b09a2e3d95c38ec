//! Forwarding: questions by Zipf's law through Weir, unbound and dnsmasq to one unbound, which then dies.
//!
//! - *mix*: every forwarder starts with an empty cache, which holds less than all names, and gets the same questions at the same
//!   rate: how many of them does the upstream hear of, what does one cost, how long does one take?
//! - *hits*: names that all have in their cache, 100 questions in flight: CPU per question.
//! - *killed*: the TTL of names that all have asked for is over and the upstream is dead: does the old answer come, and when?

use crate::client::{Load, Mode, Run, dnsperf};
use crate::forwarders::{self, Setting};
use crate::proxies::process::Peer;
use crate::proxies::report::{Cell, quantile};
use crate::proxies::rounds::{self, Meter, Method};
use crate::upstream::{self, Asked, EXPIRING, Relay};
use crate::{print, report_bound};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::Name;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir::clock;

/// Distinct questions of the mix; some 80 % of what is asked is for the 10,000 most popular.
const NAMES: u32 = 50_000;
/// Questions of one pass of the mix, and how many of them a second.
const MIX: usize = 100_000;
const RATE: u32 = 10_000;
/// Passes of the mix, each with other questions and empty caches.
const PASSES: u64 = 3;
/// Names of the hits.
const POPULAR: u32 = 1_000;
/// Seconds after which the names that expire have done so.
const EXPIRY: Duration = Duration::from_millis(2_500);
/// Longest wait for an answer when the upstream is dead: the client response timer of RFC 8767 §5, and a little.
const STALE_MOST_MS: f64 = 2_000.0;
/// Most of the stale answers come at once.
const STALE_MEDIAN_MS: f64 = 20.0;
/// The best other's hit ratio may be so much of Weir's, and a hit may cost so much of the cheapest.
const HIT_RATIO_MOST: f64 = 1.01;
const HIT_COST_MOST: f64 = 1.0;

/// What is compared, where and how.
pub(crate) struct Setup<'a> {
    pub(crate) peers: Vec<&'a str>,
    pub(crate) folder: &'a Path,
    pub(crate) weir: &'a Path,
    pub(crate) method: Method,
}

/// Returns what must be installed for these scenarios beside the peers.
pub(crate) fn needs(scenarios: &[String]) -> &'static [&'static str] {
    if scenarios.iter().any(|name| name == "forward") { &["unbound"] } else { &[] }
}

/// What one pass of the mix through one forwarder came to.
struct Pass {
    hit_ratio: f64,
    upstream: u64,
    cost_us: f64,
    latencies_us: [u32; 4],
    errors: u64,
}

struct Bench<'a> {
    setup: &'a Setup<'a>,
    upstream: Peer,
    relay: Relay,
}

/// Runs all of it; false when an answer was wrong or lost, or a bound was missed.
pub(crate) fn compare(setup: &Setup<'_>) -> Result<bool, Box<dyn Error>> {
    fs::create_dir_all(setup.folder)?;
    let upstream = upstream::unbound(setup.folder, setup.method.cpus[1], NAMES)?;
    let relay = Relay::start(upstream.listen[0])?;
    println!(
        "\nforward: {NAMES} names by Zipf's law, the upstream is an unbound {} ms away; room for answers: {}",
        upstream::DELAY.as_millis(),
        forwarders::room()
    );
    let mut bench = Bench { setup, upstream, relay };
    let mut good = bench.mix()?;
    good &= bench.hits()?;
    good &= bench.killed()?;
    Ok(good)
}

impl Bench<'_> {
    fn start(&self, name: &str) -> Result<Peer, Box<dyn Error>> {
        let Setup { folder, weir, method, .. } = self.setup;
        let setting = Setting { folder, cpu: method.cpus[0], weir, upstream: self.relay.address };
        let peer = forwarders::start(name, &setting)?;
        // Whoever has just begun may need a moment; nothing of the mix gets into the cache by this.
        let deadline = clock::now() + Duration::from_secs(10);
        while ask(peer.listen[0], &upstream::expiring(EXPIRING - 1)).is_err() {
            if clock::now() > deadline {
                return Err(format!("{name} forwards nothing").into());
            }
        }
        Ok(peer)
    }

    fn questions(&self, places: &[u32]) -> Result<PathBuf, Box<dyn Error>> {
        let file = self.setup.folder.join("questions");
        let line = |place: &u32| {
            let Asked { name, kind, .. } = upstream::asked(*place);
            format!("{name} {kind}\n")
        };
        fs::write(&file, places.iter().map(line).collect::<String>())?;
        Ok(file)
    }

    fn mix(&self) -> Result<bool, Box<dyn Error>> {
        println!(
            "\nforward, mix: {MIX} questions at {RATE} a second into an empty cache; latency in microseconds by dnsperf"
        );
        let mut found: BTreeMap<&str, Vec<Pass>> = BTreeMap::new();
        for round in 0..PASSES {
            let questions = self.questions(&upstream::zipf(NAMES, MIX, 11 + round))?;
            for name in &self.setup.peers {
                found.entry(name).or_default().push(self.pass(name, &questions)?);
            }
        }
        println!(
            "  {:8} {:>9} {:>10} {:>8} | {:>6} {:>6} {:>6} {:>6} | {:>6}",
            "server", "hit ratio", "upstream", "us/query", "p50", "p90", "p99", "p99.9", "errors"
        );
        for (name, passes) in &found {
            let median = |of: &dyn Fn(&Pass) -> f64| quantile(&passes.iter().map(of).collect::<Vec<_>>(), 0.5);
            let latency = |n: usize| median(&|pass| f64::from(pass.latencies_us[n]));
            println!(
                "  {name:8} {:9.4} {:10.0} {:8.2} | {:6.0} {:6.0} {:6.0} {:6.0} | {:6}",
                median(&|pass| pass.hit_ratio),
                median(&|pass| pass.upstream as f64),
                median(&|pass| pass.cost_us),
                latency(0),
                latency(1),
                latency(2),
                latency(3),
                passes.iter().map(|pass| pass.errors).sum::<u64>()
            );
        }
        let weir = found.get("weir").map(|passes| passes.iter().map(|pass| pass.errors).sum::<u64>());
        if weir.is_some_and(|errors| errors > 0) {
            println!("  Weir's answers were lost or wrong");
        }
        let ratio = |name: &str| {
            found.get(name).map(|passes| quantile(&passes.iter().map(|p| p.hit_ratio).collect::<Vec<_>>(), 0.5))
        };
        let best = ["unbound", "dnsmasq"].into_iter().filter_map(ratio).fold(f64::NAN, f64::max);
        let met = report_bound(
            "hit ratio of the best other / weir",
            best / ratio("weir").unwrap_or(f64::NAN),
            HIT_RATIO_MOST,
        );
        Ok(met && weir == Some(0))
    }

    fn pass(&self, name: &str, questions: &Path) -> Result<Pass, Box<dyn Error>> {
        let peer = self.start(name)?;
        let (server, before) = (peer.listen[0], self.relay.questions());
        let meter = Meter::start(peer.pid());
        let seconds = MIX as f64 / f64::from(RATE) + 10.0;
        let load = Load { server, mode: Mode::Udp, questions, seconds, rate: Some(RATE), once: true };
        let run = dnsperf(&load, self.setup.folder)?;
        let (ns, _) = meter.stop(self.setup.method.cpus);
        let upstream = self.relay.questions() - before;
        let at = |q: f64| {
            let last = run.latencies_us.len().saturating_sub(1);
            run.latencies_us.get((last as f64 * q) as usize).copied().unwrap_or(u32::MAX)
        };
        // What was asked under load is asked again, one by one: the answers are the right ones.
        let mut errors = run.lost + run.wrong + u64::from(run.answers != MIX as u64);
        for place in (0..NAMES).step_by(97) {
            errors += u64::from(ask(server, &upstream::asked(place)).is_err());
        }
        Ok(Pass {
            hit_ratio: 1.0 - upstream as f64 / run.answers.max(1) as f64,
            upstream,
            cost_us: ns as f64 / 1e3 / run.answers.max(1) as f64,
            latencies_us: [at(0.5), at(0.9), at(0.99), at(0.999)],
            errors,
        })
    }

    fn hits(&self) -> Result<bool, Box<dyn Error>> {
        let Setup { peers, folder, method, .. } = self.setup;
        let running = peers.iter().map(|name| self.start(name)).collect::<Result<Vec<Peer>, _>>()?;
        // None with a short TTL: nobody asks anew meanwhile.
        let places: Vec<u32> =
            upstream::zipf(NAMES, 400_000, 3).into_iter().filter(|n| n % 10 != 7 && *n < POPULAR).collect();
        let questions = self.questions(&places)?;
        for peer in &running {
            for place in (0..POPULAR).filter(|place| place % 10 != 7) {
                ask(peer.listen[0], &upstream::asked(place)).map_err(|error| format!("{}: {error}", peer.name))?;
            }
        }
        let load = |peer: &Peer, seconds| -> Result<Run, Box<dyn Error>> {
            let load = Load {
                server: peer.listen[0],
                mode: Mode::Udp,
                questions: &questions,
                seconds,
                rate: None,
                once: false,
            };
            dnsperf(&load, folder)
        };
        let cells = rounds::each(&running.iter().collect::<Vec<_>>(), method, |peer| {
            load(peer, 0.1)?;
            std::thread::park_timeout(Duration::from_millis(10));
            let before = self.relay.questions();
            let meter = Meter::start(peer.pid());
            let run = load(peer, method.seconds)?;
            std::thread::park_timeout(Duration::from_millis(5));
            let (ns, other) = meter.stop(method.cpus);
            Ok(Cell {
                us_per_request: ns as f64 / 1e3 / run.answers.max(1) as f64,
                requests_per_second: run.per_second,
                p50_us: 0,
                p99_us: 0,
                errors: run.lost + run.wrong + (self.relay.questions() - before),
                other,
            })
        })?;
        let costs =
            print("forward, hits: 1,000 names that are kept, 100 in flight on 10 sockets", &cells, method.max_other);
        let errors: u64 = cells.iter().filter(|(name, _)| *name == "weir").flat_map(|(_, c)| c).map(|c| c.errors).sum();
        if errors > 0 {
            println!("  Weir's answers were lost or wrong, or the upstream was asked");
        }
        let cost = |name: &str| costs.get(name).copied().unwrap_or(f64::NAN);
        let best = cost("unbound").min(cost("dnsmasq"));
        Ok(report_bound("weir / cheapest other, a hit", cost("weir") / best, HIT_COST_MOST) && errors == 0)
    }

    fn killed(&mut self) -> Result<bool, Box<dyn Error>> {
        println!(
            "\nforward, killed: {EXPIRING} names past their TTL, asked one by one while the upstream is dead; milliseconds"
        );
        let running = self.setup.peers.iter().map(|name| self.start(name)).collect::<Result<Vec<Peer>, _>>()?;
        for peer in &running {
            for place in 0..EXPIRING {
                ask(peer.listen[0], &upstream::expiring(place)).map_err(|error| format!("{}: {error}", peer.name))?;
            }
        }
        std::thread::park_timeout(EXPIRY);
        // Dead, and nothing says so: the harder of the two.
        self.relay.silence(true);
        self.upstream.kill();
        let mut good = true;
        for peer in &running {
            let mut took = Vec::new();
            let mut lost = 0;
            for place in 0..EXPIRING {
                let begin = clock::now();
                lost += u32::from(ask(peer.listen[0], &upstream::expiring(place)).is_err());
                took.push(clock::now().duration_since(begin).as_secs_f64() * 1e3);
            }
            let (median, most) = (quantile(&took, 0.5), quantile(&took, 1.0));
            let slow = took.iter().filter(|ms| **ms > STALE_MEDIAN_MS).count();
            println!(
                "  {:8} lost {lost:3}, median {median:.2}, longest {most:.0}, {slow} above {STALE_MEDIAN_MS} ms",
                peer.name
            );
            if peer.name == "weir" {
                good &= lost == 0;
                good &= report_bound("weir's longest wait for a stale answer, ms", most, STALE_MOST_MS);
                good &= report_bound("weir's median, ms", median, STALE_MEDIAN_MS);
            }
        }
        Ok(good)
    }
}

/// Asks one question from a port of its own and compares the answer.
fn ask(server: SocketAddr, asked: &Asked) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(6)))?;
    socket.connect(server)?;
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(&asked.name)?, asked.kind));
    socket.send(&message.to_vec()?)?;
    let mut room = [0; 4096];
    let length = socket.recv(&mut room)?;
    let answer = Message::from_vec(&room[..length])?;
    let code = if asked.expected.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
    let found = answer.answers.first().map(|record| record.data.to_string());
    if answer.metadata.response_code == code && found == asked.expected {
        return Ok(());
    }
    Err(format!("{} {}: wanted {:?}, got {answer:?}", asked.name, asked.kind, asked.expected).into())
}
