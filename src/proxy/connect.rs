//! Dialling an endpoint under a deadline.

use crate::model::{ProxyVersion, UpstreamTlsSpec};
use crate::net::preface::postgres::SSL_REQUEST;
use crate::net::preface::proxy::{Header, write_v1, write_v2};
use crate::net::preface::{Peeked, peek, take};
use crate::net::{Stream, tls};
use crate::proxy::error::ProxyError;
use crate::proxy::state::Worker;
use crate::proxy::timer::{Deadline, ms};
use rustix::net::SendFlags;
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// By this mark `weir sidecar rules` tells connections that have a client's address and go to this machine itself.
const CAPTURED_MARK: u32 = 87;
/// Below where systems take ports for connections that they make: 32768 with Linux, 49152 with others (RFC 6335 §6).
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 22_768;
/// Beyond so many that are taken, any port.
const PORT_ATTEMPTS: usize = 16;
/// The kernel takes no longer times.
const MAX_QUIET: Duration = Duration::from_secs(32_000);

/// What is spoken over a connection to an endpoint, for ALPN where that is TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inside {
    Http1,
    Http2,
    /// Anything. Who speaks PostgreSQL is asked for TLS in clear text: whoever `asks`, and with `starttls` where it is TLS.
    Octets {
        asks: bool,
        starttls: bool,
        captured: Option<Captured>,
    },
}

/// A connection that is made for a captured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Captured {
    /// The client's address, where the endpoint is to see it.
    pub(crate) source: Option<IpAddr>,
}

