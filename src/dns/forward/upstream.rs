//! One resolver: hickory's exchange with it, what it says in a form that is believed, and how it has been doing.
//!
//! Over UDP hickory takes a random port, number and letter case for each question, turns to TCP where an answer is truncated
//! or loses the case, and repeats what got lost. Whoever does not answer twice is *bad*: others are asked first, and it is
//! tried again beside them after a rest that doubles.

use crate::clock;
use crate::dns::forward::entry::Outcome;
use crate::dns::options::{ForwardOptions, ServerOptions};
use hickory_proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_proto::rr::Record;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// What this server can receive over UDP without fragments, RFC 9715 §3.1.
const OWN_UDP_BYTES: u16 = 1232;
/// Unanswered questions in a row after which a resolver is bad.
const BAD_AFTER: u32 = 2;
/// Rest of a bad one: the first, and the longest.
const FIRST_REST_MS: u64 = 500;
const LONGEST_REST_MS: u64 = 10_000;
/// A time that was measured so long ago says nothing any more: the resolver is tried first once.
const MEASURE_LIFE_MS: u64 = 60_000;

/// One resolver.
pub(crate) struct Upstream {
    server: ServerOptions,
    pool: NameServerPool<TokioRuntimeProvider>,
    timeout: Duration,
    /// How it has been doing.
    pub(crate) state: State,
}

/// How a resolver has been doing.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Mean time to an answer in microseconds; 0: not known.
    mean_us: AtomicU64,
    measured_ms: AtomicU64,
    unanswered: AtomicU32,
    /// When a bad one is tried again.
    again_ms: AtomicU64,
    /// Its questions come back to this server: it is not asked before this.
    loops_ms: AtomicU64,
    /// Whether it was asked for a name that would show that.
    pub(crate) probed: AtomicBool,
    /// Counters: answers, refusals, no answers, answers that were not believed.
    counts: [AtomicU64; 4],
    /// Time until answers, in microseconds.
    sum_us: AtomicU64,
}

/// What is told of a resolver.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// Answers, refusals, no answers, answers that were not believed.
    pub(crate) counts: [u64; 4],
    /// Time until answers, in microseconds.
    pub(crate) sum_us: u64,
    /// Whether it answers.
    pub(crate) is_up: bool,
}

/// Why a resolver gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It answered with an error of its own.
    Refused = 1,
    /// It did not answer, or could not be reached.
    Silent = 2,
    /// What it answered is malformed, or for another question.
    Garbage = 3,
}

/// What a resolver said: every record, before any of it is believed.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
}

impl Upstream {
    /// Makes one; `None` for what stands for several.
    pub(crate) fn new(server: &ServerOptions, options: &ForwardOptions, tls: &rustls::ClientConfig) -> Option<Self> {
        let (address, connections) = match server {
            ServerOptions::System => return None,
            ServerOptions::Plain(address) => (*address, vec![ConnectionConfig::udp(), ConnectionConfig::tcp()]),
            ServerOptions::Tls { address, name } => (*address, vec![ConnectionConfig::tls(name.clone())]),
            ServerOptions::Https { address, name, path } => {
                (*address, vec![ConnectionConfig::https(name.clone(), Some(path.clone()))])
            }
        };
        let connections = connections.into_iter().map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let config = NameServerConfig::new(address.ip(), true, connections.collect());
        let context = PoolContext::new(pool_options(options), TlsConfig { config: tls.clone() });
        let pool = NameServerPool::from_config([config], Arc::new(context), TokioRuntimeProvider::default());
        Some(Self { server: server.clone(), pool, timeout: options.timeout, state: State::default() })
    }

    /// Returns how it is written.
    pub(crate) fn server(&self) -> &ServerOptions {
        &self.server
    }

    /// Asks it; takes at most the time of one try.
    pub(crate) async fn ask(&self, question: &Query) -> Result<Said, Failure> {
        let begin = clock::now();
        let mut request = DnsRequestOptions::default();
        request.edns_payload_len = OWN_UDP_BYTES;
        request.case_randomization = matches!(self.server, ServerOptions::Plain(_));
        let answer = timeout(self.timeout, self.pool.lookup(question.clone(), request).first_answer()).await;
        let result = match answer {
            Err(_) => Err(Failure::Silent),
            Ok(Ok(response)) => said(question, response.into_message()),
            Ok(Err(error)) => negative(question, error),
        };
        let now = clock::now();
        self.state
            .note(result.as_ref().map(|_| now.saturating_duration_since(begin)).map_err(|f| *f), clock::to_ms(now));
        result
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("server", &self.server).field("state", &self.state).finish_non_exhaustive()
    }
}

impl State {
    /// Takes note of what came of a question.
    fn note(&self, result: Result<Duration, Failure>, now_ms: u64) {
        let kind = result.map_or_else(|failure| failure as usize, |_| 0);
        if let Some(count) = self.counts.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        match result {
            Ok(took) => {
                let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.sum_us.fetch_add(took, Ordering::Relaxed);
                let mean = match self.mean_us.load(Ordering::Relaxed) {
                    0 => took.max(1),
                    mean => (mean * 7 + took) / 8,
                };
                self.mean_us.store(mean.max(1), Ordering::Relaxed);
                self.measured_ms.store(now_ms, Ordering::Relaxed);
                self.unanswered.store(0, Ordering::Relaxed);
            }
            // It is there.
            Err(Failure::Refused) => self.unanswered.store(0, Ordering::Relaxed),
            Err(Failure::Silent | Failure::Garbage) => {
                let row = self.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
                let doubled = FIRST_REST_MS << row.saturating_sub(BAD_AFTER).min(6);
                self.again_ms.store(now_ms + doubled.min(LONGEST_REST_MS), Ordering::Relaxed);
            }
        }
    }

