//! From load to a number of replicas: staffing for the forecast, room for the backlog, an error budget, a window.
//!
//! [`Scaler`] is the state of one service and [`Scaler::recommend`] its only step: pure, with the time as an argument. It
//! keeps apart what proportional rules mix up: the arrivals, which do not depend on how many replicas there are, size the
//! service; the queue only adds what works it off. So nothing winds up while replicas start.

use crate::control::autoscale::budget::Budget;
use crate::control::autoscale::forecast::Forecast;
use crate::control::autoscale::held::Falls;
use crate::control::autoscale::idle::{Idle, Keep};
use crate::control::autoscale::load::{Fleet, Load};
use crate::control::autoscale::service_time::ServiceTime;
use crate::control::autoscale::stabilize::Stabilizer;
use crate::control::autoscale::staffing::{Demand, staff};
use crate::model::{ScalePolicy, ScaleSpec};

/// Share of the requests that the objective lets be late which waiting may use up; the rest is for what no model sees.
const STAFFED_SHARE: f64 = 0.4;
/// Share of it that the error budget grants before the scaler grows careful.
const BUDGET_SHARE: f64 = 0.5;
/// Headroom for forecast errors at most, as a part of the forecast; more only up to what was seen, while the budget is
/// overspent.
const HEADROOM: f64 = 0.35;
/// ... and while it is overspent, so much of the highest rate that was seen.
const AGAIN: f64 = 1.5;
/// Standard deviations of forecast errors that are staffed for.
const Z: f64 = 1.5;
/// Most that bad experience adds to it, and how much each adds.
const MAX_Z_EXTRA: f64 = 2.0;
const Z_STEP: f64 = 0.25;
/// An order serves after the cold start; this much of it and a moment more are looked ahead.
const AHEAD_FACTOR: f64 = 1.1;
const AHEAD_S: f64 = 2.0;
/// The backlog is to be gone in this part of the cold start, or in the slack of the objective when that is longer; faster
/// than this the number follows no queue, seconds.
const DRAIN_FACTOR: f64 = 0.6;
const MIN_DRAIN_S: f64 = 1.0;
/// The window spans at least so many cold starts.
const WINDOW_FACTOR: f64 = 1.0;
/// A queue so soon after taking replicas away was caused by that, seconds.
const BLAME_S: f64 = 600.0;
/// ... if what was taken away covers so much of what is needed.
const BLAME_SHARE: f64 = 1.0;
/// While less than this part of the budget is spent it grows bolder: so much less of z and of the window each second.
const UNDERSPENT: f64 = 0.8;
const Z_FADE_PER_S: f64 = 0.000_5;
const WINDOW_FADE_PER_S: f64 = 0.004;
/// Most that good experience takes from z.
const MIN_Z_EXTRA: f64 = 0.5;
/// Standard deviations of the newest rate that are no chance while a load is held.
const SURPRISE: f64 = 2.5;
/// Samples further apart say nothing: the recommendation holds, seconds.
const SILENCE_S: f64 = 5.0;
/// With so much of the slots busy, more in service than the estimate explains and no queue, the estimate is stale.
const STALE_UTILIZATION: f64 = 0.9;
const STALE_EXCESS: f64 = 1.2;
const STALE_FACTOR: f64 = 1.2;
/// Averages of the plain policies, seconds: the steady one, and the quick one that counts when it is twice as high.
const STEADY_S: f64 = 60.0;
const QUICK_S: f64 = 6.0;

/// Why a number of replicas is recommended: the term that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Because {
    /// The forecast arrivals need so many to hold the objective.
    Forecast,
    /// The queue needs so many to be worked off in time.
    Backlog,
    /// More were needed within the stabilization window, or when fewer were last tried under the load that is held.
    Window,
    /// The target of a plain policy.
    Target,
    /// `scale.min`.
    Min,
    /// `scale.max`.
    Max,
    /// Nobody has used it for long enough.
    Idle,
    /// Something waits while there is no replica.
    Wake,
    /// Nobody waits yet, but pauses usually end about now.
    Expected,
    /// Too little is known: nothing was served yet, or samples stayed away.
    Hold,
}