/// Connects to an endpoint of a service, with TLS where its definition says so; the deadline is the connection's own and is
/// replaced. `told` is asked for the client where the endpoints are told of it.
///
/// # Errors
/// [`ProxyError::Connect`], [`ProxyError::ConnectTimeout`], [`ProxyError::LocalLimit`], [`ProxyError::UpstreamTls`] or
/// [`ProxyError::TlsUnavailable`].
pub(crate) async fn connect(
    worker: &Worker,
    (slot, address): (usize, SocketAddr),
    inside: Inside,
    timeout_ms: u64,
    deadline: &Deadline,
    told: impl FnOnce() -> Rc<Header>,
) -> Result<Stream, ProxyError> {
    let captured = match inside {
        Inside::Octets { captured, .. } => captured,
        Inside::Http1 | Inside::Http2 => None,
    };
    let Terms { version, quiet_ms, tls } = terms(worker, slot);
    let socket = connect_tcp(worker, (address, captured), timeout_ms, deadline).await?;
    if let Some(version) = version {
        tell(&socket, version, &told())?;
    }
    if inside == Inside::Http2 {
        watch_host(&socket, quiet_ms);
    }
    let asks = matches!(inside, Inside::Octets { asks, starttls, .. } if asks || (starttls && tls.is_some()));
    let tls = match (tls, asks) {
        (None, false) => return Ok(socket.into()),
        (tls, _) => tls,
    };
    let mut securing = Box::pin(begin(worker, socket, (tls, inside, asks), address));
    poll_fn(|cx| match securing.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(ProxyError::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// What a service's definition says of connections to its endpoints.
#[derive(Default)]
struct Terms {
    version: Option<ProxyVersion>,
    quiet_ms: u64,
    tls: Option<Arc<UpstreamTlsSpec>>,
}

/// Reads them before anything is waited for: afterwards the slot may be another service's.
fn terms(worker: &Worker, slot: usize) -> Terms {
    let mut locals = worker.locals.borrow_mut();
    let Some(local) = locals.at(slot) else { return Terms::default() };
    let spec = &local.service.spec;
    Terms { version: spec.streams.proxy_protocol, quiet_ms: ms(spec.timeouts.ping), tls: spec.tls.clone() }
}

/// Tells an endpoint of the client before anything else.
fn tell(socket: &TcpStream, version: ProxyVersion, client: &Header) -> Result<(), ProxyError> {
    let octets = match version {
        ProxyVersion::V1 => write_v1(client),
        ProxyVersion::V2 => write_v2(client),
    };
    // Nothing was sent before: the kernel has room for it, or the connection is gone.
    match rustix::net::send(socket, &octets, SendFlags::NOSIGNAL) {
        Ok(sent) if sent == octets.len() => Ok(()),
        _ => Err(ProxyError::Connect),
    }
}

/// Asks the endpoint for TLS where that is needed, and does the handshake where it is Weir's.
async fn begin(
    worker: &Worker,
    socket: TcpStream,
    (spec, inside, asks): (Option<Arc<UpstreamTlsSpec>>, Inside, bool),
    address: SocketAddr,
) -> Result<Stream, ProxyError> {
    if asks {
        ask(&socket).await?;
    }
    match spec {
        Some(spec) => secure(worker, socket, (spec, inside), address).await,
        None => Ok(socket.into()),
    }
}

/// Asks an endpoint that speaks PostgreSQL for TLS. Exactly one octet is taken: what somebody put behind it is no part of the
/// TLS that follows.
async fn ask(socket: &TcpStream) -> Result<(), ProxyError> {
    match rustix::net::send(socket, &SSL_REQUEST, SendFlags::NOSIGNAL) {
        Ok(sent) if sent == SSL_REQUEST.len() => {}
        _ => return Err(ProxyError::Connect),
    }
    let answer = peek(socket, &mut [0; 1], |octets| octets.first().copied()).await;
    match answer {
        Ok(Peeked::Found(b'S')) => take(socket, &mut [0; 1]).map_err(|_| ProxyError::Reset),
        Ok(Peeked::Found(_)) => Err(ProxyError::UpstreamTls),
        Ok(Peeked::Ended(_)) | Err(_) => Err(ProxyError::Reset),
    }
}

async fn secure(
    worker: &Worker,
    socket: TcpStream,
    (spec, inside): (Arc<UpstreamTlsSpec>, Inside),
    address: SocketAddr,
) -> Result<Stream, ProxyError> {
    let clients = worker.tls.clients();
    let ready = match clients.find(&spec) {
        Some(ready) => ready,
        None => clients.wait(&spec).await,
    };
    // What is wrong with the files was said when they were read.
    let config = ready.map_err(|_| ProxyError::TlsUnavailable)?;
    let config = match inside {
        Inside::Http1 => config,
        Inside::Http2 => tls::speaking(&config, tls::HTTP2),
        Inside::Octets { .. } => tls::speaking(&config, b""),
    };
    tls::connect(socket, config, (&spec, address.ip())).await.map_err(|error| {
        worker.underway.say_upstream(worker.timers.now_ms(), address, &error);
        ProxyError::UpstreamTls
    })
}

async fn connect_tcp(
    worker: &Worker,
    (address, captured): (SocketAddr, Option<Captured>),
    timeout_ms: u64,
    deadline: &Deadline,
) -> Result<TcpStream, ProxyError> {
    deadline.set(timeout_ms);
    // Also what is no captured connection itself, such as a request of one: rules that leave out somebody else lead it back.
    let captured = captured.or_else(|| worker.outgoing.captures().then_some(Captured { source: None }));
    // Boxed: rare, and it would make every connection's future larger.
    let mut dialling = Box::pin(async {
        match captured {
            None => TcpStream::connect(address).await.map_err(|error| classify(&error)),
            Some(captured) => {
                // What fails before the endpoint is spoken to, such as for want of a privilege, is not its fault.
                let socket = bound(worker, address, captured).map_err(|_| ProxyError::LocalLimit)?;
                socket.connect(address).await.map_err(|error| classify(&error))
            }
        }
    });
    let stream = poll_fn(|cx| match dialling.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err(ProxyError::ConnectTimeout)),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    stream.set_nodelay(true).map_err(|_| ProxyError::Connect)?;
    Ok(stream)
}

/// Makes a socket for a connection that rules of the kernel may lead here again: known by its port when it comes back, and with
/// the client's address where that is to be kept.
fn bound(worker: &Worker, to: SocketAddr, captured: Captured) -> io::Result<TcpSocket> {
    // Who speaks the other family cannot be seen there.
    let Some(client) = captured.source.filter(|client| client.is_ipv4() == to.is_ipv4()) else {
        let socket = unbound(to)?;
        socket.bind(any(to))?;
        worker.outgoing.begin(socket.local_addr()?.port(), to, worker.timers.now_ms());
        return Ok(socket);
    };
    // It is sent on the way that the client's was on, which captures nothing that this machine sends.
    let socket = unbound(to)?;
    bind_as(worker, &socket, client)?;
    if is_here(to).unwrap_or(false) {
        // What is answered would leave for the client: the rules know it by this.
        SockRef::from(&socket).set_mark(CAPTURED_MARK)?;
    }
    Ok(socket)
}

fn any(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }, 0)
}

fn unbound(to: SocketAddr) -> io::Result<TcpSocket> {
    if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// Gives a socket a client's address, and a port that the client does not take for connections of its own: the kernel would not
/// tell them apart, and end one.
fn bind_as(worker: &Worker, socket: &TcpSocket, client: IpAddr) -> io::Result<()> {
    let set = SockRef::from(socket);
    if client.is_ipv4() {
        set.set_ip_transparent_v4(true)?
    } else {
        set.set_ip_transparent_v6(true)?
    }
    for _ in 0..PORT_ATTEMPTS {
        let above = worker.rng.borrow_mut().below(usize::from(PORTS));
        let port = FIRST_PORT + u16::try_from(above).unwrap_or(0);
        match socket.bind(SocketAddr::new(client, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    socket.bind(SocketAddr::new(client, 0))
}

/// Returns whether an address is this machine's: where a connection to it would be from that address itself.
///
/// # Errors
/// There is no way to it, or no descriptor or port for a socket.
pub(crate) fn is_here(to: SocketAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind(any(to))?;
    // Nothing is sent.
    socket.connect(to)?;
    Ok(to.ip().is_loopback() || socket.local_addr()?.ip() == to.ip())
}

/// Has the kernel find a host that is gone, which costs the endpoint nothing: it is asked when nothing came for `quiet_ms`, and
/// given up when it was silent, or acknowledged nothing, for twice as long (RFC 9293 §3.8.4, RFC 5482). 0: never.
fn watch_host(socket: &TcpStream, quiet_ms: u64) {
    if quiet_ms == 0 {
        return;
    }
    let quiet = Duration::from_millis(quiet_ms).clamp(Duration::from_secs(1), MAX_QUIET);
    let asks =
        TcpKeepalive::new().with_time(quiet).with_interval((quiet / 3).max(Duration::from_secs(1))).with_retries(3);
    let socket = SockRef::from(socket);
    let set = socket.set_tcp_keepalive(&asks).and_then(|()| socket.set_tcp_user_timeout(Some(quiet * 2)));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection to an endpoint is not watched by the kernel");
    }
}

/// Tells what is wrong with the endpoint from what is wrong with this machine, which must eject nobody.
pub(crate) fn classify(error: &io::Error) -> ProxyError {
    match error.raw_os_error() {
        // The two about addresses: no port is left. EPERM: a policy of this machine.
        Some(
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EADDRNOTAVAIL
            | libc::EADDRINUSE
            | libc::EPERM,
        ) => ProxyError::LocalLimit,
        _ => ProxyError::Connect,
    }
}

#[cfg(test)]
mod tests {
    use super::{classify, watch_host};
    use crate::proxy::error::ProxyError;
    use socket2::SockRef;
    use std::io;
    use std::time::Duration;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn the_kernel_asks_after_a_silence_and_gives_up_after_two() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch_host(&socket, 0);
        assert!(!SockRef::from(&socket).keepalive().unwrap());
        for (quiet_ms, asks, again) in [(15_000, 15, 5), (200, 1, 1), (u64::MAX, 32_000, 10_666)] {
            watch_host(&socket, quiet_ms);
            let set = SockRef::from(&socket);
            assert!(set.keepalive().unwrap());
            let seconds = Duration::from_secs;
            assert_eq!(
                (set.tcp_keepalive_time().unwrap(), set.tcp_keepalive_interval().unwrap()),
                (seconds(asks), seconds(again))
            );
            assert_eq!(set.tcp_user_timeout().unwrap(), Some(seconds(2 * asks)));
        }
    }

    #[test]
    fn no_descriptors_left_is_not_the_endpoint_s_failure() {
        for code in [libc::EMFILE, libc::EADDRNOTAVAIL, libc::EADDRINUSE, libc::EPERM] {
            let local = classify(&io::Error::from_raw_os_error(code));
            assert_eq!((local, local.failure(), local.status()), (ProxyError::LocalLimit, None, 503));
        }
        let refused = classify(&io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert!(refused == ProxyError::Connect && refused.failure().is_some());
    }
}
