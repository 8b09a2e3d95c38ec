//! What the keeper does next: a pure state machine over its processes. The decision is a list of steps.
//!
//! At most one process owns the store (`serving`). During an upgrade a `candidate` is started beside it; when that is
//! ready the two change places and the old one is `leaving` until its last connection ends. When the candidate fails, a
//! fresh process of the old binary is the next candidate. A process that dies unasked is started again.

use crate::app::asks::SAME;
use crate::net::Order;
use std::time::{Duration, Instant};

/// A process that served so long is started again at once when it dies.
const SETTLED: Duration = Duration::from_secs(1);
/// Wait before the second start in a row that did not settle; doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait before a start.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Longest time for the old process to give up the store.
const STAND_DOWN_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for a new binary to serve.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longest time to end after SIGQUIT.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
/// Processes that may be leaving at a time; a further upgrade is refused.
const MAX_LEAVING: usize = 16;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

/// Which binary to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    /// The one that serves or served last.
    Current,
    /// The one of the upgrade.
    New,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Start a process; answer with [`Course::started`] or [`Course::not_started`].
    Start(Binary),
    /// The new binary serves: it is the current one from now on.
    Keep,
    /// Tell a process.
    Tell(u32, Order),
    /// SIGKILL a process.
    Kill(u32),
    /// Write for people.
    Say(String),
    /// End with this status.
    End(u8),
}

/// The last upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// Counts upgrades from 1; 0: none yet.
    pub(super) number: u64,
    pub(super) is_running: bool,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    ready: Option<Instant>,
}

/// Where an upgrade stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swap {
    None,
    /// The old process gives the store up.
    StandingDown(Instant),
    /// The new binary starts.
    Trying(Instant),
    /// It failed: the old binary starts afresh.
    Returning,
}

/// The state.
#[derive(Debug)]
pub(super) struct Course {
    serving: Option<Process>,
    candidate: Option<Process>,
    leaving: Vec<u32>,
    swap: Swap,
    upgrade: Upgrade,
    /// Whether any process was ever ready.
    served: bool,
    /// The end was asked for.
    ending: bool,
    /// When the last TERM or INT came that was passed on.
    terminated: Option<Instant>,
    quit_at: Option<Instant>,
    /// The status of the process whose end is ours.
    status: u8,
    failures: u32,
    restart_at: Option<Instant>,
}

impl Course {
    /// Returns the first state and the first step.
    pub(super) fn begin() -> (Self, Vec<Step>) {
        let course = Self {
            serving: None,
            candidate: None,
            leaving: Vec::new(),
            swap: Swap::None,
            upgrade: Upgrade::default(),
            served: false,
            ending: false,
            terminated: None,
            quit_at: None,
            status: 0,
            failures: 0,
            restart_at: None,
        };
        (course, vec![Step::Start(Binary::Current)])
    }

    /// Returns the last upgrade.
    pub(super) fn upgrade(&self) -> &Upgrade {
        &self.upgrade
    }

    /// Returns the process that owns the store.
    pub(super) fn serving(&self) -> Option<u32> {
        self.serving.map(|process| process.pid)
    }

    /// A process was started.
    pub(super) fn started(&mut self, pid: u32) {
        let process = Some(Process { pid, ready: None });
        match self.swap {
            Swap::None => self.serving = process,
            Swap::StandingDown(_) | Swap::Trying(_) | Swap::Returning => self.candidate = process,
        }
    }

    /// A process could not be started.
    pub(super) fn not_started(&mut self, why: &str, now: Instant) -> Vec<Step> {
        match self.swap {
            Swap::Trying(_) => self.fail_upgrade(format!("the new binary cannot be started: {why}")),
            Swap::None if !self.served => {
                vec![Step::Say(format!("failed to start the serving process: {why}")), Step::End(1)]
            }
            Swap::None | Swap::StandingDown(_) | Swap::Returning => {
                self.retry(&format!("cannot be started: {why}"), now)
            }
        }
    }

