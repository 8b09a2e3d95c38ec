//! What a change of one instance leads to: whether the table must show it and how soon.

use crate::control::registry::entry::Entry;
use crate::control::registry::{Done, Effects, Registration, RegistryError};
use crate::model::{InstanceState, Source, Verdict};

impl Effects {
    /// Notes how an instance changed: whether the table must show it and how soon.
    pub(super) fn record(&mut self, before: (InstanceState, Verdict), entry: &Entry) {
        let service = &entry.instance().service;
        let after = entry.standing();
        self.noticed.push(service.clone());
        let in_table = |state| matches!(state, InstanceState::Ready | InstanceState::Draining);
        if in_table(before.0) || in_table(after.0) {
            self.touched.push(service.clone());
        }
        // Whoever was ready is used, also when it is unhealthy and its service fails open.
        let was_ready = before.0 == InstanceState::Ready;
        let fell = before.1 != Verdict::Unhealthy && after.1 == Verdict::Unhealthy;
        self.removal |= was_ready && (after.0 != InstanceState::Ready || fell);
    }
}

/// An endpoint of the file, or of another table, that is listed again may have another weight and other tags; any other second registration is refused.
pub(super) fn amend(
    entry: &mut Entry,
    registration: &Registration,
    effects: &mut Effects,
) -> Result<Done, RegistryError> {
    let known = entry.instance();
    let same = matches!(known.source, Source::File | Source::Feed)
        && registration.source == known.source
        && known.service == registration.service
        && known.address == registration.address
        && known.ports == registration.ports;
    if !same {
        return Err(RegistryError::Duplicate(known.id.clone()));
    }
    if known.weight != registration.weight || known.traits != registration.traits {
        let before = entry.standing();
        let instance = entry.instance_mut();
        instance.weight = registration.weight;
        instance.traits = registration.traits.clone();
        effects.record(before, entry);
    }
    Ok(Done::Registered(entry.instance().clone()))
}
