//! The meter, and what frames are by themselves.

use crate::http2::frame::{self, Code, Fault, Head};
use crate::http2::meter::{Bounds, Breach, Meter};
use crate::http2::settings::Settings;

const BOUNDS: Bounds = Bounds { resets: 3, control_frames: 5, continuations: 2 };

fn head(kind: u8, flags: u8, length: usize) -> Head {
    Head { length, kind, flags, stream: 1 }
}

/// Feeds frames; returns the first breach.
fn feed(frames: &[Head]) -> Option<Breach> {
    let mut meter = Meter::new(BOUNDS);
    frames.iter().find_map(|head| meter.frame(head))
}

#[test]
fn frames_that_move_nothing_are_counted() {
    let pings = |n| vec![head(6, 0, 8); n];
    assert_eq!(feed(&pings(5)), None);
    assert_eq!(feed(&pings(6)), Some(Breach::ControlFrames));
    for kind in [2, 4, 8, 0xbb] {
        assert_eq!(feed(&[head(kind, 0, 5); 6]), Some(Breach::ControlFrames), "{kind}");
    }
    assert_eq!(feed(&[head(0, 0, 0); 6]), Some(Breach::ControlFrames));
    // Acknowledgements, and what moves something, are none of that; the latter pays for others.
    assert_eq!(feed(&vec![head(6, 1, 8); 20]), None);
    assert_eq!(feed(&vec![head(0, 0, 100); 20]), None);
    assert_eq!(feed(&[vec![head(0, 0, 100); 3], pings(8)].concat()), None);
    // Heads in pieces: as many as allowed each time, none hollow.
    let whole = [head(1, 0, 10), head(9, 0, 10), head(9, 4, 10)];
    assert_eq!(feed(&[whole, whole].concat()), None);
    assert_eq!(feed(&[head(1, 0, 10), head(9, 0, 10), head(9, 0, 10), head(9, 4, 10)]), Some(Breach::Continuations));
    assert_eq!(feed(&[head(1, 0, 10), head(9, 0, 0)]), Some(Breach::Continuations));
}

#[test]
fn control_frames_are_counted_anew_after_ten_seconds() {
    let mut meter = Meter::new(BOUNDS);
    for now_ms in [1, 10_001, 20_001] {
        meter.roll(now_ms);
        assert_eq!((0..5).find_map(|_| meter.frame(&head(6, 0, 8))), None, "{now_ms}");
    }
    // What is sent pays for the frames of a reader.
    meter.roll(40_000);
    meter.sent(512 * 10, true);
    assert_eq!((0..15).find_map(|_| meter.frame(&head(8, 0, 4))), None);
    assert_eq!(meter.frame(&head(8, 0, 4)), Some(Breach::ControlFrames));
}

#[test]
fn streams_in_vain_are_counted_within_any_ten_seconds() {
    // Three are allowed; a fourth is not, whoever reset them, until the first was ten seconds ago.
    for (last, breach) in [(10_999, true), (11_000, false)] {
        let mut meter = Meter::new(BOUNDS);
        (0..100).for_each(|_| meter.stream());
        for now_ms in [1000, 9000, 10_998] {
            meter.roll(now_ms);
            assert_eq!(meter.reset(), None, "{now_ms}");
        }
        meter.roll(last);
        assert_eq!(meter.fault(), breach.then_some(Breach::Faults), "{last}");
        assert_eq!(meter.reset(), Some(Breach::Resets), "one more within the same");
    }
}

#[test]
fn of_many_streams_at_most_half_are_in_vain_however_slowly() {
    // One each hour: the half of all is no breach, one more is; but not before there are more than six streams.
    for (streams, vain) in [(6, 6), (7, 3), (8, 4), (1000, 500)] {
        let mut meter = Meter::new(BOUNDS);
        (0..streams).for_each(|_| meter.stream());
        for n in 0..vain {
            meter.roll(n * 3_600_000);
            assert_eq!(meter.reset(), None, "{n} of {streams}");
        }
        meter.roll(vain * 3_600_000);
        assert_eq!(meter.fault(), (streams > 6).then_some(Breach::Faults), "{vain} of {streams}");
    }
}

