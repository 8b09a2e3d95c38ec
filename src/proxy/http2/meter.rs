//! What a peer does on the wire, counted frame by frame: floods that are legal one frame at a time (RFC 9113 §10.5).
//!
//! Pure: octets and the coarse clock in, a breach out. The octets are not kept and not changed.

/// Length of a frame's head.
const HEAD: usize = 9;
/// Length of the client's preface.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Counts are for so long, in milliseconds.
const WINDOW_MS: u64 = 10_000;
/// So many octets that were sent pay for one control frame: who reads much says so often.
const SENT_PER_FRAME: u64 = 512;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bounds on what one peer may do within ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Streams that the peer resets before they were answered.
    pub(crate) resets: u32,
    /// Control frames without useful progress: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones.
    pub(crate) control_frames: u32,
    /// CONTINUATION frames of one head; not within ten seconds but each time.
    pub(crate) continuations: u32,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breach {
    /// Streams were reset again and again before their answer.
    Resets,
    /// Too many control frames for what was moved.
    ControlFrames,
    /// A head in too many pieces, or in empty ones.
    Continuations,
    /// It takes nothing of what it asked for.
    Stalled,
}

impl Breach {
    /// Returns the reason code for logs and metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Resets => "h2_resets",
            Self::ControlFrames => "h2_control_frames",
            Self::Continuations => "h2_continuations",
            Self::Stalled => "h2_stalled",
        }
    }
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub(super) struct Meter {
    bounds: Bounds,
    /// Octets to skip: the preface, or the rest of a payload.
    skip: usize,
    head: [u8; HEAD],
    have: usize,
    window_ms: u64,
    control: u32,
    progress: u64,
    resets: u32,
    continuations: u32,
}

impl Meter {
    /// Follows what a client sends, from its preface on.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            skip: PREFACE.len(),
            head: [0; HEAD],
            have: 0,
            window_ms: 0,
            control: 0,
            progress: 0,
            resets: 0,
            continuations: 0,
        }
    }

    /// Takes octets that came.
    pub(super) fn take(&mut self, mut octets: &[u8], now_ms: u64) -> Option<Breach> {
        self.roll(now_ms);
        let mut breach = None;
        while !octets.is_empty() {
            let skipped = self.skip.min(octets.len());
            self.skip -= skipped;
            octets = octets.get(skipped..).unwrap_or_default();
            let missing = HEAD - self.have;
            let part = octets.get(..missing.min(octets.len())).unwrap_or_default();
            if let Some(place) = self.head.get_mut(self.have..self.have + part.len()) {
                place.copy_from_slice(part);
            }
            self.have += part.len();
            octets = octets.get(part.len()..).unwrap_or_default();
            if self.have == HEAD {
                self.have = 0;
                breach = breach.or(self.frame());
            }
        }
        breach
    }

    /// Counts what was sent to the peer: progress.
    pub(super) fn sent(&mut self, octets: usize) {
        self.progress += octets as u64;
    }

    /// Counts a stream that was reset before its answer.
    pub(super) fn reset(&mut self, now_ms: u64) -> Option<Breach> {
        self.roll(now_ms);
        self.resets += 1;
        (self.resets > self.bounds.resets).then_some(Breach::Resets)
    }

    fn roll(&mut self, now_ms: u64) {
        if now_ms >= self.window_ms + WINDOW_MS {
            self.window_ms = now_ms;
            (self.control, self.progress, self.resets) = (0, 0, 0);
        }
    }

    fn frame(&mut self) -> Option<Breach> {
        let [a, b, c, kind, flags, ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => self.progress += SENT_PER_FRAME,
            HEADERS => {
                self.continuations = 0;
                self.progress += SENT_PER_FRAME;
            }
            CONTINUATION => {
                self.continuations += 1;
                let hollow = length == 0 && flags & END_HEADERS == 0;
                return (hollow || self.continuations > self.bounds.continuations).then_some(Breach::Continuations);
            }
            // Counted by who knows whether the stream was answered.
            RST_STREAM => {}
            SETTINGS | PING if flags & ACK != 0 => {}
            _ => {
                self.control += 1;
                let allowed = u64::from(self.bounds.control_frames) + self.progress / SENT_PER_FRAME;
                return (u64::from(self.control) > allowed).then_some(Breach::ControlFrames);
            }
        }
        None
    }
}
