//! The configuration of a running Weir as others see it: asking for a reload or a comparison, and how the last one went.
//!
//! Owns the mailbox and the status; `app/reload.rs` is who answers, because only it knows the file format. Plain values, so
//! that the admin API needs no more than this.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that may wait; a reload takes milliseconds.
const MAILBOX: usize = 16;

/// Why a configuration is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The process started with it.
    Start,
    /// The process started with the last good one, because the file was refused.
    LastGood,
    /// The file changed.
    File,
    /// SIGHUP.
    Signal,
    /// The API was asked.
    Api,
}

impl Cause {
    /// Returns the name as the API and the log show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::LastGood => "last_good",
            Self::File => "file",
            Self::Signal => "signal",
            Self::Api => "api",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, variable or flag.
    pub file: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// The key; empty when the text itself is wrong.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// One key that differs, secrets masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The value before; `None`: it was not there.
    pub before: Option<String>,
    /// The value after; `None`: it is gone.
    pub after: Option<String>,
    /// Whether it is taken up while Weir runs, by this process or another; others need a restart.
    pub live: bool,
    /// The service that it belongs to.
    pub service: Option<String>,
    /// Whose definition of that service runs: `file`, `deploy` or `rollback`, and its revision.
    pub owner: Option<String>,
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in use: what changed, and the generation that shows it.
    Applied(Vec<Change>, u64),
    /// Another process of the same binary takes over and takes it up: what changed, and the number of the upgrade.
    HandedOver(Vec<Change>, u64),
    /// Another process is taking up what the file said before, and looks at it anew: what changed then, and its upgrade.
    HandedBefore(Vec<Change>, u64),
    /// It says what is in use already.
    Unchanged,
    /// Nothing of it is in use; the last good one still is.
    Refused(Vec<Fault>),
}

/// The last configuration that was not taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When it was looked at first, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// Why it was.
    pub cause: Cause,
    /// Hash of its text; empty when there was none to read.
    pub hash: String,
    /// Everything that is wrong with it.
    pub faults: Vec<Fault>,
}

/// What is in use, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The file; `None`: a configuration of the program's own.
    pub file: Option<String>,
    /// Hash of the text in use.
    pub hash: String,
    /// Since when it is in use, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Why it was taken up.
    pub cause: Cause,
    /// The generation that showed it first.
    pub generation: u64,
    /// How changes of the file are noticed: `inotify`, `poll` or `none`.
    pub watch: &'static str,
    /// Why the file's present text is not in use; `None`: it is.
    pub failure: Option<Failure>,
}

/// A question to whoever reloads.
#[derive(Debug)]
pub enum Request {
    /// Look at the file now; the answer may be nobody's business.
    Reload(Cause, Option<oneshot::Sender<Outcome>>),
    /// Compare a text, by the name it has in problems, with what runs; `None`: the file as it is now.
    Diff(Option<(String, String)>, oneshot::Sender<Result<Vec<Change>, Vec<Fault>>>),
}

/// How often reloads ended in each way.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken up.
    pub applied: AtomicU64,
    /// The same as before.
    pub unchanged: AtomicU64,
    /// Refused.
    pub refused: AtomicU64,
}

/// Asks for reloads; clones share the mailbox.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<Status>>,
    counts: Arc<Counts>,
}

/// The other end, for whoever reloads.
#[derive(Debug)]
pub struct Desk {
    /// What is asked.
    pub requests: mpsc::Receiver<Request>,
    status: watch::Sender<Arc<Status>>,
    counts: Arc<Counts>,
}

/// Makes both ends, with what the process started with.
pub fn channel(status: Status) -> (Handle, Desk) {
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let (sender, receiver) = watch::channel(Arc::new(status));
    let counts = Arc::new(Counts::default());
    (Handle { mailbox, status: receiver, counts: counts.clone() }, Desk { requests, status: sender, counts })
}

impl Handle {
    /// Looks at the file now; returns how that ended, `None` when this Weir is ending.
    pub async fn reload(&self, cause: Cause) -> Option<Outcome> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Request::Reload(cause, Some(reply))).await.ok()?;
        answer.await.ok()
    }

    /// Asks for a look at the file without waiting for it: for signals. With a full mailbox one is due anyway.
    pub fn hint(&self, cause: Cause) {
        let _ = self.mailbox.try_send(Request::Reload(cause, None));
    }

    /// Compares a text, or the file as it is now, with what runs; the outer `None`: this Weir is ending.
    ///
    /// # Errors
    /// Everything that is wrong with the text.
    pub async fn diff(&self, text: Option<(String, String)>) -> Option<Result<Vec<Change>, Vec<Fault>>> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Request::Diff(text, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Returns what is in use.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Returns how often reloads were applied, unchanged and refused.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        let Counts { applied, unchanged, refused } = &*self.counts;
        [("applied", applied), ("unchanged", unchanged), ("refused", refused)]
            .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

impl Desk {
    /// Counts an outcome.
    pub fn count(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Applied(..) | Outcome::HandedOver(..) => &self.counts.applied,
            Outcome::Unchanged | Outcome::HandedBefore(..) => &self.counts.unchanged,
            Outcome::Refused(_) => &self.counts.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns what was told last.
    pub fn status(&self) -> Arc<Status> {
        self.status.borrow().clone()
    }

    /// Tells what is in use now.
    pub fn tell(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(|status| change(Arc::make_mut(status)));
    }
}
