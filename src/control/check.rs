//! The loop of one instance's health check: when to probe, what the outcomes add up to, whom to tell.
//!
//! While an instance starts, one passed probe opens its gate and the probes follow each other with growing pauses; later
//! `rise` and `fall` decide, every `interval` ± 10 %, faster while the outcomes change. Without a configured check the
//! gate is one TCP connection and the loop ends with it. `health.rs` starts and ends these loops.

use crate::clock;
use crate::control::history::History;
use crate::control::probe::{Prober, Target, attempt};
use crate::control::registry::{Handle, gate_port};
use crate::model::{
    HealthCheck, HealthState, Instance, InstanceId, InstanceState, Outcome, Probe, ServiceSpec, Source, Transition,
    Workload,
};
use crate::rng::Rng;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Pauses between the probes of a starting instance: the first, doubling, up to the last.
const STARTING: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(1000));

/// Spread of every pause, so that the checks of many instances do not meet.
const JITTER: f64 = 0.1;

/// Timing of the gate of a service that configures no check; a local connection takes microseconds.
const GATE: Timing =
    Timing { interval: Duration::from_secs(1), fast_interval: Duration::from_secs(1), rise: 1, fall: 3 };

/// The longest that the one connection of an unconfigured gate may take.
const GATE_TIMEOUT: Duration = Duration::from_secs(2);

/// When to probe, and what decides.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Timing {
    interval: Duration,
    fast_interval: Duration,
    rise: u32,
    fall: u32,
}

/// What an instance needs checked. Two equal plans are the same work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    target: Target,
    timing: Timing,
    /// Whether the loop ends with the first pass.
    pub(crate) gate_only: bool,
    /// Wait before the first probe: what was just started does not listen yet.
    delay: Duration,
    /// Tells registrations of one id apart.
    created_ms: u64,
}

impl Plan {
    /// Returns what to check of an instance now, or `None` when nothing is.
    pub(crate) fn of(instance: &Instance, spec: &ServiceSpec) -> Option<Self> {
        if instance.source == Source::Feed {
            // Whoever lists it checks it.
            return None;
        }
        let starting = instance.state == InstanceState::Starting;
        let is_container = matches!(instance.workload, Some(Workload::Container(_)));
        let container = is_container.then(|| instance.id.clone());
        let (target, timing) = match (instance.state, &spec.health) {
            (InstanceState::Draining | InstanceState::Gone, _) => return None,
            // The gate was opened; only a container may bring a check that goes on.
            (InstanceState::Ready, None) if !is_container => return None,
            (InstanceState::Starting | InstanceState::Ready, Some(check)) => configured(instance, spec, check)?,
            (InstanceState::Starting | InstanceState::Ready, None) => {
                let port = gate_port(spec, &instance.ports)?;
                let address = SocketAddr::new(instance.address, port);
                (
                    Target {
                        address,
                        probe: Probe::Tcp,
                        timeout: GATE_TIMEOUT,
                        tls: None,
                        tells: spec.streams.proxy_protocol,
                        container,
                    },
                    GATE,
                )
            }
        };
        let delay = if starting && instance.source == Source::Scheduler { STARTING.0 } else { Duration::ZERO };
        Some(Self { target, timing, gate_only: spec.health.is_none(), delay, created_ms: instance.created_ms })
    }

    /// Returns the plan with a pause before its first probe.
    pub(crate) fn later(self) -> Self {
        Self { delay: self.delay.max(STARTING.0), ..self }
    }

    /// Returns whether a loop that was started for `self` does the work of `other`: only the first wait may differ.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        *self == Self { delay: self.delay, ..other.clone() }
    }
}

fn configured(instance: &Instance, spec: &ServiceSpec, check: &HealthCheck) -> Option<(Target, Timing)> {
    let port = instance.ports.get(check.port).copied().filter(|&port| port != 0)?;
    let address = SocketAddr::new(instance.address, port);
    let (probe, timeout, tls) = (check.probe.clone(), check.timeout, spec.tls.clone());
    let target = Target { address, probe, timeout, tls, tells: spec.streams.proxy_protocol, container: None };
    let &HealthCheck { interval, fast_interval, rise, fall, .. } = check;
    Some((target, Timing { interval, fast_interval, rise, fall }))
}

/// What the loops of all instances share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) registry: Handle,
    pub(crate) prober: Arc<dyn Prober>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) history: History,
}

/// One instance's loop.
pub(crate) struct Check {
    id: InstanceId,
    plan: Plan,
    shared: Shared,
    /// Told to the supervisor: the gate was opened.
    opened: Arc<AtomicBool>,
    rng: Rng,
    health: HealthState,
    started: Instant,
    /// The next pause while starting; `None` once the gate is open.
    pause: Option<Duration>,
}

impl Check {
    /// Makes the loop of an instance; `opened` is set once its gate is open.
    pub(crate) fn new(instance: &Instance, plan: Plan, shared: Shared, opened: Arc<AtomicBool>, rng: Rng) -> Self {
        let health = HealthState::new(plan.timing.rise, plan.timing.fall);
        let pause = (instance.state == InstanceState::Starting).then_some(STARTING.0);
        Self { id: instance.id.clone(), plan, shared, opened, rng, health, started: clock::now(), pause }
    }

