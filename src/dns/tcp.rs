//! Questions over TCP, and the slow path of UDP: one current-thread runtime, the thread `dns-slow`.
//!
//! Per connection: read what is there, answer all complete frames, write once (RFC 7766 §6.2.1.1: pipelining; answers keep
//! the order of the questions). No limit on the questions of a connection; limits on connections, on the time a question
//! takes to arrive, and on the answers that wait to be written.

use crate::clock;
use crate::dns::counters::{Forwarded, Forwards, Path, Shard};
use crate::dns::handler::{TCP_BYTES, Transport, answer};
use crate::dns::settings::Shared as Settings;
use crate::dns::slow::answer_unusual;
use crate::dns::view::View;
use crate::dns::{Asker, Reply, Scratch};
use crate::dnswire::{HEADER_BYTES, Parsed, Query, rcode, reject};
use crate::lifecycle::{Phase, Signal};
use crate::sys::datagram::{Peer, send_one};
use crate::table::Reader;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// Octets of the length before each message, RFC 1035 §4.2.2.
const PREFIX_BYTES: usize = 2;
/// Room that each read offers at least: some 100 questions.
const READ_BYTES: usize = 4096;
/// Answers are written when so many octets wait, even while complete questions are left.
const FLUSH_BYTES: usize = 64 * 1024;
/// Wait for open connections at the end; they hear of the drain at the same time.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Forwarded questions of one connection that wait at a time; the rest of its questions waits for them.
const MAX_PENDING: usize = 64;
/// Pause after a failed accept: descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An unusual question that came over UDP.
#[derive(Debug)]
pub(crate) struct Job {
    /// The message.
    pub(crate) message: Vec<u8>,
    /// Who asked.
    pub(crate) peer: Peer,
    /// The same, as the answer depends on it.
    pub(crate) asker: Asker,
    /// The socket that it came through and the answer goes through.
    pub(crate) socket: Arc<UdpSocket>,
}

/// What the thread `dns-slow` needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) jobs: mpsc::Receiver<Job>,
    pub(crate) reader: Reader,
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Shard>,
    pub(crate) forwards: Forwards,
    pub(crate) scratch: Scratch,
}

/// Shared by the tasks of the thread; each use is within one poll.
struct Shared {
    reader: RefCell<Reader>,
    room: RefCell<Room>,
    settings: Settings,
    counters: Arc<Shard>,
    forwards: Forwards,
    connections: Cell<usize>,
    closed: Notify,
}

/// Who asks, and whether a place is kept for what the forwarder answers.
#[derive(Debug, Clone, Copy)]
struct Asked {
    asker: Asker,
    forwards: bool,
}

struct Room {
    scratch: Scratch,
    out: Box<[u8]>,
}

/// Runs until every UDP thread has ended; they end with the drain.
///
/// # Errors
/// When a listener cannot be registered with the runtime.
pub(crate) async fn run(plan: Plan, signal: Signal) -> io::Result<()> {
    let mut jobs = plan.jobs;
    let acknowledger = plan.reader.acknowledger().clone();
    let shared = Rc::new(Shared {
        reader: RefCell::new(plan.reader),
        room: RefCell::new(Room { scratch: plan.scratch, out: vec![0; TCP_BYTES].into() }),
        settings: plan.settings,
        counters: plan.counters,
        forwards: plan.forwards,
        connections: Cell::new(0),
        closed: Notify::new(),
    });
    for listener in plan.listeners {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::task::spawn_local(accept_loop(shared.clone(), listener, signal.clone()));
    }
    let refresher = shared.clone();
    tokio::task::spawn_local(async move {
        loop {
            acknowledger.woken().await;
            refresher.reader.borrow_mut().load();
        }
    });
    while let Some(job) = jobs.recv().await {
        shared.clone().answer_job(job);
    }
    let closed = async {
        while shared.connections.get() > 0 {
            shared.closed.notified().await;
        }
    };
    if timeout(CLOSE_WAIT, closed).await.is_err() {
        tracing::debug!(connections = shared.connections.get(), "closed DNS connections that did not end");
    }
    Ok(())
}

