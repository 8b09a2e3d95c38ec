//! The plan: each rule in a table, then what must hold whatever happens.

use crate::control::scheduler::{Action, Desired, Ending, Phase, Plan, Replica, Restarts, Start, Stop, plan};
use crate::model::InstanceId;
use crate::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};

const NOW: u64 = 1_000_000;
const REPLACE_AFTER: u64 = 30_000;
const FINGERPRINT: u64 = 2;

fn desired(replicas: u32) -> Desired {
    Desired { replicas, fingerprint: FINGERPRINT, replace_after_ms: REPLACE_AFTER, is_exclusive: false }
}

fn id(number: usize) -> InstanceId {
    InstanceId::parse(&format!("web-{number}")).unwrap()
}

/// Reads replicas, one word each: the phase's first letter (`l`aunching, `s`tarting, `r`eady, `u`nhealthy, s`t`opping), then
/// `d` drained by hand, `o` outdated, `x` not serving for too long. Each is a second older than the one before it.
fn replicas(text: &str) -> Vec<Replica> {
    let read = |(number, word): (usize, &str)| {
        let phase = match word.as_bytes()[0] {
            b'l' => Phase::Launching,
            b's' => Phase::Starting,
            b'r' => Phase::Ready,
            b'u' => Phase::Unhealthy,
            b't' => Phase::Stopping,
            other => panic!("{other}"),
        };
        let age = if word.contains('x') { REPLACE_AFTER } else { 1_000 } + 1_000 * number as u64;
        Replica {
            id: id(number),
            slot: number as u32,
            fingerprint: if word.contains('o') { FINGERPRINT - 1 } else { FINGERPRINT },
            phase,
            since_ms: NOW - age,
            drain: word.contains('d'),
        }
    };
    text.split_whitespace().enumerate().map(read).collect()
}

fn planned(wanted: u32, text: &str) -> Plan {
    plan(&desired(wanted), &replicas(text), &BTreeMap::new(), NOW)
}

