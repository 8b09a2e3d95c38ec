//! Upgrades as the process that serves sees them: the new binary is checked, then the keeper is asked to swap.

use crate::admin::{Problem, Upgrade, UpgradeRequest};
use crate::net::Link;
use crate::net::message::Message;
use http::StatusCode;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::mpsc;

/// Longest time for the new binary to check the configuration.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// What upgrades depend on.
#[derive(Debug)]
pub(super) struct Upgrades {
    pub(super) link: Link,
    /// The configuration file, which the new binary must understand; `None`: it has its own.
    pub(super) file: Option<PathBuf>,
    /// Whether workloads end with this process: then there is no upgrade.
    pub(super) workloads_stop: bool,
}

impl Upgrades {
    /// Answers for as long as anybody may ask.
    pub(super) async fn run(self, mut requests: mpsc::Receiver<UpgradeRequest>) {
        while let Some(request) = requests.recv().await {
            // Who asked may have gone away.
            match request {
                UpgradeRequest::Begin(binary, reply) => {
                    let _ = reply.send(self.begin(binary).await);
                }
                UpgradeRequest::Renew(reply) => {
                    let _ = reply.send(self.renew().await);
                }
                UpgradeRequest::Show(reply) => {
                    let _ = reply.send(self.show().await);
                }
            }
        }
    }

    async fn begin(&self, binary: Option<PathBuf>) -> Result<Upgrade, Problem> {
        if self.workloads_stop {
            let detail = "`node.workloads_on_exit = \"stop\"` ends the replicas with the process that started them: set it \
                          to \"keep\" and restart once, or restart to run another binary";
            return Err(Problem::new(StatusCode::CONFLICT, "workloads_stop", detail));
        }
        let binary = match binary {
            Some(binary) => binary,
            None => PathBuf::from(OsString::from_vec(self.ask("binary", Vec::new()).await?.body)),
        };
        let refused = |why: String| Problem::new(StatusCode::CONFLICT, "binary_refused", why);
        check(&binary, &[OsStr::new("version")]).await.map_err(refused)?;
        if let Some(file) = &self.file {
            check(&binary, &[OsStr::new("check"), file.as_os_str()]).await.map_err(refused)?;
        }
        let answer = self.ask("upgrade", binary.as_os_str().as_bytes().to_vec()).await?;
        if answer.words().first() != Some(&"ok") {
            return Err(Problem::new(StatusCode::CONFLICT, "upgrade_refused", answer.text()));
        }
        tracing::info!(binary = %binary.display(), "upgrading");
        self.show().await
    }

    /// Has another process of this binary take over: it reads the configuration anew.
    async fn renew(&self) -> Result<Upgrade, Problem> {
        let answer = self.ask("renew", Vec::new()).await?;
        if answer.words().first() != Some(&"ok") {
            let why =
                if answer.body.is_empty() { "the keeper is of an older version".to_owned() } else { answer.text() };
            return Err(Problem::new(StatusCode::CONFLICT, "upgrade_refused", why));
        }
        self.show().await
    }

    async fn show(&self) -> Result<Upgrade, Problem> {
        let answer = self.ask("state", Vec::new()).await?;
        let words = answer.words();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let state = words.get(3).copied().unwrap_or_default();
        Ok(Upgrade {
            number: number(2),
            state: if number(2) == 0 { "none" } else { state }.to_owned(),
            cause: Some(answer.text()).filter(|text| !text.is_empty()),
            pid: std::process::id(),
            keeper: u32::try_from(number(1)).unwrap_or(0),
        })
    }

    async fn ask(&self, line: &'static str, body: Vec<u8>) -> Result<Message, Problem> {
        let link = self.link.clone();
        let gone = || Problem::new(StatusCode::CONFLICT, "no_keeper", "the keeper of this Weir has died; restart it");
        let asked = tokio::task::spawn_blocking(move || link.ask(line, &body)).await.map_err(|_| gone())?;
        asked.map_err(|_| gone())
    }
}

/// Runs a binary to see that it is a Weir that can do what it must.
async fn check(binary: &Path, arguments: &[&OsStr]) -> Result<(), String> {
    let name = binary.display();
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = tokio::time::timeout(CHECK_TIMEOUT, command.output()).await;
    let output = done
        .map_err(|_| format!("{name} did not answer within {CHECK_TIMEOUT:?}"))?
        .map_err(|error| format!("failed to execute {name}: {error}"))?;
    let first = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    if arguments.first() == Some(&OsStr::new("version")) && !first.starts_with("weir ") {
        return Err(format!("{name} is no weir: its version is {first:?}"));
    }
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().take(20).collect();
    Err(format!("{name} refuses the configuration ({}): {}", output.status, said.join("; ")))
}
