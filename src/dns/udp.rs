//! Questions over UDP: one thread and one socket each, in batches, without an allocation per question.
//!
//! Receive → one load of the table → an answer for each → send. While it waits, the thread is marked idle: it loads before
//! it next uses the table, so that a withdrawal need not wait for traffic (`table::Acknowledger::set_idle`).

use crate::clock;
use crate::dns::cookies::Baker;
use crate::dns::counters::{Forwarded, Forwards, Limits, Path, Shard};
use crate::dns::handler::{Transport, answer};
use crate::dns::querylog::Line;
use crate::dns::rate::Verdict;
use crate::dns::responder::{Datagram, Job};
use crate::dns::settings::Shared;
use crate::dns::{Asker, Reply, Scratch};
use crate::dnswire::{Answer, Parsed, Query, rcode, reject};
use crate::lifecycle::{Phase, Signal};
use crate::sys::datagram::{BATCH, Batch, Peer};
use crate::table::Reader;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest question that is read whole; what is longer is malformed by its lack of an end.
const REQUEST_BYTES: usize = 4096;
/// Largest answer over UDP that the options allow.
const REPLY_BYTES: usize = 4096;
/// Longest wait for a datagram: bounds how late the thread hears of a drain.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause after the socket itself failed, so that a broken one does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// One UDP thread.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its socket; the slow path replies through it too.
    pub(crate) socket: Arc<UdpSocket>,
    /// What the socket is bound to.
    pub(crate) address: SocketAddr,
    /// Its view of the table.
    pub(crate) reader: Reader,
    /// What may change while it runs.
    pub(crate) settings: Shared,
    /// Its counters.
    pub(crate) counters: Arc<Shard>,
    /// Counts who is refused by the forwarder.
    pub(crate) forwards: Forwards,
    /// Where unusual questions go; bounded.
    pub(crate) slow: mpsc::Sender<Job>,
    /// Room for choosing records.
    pub(crate) scratch: Scratch,
    /// Makes cookies.
    pub(crate) baker: Baker,
    /// Counts what is above the limit of a network.
    pub(crate) limits: Limits,
}

/// Answers until the drain: then what has arrived is answered and the thread ends.
pub(crate) fn run(mut worker: Worker, signal: &Signal) {
    let mut batch = Batch::new(REQUEST_BYTES, REPLY_BYTES);
    loop {
        worker.reader.acknowledger().set_idle(true);
        let received = batch.receive(&*worker.socket);
        // Before the load that follows: see `Acknowledger::set_idle`.
        worker.reader.acknowledger().set_idle(false);
        let count = match received {
            Ok(count) => count,
            Err(error) => {
                tracing::warn!(%error, "failed to receive DNS questions");
                std::thread::park_timeout(ERROR_PAUSE);
                0
            }
        };
        if count > 0 {
            worker.reply_all(&mut batch, count);
        }
        // A full batch means that there may be more.
        if count < BATCH && signal.phase() >= Phase::Draining {
            return;
        }
    }
}

