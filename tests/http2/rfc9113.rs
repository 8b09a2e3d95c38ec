//! RFC 9113 section by section, in raw frames: what must be answered how, and that nothing else is lost by it.

use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, Frame, GOAWAY, HEADERS, PING, PRIORITY, PROTOCOL_ERROR, Peer,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, error_code, frame, get,
};
use crate::support::backend::{Backend, answering, silent};
use crate::support::proxy::{Proxy, Setup};
use std::time::Duration;

const ACK: u8 = 1;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;
const PUSH_PROMISE: u8 = 5;
const OPEN: u8 = END_HEADERS;
const WHOLE: u8 = END_HEADERS | END_STREAM;

const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;

fn post() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")])
}

/// A proxy in front of an endpoint that answers `fine` to everything.
async fn serving() -> (Backend, Proxy) {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    (backend, proxy)
}

/// And of one that answers nothing: what is sent stays open.
async fn waiting() -> (Backend, Proxy) {
    let backend = Backend::start(silent()).await;
    let proxy = Proxy::over(&[backend.address]);
    (backend, proxy)
}

/// Sends frames on a new connection; it must end with this code.
async fn assert_connection_error(proxy: &Proxy, code: u32, what: &str, frames: &[Vec<u8>]) {
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frames.concat()).await;
    assert_eq!(peer.end().await, Some(code), "{what}");
}

/// Sends frames on a new connection; the stream must be reset with this code, and the connection go on.
async fn assert_stream_error(proxy: &Proxy, stream: u32, code: u32, what: &str, frames: &[Vec<u8>]) {
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frames.concat()).await;
    let reset = loop {
        let next = peer.until(RST_STREAM).await.unwrap_or_else(|| panic!("{what}: the connection ended"));
        if next.stream == stream {
            break error_code(&next.payload);
        }
    };
    assert_eq!(reset, code, "{what}");
    assert_goes_on(&mut peer, what).await;
}

/// A PING is answered.
async fn assert_goes_on(peer: &mut Peer, what: &str) {
    peer.send(&frame(PING, 0, 0, b"goes on?")).await;
    let answer = peer.until(PING).await.unwrap_or_else(|| panic!("{what}: the connection ended"));
    assert_eq!((answer.flags, answer.stream, answer.payload.as_slice()), (ACK, 0, &b"goes on?"[..]), "{what}");
}

/// Frames are answered 200 on stream 1.
async fn assert_served(proxy: &Proxy, what: &str, frames: &[Vec<u8>]) {
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frames.concat()).await;
    let fate = peer.fate(1).await;
    assert!(matches!(&fate, Fate::Answered(block) if block.first() == Some(&0x88)), "{what}: {fate:?}");
}

#[tokio::test]
async fn section_3_4_settings_come_first_on_both_sides() {
    let (_backend, proxy) = serving().await;
    let mut peer = Peer::connect(proxy.address).await;
    let first = peer.next().await.unwrap();
    assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
    let acked = peer.until(SETTINGS).await.unwrap();
    assert_eq!((acked.flags, acked.payload.len()), (ACK, 0));
    for wrong in [frame(PING, 0, 0, &[0; 8]), frame(HEADERS, WHOLE, 1, &get(&[])), frame(SETTINGS, ACK, 0, &[])] {
        let mut peer = Peer::bare(proxy.address).await;
        peer.send(&wrong).await;
        assert_eq!(peer.end().await, Some(PROTOCOL_ERROR));
    }
}

#[tokio::test]
async fn section_4_1_flags_and_kinds_that_nobody_knows_are_ignored() {
    let (_backend, proxy) = serving().await;
    let request = frame(HEADERS, WHOLE, 1, &get(&[]));
    assert_served(&proxy, "an unknown kind", &[frame(0xbb, 0xff, 7, b"anything"), request.clone()]).await;
    assert_served(&proxy, "unknown flags", &[frame(HEADERS, WHOLE | 0xd2, 1, &get(&[]))]).await;
    // The reserved bit of the stream's number too.
    assert_served(&proxy, "the reserved bit", &[frame(HEADERS, WHOLE, 1 | 1 << 31, &get(&[]))]).await;
}

#[tokio::test]
async fn section_4_2_frames_of_every_size_up_to_the_limit() {
    let (_backend, proxy) = waiting().await;
    let open = frame(HEADERS, OPEN, 1, &post());
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&[open.clone(), frame(DATA, 0, 1, &[0; 16_384])].concat()).await;
    assert_goes_on(&mut peer, "16384 octets").await;
    let larger = [open, frame(DATA, 0, 1, &vec![0; 16_385])];
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "16385 octets", &larger).await;
    let large = frame(HEADERS, WHOLE, 1, &vec![0; 16_385]);
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "HEADERS of 16385 octets", &[large]).await;
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "SETTINGS", &[frame(SETTINGS, 0, 0, &vec![0; 16_386])]).await;
}

