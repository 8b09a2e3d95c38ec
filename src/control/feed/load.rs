//! What this Weir carries for services whose replicas another one runs, told to that one with each acknowledgement.
//!
//! A report holds counts since the subscription began, so one that is told twice counts once and one that is lost is made
//! good by the next. Only services of which anything changed are in it. Whoever is told counts them by `carrying.rs`.

use crate::balance::{Carried, Others, Present};
use crate::clock;
use crate::control::autoscale::Reading;
use crate::model::ServiceName;
use crate::table::{Service, Snapshot, Table};
use crate::telemetry::{Metrics, ServiceTotals};
use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

/// Services in one report; the others' turn comes with the next.
pub const MAX_LOADS: usize = 1000;

/// What a Weir carries for the services of one table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Rises with each report of a subscription.
    pub number: u64,
    /// The services of which anything changed.
    pub services: Vec<ServiceLoad>,
}

/// What is carried for one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceLoad {
    /// The service.
    pub service: ServiceName,
    /// What was carried since the subscription began.
    pub carried: Carried,
    /// What is there now.
    pub present: Present,
    /// For how long answers of DNS that named its replicas may be kept, milliseconds.
    pub named_ms: u64,
}

/// Makes the reports of one subscription.
#[derive(Debug)]
pub(super) struct Reporter {
    metrics: Metrics,
    number: u64,
    /// What had been carried here when it began, or when a service was last there.
    base: HashMap<Arc<str>, Carried>,
    ledgers: HashMap<ServiceName, Ledger>,
    /// What was told last.
    told: HashMap<ServiceName, ServiceLoad>,
    /// Whether nothing of the source's table is used, so that nothing is carried for it.
    rests: bool,
}

/// What is carried for one service, by this Weir and by those that follow it, since the subscription began.
#[derive(Debug)]
struct Ledger {
    sum: Carried,
    /// What had been carried here, and by others, at the last look.
    here: Carried,
    others: Arc<Others>,
    there: Carried,
}

impl Ledger {
    /// Adds what was carried since the last look; what counts less than then began anew.
    fn look(&mut self, here: Carried, others: &Arc<Others>) {
        let (there, _, _) = others.read();
        let before = if Arc::ptr_eq(others, &self.others) { self.there } else { Carried::default() };
        for (now, before) in [(here, self.here), (there, before)] {
            let more =
                if now.ended >= before.ended && now.streams >= before.streams { now.since(&before) } else { now };
            self.sum = self.sum.plus(&more);
        }
        (self.here, self.there, self.others) = (here, there, others.clone());
    }
}

impl Reporter {
    /// Begins: what was carried before is not told.
    pub(super) fn new(metrics: Metrics, snapshot: &Snapshot) -> Self {
        let base = metrics.services().into_iter().map(|(name, totals)| (name, carried(&totals))).collect();
        let mut reporter =
            Self { metrics, number: 0, base, ledgers: HashMap::new(), told: HashMap::new(), rests: false };
        reporter.skip(snapshot);
        reporter
    }

    /// Counts what was carried up to now as told.
    fn skip(&mut self, snapshot: &Snapshot) {
        let met = self.metrics.services();
        for service in run_elsewhere(snapshot) {
            let (here, others) = (carried(&of(&met, service)), service.stats.others());
            let (there, _, _) = others.read();
            let sum = self.ledgers.get(service.name()).map_or_else(Carried::default, |ledger| ledger.sum);
            let ledger = Ledger { sum, here, others: others.clone(), there };
            self.ledgers.insert(service.name().clone(), ledger);
        }
    }

    /// Returns what is to be told now; `None`: nothing changed. `is_used`: whether the source's table is in use here, else
    /// nothing is carried for it.
    pub(super) fn report(&mut self, snapshot: &Snapshot, is_used: bool) -> Option<Report> {
        let mut services = if is_used { self.loads(snapshot) } else { self.nothing() };
        self.rests = !is_used;
        if services.is_empty() {
            return None;
        }
        if services.len() > MAX_LOADS {
            // Those that wait for a replica first; of the others each has its turn.
            let turns = services.len().div_ceil(MAX_LOADS) as u64;
            services.rotate_left((self.number % turns) as usize * MAX_LOADS);
            services.sort_by_key(|load| load.present.queued == 0);
            services.truncate(MAX_LOADS);
        }
        self.number += 1;
        Some(Report { number: self.number, services })
    }