impl Worker {
    fn reply_all(&mut self, batch: &mut Batch, count: usize) {
        let snapshot = self.reader.load();
        let settings = self.settings.load();
        let now_ms = clock::now_ms();
        let since = settings.since();
        for index in 0..count {
            let Some((message, out, peer)) = batch.exchange(index) else { continue };
            let asker = asker(peer, self.address);
            let mut parsed = Query::parse(message);
            let is_there = match &mut parsed {
                Parsed::Silent => continue,
                // Who shows a cookie of ours is there.
                Parsed::Fast(query) => self.baker.serve(query, asker.client),
                Parsed::Slow | Parsed::FormErr => false,
            };
            let verdict =
                if is_there { Verdict::Send } else { settings.limiter.check(asker.client, now_ms, &self.limits) };
            let from = (&self.socket, peer, asker);
            let reply = match (parsed, verdict) {
                (Parsed::Fast(query), Verdict::Send) => {
                    let view = settings.view(snapshot, now_ms, asker);
                    let reply = answer(&view, &query, Transport::Udp, &mut self.scratch, out);
                    let is_plain = reply.forward && reply.bytes == 0;
                    let known = if is_plain { settings.known(&query, asker.client, now_ms, out) } else { None };
                    if let Some(known) = known {
                        self.counters.count(query.rtype, known.code, Transport::Udp, known.path);
                        settings.note(since, || line(asker, &query, known.code, known.path));
                        self.forwards.count(known.counted);
                        Reply::new(known.bytes, known.code)
                    } else if reply.forward {
                        hand_over(&self.slow, from, message, &self.counters, out)
                    } else {
                        self.counters.count(query.rtype, reply.rcode, Transport::Udp, Path::Fast);
                        settings.note(since, || line(asker, &query, reply.rcode, Path::Fast));
                        if settings.denied(view.forwards, reply.rcode) {
                            self.forwards.count(Forwarded::Denied);
                        }
                        reply
                    }
                }
                (Parsed::Fast(query), Verdict::Slip) => slip(&query, out),
                (Parsed::Slow, Verdict::Send) => hand_over(&self.slow, from, message, &self.counters, out),
                (Parsed::FormErr, Verdict::Send) => bare(message, rcode::FORMERR, &self.counters, out),
                // Nothing that a client could come back with by TCP.
                _ => continue,
            };
            batch.set_reply(index, reply.bytes);
        }
        let refused = batch.send(&*self.socket);
        if refused > 0 {
            tracing::debug!(refused, "the kernel refused DNS answers");
        }
    }
}

/// What is logged of a question.
fn line<'q>(asker: Asker, query: &Query<'q>, code: u16, path: Path) -> Line<'q> {
    Line { client: asker.client, transport: Transport::Udp, name: query.name(), kind: query.rtype, code, path }
}

/// Answers with nothing but TC, no longer than the question by more than a cookie: who is there comes back by TCP. Who speaks
/// cookies needs no TCP: BADCOOKIE brings the one to come back with, RFC 7873 §5.2.3.
fn slip(query: &Query<'_>, out: &mut [u8]) -> Reply {
    let Some(mut answer) = Answer::begin(query, out, usize::from(u16::MAX)) else {
        return Reply::new(0, rcode::NOERROR);
    };
    let code = if query.reply_cookie.is_some() { rcode::BADCOOKIE } else { rcode::NOERROR };
    if code == rcode::NOERROR {
        answer.truncate();
    }
    Reply::new(answer.finish(code, false), code)
}

/// Gives a question that is unusual or for the forwarder to the slow path, which replies itself; SERVFAIL when its queue is full.
fn hand_over(
    slow: &mpsc::Sender<Job>,
    from: (&Arc<UdpSocket>, &Peer, Asker),
    message: &[u8],
    counters: &Shard,
    out: &mut [u8],
) -> Reply {
    let (socket, peer, asker) = from;
    let datagram = Datagram { message: message.to_vec(), peer: *peer, asker, socket: socket.clone() };
    match slow.try_send(Job::Datagram(datagram)) {
        Ok(()) => Reply::new(0, rcode::NOERROR),
        Err(_) => bare(message, rcode::SERVFAIL, counters, out),
    }
}

/// Returns who sent a datagram to a socket that is bound to `bound`.
fn asker(peer: &Peer, bound: SocketAddr) -> Asker {
    let local = peer.local().map_or(bound, |ip| SocketAddr::new(ip, bound.port()));
    Asker::new(peer.address().map(|address| address.ip()), Some(local))
}

fn bare(message: &[u8], code: u16, counters: &Shard, out: &mut [u8]) -> Reply {
    counters.count(0, code, Transport::Udp, Path::Fast);
    Reply::new(reject(message, code, out), code)
}