async fn accept_loop(shared: Rc<Shared>, listener: tokio::net::TcpListener, mut signal: Signal) {
    let mut draining = signal.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.reached(Phase::Draining) => return,
        };
        match accepted {
            // Dropping it closes it: the client tries again or another server.
            Ok(_) if shared.connections.get() >= shared.settings.load().tcp_connections => {}
            Ok((stream, peer)) => {
                shared.connections.set(shared.connections.get() + 1);
                let asker = Asker::new(Some(peer.ip()), stream.local_addr().ok());
                tokio::task::spawn_local(serve(shared.clone(), stream, asker, signal.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a DNS connection");
                if timeout(ACCEPT_PAUSE, signal.reached(Phase::Draining)).await.is_ok() {
                    return;
                }
            }
        }
    }
}

async fn serve(shared: Rc<Shared>, mut stream: TcpStream, asker: Asker, mut signal: Signal) {
    // Answers are written whole: waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let result = tokio::select! {
        result = exchange(&shared, &mut stream, asker) => result,
        () = signal.reached(Phase::Draining) => Ok(()),
    };
    if let Err(error) = result {
        tracing::trace!(%error, "a DNS connection ended");
    }
    shared.connections.set(shared.connections.get().saturating_sub(1));
    shared.closed.notify_one();
}

/// Reads and answers until the client closes, stops halfway or is idle for too long.
///
/// What is forwarded is answered when its answer comes, out of order (RFC 7766 §6.2.1.1); at the client's end what is
/// pending is still answered.
async fn exchange(shared: &Rc<Shared>, stream: &mut TcpStream, asker: Asker) -> io::Result<()> {
    let (mut input, mut output) = (Vec::with_capacity(READ_BYTES), Vec::new());
    let (pending, mut answers) = mpsc::channel::<Vec<u8>>(MAX_PENDING);
    let mut idle = shared.settings.load().tcp_idle;
    let mut deadline = Instant::from_std(clock::now() + idle);
    let mut open = true;
    loop {
        let waits = MAX_PENDING - pending.capacity();
        if !open && waits == 0 {
            return Ok(());
        }
        input.reserve(READ_BYTES);
        tokio::select! {
            biased;
            Some(answer) = answers.recv(), if waits > 0 => {
                append(&mut output, &answer);
                timeout(idle, stream.write_all(&output)).await??;
                output.clear();
                deadline = Instant::from_std(clock::now() + idle);
            }
            read = timeout_at(deadline, stream.read_buf(&mut input)), if open && pending.capacity() > 0 => {
                open = read?? > 0;
            }
        }
        let mut taken = 0;
        let forwards = shared.settings.load().forwards_for(asker.client);
        while let Some(frame) = complete_frame(input.get(taken..).unwrap_or_default()) {
            // With as many pending as may be, the rest waits in the buffer, and then in the client.
            let place = forwards.then(|| pending.clone().try_reserve_owned());
            let Ok(place) = place.transpose() else { break };
            taken += PREFIX_BYTES + frame.len();
            shared.answer_frame(frame, asker, place, &mut output);
            if output.len() >= FLUSH_BYTES {
                timeout(idle, stream.write_all(&output)).await??;
                output.clear();
            }
        }
        if taken > 0 {
            input.drain(..taken);
            timeout(idle, stream.write_all(&output)).await??;
            output.clear();
            idle = shared.settings.load().tcp_idle;
            // Only complete questions give more time: a client that sends octet by octet does not hold its place.
            deadline = Instant::from_std(clock::now() + idle);
        }
    }
}

/// Appends a message with its length before it.
fn append(output: &mut Vec<u8>, message: &[u8]) {
    if let Ok(length) = u16::try_from(message.len()) {
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(message);
    }
}

/// Returns the first message when all of it is there.
fn complete_frame(input: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX_BYTES>()?;
    rest.get(..usize::from(u16::from_be_bytes(*prefix)))
}

impl Shared {
    /// Appends the framed answer of one message; nothing where silence is the answer. `place` is for the answer of the
    /// forwarder, where this client may use it.
    fn answer_frame(
        self: &Rc<Self>,
        message: &[u8],
        asker: Asker,
        place: Option<mpsc::OwnedPermit<Vec<u8>>>,
        output: &mut Vec<u8>,
    ) {
        let mut room = self.room.borrow_mut();
        let forwards = place.is_some();
        let answered = self.answer(message, Transport::Tcp, Asked { asker, forwards }, &mut room);
        let Some((reply, kind, path)) = answered else { return };
        if let Some(place) = place.filter(|_| reply.forward) {
            let (shared, message) = (self.clone(), message.to_vec());
            tokio::task::spawn_local(async move {
                place.send(shared.forward(&message, kind, None).await);
            });
            return;
        }
        self.counters.count(kind, reply.rcode, path);
        if self.settings.load().denied(forwards, reply.rcode) {
            self.forwards.count(Forwarded::Denied);
        }
        append(output, room.out.get(..reply.bytes).filter(|octets| !octets.is_empty()).unwrap_or_default());
    }

