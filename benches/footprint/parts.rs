//! The parts: each starts Weir, measures, and prints figures with their bounds.

use crate::proxies::cpu;
use crate::proxies::load::{Load, Shape as LoadShape};
use crate::proxies::memory::{proportional_kib, resident_kib};
use crate::proxies::message::Kind;
use crate::weir::{Shape, Weir};
use crate::{Options, figure};
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use weir::clock;

type Outcome = Result<bool, Box<dyn Error>>;

const READY: Duration = Duration::from_secs(20);

/// A backend on a thread of its own.
struct Backend {
    endpoints: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    fn start(endpoints: usize) -> Result<Self, Box<dyn Error>> {
        let mut load = Load::open(endpoints)?;
        let addresses = load.endpoints()?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread =
            std::thread::spawn(
                move || {
                    while !told.load(Ordering::Relaxed) && load.idle(Duration::from_millis(100)).is_ok() {}
                },
            );
        Ok(Self { endpoints: addresses, stop, thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ready(weir: &Weir) -> Result<(), Box<dyn Error>> {
    let deadline = clock::now() + READY;
    while !weir.answers() {
        if clock::now() > deadline {
            return Err(format!("weir does not answer:\n{}", weir.log()).into());
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

fn shape(connections: usize) -> LoadShape {
    LoadShape { kind: Kind::Tiny, connections, close: false, rate: None }
}

/// From the start of the program to the first 200 through a static endpoint.
pub(crate) fn start(options: &Options) -> Outcome {
    println!("start: from exec to the first 200 through a static endpoint, asked each millisecond; median of 9");
    let backend = Backend::start(1)?;
    let mut times = Vec::new();
    for _ in 0..9 {
        let begun = clock::now();
        let weir = Weir::start(&options.common.weir, Shape { workers: 1, services: 1, endpoints: &backend.endpoints })?;
        ready(&weir)?;
        times.push((clock::now() - begun).as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("  all: {}", times.iter().map(|t| format!("{t:.0}")).collect::<Vec<_>>().join(" "));
    Ok(figure("start to first 200", times[times.len() / 2], 100.0, "ms"))
}

/// Resident memory idle and with idle keepalive connections, each after one request.
pub(crate) fn memory(options: &Options) -> Outcome {
    println!(
        "memory: one worker, one static endpoint; VmRSS of the serving process, Pss of it and its keeper together"
    );
    let mut load = Load::open(1)?;
    let endpoints = load.endpoints()?;
    let weir = Weir::start(&options.common.weir, Shape { workers: 1, services: 1, endpoints: &endpoints })?;
    let deadline = clock::now() + READY;
    while load.run(weir.http, shape(8), Duration::from_millis(20))?.errors > 0 {
        if clock::now() > deadline {
            return Err(format!("weir does not answer:\n{}", weir.log()).into());
        }
    }
    load.idle(Duration::from_millis(500))?;
    let before = sizes(&weir);
    let held = load.hold(weir.http, options.connections)?;
    load.idle(Duration::from_millis(200))?;
    let after = sizes(&weir);
    println!(
        "  idle: {:.1} MiB serving, {:.1} MiB together; {held} idle keepalive connections:",
        mib(before.0),
        mib(before.1)
    );
    let each = after.0.saturating_sub(before.0) as f64 / held as f64;
    Ok(figure("serving process with connections", mib(after.0), 20.0, "MiB")
        & figure("both together with connections", mib(after.1), 20.0, "MiB")
        & figure("each connection", each, 2.0, "KiB"))
}

/// Returns VmRSS of the process that serves, which is the largest, and Pss of all.
fn sizes(weir: &Weir) -> (u64, u64) {
    let pids = weir.pids();
    let serving = pids.iter().map(|pid| resident_kib(&[*pid])).max().unwrap_or(0);
    (serving, proportional_kib(&pids))
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// CPU time and wake-ups of the whole process while nothing happens.
pub(crate) fn idle(options: &Options) -> Outcome {
    println!(
        "idle: 100 services with 10 static endpoints, no checks, no connections, {} s; run time and voluntary context switches of all threads",
        options.idle_seconds
    );
    let backend = Backend::start(10)?;
    let weir = Weir::start(&options.common.weir, Shape { workers: 2, services: 100, endpoints: &backend.endpoints })?;
    ready(&weir)?;
    // The first checks, the pools' idle time, and the averages of the admin API pass.
    std::thread::park_timeout(Duration::from_secs(10));
    let pids = weir.pids();
    let (run, wakes, begun) = (cpu::run_ns(&pids), wakes(&pids), clock::now());
    while (clock::now() - begun).as_secs_f64() < options.idle_seconds {
        std::thread::park_timeout(Duration::from_secs_f64(options.idle_seconds));
    }
    let seconds = (clock::now() - begun).as_secs_f64();
    let (run, after) = (cpu::run_ns(&pids) - run, self::wakes(&pids));
    let woken: u64 = after.iter().map(|(task, n)| n - wakes.get(task).copied().unwrap_or(0)).sum();
    for (task, n) in &after {
        let n = n - wakes.get(task).copied().unwrap_or(0);
        if n > 0 {
            println!("  {:16} {:6.2} wake-ups a second", task.1, n as f64 / seconds);
        }
    }
    Ok(figure("CPU", run as f64 / 1e6 / seconds, 0.5, "ms a second")
        & figure("wake-ups", woken as f64 / seconds, 10.0, "a second"))
}

/// Voluntary context switches by thread and its name.
fn wakes(pids: &[u32]) -> std::collections::BTreeMap<(String, String), u64> {
    let mut found = std::collections::BTreeMap::new();
    for task in pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten()) {
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default();
        let key = (task.file_name().to_string_lossy().into_owned(), field("Name:").to_owned());
        found.insert(key, field("voluntary_ctxt_switches:").parse().unwrap_or(0));
    }
    found
}

/// CPU per request of two workers beside one, and futex calls per request.
///
/// With two CPUs, two workers share theirs with the load and one does not; so two processes with one worker each are the
/// other comparison: as many threads, and nothing shared between them.
pub(crate) fn workers(options: &Options) -> Outcome {
    println!(
        "workers: CPU time per request, 128 B, 64 connections; one worker, two, and two processes with one each, in turn"
    );
    let mut load = Load::open(2)?;
    let endpoints = load.endpoints()?;
    let mut running: Vec<(&str, Vec<Weir>, Vec<f64>)> = Vec::new();
    for (name, workers, processes) in [("one", 1, 1), ("two", 2, 1), ("one and one", 1, 2)] {
        let shape = Shape { workers, services: 1, endpoints: &endpoints };
        let weirs = (0..processes).map(|_| Weir::start(&options.common.weir, shape)).collect::<Result<Vec<_>, _>>()?;
        for weir in &weirs {
            let deadline = clock::now() + READY;
            while load.run(weir.http, self::shape(1), Duration::from_millis(20))?.errors > 0 {
                if clock::now() > deadline {
                    return Err(format!("weir does not answer:\n{}", weir.log()).into());
                }
            }
        }
        running.push((name, weirs, Vec::new()));
    }
    for _ in 0..options.rounds {
        for (_, weirs, costs) in &mut running {
            let targets: Vec<SocketAddr> = weirs.iter().map(|weir| weir.http).collect();
            load.run_all(&targets, shape(64), Duration::from_millis(60))?;
            load.idle(Duration::from_millis(10))?;
            let pids: Vec<u32> = weirs.iter().flat_map(Weir::pids).collect();
            let before = cpu::run_ns(&pids);
            let stretch = load.run_all(&targets, shape(64), Duration::from_millis(500))?;
            load.idle(Duration::from_millis(5))?;
            if stretch.errors > 0 {
                return Err(format!("{} errors", stretch.errors).into());
            }
            costs.push((cpu::run_ns(&pids) - before) as f64 / 1e3 / stretch.requests as f64);
        }
    }
    for (name, _, costs) in &running {
        println!("  {name}: {}", costs.iter().map(|c| format!("{c:.2}")).collect::<Vec<_>>().join(" "));
    }
    let low: Vec<f64> = running.iter().map(|(_, _, costs)| quartile(costs)).collect();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "  two workers / two processes with one worker each, lower quartiles: {:.3}; {cpus} CPUs for them and the load",
        low[1] / low[2]
    );
    let ratio = figure("two workers / one worker, lower quartiles", low[1] / low[0], 1.05, "");
    Ok(ratio & futex(&mut load, &running[1].1[0])?)
}

fn quartile(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 4]
}

/// Counts system calls under load with strace.
fn futex(load: &mut Load, weir: &Weir) -> Outcome {
    let pid = weir.pids().last().copied().unwrap_or(0);
    load.run(weir.http, shape(64), Duration::from_millis(100))?;
    let strace = Command::new("strace").args(["-c", "-f", "-p", &pid.to_string()]).stderr(Stdio::piped()).spawn();
    let Ok(strace) = strace else {
        println!("  futex calls: not measured, strace is not installed");
        return Ok(false);
    };
    load.idle(Duration::from_millis(500))?;
    let stretch = load.run(weir.http, shape(64), Duration::from_secs(2))?;
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    let output = strace.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let calls = |name: &str| -> u64 {
        let line = text.lines().find(|line| line.split_whitespace().last() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(0)
    };
    let requests = stretch.requests as f64;
    println!(
        "  calls per request of {requests}: {:.2} recvfrom, {:.2} sendto, {:.3} epoll_wait",
        calls("recvfrom") as f64 / requests,
        calls("sendto") as f64 / requests,
        calls("epoll_wait") as f64 / requests
    );
    if calls("sendto") < stretch.requests {
        return Err(format!("strace did not see the requests:\n{text}").into());
    }
    Ok(figure("futex calls", calls("futex") as f64 / requests, 0.01, "per request"))
}

/// Connections by worker, and round robin's share by endpoint.
pub(crate) fn spread(options: &Options) -> Outcome {
    println!("spread: 64 connections on 8 workers, 3 endpoints by round robin; the worst of 5 starts");
    let (mut busiest, mut share) = (0.0f64, 0.0f64);
    for _ in 0..5 {
        let mut load = Load::open(3)?;
        let endpoints = load.endpoints()?;
        let weir = Weir::start(&options.common.weir, Shape { workers: 8, services: 1, endpoints: &endpoints })?;
        let deadline = clock::now() + READY;
        while load.run(weir.http, shape(1), Duration::from_millis(50))?.errors > 0 && clock::now() < deadline {}
        load.idle(Duration::from_millis(200))?;
        load.hold(weir.http, 64)?;
        // The admin API is another thread's; the kept connections stay open meanwhile.
        let open: Vec<f64> = weir.metrics("weir_worker_connections_open{")?.into_iter().map(|(_, n)| n).collect();
        busiest = busiest.max(open.iter().copied().fold(0.0, f64::max) * 8.0 / open.iter().sum::<f64>());
        load.release();
        load.run(weir.http, shape(64), Duration::from_secs(1))?;
        let requests = weir.metrics("weir_endpoint_requests_total{")?;
        let requests: Vec<f64> = requests.into_iter().map(|(_, n)| n).collect();
        let mean = requests.iter().sum::<f64>() / requests.len().max(1) as f64;
        share = requests.iter().map(|n| (n / mean - 1.0).abs()).fold(share, f64::max);
        println!("  connections by worker {open:?}, requests by endpoint {requests:?}");
    }
    Ok(figure("busiest worker / mean", busiest, 1.15, "") & figure("share off the mean", share, 0.02, ""))
}
