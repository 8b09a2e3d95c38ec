//! Frames: their head, what may be wrong with a payload by itself, and those that are written whole (RFC 9113 §4, §6).

/// How a client's connection begins (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Octets of a frame's head.
pub const HEAD: usize = 9;
/// The largest payload that is taken: the least that must be (RFC 9113 §4.2).
pub const MAX_PAYLOAD: usize = 16 * 1024;

/// A kind of frame (RFC 9113 §6).
pub const DATA: u8 = 0;
/// A kind of frame.
pub const HEADERS: u8 = 1;
/// A kind of frame.
pub const PRIORITY: u8 = 2;
/// A kind of frame.
pub const RST_STREAM: u8 = 3;
/// A kind of frame.
pub const SETTINGS: u8 = 4;
/// A kind of frame.
pub const PUSH_PROMISE: u8 = 5;
/// A kind of frame.
pub const PING: u8 = 6;
/// A kind of frame.
pub const GOAWAY: u8 = 7;
/// A kind of frame.
pub const WINDOW_UPDATE: u8 = 8;
/// A kind of frame.
pub const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS: the stream's last.
pub const END_STREAM: u8 = 1;
/// A flag of SETTINGS and PING.
pub const ACK: u8 = 1;
/// A flag of HEADERS and CONTINUATION: the block's last.
pub const END_HEADERS: u8 = 4;
/// A flag of DATA and HEADERS.
pub const PADDED: u8 = 8;
/// A flag of HEADERS.
pub const WITH_PRIORITY: u8 = 32;

/// An error code (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// NO_ERROR.
    None = 0,
    /// PROTOCOL_ERROR.
    Protocol = 1,
    /// INTERNAL_ERROR.
    Internal = 2,
    /// FLOW_CONTROL_ERROR.
    FlowControl = 3,
    /// STREAM_CLOSED.
    StreamClosed = 5,
    /// FRAME_SIZE_ERROR.
    FrameSize = 6,
    /// REFUSED_STREAM.
    Refused = 7,
    /// COMPRESSION_ERROR.
    Compression = 9,
    /// ENHANCE_YOUR_CALM.
    Calm = 11,
}

/// What a faulty frame ends (RFC 9113 §5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection.
    Connection(Code),
    /// Its stream.
    Stream(Code),
}

/// The head of a frame (RFC 9113 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Octets of the payload.
    pub length: usize,
    /// The kind; unknown ones are ignored.
    pub kind: u8,
    /// The flags; unknown ones are ignored.
    pub flags: u8,
    /// The stream; 0: the connection.
    pub stream: u32,
}

impl Head {
    /// Reads a head at the start of `octets`; `None`: more are needed.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s, t, u, v] = octets.first_chunk::<HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream: u32::from_be_bytes([s, t, u, v]) & 0x7fff_ffff })
    }

    /// Returns whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the head as octets.
    pub fn octets(&self) -> [u8; HEAD] {
        let [_, a, b, c] = u32::try_from(self.length).unwrap_or(0).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }
}

/// Returns the payload of DATA or HEADERS without its padding.
///
/// # Errors
/// PROTOCOL_ERROR where the padding is not shorter than the payload (RFC 9113 §6.1).
pub fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> Result<&'a [u8], Fault> {
    if !head.has(PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(Fault::Connection(Code::FrameSize))?;
    let length = rest.len().checked_sub(usize::from(padding)).ok_or(Fault::Connection(Code::Protocol))?;
    Ok(rest.get(..length).unwrap_or_default())
}

/// Returns the block's first fragment in HEADERS, and the stream that it is said to depend on.
///
/// # Errors
/// As [`unpadded`]; FRAME_SIZE_ERROR where the priority is cut short.
pub fn fragment<'a>(head: &Head, payload: &'a [u8]) -> Result<(&'a [u8], Option<u32>), Fault> {
    let rest = unpadded(head, payload)?;
    if !head.has(WITH_PRIORITY) {
        return Ok((rest, None));
    }
    let (priority, rest) = rest.split_first_chunk::<5>().ok_or(Fault::Connection(Code::FrameSize))?;
    Ok((rest, Some(depends_on(priority))))
}

/// Returns the stream that a priority names (RFC 7540 §5.3; deprecated, and else ignored).
pub fn depends_on(&[a, b, c, d, _weight]: &[u8; 5]) -> u32 {
    u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff
}

/// Appends a frame whose payload is short.
pub fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.octets());
    out.extend_from_slice(payload);
}

/// Appends RST_STREAM.
pub fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, RST_STREAM, 0, stream, &(code as u32).to_be_bytes());
}

/// Appends WINDOW_UPDATE.
pub fn put_window_update(out: &mut Vec<u8>, stream: u32, octets: u32) {
    put(out, WINDOW_UPDATE, 0, stream, &octets.to_be_bytes());
}

/// Appends GOAWAY.
pub fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code) {
    let mut payload = [0; 8];
    let (a, b) = payload.split_at_mut(4);
    a.copy_from_slice(&last.to_be_bytes());
    b.copy_from_slice(&(code as u32).to_be_bytes());
    put(out, GOAWAY, 0, 0, &payload);
}

/// Appends HEADERS with a block, and what does not fit as CONTINUATION; the block already stands at the end of `out`, from
/// `at` + [`HEAD`] on.
pub fn close_headers(out: &mut Vec<u8>, at: usize, (stream, ends): (u32, bool), max_payload: usize) {
    let flag = if ends { END_STREAM } else { 0 };
    let length = out.len().saturating_sub(at + HEAD);
    if length <= max_payload {
        let head = Head { length, kind: HEADERS, flags: flag | END_HEADERS, stream };
        if let Some(place) = out.get_mut(at..at + HEAD) {
            place.copy_from_slice(&head.octets());
        }
        return;
    }
    let block = out.split_off(at + HEAD);
    out.truncate(at);
    let mut pieces = block.chunks(max_payload).peekable();
    let (mut kind, mut flags) = (HEADERS, flag);
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        put(out, kind, flags | last, stream, piece);
        (kind, flags) = (CONTINUATION, 0);
    }
}
