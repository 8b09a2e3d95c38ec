//! `weir upgrade`: swaps the binary under load and says how that ended.

use crate::admin::{NewUpgrade, Upgrade};
use crate::cli::args::UpgradeArgs;
use crate::cli::failure::{Code, Failure};
use crate::cli::global::{Format, Global};
use crate::cli::output;
use crate::cli::remote::Remote;
use anyhow::{Context, Result};
use http::Method;
use std::time::Duration;

/// Pause between two questions how it stands.
const POLL: Duration = Duration::from_millis(50);
/// Longest time until it has ended one way or the other: old and new process have 10 and 30 s, the old binary 30 s more.
const LIMIT: Duration = Duration::from_secs(90);

/// Begins an upgrade and waits for its end.
pub(super) async fn upgrade(global: &Global, args: &UpgradeArgs) -> Result<()> {
    let binary = args.binary.as_ref().map(|path| std::path::absolute(path).map(|path| path.display().to_string()));
    let wanted = NewUpgrade { binary: binary.transpose().context("find the binary")? };
    let begun: Upgrade =
        Remote::connect(global.addr.as_deref()).await?.exchange(Method::POST, "/v1/upgrade", Some(&wanted)).await?;
    let ended = ended(global, begun.number).await?;
    if ended.state != "done" {
        let cause = ended.cause.unwrap_or_else(|| "the keeper does not say why".to_owned());
        return Err(Failure::new(Code::Failure, format!("{cause}; the old binary serves on")).into());
    }
    if global.output == Format::Json {
        return output::json(&ended);
    }
    Ok(output::write(&format!("upgraded: process {} serves\n", ended.pid))?)
}

/// Waits for the end of an upgrade, good or bad.
///
/// # Errors
/// When it does not end in time, or nobody tells.
pub(super) async fn ended(global: &Global, number: u64) -> Result<Upgrade> {
    let ended = async {
        loop {
            tokio::time::sleep(POLL).await;
            // Between two processes an answer may be cut off: the next question finds the other one.
            if let Ok(now) = ask(global).await
                && (now.number != number || now.state != "running")
            {
                return now;
            }
        }
    };
    let late = || Failure::new(Code::Failure, format!("the upgrade did not end within {LIMIT:?}; see the log"));
    Ok(tokio::time::timeout(LIMIT, ended).await.map_err(|_| late())?)
}

async fn ask(global: &Global) -> Result<Upgrade> {
    Remote::connect(global.addr.as_deref()).await?.get("/v1/upgrade").await
}
