//! Questions over TCP, and the slow path of UDP: one current-thread runtime, the thread `dns-slow`.
//!
//! Per connection: read what is there, answer all complete frames, write once (RFC 7766 §6.2.1.1: pipelining; answers keep
//! the order of the questions). No limit on the questions of a connection; limits on connections, on the time a question
//! takes to arrive, and on the answers that wait to be written.

use crate::clock;
use crate::dns::counters::{Path, Shard};
use crate::dns::handler::{TCP_BYTES, Transport, View, answer};
use crate::dns::slow::answer_unusual;
use crate::dns::{Authority, Scratch};
use crate::dnswire::{Parsed, Query, rcode, reject};
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
/// Pause after a failed accept: descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// An unusual question that came over UDP.
#[derive(Debug)]
pub(crate) struct Job {
    /// The message.
    pub(crate) message: Vec<u8>,
    /// Who asked.
    pub(crate) peer: Peer,
    /// The socket that it came through and the answer goes through.
    pub(crate) socket: Arc<UdpSocket>,
}

/// What the thread `dns-slow` needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) jobs: mpsc::Receiver<Job>,
    pub(crate) reader: Reader,
    pub(crate) authority: Arc<Authority>,
    pub(crate) counters: Arc<Shard>,
    pub(crate) scratch: Scratch,
    pub(crate) max_connections: usize,
    /// Longest wait for the next complete question, and for a client to take its answers.
    pub(crate) idle: Duration,
}

/// Shared by the tasks of the thread; each use is within one poll.
struct Shared {
    reader: RefCell<Reader>,
    room: RefCell<Room>,
    authority: Arc<Authority>,
    counters: Arc<Shard>,
    connections: Cell<usize>,
    closed: Notify,
    max_connections: usize,
    idle: Duration,
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
        authority: plan.authority,
        counters: plan.counters,
        connections: Cell::new(0),
        closed: Notify::new(),
        max_connections: plan.max_connections,
        idle: plan.idle,
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
        shared.answer_job(&job);
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
            Ok(_) if shared.connections.get() >= shared.max_connections => {}
            Ok((stream, _)) => {
                shared.connections.set(shared.connections.get() + 1);
                tokio::task::spawn_local(serve(shared.clone(), stream, signal.clone()));
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

async fn serve(shared: Rc<Shared>, mut stream: TcpStream, mut signal: Signal) {
    // Answers are written whole: waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let result = tokio::select! {
        result = exchange(&shared, &mut stream) => result,
        () = signal.reached(Phase::Draining) => Ok(()),
    };
    if let Err(error) = result {
        tracing::trace!(%error, "a DNS connection ended");
    }
    shared.connections.set(shared.connections.get().saturating_sub(1));
    shared.closed.notify_one();
}

/// Reads and answers until the client closes, stops halfway or is idle for too long.
async fn exchange(shared: &Shared, stream: &mut TcpStream) -> io::Result<()> {
    let (mut input, mut output) = (Vec::with_capacity(READ_BYTES), Vec::new());
    let mut deadline = Instant::from_std(clock::now() + shared.idle);
    loop {
        input.reserve(READ_BYTES);
        if timeout_at(deadline, stream.read_buf(&mut input)).await?? == 0 {
            return Ok(());
        }
        let mut taken = 0;
        while let Some(frame) = complete_frame(input.get(taken..).unwrap_or_default()) {
            taken += PREFIX_BYTES + frame.len();
            shared.answer_frame(frame, &mut output);
            if output.len() >= FLUSH_BYTES {
                timeout(shared.idle, stream.write_all(&output)).await??;
                output.clear();
            }
        }
        if taken > 0 {
            input.drain(..taken);
            timeout(shared.idle, stream.write_all(&output)).await??;
            output.clear();
            // Only complete questions give more time: a client that sends octet by octet does not hold its place.
            deadline = Instant::from_std(clock::now() + shared.idle);
        }
    }
}

/// Returns the first message when all of it is there.
fn complete_frame(input: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX_BYTES>()?;
    rest.get(..usize::from(u16::from_be_bytes(*prefix)))
}

impl Shared {
    /// Appends the framed answer of one message; nothing where silence is the answer.
    fn answer_frame(&self, message: &[u8], output: &mut Vec<u8>) {
        let mut room = self.room.borrow_mut();
        let Room { scratch, out } = &mut *room;
        let mut reader = self.reader.borrow_mut();
        let view = View { snapshot: reader.load(), authority: &self.authority, now_ms: clock::now_ms() };
        let (reply, kind, path) = match Query::parse(message) {
            Parsed::Fast(query) => (answer(&view, &query, Transport::Tcp, scratch, out), query.rtype, Path::Tcp),
            Parsed::Slow => {
                let (reply, kind) = answer_unusual(&view, message, Transport::Tcp, scratch, out);
                (reply, kind, Path::Slow)
            }
            Parsed::FormErr => {
                let code = rcode::FORMERR;
                (crate::dns::Reply { bytes: reject(message, code, out), rcode: code }, 0, Path::Tcp)
            }
            Parsed::Silent => return,
        };
        self.counters.count(kind, reply.rcode, path);
        if let (Ok(length), Some(octets)) = (u16::try_from(reply.bytes), out.get(..reply.bytes)) {
            output.extend_from_slice(&length.to_be_bytes());
            output.extend_from_slice(octets);
        }
    }

    fn answer_job(&self, job: &Job) {
        let mut room = self.room.borrow_mut();
        let Room { scratch, out } = &mut *room;
        let mut reader = self.reader.borrow_mut();
        let view = View { snapshot: reader.load(), authority: &self.authority, now_ms: clock::now_ms() };
        let (reply, kind) = answer_unusual(&view, &job.message, Transport::Udp, scratch, out);
        self.counters.count(kind, reply.rcode, Path::Slow);
        if let Some(octets) = out.get(..reply.bytes).filter(|octets| !octets.is_empty())
            && let Err(error) = send_one(&*job.socket, &job.peer, octets)
        {
            tracing::debug!(%error, "failed to send a DNS answer");
        }
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