    /// Notes that it has not answered after so long, and others are asked: it comes behind them until it does.
    pub(crate) fn note_late(&self, waited: Duration, now_ms: u64) {
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX).saturating_mul(2);
        self.mean_us.fetch_max(waited, Ordering::Relaxed);
        self.measured_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Returns what is told of it.
    pub(crate) fn standing(&self, now_ms: u64) -> Standing {
        Standing {
            counts: self.counts.each_ref().map(|count| count.load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
            is_up: !self.is_bad() && !self.is_loop(now_ms),
        }
    }

    /// Returns whether the last questions were not answered.
    pub(crate) fn is_bad(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= BAD_AFTER
    }

    /// Notes that its questions come back: it is not asked before `until_ms`, and then looked at again. Returns whether that
    /// is news.
    pub(crate) fn note_loop(&self, now_ms: u64, until_ms: u64) -> bool {
        let before = self.loops_ms.swap(until_ms, Ordering::Relaxed);
        self.probed.store(false, Ordering::Relaxed);
        before <= now_ms
    }

    /// Returns whether its questions came back lately.
    pub(crate) fn is_loop(&self, now_ms: u64) -> bool {
        now_ms < self.loops_ms.load(Ordering::Relaxed)
    }

    /// Returns whether a bad one is to be tried again now, which is said once.
    pub(crate) fn take_trial(&self, now_ms: u64) -> bool {
        let again = self.again_ms.load(Ordering::Relaxed);
        now_ms >= again
            && self
                .again_ms
                .compare_exchange(again, now_ms + FIRST_REST_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Returns the mean time to an answer in microseconds; 0 when it is not known or long ago.
    pub(crate) fn mean_us(&self, now_ms: u64) -> u64 {
        let measured = self.measured_ms.load(Ordering::Relaxed);
        if now_ms.saturating_sub(measured) > MEASURE_LIFE_MS { 0 } else { self.mean_us.load(Ordering::Relaxed) }
    }
}

fn pool_options(options: &ForwardOptions) -> ResolverOpts {
    let mut pool = ResolverOpts::default();
    pool.timeout = options.timeout;
    pool.num_concurrent_reqs = 1;
    pool.max_active_requests = options.max_in_flight;
    // A second pair of eyes beside port and number; a resolver that loses the case is asked over TCP.
    pool.case_randomization = true;
    pool.edns_payload_len = OWN_UDP_BYTES;
    pool
}

/// Takes an answer that is for this question: over streams hickory compares the number only.
fn said(question: &Query, message: Message) -> Result<Said, Failure> {
    let is_for_it = match message.queries.as_slice() {
        [one] => one.name() == question.name() && one.query_type() == question.query_type(),
        _ => false,
    };
    if !is_for_it {
        return Err(Failure::Garbage);
    }
    let code = message.metadata.response_code;
    Ok(Said { code, answers: message.answers, authorities: message.authorities })
}

/// Takes what hickory has as an error apart: "there is no such record" is an answer.
fn negative(question: &Query, error: NetError) -> Result<Said, Failure> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            if none.query.name() != question.name() || none.query.query_type() != question.query_type() {
                return Err(Failure::Garbage);
            }
            let soa = none.soa.map(|soa| (*soa).into_record_of_rdata());
            let authorities = none.authorities.map_or_else(|| soa.into_iter().collect(), |list| list.to_vec());
            Ok(Said { code: none.response_code, answers: Vec::new(), authorities })
        }
        NetError::Dns(error) => {
            tracing::debug!(name = %question.name(), %error, "a resolver refused a question");
            Err(Failure::Refused)
        }
        error @ (NetError::Timeout | NetError::Io(_) | NetError::NoConnections | NetError::Busy) => {
            tracing::debug!(name = %question.name(), %error, "a resolver gave no answer");
            Err(Failure::Silent)
        }
        error => {
            tracing::debug!(name = %question.name(), %error, "what a resolver answered cannot be used");
            Err(Failure::Garbage)
        }
    }
}

/// What is kept of a failure: the same question is not asked again at once, RFC 9520 §3.2.
pub(crate) fn failed(failure: Failure) -> Outcome {
    use crate::dns::counters::Forwarded;
    let counted = if failure == Failure::Silent { Forwarded::Unreachable } else { Forwarded::Failed };
    Outcome::bare(ResponseCode::ServFail, counted, 1)
}

#[cfg(test)]
mod tests {
    use super::{Failure, State};
    use std::time::Duration;

    #[test]
    fn two_unanswered_in_a_row_are_bad_and_tried_again_after_a_rest_that_doubles() {
        let state = State::default();
        state.note(Err(Failure::Silent), 1000);
        assert!(!state.is_bad());
        state.note(Err(Failure::Refused), 1000);
        state.note(Err(Failure::Garbage), 1000);
        assert!(!state.is_bad(), "an answer between them");
        state.note(Err(Failure::Silent), 1000);
        assert!(state.is_bad() && !state.take_trial(1499));
        assert!(state.take_trial(1500) && !state.take_trial(1501), "one at a time");
        state.note(Err(Failure::Silent), 2000);
        assert!(!state.take_trial(2999) && state.take_trial(3000));
        (0..20).for_each(|_| state.note(Err(Failure::Silent), 10_000));
        assert!(!state.take_trial(19_999) && state.take_trial(20_000));
        state.note(Ok(Duration::from_millis(4)), 20_001);
        assert!(!state.is_bad());
        assert_eq!((state.mean_us(20_002), state.mean_us(90_000)), (4000, 0), "what is long ago says nothing");
    }
}
