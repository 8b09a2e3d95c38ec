//! A connection that is fed by hand: what its owners get, what goes out, and that everything stays bounded.

use crate::http1::head::{Fields, Limits, parse_response};
use crate::http2::answer::Ending;
use crate::http2::connection::{Config, Connection};
use crate::http2::frame::{self, Code, Head, PREFACE};
use crate::http2::meter::{Bounds, Breach};
use crate::http2::serve::{Read, Room};
use crate::http2::settings;
use crate::http2::streams::Failure;

const CONFIG: Config = Config {
    streams: 100,
    stream_window: 65_536,
    connection_window: 262_144,
    head_bytes: 65_536,
    head_fields: 128,
    bounds: Bounds { resets: 100, control_frames: 1000, continuations: 8 },
};

fn put(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, flags, stream, payload);
    out
}

/// The block of a GET of `/` over http, with an authority.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
const POST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 1, b'a'];

fn setting(id: u16, value: u32) -> Vec<u8> {
    let mut payload = Vec::new();
    settings::put(&mut payload, id, value);
    put(frame::SETTINGS, 0, 0, &payload)
}

fn opened(window: u32) -> Connection {
    let mut codec = Connection::new(CONFIG);
    feed(&mut codec, &[PREFACE, &setting(settings::INITIAL_WINDOW_SIZE, window)].concat());
    sent(&mut codec);
    codec
}

/// Feeds octets that are whole frames.
fn feed(codec: &mut Connection, octets: &[u8]) {
    assert_eq!(codec.receive(octets, 1, &mut || 7), octets.len());
}

/// Takes what goes out.
fn sent(codec: &mut Connection) -> Vec<(Head, Vec<u8>)> {
    let mut found = Vec::new();
    while !codec.pending().is_empty() {
        let octets = codec.pending().to_vec();
        codec.wrote(octets.len());
        let mut rest = &octets[..];
        while let Some(head) = Head::parse(rest) {
            found.push((head, rest[frame::HEAD..frame::HEAD + head.length].to_vec()));
            rest = &rest[frame::HEAD + head.length..];
        }
        assert!(rest.is_empty());
    }
    found
}

fn kinds(frames: &[(Head, Vec<u8>)]) -> Vec<(u8, u8, u32)> {
    frames.iter().map(|(head, _)| (head.kind, head.flags, head.stream)).collect()
}

/// Reads everything that is there of a request.
fn read(codec: &mut Connection, slot: usize) -> (String, Read) {
    let (mut text, mut buffer) = (Vec::new(), [0; 37]);
    loop {
        match codec.read(slot, &mut buffer) {
            Read::Octets(n) => text.extend_from_slice(&buffer[..n]),
            end => return (String::from_utf8(text).unwrap(), end),
        }
    }
}

fn answer(codec: &mut Connection, slot: usize, text: &str) {
    let limits = Limits { head_bytes: 4096, fields: 32, target_bytes: 100 };
    let mut fields = Fields::default();
    let line = parse_response(text.as_bytes(), &limits, &mut fields).unwrap().unwrap();
    let ending = if text.contains("ength: 0") { Ending::Head } else { Ending::Body };
    codec.answer(slot, (text.as_bytes(), &line, &fields), ending);
}

const OK: &str = "HTTP/1.1 200 OK\r\nx: y\r\n\r\n";

#[test]
fn streams_follow_each_other_in_one_slot() {
    let mut codec = opened(65_535);
    for stream in [1, 3, 5] {
        feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
        assert_eq!(codec.take_unowned(), (stream == 1).then_some(0));
        assert!(codec.begin_stream(0).is_some() && codec.begin_stream(0).is_none());
        assert_eq!(read(&mut codec, 0), ("GET / HTTP/1.1\r\nhost: a\r\n\r\n".into(), Read::End));
        assert_eq!(codec.busy(), 1);
        answer(&mut codec, 0, OK);
        codec.send(0, b"hello", true);
        assert!(codec.is_complete(0) && codec.has_ended(0));
        codec.release(0, true);
        let frames = sent(&mut codec);
        assert_eq!(kinds(&frames), [(frame::HEADERS, 4, stream), (frame::DATA, 1, stream)]);
        assert_eq!((frames[1].1.as_slice(), codec.busy()), (&b"hello"[..], 0));
    }
}

