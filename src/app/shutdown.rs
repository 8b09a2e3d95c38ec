//! Serving until the end is asked for, then an ordered drain with a deadline.
//!
//! SIGTERM or SIGINT: readiness off, accept queues emptied, connections end with their next response; when nobody serves
//! from them any more, workloads stop or are left to the next start (`workloads_on_exit`). A second signal, or the deadline, ends what is left at once.

use crate::app::asks::{Ask, Asks, End};
use crate::app::live::{AtEnd, Live};
use crate::app::spare;
use crate::app::wire::Parts;
use crate::app::{Beside, Ended, beside};
use crate::control::configuration::Cause;
use crate::lifecycle::{Phase, Trigger};
use crate::net::Link;
use crate::proxy::Workers;
use crate::telemetry::{CutCounts, Metrics};
use std::time::Duration;

/// After the drain's deadline, workers get so long to close what is left.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Serves until a signal, or until another process takes over, then drains; returns how it ended.
///
/// # Errors
/// When the program beside it cannot be started.
pub(super) async fn serve(
    mut parts: Parts,
    mut asks: Asks,
    link: Option<Link>,
    (drain, beside): (Duration, &Beside),
) -> anyhow::Result<Ended> {
    if let Some(link) = link.clone() {
        parts.metrics.cuts().earlier(cut_before(link).await);
    }
    tell(link.as_ref(), "ready");
    // Reading configurations, opening the store and much else is needed no more, or seldom.
    spare::give_back();
    tokio::spawn(spare::give_back_later());
    let (mut end, code) = match &beside.command {
        None => (until_the_end(&mut asks, &parts, link.as_ref()).await, None),
        Some(command) => beside::until_its_end(command, &mut asks, &mut parts, drain).await?,
    };
    let mut hurried = false;
    if end != End::Leave {
        // Nobody uses a program that has ended.
        let waits = end == End::Drain && code.is_none();
        tokio::select! {
            () = parts.following.withdraw(if waits { drain } else { Duration::ZERO }) => {}
            () = asks.hurry() => {
                (end, hurried) = (End::Stop, true);
            }
        }
    }
    let ended = finish(parts, asks, link, (end, drain)).await;
    Ok(code.map_or(if hurried { Ended::Forced } else { ended }, Ended::Companion))
}

/// Ends everything in its order.
async fn finish(parts: Parts, mut asks: Asks, link: Option<Link>, (mut end, drain): (End, Duration)) -> Ended {
    let Parts { route, trigger, live, control, dns, admin, close_admin, metrics, following, .. } = parts;
    if end != End::Leave && !is_end_of_all(link.clone()).await {
        end = End::Leave;
    }
    if end == End::Leave {
        tracing::info!(deadline = ?drain, "another process serves: ending with the last connection");
        close_admin.raise(Phase::Stopping);
    } else {
        tracing::info!(deadline = ?drain, "draining; a second signal stops at once");
    }
    let (drained, hurry) = end_workers(&live, &trigger, &mut asks, (end, drain)).await;
    report(&metrics, link.as_ref());
    match route {
        Some(route) if end == End::Leave => route.leave(),
        route => drop(route),
    }
    // Nobody serves any more, so nothing is in flight at a replica. What is to end with Weir and a second signal leaves
    // running is killed by the kernel when the runtime goes.
    tokio::select! {
        () = control.end(), if !hurry && end != End::Leave => {}
        () = std::future::ready(()), if end == End::Leave => {}
        () = std::future::ready(()), if hurry && end != End::Leave => tracing::warn!("waiting for no replica"),
        () = asks.hurry() => tracing::warn!("not waiting for the replicas any more"),
    }
    following.leave().await;
    trigger.raise(Phase::Stopping);
    close_admin.raise(Phase::Stopping);
    if let Some(dns) = dns {
        let stopped = tokio::task::spawn_blocking(move || dns.join());
        if tokio::time::timeout(STOP_GRACE, stopped).await.is_err() {
            tracing::error!("the DNS server did not stop in time");
        }
    }
    if tokio::time::timeout(STOP_GRACE, admin).await.is_err() {
        tracing::error!("the admin server did not stop in time");
    }
    drop(control);
    if drained { Ended::Drained } else { Ended::Forced }
}

