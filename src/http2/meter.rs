//! What a peer does on the wire, counted frame by frame: floods that are legal one frame at a time (RFC 9113 §10.5).

use crate::http2::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Head, PING, RST_STREAM, SETTINGS,
};

/// Counts are for so long, in milliseconds.
const WINDOW_MS: u64 = 10_000;
/// So many octets that were sent pay for one control frame: who reads much says so often.
const SENT_PER_FRAME: u64 = 512;
/// So many times [`Bounds::resets`] streams are seen before their share is looked at: 200, where a hundred may be reset.
const SHARE_AFTER: u32 = 2;
/// Answers to PING and SETTINGS that may wait to be sent.
const ANSWERS: u32 = 100;
/// The head that is too large and ends the connection; those before cost their streams alone.
const LARGE_HEADS: u32 = 3;

/// Bounds on what one peer may do within ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Streams that the peer resets before they were answered, with those that it made us reset or refuse. Once there were
    /// more than twice as many streams, not more than half of all either.
    pub resets: u32,
    /// Control frames without useful progress: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones.
    pub control_frames: u32,
    /// CONTINUATION frames of one head; not within ten seconds but each time.
    pub continuations: u32,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// Streams were reset again and again before their answer.
    Resets,
    /// Streams had to be reset again and again.
    Faults,
    /// Too many control frames for what was moved.
    ControlFrames,
    /// A head in too many pieces, or in empty ones.
    Continuations,
    /// It takes nothing of what it asked for.
    Stalled,
    /// A head whose end does not come.
    SlowHead,
    /// Heads that are too large, again and again.
    LargeHeads,
}

impl Breach {
    /// Returns the reason code for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Resets => "h2_resets",
            Self::Faults => "h2_calm",
            Self::ControlFrames => "h2_control_frames",
            Self::Continuations => "h2_continuations",
            Self::Stalled => "h2_stalled",
            Self::SlowHead => "head_timeout",
            Self::LargeHeads => "h2_heads",
        }
    }
}

/// Follows what a peer sends.
#[derive(Debug)]
pub struct Meter {
    bounds: Bounds,
    now_ms: u64,
    window_ms: u64,
    control: u32,
    progress: u64,
    continuations: u32,
    /// Streams that came, over the whole connection.
    streams: u64,
    /// Those of them that were in vain.
    vain: u64,
    /// When the last ones were, as many as are allowed in a window; empty until the first.
    times: Vec<u64>,
    times_at: usize,
    /// Answers to PING and SETTINGS that wait.
    answers: u32,
    large_heads: u32,
}

impl Meter {
    /// Follows a connection from its first frame on.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            now_ms: 0,
            window_ms: 0,
            control: 0,
            progress: 0,
            continuations: 0,
            streams: 0,
            vain: 0,
            times: Vec::new(),
            times_at: 0,
            answers: 0,
            large_heads: 0,
        }
    }

    /// Says what time it is, in milliseconds of any clock: control frames are counted anew every ten seconds.
    pub fn roll(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if now_ms >= self.window_ms + WINDOW_MS {
            self.window_ms = now_ms;
            (self.control, self.progress) = (0, 0);
        }
    }

    /// Counts a frame that came.
    pub fn frame(&mut self, head: &Head) -> Option<Breach> {
        match head.kind {
            DATA if head.length > 0 || head.has(END_STREAM) => self.progress += SENT_PER_FRAME,
            HEADERS => {
                self.continuations = 0;
                self.progress += SENT_PER_FRAME;
            }
            CONTINUATION => {
                self.continuations += 1;
                let hollow = head.length == 0 && !head.has(END_HEADERS);
                return (hollow || self.continuations > self.bounds.continuations).then_some(Breach::Continuations);
            }
            // Counted by who knows whether the stream was there and answered.
            RST_STREAM => {}
            SETTINGS | PING if head.has(ACK) => {}
            _ => return self.idle(),
        }
        None
    }

    /// Counts a frame that moves nothing forward.
    pub fn idle(&mut self) -> Option<Breach> {
        self.control += 1;
        let allowed = u64::from(self.bounds.control_frames) + self.progress / SENT_PER_FRAME;
        (u64::from(self.control) > allowed).then_some(Breach::ControlFrames)
    }

    /// Counts what was sent to the peer: progress. `all`: nothing waits any more.
    pub fn sent(&mut self, octets: usize, all: bool) {
        self.progress += octets as u64;
        if all {
            self.answers = 0;
        }
    }

    /// Counts an answer to a frame of the connection, which waits to be sent with what else does.
    pub fn answer(&mut self) -> Option<Breach> {
        self.answers += 1;
        (self.answers > ANSWERS).then_some(Breach::ControlFrames)
    }

    /// Counts a stream that came.
    pub fn stream(&mut self) {
        self.streams += 1;
    }

    /// Counts a stream that the peer reset before its answer.
    pub fn reset(&mut self) -> Option<Breach> {
        self.in_vain().then_some(Breach::Resets)
    }

    /// Counts a stream that had to be reset, or refused, for what the peer sent.
    pub fn fault(&mut self) -> Option<Breach> {
        self.in_vain().then_some(Breach::Faults)
    }

    /// Counts a head that was too large.
    pub fn large_head(&mut self) -> Option<Breach> {
        self.large_heads += 1;
        (self.large_heads >= LARGE_HEADS).then_some(Breach::LargeHeads)
    }

    /// Counts work for nothing; returns whether it is too much: at any time within ten seconds, or of all that was done.
    fn in_vain(&mut self) -> bool {
        self.vain += 1;
        let share =
            self.streams > u64::from(self.bounds.resets) * u64::from(SHARE_AFTER) && self.vain * 2 > self.streams;
        let Some(oldest) = self.times.get_mut(self.times_at) else {
            self.times.push(self.now_ms);
            self.turn();
            return share;
        };
        let within = self.now_ms < *oldest + WINDOW_MS;
        *oldest = self.now_ms;
        self.turn();
        share || within
    }

    fn turn(&mut self) {
        self.times_at = (self.times_at + 1) % self.bounds.resets.max(1) as usize;
    }
}
