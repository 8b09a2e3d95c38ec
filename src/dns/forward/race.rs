//! Which resolvers are asked, in which order, and when the next one is: no question waits for one that is gone.
//!
//! The quickest comes first. A second is asked when the first takes much longer than it is used to, and at once when it
//! fails or is known to be bad. Whoever is late still answers into its own record: it is not blamed for coming second.

use crate::clock;
use crate::dns::forward::upstream::{Failure, Said, Upstream};
use hickory_proto::op::Query;
use hickory_proto::rr::Name;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// Questions to resolvers for one of a client, at most.
const MAX_TRIES: usize = 3;
/// How long the first may take before a second is asked: so many times its mean, within these.
const HEDGE_FACTOR: u64 = 3;
const HEDGE_US: (u64, u64) = (50_000, 250_000);

/// The resolvers of a zone.
#[derive(Debug)]
pub(crate) struct Group {
    /// What they are asked about.
    pub(crate) zone: Name,
    /// In the order of the options.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
}

/// One try.
#[derive(Debug, Clone)]
struct Try {
    upstream: Arc<Upstream>,
    /// How long to wait before it, while the ones before it are under way.
    after: Duration,
}

impl Group {
    /// Returns whether nobody in it has answered lately.
    pub(crate) fn is_bad(&self) -> bool {
        self.usable(clock::now_ms()).all(|upstream| upstream.state.is_bad())
    }

    fn usable(&self, now_ms: u64) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.iter().filter(move |upstream| !upstream.state.is_loop(now_ms))
    }

    /// Asks until one answers, at most for twice `limit`, which is the time of one try; with who it was.
    pub(crate) async fn ask(&self, question: &Query, limit: Duration) -> Result<(Said, Arc<Upstream>), Failure> {
        let deadline = Instant::from_std(clock::now() + 2 * limit);
        let mut plan = self.plan(clock::now_ms(), limit);
        let (sender, mut results) = mpsc::channel(MAX_TRIES);
        let (mut running, mut failure) = (0, None);
        let mut last: Option<(Arc<Upstream>, std::time::Instant)> = None;
        let mut next_at = Instant::from_std(clock::now());
        loop {
            if running == 0 {
                next_at = Instant::from_std(clock::now());
            }
            let begin = clock::now() >= next_at.into_std();
            if begin && let Some(next) = plan.pop_front() {
                if let Some((late, asked)) = last.take().filter(|_| running > 0) {
                    late.state.note_late(clock::now().saturating_duration_since(asked), clock::now_ms());
                }
                last = Some((next.upstream.clone(), clock::now()));
                let (sender, question) = (sender.clone(), question.clone());
                running += 1;
                next_at = Instant::from_std(clock::now() + plan.front().map_or(limit, |after| after.after));
                tokio::task::spawn_local(async move {
                    let result = next.upstream.ask(&question).await;
                    // Nobody may wait for it any more.
                    let _ = sender.send((next.upstream, result)).await;
                });
                continue;
            }
            if running == 0 {
                return Err(failure.unwrap_or(Failure::Silent));
            }
            let until = if plan.is_empty() { deadline } else { next_at.min(deadline) };
            match timeout_at(until, results.recv()).await {
                Ok(Some((upstream, Ok(said)))) => return Ok((said, upstream)),
                Ok(Some((upstream, Err(reason)))) => {
                    running -= 1;
                    if reason == Failure::Refused {
                        // It would say the same again.
                        plan.retain(|next| !Arc::ptr_eq(&next.upstream, &upstream));
                    }
                    failure = Some(worse(failure, reason));
                    next_at = Instant::from_std(clock::now());
                }
                Ok(None) => return Err(Failure::Silent),
                Err(_) if clock::now() >= deadline.into_std() => return Err(failure.unwrap_or(Failure::Silent)),
                Err(_) => {}
            }
        }
    }

    /// Returns whom to ask, first to last.
    fn plan(&self, now_ms: u64, limit: Duration) -> VecDeque<Try> {
        let mut good: Vec<&Arc<Upstream>> = self.usable(now_ms).filter(|upstream| !upstream.state.is_bad()).collect();
        good.sort_by_key(|upstream| upstream.state.mean_us(now_ms));
        let bad: Vec<&Arc<Upstream>> = self.usable(now_ms).filter(|upstream| upstream.state.is_bad()).collect();
        let mut plan = VecDeque::with_capacity(MAX_TRIES);
        let mut add = |upstream: &Arc<Upstream>, after| {
            if plan.len() < MAX_TRIES {
                plan.push_back(Try { upstream: upstream.clone(), after });
            }
        };
        let Some((first, rest)) = good.split_first() else {
            // Nobody is known to be there: all at once.
            bad.iter().for_each(|upstream| add(upstream, Duration::ZERO));
            return plan;
        };
        add(first, Duration::ZERO);
        if let Some(trial) = bad.iter().find(|upstream| upstream.state.take_trial(now_ms)) {
            add(trial, Duration::ZERO);
        }
        let mean = first.state.mean_us(now_ms);
        let (least, most) = HEDGE_US;
        let hedge = Duration::from_micros((mean * HEDGE_FACTOR).clamp(least, most));
        rest.iter().for_each(|upstream| add(upstream, hedge));
        if rest.is_empty() {
            bad.iter().for_each(|upstream| add(upstream, hedge));
        }
        if rest.is_empty() && bad.is_empty() {
            // A lost answer or a forged one is no reason to give up.
            add(first, limit);
        }
        plan
    }
}

/// Of two failures the one that says more: an answer counts before silence.
fn worse(before: Option<Failure>, now: Failure) -> Failure {
    match (before, now) {
        (Some(Failure::Refused), _) | (_, Failure::Refused) => Failure::Refused,
        (Some(Failure::Garbage), _) | (_, Failure::Garbage) => Failure::Garbage,
        _ => Failure::Silent,
    }
}
