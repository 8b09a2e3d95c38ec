//! A connection of a TCP listener that looks at what comes first: the host and the protocol that the client's TLS asks for
//! choose the service, with TLS passed through or ended here; PostgreSQL's request for TLS is answered.
//!
//! All of it within the time of a handshake, and bounded: a ClientHello has 16 KiB. What is looked at stays in the socket; only
//! PostgreSQL's requests are taken. Next on the path: `tcp.rs`.

use crate::model::{AdmissionSpec, ListenerSpec, SniRoute, StartTls};
use crate::net::Stream;
use crate::net::preface::postgres::{self, REQUEST_BYTES};
use crate::net::preface::proxy::Header;
use crate::net::preface::{Peeked, hello, peek, take};
use crate::proxy::entry::Entry;
use crate::proxy::handshake::{self, Secure};
use crate::proxy::preface::{Arrival, seen};
use crate::proxy::state::{Open, Worker};
use crate::proxy::tcp::{self, Target, Way};
use crate::proxy::timer::{Deadline, ms};
use rustix::net::{SendFlags, send};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::net::TcpStream;

/// The alert with which a client is refused whose host leads nowhere: fatal, unrecognized_name (RFC 6066 §3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a client asked for before its traffic.
#[derive(Debug, Default)]
struct Asked {
    hello: Option<hello::Hello>,
    /// PostgreSQL's request was answered: the endpoint must be asked too.
    starttls: bool,
}

/// Serves a connection up to where octets pass.
pub(crate) async fn serve(open: Open, worker: Rc<Worker>, socket: TcpStream, arrival: Arrival, entry: Rc<Entry>) {
    let spec = entry.spec();
    let deadline = worker.timers.register();
    deadline.set(ms(worker.options.timeouts.handshake));
    let asked = match within(&deadline, asked(&socket, &spec)).await {
        Ok(asked) => asked,
        Err(reason) => return refuse(&worker, &entry, arrival.peer, reason),
    };
    if spec.tls.is_some() && (asked.starttls || spec.admission.starttls.is_none()) {
        return secured(open, worker, socket, arrival, (entry, asked.starttls)).await;
    }
    let route = match choose(&spec.admission, asked.hello.as_ref()) {
        Ok(route) => route,
        Err(reason) => {
            if asked.hello.is_some() {
                let _ = send(&socket, &UNRECOGNIZED_NAME, SendFlags::NOSIGNAL);
            }
            return refuse(&worker, &entry, arrival.peer, reason);
        }
    };
    let arrival = match asked.hello {
        Some(hello) => told(arrival, &socket, hello),
        None => arrival,
    };
    let way = Way {
        target: target(route),
        asks: asked.starttls,
        starttls: spec.admission.starttls.is_some(),
        captured: false,
    };
    // In a task of its own, so that nothing of this stays while octets pass.
    tokio::task::spawn_local(tcp::forward(open, worker, socket.into(), arrival, spec, way));
}

/// Ends the client's TLS, and passes on what is inside.
async fn secured(
    open: Open,
    worker: Rc<Worker>,
    socket: TcpStream,
    arrival: Arrival,
    (entry, starttls): (Rc<Entry>, bool),
) {
    let peer = arrival.peer;
    let Some(Secure { stream, server_name, origin, .. }) =
        handshake::secure(&worker, socket, arrival, &entry, handshake::Inside::Octets).await
    else {
        return;
    };
    let spec = entry.spec();
    let hello = hello::Hello { server_name, alpn: Vec::new() };
    let route = match choose(&spec.admission, Some(&hello)) {
        Ok(route) => route,
        Err(reason) => return refuse(&worker, &entry, peer, reason),
    };
    let way = Way { target: target(route), starttls, ..Way::default() };
    let arrival = Arrival { peer, origin: Some(Rc::new(origin)) };
    let stream: Stream = stream;
    tokio::task::spawn_local(tcp::forward(open, worker, stream, arrival, spec, way));
}

/// Awaits something for as long as the deadline says.
async fn within<T>(
    deadline: &Deadline,
    work: impl Future<Output = Result<T, &'static str>>,
) -> Result<T, &'static str> {
    let mut work = pin!(work);
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(Err("hello_timeout")),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Looks at what the client asks for, and answers what must be answered first.
async fn asked(socket: &TcpStream, spec: &ListenerSpec) -> Result<Asked, &'static str> {
    let starttls = match spec.admission.starttls {
        Some(StartTls::Postgres) => postgres_request(socket).await?,
        None => false,
    };
    let looks = !spec.admission.sni.is_empty() && spec.tls.is_none();
    let hello = if looks { client_hello(socket).await? } else { None };
    Ok(Asked { hello, starttls })
}

/// Answers PostgreSQL's requests; returns whether TLS follows one.
async fn postgres_request(socket: &TcpStream) -> Result<bool, &'static str> {
    // A client asks for GSSAPI first, then for TLS; each once.
    for _ in 0..2 {
        let decide =
            |octets: &[u8]| Some(postgres::read(octets)).filter(|reading| *reading != postgres::Reading::Partial);
        let Ok(Peeked::Found(reading)) = peek(socket, &mut [0; REQUEST_BYTES], decide).await else {
            return Err("client_gone");
        };
        let answer = match reading {
            postgres::Reading::Tls => b"S",
            postgres::Reading::Gss => b"N",
            postgres::Reading::Other | postgres::Reading::Partial => return Ok(false),
        };
        // Exactly the request: what somebody put behind it in clear text is no part of the TLS that follows.
        take(socket, &mut [0; REQUEST_BYTES]).map_err(|_| "client_gone")?;
        send(socket, answer, SendFlags::NOSIGNAL).map_err(|_| "client_gone")?;
        if reading == postgres::Reading::Tls {
            return Ok(true);
        }
    }
    Err("hello_malformed")
}

