//! Questions about names that are not ours, asked of other resolvers on behalf of clients that may.
//!
//! Owns the resolvers, the answers that are kept and who may ask; the bound on questions in flight is the caller's, `tcp.rs`.
//! Never sees a name of the own zone or of an address in the table: `handler.rs` answers those. A question's way:
//! [`Forwarder::quick`] on any DNS thread → `hosts.rs` → `cache.rs`; else [`Forwarder::answer`] on `dns-slow` → `zones.rs` →
//! `race.rs` → `upstream.rs` → `belief.rs` → `entry.rs`. Identical questions are asked once. When nobody answers, an old
//! answer is given (RFC 8767). Answers say RA, never AA. Follows RFC 1034 §5.3, 2308, 5452, 6761, 6891, 8767, 9520.

mod belief;
mod cache;
mod entry;
mod files;
mod hosts;
mod loops;
mod race;
mod upstream;
mod zones;

use crate::clock;
use crate::dns::counters::{Forwarded, Path};
use crate::dns::network;
use crate::dns::options::{ForwardOptions, Networks};
use crate::dnswire::{MAX_NAME_BYTES, Parsed, Query, labels, lower_into, parse_name, rtype};
use belief::{Chain, Next};
use cache::{Cache, Kept};
use entry::{Age, Entry, Key, Outcome, key_in};
use files::Files;
use hickory_proto::op::{Message, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use loops::Loops;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use upstream::{Failure, Standing, failed};

/// An answer that is past its TTL is given when nobody answers within this: RFC 8767 §5, the client response timer.
const STALE_WAIT: Duration = Duration::from_millis(1800);
/// As long nobody is asked again after a failure while there is an old answer: the failure recheck timer.
const RECHECK_MS: u64 = 30_000;
/// Largest message over TCP.
const MAX_MESSAGE_BYTES: usize = 65_535;

/// Asks other resolvers.
#[derive(Debug)]
pub(crate) struct Forwarder {
    options: ForwardOptions,
    own_zone: Vec<u8>,
    cache: Cache,
    files: Files,
    loops: Loops,
    flights: Mutex<HashMap<Key, Flight>>,
}

type Flight = watch::Receiver<Option<Arc<Entry>>>;

/// What was written into the caller's room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) bytes: usize,
    pub(crate) code: u16,
    pub(crate) counted: Forwarded,
    pub(crate) path: Path,
}

/// A question, and where the answer goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Foreign<'q> {
    pub(crate) query: Query<'q>,
    pub(crate) client: Option<IpAddr>,
    /// Largest answer, in octets.
    pub(crate) max_bytes: usize,
}

impl Forwarder {
    /// Makes a forwarder; `own` are this server's addresses, which it never asks, and `zone` its zone. Reads the files that
    /// the options name.
    pub(crate) fn new(options: ForwardOptions, own: &[SocketAddr], zone: &str) -> Self {
        Self {
            own_zone: parse_name(zone).unwrap_or_default(),
            cache: Cache::new(options.cache_bytes),
            files: Files::new(&options, own),
            loops: Loops::default(),
            flights: Mutex::default(),
            options,
        }
    }

    /// Returns what it was made of.
    pub(crate) fn options(&self) -> &ForwardOptions {
        &self.options
    }

