//! Writes down what comes over the API, before it is done.
//!
//! A registration is checked, committed, then carried out; should it be refused after all, the record goes again. Steps on
//! one id follow each other, so that the store and the registry cannot disagree about it. Renewals are not written: after
//! a restart each lease gets one full period.

use crate::control::registry::{Handle, Registration, RegistryError};
use crate::control::store::{Change, RegistrationRecord, Store};
use crate::model::{Instance, InstanceId, InstanceState};
use crate::rng::Rng;
use crate::spec;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64;

/// Steps on ids that share a lock wait for each other; fsync dominates anyway.
const LOCKS: usize = 64;
/// Tries to make up an id that is free, of a billion.
const TRIES: usize = 8;

/// Whether a drain begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    Set,
    Undone,
}

/// The store and who is at work on which id.
#[derive(Debug, Clone)]
pub(super) struct Durable {
    store: Store,
    locks: Arc<[Mutex<()>; LOCKS]>,
}

impl Durable {
    pub(super) fn new(store: Store) -> Self {
        Self { store, locks: Arc::new(std::array::from_fn(|_| Mutex::default())) }
    }

    pub(super) async fn register(
        &self,
        registry: &Handle,
        registration: Registration,
    ) -> Result<Instance, RegistryError> {
        let Some(id) = registration.id.clone() else { return self.register_anew(registry, registration).await };
        let _alone = self.lock(&id).await;
        let complete = registry.check(registration).await?;
        self.store.commit(vec![Change::PutRegistration(id.clone(), record(&complete))]).await?;
        let registered = registry.register_now(complete).await;
        if registered.is_err() {
            self.drop_record(&id).await;
        }
        registered
    }

    /// Makes up an id.
    async fn register_anew(&self, registry: &Handle, registration: Registration) -> Result<Instance, RegistryError> {
        let mut rng = Rng::from_os();
        let mut refused = RegistryError::Closed;
        for _ in 0..TRIES {
            let id = InstanceId::random(&registration.service, rng.next_u64());
            let attempt = Registration { id: Some(id), ..registration.clone() };
            match Box::pin(self.register(registry, attempt)).await {
                Err(RegistryError::Duplicate(id)) => refused = RegistryError::Duplicate(id),
                outcome => return outcome,
            }
        }
        Err(refused)
    }

    pub(super) async fn deregister(&self, registry: &Handle, id: &InstanceId) -> Result<(), RegistryError> {
        let _alone = self.lock(id).await;
        registry.instance(id).await.ok_or_else(|| RegistryError::UnknownInstance(id.clone()))?;
        self.store.commit(forgotten(id)).await?;
        registry.gone(id, "deregistered").await.map(|_| ())
    }

    pub(super) async fn mark_drain(
        &self,
        registry: &Handle,
        id: &InstanceId,
        drain: Drain,
    ) -> Result<(), RegistryError> {
        let _alone = self.lock(id).await;
        let instance = registry.instance(id).await;
        if instance.is_none_or(|instance| instance.state == InstanceState::Gone) {
            // Carrying it out says why it cannot be.
            return Ok(());
        }
        let change = match drain {
            Drain::Set => Change::PutDrain(id.clone()),
            Drain::Undone => Change::DropDrain(id.clone()),
        };
        Ok(self.store.commit(vec![change]).await?)
    }

    pub(super) async fn forget(&self, registry: &Handle, id: &InstanceId) {
        let _alone = self.lock(id).await;
        if registry.instance(id).await.is_none() {
            self.drop_record(id).await;
        }
    }

    async fn drop_record(&self, id: &InstanceId) {
        // What cannot be written now is kept until it can; the store says so itself.
        let _ = self.store.note(forgotten(id)).await;
    }

    async fn lock(&self, id: &InstanceId) -> MutexGuard<'_, ()> {
        let at = xxh3_64(id.as_str().as_bytes()) as usize % LOCKS;
        self.locks[at].lock().await
    }
}

/// Everything that is stored of an instance that came over the API.
fn forgotten(id: &InstanceId) -> Vec<Change> {
    vec![Change::DropRegistration(id.clone()), Change::DropDrain(id.clone()), Change::DropReady(id.clone())]
}

fn record(registration: &Registration) -> RegistrationRecord {
    let (zone, tags, meta) = spec::written(registration.traits.as_deref());
    RegistrationRecord {
        service: registration.service.to_string(),
        address: registration.address,
        ports: registration.ports.clone(),
        weight: registration.weight,
        zone,
        tags,
        meta,
        lease_ms: registration.lease.map_or(0, |lease| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX)),
    }
}
