//! RFC 9113 section 8: what a request is, in raw frames; and that a head that is too large costs its stream alone.

use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Fate, HEADERS, PROTOCOL_ERROR, Peer, RST_STREAM, block, error_code, field, frame,
    get,
};
use crate::support::backend::{Backend, answering, silent};
use crate::support::eventually;
use crate::support::proxy::{Proxy, Setup};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const OPEN: u8 = END_HEADERS;
const WHOLE: u8 = END_HEADERS | END_STREAM;

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let plain = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    [block(&plain), block(more)].concat()
}

async fn assert_malformed(proxy: &Proxy, what: &str, frames: &[Vec<u8>]) {
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frames.concat()).await;
    assert_eq!(peer.fate(1).await, Fate::Reset(PROTOCOL_ERROR), "{what}");
    // Its connection goes on.
    peer.send(&frame(HEADERS, WHOLE, 3, &get(&[]))).await;
    assert!(matches!(peer.fate(3).await, Fate::Answered(_)), "{what}");
}

#[tokio::test]
async fn section_8_1_messages_are_framed() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let second = [frame(HEADERS, OPEN, 1, &post(&[])), frame(HEADERS, OPEN, 1, &block(&[("x", "y")]))];
    assert_malformed(&proxy, "a second head that does not end the stream", &second).await;
    let length = |n: &str, data: &[&str]| {
        let mut frames = vec![frame(HEADERS, OPEN, 1, &post(&[("content-length", n)]))];
        for (index, piece) in data.iter().enumerate() {
            let flags = if index + 1 == data.len() { END_STREAM } else { 0 };
            frames.push(frame(DATA, flags, 1, piece.as_bytes()));
        }
        frames
    };
    assert_malformed(&proxy, "too much data", &length("1", &["ab"])).await;
    assert_malformed(&proxy, "too much data in pieces", &length("3", &["ab", "cd"])).await;
    assert_malformed(&proxy, "too little data", &length("5", &["ab", "cd"])).await;
    let short = [length("2", &[]), vec![frame(HEADERS, WHOLE, 1, &block(&[("x", "y")]))]].concat();
    assert_malformed(&proxy, "trailers before the data", &short).await;
}

#[tokio::test]
async fn section_8_2_fields() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (name, value) in
        [("X", "y"), ("x y", "z"), ("x", "\r"), ("x", " y"), ("connection", "x"), ("te", "gzip"), ("upgrade", "x")]
    {
        let whole = frame(HEADERS, WHOLE, 1, &[get(&[]), field(name.as_bytes(), value.as_bytes())].concat());
        assert_malformed(&proxy, &format!("{name}: {value:?}"), &[whole]).await;
    }
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[("te", "trailers")]))).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
}

#[tokio::test]
async fn section_8_3_pseudo_fields() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let all = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
    for missing in [":method", ":scheme", ":path"] {
        let some: Vec<_> = all.iter().copied().filter(|field| field.0 != missing).collect();
        assert_malformed(&proxy, missing, &[frame(HEADERS, WHOLE, 1, &block(&some))]).await;
    }
    for twice in all {
        assert_malformed(&proxy, twice.0, &[frame(HEADERS, WHOLE, 1, &[block(&all), block(&[twice])].concat())]).await;
    }
    for path in ["", "x", "/x#y", "#", "/x y", "*"] {
        let list = all.map(|(name, value)| (name, if name == ":path" { path } else { value }));
        assert_malformed(&proxy, path, &[frame(HEADERS, WHOLE, 1, &block(&list))]).await;
    }
    for more in [(":x", "y"), (":status", "200")] {
        assert_malformed(&proxy, more.0, &[frame(HEADERS, WHOLE, 1, &[block(&all), block(&[more])].concat())]).await;
    }
    let behind = [block(&[("x", "y")]), block(&all)].concat();
    assert_malformed(&proxy, "behind a field", &[frame(HEADERS, WHOLE, 1, &behind)]).await;
}

#[tokio::test]
async fn section_8_1_trailers_have_no_pseudo_fields() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for name in [":path", ":method", ":x"] {
        let trailers = frame(HEADERS, WHOLE, 1, &block(&[("x", "y"), (name, "/")]));
        assert_malformed(&proxy, name, &[frame(HEADERS, OPEN, 1, &post(&[])), trailers]).await;
    }
}