    /// Returns whether a client may have names resolved.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        contains(&self.options.allow, client)
    }

    /// Answers from what is known, without asking anybody; `None` when somebody is to be asked, or files may have changed.
    pub(crate) fn quick(&self, asked: &Foreign<'_>, now_ms: u64, out: &mut [u8]) -> Option<Answered> {
        if self.files.are_due(now_ms) {
            return None;
        }
        if let Some(answered) = self.local(asked, out) {
            return Some(answered);
        }
        let mut room = [0; MAX_NAME_BYTES + 2];
        let entry = self.cache.get(key_in(&asked.query, &mut room))?;
        let age = entry.age(now_ms, self.stale_ms())?;
        let path = match age {
            Age::Fresh if entry.used(now_ms) => return None,
            Age::Fresh => Path::Cached,
            Age::Stale if entry.rests(now_ms) => Path::Stale,
            Age::Stale => return None,
        };
        Some(written(&entry, asked, (now_ms, age), path, out))
    }

    /// Answers a question that `handler.rs` found to be foreign, on the thread `dns-slow`; takes at most two tries' time.
    pub(crate) async fn answer(self: &Arc<Self>, asked: &Foreign<'_>) -> (Vec<u8>, Answered) {
        let now_ms = clock::now_ms();
        self.files.check(now_ms, &self.options);
        let mut out = vec![0; asked.max_bytes.min(MAX_MESSAGE_BYTES)];
        let answered = match self.local(asked, &mut out) {
            Some(answered) => answered,
            None => self.find(asked, now_ms, &mut out).await,
        };
        out.truncate(answered.bytes);
        (out, answered)
    }

    /// Answers what no resolver need be asked.
    fn local(&self, asked: &Foreign<'_>, out: &mut [u8]) -> Option<Answered> {
        let hosts = self.files.hosts();
        let (bytes, code, counted) = hosts.answer(&asked.query, asked.client, asked.max_bytes, out)?;
        Some(Answered { bytes, code, counted, path: Path::Cached })
    }

    async fn find(self: &Arc<Self>, asked: &Foreign<'_>, now_ms: u64, out: &mut [u8]) -> Answered {
        let mut room = [0; MAX_NAME_BYTES + 2];
        let key = key_in(&asked.query, &mut room);
        let read = name_of(&asked.query);
        let Some((name, kind)) = read.filter(|_| !self.loops.came_back(key)) else { return nothing(asked, out) };
        if is_short(&asked.query) {
            let entry = Entry::new(&name, kind, Outcome::bare(ResponseCode::NXDomain, Forwarded::Short, 0), now_ms);
            let Some(entry) = entry else { return nothing(asked, out) };
            return written(&entry, asked, (now_ms, Age::Fresh), Path::Forwarded, out);
        }
        let known = self.cache.get(key).and_then(|entry| Some((entry.age(now_ms, self.stale_ms())?, entry)));
        let (wait, old) = match known {
            Some((Age::Fresh, entry)) => {
                let is_due = entry.used(now_ms) || entry.is_refreshing();
                if is_due && !entry.rests(now_ms) {
                    // Asked for anew before its end: this client need not wait for it.
                    self.fly(key, name, kind);
                }
                return written(&entry, asked, (now_ms, Age::Fresh), Path::Cached, out);
            }
            Some((Age::Stale, entry)) if entry.rests(now_ms) => {
                return written(&entry, asked, (now_ms, Age::Stale), Path::Stale, out);
            }
            Some((Age::Stale, entry)) => (if self.is_bad(key) { Duration::ZERO } else { STALE_WAIT }, Some(entry)),
            None => (2 * self.options.timeout + STALE_WAIT, None),
        };
        let flight = self.fly(key, name, kind);
        // Who need not wait does not: a timer would take a millisecond.
        let found = if wait.is_zero() { None } else { timeout(wait, landed(flight)).await.ok().flatten() };
        let now_ms = clock::now_ms();
        match (found.filter(|entry| old.is_none() || !entry.is_failure()), old) {
            (Some(entry), _) => written(&entry, asked, (now_ms, Age::Fresh), Path::Forwarded, out),
            (None, Some(entry)) => {
                entry.rest_until(now_ms + RECHECK_MS);
                written(&entry, asked, (now_ms, Age::Stale), Path::Stale, out)
            }
            (None, None) => nothing(asked, out),
        }
    }

    fn stale_ms(&self) -> u64 {
        u64::try_from(self.options.stale.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns whether nobody has answered lately who could be asked for this.
    fn is_bad(&self, key: &[u8]) -> bool {
        let name = key.split_last_chunk::<2>().map_or(key, |(name, _)| name);
        self.files.zones().find(name).is_bad()
    }

    /// Asks, or joins those who wait already.
    fn fly(self: &Arc<Self>, key: &[u8], name: Name, kind: RecordType) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key).filter(|flight| flight.has_changed().is_ok()) {
            return flight.clone();
        }
        let (sender, flight) = watch::channel(None);
        flights.insert(key.into(), flight.clone());
        let (this, key) = (self.clone(), Key::from(key));
        tokio::task::spawn_local(async move {
            let limit = 2 * this.options.timeout;
            let outcome = timeout(limit, this.resolve(name.clone(), kind)).await;
            let outcome = outcome.unwrap_or_else(|_| failed(Failure::Silent));
            let entry = this.keep(&key, &name, kind, outcome);
            this.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            // Nobody may wait any more.
            let _ = sender.send(entry);
        });
        flight
    }

    /// Keeps an answer; a failure does not take the place of an old one.
    fn keep(&self, key: &[u8], name: &Name, kind: RecordType, outcome: Outcome) -> Option<Arc<Entry>> {
        let now_ms = clock::now_ms();
        let (is_failure, entry) = (outcome.is_failure(), Arc::new(Entry::new(name, kind, outcome, now_ms)?));
        let before = self.cache.get(key).filter(|before| before.age(now_ms, self.stale_ms()).is_some());
        match before.filter(|before| is_failure && !before.is_failure()) {
            Some(before) => before.rest_until(now_ms + RECHECK_MS),
            None => self.cache.put(key, entry.clone()),
        }
        Some(entry)
    }

    /// Asks until aliases have led to an answer.
    async fn resolve(&self, name: Name, kind: RecordType) -> Outcome {
        let mut chain = Chain::new(name, kind);
        for step in 0..=belief::MAX_ALIASES {
            let name = chain.name().to_lowercase();
            let Some(wire) = parse_wire(&name) else { break };
            if step > 0 && !self.own_zone.is_empty() && wire.ends_with(&self.own_zone) {
                return chain.unfinished();
            }
            let zones = self.files.zones();
            let group = zones.find(&wire);
            self.loops.probe(group);
            let mut question = Question::query(name, kind);
            question.name.set_fqdn(true);
            let said = match group.ask(&question, self.options.timeout).await {
                Ok((said, _)) => said,
                Err(failure) => return failed(failure),
            };
            match chain.take(&group.zone, said) {
                Next::Done(outcome) => return self.without_denied(outcome),
                Next::Ask => {}
                Next::Endless => break,
            }
        }
        failed(Failure::Garbage)
    }

    /// Leaves out addresses that no answer may name.
    fn without_denied(&self, mut outcome: Outcome) -> Outcome {
        let found = outcome.answers.len();
        let denied = |address| contains(&self.options.deny_answers, address);
        outcome.answers.retain(|record| record.data.ip_addr().is_none_or(|address| !denied(address)));
        if outcome.answers.len() < found {
            tracing::debug!("left out addresses that answers of other resolvers must not name");
            if outcome.answers.is_empty() {
                outcome.counted = Forwarded::NoData;
            }
        }
        outcome
    }

    /// Returns what is kept.
    pub(crate) fn kept(&self) -> Kept {
        self.cache.kept()
    }

    /// Returns each resolver as it is written, and how it does.
    pub(crate) fn resolvers(&self) -> Vec<(String, Standing)> {
        let (zones, now_ms) = (self.files.zones(), clock::now_ms());
        let each = zones.upstreams().map(|upstream| (upstream.server().to_string(), upstream.state.standing(now_ms)));
        let mut list: Vec<_> = each.collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list.dedup_by(|a, b| a.0 == b.0);
        list
    }
}