#[tokio::test]
async fn section_4_3_a_block_is_whole_and_decodable() {
    let (backend, proxy) = serving().await;
    let begun = frame(HEADERS, END_STREAM, 1, &get(&[]));
    for (what, between) in [
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("HEADERS of another stream", frame(HEADERS, WHOLE, 3, &get(&[]))),
        ("CONTINUATION of another stream", frame(CONTINUATION, END_HEADERS, 3, &[])),
        ("an unknown kind", frame(0xbb, 0, 1, &[])),
    ] {
        assert_connection_error(&proxy, PROTOCOL_ERROR, what, &[begun.clone(), between]).await;
    }
    // COMPRESSION_ERROR: RFC 7541 says when, in its own tests.
    assert_connection_error(&proxy, 9, "no block", &[frame(HEADERS, WHOLE, 1, &[0xff; 3])]).await;
    assert!(!backend.received_text().contains("GET"));
}

#[tokio::test]
async fn section_5_1_frames_that_do_not_fit_the_state_of_their_stream() {
    let (_backend, proxy) = waiting().await;
    let window = 1u32.to_be_bytes();
    for (what, kind, payload) in
        [("DATA", DATA, &b"x"[..]), ("RST_STREAM", RST_STREAM, &window), ("WINDOW_UPDATE", WINDOW_UPDATE, &window)]
    {
        assert_connection_error(&proxy, PROTOCOL_ERROR, what, &[frame(kind, 0, 1, payload)]).await;
    }
    let lone = frame(CONTINUATION, END_HEADERS, 1, &get(&[]));
    assert_connection_error(&proxy, PROTOCOL_ERROR, "CONTINUATION", &[lone]).await;
    // Half closed: the client has said that it sends nothing more.
    let whole = frame(HEADERS, WHOLE, 1, &get(&[]));
    for (what, more) in [("DATA", frame(DATA, END_STREAM, 1, b"x")), ("HEADERS", frame(HEADERS, WHOLE, 1, &get(&[])))] {
        assert_stream_error(&proxy, 1, STREAM_CLOSED, what, &[whole.clone(), more]).await;
    }
    // Priorities and windows may come at any time.
    let mut peer = Peer::connect(proxy.address).await;
    let fine = [whole, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), frame(WINDOW_UPDATE, 0, 1, &window)];
    peer.send(&[frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), fine.concat()].concat()).await;
    assert_goes_on(&mut peer, "PRIORITY and WINDOW_UPDATE").await;
}

#[tokio::test]
async fn section_5_1_closed_streams_stay_closed() {
    let (_backend, proxy) = serving().await;
    let reset = [frame(HEADERS, OPEN, 1, &post()), frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())].concat();
    for (what, more) in [("DATA", frame(DATA, 0, 1, b"x")), ("HEADERS", frame(HEADERS, WHOLE, 1, &get(&[])))] {
        assert_stream_error(&proxy, 1, STREAM_CLOSED, what, &[reset.clone(), more]).await;
    }
    for (what, more, code) in [
        ("DATA", frame(DATA, 0, 1, b"x"), None),
        ("HEADERS", frame(HEADERS, WHOLE, 1, &get(&[])), Some(STREAM_CLOSED)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()), None),
        ("RST_STREAM", frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()), None),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), None),
    ] {
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
        loop {
            let data = peer.until(DATA).await.unwrap();
            if data.flags & END_STREAM != 0 {
                break;
            }
        }
        peer.send(&more).await;
        match (code, what) {
            (Some(code), _) => assert_eq!(peer.end().await, Some(code), "{what}"),
            (None, "DATA") => assert_eq!(peer.fate(1).await, Fate::Reset(STREAM_CLOSED), "{what}"),
            (None, _) => assert_goes_on(&mut peer, what).await,
        }
    }
}