    /// A process accepts connections.
    pub(super) fn ready(&mut self, pid: u32, now: Instant) -> Vec<Step> {
        self.served = true;
        if let Some(serving) = self.serving.as_mut().filter(|serving| serving.pid == pid) {
            serving.ready = Some(now);
            return Vec::new();
        }
        if self.ending || self.candidate.is_none_or(|candidate| candidate.pid != pid) {
            return Vec::new();
        }
        let mut steps = Vec::new();
        if let Some(old) = self.serving.replace(Process { pid, ready: Some(now) }) {
            self.leaving.push(old.pid);
            steps.push(Step::Tell(old.pid, Order::Leave));
        }
        self.candidate = None;
        self.failures = 0;
        match self.swap {
            Swap::Returning => steps.push(Step::Say(format!("process {pid} of the old binary serves"))),
            _ => {
                steps.push(Step::Keep);
                steps.push(Step::Say(format!("upgraded: process {pid} serves")));
            }
        }
        self.swap = Swap::None;
        self.upgrade.is_running = false;
        steps
    }

    /// A process is about to end on its own. `None`: it serves no more, or not yet, and others go on with its sockets.
    /// Else its end is that of all, and its status ours.
    pub(super) fn ends(&mut self, pid: u32) -> Option<Vec<Step>> {
        if self.serving() != Some(pid) {
            return None;
        }
        self.begin_end();
        Some(self.candidate.iter().map(|candidate| Step::Tell(candidate.pid, Order::Terminate)).collect())
    }

    /// From now on nobody is started, and nobody takes the place of another.
    fn begin_end(&mut self) {
        self.ending = true;
        self.restart_at = None;
        self.swap = Swap::None;
        if std::mem::take(&mut self.upgrade.is_running) {
            self.upgrade.failure.get_or_insert_with(|| "this Weir is ending".to_owned());
        }
    }

    /// A process has ended.
    pub(super) fn exited(&mut self, pid: u32, exit: Exit, now: Instant) -> Vec<Step> {
        let status = match exit {
            Exit::Status(status) => u8::try_from(status).unwrap_or(1),
            Exit::Signal(signal) => u8::try_from(signal).map_or(1, |signal| signal.saturating_add(128)),
        };
        let mut steps = Vec::new();
        if self.candidate.is_some_and(|candidate| candidate.pid == pid) {
            self.candidate = None;
            if !self.ending {
                steps = match self.swap {
                    Swap::Returning => self.retry(&exit.to_string(), now),
                    _ => self.fail_upgrade(format!("the new process {exit} before it served")),
                };
            }
        } else if let Some(old) = self.serving.take_if(|serving| serving.pid == pid) {
            if self.ending {
                self.status = status;
            } else {
                steps = self.died(old, exit, status, now);
            }
        }
        self.leaving.retain(|leaving| *leaving != pid);
        if self.ending && self.serving.is_none() && self.candidate.is_none() && self.leaving.is_empty() {
            steps.push(Step::End(self.status));
        }
        steps
    }

    /// The process that owned the store died unasked.
    fn died(&mut self, old: Process, exit: Exit, status: u8, now: Instant) -> Vec<Step> {
        match self.swap {
            // It can give nothing up any more: it need not.
            Swap::StandingDown(_) => self.try_new(now),
            // Another is starting already.
            Swap::Trying(_) | Swap::Returning => Vec::new(),
            Swap::None if !self.served && matches!(exit, Exit::Status(_)) => vec![Step::End(status)],
            Swap::None => {
                if old.ready.is_some_and(|at| now.saturating_duration_since(at) >= SETTLED) {
                    self.failures = 0;
                }
                self.retry(&exit.to_string(), now)
            }
        }
    }