#[test]
fn an_answer_before_the_body_is_followed_by_a_reset_only_when_more_comes_than_its_end() {
    let mut codec = opened(65_535);
    let mut early = |stream: u32, before: &[u8]| {
        feed(&mut codec, &put(frame::HEADERS, 4, stream, POST));
        codec.take_unowned();
        assert!(codec.begin_stream(0).is_some());
        if !before.is_empty() {
            feed(&mut codec, &put(frame::DATA, 0, stream, before));
        }
        answer(&mut codec, 0, OK);
        codec.send(0, b"hello", true);
        codec.release(0, true);
        assert_eq!(codec.busy(), 0);
        let mut resets = Vec::new();
        for (flags, octets) in [(0, &[][..]), (0, &b"more"[..]), (0, b"more"), (1, b"end")] {
            if !octets.is_empty() && before.is_empty() {
                let flags = if stream == 1 { 1 } else { flags };
                feed(&mut codec, &put(frame::DATA, flags, stream, octets));
            }
            let frames = sent(&mut codec);
            resets.push(frames.iter().filter(|(head, code)| head.kind == frame::RST_STREAM && *code == [0; 4]).count());
        }
        resets
    };
    assert_eq!(early(1, b""), [0, 0, 0, 0], "its end came");
    assert_eq!(early(3, b""), [0, 1, 0, 0], "more than its end came");
    assert_eq!(early(5, b"some"), [1, 0, 0, 0], "some had come: it may wait for room to send");
    assert_eq!(codec.failure(), None);
}

#[test]
fn octets_may_be_cut_anywhere() {
    let octets = [
        PREFACE,
        &put(frame::SETTINGS, 0, 0, &[]),
        &put(frame::HEADERS, 0, 1, &POST[..3]),
        &put(frame::CONTINUATION, 4, 1, &POST[3..]),
        &put(frame::DATA, 8, 1, b"\x03abc\0\0\0"),
        &put(frame::PING, 0, 0, b"12345678"),
        &put(frame::DATA, 0, 1, b"de"),
        &put(frame::HEADERS, 5, 1, &[0, 1, b't', 1, b'1']),
    ]
    .concat();
    let expected =
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nt: 1\r\n\r\n";
    for step in 1..octets.len() {
        let mut codec = Connection::new(CONFIG);
        let (mut rest, mut text) = (Vec::new(), String::new());
        for piece in octets.chunks(step) {
            rest.extend_from_slice(piece);
            let used = codec.receive(&rest, 1, &mut || 7);
            rest.drain(..used);
            if codec.take_unowned().is_some() {
                codec.begin_stream(0);
            }
            if codec.busy() > 0 {
                text += &read(&mut codec, 0).0;
            }
        }
        assert!(rest.is_empty() && codec.failure().is_none(), "{step}");
        // Data that came together is one chunk.
        let text = text.replace("5\r\nabcde", "3\r\nabc\r\n2\r\nde");
        assert_eq!(text, expected, "{step}");
    }
}

#[test]
fn windows_bound_what_is_sent_and_open_again() {
    let mut codec = opened(10);
    feed(&mut codec, &put(frame::HEADERS, 5, 1, GET));
    codec.take_unowned();
    codec.begin_stream(0);
    answer(&mut codec, 0, OK);
    codec.send(0, b"0123456789abcdef", true);
    assert_eq!((codec.is_complete(0), codec.has_ended(0), codec.room_for(0)), (true, false, Room::Held));
    let frames = sent(&mut codec);
    assert_eq!((frames[1].0.flags, frames[1].1.as_slice()), (0, &b"0123456789"[..]));
    // Smaller than what was sent: the window is below nothing (RFC 9113 §6.9.2).
    feed(&mut codec, &setting(settings::INITIAL_WINDOW_SIZE, 5));
    feed(&mut codec, &put(frame::WINDOW_UPDATE, 0, 1, &5u32.to_be_bytes()));
    assert_eq!(kinds(&sent(&mut codec)), [(frame::SETTINGS, 1, 0)]);
    feed(&mut codec, &put(frame::WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()));
    assert_eq!(sent(&mut codec)[0].1, b"a");
    feed(&mut codec, &setting(settings::INITIAL_WINDOW_SIZE, 100));
    let frames = sent(&mut codec);
    assert_eq!((frames[1].0.flags, frames[1].1.as_slice()), (1, &b"bcdef"[..]));
    assert_eq!((codec.has_ended(0), codec.room_for(0)), (true, Room::Free));
    let mut notices = Vec::new();
    codec.take_notices(&mut notices);
    assert!(notices.contains(&0));
}