impl Because {
    /// Returns the word for events and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forecast => "forecast",
            Self::Backlog => "backlog",
            Self::Window => "window",
            Self::Target => "target",
            Self::Min => "min",
            Self::Max => "max",
            Self::Idle => "idle",
            Self::Wake => "wake",
            Self::Expected => "expected",
            Self::Hold => "hold",
        }
    }
}

/// A number of replicas with everything that led to it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recommendation {
    /// Replicas to want.
    pub replicas: u32,
    /// The term that decided.
    pub because: Because,
    /// Newest arrivals per second.
    pub rate: f64,
    /// Highest arrivals per second that are forecast until an order serves.
    pub forecast: f64,
    /// By how much such forecasts were off.
    pub sigma: f64,
    /// How many of those are staffed for.
    pub z: f64,
    /// Arrivals per second that are staffed for.
    pub staffed_rate: f64,
    /// Mean time in service, seconds; 0 while unknown.
    pub service_s: f64,
    /// Its coefficient of variation.
    pub cv: f64,
    /// Requests in service.
    pub in_service: u32,
    /// Requests that waited.
    pub queued: u32,
    /// The cold start that was reckoned with, seconds.
    pub cold_start_s: f64,
    /// Replicas by the forecast, or by the target of a plain policy.
    pub by_forecast: u32,
    /// Replicas by the backlog; 0 without a queue.
    pub by_backlog: u32,
    /// Highest of both within the window.
    pub by_window: u32,
    /// The stabilization window, seconds.
    pub window_s: f64,
    /// Share of the requests of the last half hour that were late.
    pub late_share: f64,
    /// For how long nobody has used it, seconds.
    pub idle_s: f64,
    /// After so long the last replica goes, seconds; `None`: it never does.
    pub zero_after_s: Option<f64>,
}

/// The state of one service.
#[derive(Debug, Clone)]
pub struct Scaler {
    forecast: Forecast,
    service: ServiceTime,
    stabilizer: Stabilizer,
    falls: Falls,
    budget: Budget,
    /// Averages for the plain policies: steady, quick.
    averages: Option<(f64, f64)>,
    idle: Idle,
    /// What experience made of the window, seconds; at least that of the definition.
    window_s: Option<f64>,
    z_extra: f64,
    /// When it last recommended fewer than before, and from how many it fell since it last rose.
    fell: Option<(u64, u32)>,
    /// Whether the queue is too long.
    in_trouble: bool,
    last: u32,
    /// Replicas by the newest terms, without window and bounds.
    needed: u32,
}

impl Scaler {
    /// Begins with what is wanted now, which holds for a window; a service that may have none counts as used now.
    pub fn new(spec: &ScaleSpec, wanted: u32, now_ms: u64) -> Self {
        let wanted = wanted.clamp(spec.min, spec.max);
        let longest_ms = u64::try_from(spec.max_stabilization_window.as_millis()).unwrap_or(u64::MAX);
        let mut stabilizer = Stabilizer::new(longest_ms);
        stabilizer.settle(wanted, 0, now_ms);
        Self {
            forecast: Forecast::new(),
            service: ServiceTime::default(),
            stabilizer,
            falls: Falls::default(),
            budget: Budget::default(),
            averages: None,
            idle: Idle::new(now_ms),
            window_s: None,
            z_extra: 0.0,
            fell: None,
            in_trouble: false,
            last: wanted,
            needed: 0,
        }
    }

