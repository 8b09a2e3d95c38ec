//! The keeper of obtained certificates, put together: stored ones, authorities, and the listeners that they are for.

use crate::app::keyring::Keyring;
use crate::config::Loaded;
use crate::control::certificates::{self, Handle, Issuer, Parts, Shelf};
use crate::control::plane::Control;
use crate::model::ListenerSpec;
use crate::table::Table;
use std::sync::Arc;

/// Starts the keeper; what is stored is served when it returns.
pub(super) async fn start(
    loaded: &Loaded,
    control: &Control,
    keyring: &Keyring,
    table: &Table,
) -> anyhow::Result<Handle> {
    let parts = Parts {
        store: control.store.clone(),
        events: control.events.clone(),
        table: table.clone(),
        acme: authority(loaded, control, keyring)?,
        on_demand_per_hour: loaded.control.acme.as_ref().map_or(0, |acme| acme.on_demand_per_hour),
    };
    Ok(certificates::spawn(parts, &control.obtained, shelves(&loaded.listeners, keyring)).await)
}

#[cfg(feature = "acme")]
fn authority(loaded: &Loaded, control: &Control, keyring: &Keyring) -> anyhow::Result<Option<Arc<dyn Issuer>>> {
    use crate::control::acme::Acme;
    use anyhow::Context;
    let Some(options) = &loaded.control.acme else { return Ok(None) };
    let challenges = keyring.challenges().clone();
    let acme = Acme::open(options, control.store.clone(), &control.obtained, challenges).context("acme")?;
    Ok(Some(Arc::new(acme)))
}

/// A configuration that asks for it was refused.
#[cfg(not(feature = "acme"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
fn authority(_: &Loaded, _: &Control, _: &Keyring) -> anyhow::Result<Option<Arc<dyn Issuer>>> {
    Ok(None)
}

/// Returns the listeners that Weir obtains certificates for.
pub(super) fn shelves(listeners: &[ListenerSpec], keyring: &Keyring) -> Vec<Shelf> {
    let shelf = |listener: &ListenerSpec| {
        let tls = listener.tls.as_ref()?;
        Some(Shelf {
            certificates: keyring.certificates(&listener.name)?,
            acme: tls.acme.clone(),
            internal: tls.internal.clone(),
            on_demand: tls.on_demand,
        })
    };
    listeners.iter().filter_map(shelf).collect()
}