async fn landed(mut flight: Flight) -> Option<Arc<Entry>> {
    let landed = flight.wait_for(Option::is_some).await.ok()?;
    landed.clone()
}

fn written(entry: &Entry, asked: &Foreign<'_>, at: (u64, Age), path: Path, out: &mut [u8]) -> Answered {
    let bytes = entry.write(&asked.query, at, asked.max_bytes, out);
    Answered { bytes, code: entry.code(), counted: entry.counted(), path }
}

/// Nothing could be found out.
fn nothing(asked: &Foreign<'_>, out: &mut [u8]) -> Answered {
    let failure = entry::failure(&asked.query);
    if let Some(place) = out.get_mut(..failure.len()) {
        place.copy_from_slice(&failure);
    }
    let code = u16::from(ResponseCode::ServFail);
    Answered { bytes: failure.len(), code, counted: Forwarded::Failed, path: Path::Forwarded }
}

/// Reads a message that is for the forwarder; `None` when it is no question.
pub(crate) fn question_of(message: &[u8]) -> Option<Query<'_>> {
    match Query::parse(message) {
        Parsed::Fast(query) => Some(query),
        Parsed::Slow => {
            let (mut query, _) = Query::question_of(message)?;
            let edns = Message::from_vec(message).ok()?.edns;
            query.edns = edns
                .map(|edns| crate::dnswire::Edns { udp_bytes: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
            Some(query)
        }
        Parsed::FormErr | Parsed::Silent => None,
    }
}

fn name_of(query: &Query<'_>) -> Option<(Name, RecordType)> {
    let name = Name::read(&mut BinDecoder::new(query.name())).ok()?;
    Some((name, RecordType::from(query.rtype)))
}

fn parse_wire(name: &Name) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(name.len() + 1);
    for label in name.iter() {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    Some(wire)
}

/// Returns whether no resolver need be asked: a single label is a short name that no search list completed, and goes no
/// further. Answered without SOA, so that nobody keeps it.
fn is_short(query: &Query<'_>) -> bool {
    let mut room = [0; MAX_NAME_BYTES];
    matches!(query.rtype, rtype::A | rtype::AAAA) && labels(lower_into(query.name(), &mut room)).count() == 1
}

/// Returns whether an address is in one of the networks; an IPv4 address in IPv6 form counts as IPv4.
fn contains(networks: &Networks, address: IpAddr) -> bool {
    networks.iter().any(|network| network::contains(*network, address))
}
