//! `[service.scale]`: how the autoscaler sizes a service, as written and as used.

use crate::model;
use crate::spec::bounds::{bounded, positive};
use crate::spec::{Duration, Objective, Problems, Service};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time::Duration as Time;
use utoipa::ToSchema;

/// Requests that a replica of a scaled service serves at once when nothing is written: without a bound there is no queue,
/// and without a queue service time and waiting cannot be told apart.
pub(super) const CONCURRENCY: u32 = 16;
/// Bound of `max`: what the scheduler runs of one service on one node.
const REPLICAS: RangeInclusive<u32> = 1..=1000;
/// Bound of `min`: a service that nobody uses may have none.
const FEWEST: RangeInclusive<u32> = 0..=1000;
/// Bound of `target`.
const TARGET: RangeInclusive<u32> = 1..=1_000_000;
/// Default of `max`.
const MAX: u32 = 10;
/// Default of `stabilization_window`.
const WINDOW: Time = Time::from_secs(20);
/// Default of `max_stabilization_window`: that of the Kubernetes autoscaler.
const MAX_WINDOW: Time = Time::from_secs(300);
/// Longest window; beyond a day nothing scales down.
const LONGEST_WINDOW: Time = Time::from_secs(24 * 3600);
/// Default of `wake_timeout`.
const WAKE: Time = Time::from_secs(30);
/// Longest `wake_timeout`: what is held holds a connection.
const LONGEST_WAKE: Time = Time::from_secs(600);

/// How the autoscaler sizes a service. Needs `run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ScaleDefinition)]
pub struct Scale {
    /// Fewest replicas, 0 to 1000; default 1. With 0 a service that nobody uses has none; the next request or stream is
    /// held while one starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub min: Option<u32>,
    /// Most replicas, at least `min`, up to 1000; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u32>,
    /// What the number of replicas follows; default `objective`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ScalePolicy>,
    /// Response time to hold, queueing included; default `p99 < 500ms`. Must leave room above the time of service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<Objective>,
    /// For the policies `concurrency` (requests in service per replica; 70 % of `limits.concurrency` when absent) and
    /// `requests-per-second` (per replica; required there), from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub target: Option<u32>,
    /// Shortest time that a high recommendation holds before replicas are taken away; default `20s`. Twice the measured
    /// cold start where that is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stabilization_window: Option<Duration>,
    /// Longest such time: it grows when queues follow soon after replicas were taken away; default `5m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stabilization_window: Option<Duration>,
    /// Only with `min = 0`: time without use after which the last replica goes. When absent it is learned from the pauses
    /// that there were: at least the stabilization window, at most ten minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_after: Option<Duration>,
    /// Only with `min = 0`: longest time that a request or stream is held until a replica serves; then 503, or a reset;
    /// default `30s`, up to `10m`. How many are held at a time is `limits.queue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wake_timeout: Option<Duration>,
}

/// What the number of replicas follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScalePolicy {
    /// The latency objective: staffing for the forecast arrivals by the measured time of service.
    Objective,
    /// Requests in service per replica, on average over a minute.
    Concurrency,
    /// Requests per second and replica, on average over a minute.
    RequestsPerSecond,
}

impl Service {
    /// Reads how it is scaled, and the replicas to begin with.
    pub(super) fn read_scale(&self, p: &mut Problems) -> Option<model::ScaleSpec> {
        let scale = self.scale.as_ref()?;
        if self.run.is_none() {
            p.add("scale", "needs [service.run]", "add how replicas are run, or remove [service.scale]");
        }
        let min = bounded(p, "scale.min", scale.min, 1, &FEWEST);
        let max = bounded(p, "scale.max", scale.max, MAX.max(min), &REPLICAS);
        if min > max && REPLICAS.contains(&max) {
            p.add("scale.max", format!("{max} is below min {min}"), "raise max or lower min");
        }
        if let Some(replicas) = self.replicas.filter(|replicas| max >= min && !(min..=max).contains(replicas)) {
            let first = min.max(1);
            let hint = format!("it is the number to begin with: write {min} to {max}, or leave it out for {first}");
            p.add("replicas", format!("{replicas} is outside scale.min {min} to scale.max {max}"), hint);
        }
        let (window, max_window) = read_windows(p, scale);
        let (zero_after, wake_timeout) = self.read_zero(p, scale, min);
        Some(model::ScaleSpec {
            min,
            max,
            policy: self.read_scale_policy(p, scale),
            objective: read_objective(scale.objective.unwrap_or_default()),
            stabilization_window: window,
            max_stabilization_window: max_window,
            zero_after,
            wake_timeout,
        })
    }