/// Looks at the client's hello; `None`: it speaks no TLS.
async fn client_hello(socket: &TcpStream) -> Result<Option<hello::Hello>, &'static str> {
    // Whoever says nothing holds nothing.
    socket.readable().await.map_err(|_| "client_gone")?;
    let mut room = vec![0; hello::MAX_BYTES];
    let decide = |octets: &[u8]| match hello::read(octets) {
        Ok(hello::Reading::Partial) => None,
        other => Some(other),
    };
    match peek(socket, &mut room, decide).await {
        Ok(Peeked::Found(Ok(hello::Reading::Hello(hello)))) => Ok(Some(hello)),
        Ok(Peeked::Found(Ok(_))) => Ok(None),
        Ok(Peeked::Found(Err(hello::Refused::TooLarge))) => Err("hello_too_large"),
        Ok(Peeked::Found(Err(hello::Refused::Malformed(_)))) => Err("hello_malformed"),
        Ok(Peeked::Ended(_)) | Err(_) => Err("client_gone"),
    }
}

/// Returns the place of the rule for what a client asks for; `None`: the listener's own service.
fn choose(admission: &AdmissionSpec, hello: Option<&hello::Hello>) -> Result<Option<usize>, &'static str> {
    let best = hello.and_then(|hello| {
        let scored = admission.sni.iter().enumerate().filter_map(|(i, route)| Some((score(route, hello)?, i)));
        // The first of equals.
        scored.max_by_key(|(score, i)| (*score, usize::MAX - i)).map(|(_, i)| i)
    });
    match (best, hello) {
        (Some(best), _) => Ok(Some(best)),
        (None, _) if !admission.named_only => Ok(None),
        (None, None) => Err("not_tls"),
        (None, Some(hello)) if hello.server_name.is_none() => Err("no_sni"),
        (None, Some(_)) => Err("no_route"),
    }
}

fn target(rule: Option<usize>) -> Target {
    rule.map_or(Target::Listener, Target::Rule)
}

/// Returns how closely a rule fits, the host before the protocol; `None`: it does not.
fn score(route: &SniRoute, hello: &hello::Hello) -> Option<(usize, bool)> {
    let of_name = |name: &str, host: &str| match name.strip_prefix('*') {
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some(suffix.len()),
        None => (name == host).then_some(usize::MAX),
    };
    let named = match (&*route.names, &hello.server_name) {
        ([], _) => 0,
        (names, Some(host)) => names.iter().filter_map(|name| of_name(name, host)).max()?,
        (_, None) => return None,
    };
    let speaks = route.alpn.iter().any(|wanted| hello.alpn.contains(wanted));
    (speaks || route.alpn.is_empty()).then_some((named, speaks))
}

/// Adds what the hello says to what endpoints are told.
fn told(arrival: Arrival, socket: &TcpStream, hello: hello::Hello) -> Arrival {
    let mut header = Header::clone(&arrival.header(|| seen(socket)));
    header.authority = header.authority.or(hello.server_name);
    Arrival { origin: Some(Rc::new(header)), ..arrival }
}

/// Counts a connection that was closed for what came first.
fn refuse(worker: &Worker, entry: &Entry, peer: IpAddr, reason: &'static str) {
    worker.shard.refused(reason);
    worker.underway.say_preface(worker.timers.now_ms(), &entry.name, peer, reason);
}

#[cfg(test)]
mod tests {
    use super::choose;
    use crate::model::{AdmissionSpec, ServiceName, SniRoute};
    use crate::net::preface::hello::Hello;

    fn route(names: &[&str], alpn: &[&str]) -> SniRoute {
        SniRoute {
            names: names.iter().map(|name| (*name).into()).collect(),
            alpn: alpn.iter().map(|protocol| protocol.as_bytes().into()).collect(),
            service: ServiceName::parse("web").unwrap(),
            port: 0,
        }
    }

    fn hello(name: Option<&str>, alpn: &[&str]) -> Hello {
        let alpn = alpn.iter().map(|protocol| protocol.as_bytes().into()).collect();
        Hello { server_name: name.map(Into::into), alpn }
    }

    #[test]
    fn the_closest_host_wins_and_then_the_protocol() {
        let rules = vec![
            route(&["*.test"], &[]),
            route(&["*.b.test"], &[]),
            route(&["a.b.test", "c.test"], &[]),
            route(&["a.b.test"], &["h2"]),
            route(&[], &["h2"]),
            route(&["a.b.test"], &[]),
        ];
        let mut admission = AdmissionSpec { sni: rules, named_only: true, ..AdmissionSpec::default() };
        let to = |admission: &AdmissionSpec, name, alpn: &[&str]| choose(admission, Some(&hello(name, alpn)));
        for (name, alpn, expected) in [
            (Some("a.b.test"), &[][..], Ok(Some(2))),
            (Some("a.b.test"), &["http/1.1", "h2"], Ok(Some(3))),
            (Some("c.test"), &["h2"], Ok(Some(2))),
            (Some("x.b.test"), &[], Ok(Some(1))),
            (Some("x.y.b.test"), &[], Ok(Some(1))),
            (Some("b.test"), &[], Ok(Some(0))),
            (Some("test"), &[], Err("no_route")),
            (Some("other"), &["h2"], Ok(Some(4))),
            (None, &["h2"], Ok(Some(4))),
            (None, &[], Err("no_sni")),
        ] {
            assert_eq!(to(&admission, name, alpn), expected, "{name:?} {alpn:?}");
        }
        assert_eq!(choose(&admission, None), Err("not_tls"));
        admission.named_only = false;
        assert_eq!((choose(&admission, None), to(&admission, Some("other"), &[])), (Ok(None), Ok(None)));
    }
}
