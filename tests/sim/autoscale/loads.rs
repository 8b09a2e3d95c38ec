//! Loads: rates of each second, generated from a seed or read from a file, and the arrivals that follow them.

use weir::rng::Rng;

/// Seconds of a generated load.
const LENGTH: usize = 3600;

/// A load over time.
pub(crate) struct Shape {
    pub(crate) name: String,
    /// Requests per second, for each second.
    pub(crate) rates: Vec<f64>,
    /// Whether the rates are counts that were seen, rather than what chance scatters around.
    pub(crate) counted: bool,
}

fn uniform(rng: &mut Rng) -> f64 {
    rng.unit()
}

fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * uniform(rng).max(1e-300).ln()
}

impl Shape {
    fn new(name: &str, rate: impl FnMut(usize) -> f64) -> Self {
        Self { name: name.to_owned(), rates: (0..LENGTH).map(rate).collect(), counted: false }
    }

    /// Reads lines of `t_seconds,rps` below a head line; seconds that are missing have none.
    pub(crate) fn read(name: &str, text: &str) -> Result<Self, String> {
        let mut rates = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let wrong = || format!("line {}: {line:?} is no `t_seconds,rps`", number + 1);
            let (second, rate) = line.split_once(',').ok_or_else(wrong)?;
            if number == 0 && second.trim().parse::<f64>().is_err() {
                continue;
            }
            let second: usize = second.trim().parse().map_err(|_| wrong())?;
            let rate: f64 = rate.trim().parse().map_err(|_| wrong())?;
            if second < rates.len() || !rate.is_finite() || rate < 0.0 {
                return Err(wrong());
            }
            rates.resize(second, 0.0);
            rates.push(rate);
        }
        if rates.is_empty() {
            Err("holds no line".to_owned())
        } else {
            Ok(Self { name: name.to_owned(), rates, counted: true })
        }
    }

    /// The times of arrivals in each second.
    pub(crate) fn arrivals(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut rng = Rng::from_seed(seed);
        let mut owed = 0.0;
        let second = |(second, rate): (usize, &f64)| {
            let mut times = Vec::new();
            if self.counted {
                owed += rate;
                while owed >= 1.0 {
                    owed -= 1.0;
                    times.push(second as f64 + uniform(&mut rng));
                }
                times.sort_by(f64::total_cmp);
            } else if *rate > 0.0 {
                let mut at = exponential(&mut rng, 1.0 / rate);
                while at < 1.0 {
                    times.push(second as f64 + at);
                    at += exponential(&mut rng, 1.0 / rate);
                }
            }
            times
        };
        self.rates.iter().enumerate().map(second).collect()
    }

    /// The rates that somebody who knows the future staffs for: of counts, their mean around each second.
    pub(crate) fn known(&self, around: usize) -> Vec<f64> {
        if !self.counted {
            return self.rates.clone();
        }
        let mean = |second: usize| {
            let (from, to) = (second.saturating_sub(around), (second + around + 1).min(self.rates.len()));
            self.rates[from..to].iter().sum::<f64>() / (to - from) as f64
        };
        (0..self.rates.len()).map(mean).collect()
    }
}

/// Noise that wanders around 1 with the given deviation and forgets with a time constant of 20 s.
fn wander(rng: &mut Rng, deviation: f64) -> impl FnMut() -> f64 + use<> {
    let mut rng = Rng::from_seed(rng.next_u64());
    let kept: f64 = (-1.0f64 / 20.0).exp();
    let mut value = 0.0;
    move || {
        let normal = (0..12).map(|_| uniform(&mut rng)).sum::<f64>() - 6.0;
        value = kept * value + (1.0 - kept * kept).sqrt() * deviation * normal;
        (1.0 + value).max(0.1)
    }
}

/// Loads that change slowly enough to be followed.
pub(crate) fn smooth(seed: u64) -> Vec<Shape> {
    let mut rng = Rng::from_seed(seed);
    let (mut a, mut b, mut c) = (wander(&mut rng, 0.05), wander(&mut rng, 0.10), wander(&mut rng, 0.03));
    let day = |t: usize| (std::f64::consts::TAU * t as f64 / LENGTH as f64).sin();
    let burst = bursts(&mut rng, 300.0, 120.0, 90.0);
    vec![
        Shape::new("diurnal", |t| 100.0 * (1.0 + 0.6 * day(t)) * a()),
        Shape::new("noise", |_| 100.0 * b()),
        Shape::new("ramp", |t| (40.0 + 120.0 * t as f64 / LENGTH as f64) * c()),
        Shape::new("bursts", |t| 80.0 * (1.0 + 0.6 * burst[t])),
    ]
}

/// Loads that nobody who only looks back can follow.
pub(crate) fn hostile(seed: u64) -> Vec<Shape> {
    let mut rng = Rng::from_seed(seed ^ 0x5eed);
    let burst = bursts(&mut rng, 120.0, 25.0, 0.0);
    vec![
        Shape::new("step", |t| if (900..2400).contains(&t) { 100.0 } else { 20.0 }),
        Shape::new("spike", |t| if t % 600 >= 540 { 100.0 } else { 20.0 }),
        Shape::new("square", |t| if t % 300 < 150 { 80.0 } else { 20.0 }),
        Shape::new("very bursty", |t| 20.0 + 80.0 * burst[t]),
    ]
}

/// Bursts between 0 and 1 that come and go at random, with edges of so many seconds.
fn bursts(rng: &mut Rng, pause_s: f64, length_s: f64, edge_s: f64) -> Vec<f64> {
    let mut values = vec![0.0; LENGTH];
    let mut at = exponential(rng, pause_s);
    while at < LENGTH as f64 {
        let end = at + 2.0 * edge_s + exponential(rng, length_s);
        for (t, value) in values.iter_mut().enumerate() {
            let (since, left) = (t as f64 - at, end - t as f64);
            let height = if edge_s > 0.0 { (since / edge_s).min(left / edge_s).min(1.0) } else { 1.0 };
            if since >= 0.0 && left >= 0.0 {
                *value = f64::max(*value, height);
            }
        }
        at = end + exponential(rng, pause_s);
    }
    values
}
