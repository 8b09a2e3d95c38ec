//! The step as a whole: bounds, silence, first requests, cost of a decision, size of the state.

use crate::control::autoscale::cold_start::ColdStart;
use crate::control::autoscale::load::{Fleet, Load};
use crate::control::autoscale::policy::{Because, Recommendation, Scaler};
use crate::control::autoscale::sample::Reading;
use crate::model::{Objective, ScalePolicy, ScaleSpec};
use std::time::Duration;

const START_MS: u64 = 1_000_000;

fn spec(min: u32, max: u32, policy: ScalePolicy) -> ScaleSpec {
    ScaleSpec {
        min,
        max,
        policy,
        objective: Objective { quantile_ppm: 990_000, latency: Duration::from_millis(500) },
        stabilization_window: Duration::from_secs(20),
        max_stabilization_window: Duration::from_secs(300),
        zero_after: None,
        wake_timeout: Duration::from_secs(30),
    }
}

/// One second in which `rate` requests of 100 ms each came and were served.
fn second(rate: f64) -> Load {
    let (served, service_s) = (rate, 0.1);
    Load {
        elapsed_s: 1.0,
        arrivals: rate,
        served,
        service_s: served * service_s,
        service_s2: 2.0 * served * service_s * service_s,
        ended: rate,
        in_service: (rate * service_s) as u32,
        ..Load::default()
    }
}

fn fleet(wanted: u32, slots: u32) -> Fleet {
    Fleet { wanted, ready: wanted, slots, cold_start_s: 5.0 }
}

/// Feeds so many seconds; returns the last recommendation.
fn feed(scaler: &mut Scaler, spec: &ScaleSpec, load: Load, seconds: std::ops::Range<u64>) -> (u32, Because) {
    let mut last = (0, Because::Hold);
    for at in seconds {
        let made = scaler.recommend(spec, &load, &fleet(last.0.max(1), 1), START_MS + at * 1000);
        assert!((spec.min..=spec.max).contains(&made.replicas), "{made:?}");
        last = (made.replicas, made.because);
    }
    last
}

#[test]
fn a_steady_load_gets_what_erlang_says_and_a_little() {
    let spec = spec(1, 100, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 1, START_MS);
    let (replicas, because) = feed(&mut scaler, &spec, second(100.0), 1..120);
    assert!((11..=16).contains(&replicas), "{replicas}");
    assert!(matches!(because, Because::Forecast | Because::Window));
}

#[test]
fn a_step_is_answered_by_the_next_sample() {
    let spec = spec(1, 100, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 1, START_MS);
    let (before, _) = feed(&mut scaler, &spec, second(20.0), 1..120);
    let (after, _) = feed(&mut scaler, &spec, second(100.0), 120..121);
    assert!(after > before, "{before} to {after}");
    let (soon, _) = feed(&mut scaler, &spec, second(100.0), 121..124);
    assert!(soon >= 10, "{soon}");
}

#[test]
fn bounds_hold_and_say_so() {
    let spec = spec(3, 5, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 3, START_MS);
    assert_eq!(feed(&mut scaler, &spec, second(0.0), 1..60), (3, Because::Min));
    assert_eq!(feed(&mut scaler, &spec, second(500.0), 60..90), (5, Because::Max));
}

#[test]
fn what_it_begins_with_holds_for_a_window() {
    let spec = spec(1, 10, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 5, START_MS);
    assert_eq!(feed(&mut scaler, &spec, second(1.0), 1..20).0, 5);
    assert!(feed(&mut scaler, &spec, second(1.0), 20..40).0 < 5);
}

#[test]
fn silence_holds() {
    let spec = spec(1, 100, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 1, START_MS);
    let (before, _) = feed(&mut scaler, &spec, second(100.0), 1..60);
    let silent = Load { elapsed_s: 3600.0, ..Load::default() };
    let made = scaler.recommend(&spec, &silent, &fleet(before, 1), START_MS + 3_660_000);
    assert_eq!((made.replicas, made.because), (before, Because::Hold));
}

#[test]
fn before_anything_was_served_the_queue_alone_counts() {
    let spec = spec(1, 10, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 1, START_MS);
    let stuck = Load { elapsed_s: 1.0, arrivals: 9.0, in_service: 2, queued: 7, ..Load::default() };
    let made = scaler.recommend(&spec, &stuck, &fleet(1, 2), START_MS + 1000);
    assert_eq!((made.replicas, made.because), (5, Because::Backlog));
}

#[test]
fn the_plain_policies_follow_their_targets() {
    let load = Load { in_service: 30, ..second(100.0) };
    for (policy, expected) in [
        (ScalePolicy::Concurrency { target: 6 }, 5),
        (ScalePolicy::RequestsPerSecond { target: 30 }, 4),
        (ScalePolicy::RequestsPerSecond { target: 1000 }, 1),
    ] {
        let spec = spec(1, 100, policy);
        let mut scaler = Scaler::new(&spec, 1, START_MS);
        assert_eq!(feed(&mut scaler, &spec, load, 1..120), (expected, Because::Target), "{policy:?}");
    }
}