#[test]
fn streams_take_turns_within_the_window_of_the_connection() {
    let mut codec = opened(1 << 20);
    for stream in [1, 3, 5] {
        feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
        let slot = codec.take_unowned().unwrap();
        codec.begin_stream(slot);
        answer(&mut codec, slot, OK);
        codec.send(slot, &vec![7; 40_000], true);
        sent(&mut codec);
    }
    // The first has sent everything, the second 25,535 octets, the third none.
    feed(&mut codec, &put(frame::WINDOW_UPDATE, 0, 0, &400_000u32.to_be_bytes()));
    let data: Vec<_> = sent(&mut codec).iter().map(|(head, _)| (head.stream, head.length, head.flags)).collect();
    assert_eq!(data, [(3, 14_465, 1), (5, 16_384, 0), (5, 16_384, 0), (5, 7232, 1)]);
    for stream in [7, 9] {
        feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
        let slot = codec.take_unowned().unwrap();
        codec.begin_stream(slot);
        answer(&mut codec, slot, OK);
        // More than the buffer takes at once.
        codec.send(slot, &vec![7; 80_000], true);
    }
    let data = sent(&mut codec);
    let order: Vec<u32> = data.iter().filter(|f| f.0.kind == frame::DATA).map(|f| f.0.stream).collect();
    assert_eq!(order.iter().filter(|&&stream| stream == 9).count(), 5);
    // The first to come filled the buffer; what was left of it takes turns with the second.
    assert!(order.windows(2).any(|pair| pair == [9, 7] || pair == [7, 9]) && order.len() == 10, "{order:?}");
}

#[test]
fn what_is_taken_may_come_again() {
    let mut codec = opened(65_535);
    feed(&mut codec, &put(frame::SETTINGS, 1, 0, &[]));
    feed(&mut codec, &put(frame::HEADERS, 4, 1, &[POST, &[0x0f, 0x0d, 6], b"200000"].concat()));
    codec.take_unowned();
    codec.begin_stream(0);
    let piece = put(frame::DATA, 0, 1, &vec![b'x'; 16_384]);
    for _ in 0..4 {
        feed(&mut codec, &piece);
    }
    assert_eq!(kinds(&sent(&mut codec)), []);
    assert_eq!(
        read(&mut codec, 0).0.len(),
        65_536 + "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200000\r\n\r\n".len()
    );
    let updates = sent(&mut codec);
    let of = |stream| {
        let octets =
            updates.iter().filter(|f| f.0.stream == stream).map(|f| u32::from_be_bytes(f.1[..4].try_into().unwrap()));
        octets.sum::<u32>()
    };
    assert!(of(1) > 32_000 && of(1) <= 65_536, "{updates:?}");
    // One octet more than what was opened.
    let mut left = 65_536 - (65_536 - of(1)) + 1;
    while left > 0 {
        let n = left.min(16_384);
        feed(&mut codec, &put(frame::DATA, 0, 1, &vec![b'x'; n as usize]));
        left -= n;
    }
    let frames = sent(&mut codec);
    assert_eq!(frames.last().unwrap().1, (Code::FlowControl as u32).to_be_bytes());
    assert_eq!(read(&mut codec, 0).1, Read::Lost);
}

#[test]
fn a_hundred_stalled_answers_hold_little() {
    let mut codec = opened(0);
    let mut held = 0;
    for stream in (1..=199).step_by(2) {
        feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
        let slot = codec.take_unowned().unwrap();
        codec.begin_stream(slot);
        answer(&mut codec, slot, OK);
        // What the request path would read, were the endpoint to send without end.
        while codec.room_for(slot) == Room::Free {
            let room = codec.room(slot).min(68 * 1024);
            codec.send(slot, &vec![0; room], false);
            held += room;
        }
    }
    let total = held + codec.pending().len();
    assert!(total <= 256 * 1024 - 64 * 1024, "{total}");
    assert_eq!(codec.busy(), 100);
    // One of them is reset: nothing of it stays.
    feed(&mut codec, &put(frame::RST_STREAM, 0, 199, &8u32.to_be_bytes()));
    assert_eq!(codec.room_for(99), Room::Lost);
}

