//! When a withdrawn endpoint is used by nobody any more: the wait between "out of the table" and "stop it".
//!
//! In this order, all under one deadline: every acknowledger has a table without the endpoint → its requests in flight
//! are finished, here and at other Weirs that follow this one's table → the last DNS answer that named it has aged out. Invariant: [`DrainOutcome::Drained`] is returned only
//! when all three hold, because a request takes its in-flight guard in the same step as it loads the table.

use crate::balance::EndpointStats;
use crate::clock;
use crate::control::events::{EventKind, Events};
use crate::control::registry::Withdrawn;
use crate::model::InstanceId;
use crate::table::Table;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// An acknowledgement that takes longer is reported: a worker's turn is bounded far below it.
const ACKNOWLEDGE_LATE: Duration = Duration::from_secs(1);

/// First and longest pause between two looks at the requests in flight; the counter has no bell, because ringing one
/// would cost every request.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainOutcome {
    /// Nobody uses the endpoint any more.
    Drained,
    /// The deadline passed first.
    Cut {
        /// Who had not loaded the table without it.
        lagging: Vec<Arc<str>>,
        /// Requests that were still in flight.
        in_flight: u32,
    },
}

impl DrainOutcome {
    /// Returns whether the deadline cut the drain.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Cut { .. })
    }
}

/// Waits until nobody uses a withdrawn endpoint, at most `deadline`. Cancel-safe.
///
/// An acknowledger that lags for a second is named in an event, logged, and still waited for.
pub async fn drained(
    table: &Table,
    withdrawn: &Withdrawn,
    deadline: Duration,
    events: &Events,
    id: &InstanceId,
) -> DrainOutcome {
    let steps = async {
        acknowledged(table, withdrawn.generation, events, id).await;
        // Now, as no answer names it any more, though others of its service are named on.
        let named_until_ms = withdrawn.stats.marks().named_until_ms();
        finished(&withdrawn.stats).await;
        aged_out(named_until_ms).await;
    };
    match timeout(deadline, steps).await {
        Ok(()) => DrainOutcome::Drained,
        Err(_) => {
            DrainOutcome::Cut { lagging: table.lagging(withdrawn.generation), in_flight: withdrawn.stats.in_flight() }
        }
    }
}

async fn acknowledged(table: &Table, generation: u64, events: &Events, id: &InstanceId) {
    if timeout(ACKNOWLEDGE_LATE, table.acknowledged(generation)).await.is_ok() {
        return;
    }
    let names = table.lagging(generation).join(", ");
    let message = format!("not loaded after {ACKNOWLEDGE_LATE:?} by {names}");
    events.emit(generation, EventKind::AcknowledgeLate, None, Some(id.clone()), message);
    table.acknowledged(generation).await;
}

async fn finished(stats: &EndpointStats) {
    let mut pause = LOOK.0;
    while stats.in_flight() > 0 || stats.elsewhere() > 0 {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

async fn aged_out(named_until_ms: u64) {
    let left_ms = named_until_ms.saturating_sub(clock::now_ms());
    if left_ms > 0 {
        sleep(Duration::from_millis(left_ms)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{DrainOutcome, drained};
    use crate::balance::EndpointStats;
    use crate::clock;
    use crate::control::events::{EventKind, Events};
    use crate::control::registry::Withdrawn;
    use crate::model::InstanceId;
    use crate::table::names::Names;
    use crate::table::{Changes, Publisher, Snapshot, Table, build, channel};
    use std::sync::Arc;
    use std::time::Duration;

    struct World {
        table: Table,
        publisher: Publisher,
        stats: Arc<EndpointStats>,
        events: Events,
    }

    impl World {
        fn new() -> Self {
            let (publisher, table) = channel(Snapshot::empty(Names::default()));
            Self { table, publisher, stats: Arc::default(), events: Events::default() }
        }

        /// Starts the drain with a deadline of 30 s; the task returns the outcome and its time.
        fn drain(&mut self) -> tokio::task::JoinHandle<(DrainOutcome, Duration)> {
            let generation = self.publisher.publish(build(&self.publisher.current(), Changes::default()));
            let withdrawn = Withdrawn { generation, stats: self.stats.clone() };
            let (table, events) = (self.table.clone(), self.events.clone());
            tokio::spawn(async move {
                let (start, id) = (clock::now(), InstanceId::parse("a").unwrap());
                let outcome = drained(&table, &withdrawn, Duration::from_secs(30), &events, &id).await;
                (outcome, clock::now() - start)
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_used_is_drained_at_once() {
        let mut world = World::new();
        assert_eq!(world.drain().await.unwrap(), (DrainOutcome::Drained, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_every_acknowledger_and_names_who_is_late() {
        let mut world = World::new();
        let (mut quick, mut slow) = (world.table.reader("worker-0"), world.table.reader("worker-1"));
        let drain = world.drain();
        quick.load();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(!drain.is_finished());
        let late = world.events.recent();
        assert_eq!((late.len(), late[0].kind), (1, EventKind::AcknowledgeLate));
        assert_eq!(late[0].message, "not loaded after 1s by worker-1");
        slow.load();
        let (outcome, took) = drain.await.unwrap();
        assert_eq!((outcome, took.as_secs()), (DrainOutcome::Drained, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_requests_in_flight() {
        let mut world = World::new();
        let request = world.stats.begin();
        let drain = world.drain();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!drain.is_finished());
        drop(request);
        let (outcome, took) = drain.await.unwrap();
        assert_eq!((outcome, took.as_secs()), (DrainOutcome::Drained, 5));
        assert!(took < Duration::from_millis(5_021), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_until_dns_answers_have_aged_out() {
        let mut world = World::new();
        world.stats.marks().name_until(clock::now_ms() + 4_000);
        let (outcome, took) = world.drain().await.unwrap();
        assert_eq!((outcome, took.as_secs()), (DrainOutcome::Drained, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_cuts_every_wait_and_the_outcome_says_what_was_left() {
        let mut world = World::new();
        let _request = world.stats.begin();
        let reader = world.table.reader("worker-0");
        let (outcome, took) = world.drain().await.unwrap();
        assert_eq!(outcome, DrainOutcome::Cut { lagging: vec!["worker-0".into()], in_flight: 1 });
        assert_eq!(took.as_secs(), 30);
        drop(reader);
        world.stats = Arc::default();
        world.stats.marks().name_until(clock::now_ms() + 300_000);
        let (outcome, took) = world.drain().await.unwrap();
        assert_eq!((outcome.is_cut(), took.as_secs()), (true, 30));
    }
}
