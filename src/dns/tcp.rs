//! Questions over streams: TCP (RFC 7766) and TLS (RFC 7858); each thread a current-thread runtime.
//!
//! Per connection: read what is there, answer all complete frames, write once (RFC 7766 §6.2.1.1: pipelining). Answers keep
//! the order of the questions, but for what is forwarded (§6.2.1.1: out of order). No limit on the questions of a
//! connection; limits on connections, also of one client, on the size of a question, on the time a question takes to arrive
//! and its answer to be taken, and on what waits to be written. Plain TCP and the slow path of UDP are the thread
//! `dns-slow`; TLS is a thread of its own, so that handshakes keep nobody else waiting.

use crate::clock;
use crate::dns::Asker;
use crate::dns::handler::Transport;
use crate::dns::https;
use crate::dns::responder::{Answered, Asked, Job, Origin, Responder, Tools};
use crate::dnswire::{HEADER_BYTES, rcode, reject};
use crate::lifecycle::{Phase, Signal};
use crate::net::tls;
use rustls::ServerConfig;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

/// Octets of the length before each message, RFC 1035 §4.2.2.
const PREFIX_BYTES: usize = 2;
/// Room that each read offers at least: some 100 questions.
const READ_BYTES: usize = 4096;
/// Longest question, as over UDP: what is longer is malformed, and nobody may have memory held for it.
const QUESTION_BYTES: usize = 4096;
/// Answers are written when so many octets wait, even while complete questions are left.
const FLUSH_BYTES: usize = 64 * 1024;
/// Room for answers that a connection keeps while it is idle.
const KEPT_BYTES: usize = 16 * 1024;
/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Wait for open connections at the end; they hear of the drain at the same time.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Forwarded questions of one connection that wait at a time; the rest of its questions waits for them.
const MAX_PENDING: usize = 64;
/// Pause after a failed accept: descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a thread for streams needs.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) doors: Vec<Door>,
    /// What others give to this thread; it runs until nobody can give more. `None`: it runs until the drain.
    pub(crate) jobs: Option<mpsc::Receiver<Job>>,
    pub(crate) tools: Tools,
}

/// A listener and what is spoken behind it.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) speech: Speech,
}

/// What is spoken on connections.
#[derive(Debug, Clone)]
pub(crate) enum Speech {
    /// Frames.
    Plain,
    /// Frames inside of TLS.
    Tls(Arc<ServerConfig>),
    /// HTTP inside of TLS.
    Https(Arc<ServerConfig>),
}

/// What the connections of a thread share.
#[derive(Debug)]
struct Hall {
    responder: Rc<Responder>,
    connections: Cell<usize>,
    /// Connections of each client that has any.
    clients: RefCell<HashMap<IpAddr, usize>>,
    closed: Notify,
}

/// Runs until every UDP thread has ended; they end with the drain.
///
/// # Errors
/// When a listener cannot be registered with the runtime.
pub(crate) async fn run(plan: Plan, mut signal: Signal) -> io::Result<()> {
    let acknowledger = plan.tools.reader.acknowledger().clone();
    let responder = Rc::new(Responder::new(plan.tools));
    let hall = Rc::new(Hall {
        responder: responder.clone(),
        connections: Cell::new(0),
        clients: RefCell::default(),
        closed: Notify::new(),
    });
    for Door { listener, speech } in plan.doors {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::task::spawn_local(accept_loop(hall.clone(), listener, speech, signal.clone()));
    }
    let refresher = responder.clone();
    tokio::task::spawn_local(async move {
        loop {
            acknowledger.woken().await;
            refresher.reader.borrow_mut().load();
        }
    });
    match plan.jobs {
        Some(mut jobs) => {
            while let Some(job) = jobs.recv().await {
                responder.serve(job);
            }
        }
        None => signal.reached(Phase::Draining).await,
    }
    let closed = async {
        while hall.connections.get() > 0 {
            hall.closed.notified().await;
        }
    };
    if timeout(CLOSE_WAIT, closed).await.is_err() {
        tracing::debug!(connections = hall.connections.get(), "closed DNS connections that did not end");
    }
    Ok(())
}

