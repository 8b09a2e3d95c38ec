//! What this Weir carries for services whose replicas another one runs, told to that one with each acknowledgement.
//!
//! A report holds counts since the subscription began, so one that is told twice counts once and one that is lost is made
//! good by the next. Only services of which anything changed are in it. Whoever is told counts them by `carrying.rs`.

use crate::balance::{Carried, Present};
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
    /// What had been carried when it began.
    base: HashMap<Arc<str>, ServiceTotals>,
    /// What was told last.
    told: HashMap<ServiceName, ServiceLoad>,
}

impl Reporter {
    /// Begins: what was carried before is not told.
    pub(super) fn new(metrics: Metrics) -> Self {
        let base = metrics.services();
        Self { metrics, number: 0, base, told: HashMap::new() }
    }

    /// Returns what is to be told now; `None`: nothing changed.
    pub(super) fn report(&mut self, snapshot: &Snapshot) -> Option<Report> {
        let (met, now_ms) = (self.metrics.services(), clock::now_ms());
        let run = snapshot.services.iter().filter(|service| service.spec.told.is_some());
        let loads = run.map(|service| self.load(service, &met, now_ms));
        let nothing = (Carried::default(), Present::default());
        let is_news = |load: &ServiceLoad| {
            let before = self.told.get(&load.service).map_or(nothing, |told| (told.carried, told.present));
            load.named_ms > 0 || (load.carried, load.present) != before
        };
        let mut services: Vec<_> = loads.filter(is_news).collect();
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

    /// Notes that a report has been taken.
    pub(super) fn taken(&mut self, report: Report, snapshot: &Snapshot) {
        self.told.extend(report.services.into_iter().map(|load| (load.service.clone(), load)));
        self.told.retain(|name, _| snapshot.services.get(name).is_some());
    }

    fn load(&self, service: &Service, met: &HashMap<Arc<str>, ServiceTotals>, now_ms: u64) -> ServiceLoad {
        let name = service.name().as_str();
        let of = |all: &HashMap<Arc<str>, ServiceTotals>| all.get(name).copied().unwrap_or_default();
        let (now, base) = (Reading::new(service, of(met), now_ms), of(&self.base));
        let (_, _, others_ms) = service.stats.others().read();
        let until_ms = service.stats.marks().named_until_ms().max(others_ms);
        ServiceLoad {
            service: service.name().clone(),
            carried: carried(&now.totals).since(&carried(&base)),
            present: Present { in_service: now.in_service, queued: now.queued, streams_open: now.totals.streams_open },
            named_ms: until_ms.saturating_sub(now_ms),
        }
    }
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
