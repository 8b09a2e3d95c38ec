//! How many replicas hold a waiting time: Erlang C for the chance to wait, Allen and Cunneen's correction for the
//! variability of service times.
//!
//! A service with `n` replicas of `c` slots each is a queue with `n x c` servers. With offered load `a = lambda x S`
//! (Erlang, "Solution of some problems in the theory of probabilities", 1917) the chance that a request waits longer than
//! `x` is about `C(nc, a) x exp(-(nc - a) x / (S v))`, `v = (1 + cv²) / 2` (Allen, "Probability, Statistics and Queueing
//! Theory", 1990). Pure functions; a call costs at most some microseconds: above [`EXACT_LOAD`] the limit of Halfin and
//! Whitt (1981) replaces the recursion.

/// Offered load up to which Erlang's recursion is run; beyond it the limit theorem is off by less than a
/// hundredth of the load.
const EXACT_LOAD: f64 = 400.0;

/// What is to be served, and how well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Demand {
    /// Arrivals per second.
    pub rate: f64,
    /// Mean time in service, seconds.
    pub service_s: f64,
    /// Coefficient of variation of the time in service.
    pub cv: f64,
    /// Longest wait that counts as good, seconds.
    pub wait_s: f64,
    /// Share of requests that may wait longer, above 0.
    pub late_share: f64,
}

/// Returns the fewest replicas of `slots` slots each that hold the wait, at most `max`; 0 without arrivals.
pub fn staff(demand: &Demand, slots: u32, max: u32) -> u32 {
    let load = demand.rate * demand.service_s;
    if !load.is_finite() || load <= 0.0 || slots == 0 {
        return 0;
    }
    if load <= EXACT_LOAD { by_recursion(demand, load, slots, max) } else { by_limit(demand, load, slots, max) }
}

/// Walks up the servers with Erlang's recursion, which costs one step for each.
fn by_recursion(demand: &Demand, load: f64, slots: u32, max: u32) -> u32 {
    let mut blocked = 1.0;
    for replicas in 1..=max {
        for server in (replicas - 1) * slots + 1..=replicas * slots {
            blocked = load * blocked / (f64::from(server) + load * blocked);
        }
        let servers = f64::from(replicas) * f64::from(slots);
        if servers > load {
            let waits = blocked / (1.0 - load / servers * (1.0 - blocked));
            if late(demand, servers - load, waits) <= demand.late_share {
                return replicas;
            }
        }
    }
    max
}

/// Walks up the replicas with the limit of the chance to wait for many servers.
fn by_limit(demand: &Demand, load: f64, slots: u32, max: u32) -> u32 {
    let first = (load / f64::from(slots)).floor() as u32 + 1;
    (first..max)
        .find(|&replicas| {
            let spare = f64::from(replicas) * f64::from(slots) - load;
            late(demand, spare, waits_in_the_limit(spare / load.sqrt())) <= demand.late_share
        })
        .unwrap_or(max)
}

/// The chance to wait longer than the bound, when `waits` is the chance to wait at all and `spare` servers are idle on
/// average.
fn late(demand: &Demand, spare: f64, waits: f64) -> f64 {
    let variability = (1.0 + demand.cv * demand.cv) / 2.0;
    waits * (-spare * demand.wait_s.max(0.0) / (demand.service_s * variability)).exp()
}

/// The chance to wait with `beta` standard deviations of spare servers: `1 / (1 + beta Phi(beta) / phi(beta))`.
fn waits_in_the_limit(beta: f64) -> f64 {
    let density = (-beta * beta / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if density < 1e-12 {
        return 0.0;
    }
    // Abramowitz and Stegun 26.2.16: off by at most 1e-5.
    let t = 1.0 / (1.0 + 0.332_67 * beta);
    let below = 1.0 - density * (0.436_183_6 * t - 0.120_167_6 * t * t + 0.937_298 * t * t * t);
    1.0 / (1.0 + beta * below / density)
}

#[cfg(test)]
mod tests {
    use super::{Demand, by_limit, by_recursion, staff};

    fn demand(rate: f64, service_s: f64) -> Demand {
        Demand { rate, service_s, cv: 1.0, wait_s: 0.0, late_share: 0.2 }
    }

    #[test]
    fn agrees_with_published_values_of_erlang_c() {
        // C(3, 1) = 0.091 and C(2, 1) = 0.333; C(8, 5) = 0.167 and C(7, 5) = 0.324; C(25, 20) = 0.209.
        assert_eq!(staff(&demand(1.0, 1.0), 1, 100), 3);
        assert_eq!(staff(&demand(5.0, 1.0), 1, 100), 8);
        assert_eq!(staff(&demand(20.0, 1.0), 1, 100), 26);
    }

    #[test]
    fn nothing_needs_nobody_and_too_much_needs_the_most() {
        assert_eq!(staff(&demand(0.0, 1.0), 4, 10), 0);
        assert_eq!(staff(&demand(f64::NAN, 1.0), 4, 10), 0);
        assert_eq!(staff(&demand(1000.0, 1.0), 4, 10), 10);
        assert_eq!(staff(&demand(1e9, 1.0), 4, 10), 10);
    }

    #[test]
    fn headroom_grows_with_the_square_root_of_the_load() {
        let spare = |load: f64| f64::from(staff(&demand(load, 1.0), 1, 1000)) - load;
        assert!(spare(4.0) >= 3.0 && spare(100.0) < 15.0 && spare(400.0) < 30.0);
        assert!(spare(4.0) / 4.0 > 4.0 * spare(400.0) / 400.0);
    }

    #[test]
    fn more_of_anything_needs_no_fewer() {
        for slots in [1, 4, 16] {
            let mut before = 0;
            for tenths in 1..6000 {
                let now = staff(&demand(f64::from(tenths) / 10.0, 1.0), slots, 10_000);
                assert!(now + 1 >= before, "{tenths} {slots}: {before} to {now}");
                before = now;
            }
        }
        let with =
            |cv, wait_s, late_share| staff(&Demand { rate: 40.0, service_s: 0.5, cv, wait_s, late_share }, 1, 100);
        assert!(with(3.0, 0.2, 0.01) > with(0.5, 0.2, 0.01));
        assert!(with(1.0, 0.1, 0.01) > with(1.0, 1.0, 0.01));
        assert!(with(1.0, 0.1, 0.001) > with(1.0, 0.1, 0.1));
    }

    #[test]
    fn the_limit_meets_the_recursion() {
        for (load, share) in [(200.0, 0.2), (300.0, 0.004), (400.0, 0.01)] {
            let demand = Demand { late_share: share, ..demand(load, 1.0) };
            let (exact, limit) = (by_recursion(&demand, load, 1, 2000), by_limit(&demand, load, 1, 2000));
            assert!(f64::from(exact.abs_diff(limit)) <= load / 100.0, "{load}: {exact} and {limit}");
        }
    }
}
