//! The memory budget: near its end new connections are turned away, and at its end requests, before the kernel ends all of
//! them.
//!
//! Nothing is watched while nothing comes: whoever asks looks, at most ten times a second.

use crate::sys::memory::{Resident, limit_bytes};
use std::cell::Cell;

/// Share of the budget from which connections are turned away, in percent.
const SHED_PERCENT: u64 = 95;
/// Share of the budget from which requests are turned away, in percent.
const REFUSE_PERCENT: u64 = 98;
/// So long a look is good for, in milliseconds.
const LOOK_MS: u64 = 100;

/// How far the budget is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    /// There is room.
    None,
    /// No further connections.
    Shed,
    /// No further requests.
    Refuse,
}

/// What one worker knows of the process's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// `None`: no budget, or nothing to compare it with.
    budget: Option<(u64, Resident)>,
    looked_ms: Cell<u64>,
    pressure: Cell<Pressure>,
}

impl Memory {
    /// Takes a budget in octets; without one, that of the control group that the process is in.
    pub(crate) fn new(budget: Option<u64>) -> Self {
        let budget = budget.or_else(limit_bytes).and_then(|budget| match Resident::open() {
            Ok(resident) => Some((budget, resident)),
            Err(error) => {
                tracing::warn!(%error, "the memory in use is not known: proxy.limits.memory bounds nothing");
                None
            }
        });
        Self { budget, looked_ms: Cell::new(0), pressure: Cell::new(Pressure::None) }
    }

    /// Returns how far the budget is used up, as of the last tenth of a second.
    pub(crate) fn pressure(&self, now_ms: impl FnOnce() -> u64) -> Pressure {
        let Some((budget, resident)) = &self.budget else { return Pressure::None };
        let now_ms = now_ms();
        if now_ms >= self.looked_ms.get() + LOOK_MS {
            self.looked_ms.set(now_ms);
            let now = resident.bytes().map_or(Pressure::None, |used| pressure_of(used, *budget));
            self.tell(self.pressure.replace(now), now, *budget);
        }
        self.pressure.get()
    }

    fn tell(&self, before: Pressure, now: Pressure, budget_bytes: u64) {
        match now {
            _ if now == before => {}
            Pressure::None => tracing::info!(reason = "memory", budget_bytes, "there is memory again: accepting"),
            Pressure::Shed => {
                tracing::warn!(
                    reason = "memory",
                    budget_bytes,
                    "the memory budget is nearly used up: new connections are reset"
                );
            }
            Pressure::Refuse => {
                tracing::warn!(
                    reason = "memory",
                    budget_bytes,
                    "the memory budget is used up: requests are answered 503"
                );
            }
        }
    }
}

fn pressure_of(used: u64, budget: u64) -> Pressure {
    let is_above = |percent: u64| u128::from(used) * 100 >= u128::from(budget) * u128::from(percent);
    match (is_above(REFUSE_PERCENT), is_above(SHED_PERCENT)) {
        (true, _) => Pressure::Refuse,
        (_, true) => Pressure::Shed,
        _ => Pressure::None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, Pressure, pressure_of};

    #[test]
    fn connections_go_before_requests() {
        let at = |used| pressure_of(used, 1000);
        assert_eq!([0, 949, 950, 979, 980, 5000].map(at), {
            use Pressure::{None, Refuse, Shed};
            [None, None, Shed, Shed, Refuse, Refuse]
        });
        assert_eq!(pressure_of(u64::MAX, u64::MAX), Pressure::Refuse);
    }

    #[test]
    fn a_look_is_good_for_a_tenth_of_a_second() {
        let memory = Memory::new(Some(1));
        assert_eq!(memory.pressure(|| 1000), Pressure::Refuse);
        memory.pressure.set(Pressure::None);
        assert_eq!(memory.pressure(|| 1099), Pressure::None, "not looked again");
        assert_eq!(memory.pressure(|| 1100), Pressure::Refuse);
        assert_eq!(Memory::new(Some(u64::MAX)).pressure(|| 1000), Pressure::None);
    }
}
