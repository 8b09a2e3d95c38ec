//! Listening where containers ask: at the gateway of each of their networks, as those come and go.
//!
//! Each gateway has a socket of its own, so that replies leave from the address that was asked, with a thread for UDP and one
//! for TCP; what is answered, counted and forwarded is the server's. A gateway is bound ahead of its bridge (IP_FREEBIND).
//! A port that somebody else holds is told once, with who it is, and tried again when it is asked for again.

use crate::dns::Scratch;
use crate::dns::cookies::Baker;
use crate::dns::counters::Counters;
use crate::dns::responder::Tools;
use crate::dns::server::{MAX_SLOW_JOBS, run_streams};
use crate::dns::settings::{Settings, Shared};
use crate::dns::tcp::{Door, Plan, Speech};
use crate::dns::udp;
use crate::dns::udp::{RECEIVE_TIMEOUT, Worker};
use crate::lifecycle::{self, Phase, Trigger};
use crate::net::{BindError, Binder, Kind, Wanted};
use crate::rng::Rng;
use crate::table::Table;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::thread;
use tokio::sync::mpsc;

/// A network of containers, and where they ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    /// The machine's own address in it.
    pub address: IpAddr,
    /// Network and prefix length.
    pub network: (IpAddr, u8),
}

/// The gateways that a server listens on; they end when this is dropped.
#[derive(Debug)]
pub struct Containers {
    pub(crate) port: u16,
    pub(crate) binder: Binder,
    pub(crate) table: Table,
    pub(crate) settings: Shared,
    pub(crate) counters: Counters,
    /// Makes the cookies of these gateways.
    pub(crate) baker: Baker,
    pub(crate) open: Vec<Open>,
    /// Addresses that could not be bound, so that each is told once.
    pub(crate) told: BTreeSet<IpAddr>,
}

/// A gateway with its threads.
#[derive(Debug)]
pub(crate) struct Open {
    gateway: Gateway,
    trigger: Trigger,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.trigger.raise(Phase::Draining);
    }
}

impl Containers {
    /// Listens on exactly these gateways from now on; returns whether all of them are open. What could not be bound is tried
    /// again with the next call.
    pub fn set(&mut self, gateways: &[Gateway]) -> bool {
        let (stay, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.open).into_iter().partition(|open| gateways.contains(&open.gateway));
        self.open = stay;
        for open in gone {
            let address = SocketAddr::new(open.gateway.address, self.port);
            drop(open);
            for kind in [Kind::Udp, Kind::Tcp] {
                self.binder.close(kind, &self.wanted(address));
            }
            tracing::info!(%address, "containers ask here no more");
        }
        self.told.retain(|address| gateways.iter().any(|gateway| gateway.address == *address));
        // Before the first question comes in there.
        Settings::set_gateways(&self.settings, gateways);
        let fresh = gateways.iter().filter(|gateway| !self.open.iter().any(|open| open.gateway == **gateway));
        for gateway in fresh.copied().collect::<Vec<_>>() {
            match self.open(gateway) {
                Ok(open) => {
                    self.open.push(open);
                    self.told.remove(&gateway.address);
                }
                Err(error) if self.told.insert(gateway.address) => {
                    tracing::warn!("containers cannot ask at {}: {error}", gateway.address);
                }
                Err(_) => {}
            }
        }
        self.open.len() == gateways.len()
    }

    fn wanted(&self, address: SocketAddr) -> Wanted<'static> {
        Wanted { address, count: 1, free: false, ahead: true, label: "dns-containers" }
    }

    fn open(&self, gateway: Gateway) -> Result<Open, String> {
        let address = SocketAddr::new(gateway.address, self.port);
        let wanted = self.wanted(address);
        let tcp = self.binder.tcp(&wanted).map_err(|error| refused(&error))?;
        let udp = self.binder.udp(&wanted, RECEIVE_TIMEOUT).map_err(|error| {
            self.binder.close(Kind::Tcp, &wanted);
            refused(&error)
        })?;
        let (trigger, signal) = lifecycle::drain();
        let start = || -> io::Result<()> {
            let (slow, jobs) = mpsc::channel(MAX_SLOW_JOBS);
            for socket in udp.sockets {
                let worker = Worker {
                    address,
                    socket: Arc::new(socket),
                    reader: self.table.reader("dns-containers"),
                    settings: self.settings.clone(),
                    counters: self.counters.spare(),
                    forwards: self.counters.forwards().clone(),
                    slow: slow.clone(),
                    scratch: Scratch::new(Rng::from_os()),
                    baker: self.baker.clone(),
                    limits: self.counters.limits().clone(),
                };
                let signal = signal.clone();
                thread::Builder::new().name("dns-containers".to_owned()).spawn(move || udp::run(worker, &signal))?;
            }
            let doors = tcp.sockets.into_iter().map(|listener| Door { listener, speech: Speech::Plain }).collect();
            let tools = Tools {
                reader: self.table.reader("dns-containers-slow"),
                scratch: Scratch::new(Rng::from_os()),
                baker: self.baker.clone(),
                settings: self.settings.clone(),
                counters: self.counters.spare(),
                forwards: self.counters.forwards().clone(),
                elsewhere: None,
            };
            let plan = Plan { doors, jobs: Some(jobs), tools };
            thread::Builder::new().name("dns-cont-slow".to_owned()).spawn(move || run_streams(plan, signal))?;
            Ok(())
        };
        start().map_err(|error| format!("no thread can be started: {error}"))?;
        let (network, prefix) = gateway.network;
        tracing::info!(%address, network = %format_args!("{network}/{prefix}"), "answering DNS for containers");
        Ok(Open { gateway, trigger })
    }
}

/// Says what is wrong and what to do.
fn refused(error: &BindError) -> String {
    let who = error.holder.as_deref().unwrap_or_default();
    let advice = match error.source.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; run as root, or add AmbientCapabilities=CAP_NET_BIND_SERVICE"
        }
        Some(libc::EADDRINUSE) if who.starts_with("dnsmasq") => {
            "have it listen elsewhere: bind-interfaces and except-interface for the bridge in /etc/dnsmasq.conf"
        }
        Some(libc::EADDRINUSE) if who.starts_with("systemd-resolve") => {
            "have it listen elsewhere: remove DNSStubListenerExtra in /etc/systemd/resolved.conf"
        }
        Some(libc::EADDRINUSE) => "stop it, or have it listen on its own addresses instead of all",
        _ => return format!("{error}: {}", error.source),
    };
    format!("{error}: {}; {advice}", error.source)
}
