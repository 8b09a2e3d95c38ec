//! What may change while the server runs: one value behind one pointer, loaded once for a batch of questions.
//!
//! Addresses, zone and threads are not in it: those need a restart.

use crate::clock;
use crate::dns::forward::{Answered, Foreign, Forwarder};
use crate::dns::network::contains;
use crate::dns::querylog::{Line, Lines, QueryLog};
use crate::dns::rate::Limiter;
use crate::dns::view::{Asker, Scopes, View};
use crate::dns::{Aliases, Authority, Gateway, Options, QueryLogOptions, Schemas};
use crate::dnswire::{Answer, Query, rcode};
use crate::rng::Rng;
use crate::table::Snapshot;
use arc_swap::ArcSwap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The port of DNS, RFC 1035 §4.2.
const PORT: u16 = 53;

/// The current settings; shared by all threads of the server.
pub(crate) type Shared = Arc<ArcSwap<Settings>>;

/// Settings of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Records of the server itself.
    pub(crate) authority: Authority,
    /// Which names are answered.
    pub(crate) schemas: Schemas,
    /// Names that stand for others.
    pub(crate) aliases: Aliases,
    /// What askers may see.
    pub(crate) scopes: Scopes,
    /// Asks for names outside the zone; `None`: they are refused.
    pub(crate) forwarder: Option<Arc<Forwarder>>,
    /// How many answers over UDP a source network gets.
    pub(crate) limiter: Arc<Limiter>,
    /// Writes down some of the questions; `None`: none.
    pub(crate) log: Option<Arc<QueryLog>>,
    /// What it has written, also before the last change.
    pub(crate) lines: Arc<Lines>,
    /// Where containers ask.
    pub(crate) gateways: Arc<[Gateway]>,
    /// TCP connections at a time.
    pub(crate) tcp_connections: usize,
    /// Those of one client.
    pub(crate) tcp_connections_per_client: usize,
    /// Longest wait for the next complete question over TCP, and for a client to take its answers.
    pub(crate) tcp_idle: Duration,
}

impl Settings {
    /// Makes the settings of a server bound to `addresses`; a forwarder whose options stay keeps its cache.
    pub(crate) fn new(options: &Options, addresses: &[SocketAddr], before: Option<&Self>) -> Self {
        let known = before.and_then(|before| before.forwarder.as_ref());
        let forwarder = options.forward.as_ref().map(|wanted| match known.filter(|known| known.options() == wanted) {
            Some(known) => known.clone(),
            None => Arc::new(Forwarder::new(wanted.clone(), addresses, &options.zone)),
        });
        let known = before.map(|before| &before.limiter).filter(|known| *known.options() == options.rate_limit);
        let limiter = known
            .cloned()
            .unwrap_or_else(|| Arc::new(Limiter::new(options.rate_limit.clone(), Rng::from_os().next_u64())));
        let lines = before.map(|before| before.lines.clone()).unwrap_or_default();
        let bound: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        Self {
            authority: Authority::new(options, &bound),
            schemas: Schemas::new(&options.schemas, &options.zone),
            aliases: Aliases::new(&options.aliases),
            scopes: Scopes::new(&options.views),
            forwarder,
            limiter,
            log: options.log.as_ref().and_then(|wanted| open_log(wanted, before, &lines)),
            lines,
            gateways: before.map_or_else(|| Arc::new([]) as Arc<[Gateway]>, |before| before.gateways.clone()),
            tcp_connections: options.tcp_connections,
            tcp_connections_per_client: options.tcp_connections_per_client,
            tcp_idle: options.tcp_idle,
        }
    }

    /// Takes up where containers ask; nothing else changes.
    pub(crate) fn set_gateways(shared: &Shared, gateways: &[Gateway]) {
        // A reload may come between the look and the change.
        shared.rcu(|before| Self { gateways: gateways.into(), ..Self::clone(before) });
    }

    /// Returns where a container with this address asks, on the usual port.
    pub(crate) fn gateway(&self, client: IpAddr) -> Option<SocketAddr> {
        let gateway = self.gateways.iter().find(|gateway| contains(gateway.network, client))?;
        Some(SocketAddr::new(gateway.address, PORT))
    }

    /// Returns what the answer to this asker depends on.
    pub(crate) fn view<'s>(&'s self, snapshot: &'s Snapshot, now_ms: u64, asker: Asker) -> View<'s> {
        let at = |gateway: &&Gateway| asker.listener.is_some_and(|listener| listener.ip() == gateway.address);
        let asker = match self.gateways.iter().find(at) {
            Some(gateway) => Asker { containers: true, network: Some(gateway.network), ..asker },
            None => asker,
        };
        View {
            snapshot,
            authority: &self.authority,
            schemas: &self.schemas,
            aliases: &self.aliases,
            now_ms,
            forwards: self.forwards_for(asker.client),
            asker,
            scope: self.scopes.choose(&asker),
        }
    }

    /// Returns whether names outside the zone are resolved for this client.
    pub(crate) fn forwards_for(&self, client: Option<IpAddr>) -> bool {
        match (&self.forwarder, client) {
            (Some(forwarder), Some(client)) => forwarder.allows(client),
            _ => false,
        }
    }

    /// Answers a question over UDP that is for the forwarder from what it knows.
    pub(crate) fn known(
        &self,
        query: &Query<'_>,
        client: Option<IpAddr>,
        now_ms: u64,
        out: &mut [u8],
    ) -> Option<Answered> {
        let max_bytes = Answer::udp_bytes(query, self.authority.max_udp_bytes);
        let asked = Foreign { query: *query, client, max_bytes };
        self.forwarder.as_ref()?.quick(&asked, now_ms, out)
    }

    /// Returns when a question that is answered from now on came, where that is logged.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.log.as_ref().map(|_| clock::now())
    }

    /// Writes a question down that came at that time, where the draw falls on it.
    pub(crate) fn note<'q>(&self, since: Option<Instant>, line: impl FnOnce() -> Line<'q>) {
        if let (Some(log), Some(since)) = (&self.log, since) {
            log.offer(&line(), since);
        }
    }

    /// Returns whether a refusal is because the client may not have names resolved.
    pub(crate) fn denied(&self, forwards: bool, code: u16) -> bool {
        self.forwarder.is_some() && !forwards && code == rcode::REFUSED
    }
}

/// Opens the log that is wanted, or goes on with the one that is.
fn open_log(wanted: &QueryLogOptions, before: Option<&Settings>, lines: &Arc<Lines>) -> Option<Arc<QueryLog>> {
    let known = before.and_then(|before| before.log.as_ref()).filter(|known| known.options() == wanted);
    if let Some(known) = known {
        return Some(known.clone());
    }
    match QueryLog::open(wanted, lines.clone(), Rng::from_os().next_u64()) {
        Ok(log) => Some(Arc::new(log)),
        Err(error) => {
            tracing::error!(%error, "failed to start the log of DNS questions; it stays off");
            None
        }
    }
}
