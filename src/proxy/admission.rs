//! How many connections a listener has, in all and of each client address, counted over all workers.
//!
//! Nothing is counted, and no lock taken, where a listener bounds nothing.

use crate::model::ListenerSpec;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of all listeners that are bounded; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admissions(Arc<Mutex<HashMap<Arc<str>, Counts>>>);

#[derive(Debug, Default)]
struct Counts {
    open: u32,
    clients: HashMap<IpAddr, u32>,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admissions: Admissions,
    listener: Arc<str>,
    client: IpAddr,
}

impl Admissions {
    /// Counts a connection; `None`: the listener bounds nothing.
    ///
    /// # Errors
    /// Why it must not stay.
    pub(crate) fn enter(&self, spec: &ListenerSpec, client: IpAddr) -> Result<Option<Place>, &'static str> {
        let limits = (spec.admission.connections, spec.admission.connections_per_client);
        if limits == (None, None) {
            return Ok(None);
        }
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = listeners.entry(spec.name.clone()).or_default();
        if limits.0.is_some_and(|limit| counts.open >= limit) {
            return Err("listener_full");
        }
        let of_client = counts.clients.entry(client).or_default();
        if limits.1.is_some_and(|limit| *of_client >= limit) {
            return Err("client_full");
        }
        *of_client += 1;
        counts.open += 1;
        Ok(Some(Place { admissions: self.clone(), listener: spec.name.clone(), client }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut listeners = self.admissions.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counts) = listeners.get_mut(&self.listener) else { return };
        counts.open -= 1;
        if let Some(of_client) = counts.clients.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.clients.remove(&self.client);
            }
        }
        if counts.open == 0 {
            listeners.remove(&self.listener);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Admissions;
    use crate::model::{AdmissionSpec, ListenerProtocol, ListenerSpec};
    use std::net::IpAddr;

    #[test]
    fn a_listener_and_a_client_have_their_bounds_and_get_back_what_ends() {
        let admission =
            AdmissionSpec { connections: Some(3), connections_per_client: Some(2), ..AdmissionSpec::default() };
        let mut spec = ListenerSpec {
            name: "web".into(),
            address: ([127, 0, 0, 1], 0).into(),
            protocol: ListenerProtocol::Http,
            trusted_proxies: vec![],
            tls: None,
            redirect_https: false,
            admission,
        };
        let admissions = Admissions::default();
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let enter = |spec: &ListenerSpec, last| admissions.enter(spec, ip(last)).map(|place| place.unwrap());
        let one = enter(&spec, 1).unwrap();
        let two = enter(&spec, 1).unwrap();
        assert_eq!(enter(&spec, 1).unwrap_err(), "client_full");
        let three = enter(&spec, 2).unwrap();
        assert_eq!(enter(&spec, 3).unwrap_err(), "listener_full");
        drop(one);
        let four = enter(&spec, 1).unwrap();
        drop((two, three, four));
        assert!(admissions.0.lock().unwrap().is_empty());
        spec.admission = AdmissionSpec::default();
        assert!(admissions.enter(&spec, ip(1)).unwrap().is_none());
    }
}