#[tokio::test]
async fn section_5_1_what_was_on_its_way_to_a_stream_that_weir_reset_is_no_fault() {
    let (_backend, proxy) = serving().await;
    let mut peer = Peer::connect(proxy.address).await;
    let malformed = frame(HEADERS, OPEN, 1, &[post(), block(&[("connection", "close")])].concat());
    let mut octets = [malformed, frame(DATA, 0, 1, b"x"), frame(HEADERS, WHOLE, 1, &block(&[("x", "y")]))].concat();
    octets.extend(frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()));
    peer.send(&octets).await;
    assert_eq!(peer.fate(1).await, Fate::Reset(PROTOCOL_ERROR));
    assert_goes_on(&mut peer, "what follows").await;
    peer.send(&frame(HEADERS, WHOLE, 3, &get(&[]))).await;
    assert!(matches!(peer.fate(3).await, Fate::Answered(_)));
}

#[tokio::test]
async fn section_5_1_1_streams_are_odd_and_ascend() {
    let (_backend, proxy) = waiting().await;
    let request = |stream| frame(HEADERS, WHOLE, stream, &get(&[]));
    assert_connection_error(&proxy, PROTOCOL_ERROR, "an even one", &[request(2)]).await;
    assert_connection_error(&proxy, PROTOCOL_ERROR, "a smaller one", &[request(5), request(3)]).await;
    assert_connection_error(&proxy, PROTOCOL_ERROR, "the connection itself", &[request(0)]).await;
}

#[tokio::test]
async fn section_5_1_2_streams_at_one_time() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.http2.streams = 2).start();
    let mut peer = Peer::connect(proxy.address).await;
    let announced = peer.until(SETTINGS).await.unwrap().payload;
    assert!(announced.chunks(6).any(|entry| entry == [0, 3, 0, 0, 0, 2]), "{announced:?}");
    for stream in [1, 3, 5] {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
    }
    // REFUSED_STREAM: it may be sent again.
    assert_eq!(peer.fate(5).await, Fate::Reset(7));
    // One ends, and another may come.
    peer.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await;
    peer.send(&frame(HEADERS, WHOLE, 7, &get(&[]))).await;
    assert_goes_on(&mut peer, "the next").await;
    assert_eq!(proxy.metric("weir_refused_total{reason=\"h2_streams\"}"), 1);
}

#[tokio::test]
async fn section_5_4_1_goaway_names_the_last_stream() {
    let (_backend, proxy) = waiting().await;
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&[frame(HEADERS, WHOLE, 5, &get(&[])), frame(PING, 0, 0, &[0; 7])].concat()).await;
    let goaway = peer.until(GOAWAY).await.unwrap().payload;
    assert_eq!((&goaway[..4], error_code(&goaway[4..])), (&5u32.to_be_bytes()[..], FRAME_SIZE_ERROR));
    assert_eq!(peer.next().await, None);
}

#[tokio::test]
async fn section_6_1_data() {
    let (_backend, proxy) = serving().await;
    let open = frame(HEADERS, OPEN, 1, &post());
    let padded = [open.clone(), frame(DATA, END_STREAM | PADDED, 1, b"\x03hello\0\0\0")];
    assert_served(&proxy, "padding", &padded).await;
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 0", &[frame(DATA, 0, 0, b"x")]).await;
    for payload in [&[5, 0, 0, 0, 0][..], &[255]] {
        let wrong = [open.clone(), frame(DATA, PADDED, 1, payload)];
        assert_connection_error(&proxy, PROTOCOL_ERROR, "padding that is too long", &wrong).await;
    }
}

#[tokio::test]
async fn section_6_2_headers() {
    let (_backend, proxy) = serving().await;
    let head = get(&[]);
    let padded = [&[2][..], &[0, 0, 0, 0, 16], &head, &[0, 0]].concat();
    assert_served(&proxy, "padding", &[frame(HEADERS, WHOLE | PADDED | WITH_PRIORITY, 1, &padded)]).await;
    let wrong = frame(HEADERS, WHOLE | PADDED, 1, &[&[255][..], &head].concat());
    assert_connection_error(&proxy, PROTOCOL_ERROR, "padding that is too long", &[wrong]).await;
    let cut = frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[0; 4]);
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "a priority that is cut", &[cut]).await;
    let own = frame(HEADERS, WHOLE | WITH_PRIORITY, 1, &[&[0, 0, 0, 1, 16][..], &head].concat());
    assert_stream_error(&proxy, 1, PROTOCOL_ERROR, "a stream that depends on itself", &[own]).await;
}

#[tokio::test]
async fn section_6_3_priority() {
    let (_backend, proxy) = waiting().await;
    let open = frame(HEADERS, OPEN, 1, &post());
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 0", &[frame(PRIORITY, 0, 0, &[0; 5])]).await;
    let cut = [open.clone(), frame(PRIORITY, 0, 1, &[0; 4])];
    assert_stream_error(&proxy, 1, FRAME_SIZE_ERROR, "four octets", &cut).await;
    let own = [open, frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])];
    assert_stream_error(&proxy, 1, PROTOCOL_ERROR, "a stream that depends on itself", &own).await;
}