    fn answer_job(self: Rc<Self>, job: Job) {
        let asked = Asked { asker: job.asker, forwards: self.settings.load().forwards_for(job.asker.client) };
        let mut room = self.room.borrow_mut();
        let Some((reply, kind, path)) = self.answer(&job.message, Transport::Udp, asked, &mut room) else { return };
        if reply.forward {
            let shared = self.clone();
            tokio::task::spawn_local(async move {
                let max_bytes = shared.settings.load().authority.max_udp_bytes;
                let answer = shared.forward(&job.message, kind, Some(max_bytes)).await;
                send(&job, &answer);
            });
            return;
        }
        self.counters.count(kind, reply.rcode, path);
        send(&job, room.out.get(..reply.bytes).unwrap_or_default());
    }

    /// Answers one message into the room; with its type and path, for the counters. `None`: silence.
    fn answer(
        &self,
        message: &[u8],
        transport: Transport,
        asked: Asked,
        room: &mut Room,
    ) -> Option<(Reply, u16, Path)> {
        let Room { scratch, out } = room;
        let mut reader = self.reader.borrow_mut();
        let settings = self.settings.load();
        let view = settings.view(reader.load(), clock::now_ms(), asked.asker);
        let view = View { forwards: asked.forwards, ..view };
        let path = if transport == Transport::Tcp { Path::Tcp } else { Path::Slow };
        match Query::parse(message) {
            Parsed::Fast(query) => Some((answer(&view, &query, transport, scratch, out), query.rtype, path)),
            Parsed::Slow => {
                let (reply, kind) = answer_unusual(&view, message, transport, scratch, out);
                Some((reply, kind, Path::Slow))
            }
            Parsed::FormErr => Some((Reply::new(reject(message, rcode::FORMERR, out), rcode::FORMERR), 0, path)),
            Parsed::Silent => None,
        }
    }

    /// Asks the forwarder; SERVFAIL when too many questions wait for it already.
    async fn forward(&self, message: &[u8], kind: u16, max_udp_bytes: Option<u16>) -> Vec<u8> {
        let forwarder = self.settings.load().forwarder.clone();
        let flight = forwarder.and_then(|forwarder| {
            let flight = self.forwards.try_fly(forwarder.options().max_in_flight)?;
            Some((forwarder, flight))
        });
        let answered = match &flight {
            Some((forwarder, _)) => forwarder.answer(message, max_udp_bytes).await,
            None => None,
        };
        let outcome = answered.unwrap_or_else(|| {
            let mut out = vec![0; message.len().max(HEADER_BYTES)];
            let length = reject(message, rcode::SERVFAIL, &mut out);
            out.truncate(length);
            let why = if flight.is_some() { Forwarded::Failed } else { Forwarded::Overloaded };
            (out, why, rcode::SERVFAIL)
        });
        let (octets, counted, code) = outcome;
        self.forwards.count(counted);
        self.counters.count(kind, code, Path::Forward);
        octets
    }
}

fn send(job: &Job, answer: &[u8]) {
    if !answer.is_empty()
        && let Err(error) = send_one(&*job.socket, &job.peer, answer)
    {
        tracing::debug!(%error, "failed to send a DNS answer");
    }
}

#[cfg(test)]
mod tests {
    use super::complete_frame;

    #[test]
    fn a_frame_is_complete_when_all_of_it_is_there() {
        assert_eq!(complete_frame(&[]), None);
        assert_eq!(complete_frame(&[0]), None);
        assert_eq!(complete_frame(&[0, 2, 7]), None);
        assert_eq!(complete_frame(&[0, 2, 7, 8, 9]), Some(&[7, 8][..]));
        assert_eq!(complete_frame(&[0, 0, 9]), Some(&[][..]));
    }
}
