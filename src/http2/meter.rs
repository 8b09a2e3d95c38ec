//! What a peer does on the wire, counted frame by frame: floods that are legal one frame at a time (RFC 9113 §10.5).

use crate::http2::frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Head, PING, RST_STREAM, SETTINGS,
};

/// Counts are for so long, in milliseconds.
const WINDOW_MS: u64 = 10_000;
/// So many octets that were sent pay for one control frame: who reads much says so often.
const SENT_PER_FRAME: u64 = 512;

/// Bounds on what one peer may do within ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Streams that the peer resets before they were answered; and, counted apart, streams that it made us reset.
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
        }
    }
}

/// Follows what a peer sends.
#[derive(Debug)]
pub struct Meter {
    bounds: Bounds,
    window_ms: u64,
    control: u32,
    progress: u64,
    resets: u32,
    faults: u32,
    continuations: u32,
}

impl Meter {
    /// Follows a connection from its first frame on.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, window_ms: 0, control: 0, progress: 0, resets: 0, faults: 0, continuations: 0 }
    }

    /// Says what time it is, in milliseconds of any clock: counts begin anew every ten seconds.
    pub fn roll(&mut self, now_ms: u64) {
        if now_ms >= self.window_ms + WINDOW_MS {
            self.window_ms = now_ms;
            (self.control, self.progress, self.resets, self.faults) = (0, 0, 0, 0);
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
            // Counted by who knows whether the stream was answered.
            RST_STREAM => {}
            SETTINGS | PING if head.has(ACK) => {}
            _ => {
                self.control += 1;
                let allowed = u64::from(self.bounds.control_frames) + self.progress / SENT_PER_FRAME;
                return (u64::from(self.control) > allowed).then_some(Breach::ControlFrames);
            }
        }
        None
    }

    /// Counts what was sent to the peer: progress.
    pub fn sent(&mut self, octets: usize) {
        self.progress += octets as u64;
    }

    /// Counts a stream that the peer reset before its answer.
    pub fn reset(&mut self) -> Option<Breach> {
        self.resets += 1;
        (self.resets > self.bounds.resets).then_some(Breach::Resets)
    }

    /// Counts a stream that had to be reset for what the peer sent.
    pub fn fault(&mut self) -> Option<Breach> {
        self.faults += 1;
        (self.faults > self.bounds.resets).then_some(Breach::Faults)
    }
}
