//! The engine's bridges, followed as they come and go: where containers ask for names.
//!
//! The list is asked for after each gap in the engine's events, so nothing is missed. An engine that is away changes
//! nothing: its bridges are still there.

use crate::clock;
use crate::control::DockerOptions;
use crate::control::runtime::docker::link::{CallError, Link};
use bollard::models::{Ipam, IpamConfig, Network};
use bollard::query_parameters::{EventsOptionsBuilder, ListNetworksOptions};
use futures_core::Stream;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Pauses before the engine is asked again after it went away: the first, doubling, up to the last.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Events are asked for from so many seconds before a list, so that none falls between the two.
const OVERLAP_S: u64 = 2;

/// One range of a bridge: containers in it reach the machine at its gateway.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bridge {
    /// The machine's own address on it.
    pub gateway: IpAddr,
    /// The range: network and prefix length.
    pub network: (IpAddr, u8),
    /// What the engine calls it.
    pub name: Arc<str>,
}

/// Follows the bridges until the receiver is dropped; `None` before the engine first answered.
pub fn follow(options: &DockerOptions) -> watch::Receiver<Option<Arc<[Bridge]>>> {
    let (sender, receiver) = watch::channel(None);
    let link = Link::new(options.socket.clone(), options.call_timeout);
    tokio::spawn(run(link, sender));
    receiver
}

async fn run(link: Link, sender: watch::Sender<Option<Arc<[Bridge]>>>) {
    let mut pause = RECONNECT.0;
    while !sender.is_closed() {
        if let Ok(client) = link.client().await
            && session(&link, &client, &sender).await
        {
            pause = RECONNECT.0;
        }
        link.reset();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => {}
        }
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Listens until the engine breaks off; true when it was of use.
async fn session(link: &Link, client: &bollard::Docker, sender: &watch::Sender<Option<Arc<[Bridge]>>>) -> bool {
    let since = (clock::unix_ms() / 1000).saturating_sub(OVERLAP_S).to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let filters =
        HashMap::from([("type".to_owned(), words(&["network"])), ("event".to_owned(), words(&["create", "destroy"]))]);
    let mut stream = pin!(client.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filters).build())));
    let mut was_of_use = false;
    loop {
        match list(link).await {
            Ok(found) => {
                was_of_use = true;
                sender.send_if_modified(|known| {
                    let is_news = known.as_deref() != Some(&found[..]);
                    if is_news {
                        *known = Some(found.into());
                    }
                    is_news
                });
            }
            Err(error) => {
                tracing::debug!(error = %error.into_runtime(), "failed to list the engine's networks");
                return was_of_use;
            }
        }
        let event = std::future::poll_fn(|context| stream.as_mut().poll_next(context));
        tokio::select! {
            event = event => if !matches!(event, Some(Ok(_))) {
                return was_of_use;
            },
            () = sender.closed() => return was_of_use,
        }
    }
}

async fn list(link: &Link) -> Result<Vec<Bridge>, CallError> {
    let list = |client: Arc<bollard::Docker>| async move { client.list_networks(None::<ListNetworksOptions>).await };
    let mut found: Vec<Bridge> = link.call("list networks", list).await?.iter().flat_map(of).collect();
    found.sort();
    Ok(found)
}

fn of(network: &Network) -> Vec<Bridge> {
    bridges(network.name.as_deref(), network.driver.as_deref(), network.ipam.as_ref())
}

/// Returns the ranges of a network that is a bridge.
pub(super) fn bridges(name: Option<&str>, driver: Option<&str>, ipam: Option<&Ipam>) -> Vec<Bridge> {
    if driver != Some("bridge") {
        return Vec::new();
    }
    let name: Arc<str> = name.unwrap_or_default().into();
    let configs = ipam.and_then(|ipam| ipam.config.as_deref()).unwrap_or_default();
    configs.iter().filter_map(|config| bridge(&name, config)).collect()
}

fn bridge(name: &Arc<str>, config: &IpamConfig) -> Option<Bridge> {
    let (address, prefix) = config.subnet.as_deref()?.split_once('/')?;
    let network = (address.parse().ok()?, prefix.parse().ok()?);
    // Where none is told the engine takes the first of the range.
    let told = config.gateway.as_deref().and_then(|gateway| gateway.split('/').next()?.parse().ok());
    let gateway = told.unwrap_or_else(|| first(network.0));
    Some(Bridge { gateway, network, name: name.clone() })
}

fn first(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(network) => IpAddr::V4(Ipv4Addr::from_bits(network.to_bits() | 1)),
        IpAddr::V6(network) => IpAddr::V6(Ipv6Addr::from_bits(network.to_bits() | 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::of as bridges;

    #[test]
    fn reads_gateways_of_bridges_and_of_nothing_else() {
        let of = |driver: &str, configs: serde_json::Value| {
            let network = serde_json::json!({ "Name": "n", "Driver": driver, "IPAM": { "Config": configs } });
            let found = bridges(&serde_json::from_value(network).unwrap());
            let shown = found.iter().map(|b| format!("{} {}/{}", b.gateway, b.network.0, b.network.1));
            shown.collect::<Vec<_>>()
        };
        let both = serde_json::json!([
            { "Subnet": "172.18.0.0/16", "Gateway": "172.18.0.9" },
            { "Subnet": "fd00:1::/64", "Gateway": "fd00:1::1/64" },
        ]);
        assert_eq!(of("bridge", both.clone()), ["172.18.0.9 172.18.0.0/16", "fd00:1::1 fd00:1::/64"]);
        assert!(of("overlay", both).is_empty());
        assert_eq!(of("bridge", serde_json::json!([{ "Subnet": "10.9.0.0/24" }])), ["10.9.0.1 10.9.0.0/24"]);
        assert!(of("bridge", serde_json::json!([{}, { "Subnet": "x" }])).is_empty());
        assert!(of("bridge", serde_json::Value::Null).is_empty());
    }
}
