//! Signals → an ordered drain with a deadline.
//!
//! SIGTERM or SIGINT: readiness off, accept queues emptied, connections end with their next response; when nobody serves
//! from them any more, workloads stop or are left to the next start (`workloads_on_exit`). A second signal, or the deadline, ends what is left at once.

use crate::app::Ended;
use crate::app::wire::Parts;
use crate::control::configuration::{self, Cause};
use crate::lifecycle::Phase;
use crate::proxy::Workers;
use anyhow::Context;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// After the drain's deadline, workers get so long to close what is left.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The signals that end Weir.
struct Endings {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    /// Asked to look at the file on SIGHUP.
    configuration: configuration::Handle,
    user: [Signal; 2],
}

impl Endings {
    fn new(configuration: configuration::Handle) -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hangup: listen(SignalKind::hangup())?,
            configuration,
            user: [listen(SignalKind::user_defined1())?, listen(SignalKind::user_defined2())?],
        })
    }

    /// Waits for the next one; SIGQUIT asks to stop at once.
    ///
    /// SIGHUP reloads. SIGUSR1 and SIGUSR2 mean reopen and upgrade elsewhere: habit must not end the process.
    async fn next(&mut self) -> Phase {
        let [first, second] = &mut self.user;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Phase::Draining,
                _ = self.interrupt.recv() => return Phase::Draining,
                _ = self.quit.recv() => return Phase::Stopping,
                _ = self.hangup.recv() => self.configuration.hint(Cause::Signal),
                _ = first.recv() => tracing::warn!("SIGUSR1 changes nothing: the log goes to standard error"),
                _ = second.recv() => tracing::warn!("SIGUSR2 changes nothing: restart to run another binary"),
            }
        }
    }
}

/// Serves until a signal, then drains; returns how it ended.
pub(super) async fn serve(parts: Parts, drain: Duration) -> anyhow::Result<Ended> {
    let Parts { trigger, live, control, dns, admin, configuration } = parts;
    let mut endings = Endings::new(configuration)?;
    let phase = endings.next().await;
    tracing::info!(deadline = ?drain, "draining; a second signal stops at once");
    let workers = live.end().await;
    trigger.raise(phase);
    let mut joined = tokio::task::spawn_blocking(move || workers.map(Workers::join));
    let (drained, hurry) = tokio::select! {
        _ = &mut joined => (true, phase == Phase::Stopping),
        () = tokio::time::sleep(drain), if phase == Phase::Draining => (false, false),
        _ = endings.next() => (false, true),
    };
    if !drained {
        tracing::warn!("stopping before everything was drained");
        trigger.raise(Phase::Stopping);
        if tokio::time::timeout(STOP_GRACE, joined).await.is_err() {
            tracing::error!("workers did not stop in time");
        }
    }
    // Nobody serves any more, so nothing is in flight at a replica. What is to end with Weir and a second signal leaves
    // running is killed by the kernel when the runtime goes.
    tokio::select! {
        () = control.end(), if !hurry => {}
        () = std::future::ready(()), if hurry => tracing::warn!("waiting for no replica"),
        _ = endings.next() => tracing::warn!("not waiting for the replicas any more"),
    }
    trigger.raise(Phase::Stopping);
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
    Ok(if drained { Ended::Drained } else { Ended::Forced })
}