async fn accept_loop(hall: Rc<Hall>, listener: tokio::net::TcpListener, speech: Speech, mut signal: Signal) {
    let mut draining = signal.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = draining.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Dropping it closes it: the client tries again or another server.
                let Some(place) = hall.enter(Asker::new(Some(peer.ip()), stream.local_addr().ok())) else { continue };
                tokio::task::spawn_local(serve(place, stream, speech.clone(), signal.clone()));
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

/// One connection's place; it is free again when this is dropped.
struct Place {
    hall: Rc<Hall>,
    asker: Asker,
}

impl Hall {
    /// Takes a place for a client; `None` when all are taken, or as many as one client may have.
    fn enter(self: &Rc<Self>, asker: Asker) -> Option<Place> {
        let client = asker.client?;
        let settings = self.responder.settings.load();
        let mut clients = self.clients.borrow_mut();
        let own = clients.get(&client).copied().unwrap_or(0);
        if self.connections.get() >= settings.tcp_connections || own >= settings.tcp_connections_per_client {
            return None;
        }
        clients.insert(client, own + 1);
        self.connections.set(self.connections.get() + 1);
        Some(Place { hall: self.clone(), asker })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut clients = self.hall.clients.borrow_mut();
        if let Some(client) = self.asker.client
            && let Some(own) = clients.get_mut(&client)
        {
            *own -= 1;
            if *own == 0 {
                clients.remove(&client);
            }
        }
        self.hall.connections.set(self.hall.connections.get().saturating_sub(1));
        self.hall.closed.notify_one();
    }
}

async fn serve(place: Place, stream: TcpStream, speech: Speech, mut signal: Signal) {
    // Answers are written whole: waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let mut drained = signal.clone();
    let result = tokio::select! {
        result = speak(&place, stream, speech, &mut signal) => result,
        () = drained.reached(Phase::Draining) => Ok(()),
    };
    if let Err(error) = result {
        tracing::trace!(%error, "a DNS connection ended");
    }
}

async fn speak(place: &Place, mut stream: TcpStream, speech: Speech, signal: &mut Signal) -> io::Result<()> {
    let responder = &place.hall.responder;
    let origin = |transport| Origin { asker: place.asker, transport };
    let shake = async |config: Arc<ServerConfig>, stream| {
        let shaken = timeout(HANDSHAKE, tls::accept(stream, |_| async { Some(config) })).await?;
        shaken.map_err(|refusal| io::Error::other(format!("{refusal:?}")))
    };
    match speech {
        Speech::Plain => exchange(responder, &mut stream, origin(Transport::Tcp)).await,
        Speech::Tls(config) => {
            let mut accepted = shake(config, stream).await?;
            exchange(responder, &mut accepted.stream, origin(Transport::Tls)).await
        }
        Speech::Https(config) => {
            let accepted = shake(config, stream).await?;
            https::serve(responder.clone(), accepted, origin(Transport::Https), signal).await
        }
    }
}

/// Reads and answers until the client closes, stops halfway or is idle for too long.
///
/// What is forwarded is answered when its answer comes, out of order (RFC 7766 §6.2.1.1); at the client's end what is
/// pending is still answered.
async fn exchange<S>(responder: &Rc<Responder>, stream: &mut S, origin: Origin) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut input, mut output) = (Vec::with_capacity(READ_BYTES), Vec::new());
    let (pending, mut answers) = mpsc::channel::<Vec<u8>>(MAX_PENDING);
    let mut idle = responder.settings.load().tcp_idle;
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
                send(stream, &mut output, idle).await?;
                deadline = Instant::from_std(clock::now() + idle);
            }
            read = timeout_at(deadline, stream.read_buf(&mut input)), if open && pending.capacity() > 0 => {
                open = read?? > 0;
            }
        }
        let (mut taken, mut answered) = (0, false);
        loop {
            let rest = input.get(taken..).unwrap_or_default();
            let step = answer_frames(responder, rest, origin, (&pending, &mut output));
            taken += step.taken;
            answered |= !output.is_empty() || !step.later.is_empty();
            for (asked, place) in step.later {
                let responder = responder.clone();
                tokio::task::spawn_local(async move {
                    place.send(responder.forward(asked).await);
                });
            }
            if !output.is_empty() {
                send(stream, &mut output, idle).await?;
            }
            if step.broken {
                return Ok(());
            }
            if !step.more {
                break;
            }
        }
        input.drain(..taken);
        if answered {
            idle = responder.settings.load().tcp_idle;
            // Only questions that have an answer give more time: who sends octet by octet, or empty frames, does not hold its
            // place.
            deadline = Instant::from_std(clock::now() + idle);
        }
        if output.capacity() > KEPT_BYTES {
            output = Vec::new();
        }
        if input.is_empty() && input.capacity() > KEPT_BYTES {
            input = Vec::with_capacity(READ_BYTES);
        }
    }
}

