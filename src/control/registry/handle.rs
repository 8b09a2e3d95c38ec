//! The asynchronous face of the registry: what every other part of control, and the admin API, calls.

use crate::balance::EndpointStats;
use crate::control::registry::actor::{Answer, Message, Query};
use crate::control::registry::durable::{Drain, Durable};
use crate::control::registry::{Adopted, Command, Contribution, Done, Registration, RegistryError, TakenIn};
use crate::control::store::Store;
use crate::model::{Instance, InstanceId, ServiceName, ServiceSpec, Source, Transition};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, oneshot};

/// A service and its instances at one moment; gone ones that are still listed included, in the order of registration.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The definition.
    pub spec: Arc<ServiceSpec>,
    /// The instances.
    pub instances: Vec<Arc<Instance>>,
}

/// An endpoint that was taken out of the table; `control::withdraw` waits for the rest.
#[derive(Debug, Clone)]
pub struct Withdrawn {
    /// The first generation without it.
    pub generation: u64,
    /// Its counters: requests in flight, DNS answers that named it.
    pub stats: Arc<EndpointStats>,
}

/// Talks to the registry's task; clones share its bounded mailbox.
///
/// Each mutation returns after the publish that carries it. A dropped call may still be carried out.
#[derive(Debug, Clone)]
pub struct Handle {
    mailbox: mpsc::Sender<Message>,
    notices: broadcast::Sender<ServiceName>,
    durable: Option<Durable>,
}

impl Handle {
    pub(super) fn new(mailbox: mpsc::Sender<Message>, notices: broadcast::Sender<ServiceName>) -> Self {
        Self { mailbox, notices, durable: None }
    }

    /// Returns a handle that writes down what comes over the API before it is done.
    pub fn durable(&self, store: Store) -> Self {
        Self { durable: Some(Durable::new(store)), ..self.clone() }
    }

    /// Carries out a configuration's changes in one publish; returns its generation.
    ///
    /// # Errors
    /// The first refusal; the other parts are carried out all the same. [`RegistryError::Closed`] when the registry ended.
    pub async fn contribute(&self, contribution: Contribution) -> Result<u64, RegistryError> {
        Ok(self.command(Command::contribute(contribution)).await?.generation)
    }

    /// Carries out the changes of one source ([`Contribution::only`]) in one publish; nothing of others changes.
    ///
    /// # Errors
    /// [`RegistryError::Closed`] when the registry ended.
    pub async fn take_in(&self, contribution: Contribution) -> Result<TakenIn, RegistryError> {
        let Answer { generation, done, .. } = self.command(Command::contribute(contribution)).await?;
        match done {
            Done::TakenIn { clashes, refused } => Ok(TakenIn { generation, clashes, refused }),
            _ => Ok(TakenIn { generation, clashes: Vec::new(), refused: None }),
        }
    }

    /// Defines a service or changes its definition; returns the generation that shows it.
    ///
    /// # Errors
    /// [`RegistryError::Closed`] when the registry ended.
    pub async fn define(&self, spec: Arc<ServiceSpec>) -> Result<u64, RegistryError> {
        self.contribute(Contribution { define: vec![spec], ..Contribution::default() }).await
    }

    /// Removes a service with all its instances at once; stop its replicas before.
    ///
    /// # Errors
    /// [`RegistryError::UnknownService`] when it is not defined, [`RegistryError::Closed`].
    pub async fn undefine(&self, name: &ServiceName) -> Result<u64, RegistryError> {
        self.contribute(Contribution { undefine: vec![name.clone()], ..Contribution::default() }).await
    }

    /// Takes over what an earlier Weir knew, in one publish; returns its generation.
    ///
    /// # Errors
    /// The first refusal; the other parts are carried out all the same. [`RegistryError::Closed`] when the registry ended.
    pub async fn adopt(&self, adopt: Vec<Adopted>) -> Result<u64, RegistryError> {
        self.contribute(Contribution { adopt, ..Contribution::default() }).await
    }

    /// Registers an instance: starting, or ready when there is nothing to check. Over the API it is durable when this
    /// returns, and comes back after a restart with one full lease.
    ///
    /// # Errors
    /// [`RegistryError::UnknownService`], [`RegistryError::Duplicate`], [`RegistryError::Invalid`],
    /// [`RegistryError::Store`], [`RegistryError::Closed`].
    pub async fn register(&self, registration: Registration) -> Result<Instance, RegistryError> {
        match (&self.durable, registration.source) {
            (Some(durable), Source::Api) => durable.register(self, registration).await,
            _ => self.register_now(registration).await,
        }
    }

    /// Deregisters an instance that came over the API; durable when this returns.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Store`], [`RegistryError::Closed`].
    pub async fn deregister(&self, id: &InstanceId) -> Result<(), RegistryError> {
        match &self.durable {
            Some(durable) => durable.deregister(self, id).await,
            None => self.gone(id, "deregistered").await.map(|_| ()),
        }
    }

