//! `--wait`: shows how a rollout goes and ends with what became of it.
//!
//! A rollout outlives whoever watches it, and Weir itself: when the connection is lost, it is asked again until the time is
//! over.

use crate::admin::{Deployed, Rollout, Table};
use crate::cli::failure::{Code, Failure, code_of};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::{Remote, encode};
use crate::clock;
use anyhow::Result;
use std::collections::BTreeSet;
use std::time::Duration;

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait, after a rollout, until everybody uses its table: a Weir that follows it and says nothing is given up before.
const EVERYBODY: Duration = Duration::from_secs(5);
/// Who takes longer is named.
const LATE: Duration = Duration::from_secs(1);
/// Longest time for which nobody answers: Weir is being restarted.
const ABSENT: Duration = Duration::from_secs(30);

/// Waits for the end of a revision's rollout.
///
/// # Errors
/// A [`Failure`] whose code tells rolled back, failed, superseded and out of time apart; its message has the cause.
pub(super) async fn follow(global: &Global, deployed: &Deployed, timeout: Option<Duration>) -> Result<()> {
    let service = output::service(&deployed.namespace, &deployed.service);
    let path = format!("/v1/services/{}/rollout?revision={}", encode(&service), deployed.revision);
    let begin = clock::now();
    let mut heard = begin;
    let mut shown = None;
    loop {
        match ask(global, &path).await {
            Ok(rollout) => {
                heard = clock::now();
                if shown.as_ref() != Some(&rollout) {
                    show(global, &service, &rollout)?;
                }
                if let Some(end) = end(&rollout) {
                    waits(global).await?;
                    return end;
                }
                shown = Some(rollout);
            }
            Err(error) if code_of(&error) == Code::Unreachable && heard.elapsed() < ABSENT => {}
            Err(error) => return Err(error),
        }
        if timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
            let message = format!("revision {} is still being rolled out; it goes on", deployed.revision);
            return Err(Failure::new(Code::TimedOut, message).into());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until everybody uses the table that the rollout ended with, and names who took long or is not waited for.
async fn waits(global: &Global) -> Result<()> {
    let mut remote = Remote::connect(global.addr.as_deref()).await?;
    let begin = clock::now();
    let mut table: Table = remote.get("/v1/table").await?;
    let (wanted, mut late) = (table.generation, BTreeSet::new());
    loop {
        let behind = table.acknowledgers.iter().filter(|who| !who.idle && who.generation < wanted);
        let behind: BTreeSet<String> = behind.map(|who| who.name.clone()).collect();
        if behind.is_empty() || begin.elapsed() >= EVERYBODY {
            break;
        }
        if begin.elapsed() >= LATE {
            late.extend(behind);
        }
        tokio::time::sleep(PAUSE).await;
        table = remote.get("/v1/table").await?;
    }
    if global.output == Format::Json {
        return Ok(());
    }
    let silent = table.subscribers.into_iter().filter(|one| one.state == "silent").map(|one| one.name);
    let silent: BTreeSet<String> = silent.collect();
    for name in late.difference(&silent) {
        output::write(&format!("waited for {name}\n"))?;
    }
    for name in silent {
        output::write(&format!("waited for {name}, which says nothing, and wait no more\n"))?;
    }
    Ok(())
}

async fn ask(global: &Global, path: &str) -> Result<Rollout> {
    Remote::connect(global.addr.as_deref()).await?.get(path).await
}

/// Returns how it ended, if it did.
fn end(rollout: &Rollout) -> Option<Result<()>> {
    let Rollout { revision, .. } = rollout;
    let cause = rollout.cause.as_deref().unwrap_or("no cause is known");
    let failure = match rollout.phase.as_str() {
        "completed" => return Some(Ok(())),
        "superseded" => {
            let by = rollout.next.map_or_else(String::new, |next| format!(" by revision {next}"));
            Failure::new(Code::Conflict, format!("revision {revision} is superseded{by}"))
        }
        "rolled_back" => Failure::new(Code::RolledBack, format!("revision {revision} is rolled back: {cause}")),
        "failed" => Failure::new(Code::NotRolledBack, format!("revision {revision} failed: {cause}")),
        _ => return None,
    };
    Some(Err(failure.into()))
}

fn show(global: &Global, service: &str, rollout: &Rollout) -> Result<()> {
    if global.output == Format::Json {
        return output::json(rollout);
    }
    let Rollout { revision, replicas, updated, healthy, old, .. } = rollout;
    let what = match rollout.phase.as_str() {
        "progressing" => {
            format!(
                "revision {revision}: {updated} of {replicas} replicas run, {healthy} are healthy, {old} old ones left"
            )
        }
        "monitoring" => format!("revision {revision}: all {replicas} replicas are replaced and watched"),
        "completed" => format!("revision {revision} serves"),
        "rolling_back" => format!("revision {revision} failed, the last one that worked is on its way back"),
        // The error says it.
        _ => return Ok(()),
    };
    Ok(output::write(&format!("{service}: {what}\n"))?)
}

#[cfg(test)]
mod tests {
    use super::end;
    use crate::admin::Rollout;
    use crate::cli::failure::{Code, code_of};

    fn rollout(phase: &str) -> Rollout {
        Rollout {
            service: "web".to_owned(),
            namespace: "default".to_owned(),
            revision: 7,
            phase: phase.to_owned(),
            replicas: 3,
            updated: 1,
            healthy: 0,
            old: 3,
            cause: Some("web-a exited with status 3\n  no database".to_owned()),
            next: Some(8),
        }
    }

    #[test]
    fn each_end_has_its_exit_code_and_cause() {
        let failed = |phase| end(&rollout(phase)).unwrap().unwrap_err();
        for (phase, code, message) in [
            ("rolled_back", Code::RolledBack, "revision 7 is rolled back: web-a exited with status 3\n  no database"),
            ("failed", Code::NotRolledBack, "revision 7 failed: web-a exited with status 3\n  no database"),
            ("superseded", Code::Conflict, "revision 7 is superseded by revision 8"),
        ] {
            assert_eq!((code_of(&failed(phase)), failed(phase).to_string().as_str()), (code, message));
        }
        assert!(end(&rollout("completed")).unwrap().is_ok());
        for phase in ["progressing", "monitoring", "rolling_back"] {
            assert!(end(&rollout(phase)).is_none(), "{phase} is no end");
        }
    }
}