    /// Reads what only a service that may have no replica needs.
    fn read_zero(&self, p: &mut Problems, scale: &Scale, min: u32) -> (Option<Time>, Time) {
        for (key, value) in [("scale.zero_after", scale.zero_after), ("scale.wake_timeout", scale.wake_timeout)] {
            if min > 0 && value.is_some() {
                p.add(key, format!("has no meaning with min {min}"), "remove it, or write min = 0");
            }
        }
        if min == 0 && self.limits.as_ref().is_some_and(|limits| limits.queue == Some(0)) {
            let hint = "a request that comes while there is no replica waits there: write 1 or more, or scale.min = 1";
            p.add("limits.queue", "is 0 with scale.min 0", hint);
        }
        if scale.zero_after.is_some_and(|after| after.get() > LONGEST_WINDOW) {
            p.add("scale.zero_after", "is longer than 1d", "write scale.min = 1 to keep a replica");
        }
        if scale.wake_timeout.is_some_and(|timeout| timeout.get() > LONGEST_WAKE) {
            p.add("scale.wake_timeout", "is longer than 10m", "who waits for so long has left");
        }
        if scale.zero_after.is_some_and(|after| after.get().is_zero()) {
            p.add("scale.zero_after", "is zero", "write a time above zero, or leave it out: then it is learned");
        }
        (scale.zero_after.map(Duration::get), positive(p, "scale.wake_timeout", scale.wake_timeout, WAKE))
    }

    fn read_scale_policy(&self, p: &mut Problems, scale: &Scale) -> model::ScalePolicy {
        match scale.policy.unwrap_or(ScalePolicy::Objective) {
            ScalePolicy::Objective => {
                if scale.target.is_some() {
                    let hint = "the policy \"objective\" follows scale.objective: remove target, or write \
                                policy = \"concurrency\" or \"requests-per-second\"";
                    p.add("scale.target", "has no meaning for this policy", hint);
                }
                model::ScalePolicy::Objective
            }
            ScalePolicy::Concurrency => {
                let limit = self.limits.as_ref().and_then(|limits| limits.concurrency).unwrap_or(CONCURRENCY);
                let default = (u64::from(limit) * 7).div_ceil(10);
                let default = u32::try_from(default).unwrap_or(limit);
                let target = bounded(p, "scale.target", scale.target, default.max(1), &TARGET);
                if target > limit && limit > 0 {
                    let hint = "a replica never serves more at once: lower target or raise limits.concurrency";
                    p.add("scale.target", format!("{target} is above limits.concurrency {limit}"), hint);
                }
                model::ScalePolicy::Concurrency { target }
            }
            ScalePolicy::RequestsPerSecond => {
                if scale.target.is_none() {
                    p.absent("scale.target", "add the requests per second that one replica is to serve");
                }
                let target = bounded(p, "scale.target", scale.target, 1, &TARGET);
                model::ScalePolicy::RequestsPerSecond { target }
            }
        }
    }
}

