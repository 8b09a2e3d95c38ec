//! Whether an endpoint is still there: a connection that is silent while something is waited for is asked by PING
//! (RFC 9113 §6.7), and is dead when nothing comes after that.
//!
//! [`Pulse`] decides and is pure; [`Listening`] notes what it must know, and the heads that must not be passed on. Looked at when the pool is swept, so nothing has a
//! timer of its own.

use crate::net::Stream;
use crate::proxy::http2::inspect::{Found, Inspector};
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Least time between two PINGs while the endpoint sends nothing of an answer: for gRPC servers one within five minutes is a
/// strike, and what they send of an answer makes their count begin anew.
const GAP_MS: u64 = 310_000;
/// The third strike ends the connection, in every implementation of gRPC: two PINGs come earlier, after so many times the silence
/// that is waited out. What has answered once may be stopped a moment later.
const EARLY: [u64; 2] = [2, 4];

/// Streams with a malformed head that wait for those who asked; an endpoint that invents more is not listened to.
const MAX_MALFORMED: usize = 1000;
const FRAME_HEAD_BYTES: usize = 9;

/// What happened since it was looked at last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Signs {
    /// Octets came.
    pub(super) heard: bool,
    /// A part of an answer was among them.
    pub(super) answered: bool,
    /// Something is waited for.
    pub(super) waits: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    /// Ask it.
    Ping,
    /// It is dead.
    Dead,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Silence until it is asked, and after that until it is dead; 0: it is never asked.
    quiet_ms: u64,
    /// Since when it is silent though something is waited for; 0: it is not.
    since_ms: u64,
    /// When it was asked in this silence; 0: it was not.
    asked_ms: u64,
    /// When it was asked last, and how often since it answered something.
    last_ms: u64,
    times: usize,
}

impl Pulse {
    pub(super) fn new(quiet_ms: u64) -> Self {
        Self { quiet_ms, since_ms: 0, asked_ms: 0, last_ms: 0, times: 0 }
    }

    /// Looks at the signs of a moment.
    pub(super) fn look(&mut self, now_ms: u64, signs: Signs) -> Beat {
        if signs.heard {
            (self.since_ms, self.asked_ms) = (0, 0);
        }
        if signs.answered {
            self.times = 0;
        }
        if self.since_ms == 0 {
            self.since_ms = if signs.waits { now_ms } else { 0 };
            return Beat::Nothing;
        }
        if self.quiet_ms == 0 || now_ms < self.since_ms.max(self.asked_ms).saturating_add(self.quiet_ms) {
            return Beat::Nothing;
        }
        if self.asked_ms > 0 {
            return Beat::Dead;
        }
        if now_ms < self.not_before(signs.waits) {
            return Beat::Nothing;
        }
        (self.asked_ms, self.last_ms) = (now_ms, now_ms);
        self.times += 1;
        Beat::Ping
    }

    /// Before this it is not asked. On a connection without a request each PING is a strike.
    fn not_before(&self, waits: bool) -> u64 {
        let Some(early) = self.times.checked_sub(1) else { return 0 };
        let gap = match EARLY.get(early) {
            Some(times) if waits => self.quiet_ms.saturating_mul(*times).min(GAP_MS),
            _ => GAP_MS,
        };
        self.last_ms.saturating_add(gap)
    }
}

/// What was heard of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// Octets came since it was looked at.
    pub(super) heard: Cell<bool>,
    /// Its first frame, which is SETTINGS (RFC 9113 §3.4), has come whole.
    settled: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Streams with a head that is malformed in a way that the codec does not mind; theirs and nobody else's.
    malformed: RefCell<Vec<u32>>,
    /// Streams of requests that are under way, each with whether its last block has a status.
    asked: RefCell<Vec<(u32, bool)>>,
}

impl Ear {
    /// Returns whether a head on a stream was malformed.
    pub(super) fn is_malformed(&self, stream: u32) -> bool {
        self.malformed.borrow().contains(&stream)
    }

    /// Notes that a request was sent on a stream.
    pub(super) fn expect(&self, stream: u32) {
        self.asked.borrow_mut().push((stream, false));
    }

    /// Returns whether the last block of a stream has a status.
    pub(super) fn ended_with_status(&self, stream: u32) -> bool {
        self.asked.borrow().contains(&(stream, true))
    }

    /// Notes what was found on a stream; false where the endpoint invents too many.
    fn hear(&self, stream: u32, what: Found) -> bool {
        match what {
            Found::LastStatus => {
                let mut asked = self.asked.borrow_mut();
                asked.iter_mut().filter(|(other, _)| *other == stream).for_each(|(_, ended)| *ended = true);
                true
            }
            Found::Malformed => {
                let mut malformed = self.malformed.borrow_mut();
                malformed.push(stream);
                malformed.len() <= MAX_MALFORMED
            }
        }
    }

    /// Forgets a stream.
    pub(super) fn forget(&self, stream: u32) {
        self.asked.borrow_mut().retain(|&(other, _)| other != stream);
        self.malformed.borrow_mut().retain(|&other| other != stream);
    }

    /// Waits for the endpoint's settings.
    pub(super) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.settled.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Wakes who waits: the settings came, or never will.
    pub(super) fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }
}

/// A stream that notes when octets come.
#[derive(Debug)]
pub(super) struct Listening {
    stream: Stream,
    ear: Rc<Ear>,
    /// How long the first frame is, as far as that has come, and how many octets came.
    length: u32,
    passed: usize,
    inspector: Inspector,
}

