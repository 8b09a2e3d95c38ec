//! The table between Weirs: who follows this one, and whom this one follows.

use crate::admin::{State, TokenGauge, Tokens};
use crate::config::Loaded;
use crate::control::events::Events;
use crate::control::feed::{self, Announcing, FeedGauges, Fleet, Outgoing, Sources};
use crate::control::plane::Control;
use crate::control::registry::{Contribution, Handle};
use crate::lifecycle::Signal;
use crate::table::Table;
use crate::telemetry::Metrics;
use anyhow::Context;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Events that a slow listener may lag behind, and that `weir events` shows of the past.
const EVENTS: usize = 1024;
/// Longest wait for a first table from others before connections are accepted.
const FIRST_TABLE: Duration = Duration::from_secs(2);

/// Between two looks at the files of authorities that followers are told.
const AUTHORITIES_LOOK: Duration = Duration::from_secs(5);

/// The Weirs that this one follows, and what they are told of.
#[derive(Debug)]
pub(super) struct Following {
    table: Table,
    fleet: Fleet,
    sources: Sources,
    announcing: Option<Announcing>,
}

impl Following {
    /// Returns the table that it all comes together in.
    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    /// Returns what is known of the sources.
    pub(super) fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// Sees off what was announced, within `drain`. Cancel-safe: called again it goes on, with another time.
    pub(super) async fn withdraw(&mut self, drain: Duration) {
        if let Some(announcing) = &mut self.announcing {
            announcing.withdraw(drain).await;
            self.announcing = None;
        }
    }

    /// Tells the other Weirs that nothing of their tables is used any more.
    pub(super) async fn leave(&self) {
        self.sources.leave().await;
    }
}

/// Expects who followed an earlier process of this Weir: nothing is stopped before they are back, or have had their time to be.
pub(super) fn fleet(loaded: &Loaded, table: &Table) -> (Events, Fleet) {
    let events = Events::new(EVENTS);
    let fleet = Fleet::new(table.clone(), events.clone()).expecting(loaded.control.state.join("followers"));
    (events, fleet)
}

/// Makes what tells the table to others.
pub(super) fn outgoing(loaded: &Loaded, following: &Following, control: &Control, signal: &Signal) -> Outgoing {
    let (table, sources) = (&following.table, &following.sources);
    following.fleet.open();
    let outgoing =
        Outgoing::new(table.clone(), following.fleet.clone(), loaded.control.node_id(), sources, signal.clone());
    tokio::spawn(watch_authorities(outgoing.clone(), table.clone(), control.registry.clone()));
    outgoing
}

/// Has followers told of other authorities, when the files change that services name; ends with the runtime.
async fn watch_authorities(outgoing: Outgoing, table: Table, registry: Handle) {
    loop {
        tokio::time::sleep(AUTHORITIES_LOOK).await;
        if outgoing.fleet().is_empty() {
            continue;
        }
        let (authorities, snapshot) = (outgoing.authorities().clone(), table.load());
        let changed = tokio::task::spawn_blocking(move || authorities.refresh(&snapshot)).await.unwrap_or_default();
        if !changed.is_empty() {
            // The registry is gone when Weir ends.
            let _ = registry.contribute(Contribution { touch: changed, ..Contribution::default() }).await;
        }
    }
}

/// Shows the metrics of followers, sources and refused tokens.
pub(super) fn show(metrics: &Metrics, state: &State, tokens: Option<Tokens>) -> anyhow::Result<()> {
    let failed = "failed to register the metrics of the table between Weirs";
    let gauges = FeedGauges::new(state.feed.fleet().clone(), state.sources.clone());
    metrics.registry().register(Box::new(gauges)).context(failed)?;
    if let Some(tokens) = tokens {
        metrics.registry().register(Box::new(TokenGauge::new(tokens))).context(failed)?;
    }
    Ok(())
}

/// Follows the sources that the configuration names; a table is in use when this returns, unless none comes in time.
pub(super) async fn follow(
    loaded: &Loaded,
    control: &Control,
    fleet: Fleet,
    (table, metrics): (&Table, &Metrics),
) -> Following {
    let table = table.clone();
    let Some(options) = &loaded.control.sources else {
        return Following { table, fleet, sources: Sources::default(), announcing: None };
    };
    let parts = feed::Parts {
        registry: control.registry.clone(),
        table: table.clone(),
        metrics: metrics.clone(),
        events: control.events.clone(),
        node: loaded.control.node_id(),
        state: loaded.control.state.clone(),
    };
    let name = name(loaded);
    let sources = feed::start(options, &name, parts).await;
    if !sources.first(FIRST_TABLE).await {
        let instead = if sources.is_kept() { "with the last one, which was kept" } else { "without one" };
        tracing::warn!("no table came from another Weir yet; serving {instead}");
    }
    let announcing = Announcing::start(&options.announce, &options.places, &name);
    Following { table, fleet, sources, announcing: (!options.announce.is_empty()).then_some(announcing) }
}

/// Returns what this Weir is called at its sources: as told, else the same after each start and different from others.
fn name(loaded: &Loaded) -> String {
    let told = loaded.control.sources.as_ref().and_then(|sources| sources.name.clone());
    told.unwrap_or_else(|| {
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let state = std::path::absolute(&loaded.control.state).unwrap_or_default();
        let number = xxh3_64(format!("{}\n{}", machine.trim(), state.display()).as_bytes());
        let node: String = loaded.control.node_id().as_str().chars().take(50).collect();
        format!("{}-{:08x}", node.trim_end_matches('-'), number as u32)
    })
}
