//! Counters → [`Load`]: differences between two looks at the workers' shards and the endpoint stats of the table.

use crate::control::autoscale::load::Load;
use crate::table::Service;
use crate::telemetry::ServiceTotals;

/// What was read of a service at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// What its requests added up to, here and at other Weirs.
    pub(crate) totals: ServiceTotals,
    /// Requests in service, tunnels left out.
    pub(crate) in_service: u32,
    /// Requests that wait.
    pub(crate) queued: u32,
    /// Whether a DNS answer that names a replica may still be cached.
    pub(crate) named: bool,
    /// When, in milliseconds of the process's clock.
    pub(crate) at_ms: u64,
}

impl Reading {
    /// Reads a service of the current snapshot; those that drain still serve. What other Weirs say that they carry for it
    /// counts as what is carried here.
    pub(crate) fn new(service: &Service, totals: ServiceTotals, at_ms: u64) -> Self {
        let draining = service.draining.iter().map(|(_, candidate)| candidate);
        let in_service =
            service.candidates.iter().chain(draining).map(|candidate| candidate.stats.active()).sum::<u32>();
        let (carried, present, others_until_ms) = service.stats.others().read();
        let named = service.stats.marks().named_until_ms().max(others_until_ms) > at_ms;
        let totals = ServiceTotals {
            ended: totals.ended.wrapping_add(carried.ended),
            served: totals.served.wrapping_add(carried.served),
            service_us: totals.service_us.wrapping_add(carried.service_us),
            service_us2: totals.service_us2.wrapping_add(carried.service_us2),
            late: totals.late.wrapping_add(carried.late),
            streams: totals.streams.wrapping_add(carried.streams),
            streams_open: totals.streams_open.wrapping_add(present.streams_open),
        };
        let queued = service.stats.still_waiting().saturating_add(present.queued);
        Self { totals, in_service: present.in_service.saturating_add(in_service), queued, named, at_ms }
    }

    /// Returns what happened since an earlier reading.
    ///
    /// What came is what ended and what is there more than before. So no counter is needed where requests come in, and
    /// one that was missed in a reading is in the next.
    pub(crate) fn since(&self, before: &Self) -> Load {
        let difference = |now: u64, before: u64| now.wrapping_sub(before) as f64;
        let (now, then) = (&self.totals, &before.totals);
        let there = f64::from(self.in_service) + f64::from(self.queued);
        let were = f64::from(before.in_service) + f64::from(before.queued);
        let ended = difference(now.ended, then.ended);
        Load {
            elapsed_s: self.at_ms.saturating_sub(before.at_ms) as f64 / 1000.0,
            arrivals: (ended + there - were).max(0.0),
            served: difference(now.served, then.served),
            service_s: difference(now.service_us, then.service_us) / 1e6,
            service_s2: difference(now.service_us2, then.service_us2) / 1e12,
            ended,
            late: difference(now.late, then.late),
            in_service: self.in_service,
            queued: self.queued,
            in_use: self.named || now.streams_open > 0 || now.streams != then.streams,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reading;
    use crate::telemetry::ServiceTotals;

    #[test]
    fn what_came_is_what_ended_and_what_is_there_more() {
        let before = Reading {
            totals: ServiceTotals {
                ended: 100,
                served: 90,
                service_us: 9_000_000,
                service_us2: u64::MAX - 10,
                late: 1,
                ..ServiceTotals::default()
            },
            in_service: 4,
            queued: 0,
            named: false,
            at_ms: 1000,
        };
        let after = Reading {
            totals: ServiceTotals {
                ended: 150,
                served: 140,
                service_us: 14_000_000,
                service_us2: 499_999_999_989,
                late: 3,
                ..ServiceTotals::default()
            },
            in_service: 10,
            queued: 6,
            named: false,
            at_ms: 3000,
        };
        let load = after.since(&before);
        assert_eq!((load.elapsed_s, load.arrivals, load.served, load.ended, load.late), (2.0, 62.0, 50.0, 50.0, 2.0));
        assert!((load.service_s - 5.0).abs() < 1e-9 && (load.service_s2 - 0.5).abs() < 1e-9, "{load:?}");
        assert_eq!((load.in_service, load.queued), (10, 6));
        let lost = Reading { in_service: 0, queued: 0, at_ms: 4000, ..after };
        assert!(lost.since(&after).arrivals.abs() < 1e-9, "a service that was replaced has no negative arrivals");
    }
}