impl Listening {
    pub(super) fn new(stream: Stream, ear: Rc<Ear>) -> Self {
        Self { stream, ear, length: 0, passed: 0, inspector: Inspector::default() }
    }

    /// Looks for the end of the first frame, whose length is in its first three octets.
    fn note(&mut self, octets: &[u8]) {
        for octet in octets.iter().take(3usize.saturating_sub(self.passed)) {
            self.length = (self.length << 8) | u32::from(*octet);
        }
        self.passed += octets.len();
        if self.passed >= FRAME_HEAD_BYTES + self.length as usize {
            self.ear.settled.set(true);
            self.ear.wake();
        }
    }
}

impl AsyncRead for Listening {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, into);
        let octets = into.filled().get(before..).unwrap_or_default();
        if !octets.is_empty() {
            this.ear.heard.set(true);
            if !this.ear.settled.get() {
                this.note(octets);
            }
            let mut believed = true;
            this.inspector.see(octets, |stream, what| believed &= this.ear.hear(stream, what));
            if !believed {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Listening {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Beat, GAP_MS, Pulse, Signs};

    const WAITS: Signs = Signs { heard: false, answered: false, waits: true };
    const IDLE: Signs = Signs { heard: false, answered: false, waits: false };
    const HEARD: Signs = Signs { heard: true, ..WAITS };
    const ANSWERED: Signs = Signs { answered: true, ..HEARD };

    #[test]
    fn silence_is_asked_and_then_dead() {
        let mut pulse = Pulse::new(100);
        assert_eq!([1, 100].map(|now| pulse.look(now, WAITS)), [Beat::Nothing; 2]);
        assert_eq!(pulse.look(101, WAITS), Beat::Ping);
        assert_eq!(pulse.look(200, WAITS), Beat::Nothing);
        assert_eq!(pulse.look(201, WAITS), Beat::Dead);
    }

    #[test]
    fn what_was_given_up_unheard_is_waited_for_all_the_same() {
        let mut pulse = Pulse::new(100);
        assert_eq!(pulse.look(1, WAITS), Beat::Nothing);
        assert_eq!(pulse.look(50, IDLE), Beat::Nothing);
        assert_eq!(pulse.look(101, IDLE), Beat::Ping);
        assert_eq!(pulse.look(201, IDLE), Beat::Dead);
    }

    #[test]
    fn an_idle_connection_is_left_alone() {
        let mut pulse = Pulse::new(100);
        assert!([1, 500, 5000].iter().all(|&now| pulse.look(now, IDLE) == Beat::Nothing));
        assert_eq!(pulse.look(6000, WAITS), Beat::Nothing, "it begins to wait now");
    }

    /// Sees only answers to PING; returns when it asks within a time.
    fn asked(pulse: &mut Pulse, from: u64, until: u64) -> Vec<u64> {
        let mut times = Vec::new();
        for now in from..until {
            match pulse.look(now, WAITS) {
                Beat::Nothing => {}
                Beat::Dead => panic!("dead at {now}"),
                Beat::Ping => {
                    times.push(now);
                    assert_eq!(pulse.look(now, HEARD), Beat::Nothing);
                }
            }
        }
        times
    }

    #[test]
    fn two_pings_come_early_and_the_others_as_late_as_grpc_servers_ask_for() {
        let mut pulse = Pulse::new(100);
        let times = asked(&mut pulse, 1, 3 * GAP_MS);
        assert_eq!(times, [101, 301, 701, 701 + GAP_MS, 701 + 2 * GAP_MS]);
        // What was asked early and is silent is dead as soon as ever.
        let mut pulse = Pulse::new(100);
        assert_eq!(asked(&mut pulse, 1, 250), [101]);
        assert_eq!(pulse.look(301, WAITS), Beat::Ping);
        assert_eq!(pulse.look(400, WAITS), Beat::Nothing);
        assert_eq!(pulse.look(401, WAITS), Beat::Dead);
        // Without a request no PING comes early.
        let mut pulse = Pulse::new(100);
        assert_eq!(asked(&mut pulse, 1, 250), [101]);
        assert!((250..101 + GAP_MS).step_by(100).all(|now| pulse.look(now, IDLE) == Beat::Nothing));
        assert_eq!(pulse.look(101 + GAP_MS, IDLE), Beat::Ping);
    }

    #[test]
    fn any_octet_is_a_sign_of_life_and_only_an_answer_begins_anew() {
        let mut pulse = Pulse::new(100);
        assert_eq!(asked(&mut pulse, 1, 1000), [101, 301, 701]);
        assert_eq!(pulse.look(1000, WAITS), Beat::Nothing, "too soon for another");
        assert_eq!(pulse.look(701 + GAP_MS, WAITS), Beat::Ping);
        let now = 701 + GAP_MS;
        assert_eq!(pulse.look(now + 50, ANSWERED), Beat::Nothing);
        assert_eq!(pulse.look(now + 150, WAITS), Beat::Ping);
        assert_eq!(pulse.look(now + 250, WAITS), Beat::Dead);
    }

    #[test]
    fn zero_never_asks() {
        let mut pulse = Pulse::new(0);
        assert!([1, 1_000_000].iter().all(|&now| pulse.look(now, WAITS) == Beat::Nothing));
    }
}