#[test]
fn more_in_service_than_the_estimate_explains_makes_it_stale() {
    let spec = spec(1, 100, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 1, START_MS);
    feed(&mut scaler, &spec, second(100.0), 1..60);
    let usual = scaler.clone().recommend(&spec, &second(100.0), &fleet(14, 1), START_MS + 60_000);
    let hung = Load { in_service: 14, served: 0.0, service_s: 0.0, service_s2: 0.0, ..second(70.0) };
    let made = scaler.recommend(&spec, &hung, &fleet(14, 1), START_MS + 60_000);
    assert!(made.service_s > 1.15 * usual.service_s, "{} {}", made.service_s, usual.service_s);
}

#[test]
fn a_service_takes_little_memory_and_a_decision_little_time() {
    let bytes = size_of::<Scaler>() + size_of::<ColdStart>() + size_of::<Reading>();
    assert!(bytes <= 4096, "{bytes}");
    let spec = spec(1, 1000, ScalePolicy::Objective);
    let mut scaler = Scaler::new(&spec, 900, START_MS);
    let begin = crate::clock::now();
    let rounds = 2000_u32;
    for round in 0..rounds {
        // The most work: a load just below where the recursion gives way to the limit, and one far above.
        let rate = if round % 2 == 0 { 3_500.0 } else { 90_000.0 };
        scaler.recommend(&spec, &second(rate), &fleet(900, 16), START_MS + u64::from(round) * 1000);
    }
    let each = begin.elapsed() / rounds;
    println!("{bytes} bytes of state for a service, {each:?} for a decision");
    // Tests are built without optimization: the promise is 50 us.
    assert!(each <= Duration::from_micros(50), "{each:?}");
}

/// Feeds a service that may have no replica, as the loop does: what was recommended is wanted a moment later.
struct Resting {
    spec: ScaleSpec,
    scaler: Scaler,
    now_ms: u64,
    wanted: u32,
}

impl Resting {
    fn new(spec: ScaleSpec) -> Self {
        let scaler = Scaler::new(&spec, 1, START_MS);
        Self { spec, scaler, now_ms: START_MS, wanted: 1 }
    }

    fn feed(&mut self, load: Load) -> Recommendation {
        self.now_ms += (load.elapsed_s * 1000.0) as u64;
        let made = self.scaler.recommend(&self.spec, &load, &fleet(self.wanted, 4), self.now_ms);
        assert!(made.replicas <= self.spec.max, "{made:?}");
        self.wanted = made.replicas;
        made
    }

    /// Feeds so many seconds of the same; returns after how many it first had no replica.
    fn until_zero(&mut self, load: Load, seconds: u32) -> Option<u32> {
        let mut zero = None;
        for second in 1..=seconds {
            let made = self.feed(load);
            if made.replicas == 0 {
                assert_eq!(made.because, Because::Idle);
                zero = zero.or(Some(second));
            } else {
                assert_eq!(zero, None, "back without a reason: {made:?}");
            }
        }
        zero
    }
}

fn to_zero(zero_after: Option<Duration>, policy: ScalePolicy) -> ScaleSpec {
    ScaleSpec { zero_after, ..spec(0, 10, policy) }
}

/// One second in which so many came, and found nobody to serve them.
fn held(arrivals: f64, queued: u32) -> Load {
    Load { elapsed_s: 1.0, arrivals, queued, ..Load::default() }
}

const POLICIES: [ScalePolicy; 3] =
    [ScalePolicy::Objective, ScalePolicy::Concurrency { target: 2 }, ScalePolicy::RequestsPerSecond { target: 10 }];

#[test]
fn the_last_replica_goes_after_the_window_and_one_comes_for_the_first_request() {
    for policy in POLICIES {
        let mut service = Resting::new(to_zero(None, policy));
        assert_eq!(service.until_zero(second(0.0), 60), Some(20), "{policy:?}: nobody ever came");
        let made = service.feed(held(1.0, 1));
        assert_eq!((made.replicas, made.because), (1, Because::Wake), "{policy:?}");
        assert!(made.idle_s.abs() < 1e-9 && made.zero_after_s.is_some());
        for _ in 0..60 {
            assert!(service.feed(second(5.0)).replicas >= 1);
        }
        assert_eq!(service.until_zero(second(0.0), 120), Some(20), "{policy:?}: after a load that one replica serves");
    }
}

#[test]
fn all_but_the_last_replica_go_by_forecast_and_window() {
    let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
    for _ in 0..60 {
        service.feed(second(200.0));
    }
    assert!(service.wanted >= 5, "{}", service.wanted);
    let mut before = service.wanted;
    for idle in 1..=200 {
        let made = service.feed(second(0.0));
        assert!(made.replicas > 0 || before <= 2 && idle >= 20, "{idle} s: from {before} to none: {made:?}");
        before = made.replicas;
    }
    assert_eq!(before, 0);
}