    /// Checks until the gate is open (if that is all), the instance is gone, or the task is ended.
    pub(crate) async fn run(mut self) {
        tokio::time::sleep(self.plan.delay).await;
        loop {
            let (outcome, reason) = self.probe().await;
            if let Some(transition) = self.observe(outcome) {
                self.shared.history.record(&self.id, transition, &reason);
                if self.shared.registry.report(&self.id, transition, &reason).await.is_err() {
                    // Gone, expired or the registry ended: nothing is left to check.
                    return;
                }
            }
            if outcome == Outcome::Pass && (self.pause.take().is_some() || self.plan.gate_only) {
                self.opened.store(true, Ordering::Release);
                if self.plan.gate_only && !self.shared.prober.goes_on(&self.plan.target) {
                    return;
                }
            }
            let pause = self.next_pause();
            tokio::time::sleep(pause).await;
        }
    }

    async fn probe(&self) -> (Outcome, String) {
        // Never closed, so this only waits.
        let _permit = self.shared.permits.acquire().await;
        match attempt(&*self.shared.prober, &self.plan.target).await {
            Ok(reason) => (Outcome::Pass, reason),
            Err(reason) => (Outcome::Fail, reason),
        }
    }

    fn observe(&mut self, outcome: Outcome) -> Option<Transition> {
        let Timing { interval, rise, fall, .. } = self.plan.timing;
        if self.pause.is_none() {
            return self.health.observe(outcome);
        }
        match outcome {
            // One pass is enough while starting, whatever failed before: `rise` counts only for recovery.
            Outcome::Pass => {
                let from = self.health.verdict();
                self.health = HealthState::new(rise, fall);
                self.health.observe(outcome).map(|transition| Transition { from, ..transition })
            }
            // The quick probes of the start are no evidence of illness until a settled instance would be called ill.
            Outcome::Fail if clock::now() - self.started < interval.saturating_mul(fall) => None,
            Outcome::Fail => self.health.observe(outcome),
        }
    }

    fn next_pause(&mut self) -> Duration {
        let pause = match self.pause {
            Some(pause) => {
                self.pause = Some((pause * 2).min(STARTING.1));
                pause
            }
            None if self.health.is_changing() => self.plan.timing.fast_interval,
            None => self.plan.timing.interval,
        };
        self.rng.jitter(pause, JITTER)
    }
}

#[cfg(test)]
mod tests {
    use super::Plan;
    use crate::control::registry::fixture::{check, spec};
    use crate::model::{
        HealthCheck, Instance, InstanceId, InstanceState, NodeId, PortSpec, Probe, Protocol, ServiceName, Source,
    };
    use std::time::Duration;

    fn instance(state: InstanceState, source: Source) -> Instance {
        let (id, service) = (InstanceId::parse("a").unwrap(), ServiceName::parse("web").unwrap());
        let node = NodeId::parse("here").unwrap();
        let plain = Instance::new(id, service, source, node, "127.0.0.1".parse().unwrap(), vec![8000, 9000]);
        Instance { state, ..plain }
    }

    #[test]
    fn a_starting_and_a_ready_instance_are_checked_as_configured() {
        let on_metrics = HealthCheck { port: 1, ..check() };
        for state in [InstanceState::Starting, InstanceState::Ready] {
            let plan = Plan::of(&instance(state, Source::File), &spec("web", Some(on_metrics.clone()))).unwrap();
            assert_eq!(plan.target.address.port(), 9000);
            assert_eq!((plan.gate_only, plan.delay), (false, Duration::ZERO));
        }
    }

    #[test]
    fn without_a_check_only_the_gate_is_tried_on_the_first_tcp_port() {
        let mut service = spec("web", None);
        service.ports[0] = PortSpec { protocol: Protocol::Udp, ..PortSpec::tcp("dns") };
        let plan = Plan::of(&instance(InstanceState::Starting, Source::Api), &service).unwrap();
        assert_eq!((plan.target.address.port(), plan.gate_only), (9000, true));
        assert_eq!(plan.target.probe, Probe::Tcp);
        assert_eq!(Plan::of(&instance(InstanceState::Ready, Source::Api), &service), None);
    }

    #[test]
    fn whoever_leaves_is_not_checked() {
        for state in [InstanceState::Draining, InstanceState::Gone] {
            assert_eq!(Plan::of(&instance(state, Source::Api), &spec("web", Some(check()))), None);
        }
    }

    #[test]
    fn a_plan_covers_the_same_work_only() {
        let starting = instance(InstanceState::Starting, Source::Scheduler);
        let ready = Instance { state: InstanceState::Ready, ..starting.clone() };
        let service = spec("web", Some(check()));
        let plan = Plan::of(&starting, &service).unwrap();
        assert_eq!(plan.delay, Duration::from_millis(50), "what was just started does not listen yet");
        assert!(plan.covers(&Plan::of(&ready, &service).unwrap()));
        let again = Instance { created_ms: 2, ..ready.clone() };
        let moved = Instance { ports: vec![8001, 9000], ..ready };
        for other in [again, moved] {
            assert!(!plan.covers(&Plan::of(&other, &service).unwrap()));
        }
    }
}