/// What became of the frames that were there.
#[derive(Debug, Default)]
struct Step {
    /// Octets that were answered.
    taken: usize,
    /// What the forwarder has, with the place of each answer.
    later: Vec<(Asked, mpsc::OwnedPermit<Vec<u8>>)>,
    /// Whether there may be more frames: enough octets wait to be written.
    more: bool,
    /// Whether the client broke the framing: what waits is written, and that is all.
    broken: bool,
}

/// Answers all complete frames at the start of `input` into the output, as far as there is place for what is forwarded.
fn answer_frames(
    responder: &Responder,
    input: &[u8],
    origin: Origin,
    (pending, output): (&mpsc::Sender<Vec<u8>>, &mut Vec<u8>),
) -> Step {
    let mut step = Step::default();
    responder.with(origin, |moment| {
        loop {
            let rest = input.get(step.taken..).unwrap_or_default();
            if let Some(head) = oversized(rest) {
                let mut out = [0; HEADER_BYTES];
                let length = reject(head, rcode::FORMERR, &mut out);
                append(output, out.get(..length).unwrap_or_default());
                step.broken = true;
                return;
            }
            let Some(frame) = complete_frame(rest) else { return };
            // With as many pending as may be, the rest waits in the buffer, and then in the client.
            let place = moment.forwards().then(|| pending.clone().try_reserve_owned());
            let Ok(place) = place.transpose() else { return };
            step.taken += PREFIX_BYTES + frame.len();
            match (moment.answer(frame), place) {
                (Answered::Now(octets), _) => append(output, octets),
                (Answered::Later(asked), Some(place)) => step.later.push((asked, place)),
                (Answered::Silence | Answered::Later(_), _) => {}
            }
            if output.len() >= FLUSH_BYTES {
                step.more = true;
                return;
            }
        }
    });
    step
}

/// Writes what waits; the client takes it within the time or is let go.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, output: &mut Vec<u8>, idle: Duration) -> io::Result<()> {
    timeout(idle, async {
        stream.write_all(output).await?;
        stream.flush().await
    })
    .await??;
    output.clear();
    Ok(())
}

/// Appends a message with its length before it.
fn append(output: &mut Vec<u8>, message: &[u8]) {
    if let Ok(length) = u16::try_from(message.len())
        && length > 0
    {
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(message);
    }
}

/// Returns the first message when all of it is there.
fn complete_frame(input: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX_BYTES>()?;
    rest.get(..usize::from(u16::from_be_bytes(*prefix)))
}

/// Returns the header of a message that says it is longer than any question, when the header is there.
fn oversized(input: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX_BYTES>()?;
    rest.get(..HEADER_BYTES).filter(|_| usize::from(u16::from_be_bytes(*prefix)) > QUESTION_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{complete_frame, oversized};

    #[test]
    fn a_frame_is_complete_when_all_of_it_is_there() {
        assert_eq!(complete_frame(&[]), None);
        assert_eq!(complete_frame(&[0]), None);
        assert_eq!(complete_frame(&[0, 2, 7]), None);
        assert_eq!(complete_frame(&[0, 2, 7, 8, 9]), Some(&[7, 8][..]));
        assert_eq!(complete_frame(&[0, 0, 9]), Some(&[][..]));
    }

    #[test]
    fn a_question_that_says_it_is_too_long_is_known_by_its_header() {
        let with = |length: u16, octets: usize| [&length.to_be_bytes()[..], &vec![7; octets]].concat();
        assert_eq!(oversized(&with(4097, 11)), None);
        assert_eq!(oversized(&with(4097, 20)), Some(&[7; 12][..]));
        assert_eq!(oversized(&with(4096, 4096)), None);
    }
}