/// Closes the listeners and waits for the workers; returns whether they ended by themselves, and whether nothing more is to
/// be waited for.
async fn end_workers(live: &Live, trigger: &Trigger, asks: &mut Asks, (end, drain): (End, Duration)) -> (bool, bool) {
    let at_end = match end {
        End::Leave => AtEnd::Leave,
        End::Drain => AtEnd::Close,
        End::Stop => AtEnd::Cut,
    };
    // A second signal is looked for all the time: when it came tells what it means.
    let (workers, forced) = tokio::select! {
        workers = live.end(at_end) => (workers, false),
        () = asks.hurry() => {
            let at_end = if end == End::Leave { AtEnd::Leave } else { AtEnd::Cut };
            (live.end(at_end).await, true)
        }
    };
    let stops = forced || end == End::Stop;
    trigger.raise(if stops { Phase::Stopping } else { Phase::Draining });
    let mut joined = tokio::task::spawn_blocking(move || workers.map(Workers::join));
    let late = tokio::select! {
        _ = &mut joined, if !forced => return (true, stops),
        () = tokio::time::sleep(drain), if !stops => false,
        () = asks.hurry(), if !forced => true,
        () = std::future::ready(()), if forced => true,
    };
    tracing::warn!("stopping before everything was drained");
    trigger.raise(Phase::Stopping);
    if tokio::time::timeout(STOP_GRACE, joined).await.is_err() {
        tracing::error!("workers did not stop in time");
    }
    (false, late)
}

/// Does what is asked until the end is.
async fn until_the_end(asks: &mut Asks, parts: &Parts, link: Option<&Link>) -> End {
    loop {
        match asks.next().await {
            Ask::Drain => return End::Drain,
            Ask::Stop => return End::Stop,
            Ask::Leave => return End::Leave,
            Ask::Reload => parts.configuration.hint(Cause::Signal),
            Ask::Reopen => tracing::info!("the logs go to standard output and error: there is no file to open again"),
            Ask::Upgrade => {
                let upgrader = parts.upgrader.clone();
                tokio::spawn(async move {
                    if let Err(problem) = upgrader.begin(None).await {
                        tracing::error!(reason = problem.detail, "failed to upgrade");
                    }
                });
            }
            Ask::StandDown => {
                tracing::info!("giving up the store to another process; serving on from the last table");
                parts.upgrader.stand_down();
                parts.control.stop().await;
                tell(link, "stood-down");
            }
            Ask::Cut(total) => parts.metrics.cuts().earlier(total),
            Ask::KeeperGone => {
                tracing::error!(
                    "the keeper has died: serving on with its sockets; a crash would now refuse connections"
                );
            }
        }
    }
}

/// Asks the keeper whether the end of this process is the end of Weir; if so, it is from now on. Else another goes on with
/// its sockets, which must not be closed.
async fn is_end_of_all(link: Option<Link>) -> bool {
    let Some(link) = link else { return true };
    let asked = tokio::task::spawn_blocking(move || {
        let answer = link.ask("end", b"")?;
        match answer.words().as_slice() {
            ["refused", "left", ..] => Ok(false),
            ["ok", ..] => Ok(true),
            // A keeper of an earlier version.
            _ => link.tell("ending").map(|()| true),
        }
    });
    // Without a keeper nobody else goes on.
    asked.await.map_or(true, |answer: std::io::Result<bool>| answer.unwrap_or(true))
}

/// Returns what the processes before this one cut off; an older keeper counts nothing.
async fn cut_before(link: Link) -> CutCounts {
    let answer = tokio::task::spawn_blocking(move || link.ask("was-cut", b"")).await;
    let Ok(Ok(answer)) = answer else { return CutCounts::default() };
    let words = answer.words();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
    CutCounts { requests: number(1), streams: number(2) }
}

/// Tells what was cut off, also the keeper: nobody can read this process's metrics any more.
fn report(metrics: &Metrics, link: Option<&Link>) {
    let CutCounts { requests, streams } = metrics.cuts().own();
    if requests + streams > 0 {
        tracing::warn!(requests, streams, "connections were cut off at the end of their time to drain");
        tell(link, &format!("cut {requests} {streams}"));
    }
}

fn tell(link: Option<&Link>, what: &str) {
    if let Some(link) = link
        && let Err(error) = link.tell(what)
    {
        tracing::warn!(%error, what, "failed to tell the keeper");
    }
}
