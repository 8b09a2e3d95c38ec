//! What one follower carries, as this Weir counts it. Pure but for the sums that it keeps in the table's counters.

use crate::balance::{Carried, Present, Share};
use crate::control::feed::load::{Report, ServiceLoad};
use crate::model::ServiceName;
use crate::table::Snapshot;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Services that are counted for one follower.
const MAX_SERVICES: usize = 10_000;
/// Bounds of what one follower may claim to hold, so that sums mean something whatever it says.
const MAX_PRESENT: u32 = 1_000_000;
/// Longest time that its answers of DNS are believed to be kept, milliseconds.
pub(super) const MAX_NAMED_MS: u64 = 3_600_000;
/// The most requests that one report may add, and the most seconds in service.
const MAX_MORE: u64 = 1 << 32;
/// A rate is taken over so long at least, and is 0 when nothing was told for so long.
const WINDOW_MS: u64 = 900;
const STALE_MS: u64 = 2_500;

/// What a follower carries for one service.
#[derive(Debug, Clone, PartialEq)]
pub struct CarriedLoad {
    /// The service.
    pub service: ServiceName,
    /// Requests that ended there, as far as they were counted here.
    pub requests: u64,
    /// TCP streams and tunnels that began there, as far as they were counted here.
    pub streams: u64,
    /// Requests a second of late.
    pub rate: f64,
    /// What is there.
    pub present: Present,
}

/// One service of a follower.
#[derive(Debug)]
struct Entry {
    share: Share,
    /// Its count at its last report; `None`: it was silent, and what it did meanwhile is no load of now.
    count: Option<Carried>,
    /// What of it was counted here.
    requests: u64,
    streams: u64,
    /// When the rate was taken, and what was counted then.
    window: (u64, u64),
    rate: f64,
}

/// What a follower carries.
#[derive(Debug, Default)]
pub(super) struct Carrying {
    /// Whose counts these are.
    session: String,
    number: u64,
    services: BTreeMap<ServiceName, Entry>,
}

impl Carrying {
    /// Takes a report; one that came before changes nothing. Rings for services that have no replica.
    pub(super) fn take(&mut self, session: &str, report: &Report, snapshot: &Snapshot, now_ms: u64) {
        if self.session != session {
            self.begin(session, report, now_ms);
        } else if report.number <= self.number {
            return;
        }
        self.number = report.number;
        self.services.retain(|name, entry| {
            snapshot.services.get(name).is_some_and(|service| Arc::ptr_eq(entry.share.of(), service.stats.others()))
        });
        for load in &report.services {
            let Some(service) = snapshot.services.get(&load.service) else { continue };
            if self.services.len() >= MAX_SERVICES && !self.services.contains_key(&load.service) {
                continue;
            }
            let entry = self.services.entry(load.service.clone()).or_insert_with(|| Entry {
                share: Share::new(service.stats.others().clone()),
                count: Some(Carried::default()),
                requests: 0,
                streams: 0,
                window: (now_ms, 0),
                rate: 0.0,
            });
            entry.take(load, now_ms);
            if load.present.queued > 0 && service.candidates.is_empty() {
                service.wake.ring();
            }
        }
    }

    /// Begins anew with a subscription's first report. What is there goes on being there and has not come once more; what it
    /// does not name is there no more.
    fn begin(&mut self, session: &str, report: &Report, now_ms: u64) {
        (self.session, self.number) = (session.to_owned(), 0);
        let named: HashSet<&ServiceName> = report.services.iter().map(|load| &load.service).collect();
        self.services.retain(|name, _| named.contains(name));
        for entry in self.services.values_mut() {
            (entry.count, entry.requests, entry.streams) = (Some(Carried::default()), 0, 0);
            (entry.window, entry.rate) = ((now_ms, 0), 0.0);
        }
    }

    /// Forgets what it holds: nothing is heard of it.
    pub(super) fn lapse(&mut self) {
        for entry in self.services.values_mut() {
            entry.share = Share::new(entry.share.of().clone());
            entry.count = None;
        }
    }

