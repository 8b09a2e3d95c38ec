//! What a peer announces of itself (RFC 9113 §6.5).

use crate::http2::frame::{Code, Fault};

/// SETTINGS_HEADER_TABLE_SIZE.
pub const HEADER_TABLE_SIZE: u16 = 1;
/// SETTINGS_ENABLE_PUSH.
pub const ENABLE_PUSH: u16 = 2;
/// SETTINGS_MAX_CONCURRENT_STREAMS.
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
/// SETTINGS_INITIAL_WINDOW_SIZE.
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// SETTINGS_MAX_FRAME_SIZE.
pub const MAX_FRAME_SIZE: u16 = 5;
/// SETTINGS_MAX_HEADER_LIST_SIZE.
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3).
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The largest window (RFC 9113 §6.9.1).
pub const MAX_WINDOW: u32 = 0x7fff_ffff;
/// The window of a connection, and of a stream where nothing else was announced.
pub const DEFAULT_WINDOW: u32 = 65_535;
/// The table of fields where nothing else was announced (RFC 7541 §4.2).
pub const DEFAULT_TABLE: u32 = 4096;

/// Settings of a peer, as far as they bind what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Octets of the encoder's table, at most.
    pub header_table: u32,
    /// Octets that a new stream may carry to the peer.
    pub window: u32,
    /// The largest payload.
    pub max_frame: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { header_table: DEFAULT_TABLE, window: DEFAULT_WINDOW, max_frame: 16 * 1024 }
    }
}

impl Settings {
    /// Takes the payload of a SETTINGS frame.
    ///
    /// # Errors
    /// The fault of the connection for a size or a value that must not be (RFC 9113 §6.5.2).
    pub fn apply(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Fault::Connection(Code::FrameSize));
        }
        for &[a, b, c, d, e, f] in entries {
            let value = u32::from_be_bytes([c, d, e, f]);
            let valid = match u16::from_be_bytes([a, b]) {
                HEADER_TABLE_SIZE => {
                    self.header_table = value;
                    true
                }
                INITIAL_WINDOW_SIZE if value > MAX_WINDOW => return Err(Fault::Connection(Code::FlowControl)),
                INITIAL_WINDOW_SIZE => {
                    self.window = value;
                    true
                }
                MAX_FRAME_SIZE => {
                    self.max_frame = value;
                    (16_384..=16_777_215).contains(&value)
                }
                ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL => value <= 1,
                _ => true,
            };
            if !valid {
                return Err(Fault::Connection(Code::Protocol));
            }
        }
        Ok(())
    }
}

/// Appends one setting to the payload of a SETTINGS frame.
pub fn put(payload: &mut Vec<u8>, id: u16, value: u32) {
    payload.extend_from_slice(&id.to_be_bytes());
    payload.extend_from_slice(&value.to_be_bytes());
}