#[test]
fn what_is_written_is_waited_for_and_anything_that_uses_it_counts() {
    let uses = [
        Load { in_use: true, ..second(0.0) },
        Load { in_service: 1, ..second(0.0) },
        Load { ended: 1.0, ..second(0.0) },
        Load { arrivals: 1.0, ..second(0.0) },
        held(0.0, 1),
    ];
    for load in uses {
        let mut service = Resting::new(to_zero(Some(Duration::from_secs(50)), ScalePolicy::Objective));
        for _ in 0..100 {
            assert!(service.feed(load).replicas > 0, "{load:?}");
        }
        assert_eq!(service.until_zero(second(0.0), 100), Some(50), "{load:?}");
    }
}

#[test]
fn a_request_at_zero_starts_as_many_as_its_burst_needs() {
    for (queued, known, expected) in [(1, false, 1), (4, false, 1), (5, false, 2), (100, false, 10), (100, true, 2)] {
        let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
        if known {
            // 100 ms each: what waits is worked off in three seconds by two replicas of four slots.
            for _ in 0..10 {
                service.feed(second(10.0));
            }
        }
        service.until_zero(second(0.0), 100);
        assert_eq!(service.wanted, 0);
        let made = service.feed(Load { elapsed_s: 0.3, ..held(f64::from(queued), queued) });
        assert!(made.because == Because::Wake && made.replicas >= 1, "{made:?}");
        let close = made.replicas.abs_diff(expected) <= u32::from(known);
        assert!(close, "{queued} waiting, known {known}: {} instead of {expected}", made.replicas);
    }
}

#[test]
fn a_request_at_zero_is_heard_though_nothing_else_is_known() {
    for elapsed_s in [0.0, 7.0, 3600.0] {
        let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
        service.until_zero(second(0.0), 100);
        let made = service.feed(Load { elapsed_s, ..held(1.0, 1) });
        assert_eq!((made.replicas, made.because), (1, Because::Wake), "{elapsed_s}");
    }
    let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
    let made = service.feed(Load { elapsed_s: 3600.0, ..Load::default() });
    assert_eq!((made.replicas, made.because), (1, Because::Hold), "silence takes nothing away");
}

/// Somebody comes each so often: after four pauses their length is known, and there is no start for each of them.
#[test]
fn regular_pauses_are_learned_and_not_flapped_through() {
    for pause in [25, 60, 180, 400] {
        let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
        let mut wakes = Vec::new();
        for visit in 0..20 {
            let at_zero = service.wanted == 0;
            let made = service.feed(Load { in_use: true, ..held(1.0, 1) });
            if at_zero {
                assert_eq!(made.because, Because::Wake);
                wakes.push(visit);
            }
            for _ in 1..pause {
                service.feed(second(0.0));
            }
        }
        println!("every {pause} s: woken at visits {wakes:?}");
        assert!(wakes.len() <= 5, "every {pause} s: {wakes:?}");
    }
}

/// Somebody comes each half hour: the replica rests meanwhile and is there when he comes.
#[test]
fn a_replica_is_there_before_the_end_of_long_regular_pauses() {
    let mut service = Resting::new(to_zero(None, ScalePolicy::Objective));
    let (mut wakes, mut up_s) = (0, 0);
    for visit in 0..20 {
        wakes += u32::from(service.wanted == 0);
        service.feed(Load { in_use: true, ..held(1.0, 1) });
        for _ in 1..1800 {
            let made = service.feed(second(0.0));
            assert!(made.because != Because::Expected || (visit >= 4 && made.idle_s > 1000.0), "{made:?}");
            up_s += u32::from(visit >= 10 && made.replicas > 0);
        }
    }
    println!("every half hour: woken {wakes} times by 20 visits, up {up_s} of 18000 s");
    assert!(wakes <= 4, "{wakes}");
    assert!(up_s <= 18_000 / 3, "{up_s}");
}

/// Whatever comes: never above the bounds, never without a replica while it is used or something waits, and always without
/// one after the longest time that anybody is waited for.
#[test]
fn whatever_comes_it_is_there_when_used_and_gone_in_the_end() {
    for seed in 1..=30 {
        let mut rng = crate::rng::Rng::from_seed(seed);
        let policy = POLICIES[(rng.next_u64() % 3) as usize];
        let mut service = Resting::new(to_zero(None, policy));
        for _ in 0..20 {
            let (busy, idle) = (1 + rng.next_u64() % 60, rng.next_u64() % 700);
            let rate = (rng.next_u64() % 50) as f64;
            for _ in 0..busy {
                let at_zero = service.wanted == 0;
                let load = if at_zero { held(rate.max(1.0), rate.max(1.0) as u32) } else { second(rate.max(1.0)) };
                let made = service.feed(load);
                assert!(made.replicas > 0, "seed {seed}: {made:?}");
                assert_eq!(at_zero, made.because == Because::Wake, "seed {seed}: {made:?}");
            }
            for _ in 0..idle {
                let made = service.feed(second(0.0));
                assert!(made.replicas > 0 || made.idle_s >= 20.0, "seed {seed}: {made:?}");
            }
        }
        for _ in 0..10_000 {
            service.feed(second(0.0));
        }
        assert_eq!(service.wanted, 0, "seed {seed}");
    }
}
