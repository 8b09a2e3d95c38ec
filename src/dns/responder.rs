//! What the tasks of one thread answer with: its view of the table, its room, its counters, its way to the forwarder.
//!
//! Everything of one read is answered in one go ([`Responder::with`]): one load of the table and of the settings. The next
//! files on the path are `handler.rs` and, for what is unusual, `slow.rs`.

use crate::clock;
use crate::dns::cookies::Baker;
use crate::dns::counters::{Forwarded, Forwards, Path, Shard};
use crate::dns::forward::{Foreign, question_of};
use crate::dns::handler::{TCP_BYTES, Transport, answer};
use crate::dns::onward;
use crate::dns::querylog::Line;
use crate::dns::settings::{Settings, Shared};
use crate::dns::slow::answer_unusual;
use crate::dns::view::{Asker, View};
use crate::dns::{Reply, Scratch};
use crate::dnswire::{Answer, HEADER_BYTES, Parsed, Query, rcode, reject};
use crate::sys::datagram::{Peer, send_one};
use crate::table::Reader;
use std::cell::RefCell;
use std::net::UdpSocket;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// What other threads give to the thread `dns-slow`.
#[derive(Debug)]
pub(crate) enum Job {
    /// A question over UDP that is unusual, or for the forwarder.
    Datagram(Datagram),
    /// A question for the forwarder that came over TLS.
    Forward(Asked, oneshot::Sender<Vec<u8>>),
}

/// A question that came over UDP.
#[derive(Debug)]
pub(crate) struct Datagram {
    /// The message.
    pub(crate) message: Vec<u8>,
    /// Who asked.
    pub(crate) peer: Peer,
    /// The same, as the answer depends on it.
    pub(crate) asker: Asker,
    /// The socket that it came through and the answer goes through.
    pub(crate) socket: Arc<UdpSocket>,
}

/// A question for the forwarder.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The message.
    pub(crate) message: Vec<u8>,
    /// An answer so far, which ends with an alias: where that leads is what is asked. Empty: the question is.
    pub(crate) begun: Vec<u8>,
    /// The asked type.
    pub(crate) kind: u16,
    /// Who asked, and how.
    pub(crate) origin: Origin,
}

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// The client.
    pub(crate) asker: Asker,
    /// How the question came.
    pub(crate) transport: Transport,
}

/// Shared by the tasks of a thread; each use is within one poll.
#[derive(Debug)]
pub(crate) struct Responder {
    pub(crate) reader: RefCell<Reader>,
    room: RefCell<Room>,
    pub(crate) settings: Shared,
    counters: Arc<Shard>,
    forwards: Forwards,
    /// Where the forwarder is asked; `None`: on this thread.
    elsewhere: Option<mpsc::Sender<Job>>,
}

#[derive(Debug)]
struct Room {
    scratch: Scratch,
    baker: Baker,
    out: Box<[u8]>,
}

/// What a responder is made of.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) reader: Reader,
    pub(crate) scratch: Scratch,
    pub(crate) baker: Baker,
    pub(crate) settings: Shared,
    pub(crate) counters: Arc<Shard>,
    pub(crate) forwards: Forwards,
    pub(crate) elsewhere: Option<mpsc::Sender<Job>>,
}

/// What becomes of one message.
#[derive(Debug)]
pub(crate) enum Answered<'o> {
    /// Nothing is sent.
    Silence,
    /// These octets are the answer.
    Now(&'o [u8]),
    /// The forwarder has it.
    Later(Asked),
}

/// Answers messages of one asker at one moment.
#[derive(Debug)]
pub(crate) struct Moment<'r> {
    view: View<'r>,
    settings: &'r Settings,
    room: &'r mut Room,
    counters: &'r Shard,
    forwards: &'r Forwards,
    origin: Origin,
    /// When it came, where that is logged.
    since: Option<Instant>,
}

impl Moment<'_> {
    /// Returns whether the forwarder may be asked for this asker.
    pub(crate) fn forwards(&self) -> bool {
        self.view.forwards
    }

    /// Answers one message.
    pub(crate) fn answer(&mut self, message: &[u8]) -> Answered<'_> {
        let Room { scratch, baker, out } = &mut *self.room;
        let transport = self.origin.transport;
        let (reply, kind, path) = match Query::parse(message) {
            Parsed::Fast(mut query) => {
                baker.serve(&mut query, self.view.asker.client);
                (answer(&self.view, &query, transport, scratch, out), query.rtype, Path::Fast)
            }
            Parsed::Slow => {
                let (reply, kind) = answer_unusual(&self.view, message, transport, (scratch, baker), out);
                (reply, kind, Path::Full)
            }
            Parsed::FormErr => (Reply::new(reject(message, rcode::FORMERR, out), rcode::FORMERR), 0, Path::Fast),
            Parsed::Silent => return Answered::Silence,
        };
        if reply.forward {
            let begun = out.get(..reply.bytes).unwrap_or_default().to_vec();
            return Answered::Later(Asked { message: message.to_vec(), begun, kind, origin: self.origin });
        }
        self.counters.count(kind, reply.rcode, transport, path);
        self.settings.note(self.since, || line(self.origin, message, kind, (reply.rcode, path)));
        if self.settings.denied(self.view.forwards, reply.rcode) {
            self.forwards.count(Forwarded::Denied);
        }
        match out.get(..reply.bytes) {
            Some(octets) if !octets.is_empty() => Answered::Now(octets),
            _ => Answered::Silence,
        }
    }
}