fn read_windows(p: &mut Problems, scale: &Scale) -> (Time, Time) {
    let longest = scale.max_stabilization_window.map_or(MAX_WINDOW, Duration::get);
    let window = scale.stabilization_window.map_or_else(|| WINDOW.min(longest), Duration::get);
    let longest = if scale.max_stabilization_window.is_none() { longest.max(window) } else { longest };
    positive(p, "scale.stabilization_window", scale.stabilization_window, WINDOW);
    for (key, value) in [
        ("scale.stabilization_window", scale.stabilization_window),
        ("scale.max_stabilization_window", scale.max_stabilization_window),
    ] {
        if value.is_some_and(|value| value.get() > LONGEST_WINDOW) {
            p.add(key, "is longer than 1d", "nothing would ever scale down: \"5m\" is the default of the longest");
        }
    }
    if window > longest {
        let (window, longest) = (Duration::new(window), Duration::new(longest));
        let message = format!("{window} is above max_stabilization_window {longest}");
        p.add("scale.stabilization_window", message, "lower it or raise max_stabilization_window");
    }
    (window, longest)
}

fn read_objective(objective: Objective) -> model::Objective {
    model::Objective { quantile_ppm: objective.quantile_ppm(), latency: objective.latency() }
}

/// Writes out how a service in use is scaled.
pub(super) fn write_scale(scale: &model::ScaleSpec) -> Scale {
    let (policy, target) = match scale.policy {
        model::ScalePolicy::Objective => (ScalePolicy::Objective, None),
        model::ScalePolicy::Concurrency { target } => (ScalePolicy::Concurrency, Some(target)),
        model::ScalePolicy::RequestsPerSecond { target } => (ScalePolicy::RequestsPerSecond, Some(target)),
    };
    Scale {
        min: Some(scale.min),
        max: Some(scale.max),
        policy: Some(policy),
        objective: Some(Objective::new(scale.objective.quantile_ppm, scale.objective.latency)),
        target,
        stabilization_window: Some(scale.stabilization_window.into()),
        max_stabilization_window: Some(scale.max_stabilization_window.into()),
        zero_after: scale.zero_after.filter(|_| scale.min == 0).map(Into::into),
        wake_timeout: (scale.min == 0).then(|| scale.wake_timeout.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Scale, ScalePolicy};
    use crate::model;
    use crate::spec::{Limits, Run, Service};
    use std::time::Duration;

    fn scaled(scale: Scale) -> Service {
        let run = Run { command: vec!["app".to_owned()], ..Run::default() };
        Service { name: Some("web".to_owned()), run: Some(run), scale: Some(scale), ..Service::default() }
    }

    fn said(service: &Service) -> Vec<String> {
        service.to_model().unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_empty_section_is_every_default_and_bounds_concurrency() {
        let spec = scaled(Scale::default()).to_model().unwrap();
        let scale = spec.scale.unwrap();
        assert_eq!((scale.min, scale.max, scale.policy), (1, 10, model::ScalePolicy::Objective));
        assert_eq!((scale.objective.quantile_ppm, scale.objective.latency), (990_000, Duration::from_millis(500)));
        let windows = (scale.stabilization_window, scale.max_stabilization_window);
        assert_eq!(windows, (Duration::from_secs(20), Duration::from_secs(300)));
        assert_eq!((spec.replicas, spec.limits.concurrency), (1, Some(16)));
    }

    #[test]
    fn the_number_to_begin_with_is_the_fewest_unless_written() {
        let service = scaled(Scale { min: Some(3), ..Scale::default() });
        assert_eq!(service.to_model().unwrap().replicas, 3);
        let service = Service { replicas: Some(5), ..service };
        assert_eq!(service.to_model().unwrap().replicas, 5);
        let service = Service { replicas: Some(2), ..service };
        assert_eq!(said(&service), ["replicas: 2 is outside scale.min 3 to scale.max 10"]);
    }

    #[test]
    fn contradictory_bounds_are_refused() {
        let bounds = |min, max| said(&scaled(Scale { min, max, ..Scale::default() }));
        assert_eq!(bounds(Some(5), Some(3)), ["scale.max: 3 is below min 5"]);
        assert_eq!(bounds(None, Some(0)), ["scale.max: is 0"]);
        assert_eq!(bounds(Some(2000), Some(3000)), ["scale.min: is 2000", "scale.max: is 3000"]);
        let service = Service { run: None, ..scaled(Scale::default()) };
        assert_eq!(said(&service), ["scale: needs [service.run]"]);
        let text = |text: &str| Some(text.parse().unwrap());
        let windows =
            |one, other| Scale { stabilization_window: one, max_stabilization_window: other, ..Scale::default() };
        assert_eq!(
            said(&scaled(windows(text("10m"), text("5m")))),
            ["scale.stabilization_window: 10m is above max_stabilization_window 5m"]
        );
        assert!(scaled(windows(text("10m"), None)).to_model().is_ok(), "the longest follows");
        assert!(scaled(windows(None, text("5s"))).to_model().is_ok(), "the shortest follows");
    }

    #[test]
    fn a_service_that_may_have_none_begins_with_one() {
        let zero = |scale: Scale| scaled(Scale { min: Some(0), ..scale });
        let spec = zero(Scale::default()).to_model().unwrap();
        let scale = spec.scale.clone().unwrap();
        assert!(spec.scales_to_zero());
        assert_eq!((spec.replicas, scale.min, scale.max), (1, 0, 10));
        assert_eq!((scale.zero_after, scale.wake_timeout), (None, Duration::from_secs(30)));
        assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
        let text = |text: &str| Some(text.parse().unwrap());
        let written = zero(Scale { zero_after: text("5m"), wake_timeout: text("1m"), ..Scale::default() });
        let spec = Service { replicas: Some(0), ..written }.to_model().unwrap();
        let scale = spec.scale.clone().unwrap();
        let expected = (0, Some(Duration::from_secs(300)), Duration::from_secs(60));
        assert_eq!((spec.replicas, scale.zero_after, scale.wake_timeout), expected);
        assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
    }

    #[test]
    fn what_belongs_to_zero_is_refused_elsewhere() {
        let text = |text: &str| Some(text.parse().unwrap());
        let written = Scale { zero_after: text("5m"), wake_timeout: text("1m"), ..Scale::default() };
        let expected = ["scale.zero_after: has no meaning with min 1", "scale.wake_timeout: has no meaning with min 1"];
        assert_eq!(said(&scaled(written)), expected);
        let long = Scale { min: Some(0), zero_after: text("25h"), wake_timeout: text("11m"), ..Scale::default() };
        assert_eq!(
            said(&scaled(long)),
            ["scale.zero_after: is longer than 1d", "scale.wake_timeout: is longer than 10m"]
        );
        let zero = Scale { min: Some(0), zero_after: text("0s"), wake_timeout: text("0s"), ..Scale::default() };
        assert_eq!(said(&scaled(zero)), ["scale.zero_after: is zero", "scale.wake_timeout: is zero"]);
        let limits = Limits { queue: Some(0), ..Limits::default() };
        let deaf = Service { limits: Some(limits), ..scaled(Scale { min: Some(0), ..Scale::default() }) };
        assert_eq!(said(&deaf), ["limits.queue: is 0 with scale.min 0"]);
    }

    #[test]
    fn targets_belong_to_their_policies() {
        let with = |policy, target| scaled(Scale { policy: Some(policy), target, ..Scale::default() });
        let policy = |service: &Service| service.to_model().unwrap().scale.unwrap().policy;
        assert_eq!(policy(&with(ScalePolicy::Concurrency, None)), model::ScalePolicy::Concurrency { target: 12 });
        assert_eq!(said(&with(ScalePolicy::RequestsPerSecond, None)), ["scale.target: is missing"]);
        assert_eq!(said(&with(ScalePolicy::Objective, Some(3))), ["scale.target: has no meaning for this policy"]);
        let limits = Limits { concurrency: Some(4), ..Limits::default() };
        let service = Service { limits: Some(limits), ..with(ScalePolicy::Concurrency, Some(5)) };
        assert_eq!(said(&service), ["scale.target: 5 is above limits.concurrency 4"]);
    }

    #[test]
    fn what_is_written_out_reads_as_the_same() {
        for (policy, target) in [(ScalePolicy::Objective, None), (ScalePolicy::Concurrency, Some(3))] {
            let spec = scaled(Scale { policy: Some(policy), target, ..Scale::default() }).to_model().unwrap();
            assert_eq!(Service::from_model(&spec).to_model().unwrap(), spec);
        }
    }
}