    /// Returns the services of which anything changed.
    fn loads(&mut self, snapshot: &Snapshot) -> Vec<ServiceLoad> {
        if std::mem::take(&mut self.rests) {
            // What was carried meanwhile was another source's.
            self.skip(snapshot);
        }
        let (met, now_ms) = (self.metrics.services(), clock::now_ms());
        let nothing = (Carried::default(), Present::default());
        let mut loads = Vec::new();
        for service in run_elsewhere(snapshot) {
            let load = self.load(service, &met, now_ms);
            let before = self.told.get(&load.service).map_or(nothing, |told| (told.carried, told.present));
            // What waits for a first replica is told until there is one: whoever runs it may have begun anew.
            let waits = load.present.queued > 0 && service.candidates.is_empty();
            if waits || load.named_ms > 0 || (load.carried, load.present) != before {
                loads.push(load);
            }
        }
        loads
    }

    /// Returns the services of which something was said to be there: nothing is any more. That counts as ended, else it would
    /// look as if it had never come.
    fn nothing(&self) -> Vec<ServiceLoad> {
        let held = self.told.values().filter(|told| told.present != Present::default());
        held.map(|told| {
            let ended = u64::from(told.present.in_service) + u64::from(told.present.queued);
            let carried = told.carried.plus(&Carried { ended, ..Carried::default() });
            ServiceLoad { carried, present: Present::default(), named_ms: 0, ..told.clone() }
        })
        .collect()
    }

    /// Notes that a report has been taken.
    pub(super) fn taken(&mut self, report: Report, snapshot: &Snapshot) {
        if self.rests {
            for load in &report.services {
                self.ledgers.entry(load.service.clone()).and_modify(|ledger| ledger.sum = load.carried);
            }
        }
        self.told.extend(report.services.into_iter().map(|load| (load.service.clone(), load)));
        self.told.retain(|name, _| snapshot.services.get(name).is_some());
        let base = &mut self.base;
        self.ledgers.retain(|name, ledger| {
            let stays = snapshot.services.get(name).is_some();
            if !stays {
                base.insert(name.as_str().into(), ledger.here);
            }
            stays
        });
    }

    fn load(&mut self, service: &Service, met: &HashMap<Arc<str>, ServiceTotals>, now_ms: u64) -> ServiceLoad {
        let (totals, others) = (of(met, service), service.stats.others());
        let ledger = self.ledgers.entry(service.name().clone()).or_insert_with(|| Ledger {
            sum: Carried::default(),
            here: self.base.get(service.name().as_str()).copied().unwrap_or_default(),
            others: others.clone(),
            there: Carried::default(),
        });
        ledger.look(carried(&totals), others);
        let now = Reading::new(service, totals, now_ms);
        let (_, _, others_ms) = others.read();
        let until_ms = service.stats.marks().named_until_ms().max(others_ms);
        ServiceLoad {
            service: service.name().clone(),
            carried: ledger.sum,
            present: Present { in_service: now.in_service, queued: now.queued, streams_open: now.totals.streams_open },
            named_ms: until_ms.saturating_sub(now_ms),
        }
    }
}

