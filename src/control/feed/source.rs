//! One source of the table: a subscription at another Weir, or a file.
//!
//! A subscription is two connections: one that the table comes on, one that says what of it is in use. When either breaks,
//! or nothing comes for three times the heartbeat, both are opened again after a pause that grows and is jittered. Tables go
//! to `incoming.rs`, which decides; what is used here is said by [`Applied`].

use crate::clock;
use crate::control::PlaceOptions;
use crate::control::feed::assembly::{Assembly, MAX_LINE, Refusal, Step};
use crate::control::feed::fleet::Use;
use crate::control::feed::held::Held;
use crate::control::feed::import::Leaving;
use crate::control::feed::kept;
use crate::control::feed::link::{Link, LinkError};
use crate::control::feed::load::{self, Report, Reporter};
use crate::control::feed::table::FedTable;
use crate::rng::Rng;
use crate::table::Table;
use crate::telemetry::Metrics;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

/// First and longest pause before the next attempt, ± 50 %: below the time for which who says nothing is waited for.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(1_500));
/// Between two looks at withdrawn endpoints that are still used.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at a file.
const FILE_LOOK: Duration = Duration::from_millis(250);

/// What a source says.
#[derive(Debug)]
pub(super) enum News {
    /// It lives, with this table.
    Table(Arc<FedTable>),
    /// It lives.
    Alive,
    /// It is lost, or was refused.
    Lost(LinkError),
}

/// What is used of a source's tables.
#[derive(Debug, Clone, Default)]
pub(super) struct Applied {
    /// The generation of the source, and what it is counted in.
    pub(super) generation: u64,
    pub(super) epoch: Arc<str>,
    /// The generation of this Weir's table that shows it, or that was the first without anything of it; 0: it was never used.
    pub(super) local: u64,
    /// Whether it is in use.
    pub(super) is_used: bool,
    /// Withdrawn endpoints that may still be used.
    pub(super) leaving: Arc<[Leaving]>,
    /// Endpoints that were in use when its table was, and still are.
    pub(super) held: Arc<[Held]>,
}

/// A source as its task has it.
#[derive(Debug)]
pub(super) struct Feeder {
    /// Its place among the sources.
    pub(super) index: usize,
    /// What this Weir is called there.
    pub(super) name: String,
    /// Which process of it this is.
    pub(super) process: String,
    /// What this Weir is called in its own feed: what came by that is its own table.
    pub(super) own: Arc<str>,
    pub(super) news: mpsc::Sender<(usize, News)>,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) table: Table,
    /// What is carried here.
    pub(super) metrics: Metrics,
    /// How often a line is asked for.
    pub(super) heartbeat: Duration,
    /// Says that this Weir ends.
    pub(super) leaving: watch::Receiver<bool>,
    /// What is known of the table.
    pub(super) known: Option<Arc<FedTable>>,
    /// Whether that was passed on: what was kept is not until the source says that it holds.
    pub(super) passed: bool,
}