#[test]
fn answers_that_wait_and_heads_that_are_too_large_are_counted() {
    let mut meter = Meter::new(BOUNDS);
    for _ in 0..3 {
        assert_eq!((0..100).find_map(|_| meter.answer()), None);
        meter.sent(10, true);
    }
    assert_eq!((0..100).find_map(|_| meter.answer()), None);
    meter.sent(10, false);
    assert_eq!(meter.answer(), Some(Breach::ControlFrames));
    assert_eq!([meter.large_head(), meter.large_head(), meter.large_head()], [None, None, Some(Breach::LargeHeads)]);
}

#[test]
fn heads_of_frames_are_what_they_were() {
    for length in [0, 1, 255, 256, 16_384, 0xff_ffff] {
        for stream in [0, 1, 0x7fff_ffff] {
            let head = Head { length, kind: 9, flags: 5, stream };
            assert_eq!(Head::parse(&head.octets()), Some(head));
            assert_eq!(Head::parse(&head.octets()[..8]), None);
        }
    }
    // The reserved bit is ignored (RFC 9113 §4.1).
    assert_eq!(Head::parse(&[0, 0, 0, 0, 0, 0x80, 0, 0, 1]).unwrap().stream, 1);
}

#[test]
fn padding_is_shorter_than_what_it_pads() {
    let padded = |octets: &'static [u8]| frame::unpadded(&head(0, 8, octets.len()), octets);
    assert_eq!(padded(&[0]), Ok(&[][..]));
    assert_eq!(padded(&[1, b'a', 0]), Ok(&b"a"[..]));
    assert_eq!(padded(&[2, 0, 0]), Ok(&[][..]));
    assert_eq!(padded(&[3, 0, 0]), Err(Fault::Connection(Code::Protocol)));
    assert_eq!(padded(&[]), Err(Fault::Connection(Code::FrameSize)));
    let block = |flags, octets: &'static [u8]| frame::fragment(&head(1, flags, octets.len()), octets);
    assert_eq!(block(32, &[0x80, 0, 0, 3, 16, b'x']), Ok((&b"x"[..], Some(3))));
    assert_eq!(block(40, &[1, 0, 0, 0, 3, 16, b'x', 0]), Ok((&b"x"[..], Some(3))));
    assert_eq!(block(32, &[0, 0, 0, 3]), Err(Fault::Connection(Code::FrameSize)));
}

#[test]
fn settings_have_their_bounds() {
    let apply = |entries: &[(u16, u32)]| {
        let mut settings = Settings::default();
        let payload: Vec<u8> =
            entries.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        settings.apply(&payload).map(|()| settings)
    };
    let all = apply(&[(1, 0), (2, 1), (3, 7), (4, 0x7fff_ffff), (5, 16_777_215), (6, 9), (8, 0), (99, 1)]).unwrap();
    assert_eq!(all, Settings { header_table: 0, window: 0x7fff_ffff, max_frame: 16_777_215 });
    for wrong in [(2, 2), (5, 16_383), (5, 16_777_216), (8, 2)] {
        assert_eq!(apply(&[wrong]), Err(Fault::Connection(Code::Protocol)), "{wrong:?}");
    }
    assert_eq!(apply(&[(4, 0x8000_0000)]), Err(Fault::Connection(Code::FlowControl)));
    assert_eq!(Settings::default().apply(&[0; 5]), Err(Fault::Connection(Code::FrameSize)));
}

#[test]
fn a_block_that_is_larger_than_a_frame_goes_on() {
    for (length, pieces) in [(0, 1), (10, 1), (16, 1), (17, 2), (32, 2), (33, 3)] {
        let mut out = b"before".to_vec();
        out.extend_from_slice(&[0; frame::HEAD]);
        out.extend(vec![7; length]);
        frame::close_headers(&mut out, 6, (5, true), 16);
        let (mut rest, mut found, mut kinds) = (&out[6..], 0, Vec::new());
        while let Some(head) = Head::parse(rest) {
            found += head.length;
            kinds.push((head.kind, head.flags, head.stream));
            rest = &rest[frame::HEAD + head.length..];
        }
        assert_eq!((found, kinds.len(), rest.len()), (length, pieces, 0), "{length}");
        assert_eq!(kinds[0].0, frame::HEADERS);
        assert!(kinds.iter().enumerate().all(|(i, &(kind, flags, stream))| {
            let last = if i + 1 == pieces { frame::END_HEADERS } else { 0 };
            let first = if i == 0 { frame::END_STREAM } else { 0 };
            stream == 5 && flags == first | last && kind == if i == 0 { frame::HEADERS } else { frame::CONTINUATION }
        }));
    }
}