    /// Starts the current binary again: at once, then later and later.
    fn retry(&mut self, why: &str, now: Instant) -> Vec<Step> {
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => (FIRST_BACKOFF * 2u32.saturating_pow(n.min(16) - 1)).min(MAX_BACKOFF),
        };
        self.failures += 1;
        if wait.is_zero() {
            return vec![
                Step::Start(Binary::Current),
                Step::Say(format!("the serving process {why}; started it again")),
            ];
        }
        self.restart_at = Some(now + wait);
        vec![Step::Say(format!("the serving process {why}; starting it again in {wait:?}"))]
    }

    /// A process asks to be replaced by another binary.
    ///
    /// # Errors
    /// Why not, for people.
    pub(super) fn ask_upgrade(&mut self, pid: u32, now: Instant) -> Result<Vec<Step>, String> {
        if self.ending {
            return Err("this Weir is ending".to_owned());
        }
        if self.swap != Swap::None {
            return Err("an upgrade is running".to_owned());
        }
        if self.serving.is_none_or(|serving| serving.pid != pid || serving.ready.is_none()) {
            return Err("this process does not serve yet, or not any more".to_owned());
        }
        if self.leaving.len() >= MAX_LEAVING {
            let many = self.leaving.len();
            return Err(format!("{many} earlier processes still have connections; wait for their drain to end"));
        }
        self.swap = Swap::StandingDown(now + STAND_DOWN_LIMIT);
        self.upgrade = Upgrade { number: self.upgrade.number + 1, is_running: true, failure: None };
        Ok(vec![Step::Tell(pid, Order::StandDown)])
    }

    /// The old process has given the store up.
    pub(super) fn stood_down(&mut self, pid: u32, now: Instant) -> Vec<Step> {
        match self.swap {
            Swap::StandingDown(_) if self.serving() == Some(pid) => self.try_new(now),
            _ => Vec::new(),
        }
    }

    fn try_new(&mut self, now: Instant) -> Vec<Step> {
        self.swap = Swap::Trying(now + READY_LIMIT);
        vec![Step::Start(Binary::New)]
    }

    fn fail_upgrade(&mut self, why: String) -> Vec<Step> {
        let say = Step::Say(format!("the upgrade failed: {why}; starting the old binary afresh"));
        self.upgrade.failure.get_or_insert(why);
        self.swap = Swap::Returning;
        vec![say, Step::Start(Binary::Current)]
    }

    /// The end was asked for by a signal: [`Order::Terminate`] or [`Order::Quit`].
    pub(super) fn end(&mut self, order: Order, now: Instant) -> Vec<Step> {
        if order == Order::Terminate {
            if self.terminated.is_some_and(|at| now.saturating_duration_since(at) < SAME) {
                return Vec::new();
            }
            self.terminated = Some(now);
        }
        self.begin_end();
        if order == Order::Quit {
            self.quit_at = Some(now + QUIT_LIMIT);
        }
        let all = self.all();
        if all.is_empty() {
            return vec![Step::End(self.status)];
        }
        all.into_iter().map(|pid| Step::Tell(pid, order)).collect()
    }

    /// An order for whoever serves.
    pub(super) fn pass_on(&self, order: Order) -> Vec<Step> {
        self.serving.iter().map(|serving| Step::Tell(serving.pid, order)).collect()
    }

    fn all(&self) -> Vec<u32> {
        self.serving
            .iter()
            .chain(&self.candidate)
            .map(|process| process.pid)
            .chain(self.leaving.iter().copied())
            .collect()
    }

    /// Returns when [`Course::tick`] has something to do.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        let swap = match self.swap {
            Swap::StandingDown(at) | Swap::Trying(at) => Some(at),
            Swap::None | Swap::Returning => None,
        };
        [self.restart_at, self.quit_at, swap].into_iter().flatten().min()
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            steps.push(Step::Start(Binary::Current));
        }
        if self.quit_at.is_some_and(|at| at <= now) {
            self.quit_at = None;
            steps.extend(self.all().into_iter().map(Step::Kill));
        }
        match self.swap {
            Swap::StandingDown(at) if at <= now => {
                let why = format!("the old process did not give the store up within {STAND_DOWN_LIMIT:?}");
                steps.push(Step::Say(format!("the upgrade failed: {why}; starting it again")));
                self.upgrade.failure = Some(why);
                self.upgrade.is_running = false;
                self.swap = Swap::None;
                steps.extend(self.serving.iter().map(|serving| Step::Kill(serving.pid)));
            }
            Swap::Trying(at) if at <= now => {
                // Once: its end moves on.
                self.swap = Swap::Trying(now + READY_LIMIT);
                let why = format!("the new process did not serve within {READY_LIMIT:?}");
                self.upgrade.failure.get_or_insert(why);
                steps.extend(self.candidate.iter().map(|candidate| Step::Kill(candidate.pid)));
            }
            _ => {}
        }
        steps
    }
}

#[cfg(test)]
#[path = "course_tests.rs"]
mod tests;
