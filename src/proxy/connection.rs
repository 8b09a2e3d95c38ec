//! One accepted socket, told once.

use crate::http2::meter::Bounds;
use crate::net::Stream;
use crate::proxy::entry::Entry;
use crate::proxy::http::{Client, Downstream, h1};
use crate::proxy::http2::server;
use crate::proxy::preface::Arrival;
use crate::proxy::state::{Open, Worker};
use crate::proxy::timer::ms;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A client's connection: HTTP/1.1, or HTTP/2 from its preface on.
pub(crate) enum Connection {
    Http1(h1::Connection),
    Http2(Pin<Box<dyn Future<Output = ()>>>),
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            match this {
                Self::Http1(connection) => match ready!(Pin::new(connection).poll(cx)) {
                    Some(h1::Handover { open, worker, down }) => {
                        *this = Self::Http2(Box::pin(http2(open, worker, down)));
                    }
                    None => return Poll::Ready(()),
                },
                Self::Http2(serving) => return serving.as_mut().poll(cx),
            }
        }
    }
}

/// Serves an HTTP/2 connection to its end; what came of it already, preface first, is in `down.carry`.
pub(crate) async fn http2(open: Open, worker: Rc<Worker>, mut down: Box<Downstream>) {
    let options = &worker.options;
    let limits = &options.http2;
    let terms = server::Terms {
        timers: worker.timers.clone(),
        shard: worker.shard.clone(),
        limits: worker.limits.clone(),
        streams: limits.streams,
        stream_window: limits.stream_window,
        connection_window: limits.connection_window,
        bounds: Bounds {
            resets: limits.resets,
            control_frames: limits.control_frames,
            continuations: limits.continuations,
        },
        head_ms: ms(options.timeouts.head),
        keepalive_ms: ms(options.timeouts.keepalive),
        pace: options.timeouts.answer_pace(),
        drain_idle_ms: ms(options.timeouts.drain_idle),
    };
    if down.stream.watch().is_err() {
        return;
    }
    let front = std::mem::take(&mut down.carry);
    // The lanes share what is known of the client; the stream itself goes to the codec.
    let (client, stream, deadline) = down.apart();
    server::serve(terms, (stream, front), deadline, Lanes { worker: worker.clone(), client }).await;
    drop(open);
}

/// Opens lanes on the request path.
struct Lanes {
    worker: Rc<Worker>,
    client: Client,
}

impl server::Host for Lanes {
    fn open(&self, lane: Stream) {
        let down = self.client.on(lane, self.worker.timers.register());
        tokio::task::spawn_local(h1::Connection::stream(self.worker.clone(), down));
    }

    fn random(&self) -> u128 {
        let mut rng = self.worker.rng.borrow_mut();
        (u128::from(rng.next_u64()) << 64) | u128::from(rng.next_u64())
    }

    fn ending_since(&self) -> Option<u64> {
        self.worker.ending_since(&self.client.entry)
    }

    fn lend(&self, work: &mut dyn FnMut(&mut [u8])) {
        self.worker.with_scratch(|scratch| work(&mut scratch.input));
    }
}

/// Returns the future that serves a connection to its end. `open` counts it; with where it comes from goes whether that is
/// a trusted proxy.
pub(crate) fn serve(
    open: Open,
    worker: Rc<Worker>,
    stream: Stream,
    peer: (Arrival, bool),
    entry: Rc<Entry>,
) -> Connection {
    let down = Downstream::new(stream, peer, entry, worker.timers.register());
    Connection::Http1(h1::Connection::new(open, worker, down))
}

#[cfg(test)]
mod tests {
    use super::serve;
    use crate::model::{ListenerProtocol, ListenerSpec, ServiceName};
    use crate::proxy::entry::Entry;
    use crate::proxy::fixture::worker;
    use crate::proxy::handshake;
    use crate::proxy::preface::Arrival;
    use crate::proxy::state::Open;
    use crate::proxy::tcp::forward;
    use std::net::{IpAddr, Ipv4Addr};
    use std::rc::Rc;
    use std::sync::Arc;
    use tokio::net::{TcpListener, TcpStream};

    /// Every open connection, idle or not, holds one of these.
    const MAX_FUTURE_BYTES: usize = 256;
    /// And every open TCP stream one of these.
    const MAX_STREAM_BYTES: usize = 1024;

    #[tokio::test]
    async fn the_future_of_a_connection_stays_small() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let worker = worker();
        let peer = || (Arrival { peer: IpAddr::V4(Ipv4Addr::LOCALHOST), origin: None }, false);
        let spec = ListenerSpec {
            name: "web".into(),
            address: listener.local_addr().unwrap(),
            trusted_proxies: Vec::new(),
            protocol: ListenerProtocol::Http,
            tls: None,
            redirect_https: false,
            admission: Default::default(),
        };
        let entry = Rc::new(Entry::new(Arc::new(spec)));
        let future = serve(Open::new(&worker), worker.clone(), stream.into(), peer(), entry.clone());
        let size = size_of_val(&future);
        assert!(size <= MAX_FUTURE_BYTES, "{size} octets");
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let size = size_of_val(&handshake::serve(Open::new(&worker), worker.clone(), stream, peer(), entry));
        assert!(size <= MAX_FUTURE_BYTES, "{size} octets with TLS");
    }

    #[tokio::test]
    async fn the_future_of_a_stream_stays_small() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let worker = worker();
        let service = ServiceName::parse("web").unwrap();
        let protocol = ListenerProtocol::Tcp { service, port: 0 };
        let spec = ListenerSpec {
            name: "raw".into(),
            address,
            trusted_proxies: Vec::new(),
            protocol,
            tls: None,
            redirect_https: false,
            admission: Default::default(),
        };
        let spec = Arc::new(spec);
        let peer = Arrival { peer: IpAddr::V4(Ipv4Addr::LOCALHOST), origin: None };
        let size =
            size_of_val(&forward(Open::new(&worker), worker.clone(), stream.into(), peer, spec, Default::default()));
        assert!(size <= MAX_STREAM_BYTES, "{size} octets");
    }
}