/// Writes a plan: `+0` starts slot 0, `+0r` as a replacement, `-1s` stops replica 1 (scaled down), `d`rained, `o`utdated,
/// not serving `x`.
fn written(plan: &Plan) -> String {
    let write = |action: &Action| match action {
        Action::Start { slot, why: Start::Missing } => format!("+{slot}"),
        Action::Start { slot, why: Start::Replaces } => format!("+{slot}r"),
        Action::Stop { id, why } => {
            let why = match why {
                Stop::ScaledDown => "s",
                Stop::Drained => "d",
                Stop::Outdated => "o",
                Stop::NotServing => "x",
            };
            format!("-{}{why}", id.as_str().trim_start_matches("web-"))
        }
    };
    plan.actions.iter().map(write).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_rule() {
    #[rustfmt::skip]
    let cases = [
        // wanted, replicas, plan, what it shows
        (0, "", "", "nothing wanted, nothing runs"),
        (3, "", "+0 +1 +2", "the first start"),
        (3, "l s", "+2", "what is under way counts"),
        (3, "r r r", "", "as wanted"),
        (3, "r t r", "+1", "one that is being stopped does not count"),
        (5, "r r r", "+3 +4", "scaled up"),
        (0, "r s u", "-1s -2s -0s", "scaled to zero"),
        (2, "r r r r", "-0s -1s", "scaled down: the youngest go"),
        (2, "r u r s", "-3s -1s", "scaled down: who does not serve goes first"),
        (1, "r l", "", "one that is being launched cannot be stopped yet, but its turn is next"),
        (1, "r s", "-1s", "now it can"),
        (3, "r u r", "", "unhealthy for a short time: wait"),
        (3, "r ux r", "+1r", "unhealthy for long: the replacement first"),
        (3, "r ux r s", "", "it has not passed yet"),
        (3, "r ux r r", "-1x", "then the unhealthy one goes"),
        (3, "r sx r", "-1x +1", "one that never served goes at once"),
        (1, "sx", "-0x +0", "also the only one"),
        (1, "ux", "+0r", "the only one is kept until the next one serves: it may be all there is"),
        (3, "rd r r", "+0r", "drained by hand: the replacement first"),
        (3, "rd r r l", "", "the replacement is under way"),
        (3, "rd r r r", "-0d", "the replacement serves"),
        (3, "rd rd r", "+0r", "two drains: one after the other"),
        (3, "rd rd r r", "-0d +0r", "the first is done, the second begins"),
        (1, "rd r", "-0d", "one above is the replacement"),
        (3, "ro ro ro", "+0r", "a new revision: one at a time"),
        (3, "ro ro ro s", "", "not before it serves"),
        (3, "ro ro ro r", "-0o +0r", "then one old one goes and the next begins"),
        (2, "ro ro ro ro ro ro", "-0o -1o -2o -3o +0r", "old ones above the wanted number go at once"),
        (1, "lo ro", "", "an old one that serves is not stopped for one that is being launched"),
        (3, "uxo ro ro r", "-0o +0r", "who does not serve goes first"),
        (3, "r", "+1 +2", "two are gone"),
        (3, "rd", "+0 +1 +2r", "missing ones are started together with the replacement"),
    ];
    for (wanted, text, expected, shows) in cases {
        assert_eq!(written(&planned(wanted, text)), expected, "{shows}: {wanted} of [{text}]");
    }
}

#[test]
fn a_service_that_must_not_run_twice_is_replaced_stop_first() {
    #[rustfmt::skip]
    let cases = [
        (1, "rd", "-0d", "drained: it stops before anything starts"),
        (1, "td", "", "nothing starts while it stops"),
        (1, "t", "", "also what was scaled down"),
        (1, "", "+0", "now it may"),
        (1, "ux", "-0x", "one that did not serve for long, likewise"),
        (1, "sx", "-0x", "one that never served: its successor waits until it has stopped"),
        (3, "rd rd r", "-0d", "one at a time"),
        (3, "td rd r", "", "the first still stops"),
        (3, "rd r", "+0", "what is missing comes first"),
        (3, "rd r s", "", "and has to serve"),
    ];
    for (wanted, text, expected, shows) in cases {
        let desired = Desired { is_exclusive: true, ..desired(wanted) };
        let found = plan(&desired, &replicas(text), &BTreeMap::new(), NOW);
        assert_eq!(written(&found), expected, "{shows}: {wanted} of [{text}]");
    }
}

#[test]
fn wakes_when_a_replica_has_not_served_for_too_long() {
    assert_eq!(planned(1, "r").wake_ms, None);
    assert_eq!(planned(2, "r u").wake_ms, Some(NOW - 2_000 + REPLACE_AFTER));
    assert_eq!(planned(2, "s u").wake_ms, Some(NOW - 2_000 + REPLACE_AFTER));
    assert_eq!(planned(2, "r ux").wake_ms, None);
}

#[test]
fn a_slot_that_must_wait_is_not_started_and_wakes_when_due() {
    let mut waits = Restarts::default();
    waits.ended(Ending::ByItself { ready_ms: None }, NOW);
    waits.ended(Ending::ByItself { ready_ms: None }, NOW);
    let mut quarantined = Restarts::default();
    quarantined.ended(Ending::Unstartable, NOW);
    let slots = BTreeMap::from([(0, waits), (1, quarantined)]);
    let first = plan(&desired(3), &[], &slots, NOW);
    assert_eq!((written(&first).as_str(), first.wake_ms), ("+2", Some(NOW + 1_000)));
    let second = plan(&desired(3), &replicas("t t r"), &slots, NOW + 1_000);
    assert_eq!((written(&second).as_str(), second.wake_ms), ("+0", Some(NOW + 60_000)));
    let third = plan(&desired(3), &replicas("r t r"), &slots, NOW + 60_000);
    assert_eq!((written(&third).as_str(), third.wake_ms), ("+1", None));
}

/// A node that does as planned and has accidents.
struct World {
    rng: Rng,
    now_ms: u64,
    desired: Desired,
    replicas: Vec<Replica>,
    slots: BTreeMap<u32, Restarts>,
    started: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (replicas, slots) = (Vec::new(), BTreeMap::new());
        Self { rng: Rng::from_seed(seed), now_ms: NOW, desired: desired(3), replicas, slots, started: 0 }
    }

    fn serving(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.phase == Phase::Ready).count()
    }

    fn live(&self) -> usize {
        self.replicas.iter().filter(|replica| replica.phase != Phase::Stopping).count()
    }

    /// Plans, checks what must hold, carries it out.
    fn step(&mut self) -> Plan {
        let plan = plan(&self.desired, &self.replicas, &self.slots, self.now_ms);
        let wanted = self.desired.replicas as usize;
        let (serving, live) = (self.serving(), self.live());
        assert!(plan.wake_ms.is_none_or(|at| at > self.now_ms), "a wake in the past would spin: {plan:?}");
        let mut started = BTreeSet::new();
        for action in &plan.actions {
            match action {
                Action::Start { slot, .. } => {
                    let blocked = self.slots.get(slot).map_or(0, Restarts::blocked_until_ms);
                    assert!(blocked <= self.now_ms, "started while it must wait: {plan:?}");
                    assert!(started.insert(*slot) && *slot < self.desired.replicas, "{plan:?}");
                    self.started += 1;
                    let (fingerprint, phase, since_ms) = (self.desired.fingerprint, Phase::Launching, self.now_ms);
                    let id = id(self.started);
                    self.replicas.push(Replica { id, slot: *slot, fingerprint, phase, since_ms, drain: false });
                }
                Action::Stop { id, .. } => {
                    let replica = self.replicas.iter_mut().find(|replica| replica.id == *id).unwrap();
                    assert!(!matches!(replica.phase, Phase::Stopping | Phase::Launching), "{plan:?}");
                    replica.phase = Phase::Stopping;
                }
            }
        }
        assert!(self.serving() >= wanted.min(serving), "stopped more than may be missed: {plan:?}");
        assert!(self.live() <= live.max(wanted + 1), "more than one above the wanted number: {plan:?}");
        plan
    }

    fn any(&mut self, phase: impl Fn(Phase) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.replicas.len()).filter(|at| phase(self.replicas[*at].phase)).collect();
        if found.is_empty() { None } else { Some(found[self.rng.below(found.len())]) }
    }

    /// One thing happens.
    fn happen(&mut self) {
        self.now_ms += self.rng.below(5_000) as u64;
        let running = |phase| matches!(phase, Phase::Starting | Phase::Ready | Phase::Unhealthy);
        match self.rng.below(12) {
            0 => self.desired.replicas = self.rng.below(7) as u32,
            1 => self.desired.fingerprint += 1,
            2 => {
                if let Some(at) = self.any(running) {
                    self.replicas[at].drain = !self.replicas[at].drain;
                }
            }
            3 => {
                if let Some(at) = self.any(running) {
                    let replica = self.replicas.remove(at);
                    let ready_ms = (replica.phase == Phase::Ready).then_some(replica.since_ms);
                    let slot = self.slots.entry(replica.slot).or_default();
                    slot.ended(Ending::ByItself { ready_ms }, self.now_ms);
                }
            }
            4 => {
                if let Some(at) = self.any(|phase| phase == Phase::Ready) {
                    self.enter(at, Phase::Unhealthy);
                }
            }
            5 => self.now_ms += 60_000,
            _ => self.progress(),
        }
    }

    /// Something that was begun comes to its end.
    fn progress(&mut self) {
        let Some(at) = self.any(|phase| phase != Phase::Ready) else { return };
        match self.replicas[at].phase {
            Phase::Launching => self.enter(at, Phase::Starting),
            Phase::Starting | Phase::Unhealthy => self.enter(at, Phase::Ready),
            Phase::Stopping => drop(self.replicas.remove(at)),
            Phase::Ready => {}
        }
    }

    fn enter(&mut self, at: usize, phase: Phase) {
        self.replicas[at].phase = phase;
        self.replicas[at].since_ms = self.now_ms;
    }
}

#[test]
fn whatever_happens_enough_serve_and_it_settles_as_wanted() {
    let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(2);
    println!("WEIR_SEED={seed}");
    for round in 0..300 {
        let mut world = World::new(seed + round);
        for _ in 0..200 {
            world.happen();
            world.step();
        }
        // Nothing goes wrong any more.
        for _ in 0..300 {
            world.now_ms += 1_000;
            world.progress();
            world.step();
        }
        let wanted = world.desired.replicas as usize;
        assert_eq!((world.serving(), world.replicas.len()), (wanted, wanted), "round {round}: {:?}", world.replicas);
        let settled = |replica: &Replica| !replica.drain && replica.fingerprint == world.desired.fingerprint;
        assert!(world.replicas.iter().all(settled), "round {round}: {:?}", world.replicas);
        assert_eq!(world.step(), Plan::default());
    }
}
