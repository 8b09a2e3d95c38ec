//! Cells, quartiles, ratios, and how they are printed.

use super::load::Stretch;
use std::collections::BTreeMap;

/// One peer in one round of one scenario.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// CPU time of the peer's processes per request, in microseconds.
    pub(crate) us_per_request: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: u32,
    pub(crate) p99_us: u32,
    pub(crate) errors: u64,
    /// What else ran, as a share of the time, on the peer's CPU and on the load's.
    pub(crate) other: [f64; 2],
}

impl Cell {
    pub(crate) fn new(stretch: &Stretch, cpu_ns: u64, other: [f64; 2]) -> Self {
        let at = |q: f64| {
            let n = stretch.latencies_us.len();
            stretch.latencies_us.get(((n as f64 * q) as usize).min(n.saturating_sub(1))).copied().unwrap_or(0)
        };
        let requests = stretch.requests.max(1) as f64;
        Self {
            us_per_request: cpu_ns as f64 / 1e3 / requests,
            requests_per_second: stretch.requests as f64 / stretch.seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            errors: stretch.errors,
            other,
        }
    }

    /// Whether the round counts.
    pub(crate) fn quiet(&self, max_other: f64) -> bool {
        self.other.iter().all(|&share| share <= max_other)
    }
}

/// Returns the value below which a share `q` of the values lies, interpolated.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q * (sorted.len().saturating_sub(1)) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) => a + (b - a) * (place - place.floor()),
        _ => f64::NAN,
    }
}

/// The cells of one scenario by peer, in the order in which the peers ran.
pub(crate) type Cells = Vec<(&'static str, Vec<Cell>)>;

/// Prints a scenario with all its rounds; returns the lower quartile of each peer.
pub(crate) fn print(title: &str, cells: &Cells, max_other: f64) -> BTreeMap<&'static str, f64> {
    println!("\n{title}");
    let mut quartiles = BTreeMap::new();
    let quiet = |rounds: &[Cell]| -> Vec<Cell> { rounds.iter().filter(|c| c.quiet(max_other)).cloned().collect() };
    for (peer, rounds) in cells {
        let costs: Vec<f64> = quiet(rounds).iter().map(|c| c.us_per_request).collect();
        quartiles.insert(*peer, quantile(&costs, 0.25));
    }
    println!(
        "  {:8} {:>8} {:>7} {:>7} | {:>7} {:>8} {:>7} | {:>8} {:>6} {:>6} | {:>6} {:>6}",
        "peer",
        "us/req",
        "min",
        "median",
        "/nginx",
        "/haproxy",
        "/relay",
        "req/s",
        "p50us",
        "p99us",
        "errors",
        "rounds"
    );
    let ratio = |a: f64, peer: &str| quartiles.get(peer).map_or_else(|| "-".to_owned(), |b| format!("{:.3}", a / b));
    for (peer, rounds) in cells {
        let kept = quiet(rounds);
        if kept.is_empty() {
            let other = rounds.iter().flat_map(|c| c.other).fold(0.0, f64::max) * 100.0;
            println!("  {peer:8} no quiet round of {}: up to {other:.0} % other load", rounds.len());
            continue;
        }
        let column = |f: fn(&Cell) -> f64| -> Vec<f64> { kept.iter().map(f).collect() };
        let costs = column(|c| c.us_per_request);
        let low = quantile(&costs, 0.25);
        println!(
            "  {peer:8} {low:8.2} {:7.2} {:7.2} | {:>7} {:>8} {:>7} | {:8.0} {:6.0} {:6.0} | {:6} {:>6}",
            quantile(&costs, 0.0),
            quantile(&costs, 0.5),
            ratio(low, "nginx"),
            ratio(low, "haproxy"),
            ratio(low, "relay"),
            quantile(&column(|c| c.requests_per_second), 0.5),
            quantile(&column(|c| f64::from(c.p50_us)), 0.5),
            quantile(&column(|c| f64::from(c.p99_us)), 0.5),
            rounds.iter().map(|c| c.errors).sum::<u64>(),
            format!("{}/{}", kept.len(), rounds.len()),
        );
    }
    for (peer, rounds) in cells {
        let all: Vec<String> = rounds
            .iter()
            .map(|c| format!("{:.2}{}", c.us_per_request, if c.quiet(max_other) { "" } else { "*" }))
            .collect();
        println!("  {peer:8} {}", all.join(" "));
    }
    quartiles
}