    /// Takes a sample and says how many replicas are to be wanted.
    pub fn recommend(&mut self, spec: &ScaleSpec, load: &Load, fleet: &Fleet, now_ms: u64) -> Recommendation {
        let known = load.elapsed_s > 0.0 && load.elapsed_s <= SILENCE_S;
        if known {
            let horizon_s = AHEAD_FACTOR * fleet.cold_start_s + AHEAD_S;
            let slack_s = slack_s(spec, self.service.mean_s().unwrap_or(0.0));
            self.forecast.observe(load.arrivals, load.elapsed_s, horizon_s, slack_s);
            self.service.observe(load);
            self.budget.count(load.late, load.ended, now_ms);
        }
        let service_s = self.service_s(load, fleet);
        self.learn(spec, load, fleet, service_s, now_ms);
        let (sigma, z) = (self.forecast.sigma(), Z + self.z_extra);
        let recent = self.forecast.recent();
        let (forecast, expected) = self.expected(recent, sigma);
        // While the budget holds, one great surprise is no reason to expect the next: the window keeps what it needed. Else
        // it may come again, but no greater.
        let again = if self.spent(spec) > 1.0 { AGAIN * self.forecast.highest() - expected } else { 0.0 };
        let staffed_rate = expected + (z * sigma).min(again.max(HEADROOM * expected));
        let mut made = Recommendation {
            replicas: self.last,
            because: Because::Hold,
            rate: recent,
            forecast,
            sigma,
            z,
            staffed_rate,
            service_s: service_s.unwrap_or(0.0),
            cv: self.service.cv(),
            in_service: load.in_service,
            queued: load.queued,
            cold_start_s: fleet.cold_start_s,
            by_forecast: 0,
            by_backlog: 0,
            by_window: self.last,
            window_s: self.window(spec, fleet),
            late_share: self.budget.late_share(),
            idle_s: 0.0,
            zero_after_s: None,
        };
        let keep = self.keep(spec, load, &mut made, now_ms);
        if known {
            self.size(spec, load, fleet, &mut made);
            self.settle(spec, &mut made, now_ms);
        }
        self.rest(load, keep, &mut made);
        self.fall(made.replicas, now_ms);
        made
    }

    /// The highest arrivals per second that are forecast, and what is expected beside what came in the last seconds.
    fn expected(&self, recent: f64, sigma: f64) -> (f64, f64) {
        let peak = self.forecast.peak();
        match self.forecast.held().filter(|held| held.explains(peak)) {
            None => (peak, peak.max(recent - sigma)),
            Some(held) => {
                let chance = SURPRISE * self.forecast.recent_scatter(held.mean);
                (held.mean, held.mean.max(recent - sigma.max(chance)))
            }
        }
    }

    /// The mean time in service, raised where more is in service than it explains.
    fn service_s(&self, load: &Load, fleet: &Fleet) -> Option<f64> {
        let mean = self.service.mean_s()?;
        let (busy, slots) = (f64::from(load.in_service), f64::from(fleet.ready) * f64::from(fleet.slots));
        let explained = self.forecast.recent() * mean;
        let is_stale = load.queued == 0
            && slots > 0.0
            && busy > STALE_UTILIZATION * slots
            && busy > STALE_EXCESS * explained + explained.sqrt();
        Some(if is_stale { STALE_FACTOR * mean } else { mean })
    }

    /// Computes each term.
    fn size(&mut self, spec: &ScaleSpec, load: &Load, fleet: &Fleet, made: &mut Recommendation) {
        let slots = f64::from(fleet.slots.max(1));
        match spec.policy {
            ScalePolicy::Objective => {
                if made.service_s <= 0.0 {
                    // Nothing was ever served: what is there is the best guess of what is to be served at once.
                    made.by_backlog = ceil((f64::from(load.in_service) + f64::from(load.queued)) / slots);
                    return;
                }
                let demand = Demand {
                    rate: made.staffed_rate,
                    service_s: made.service_s,
                    cv: made.cv,
                    wait_s: slack_s(spec, made.service_s),
                    late_share: STAFFED_SHARE * late_share(spec),
                };
                made.by_forecast = staff(&demand, fleet.slots, spec.max.saturating_add(1));
            }
            ScalePolicy::Concurrency { target } => {
                made.by_forecast = self.by_target(f64::from(load.in_service), load.elapsed_s, target, fleet);
            }
            ScalePolicy::RequestsPerSecond { target } => {
                made.by_forecast = self.by_target(load.arrivals / load.elapsed_s, load.elapsed_s, target, fleet);
            }
        }
        if load.queued > 0 && made.service_s > 0.0 {
            let drain_s = (DRAIN_FACTOR * fleet.cold_start_s).max(slack_s(spec, made.service_s)).max(MIN_DRAIN_S);
            let rate = made.forecast.max(made.rate - made.sigma);
            let busy = (rate + f64::from(load.queued) / drain_s) * made.service_s;
            made.by_backlog = ceil(busy / slots);
        }
    }