/// Returns the services of which another Weir runs the replicas.
fn run_elsewhere(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Service>> {
    snapshot.services.iter().filter(|service| service.spec.told.is_some())
}

fn of(all: &HashMap<Arc<str>, ServiceTotals>, service: &Service) -> ServiceTotals {
    all.get(service.name().as_str()).copied().unwrap_or_default()
}

fn carried(totals: &ServiceTotals) -> Carried {
    Carried {
        ended: totals.ended,
        served: totals.served,
        service_us: totals.service_us,
        service_us2: totals.service_us2,
        late: totals.late,
        streams: totals.streams,
    }
}

/// Returns a report as it is told.
pub(super) fn written(report: &Report) -> serde_json::Value {
    let services = report.services.iter().map(|load| {
        let (carried, present) = (&load.carried, &load.present);
        serde_json::json!({
            "service": load.service.as_str(),
            "ended": carried.ended, "served": carried.served, "service_us": carried.service_us,
            "service_us2": carried.service_us2, "late": carried.late, "streams": carried.streams,
            "in_service": present.in_service, "queued": present.queued, "streams_open": present.streams_open,
            "named_ms": load.named_ms,
        })
    });
    serde_json::json!({ "number": report.number, "services": services.collect::<Vec<_>>() })
}

/// Waits until something asks for a first replica of a service that another Weir runs.
pub(super) async fn rung(table: Table) {
    let snapshot = table.load();
    let asleep = |service: &&Arc<Service>| service.spec.told.is_some() && service.candidates.is_empty();
    let mut bells: Vec<_> =
        snapshot.services.iter().filter(asleep).map(|service| Box::pin(service.wake.rung())).collect();
    poll_fn(|cx| {
        // All of them: what rang meanwhile is told together.
        let rang = bells.iter_mut().map(|bell| bell.as_mut().poll(cx)).filter(Poll::is_ready).count();
        if rang > 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Reporter};
    use crate::balance::{Carried, Others, Present, Share};
    use crate::control::registry::fixture::spec;
    use crate::model::{ServiceSpec, ToldSpec};
    use crate::table::names::Names;
    use crate::table::{Change, Changes, Snapshot, build};
    use crate::telemetry::Metrics;
    use std::sync::Arc;
    use std::time::Duration;

    /// A table with a service that another Weir runs.
    fn table() -> Snapshot {
        let told = ToldSpec { wakes: true, wake_timeout: Duration::from_secs(30), latency: None };
        let spec = Arc::new(ServiceSpec { told: Some(told), ..spec("web", None) });
        let services = vec![Change::Set { spec, instances: Vec::new() }];
        build(&Snapshot::empty(Names::default()), Changes { services, ..Changes::default() })
    }

    fn ended(ended: u64) -> Carried {
        Carried { ended, ..Carried::default() }
    }

    #[test]
    fn what_followers_of_a_follower_carried_is_told_once() {
        let table = table();
        let stats = table.services.iter().next().unwrap().stats.clone();
        let mut share = Share::new(stats.others().clone());
        share.report(&ended(100), Present { in_service: 2, ..Present::default() }, 0);
        let mut reporter = Reporter::new(Metrics::new(), &table);
        let told = |reporter: &mut Reporter, is_used: bool| {
            let report = reporter.report(&table, is_used)?;
            let load = report.services[0].clone();
            reporter.taken(report, &table);
            Some((load.carried.ended, load.present.in_service))
        };
        assert_eq!(told(&mut reporter, true), Some((0, 2)), "what was before the subscription is not told again");
        assert_eq!(told(&mut reporter, true), None);
        share.report(&ended(5), Present { in_service: 1, ..Present::default() }, 0);
        assert_eq!(told(&mut reporter, true), Some((5, 1)));
        // Another source is used meanwhile: nothing is there for this one, and what is carried is not its.
        assert_eq!(told(&mut reporter, false), Some((6, 0)), "what was there has ended, for it");
        assert_eq!(told(&mut reporter, false), None);
        share.report(&ended(70), Present { in_service: 4, ..Present::default() }, 0);
        assert_eq!(told(&mut reporter, false), None);
        assert_eq!(told(&mut reporter, true), Some((6, 4)));
        share.report(&ended(1), Present::default(), 0);
        assert_eq!(told(&mut reporter, true), Some((7, 0)));
    }

    #[test]
    fn what_waits_for_a_first_replica_is_told_each_time() {
        let table = table();
        let stats = table.services.iter().next().unwrap().stats.clone();
        let mut reporter = Reporter::new(Metrics::new(), &table);
        let place = stats.try_wait(10).unwrap();
        for _ in 0..3 {
            let report = reporter.report(&table, true).unwrap();
            assert_eq!(report.services[0].present.queued, 1);
            reporter.taken(report, &table);
        }
        drop(place);
        let report = reporter.report(&table, true).unwrap();
        reporter.taken(report, &table);
        assert!(reporter.report(&table, true).is_none());
    }

    #[test]
    fn counts_that_begin_anew_are_counted_from_there() {
        let others = Arc::new(Others::default());
        let mut ledger =
            Ledger { sum: Carried::default(), here: ended(10), others: others.clone(), there: Carried::default() };
        let mut share = Share::new(others.clone());
        share.report(&ended(3), Present::default(), 0);
        ledger.look(ended(12), &others);
        assert_eq!(ledger.sum, ended(5));
        // The service was defined anew: both begin at none.
        ledger.look(ended(1), &Arc::new(Others::default()));
        assert_eq!(ledger.sum, ended(6));
    }
}
