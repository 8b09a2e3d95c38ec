//! The keeper: the parent of the process that serves.
//!
//! `weir run` is this process: no runtime, no configuration, a poll loop. It binds the listening sockets that the serving
//! process asks for and holds them for good, so that a crash refuses no connection: what waits in the accept queues is
//! served by the next process, which it starts. It passes signals on, reaps (also as PID 1), and ends with the serving
//! process's status. [`course`] decides, [`holdings`] has the sockets; this file does as they say. If the keeper alone
//! dies, the serving process keeps its sockets and carries on. Next on the path: `net/link.rs`.

mod course;
mod holdings;

use crate::clock;
use crate::net::Order;
use crate::net::message::{self, Message};
use crate::sys::signal::Signals;
use anyhow::Context;
use course::{Binary, Course, Exit, Step};
use holdings::Holdings;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, wait};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The hidden flag of `weir run` and `weir demo`: standard input is the link to the keeper.
const KEPT: &str = "--kept";

const SIGNALS: [i32; 7] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// A binary that is kept open: what its path names may change.
#[derive(Debug)]
struct Program {
    file: File,
    path: PathBuf,
}

/// One process and the link to it.
#[derive(Debug)]
struct Kept {
    pid: u32,
    link: OwnedFd,
    /// It said all that it will say.
    is_mute: bool,
}

#[derive(Debug)]
struct Keeper {
    signals: Signals,
    /// Name and arguments of each process.
    arguments: Vec<OsString>,
    current: Program,
    /// Of the upgrade.
    new: Option<Program>,
    /// Where the binary stood when this process was started.
    path: PathBuf,
    course: Course,
    holdings: Holdings,
    kept: Vec<Kept>,
    /// The last good configuration as whoever served last left it; nothing here reads it.
    last_good: Option<OwnedFd>,
    /// The keys of session tickets, the same way.
    tickets: Option<OwnedFd>,
    /// What processes that have ended cut off: connections with requests, and with streams.
    cut: [u64; 2],
}

/// Keeps a serving process running until it ends in an orderly way; returns its status.
///
/// # Errors
/// When the process cannot be set up as keeper.
pub fn keep() -> anyhow::Result<u8> {
    let signals = Signals::block(&SIGNALS).context("failed to take signals")?;
    // Replicas whose parent died come here to be reaped; without it they go to PID 1, which does the same.
    let _ = set_child_subreaper(Some(rustix::process::getpid()));
    let path = std::env::current_exe().context("failed to find the own binary")?;
    let file = File::open("/proc/self/exe").context("failed to open the own binary")?;
    let (course, steps) = Course::begin();
    let mut keeper = Keeper {
        signals,
        arguments: std::env::args_os().collect(),
        current: Program { file, path: path.clone() },
        new: None,
        path,
        course,
        holdings: Holdings::default(),
        kept: Vec::new(),
        last_good: None,
        tickets: None,
        cut: [0; 2],
    };
    if let Some(status) = keeper.act(steps) {
        return Ok(status);
    }
    loop {
        if let Some(status) = keeper.turn().context("failed to wait for signals")? {
            return Ok(status);
        }
    }
}

impl Keeper {
    /// Waits for something and acts on it; returns the status to end with.
    fn turn(&mut self) -> io::Result<Option<u8>> {
        let now = clock::now();
        let wait = self.course.next_tick().map(|at| at.saturating_duration_since(now) + Duration::from_millis(1));
        let heard = self.listen(wait)?;
        let now = clock::now();
        let mut steps = self.course.tick(now);
        for pid in heard {
            while let Some(message) = self.receive(pid) {
                steps.extend(self.answer(pid, message, now));
            }
        }
        while let Some(signal) = self.signals.next()? {
            steps.extend(self.on_signal(signal, now));
        }
        Ok(self.act(steps))
    }

    /// Waits for a signal, a message or the time; returns whose messages there are.
    fn listen(&self, wait: Option<Duration>) -> io::Result<Vec<u32>> {
        let talking: Vec<&Kept> = self.kept.iter().filter(|kept| !kept.is_mute).collect();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(talking.iter().map(|kept| PollFd::new(&kept.link, PollFlags::IN)));
        let wait = wait.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, wait.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.iter().skip(1).map(|fd| !fd.revents().is_empty());
        Ok(talking.iter().zip(ready).filter(|(_, ready)| *ready).map(|(kept, _)| kept.pid).collect())
    }

