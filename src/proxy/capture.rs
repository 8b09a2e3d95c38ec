//! A connection that rules of the kernel led here: where it was going decides.
//!
//! Its destination is a service where the table knows the address: an endpoint's, or the service's own. Elsewhere it goes where it
//! was going, where the listener allows that. A connection that was going to the listener itself, or that is Weir's own come
//! back, is closed: it would go round for ever. Next on the path: `tcp.rs`.

use crate::model::{CaptureMode, CaptureSpec, ListenerSpec};
use crate::net::Stream;
use crate::net::preface::detect::{MAX_BYTES, Protocol, detect};
use crate::net::preface::proxy::Header;
use crate::net::preface::{Peeked, peek};
use crate::proxy::connect::is_here;
use crate::proxy::connection;
use crate::proxy::entry::Entry;
use crate::proxy::network::contains;
use crate::proxy::preface::Arrival;
use crate::proxy::state::{Open, Worker};
use crate::proxy::tcp::{self, Target, Way};
use crate::proxy::timer::ms;
use socket2::SockRef;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use tokio::net::TcpStream;

/// Serves a captured connection: finds out where it was going, and leads it.
pub(crate) fn serve(
    open: Open,
    worker: &Rc<Worker>,
    socket: TcpStream,
    arrival: Arrival,
    (entry, capture): (&Rc<Entry>, &CaptureSpec),
) {
    worker.outgoing.note_captured();
    let spec = entry.spec();
    let target =
        original(&socket, capture, &spec).and_then(|to| lead(worker, &socket, to, capture).map(|way| (to, way)));
    let (to, target) = match target {
        Ok(target) => target,
        Err(reason) => {
            worker.shard.refused(reason);
            worker.underway.say_preface(worker.timers.now_ms(), &entry.name, arrival.peer, reason);
            return;
        }
    };
    let source = socket.peer_addr().ok();
    let addresses = source.map(|source| (source, to));
    let origin = arrival.origin.or_else(|| Some(Rc::new(Header { addresses, ..Header::default() })));
    let arrival = Arrival { origin, ..arrival };
    let way = Way { target, captured: true, ..Way::default() };
    // Who keeps the client's address has a connection of its own to its endpoint.
    match !capture.keep_source && speaks_http(worker, &way.target) {
        true => {
            tokio::task::spawn_local(detected(open, worker.clone(), socket, arrival, (entry.clone(), way)));
        }
        false => {
            tokio::task::spawn_local(tcp::forward(open, worker.clone(), Stream::from(socket), arrival, spec, way));
        }
    }
}

/// Returns whether the port of a target is said to speak HTTP.
fn speaks_http(worker: &Worker, target: &Target) -> bool {
    let Target::Service { service, port } = target else { return false };
    let mut reader = worker.reader.borrow_mut();
    let service = reader.load().services.get(service);
    service.and_then(|service| service.spec.ports.get(*port)).is_some_and(|port| port.http)
}

/// Looks whether HTTP is spoken: then each request goes to an endpoint, not the connection.
async fn detected(open: Open, worker: Rc<Worker>, socket: TcpStream, arrival: Arrival, (entry, way): (Rc<Entry>, Way)) {
    let spoken = {
        let deadline = worker.timers.register();
        deadline.set(ms(worker.options.timeouts.handshake));
        let mut room = [0; MAX_BYTES];
        let mut looking = pin!(peek(&socket, &mut room, detect));
        poll_fn(|cx| match looking.as_mut().poll(cx) {
            Poll::Ready(Ok(Peeked::Found(protocol))) => Poll::Ready(Some(protocol)),
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending if deadline.poll_expired(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    };
    let spec = entry.spec();
    let (Some(Protocol::Http1 | Protocol::Http2), Target::Service { service, port }) = (spoken, &way.target) else {
        tokio::task::spawn_local(tcp::forward(open, worker, Stream::from(socket), arrival, spec, way));
        return;
    };
    // As at the service's own address.
    let entry = worker.apart.entry(&entry, (service.clone(), *port));
    // The service may have gone while it was looked.
    worker.apart.follow(worker.reader.borrow_mut().load(), worker.timers.now_ms());
    tokio::task::spawn_local(connection::serve(open, worker, Stream::from(socket), (arrival, false), entry));
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Returns where a connection was going.
fn original(socket: &TcpStream, capture: &CaptureSpec, spec: &ListenerSpec) -> Result<SocketAddr, &'static str> {
    let local = socket.local_addr().map_err(|_| "client_gone")?;
    let local = canonical(local);
    let to = match capture.mode {
        CaptureMode::Tproxy => local,
        CaptureMode::Redirect => {
            let socket = SockRef::from(socket);
            let of = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
            // Without an entry it came here by itself.
            of.ok().and_then(|address| address.as_socket()).map_or(local, canonical)
        }
    };
    let is_here = match capture.mode {
        CaptureMode::Redirect => to == local,
        CaptureMode::Tproxy => to.port() == spec.address.port(),
    };
    if is_here { Err("capture_loop") } else { Ok(to) }
}

/// Decides where a connection goes.
fn lead(worker: &Worker, socket: &TcpStream, to: SocketAddr, capture: &CaptureSpec) -> Result<Target, &'static str> {
    // What comes from where Weir itself connects from, to where it connects to, is Weir's own; another machine's may have the port.
    let now_ms = worker.timers.now_ms();
    let is_own =
        |from: SocketAddr| worker.outgoing.is_own(from.port(), to, now_ms) && is_here(canonical(from)).unwrap_or(true);
    if socket.peer_addr().is_ok_and(is_own) {
        return Err("capture_loop");
    }
    let known = match capture.original_only {
        true => None,
        false => {
            let mut reader = worker.reader.borrow_mut();
            let snapshot = reader.load();
            let found = worker.captured.borrow_mut().find(snapshot, to);
            found.and_then(|(slot, port)| Some((snapshot.services.at(slot)?.name().clone(), port)))
        }
    };
    let allowed = || capture.allow_all || capture.allow.iter().any(|(net, length)| contains(*net, *length, to.ip()));
    match known {
        Some((service, port)) => Ok(Target::Service { service, port }),
        None if allowed() => Ok(Target::Original(to)),
        None => Err("capture_denied"),
    }
}