#[test]
fn a_socket_that_takes_nothing_stops_answers() {
    let mut codec = opened(1 << 30);
    feed(&mut codec, &put(frame::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()));
    for stream in (1..=199).step_by(2) {
        feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
        let slot = codec.take_unowned().unwrap();
        codec.begin_stream(slot);
        while codec.room_for(slot) == Room::Free {
            let room = codec.room(slot).min(68 * 1024);
            codec.send(slot, &vec![0; room], false);
        }
    }
    let total = codec.pending().len() + codec.held;
    assert!(total <= 192 * 1024, "{total}");
    let pings = put(frame::PING, 0, 0, &[0; 8]).repeat(900);
    for _ in 0..10 {
        codec.receive(&pings, 1, &mut || 7);
    }
    assert!(codec.pending().len() <= 256 * 1024 && codec.failure().is_some());
}

#[test]
fn heads_that_are_too_large_are_answered_and_the_table_goes_on() {
    let mut codec = Connection::new(Config { head_bytes: 1000, ..CONFIG });
    feed(&mut codec, &[PREFACE, &put(frame::SETTINGS, 0, 0, &[])].concat());
    sent(&mut codec);
    for stream in [1, 3] {
        // A field that enters the table, behind one that is too large for all.
        let large = [GET, &[0, 1, b'l', 0x7f, 0xa0, 7], &vec![b'x'; 1055], &[0x40, 1, b'n', 1, b'v'][..]].concat();
        feed(&mut codec, &put(frame::HEADERS, 5, stream, &large));
        let frames = sent(&mut codec);
        assert_eq!(kinds(&frames), [(frame::HEADERS, 5, stream)]);
        assert_eq!(frames[0].1, [8, 3, b'4', b'3', b'1']);
        assert_eq!(codec.take_refusal(), Some("head_too_large"));
    }
    feed(&mut codec, &put(frame::HEADERS, 5, 9, &[GET, &[0xbf][..]].concat()));
    codec.take_unowned();
    codec.begin_stream(0);
    assert!(read(&mut codec, 0).0.contains("\r\nn: v\r\n"));
    assert!(codec.failure().is_none());
    // The third is answered too, and is the last.
    feed(&mut codec, &put(frame::HEADERS, 5, 11, &[GET, &[0, 1, b'l', 0x7f, 0xa0, 7], &vec![b'x'; 1055][..]].concat()));
    assert_eq!(kinds(&sent(&mut codec)), [(frame::HEADERS, 5, 11), (frame::GOAWAY, 0, 0)]);
    assert_eq!(codec.failure(), Some(Failure::Breach(Breach::LargeHeads)));
}

#[test]
fn a_block_in_pieces_is_as_large_as_a_head_may_be() {
    for (last, breach) in [(16_384, false), (16_385, true)] {
        let mut codec = opened(65_535);
        let piece = |size| put(frame::CONTINUATION, 0, 1, &vec![0; size]);
        let octets =
            [put(frame::HEADERS, 1, 1, &vec![0; 16_384]), piece(16_384), piece(16_384), piece(last - 1), piece(1)];
        feed(&mut codec, &octets.concat());
        let failure = breach.then_some(Failure::Breach(Breach::Continuations));
        assert_eq!(codec.failure(), failure, "{last}");
    }
}

#[test]
fn answers_that_nobody_takes_are_a_hundred_at_most() {
    for (kind, payload) in [(frame::PING, &[7; 8][..]), (frame::SETTINGS, &[])] {
        let mut codec = opened(65_535);
        feed(&mut codec, &put(kind, 0, 0, payload).repeat(100));
        assert_eq!(sent(&mut codec).len(), 100);
        feed(&mut codec, &put(kind, 0, 0, payload).repeat(101));
        assert_eq!(codec.failure(), Some(Failure::Breach(Breach::ControlFrames)), "{kind}");
    }
}