    fn receive(&mut self, pid: u32) -> Option<Message> {
        let kept = self.kept.iter_mut().find(|kept| kept.pid == pid)?;
        match message::receive(&kept.link) {
            Ok(Some(message)) => Some(message),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Ok(None) | Err(_) => {
                kept.is_mute = true;
                None
            }
        }
    }

    fn on_signal(&mut self, signal: i32, now: Instant) -> Vec<Step> {
        match signal {
            libc::SIGCHLD => self.reap(now),
            libc::SIGTERM | libc::SIGINT => self.course.end(Order::Terminate, now),
            libc::SIGQUIT => self.course.end(Order::Quit, now),
            libc::SIGHUP => self.course.pass_on(Order::Reload),
            libc::SIGUSR1 => self.course.pass_on(Order::Reopen),
            libc::SIGUSR2 => self.course.pass_on(Order::Upgrade),
            _ => Vec::new(),
        }
    }

    /// Collects every child that has ended, also those that are not ours.
    fn reap(&mut self, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Exit::Status(status),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => continue,
            };
            if !self.kept.iter().any(|kept| kept.pid == pid) {
                continue;
            }
            // What it said last counts before its end does.
            while let Some(message) = self.receive(pid) {
                steps.extend(self.answer(pid, message, now));
            }
            self.kept.retain(|kept| kept.pid != pid);
            steps.extend(self.course.exited(pid, exit, now));
        }
        steps
    }

    /// Answers one message of a process.
    fn answer(&mut self, pid: u32, mut message: Message, now: Instant) -> Vec<Step> {
        let descriptor = message.descriptors.pop();
        let message = &message;
        let words = message.words();
        let Some(kept) = self.kept.iter().find(|kept| kept.pid == pid) else { return Vec::new() };
        // A process that is gone is seen by its end.
        match words.first().copied().unwrap_or_default() {
            "bind" => {
                let _ = self.holdings.bind(&words, &message.body, pid, &kept.link);
            }
            "close" => {
                let _ = self.holdings.close(&words, &message.body, &kept.link);
            }
            "hold" | "hold-tickets" => {
                let place = if words.first() == Some(&"hold") { &mut self.last_good } else { &mut self.tickets };
                *place = descriptor.or(place.take());
                let _ = message::send(&kept.link, "ok", b"", &[]);
            }
            "held" | "held-tickets" => {
                let place = if words.first() == Some(&"held") { &self.last_good } else { &self.tickets };
                let held: Vec<_> = place.iter().map(AsFd::as_fd).collect();
                let _ = message::send(&kept.link, "ok", b"", &held);
            }
            "cut" => {
                for (sum, word) in self.cut.iter_mut().zip(words.iter().skip(1)) {
                    *sum = sum.saturating_add(word.parse().unwrap_or(0));
                }
                let [requests, streams] = self.cut;
                for other in self.kept.iter().filter(|other| other.pid != pid) {
                    // Who is gone is seen by its end.
                    let _ = message::send(&other.link, &format!("cut {requests} {streams}"), b"", &[]);
                }
            }
            "was-cut" => {
                let [requests, streams] = self.cut;
                let _ = message::send(&kept.link, &format!("ok {requests} {streams}"), b"", &[]);
            }
            "ready" => {
                self.holdings.sweep(pid);
                return self.course.ready(pid, now);
            }
            "end" => {
                let steps = self.course.ends(pid);
                let _ = message::send(&kept.link, if steps.is_some() { "ok" } else { "refused left" }, b"", &[]);
                return steps.unwrap_or_default();
            }
            // Of an earlier version, which does not wait.
            "ending" => return self.course.ends(pid).unwrap_or_default(),
            "state" => self.tell_state(&kept.link),
            "binary" => {
                use std::os::unix::ffi::OsStrExt;
                let _ = message::send(&kept.link, "ok", self.path.as_os_str().as_bytes(), &[]);
            }
            "upgrade" => return self.upgrade(pid, message, now),
            "renew" => {
                let (line, why, steps) = match self.course.ask_upgrade(pid, now) {
                    Ok(steps) => (format!("ok {}", self.course.upgrade().number), String::new(), steps),
                    Err(why) => ("refused".to_owned(), why, Vec::new()),
                };
                let _ = message::send(&kept.link, &line, why.as_bytes(), &[]);
                return steps;
            }
            "stood-down" => return self.course.stood_down(pid, now),
            _ => {
                let _ = message::send(&kept.link, "refused unknown", b"", &[]);
            }
        }
        Vec::new()
    }

    /// Answers how the last upgrade went.
    fn tell_state(&self, link: impl AsFd) {
        let upgrade = self.course.upgrade();
        let how = match (upgrade.is_running, &upgrade.failure) {
            (true, _) => "running",
            (false, Some(_)) => "failed",
            (false, None) => "done",
        };
        let line = format!("state {} {} {how}", std::process::id(), upgrade.number);
        let text = upgrade.failure.clone().unwrap_or_default();
        let _ = message::send(link, &line, text.as_bytes(), &[]);
    }

    fn upgrade(&mut self, pid: u32, message: &Message, now: Instant) -> Vec<Step> {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(&message.body)).to_owned();
        let opened = File::open(&path).map_err(|error| format!("failed to open {}: {error}", path.display()));
        let asked = opened.and_then(|file| Ok((file, self.course.ask_upgrade(pid, now)?)));
        let Some(kept) = self.kept.iter().find(|kept| kept.pid == pid) else { return Vec::new() };
        match asked {
            Ok((file, steps)) => {
                let line = format!("ok {}", self.course.upgrade().number);
                let _ = message::send(&kept.link, &line, b"", &[]);
                self.new = Some(Program { file, path });
                steps
            }
            Err(why) => {
                let _ = message::send(&kept.link, "refused", why.as_bytes(), &[]);
                Vec::new()
            }
        }
    }

    /// Takes steps, and those that follow from them; returns the status to end with.
    fn act(&mut self, steps: Vec<Step>) -> Option<u8> {
        let mut todo: std::collections::VecDeque<Step> = steps.into();
        while let Some(step) = todo.pop_front() {
            match step {
                Step::Start(binary) => match self.start(binary) {
                    Ok(pid) => self.course.started(pid),
                    Err(error) => todo.extend(self.course.not_started(&error.to_string(), clock::now())),
                },
                Step::Keep => {
                    if let Some(new) = self.new.take() {
                        self.current = new;
                    }
                }
                Step::Tell(pid, order) => {
                    if let Some(kept) = self.kept.iter().find(|kept| kept.pid == pid) {
                        // It may have ended: its end says so.
                        let _ = message::send(&kept.link, order.word(), b"", &[]);
                    }
                }
                Step::Kill(pid) => {
                    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                        // Not reaped yet, so the number is still its own.
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                Step::Say(text) => say(&text),
                Step::End(status) => return Some(status),
            }
        }
        None
    }

    fn start(&mut self, binary: Binary) -> io::Result<u32> {
        let program = match (binary, &self.new) {
            (Binary::New, Some(new)) => new,
            _ => &self.current,
        };
        // Nonblocking is of the open socket, so each end has its own: this one polls, the other waits.
        let flags = SocketFlags::CLOEXEC;
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&own, true)?;
        let (name, arguments) = match self.arguments.split_first() {
            Some((name, arguments)) => (name.clone(), arguments),
            None => (OsString::from("weir"), &[] as &[OsString]),
        };
        let child = Command::new(format!("/proc/self/fd/{}", program.file.as_raw_fd()))
            .arg0(name)
            .args(arguments)
            .arg(KEPT)
            .stdin(Stdio::from(other))
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.path.display())))?;
        let pid = child.id();
        self.kept.push(Kept { pid, link: own, is_mute: false });
        Ok(pid)
    }
}

/// The keeper knows no configuration: it writes plain lines to standard error.
fn say(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "weir keeper: {text}");
}
