//! A listener as one worker sees it: what the connections that came through it share.

use crate::model::{ListenerProtocol, ListenerSpec, ServiceName};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// What the connections of one listener on one worker share.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The listener's name, by which routes know it.
    pub(crate) name: Arc<str>,
    address: SocketAddr,
    /// Whether it takes datagrams.
    udp: bool,
    /// The service and the index of its port where every request goes: at the service's own address.
    pub(crate) only: RefCell<Option<(ServiceName, usize)>>,
    /// As of now: a reload may change all but name and address.
    spec: RefCell<Arc<ListenerSpec>>,
    /// Whether requests are sent to https; copied, for it is asked with each.
    redirect_https: Cell<bool>,
    /// When the listener was removed; 0 while it stays.
    removed_ms: Cell<u64>,
    removed: Notify,
    /// The listener that it is a view of, with which it goes.
    of: Option<Rc<Entry>>,
}

impl Entry {
    pub(crate) fn new(listener: Arc<ListenerSpec>) -> Self {
        Self {
            name: listener.name.clone(),
            address: listener.address,
            udp: listener.protocol.is_udp(),
            only: RefCell::new(only(&listener)),
            redirect_https: Cell::new(listener.redirect_https),
            spec: RefCell::new(listener),
            removed_ms: Cell::new(0),
            removed: Notify::new(),
            of: None,
        }
    }

    /// Returns it as if it were a listener with another definition, which is removed when it is.
    pub(crate) fn view(self: &Rc<Self>, listener: Arc<ListenerSpec>) -> Self {
        Self { of: Some(self.clone()), ..Self::new(listener) }
    }

    /// Returns the listener as it is now.
    pub(crate) fn spec(&self) -> Arc<ListenerSpec> {
        self.spec.borrow().clone()
    }

    /// Takes what a reload changed; connections that are open keep what they began with.
    pub(crate) fn update(&self, listener: Arc<ListenerSpec>) {
        self.redirect_https.set(listener.redirect_https);
        self.only.replace(only(&listener));
        self.spec.replace(listener);
    }

    /// Returns whether requests are sent to https.
    pub(crate) fn redirects_https(&self) -> bool {
        self.redirect_https.get()
    }

    /// Says that the listener is gone, by the worker's coarse clock.
    pub(crate) fn remove(&self, now_ms: u64) {
        self.removed_ms.set(now_ms.max(1));
        self.removed.notify_waiters();
    }

    /// Returns when the listener was removed, if it was.
    pub(crate) fn removed_since(&self) -> Option<u64> {
        let of = self.of.as_ref().and_then(|of| of.removed_since());
        of.or(Some(self.removed_ms.get()).filter(|&at| at != 0))
    }

    /// Returns whether it is this listener's.
    pub(crate) fn is_of(&self, listener: &ListenerSpec) -> bool {
        self.name == listener.name && self.address == listener.address && self.udp == listener.protocol.is_udp()
    }

    /// Waits until the listener is removed.
    pub(crate) async fn removed(&self) {
        while self.removed_since().is_none() {
            self.removed.notified().await;
        }
    }
}

fn only(listener: &ListenerSpec) -> Option<(ServiceName, usize)> {
    match &listener.protocol {
        ListenerProtocol::Service { service, port } => Some((service.clone(), *port)),
        _ => None,
    }
}
