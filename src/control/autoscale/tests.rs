//! The step as a whole: bounds, silence, first requests, cost of a decision, size of the state.

use crate::control::autoscale::cold_start::ColdStart;
use crate::control::autoscale::load::{Fleet, Load};
use crate::control::autoscale::policy::{Because, Scaler};
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