    /// Returns what it carries, by service.
    pub(super) fn loads(&self, now_ms: u64) -> Vec<CarriedLoad> {
        let of = |(service, entry): (&ServiceName, &Entry)| CarriedLoad {
            service: service.clone(),
            requests: entry.requests,
            streams: entry.streams,
            // What does not change is not told.
            rate: if now_ms.saturating_sub(entry.window.0) > STALE_MS { 0.0 } else { entry.rate },
            present: entry.share.present(),
        };
        self.services.iter().map(of).collect()
    }
}

impl Entry {
    fn take(&mut self, load: &ServiceLoad, now_ms: u64) {
        // What cannot be counts for nothing.
        let more = self.count.map(|count| load.carried.since(&count)).filter(is_possible).unwrap_or_default();
        self.count = Some(load.carried);
        self.requests = self.requests.wrapping_add(more.ended);
        self.streams = self.streams.wrapping_add(more.streams);
        let (since_ms, then) = self.window;
        let elapsed_ms = now_ms.saturating_sub(since_ms);
        if elapsed_ms >= WINDOW_MS {
            self.rate = self.requests.wrapping_sub(then) as f64 * 1000.0 / elapsed_ms as f64;
            self.window = (now_ms, self.requests);
        }
        let present = Present {
            in_service: load.present.in_service.min(MAX_PRESENT),
            queued: load.present.queued.min(MAX_PRESENT),
            streams_open: load.present.streams_open.min(u64::from(MAX_PRESENT)),
        };
        self.share.report(&more, present, until(load.named_ms, now_ms));
    }
}

/// Returns whether a follower can have carried so much since it said something last.
fn is_possible(more: &Carried) -> bool {
    [more.ended, more.served, more.late, more.streams].iter().all(|count| *count <= MAX_MORE)
        && more.service_us <= MAX_MORE * 1_000_000
}

fn until(named_ms: u64, now_ms: u64) -> u64 {
    if named_ms == 0 { 0 } else { now_ms.saturating_add(named_ms.min(MAX_NAMED_MS)) }
}

#[cfg(test)]
mod tests {
    use super::Carrying;
    use crate::balance::{Carried, Present};
    use crate::control::feed::load::{Report, ServiceLoad};
    use crate::control::registry::fixture::spec;
    use crate::model::ServiceName;
    use crate::table::names::Names;
    use crate::table::{Change, Changes, Snapshot, build};
    use std::sync::Arc;

    fn report(number: u64, ended: u64, in_service: u32) -> Report {
        let service = ServiceName::parse("web").unwrap();
        let (carried, present) =
            (Carried { ended, ..Carried::default() }, Present { in_service, ..Present::default() });
        Report { number, services: vec![ServiceLoad { service, carried, present, named_ms: 0 }] }
    }

    #[test]
    fn a_new_subscription_says_again_what_is_there_and_that_has_not_come_once_more() {
        let services = vec![Change::Set { spec: Arc::new(spec("web", None)), instances: Vec::new() }];
        let table = build(&Snapshot::empty(Names::default()), Changes { services, ..Changes::default() });
        let others = table.services.iter().next().unwrap().stats.others().clone();
        // What came is what ended and what is there.
        let came = || {
            let (carried, present, _) = others.read();
            carried.ended + u64::from(present.in_service)
        };
        let mut carrying = Carrying::default();
        carrying.take("s1", &report(1, 10, 4), &table, 0);
        assert_eq!(came(), 14);
        carrying.take("s2", &report(1, 0, 4), &table, 0);
        assert_eq!(came(), 14, "the four were counted when they came");
        carrying.take("s2", &report(2, 4, 0), &table, 0);
        assert_eq!((came(), carrying.loads(0)[0].requests), (14, 4));
        // What is named no more is there no more; a count that cannot be adds nothing.
        carrying.take("s2", &report(3, 4, 2), &table, 0);
        carrying.take("s3", &Report { number: 1, services: Vec::new() }, &table, 0);
        assert_eq!((came(), others.read().1), (16, Present::default()));
        carrying.take("s3", &report(2, u64::MAX, 0), &table, 0);
        assert_eq!(came(), 16);
        carrying.take("s3", &report(3, 1, 0), &table, 0);
        assert!(came() <= 18, "{}", came());
    }
}
