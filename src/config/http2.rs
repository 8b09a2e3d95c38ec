//! `[proxy.http2]` → its options, and back.

use crate::config::bounds::{size, within};
use crate::config::file::ProxyHttp2;
use crate::proxy::Http2Options;
use crate::spec::{Problems, Size};

/// Reads the section; records what is out of bounds.
pub(super) fn read(p: &mut Problems, section: &ProxyHttp2) -> Http2Options {
    let defaults = Http2Options::default();
    let mut count = |key: &str, value, default: u32, bounds| {
        let value = within(p, &format!("proxy.http2.{key}"), value, default as usize, &bounds);
        u32::try_from(value).unwrap_or(u32::MAX)
    };
    let streams = count("streams", section.streams, defaults.streams, 1..=10_000);
    let resets = count("resets", section.resets, defaults.resets, 1..=1_000_000);
    let control_frames = count("control_frames", section.control_frames, defaults.control_frames, 1..=1_000_000);
    let continuations = count("continuations", section.continuations, defaults.continuations, 0..=1000);
    let mut window = |key: &str, value, default: u32, bounds| {
        let value = size(p, &format!("proxy.http2.{key}"), value, default as usize, bounds);
        u32::try_from(value).unwrap_or(u32::MAX)
    };
    let stream_window = window("stream_window", section.stream_window, defaults.stream_window, 1024..=64 << 20);
    // RFC 9113 §6.9.2: a connection's window begins with 65535 octets and cannot be made smaller.
    let connection = section.connection_window;
    let connection_window = window("connection_window", connection, defaults.connection_window, 64 << 10..=256 << 20);
    Http2Options { streams, stream_window, connection_window, resets, control_frames, continuations }
}

/// Writes every key.
pub(super) fn write(options: &Http2Options) -> ProxyHttp2 {
    let count = |value: u32| Some(value as usize);
    let size = |octets: u32| Some(Size::new(octets.into()));
    ProxyHttp2 {
        streams: count(options.streams),
        stream_window: size(options.stream_window),
        connection_window: size(options.connection_window),
        resets: count(options.resets),
        control_frames: count(options.control_frames),
        continuations: count(options.continuations),
    }
}