#[test]
fn resets_of_streams_that_are_none_are_counted_as_control_frames() {
    let mut codec = opened(65_535);
    feed(&mut codec, &[put(frame::HEADERS, 5, 1, GET), put(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat());
    // The head paid for one.
    feed(&mut codec, &put(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(1000));
    assert_eq!(codec.failure(), None);
    codec.receive(&put(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(10), 1, &mut || 7);
    assert_eq!(codec.failure(), Some(Failure::Breach(Breach::ControlFrames)));
}

#[test]
fn it_ends_in_two_steps() {
    let mut codec = opened(65_535);
    codec.leave();
    codec.leave();
    let frames = sent(&mut codec);
    assert_eq!(kinds(&frames), [(frame::GOAWAY, 0, 0), (frame::PING, 0, 0)]);
    assert_eq!(frames[0].1, [&0x7fff_ffffu32.to_be_bytes()[..], &[0; 4]].concat());
    // What was on its way is served.
    feed(&mut codec, &put(frame::HEADERS, 5, 1, GET));
    feed(&mut codec, &put(frame::PING, 1, 0, &frames[1].1));
    assert_eq!(sent(&mut codec)[0].1, [&1u32.to_be_bytes()[..], &[0; 4]].concat());
    assert!(codec.has_left() && codec.busy() == 1);
    // And what comes then is not, nor is it a fault.
    feed(&mut codec, &put(frame::HEADERS, 4, 3, GET));
    feed(&mut codec, &put(frame::DATA, 1, 3, b"x"));
    assert_eq!((sent(&mut codec).len(), codec.busy()), (0, 1));
}

#[test]
fn a_failure_loses_every_stream_and_says_goaway_once() {
    let mut codec = opened(65_535);
    feed(&mut codec, &put(frame::HEADERS, 4, 1, POST));
    codec.take_unowned();
    codec.begin_stream(0);
    feed(&mut codec, &put(frame::DATA, 0, 0, b"x"));
    assert_eq!(codec.failure(), Some(Failure::Fault(Code::Protocol)));
    assert_eq!(codec.receive(&put(frame::PING, 0, 0, &[0; 8]), 1, &mut || 7), 0);
    assert_eq!(kinds(&sent(&mut codec)), [(frame::GOAWAY, 0, 0)]);
    assert_eq!(read(&mut codec, 0).1, Read::Lost);
    answer(&mut codec, 0, OK);
    codec.send(0, b"x", true);
    codec.disown(0, true);
    assert_eq!((sent(&mut codec).len(), codec.busy()), (0, 0));
}

#[test]
fn what_its_owner_has_not_begun_goes_with_its_reset() {
    let mut codec = opened(65_535);
    let reset = |stream| put(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes());
    feed(&mut codec, &[put(frame::HEADERS, 5, 1, GET), reset(1)].concat());
    assert_eq!((codec.take_unowned(), codec.busy()), (Some(0), 0));
    assert!(codec.begin_stream(0).is_none());
    feed(&mut codec, &put(frame::HEADERS, 5, 3, GET));
    assert!(codec.take_unowned().is_none() && codec.begin_stream(0).is_some());
    // An owner that ends with a stream that it has not begun: nothing of it was looked at.
    codec.release(0, true);
    feed(&mut codec, &put(frame::HEADERS, 5, 5, GET));
    sent(&mut codec);
    codec.disown(0, false);
    assert_eq!(sent(&mut codec)[0].1, (Code::Refused as u32).to_be_bytes());
    assert_eq!(codec.busy(), 0);
    feed(&mut codec, &put(frame::HEADERS, 5, 7, GET));
    assert_eq!(codec.take_unowned(), Some(0));
}

/// What was given up is work all the same, until whoever does it has ended it: streams of one connection cannot pile up behind
/// resets, of the client or of ours.
#[test]
fn what_was_given_up_counts_until_its_owner_is_done() {
    for provoke in [put(frame::RST_STREAM, 0, 1, &[0, 0, 0, 8]), put(frame::WINDOW_UPDATE, 0, 1, &[0; 4])] {
        let mut codec = Connection::new(Config { streams: 3, ..CONFIG });
        feed(&mut codec, &[PREFACE, &put(frame::SETTINGS, 0, 0, &[])].concat());
        for stream in [1, 3, 5, 7, 9, 11] {
            feed(&mut codec, &put(frame::HEADERS, 5, stream, GET));
            let slot = codec.take_unowned().unwrap();
            assert!(codec.begin_stream(slot).is_some());
            let end = [&provoke[..5], &[0, 0, 0, stream as u8], &provoke[9..]].concat();
            feed(&mut codec, &end);
        }
        assert_eq!(codec.busy(), 6);
        sent(&mut codec);
        feed(&mut codec, &put(frame::HEADERS, 5, 13, GET));
        assert_eq!(codec.take_refusal(), Some("h2_streams"));
        assert_eq!(kinds(&sent(&mut codec)), [(frame::RST_STREAM, 0, 13)]);
        codec.release(0, true);
        feed(&mut codec, &put(frame::HEADERS, 5, 15, GET));
        assert_eq!((codec.take_refusal(), codec.begin_stream(0).is_some()), (None, true));
    }
}
