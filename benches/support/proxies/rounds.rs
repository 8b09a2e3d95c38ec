//! Rounds: every peer runs, one at a time is loaded, in another order each time, until enough rounds were quiet.

use super::cpu;
use super::load::{Load, Shape, Stretch};
use super::process::Peer;
use super::report::{Cell, Cells};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use weir::clock;

/// How rounds are run and which count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    /// Quiet rounds for each peer; at most three times as many are run.
    pub(crate) rounds: usize,
    /// Length of one measured stretch.
    pub(crate) seconds: f64,
    /// A round with more other load than this share on either CPU is dropped.
    pub(crate) max_other: f64,
    /// CPU of the proxies, CPU of backend and load.
    pub(crate) cpus: [usize; 2],
}

/// Options of how rounds are run: the default number of rounds and the default stretch in milliseconds are each program's own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Quiet<const ROUNDS: usize, const MILLIS: u32> {
    /// Quiet rounds for each peer and scenario; at most three times as many are run
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    rounds: usize,
    /// Seconds of one measured stretch
    #[arg(long, value_name = "S", default_value_t = f64::from(MILLIS) / 1000.0)]
    seconds: f64,
    /// Drop a round with more than so many percent of other load on either CPU
    #[arg(long, value_name = "P", default_value_t = 5.0)]
    max_other: f64,
}

impl<const ROUNDS: usize, const MILLIS: u32> Quiet<ROUNDS, MILLIS> {
    /// Returns how rounds are run, with the proxies on the first CPU and backend and load on the second.
    pub(crate) fn method(&self) -> Method {
        Method { rounds: self.rounds, seconds: self.seconds, max_other: self.max_other / 100.0, cpus: [0, 1] }
    }
}

/// Runs rounds of one shape over the peers; `listener` is which of a peer's two.
pub(crate) fn rounds(
    load: &mut Load,
    peers: &[&Peer],
    (shape, listener): (Shape, usize),
    method: &Method,
) -> Result<Cells, Box<dyn Error>> {
    each(peers, method, |peer| measure(load, peer, (shape, listener), method))
}

/// Runs one cell for each peer in each round.
pub(crate) fn each(
    peers: &[&Peer],
    method: &Method,
    mut measure: impl FnMut(&Peer) -> Result<Cell, Box<dyn Error>>,
) -> Result<Cells, Box<dyn Error>> {
    let mut cells: Cells = peers.iter().map(|peer| (peer.name, Vec::new())).collect();
    for round in 0..method.rounds * 3 {
        // Another order in each round: nobody always follows the same neighbour.
        for step in 0..peers.len() {
            let place = (round + step) % peers.len();
            let cell = measure(peers[place])?;
            cells[place].1.push(cell);
        }
        let enough =
            |rounds: &[Cell]| rounds.iter().filter(|cell| cell.quiet(method.max_other)).count() >= method.rounds;
        if cells.iter().all(|(_, rounds)| enough(rounds)) {
            break;
        }
    }
    Ok(cells)
}

fn measure(
    load: &mut Load,
    peer: &Peer,
    (shape, listener): (Shape, usize),
    method: &Method,
) -> Result<Cell, Box<dyn Error>> {
    let target: SocketAddr = peer.listen[listener];
    // Connections and caches get warm; then everything sleeps, so that the scheduler's counters are exact.
    load.run(target, shape, Duration::from_millis(60))?;
    load.idle(Duration::from_millis(10))?;
    let meter = Meter::start(peer.pid());
    let stretch = load.run(target, shape, Duration::from_secs_f64(method.seconds))?;
    load.idle(Duration::from_millis(5))?;
    let (peer_ns, other) = meter.stop(method.cpus);
    Ok(Cell::new(&stretch, peer_ns, other))
}

/// What a peer and everybody else run meanwhile.
pub(crate) struct Meter {
    pids: Vec<u32>,
    peer_ns: u64,
    own_ns: u64,
    /// Of the kernel's threads for network work, by CPU.
    network_ns: [u64; 2],
    busy_ns: Vec<u64>,
    start: std::time::Instant,
}

impl Meter {
    /// Begins; `peer` and its descendants are measured.
    pub(crate) fn start(peer: u32) -> Self {
        let pids = cpu::tree(peer);
        let (peer_ns, own_ns) = (cpu::run_ns(&pids), cpu::own_ns());
        let network_ns = [0, 1].map(cpu::network_ns);
        Self { pids, peer_ns, own_ns, network_ns, busy_ns: cpu::busy_ns(), start: clock::now() }
    }

    /// Ends; returns the peer's CPU time in ns, with what the kernel's thread for network work ran on its CPU, and what else ran on the two CPUs as shares of the time.
    pub(crate) fn stop(self, cpus: [usize; 2]) -> (u64, [f64; 2]) {
        let (peer_after, own_after, busy) = (cpu::run_ns(&self.pids), cpu::own_ns(), cpu::busy_ns());
        let wall = (clock::now() - self.start).as_secs_f64();
        let network = |cpu: usize| cpu::network_ns(cpu) - self.network_ns.get(cpu).copied().unwrap_or(0);
        let peer_ns = peer_after - self.peer_ns + network(cpus[0]);
        let own_ns = own_after.saturating_sub(self.own_ns) + network(cpus[1]);
        let share = |cpu: usize, explained: u64| {
            let busy = busy.get(cpu).copied().unwrap_or(0) - self.busy_ns.get(cpu).copied().unwrap_or(0);
            busy.saturating_sub(explained) as f64 / 1e9 / wall
        };
        (peer_ns, [share(cpus[0], peer_ns), share(cpus[1], own_ns)])
    }
}

/// Loads until a peer answers rightly: one that checks its endpoints first refuses for a moment after it listens.
pub(crate) fn answers(load: &mut Load, peer: &Peer, target: SocketAddr, shape: Shape) -> Result<(), Box<dyn Error>> {
    let deadline = clock::now() + Duration::from_secs(10);
    loop {
        let stretch = load.run(target, shape, Duration::from_millis(50))?;
        if stretch.requests > 0 && stretch.errors == 0 {
            return Ok(());
        }
        if clock::now() > deadline {
            let Stretch { requests, errors, .. } = stretch;
            return Err(format!("{} answers wrongly: {requests} answers, {errors} errors", peer.name).into());
        }
    }
}