#[tokio::test]
async fn section_6_4_rst_stream() {
    let (_backend, proxy) = waiting().await;
    let code = 8u32.to_be_bytes();
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 0", &[frame(RST_STREAM, 0, 0, &code)]).await;
    let cut = [frame(HEADERS, OPEN, 1, &post()), frame(RST_STREAM, 0, 1, &code[..3])];
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "three octets", &cut).await;
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

#[tokio::test]
async fn section_6_5_settings() {
    let (_backend, proxy) = serving().await;
    for (what, code, wrong) in [
        ("an acknowledgement with a payload", FRAME_SIZE_ERROR, frame(SETTINGS, ACK, 0, &[0; 6])),
        ("stream 1", PROTOCOL_ERROR, frame(SETTINGS, 0, 1, &[])),
        ("three octets", FRAME_SIZE_ERROR, frame(SETTINGS, 0, 0, &[0; 3])),
        ("ENABLE_PUSH 2", PROTOCOL_ERROR, setting(2, 2)),
        ("INITIAL_WINDOW_SIZE 2^31", FLOW_CONTROL_ERROR, setting(4, 1 << 31)),
        ("MAX_FRAME_SIZE 2^14 - 1", PROTOCOL_ERROR, setting(5, 16_383)),
        ("MAX_FRAME_SIZE 2^24", PROTOCOL_ERROR, setting(5, 1 << 24)),
        ("ENABLE_CONNECT_PROTOCOL 2", PROTOCOL_ERROR, setting(8, 2)),
    ] {
        assert_connection_error(&proxy, code, what, &[wrong]).await;
    }
    assert_served(&proxy, "one that nobody knows", &[setting(0xff, 1), frame(HEADERS, WHOLE, 1, &get(&[]))]).await;
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&[setting(4, 100), setting(4, 200)].concat()).await;
    let mut acknowledged = 0;
    while acknowledged < 3 {
        acknowledged += usize::from(peer.until(SETTINGS).await.unwrap().flags == ACK);
    }
}

#[tokio::test]
async fn section_6_6_clients_push_nothing() {
    let (_backend, proxy) = waiting().await;
    let push = frame(PUSH_PROMISE, END_HEADERS, 1, &[&2u32.to_be_bytes()[..], &get(&[])].concat());
    assert_connection_error(&proxy, PROTOCOL_ERROR, "PUSH_PROMISE", &[frame(HEADERS, OPEN, 1, &post()), push]).await;
}

#[tokio::test]
async fn section_6_7_ping() {
    let (_backend, proxy) = serving().await;
    let mut peer = Peer::connect(proxy.address).await;
    assert_goes_on(&mut peer, "a PING").await;
    // An acknowledgement that nobody asked for is not answered.
    peer.send(&frame(PING, ACK, 0, &[7; 8])).await;
    assert_goes_on(&mut peer, "an acknowledgement").await;
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 1", &[frame(PING, 0, 1, &[0; 8])]).await;
    for length in [0, 7, 9] {
        let wrong = frame(PING, 0, 0, &vec![0; length]);
        assert_connection_error(&proxy, FRAME_SIZE_ERROR, "another size", &[wrong]).await;
    }
}

#[tokio::test]
async fn section_6_8_goaway() {
    let (_backend, proxy) = serving().await;
    let goaway = [0u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 1", &[frame(GOAWAY, 0, 1, &goaway)]).await;
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "seven octets", &[frame(GOAWAY, 0, 0, &goaway[..7])]).await;
    // A client that goes away still gets its answers.
    assert_served(&proxy, "GOAWAY", &[frame(HEADERS, WHOLE, 1, &get(&[])), frame(GOAWAY, 0, 0, &goaway)]).await;
}

#[tokio::test]
async fn section_6_8_the_drain_goes_away_in_two_steps() {
    let backend = Backend::start(crate::support::backend::slow(Duration::from_millis(400))).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    assert_goes_on(&mut peer, "before").await;
    proxy.drain();
    let first = peer.until(GOAWAY).await.unwrap().payload;
    assert_eq!(first, [&(u32::MAX >> 1).to_be_bytes()[..], &[0; 4]].concat());
    let ping = peer.until(PING).await.unwrap();
    // A stream that was on its way is served; then the client says that it knows.
    peer.send(&[frame(HEADERS, WHOLE, 3, &get(&[])), frame(PING, ACK, 0, &ping.payload)].concat()).await;
    let last = peer.until(GOAWAY).await.unwrap().payload;
    assert_eq!(last, [&3u32.to_be_bytes()[..], &[0; 4]].concat());
    let (mut answered, mut ended) = (0, 0);
    while let Some(Frame { kind, flags, .. }) = peer.next().await {
        answered += usize::from(kind == HEADERS);
        ended += usize::from(kind == DATA && flags & END_STREAM != 0);
    }
    assert_eq!((answered, ended), (2, 2));
}

