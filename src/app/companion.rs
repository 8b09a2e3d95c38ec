//! The program that a sidecar is for (`weir sidecar exec`): started when its upstreams are reachable, told every signal, and
//! its end is Weir's, with its exit code.

use crate::balance::ServiceStats;
use crate::model::{ListenerProtocol, ServiceName};
use crate::sys::descriptors;
use crate::table::{Service, Table};
use anyhow::Context;
use std::collections::HashMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot::{Receiver, error::TryRecvError};
use tokio::time::{sleep, timeout};

/// Between two looks at upstreams that are not reachable yet.
const LOOK: Duration = Duration::from_millis(50);
/// A connection to an upstream takes at most so long.
const CONNECT: Duration = Duration::from_secs(1);
/// Looks between two lines of log.
const TELL: u32 = 100;

/// The program.
#[derive(Debug)]
pub(super) struct Companion {
    child: Child,
}

impl Companion {
    /// Waits until each service that a TCP listener leads to takes connections, then starts the program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) async fn start(command: &[OsString], table: &Table) -> anyhow::Result<Self> {
        upstreams(table).await;
        let (program, arguments) = command.split_first().context("no program is named")?;
        // The shim becomes the program after it has asked for the signal that ends it with this process, also when that is
        // killed. The kernel means the thread that starts it: this is the main one, which lives as long.
        let parent = std::process::id().to_string();
        let limit = descriptors::found().map(|limit| ["--descriptors".to_owned(), limit.to_string()]);
        let child = Command::new("/proc/self/exe")
            .args(["exec", "--beside", "--parent", &parent])
            .args(limit.iter().flatten())
            .arg("--")
            .arg(program)
            .args(arguments)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to execute {}", program.display()))?;
        tracing::info!(program = %program.display(), pid = child.id(), "started");
        Ok(Self { child })
    }

    /// Waits for its end; returns the exit code, as a shell does: 128 and the number of the signal that ended it.
    pub(super) async fn ended(&mut self) -> u8 {
        let status = self.child.wait().await;
        status.map_or(1, code)
    }

    /// Passes a signal on.
    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?));
        // It has ended by itself.
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, signal)
        {
            tracing::debug!(%error, "the program took no signal");
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let signal = status.signal().map(|signal| 128 + signal);
    u8::try_from(status.code().or(signal).unwrap_or(1)).unwrap_or(u8::MAX)
}

/// Waits until each service that a TCP listener leads to takes connections. One that has no replica while nobody uses it is
/// asked for one.
async fn upstreams(table: &Table) {
    let mut looks = 0;
    let mut asking = Asking::default();
    loop {
        let snapshot = table.load();
        let mut missing = Vec::new();
        for listener in snapshot.listeners.iter() {
            if let ListenerProtocol::Tcp { service, port } = &listener.protocol {
                let known = snapshot.services.get(service);
                asking.look(service, known);
                let is_there = match known {
                    Some(known) => is_reachable(known, *port).await,
                    None => false,
                };
                if !is_there {
                    missing.push(service.as_str().to_owned());
                }
            }
        }
        if missing.is_empty() {
            return;
        }
        if looks % TELL == 0 {
            tracing::info!(upstreams = missing.join(", "), "waits until they are reachable");
        }
        looks += 1;
        sleep(LOOK).await;
    }
}

/// The places in the queues of services without a replica, as connections have them: whoever runs a service starts one for
/// who waits there.
#[derive(Debug, Default)]
struct Asking(HashMap<ServiceName, (Arc<ServiceStats>, Receiver<()>)>);

impl Asking {
    /// Waits for a first replica of a service as long as it has none and may get one.
    fn look(&mut self, name: &ServiceName, service: Option<&Arc<Service>>) {
        let asleep = service.filter(|service| service.candidates.is_empty() && service.may_wake());
        let Some(service) = asleep else { return self.leave(name) };
        if let Some((stats, place)) = self.0.get_mut(name) {
            match place.try_recv() {
                Err(TryRecvError::Empty) if Arc::ptr_eq(stats, &service.stats) => return,
                // It was called, and there is none all the same.
                Ok(()) => stats.release(),
                Err(_) => {}
            }
        }
        self.leave(name);
        // Where the queue is full others ask already.
        if let Some(place) = service.stats.try_wait(service.spec.limits.queue) {
            self.0.insert(name.clone(), (service.stats.clone(), place));
            service.wake.ring();
        }
    }

    /// Gives the place up; a call that came with it is for the next one: who looks takes no place of a request.
    fn leave(&mut self, name: &ServiceName) {
        if let Some((stats, mut place)) = self.0.remove(name) {
            place.close();
            if place.try_recv().is_ok() {
                stats.release();
            }
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let names: Vec<_> = self.0.keys().cloned().collect();
        names.iter().for_each(|name| self.leave(name));
    }
}

async fn is_reachable(service: &Service, port: usize) -> bool {
    let now_ms = crate::clock::now_ms();
    let sockets: Vec<SocketAddr> =
        service.candidates(now_ms).filter_map(|at| service.endpoints.get(at)?.socket(port)).collect();
    for socket in sockets {
        if matches!(timeout(CONNECT, TcpStream::connect(socket)).await, Ok(Ok(_))) {
            return true;
        }
    }
    false
}