impl Responder {
    pub(crate) fn new(tools: Tools) -> Self {
        Self {
            reader: RefCell::new(tools.reader),
            room: RefCell::new(Room { scratch: tools.scratch, baker: tools.baker, out: vec![0; TCP_BYTES].into() }),
            settings: tools.settings,
            counters: tools.counters,
            forwards: tools.forwards,
            elsewhere: tools.elsewhere,
        }
    }

    /// Answers what one asker sent by now; nothing may be awaited inside.
    pub(crate) fn with<R>(&self, origin: Origin, act: impl FnOnce(&mut Moment<'_>) -> R) -> R {
        let (mut reader, mut room) = (self.reader.borrow_mut(), self.room.borrow_mut());
        let settings = self.settings.load();
        let view = settings.view(reader.load(), clock::now_ms(), origin.asker);
        act(&mut Moment {
            view,
            settings: &settings,
            room: &mut room,
            counters: &self.counters,
            forwards: &self.forwards,
            origin,
            since: settings.since(),
        })
    }

    /// Answers one message, however long that takes; `None`: nothing is sent.
    pub(crate) async fn resolve(&self, message: &[u8], origin: Origin) -> Option<Vec<u8>> {
        let asked = self.with(origin, |moment| match moment.answer(message) {
            Answered::Silence => Err(None),
            Answered::Now(octets) => Err(Some(octets.to_vec())),
            Answered::Later(asked) => Ok(asked),
        });
        match asked {
            Ok(asked) => Some(self.forward(asked).await),
            Err(answer) => answer,
        }
    }

    /// Does what another thread gave; a forwarded question is answered by a task of its own.
    pub(crate) fn serve(self: &Rc<Self>, job: Job) {
        match job {
            Job::Datagram(datagram) => self.serve_datagram(datagram),
            Job::Forward(asked, reply) => {
                let responder = self.clone();
                tokio::task::spawn_local(async move {
                    // Who asked may be gone.
                    let _ = reply.send(responder.forward(asked).await);
                });
            }
        }
    }

    fn serve_datagram(self: &Rc<Self>, datagram: Datagram) {
        let origin = Origin { asker: datagram.asker, transport: Transport::Udp };
        let later = self.with(origin, |moment| match moment.answer(&datagram.message) {
            Answered::Silence => None,
            Answered::Now(octets) => {
                datagram.send(octets);
                None
            }
            Answered::Later(asked) => Some(asked),
        });
        if let Some(asked) = later {
            let responder = self.clone();
            tokio::task::spawn_local(async move { datagram.send(&responder.forward(asked).await) });
        }
    }

    /// Asks the forwarder; SERVFAIL when too many questions wait for it already.
    pub(crate) async fn forward(&self, asked: Asked) -> Vec<u8> {
        let Some(elsewhere) = &self.elsewhere else { return self.forward_here(asked).await };
        let (reply, answered) = oneshot::channel();
        let message = asked.message.clone();
        if elsewhere.try_send(Job::Forward(asked, reply)).is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        failed(&message)
    }

    async fn forward_here(&self, mut asked: Asked) -> Vec<u8> {
        let max_udp_bytes =
            (asked.origin.transport == Transport::Udp).then(|| self.settings.load().authority.max_udp_bytes);
        let begun = std::mem::take(&mut asked.begun);
        if begun.is_empty() {
            return self.ask_forwarder(asked, max_udp_bytes).await;
        }
        let message = asked.message;
        let question = onward::question(&message, &begun).unwrap_or_default();
        let end = self.ask_forwarder(Asked { message: question, ..asked }, None).await;
        onward::join(&message, &begun, &end, max_udp_bytes)
    }

    async fn ask_forwarder(&self, asked: Asked, max_udp_bytes: Option<u16>) -> Vec<u8> {
        let Asked { message, kind, origin, .. } = asked;
        let Origin { asker, transport } = origin;
        let settings = self.settings.load_full();
        let since = settings.since();
        let (Some(forwarder), Some(mut query)) = (&settings.forwarder, question_of(&message)) else {
            return failed(&message);
        };
        self.room.borrow_mut().baker.serve(&mut query, asker.client);
        let max_bytes = max_udp_bytes.map_or(TCP_BYTES, |most| Answer::udp_bytes(&query, most));
        let _flight = match self.forwards.try_fly(asker.client, forwarder.options().in_flight()) {
            Ok(flight) => flight,
            Err(outcome) => {
                self.forwards.count(outcome);
                self.counters.count(kind, rcode::SERVFAIL, transport, Path::Forwarded);
                settings.note(since, || line(origin, &message, kind, (rcode::SERVFAIL, Path::Forwarded)));
                return failed(&message);
            }
        };
        let (octets, answered) = forwarder.answer(&Foreign { query, client: asker.client, max_bytes }).await;
        self.forwards.count(answered.counted);
        self.counters.count(kind, answered.code, transport, answered.path);
        settings.note(since, || line(origin, &message, kind, (answered.code, answered.path)));
        octets
    }
}

/// What is logged of a question.
fn line(origin: Origin, message: &[u8], kind: u16, (code, path): (u16, Path)) -> Line<'_> {
    let name = Query::question_of(message).map_or(&[][..], |(query, _)| query.name());
    Line { client: origin.asker.client, transport: origin.transport, name, kind, code, path }
}

/// Returns the answer that says: not now.
fn failed(message: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    let length = reject(message, rcode::SERVFAIL, &mut out);
    out.truncate(length);
    out
}

impl Datagram {
    fn send(&self, answer: &[u8]) {
        if !answer.is_empty()
            && let Err(error) = send_one(&*self.socket, &self.peer, answer)
        {
            tracing::debug!(%error, "failed to send a DNS answer");
        }
    }
}