    /// Drains an instance that nobody stops; durable when this returns, until [`Handle::undo_drain`].
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Expired`], [`RegistryError::Store`],
    /// [`RegistryError::Closed`].
    pub async fn drain(&self, id: &InstanceId) -> Result<(), RegistryError> {
        if let Some(durable) = &self.durable {
            durable.mark_drain(self, id, Drain::Set).await?;
        }
        self.withdraw(id, "drained by hand").await.map(|_| ())
    }

    /// Undoes [`Handle::drain`].
    ///
    /// # Errors
    /// As [`Handle::drain`].
    pub async fn undo_drain(&self, id: &InstanceId) -> Result<(), RegistryError> {
        if let Some(durable) = &self.durable {
            durable.mark_drain(self, id, Drain::Undone).await?;
        }
        self.restore(id).await.map(|_| ())
    }

    /// Forgets what is stored of an instance, unless it is registered by now.
    pub(crate) async fn forget(&self, id: &InstanceId) {
        if let Some(durable) = &self.durable {
            durable.forget(self, id).await;
        }
    }

    /// Asks whether a registration would be accepted; returns it complete.
    pub(super) async fn check(&self, registration: Registration) -> Result<Registration, RegistryError> {
        let answer = self.query(|reply| Query::Check(Box::new(registration), reply)).await;
        answer.ok_or(RegistryError::Closed)?
    }

    pub(super) async fn register_now(&self, registration: Registration) -> Result<Instance, RegistryError> {
        match self.command(Command::Register(registration)).await?.done {
            Done::Registered(instance) => Ok(Arc::unwrap_or_clone(instance)),
            _ => Err(RegistryError::Closed),
        }
    }

    /// Extends a lease, also one that ran out and is still listed; returns its length.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`] when there is no such instance any more, [`RegistryError::Invalid`] when it has
    /// no lease, [`RegistryError::Closed`].
    pub async fn renew(&self, id: &InstanceId) -> Result<Duration, RegistryError> {
        match self.command(Command::Renew(id.clone())).await?.done {
            Done::Renewed(length) => Ok(length),
            _ => Err(RegistryError::Closed),
        }
    }

    /// Takes an instance out at once: it exited or was deregistered. Told twice, it does nothing.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Closed`].
    pub async fn gone(&self, id: &InstanceId, reason: &str) -> Result<u64, RegistryError> {
        Ok(self.command(Command::Gone { id: id.clone(), reason: reason.to_owned() }).await?.generation)
    }

    /// Takes an instance out of the table while it finishes what it has; see `control::withdraw::drained`.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Expired`], [`RegistryError::Closed`].
    pub async fn withdraw(&self, id: &InstanceId, reason: &str) -> Result<Withdrawn, RegistryError> {
        let answer = self.command(Command::Withdraw { id: id.clone(), reason: reason.to_owned() }).await?;
        // The table lists who drains; whoever it does not list was never routed to, so nothing is in flight.
        Ok(Withdrawn { generation: answer.generation, stats: answer.stats.unwrap_or_default() })
    }

    /// Undoes a drain: the instance is ready again if it was.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Expired`], [`RegistryError::Closed`].
    pub async fn restore(&self, id: &InstanceId) -> Result<u64, RegistryError> {
        Ok(self.command(Command::Restore(id.clone())).await?.generation)
    }

    /// Reports a change of verdict; the first healthy one makes a starting instance ready.
    ///
    /// # Errors
    /// [`RegistryError::UnknownInstance`], [`RegistryError::Expired`], [`RegistryError::Closed`].
    pub async fn report(&self, id: &InstanceId, transition: Transition, reason: &str) -> Result<u64, RegistryError> {
        let command = Command::Report { id: id.clone(), transition, reason: reason.to_owned() };
        Ok(self.command(command).await?.generation)
    }

    /// Returns all instances, gone ones that are still listed included; empty when the registry ended.
    pub async fn instances(&self) -> Vec<Instance> {
        let shared = self.query(Query::Instances).await.unwrap_or_default();
        shared.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Returns one instance, also when it is gone but still listed.
    pub async fn instance(&self, id: &InstanceId) -> Option<Instance> {
        let found = self.query(|reply| Query::Instance(id.clone(), reply)).await.flatten();
        found.map(Arc::unwrap_or_clone)
    }

    /// Returns a service and its instances.
    pub async fn service(&self, name: &ServiceName) -> Option<Listing> {
        self.query(|reply| Query::Service(name.clone(), reply)).await.flatten()
    }

    /// Returns the definition of each of these services, `None` where there is none; empty when the registry ended.
    pub async fn definitions(&self, names: Vec<ServiceName>) -> Vec<Option<Arc<ServiceSpec>>> {
        self.query(|reply| Query::Definitions(names, reply)).await.unwrap_or_default()
    }

    /// Returns the definitions of all services; empty when the registry ended.
    pub async fn specs(&self) -> Vec<Arc<ServiceSpec>> {
        self.query(Query::Specs).await.unwrap_or_default()
    }

    /// Subscribes to the names of services of which anything changes; after a lag, look at all of them.
    ///
    /// A name is sent when the change is accepted, before it is published.
    pub fn watch(&self) -> broadcast::Receiver<ServiceName> {
        self.notices.subscribe()
    }

    async fn command(&self, command: Command) -> Result<Answer, RegistryError> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Command(command, reply)).await.map_err(|_| RegistryError::Closed)?;
        answer.await.map_err(|_| RegistryError::Closed)?
    }

    async fn query<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.mailbox.send(Message::Query(query(reply))).await.ok()?;
        answer.await.ok()
    }
}