impl Feeder {
    /// Follows another Weir for ever.
    pub(super) async fn follow(mut self, place: PlaceOptions) {
        let (mut rng, mut pause) = (Rng::from_os(), PAUSE.0);
        loop {
            let session = format!("{:016x}", rng.next_u64());
            let began_ms = clock::now_ms();
            let Err(error) = self.subscription(&place, &session).await else { return };
            if self.news.send((self.index, News::Lost(error))).await.is_err() {
                return;
            }
            // One that held for a while begins anew.
            if clock::now_ms().saturating_sub(began_ms) > 5_000 {
                pause = PAUSE.0;
            }
            tokio::select! {
                () = sleep(rng.jitter(pause, 0.5)) => {}
                () = ending(&mut self.leaving) => return,
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Subscribes once and follows; returns without an error when nobody listens any more.
    async fn subscription(&mut self, place: &PlaceOptions, session: &str) -> Result<(), LinkError> {
        let mut link = place.open().await?;
        let mut path = format!("/v1/table?watch&name={}&process={}&session={session}", self.name, self.process);
        path.push_str(&format!("&heartbeat_ms={}", self.heartbeat.as_millis()));
        if let Some(known) = self.known.as_ref().filter(|known| !known.epoch.is_empty()) {
            path.push_str(&format!("&from={}&epoch={}", known.generation, known.epoch));
        }
        let body = link.stream(&path).await?;
        let (speaks, epoch) = watch::channel(None);
        let beat = Notify::new();
        let says = Says {
            epoch,
            beat: &beat,
            place: place.clone(),
            name: self.name.clone(),
            session: session.to_owned(),
            applied: self.applied.clone(),
            table: self.table.clone(),
            reporter: Reporter::new(self.metrics.clone(), &self.table.load()),
            heartbeat: self.heartbeat,
            leaving: self.leaving.clone(),
        };
        tokio::select! {
            read = self.read(body, session, (speaks, &beat)) => read,
            said = says.run() => said,
        }
    }

    /// Reads tables, and tells by `speaks` what generations are counted in here, by `beat` of each heartbeat.
    async fn read(
        &mut self,
        mut body: Incoming,
        session: &str,
        (speaks, beat): (watch::Sender<Option<Arc<str>>>, &Notify),
    ) -> Result<(), LinkError> {
        let mut assembly = Assembly::new(Some(session.to_owned()), self.known.clone(), Some(self.own.clone()));
        let (mut buffer, mut seen, limit) = (Vec::new(), 0, self.heartbeat * 3);
        loop {
            let frame = timeout(limit, body.frame()).await;
            let frame = frame.map_err(|_| LinkError::Unreachable(format!("nothing came for {limit:?}")))?;
            let Some(frame) = frame else {
                let refusal = assembly.ended(&buffer).map(LinkError::Refused);
                return Err(refusal.unwrap_or_else(|| LinkError::Unreachable("it ended the stream".to_owned())));
            };
            let frame = frame.map_err(|error| match assembly.ended(&buffer) {
                Some(refusal) => LinkError::Refused(refusal),
                None => LinkError::Unreachable(error.to_string()),
            })?;
            let Ok(data) = frame.into_data() else { continue };
            buffer.extend_from_slice(&data);
            let mut at = 0;
            // What was looked at before is not looked at again, however small the pieces are.
            while let Some(more) = memchr::memchr(b'\n', buffer.get(seen..).unwrap_or_default()) {
                let step = assembly.line(buffer.get(at..seen + more).unwrap_or_default())?;
                (at, seen) = (seen + more + 1, seen + more + 1);
                match &step {
                    Step::Hello { epoch } => drop(speaks.send_replace(Some(epoch.clone()))),
                    Step::Heartbeat => beat.notify_one(),
                    _ => {}
                }
                if !self.tell(step).await {
                    return Ok(());
                }
            }
            buffer.drain(..at);
            seen = buffer.len();
            if buffer.len() > MAX_LINE {
                return Err(Refusal::TooLarge(format!("a line above {MAX_LINE} octets")).into());
            }
        }
    }

    /// Passes on what a line completed; returns whether somebody listens.
    async fn tell(&mut self, step: Step) -> bool {
        let news = match step {
            Step::Nothing | Step::Hello { .. } => return true,
            // A heartbeat is of the table that is known.
            Step::Heartbeat => match &self.known {
                Some(table) if !self.passed => News::Table(table.clone()),
                _ => News::Alive,
            },
            Step::Table(table) => {
                self.known = Some(table.clone());
                News::Table(table)
            }
        };
        self.passed |= matches!(news, News::Table(_));
        self.news.send((self.index, news)).await.is_ok()
    }

    /// Reads a file whenever it changes, for ever.
    pub(super) async fn watch(self, path: PathBuf) {
        let mut seen = None;
        loop {
            // A file that is renamed into its place may have the length and the times of the one before.
            let state = tokio::fs::metadata(&path).await.ok().map(|found| {
                [
                    found.dev(),
                    found.ino(),
                    found.len(),
                    found.mtime() as u64,
                    found.mtime_nsec() as u64,
                    found.ctime() as u64,
                    found.ctime_nsec() as u64,
                ]
            });
            if seen != Some(state) {
                seen = Some(state);
                let from = path.clone();
                let read = tokio::task::spawn_blocking(move || kept::read(&from)).await;
                let news = match read {
                    Ok(Ok(table)) => News::Table(table),
                    Ok(Err(kept::FileError::Refused(refusal))) => News::Lost(refusal.into()),
                    Ok(Err(kept::FileError::Read(error))) => News::Lost(LinkError::Unreachable(error.to_string())),
                    Err(_) => return,
                };
                if self.news.send((self.index, news)).await.is_err() {
                    return;
                }
            }
            sleep(FILE_LOOK).await;
        }
    }
}

/// Waits until this Weir ends.
async fn ending(leaving: &mut watch::Receiver<bool>) {
    // Whoever could say so being gone is the same.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}

/// Says what is in use, on a connection of its own.
struct Says<'a> {
    /// What generations are counted in at the other end; `None`: it has not said it yet.
    epoch: watch::Receiver<Option<Arc<str>>>,
    /// Heartbeats of the other end.
    beat: &'a Notify,
    place: PlaceOptions,
    name: String,
    session: String,
    applied: watch::Receiver<Applied>,
    table: Table,
    reporter: Reporter,
    heartbeat: Duration,
    leaving: watch::Receiver<bool>,
}

/// What one acknowledgement says.
#[derive(Debug, Default)]
struct Said {
    generation: u64,
    uses: Vec<Use>,
    load: Option<Report>,
}

impl Says<'_> {
    async fn run(mut self) -> Result<(), LinkError> {
        let mut link = self.place.open().await?;
        let (mut generation, mut said) = (0, None);
        let (mut due_ms, mut rang, mut beats) = (0, false, false);
        // Somewhat before or after it is due it goes with a heartbeat, for which this Weir is awake anyhow.
        let slack_ms = millis(self.heartbeat / 4);
        loop {
            let applied = self.applied.borrow_and_update().clone();
            let is_used = self.table.lagging(applied.local).is_empty();
            // Numbers of before it was started again mean something else to it.
            if is_used && self.epoch.borrow_and_update().as_ref() == Some(&applied.epoch) {
                generation = applied.generation;
            }
            // After the workers have it: from now on less and less is in flight.
            let uses = self.uses(&applied);
            let busy: Vec<_> = uses.iter().filter(|one| one.in_flight).map(|one| one.instance.clone()).collect();
            let (now_ms, is_busy) = (clock::now_ms(), !busy.is_empty());
            let news = Some((generation, busy));
            let is_due = now_ms >= due_ms || rang || (beats && now_ms + slack_ms >= due_ms);
            if generation > 0 && (said != news || is_due) {
                let load = if is_due { self.reporter.report(&self.table.load(), applied.is_used) } else { None };
                self.acknowledge(&mut link, Said { generation, uses, load }).await?;
                if is_due {
                    due_ms = clock::now_ms() + millis(self.heartbeat);
                }
                said = news;
            }
            let until = Duration::from_millis((due_ms + slack_ms).saturating_sub(clock::now_ms()).max(1));
            let pause = if is_busy { LOOK } else { until };
            let pause = if generation == 0 { self.heartbeat } else { pause };
            beats = false;
            rang = tokio::select! {
                () = self.beat.notified() => {
                    beats = true;
                    false
                }
                changed = self.applied.changed() => if changed.is_err() { return Ok(()) } else { false },
                Ok(()) = self.epoch.changed() => false,
                () = self.table.acknowledged(applied.local), if !is_used => false,
                () = load::rung(self.table.clone()) => true,
                () = sleep(pause) => false,
                () = ending(&mut self.leaving) => break,
            };
            if rang {
                // A burst brings more than its first request.
                sleep(LOOK).await;
            }
        }
        self.tell(&mut link, "/v1/table/leave", &Said { generation, ..Said::default() }).await
    }

    fn uses(&self, applied: &Applied) -> Vec<Use> {
        let (snapshot, now_ms) = (self.table.load(), clock::now_ms());
        let of = |(service, instance): &Leaving| {
            let known = snapshot.services.get(service)?;
            let (_, candidate) = known.draining.iter().find(|(endpoint, _)| endpoint.id == *instance)?;
            let in_flight = candidate.stats.in_flight() > 0 || candidate.stats.elsewhere() > 0;
            let named_ms = candidate.stats.marks().named_until_ms().saturating_sub(now_ms);
            let used = in_flight || named_ms > 0;
            used.then(|| Use { service: service.clone(), instance: instance.clone(), in_flight, named_ms })
        };
        let held = applied.held.iter().filter(|one| one.is_used()).map(|one| Use {
            service: one.service.clone(),
            instance: one.instance.clone(),
            in_flight: true,
            named_ms: 0,
        });
        let mut uses: Vec<Use> = applied.leaving.iter().filter_map(of).chain(held).collect();
        // Names are kept for a service and not for one endpoint: said once they are said for all.
        let mut named = HashSet::new();
        uses.retain(|one| named.insert(one.service.clone()) || one.in_flight);
        uses
    }

    async fn acknowledge(&mut self, link: &mut Link, said: Said) -> Result<(), LinkError> {
        self.tell(link, "/v1/table/acknowledge", &said).await?;
        if let Some(report) = said.load {
            self.reporter.taken(report, &self.table.load());
        }
        Ok(())
    }

    async fn tell(&self, link: &mut Link, path: &str, said: &Said) -> Result<(), LinkError> {
        let uses: Vec<_> = said
            .uses
            .iter()
            .map(|one| {
                serde_json::json!({
                    "service": one.service.as_str(), "instance": one.instance.as_str(),
                    "in_flight": one.in_flight, "named_ms": one.named_ms,
                })
            })
            .collect();
        let mut body = serde_json::json!({
            "name": self.name, "session": self.session, "generation": said.generation, "uses": uses,
        });
        if let (Some(report), Some(fields)) = (&said.load, body.as_object_mut()) {
            fields.insert("load".to_owned(), load::written(report));
        }
        link.send(Method::POST, path, Bytes::from(body.to_string())).await.map(|_| ())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
