//! One accepted socket, told once.

use crate::proxy::entry::Entry;
use crate::proxy::http::{Downstream, h1};
use crate::proxy::state::{Open, Worker};
use std::net::IpAddr;
use std::rc::Rc;
use tokio::net::TcpStream;

/// Returns the future that serves a connection to its end. `open` counts it; the peer comes with whether it is a trusted
/// proxy. `None`: the connection is gone already.
pub(crate) fn serve(
    open: Open,
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: (IpAddr, bool),
    entry: Rc<Entry>,
) -> Option<h1::Connection> {
    // Small answers must not wait for the client's delayed acknowledgement.
    stream.set_nodelay(true).ok()?;
    let down = Downstream::new(stream.into(), peer, entry, worker.timers.register());
    Some(h1::Connection::new(open, worker, down))
}

#[cfg(test)]
mod tests {
    use super::serve;
    use crate::lifecycle::drain;
    use crate::model::{ListenerProtocol, ListenerSpec, ServiceName};
    use crate::proxy::entry::Entry;
    use crate::proxy::options::Options;
    use crate::proxy::state::{Open, Shared, Worker};
    use crate::proxy::tcp::forward;
    use crate::table::{Snapshot, channel, names::Names};
    use crate::telemetry::Metrics;
    use std::net::{IpAddr, Ipv4Addr};
    use std::rc::Rc;
    use std::sync::Arc;
    use tokio::net::{TcpListener, TcpStream};

    /// Every open connection, idle or not, holds one of these.
    const MAX_FUTURE_BYTES: usize = 256;
    /// And every open TCP stream one of these.
    const MAX_STREAM_BYTES: usize = 1024;

    fn worker() -> Rc<Worker> {
        let (_publisher, table) = channel(Snapshot::empty(Names::default()));
        let (_trigger, signal) = drain();
        let shared = Shared {
            options: Options::default(),
            table,
            metrics: Metrics::new(),
            access: None,
            signal,
            spread: Arc::default(),
        };
        let shard = shared.metrics.shard();
        Rc::new(Worker::new(0, &shared, shard))
    }

    #[tokio::test]
    async fn the_future_of_a_connection_stays_small() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let worker = worker();
        let peer = (IpAddr::V4(Ipv4Addr::LOCALHOST), false);
        let spec = ListenerSpec {
            name: "web".into(),
            address: listener.local_addr().unwrap(),
            trusted_proxies: Vec::new(),
            protocol: ListenerProtocol::Http,
        };
        let entry = Rc::new(Entry::new(Arc::new(spec)));
        let future = serve(Open::new(&worker), worker.clone(), stream, peer, entry);
        let size = size_of_val(&future.unwrap());
        assert!(size <= MAX_FUTURE_BYTES, "{size} octets");
    }

    #[tokio::test]
    async fn the_future_of_a_stream_stays_small() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let worker = worker();
        let service = ServiceName::parse("web").unwrap();
        let protocol = ListenerProtocol::Tcp { service, port: 0 };
        let spec = Arc::new(ListenerSpec { name: "raw".into(), address, trusted_proxies: Vec::new(), protocol });
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let size = size_of_val(&forward(Open::new(&worker), worker.clone(), stream, peer, spec));
        assert!(size <= MAX_STREAM_BYTES, "{size} octets");
    }
}
