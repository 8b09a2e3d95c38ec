//! A connection of a listener that speaks TLS: the handshake under its bounds, then the engine.
//!
//! One deadline for the whole handshake; what comes after it is an ordinary connection over a layered stream. Next on the
//! path: `http/h1.rs`.

use crate::clock;
use crate::net::Stream;
use crate::net::preface::proxy::{Header, Tls};
use crate::net::tls::{Accepted, Protocol, Refusal, accept};
use crate::proxy::connection::{Connection, http2};
use crate::proxy::entry::Entry;
use crate::proxy::http::{Downstream, h1};
use crate::proxy::preface::{Arrival, seen};
use crate::proxy::state::{Open, Worker};
use crate::proxy::timer::{Deadline, ms};
use crate::proxy::tls::{Session, TlsListener, identity};
use crate::table::certificates::asks_for_challenge;
use rustls::ServerConfig;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// Returns the future that does the handshake and then serves the connection to its end.
pub(crate) fn serve(
    open: Open,
    worker: Rc<Worker>,
    socket: TcpStream,
    peer: (Arrival, bool),
    entry: Rc<Entry>,
) -> Secured {
    Secured::Greeting(worker.clone(), Box::pin(handshake(open, worker, socket, peer, entry)))
}

/// A connection of a listener that speaks TLS.
pub(crate) enum Secured {
    /// In its handshake. Boxed: it ends long before the connection, and would make its future larger.
    Greeting(Rc<Worker>, Pin<Box<dyn Future<Output = Option<Connection>>>>),
    /// After it.
    Serving(Connection),
}

impl Future for Secured {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Self::Greeting(worker, handshake) = this {
            let polled = handshake.as_mut().poll(cx);
            // A step of a handshake is the longest piece of work there is: others are served before the first request.
            worker.turn_ended();
            return match polled {
                Poll::Ready(Some(connection)) => {
                    *this = Self::Serving(connection);
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                polled => polled.map(|_none| ()),
            };
        }
        match this {
            Self::Serving(connection) => Pin::new(connection).poll(cx),
            Self::Greeting(..) => Poll::Pending,
        }
    }
}

/// What a listener speaks inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP, by ALPN.
    Http,
    /// Anything: nothing is negotiated.
    Octets,
}

/// A connection after its handshake.
pub(crate) struct Secure {
    pub(crate) stream: Stream,
    protocol: Protocol,
    /// The host that the client asked for, in lower case.
    pub(crate) server_name: Option<Box<str>>,
    client_certificate: Option<Box<[u8]>>,
    listener: Arc<TlsListener>,
    /// What endpoints are told of the client.
    pub(crate) origin: Header,
    deadline: Deadline,
}

async fn handshake(
    open: Open,
    worker: Rc<Worker>,
    socket: TcpStream,
    (arrival, trusted): (Arrival, bool),
    entry: Rc<Entry>,
) -> Option<Connection> {
    let peer = arrival.peer;
    let secure = secure(&worker, socket, arrival, &entry, Inside::Http).await?;
    let Secure { stream, protocol, server_name, client_certificate, listener, origin, deadline } = secure;
    let identity = client_certificate.map_or_else(Box::default, |certificate| identity(&certificate));
    let session = Rc::new(Session { listener, server_name, identity });
    let arrival = Arrival { peer, origin: Some(Rc::new(origin)) };
    let mut down = Downstream::new(stream, (arrival, trusted), entry, deadline);
    down.session = Some(session);
    match protocol {
        Protocol::Http1 => Some(Connection::Http1(h1::Connection::new(open, worker, down))),
        Protocol::Http2 => Some(Connection::Http2(Box::pin(http2(open, worker, down.into())))),
        // The authority has seen what it came for, and says nothing more (RFC 8737 §3).
        Protocol::Challenge => None,
    }
}

/// Does the handshake with a client; `None`: it was refused, counted and told.
pub(crate) async fn secure(
    worker: &Worker,
    socket: TcpStream,
    arrival: Arrival,
    entry: &Entry,
    inside: Inside,
) -> Option<Secure> {
    let tls = worker.tls.clone();
    let listener = tls.find(&entry.name)?;
    let began = clock::now();
    let deadline = worker.timers.register();
    deadline.set(ms(worker.options.timeouts.handshake));
    let origin = arrival.header(|| seen(&socket));
    let (id, mut crowded) = worker.underway.begin(worker.options.limits.handshakes);
    let server = listener.server().clone();
    let (underway, certificates) = (&worker.underway, listener.certificates().clone());
    let mut accepting = Box::pin(accept(socket, move |hello| {
        underway.spoke(id);
        let is_challenge = asks_for_challenge(hello);
        let name = hello.server_name().filter(|_| !is_challenge);
        let unknown = name.and_then(|name| Some((certificates.unknown(name)?, name.to_ascii_lowercase())));
        async move {
            match unknown {
                Some((questions, name)) => questions.ask(name.into()).await.then_some(server.config),
                None => Some(if is_challenge { server.challenge } else { server.config }),
            }
            .map(|config| if inside == Inside::Octets && !is_challenge { silent(&config) } else { config })
        }
    }));
    let accepted = poll_fn(|cx| match accepting.as_mut().poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(accepted),
        Poll::Pending if Pin::new(&mut crowded).poll(cx).is_ready() => Poll::Ready(Err(Refusal::Crowded)),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(Refusal::Timeout)),
        Poll::Pending => Poll::Pending,
    })
    .await;
    worker.underway.end(id);
    let Accepted { stream, protocol, version, resumed, server_name, client_certificate } = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            tls.handshakes.failed(refusal.reason());
            worker.underway.say(worker.timers.now_ms(), &entry.name, arrival.peer, refusal);
            return None;
        }
    };
    tls.handshakes.succeeded(version, resumed, clock::now().saturating_duration_since(began));
    let alpn: Option<&[u8]> = match (inside, protocol) {
        (Inside::Octets, _) => None,
        (Inside::Http, Protocol::Http2) => Some(b"h2"),
        (Inside::Http, _) => Some(b"http/1.1"),
    };
    let said = Tls { version: format!("TLSv{version}").into(), certificate: client_certificate.is_some() };
    let (addresses, authority) = (origin.addresses, server_name.clone());
    let origin = Header { addresses, authority, alpn: alpn.map(Into::into), tls: Some(said) };
    Some(Secure { stream, protocol, server_name, client_certificate, listener, origin, deadline })
}

/// As a configuration, without negotiating what is spoken inside: the endpoint's matter.
fn silent(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols.clear();
    Arc::new(config)
}