#[tokio::test]
async fn section_6_9_windows() {
    let (_backend, proxy) = serving().await;
    let update = |stream, n: u32| frame(WINDOW_UPDATE, 0, stream, &n.to_be_bytes());
    let open = frame(HEADERS, OPEN, 1, &post());
    assert_connection_error(&proxy, PROTOCOL_ERROR, "0 for the connection", &[update(0, 0)]).await;
    assert_stream_error(&proxy, 1, PROTOCOL_ERROR, "0 for a stream", &[open.clone(), update(1, 0)]).await;
    let cut = frame(WINDOW_UPDATE, 0, 0, &[0; 3]);
    assert_connection_error(&proxy, FRAME_SIZE_ERROR, "three octets", &[cut]).await;
    let most = u32::MAX >> 1;
    assert_connection_error(&proxy, FLOW_CONTROL_ERROR, "2^31 for the connection", &[update(0, most)]).await;
    assert_stream_error(&proxy, 1, FLOW_CONTROL_ERROR, "2^31 for a stream", &[open, update(1, most)]).await;
}

#[tokio::test]
async fn section_6_9_1_data_is_sent_as_the_windows_allow() {
    let (_backend, proxy) = serving().await;
    let mut peer = Peer::with_settings(proxy.address, &[(4, 1)]).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    let mut text = Vec::new();
    while text.len() < 4 {
        let data = peer.until(DATA).await.unwrap();
        assert_eq!(data.payload.len(), 1);
        text.extend(data.payload);
        peer.send(&frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).await;
    }
    assert_eq!(text, b"fine");
}

#[tokio::test]
async fn section_6_9_2_the_initial_window_changes_streams_too() {
    let (_backend, proxy) = serving().await;
    let mut peer = Peer::with_settings(proxy.address, &[(4, 0)]).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    peer.until(HEADERS).await.unwrap();
    // Still closed by one octet, then open by three, and by the last.
    peer.send(&[setting(4, 3), setting(4, 1)].concat()).await;
    assert_eq!(peer.until(DATA).await.unwrap().payload, b"fin");
    peer.send(&frame(WINDOW_UPDATE, 0, 1, &2u32.to_be_bytes())).await;
    assert_goes_on(&mut peer, "a window below nothing").await;
    peer.send(&setting(4, 2)).await;
    assert_eq!(peer.until(DATA).await.unwrap().payload, b"e");
    // Above the largest window with what was added.
    let open = frame(HEADERS, OPEN, 1, &post());
    let update = frame(WINDOW_UPDATE, 0, 1, &(u32::MAX >> 2).to_be_bytes());
    let frames = [open, update, setting(4, u32::MAX >> 1)];
    assert_connection_error(&proxy, FLOW_CONTROL_ERROR, "2^31", &frames).await;
}

#[tokio::test]
async fn section_6_10_continuation() {
    let (_backend, proxy) = serving().await;
    let head = get(&[]);
    let pieces = |cuts: &[usize]| {
        let mut from = 0;
        let mut frames = Vec::new();
        for (index, &to) in cuts.iter().chain([&head.len()]).enumerate() {
            let last = if index == cuts.len() { END_HEADERS } else { 0 };
            let (kind, flags) = if index == 0 { (HEADERS, END_STREAM | last) } else { (CONTINUATION, last) };
            frames.push(frame(kind, flags, 1, &head[from..to]));
            from = to;
        }
        frames
    };
    for cuts in [&[1][..], &[3, 7], &[10, 11, 12, 13]] {
        assert_served(&proxy, "pieces", &pieces(cuts)).await;
    }
    let again = [frame(HEADERS, WHOLE, 1, &head), frame(CONTINUATION, END_HEADERS, 1, &head)];
    assert_connection_error(&proxy, PROTOCOL_ERROR, "behind the end of a head", &again).await;
    let lone = frame(CONTINUATION, END_HEADERS, 0, &head);
    assert_connection_error(&proxy, PROTOCOL_ERROR, "stream 0", &[lone]).await;
}