    /// The number for a plain target.
    fn by_target(&mut self, value: f64, elapsed_s: f64, target: u32, fleet: &Fleet) -> u32 {
        let (steady, quick) = self.averages.get_or_insert((value, value));
        *steady += (1.0 - (-elapsed_s / STEADY_S).exp()) * (value - *steady);
        *quick += (1.0 - (-elapsed_s / QUICK_S).exp()) * (value - *quick);
        let target = f64::from(target.max(1));
        let is_urgent = *quick / target >= 2.0 * f64::from(fleet.ready.max(1));
        ceil(if is_urgent { steady.max(*quick) } else { *steady } / target)
    }

    /// Applies window and bounds.
    fn settle(&mut self, spec: &ScaleSpec, made: &mut Recommendation, now_ms: u64) {
        let asked = made.by_forecast.max(made.by_backlog);
        self.needed = asked;
        made.by_window = self.stabilizer.settle(asked, (made.window_s * 1000.0) as u64, now_ms);
        made.by_window = self.falls.settle((self.last, asked, made.by_window), self.forecast.held(), now_ms);
        let (replicas, because) = if made.by_window > asked {
            (made.by_window, Because::Window)
        } else if made.by_backlog > made.by_forecast {
            (asked, Because::Backlog)
        } else if spec.policy == ScalePolicy::Objective {
            (asked, Because::Forecast)
        } else {
            (asked, Because::Target)
        };
        (made.replicas, made.because) = if replicas > spec.max {
            (spec.max, Because::Max)
        } else if replicas < spec.min {
            (spec.min, Because::Min)
        } else {
            (replicas, because)
        };
    }

    /// Notes the number, and a fall.
    fn fall(&mut self, replicas: u32, now_ms: u64) {
        if replicas < self.last {
            let recent = self.fell.filter(|(at, _)| now_ms.saturating_sub(*at) as f64 <= BLAME_S * 1000.0);
            self.fell = Some((now_ms, recent.map_or(self.last, |(_, from)| from.max(self.last))));
        }
        self.last = replicas;
    }

    /// Notes whether a service that may have no replica is used, and returns how long one is kept; `None` for others.
    fn keep(&mut self, spec: &ScaleSpec, load: &Load, made: &mut Recommendation, now_ms: u64) -> Option<Keep> {
        if spec.min > 0 {
            return None;
        }
        if load.is_used() {
            self.idle.used(made.window_s, now_ms);
        }
        let ahead_s = AHEAD_FACTOR * made.cold_start_s + AHEAD_S;
        let keep = match spec.zero_after {
            Some(after) => Keep { for_s: after.as_secs_f64(), again_s: None },
            None => self.idle.keep(made.window_s, ahead_s),
        };
        (made.idle_s, made.zero_after_s) = (self.idle.idle_s(now_ms), Some(keep.for_s));
        Some(keep)
    }