/// The block of an answer that is a 431 alone: a literal with the static name `:status`.
const TOO_LARGE: [u8; 5] = [8, 3, b'4', b'3', b'1'];

#[tokio::test]
async fn section_10_5_1_two_heads_that_are_too_large_cost_their_streams_alone_and_the_third_the_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::connect(proxy.address).await;
    // A field enters the table behind what is too large: the next request names it.
    let mut large = get(&[("x-large", &"x".repeat(15_000))]);
    large.extend([&[0x40][..], &field(b"x-kept", b"yes")[1..]].concat());
    // Fields of 2 KiB, each an octet: 66 KiB.
    let mut bomb = get(&[]);
    bomb.extend([&[0x40][..], &field(b"x-bomb", &[b'b'; 2000])[1..]].concat());
    bomb.extend([0xbe; 33]);
    peer.send(&frame(HEADERS, WHOLE, 1, &bomb)).await;
    assert_eq!(peer.fate(1).await, Fate::Answered(TOO_LARGE.to_vec()));
    peer.send(&frame(HEADERS, WHOLE, 9, &large)).await;
    assert!(matches!(peer.fate(9).await, Fate::Answered(block) if block.first() == Some(&0x88)));
    peer.send(&frame(HEADERS, WHOLE, 11, &[get(&[]), vec![0xbe]].concat())).await;
    assert!(matches!(peer.fate(11).await, Fate::Answered(block) if block.first() == Some(&0x88)));
    eventually("the field", LIMIT, async || {
        (backend.received_text().matches("x-kept: yes").count() == 2).then_some(())
    })
    .await;
    assert!(!backend.received_text().contains("x-bomb"));
    // One with a body: the answer is whole, and the body is not wanted.
    peer.send(&frame(HEADERS, OPEN, 13, &bomb)).await;
    assert!(matches!(peer.fate(13).await, Fate::Answered(_)));
    peer.send(&frame(DATA, OPEN, 13, b"some of it")).await;
    let reset = peer.until(RST_STREAM).await.unwrap();
    assert_eq!((reset.stream, error_code(&reset.payload)), (13, 0));
    peer.send(&frame(HEADERS, WHOLE, 15, &bomb)).await;
    assert_eq!(peer.fate(15).await, Fate::Answered(TOO_LARGE.to_vec()));
    assert_eq!(peer.end().await, Some(11));
    assert_eq!(proxy.metric("weir_refused_total{reason=\"h2_heads\"}"), 1);
}

#[tokio::test]
async fn section_10_5_a_head_that_does_not_end_ends_the_connection() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.head = Duration::from_millis(300)).start();
    let mut peer = Peer::connect(proxy.address).await;
    // Beside a request that is under way, so that no idle limit ends it.
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    eventually("the request", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
    peer.send(&frame(HEADERS, END_STREAM, 3, &get(&[]))).await;
    assert_eq!(peer.end().await, Some(11));
    assert_eq!(proxy.metric("weir_refused_total{reason=\"head_timeout\"}"), 1);
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn section_10_5_stalled_answers_hold_little_and_their_endpoints_are_not_read() {
    // Endpoints that would send a mebibyte each.
    let body: &'static str = Box::leak("x".repeat(1 << 20).into_boxed_str());
    let backend = Backend::start(answering(body)).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::with_settings(proxy.address, &[(4, 0)]).await;
    for stream in (1..200).step_by(2) {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
    }
    let mut answered = 0;
    while answered < 100 {
        answered += usize::from(peer.until(HEADERS).await.is_some());
    }
    // Everybody is served meanwhile, also on the same connection once there is a window; and all of it comes.
    let window = u32::MAX >> 2;
    peer.send(&frame(8, 0, 0, &window.to_be_bytes())).await;
    peer.send(&frame(8, 0, 199, &window.to_be_bytes())).await;
    let mut length = 0;
    loop {
        let data = peer.until(DATA).await.unwrap();
        assert_eq!(data.stream, 199);
        length += data.payload.len();
        if data.flags & END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(length, 1 << 20);
}
