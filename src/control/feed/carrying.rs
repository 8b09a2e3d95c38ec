//! What one follower carries, as this Weir counts it. Pure but for the sums that it keeps in the table's counters.

use crate::balance::{Carried, Present, Share};
use crate::control::feed::load::{Report, ServiceLoad};
use crate::model::ServiceName;
use crate::table::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Services that are counted for one follower.
const MAX_SERVICES: usize = 10_000;
/// Bounds of what one follower may claim to hold, so that sums mean something whatever it says.
const MAX_PRESENT: u32 = 1_000_000;
/// Longest time that its answers of DNS are believed to be kept.
const MAX_NAMED_MS: u64 = 3_600_000;
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
            // Its counts begin anew.
            *self = Self { session: session.to_owned(), ..Self::default() };
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
        let more = self.count.map_or_else(Carried::default, |count| load.carried.since(&count));
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

fn until(named_ms: u64, now_ms: u64) -> u64 {
    if named_ms == 0 { 0 } else { now_ms.saturating_add(named_ms.min(MAX_NAMED_MS)) }
}