    /// Takes the last replica away from a service that rests, and gives one back to it when something waits or is expected.
    fn rest(&self, load: &Load, keep: Option<Keep>, made: &mut Recommendation) {
        let Some(keep) = keep else { return };
        if self.last == 0 && load.queued > 0 {
            // Even while nothing else is known.
            (made.replicas, made.because) = (made.replicas.max(1), Because::Wake);
            return;
        }
        // All but the last go by forecast and window before.
        if made.because == Because::Hold || made.replicas > 1 {
            return;
        }
        if keep.rests(made.idle_s) {
            (made.replicas, made.because) = (0, Because::Idle);
        } else if made.replicas == 0 || self.last == 0 {
            let because = if made.idle_s >= keep.for_s { Because::Expected } else { Because::Window };
            (made.replicas, made.because) = (1, because);
        }
    }

    /// The window in force, seconds.
    fn window(&self, spec: &ScaleSpec, fleet: &Fleet) -> f64 {
        let first = WINDOW_FACTOR * fleet.cold_start_s;
        let (shortest, longest) =
            (spec.stabilization_window.as_secs_f64(), spec.max_stabilization_window.as_secs_f64());
        self.window_s.unwrap_or(first).max(shortest).min(longest)
    }

    /// Learns from the error budget: grows careful when queues appear while it is overspent, and bolder while hardly any
    /// of it is spent.
    fn learn(&mut self, spec: &ScaleSpec, load: &Load, fleet: &Fleet, service_s: Option<f64>, now_ms: u64) {
        let slots = f64::from(fleet.ready.max(1)) * f64::from(fleet.slots.max(1));
        let service_s = service_s.unwrap_or(0.0);
        let wait_s = f64::from(load.queued) * service_s / slots;
        let is_trouble = load.queued > 0 && wait_s > slack_s(spec, service_s) / 2.0;
        let spent = self.spent(spec);
        if is_trouble && !self.in_trouble && spent > 1.0 {
            self.z_extra = (self.z_extra.max(0.0) + Z_STEP).min(MAX_Z_EXTRA);
            self.blame(spec, fleet, now_ms);
        }
        if spent < UNDERSPENT {
            let elapsed_s = load.elapsed_s.min(SILENCE_S);
            self.z_extra = (self.z_extra - Z_FADE_PER_S * elapsed_s).max(-MIN_Z_EXTRA);
            self.window_s = Some(self.window(spec, fleet) * (1.0 - WINDOW_FADE_PER_S * elapsed_s));
        }
        self.in_trouble = is_trouble;
    }

    /// How much of the error budget is spent; above 1 it is overspent.
    fn spent(&self, spec: &ScaleSpec) -> f64 {
        self.budget.late_share() / (BUDGET_SHARE * late_share(spec))
    }

    /// Lengthens the window when the last fall is recent.
    fn blame(&mut self, spec: &ScaleSpec, fleet: &Fleet, now_ms: u64) {
        let Some((fell_ms, from)) = self.fell else { return };
        let since_s = now_ms.saturating_sub(fell_ms) as f64 / 1000.0;
        // What was taken away would not have been enough: the load is a new one, and no window would have kept them.
        let helps = f64::from(from) * BLAME_SHARE >= f64::from(self.needed);
        if since_s <= BLAME_S && helps {
            let window_s = self.window(spec, fleet);
            let longer = (2.0 * window_s).max(1.25 * (since_s + window_s) + fleet.cold_start_s);
            self.window_s = Some(longer.min(spec.max_stabilization_window.as_secs_f64()));
        }
    }
}

/// The wait that leaves room for twice the mean time in service, seconds.
fn slack_s(spec: &ScaleSpec, service_s: f64) -> f64 {
    (spec.objective.latency.as_secs_f64() - 2.0 * service_s).max(0.0)
}

/// The share of requests that the objective lets be late.
fn late_share(spec: &ScaleSpec) -> f64 {
    f64::from(1_000_000 - spec.objective.quantile_ppm.min(999_999)) / 1e6
}

fn ceil(replicas: f64) -> u32 {
    // A hair above a whole number is that number.
    (replicas - 1e-9).ceil().max(0.0) as u32
}
