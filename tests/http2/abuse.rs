//! Hostile frames, as the rows of the threat table: each is answered as it must be, nothing of it reaches an endpoint, and
//! a well-behaved neighbour is served all the while.

use crate::client::{call, connect, get as get_request};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Fate, HEADERS, PING, PRIORITY, PROTOCOL_ERROR,
    Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, field, frame, get,
};
use crate::support::backend::{Backend, answering, silent};
use crate::support::eventually;
use crate::support::proxy::{Proxy, Setup};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const OPEN: u8 = END_HEADERS;
const WHOLE: u8 = END_HEADERS | END_STREAM;

/// Asserts that a neighbour on another connection is served.
async fn assert_neighbour(proxy: &Proxy) {
    let (mut send, _driver) = connect(proxy.address).await;
    let answer = call(&mut send, get_request("/neighbour"), None, None).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

fn refused(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}"))
}

/// A status that an answer's block begins with: an indexed one, or a literal of the static table's `:status`.
fn is_status(block: &[u8], status: u16) -> bool {
    match status {
        200 => block.first() == Some(&0x88),
        400 => block.first() == Some(&0x8c),
        404 => block.first() == Some(&0x8d),
        // Not in the static table: three digits, plain or in Huffman's code, behind a name's index.
        _ => !matches!(block.first(), Some(0x88..=0x8e)),
    }
}

#[tokio::test]
async fn malformed_requests_are_reset_and_never_forwarded() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let plain = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/evil")];
    let with = |more: &[(&str, &str)]| [block(&plain), block(more)].concat();
    let without = |name: &str| block(&plain.iter().copied().filter(|f| f.0 != name).collect::<Vec<_>>());
    let instead = |name: &'static str, value: &'static str| {
        block(&plain.map(|(known, old)| (known, if known == name { value } else { old })))
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an uppercase name", with(&[("X-Evil", "1")])),
        ("a blank in a name", with(&[("x evil", "1")])),
        ("a colon in a name", with(&[("x:evil", "1")])),
        ("an empty name", with(&[("", "1")])),
        ("CRLF in a name", with(&[("x\r\nevil", "1")])),
        ("CRLF in a value", with(&[("x-a", "1\r\nevil: 1")])),
        ("LF in a value", with(&[("x-a", "1\nevil: 1")])),
        ("NUL in a value", with(&[("x-a", "1\0evil")])),
        ("a blank before a value", with(&[("x-a", " evil")])),
        ("a blank after a value", with(&[("x-a", "evil\t")])),
        ("connection", with(&[("connection", "close")])),
        ("keep-alive", with(&[("keep-alive", "timeout=5")])),
        ("proxy-connection", with(&[("proxy-connection", "keep-alive")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("TE other than trailers", with(&[("te", "gzip")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("lengths that differ", with(&[("content-length", "0"), ("content-length", "1")])),
        ("a length that is no number", with(&[("content-length", "+0")])),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("an empty path", instead(":path", "")),
        ("a blank in a path", instead(":path", "/evil HTTP/1.1\r\nHost: b")),
        ("a path without its slash", instead(":path", "evil")),
        ("a control character in a path", instead(":path", "/evil\u{1}")),
        ("a path that can be read in two ways", instead(":path", "/a%2f..%2fevil")),
        ("a backslash in a path", instead(":path", "/a\\..\\evil")),
        ("an asterisk but no OPTIONS", instead(":path", "*")),
        ("a blank in a method", instead(":method", "GET /evil")),
        ("a blank in an authority", instead(":authority", "a b")),
        ("user information in an authority", instead(":authority", "u@evil.test")),
        ("an underscore in a name", with(&[("x_evil", "1")])),
        ("a path twice", with(&[(":path", "/evil2")])),
        ("an unknown pseudo-field", with(&[(":evil", "1")])),
        ("a status in a request", with(&[(":status", "200")])),
        ("a pseudo-field behind a field", [block(&[("x-a", "1")]), block(&plain)].concat()),
        ("another host than the authority", with(&[("host", "evil.test")])),
        ("two hosts", with(&[("host", "a.test"), ("host", "a.test")])),
        (":protocol without CONNECT", with(&[(":protocol", "websocket")])),
    ];
    for (what, head) in &cases {
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, WHOLE, 1, head)).await;
        let fate = peer.fate(1).await;
        let refused = fate == Fate::Reset(PROTOCOL_ERROR);
        assert!(refused || matches!(&fate, Fate::Answered(block) if is_status(block, 400)), "{what}: {fate:?}");
        // It is an error of the stream: the connection goes on. This one Weir answers itself.
        let connect = block(&[(":method", "CONNECT"), (":authority", "a.test:443")]);
        peer.send(&frame(HEADERS, WHOLE, 3, &connect)).await;
        assert!(matches!(peer.fate(3).await, Fate::Answered(_)), "{what}");
        assert!(!backend.received_text().contains("evil"), "{what}: {}", backend.received_text());
    }
    assert_eq!(backend.received_text(), "");
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn data_that_differs_from_the_length_ends_the_stream() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (what, data) in [("more", "0123456789"), ("less", "0")] {
        let mut peer = Peer::connect(proxy.address).await;
        let head = block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
            ("content-length", "5"),
        ]);
        peer.send(&frame(HEADERS, OPEN, 1, &head)).await;
        peer.send(&frame(DATA, END_STREAM, 1, data.as_bytes())).await;
        assert_eq!(peer.fate(1).await, Fate::Reset(PROTOCOL_ERROR), "{what}");
    }
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn trailers_that_are_malformed_end_the_stream() {
    let backend = Backend::start(silent()).await;
    let proxy = Proxy::over(&[backend.address]);
    let post = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]);
    for (what, flags, trailers) in [
        ("without END_STREAM", OPEN, block(&[("x-sum", "1")])),
        ("with CRLF", WHOLE, field(b"x-sum", b"1\r\n\r\nGET /evil HTTP/1.1")),
    ] {
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, OPEN, 1, &post)).await;
        peer.send(&frame(HEADERS, flags, 1, &trailers)).await;
        assert_eq!(peer.fate(1).await, Fate::Reset(PROTOCOL_ERROR), "{what}");
    }
    assert!(!backend.received_text().contains("evil"));
}

/// A stream of its own, and its reset.
fn in_vain(stream: u32) -> Vec<u8> {
    [frame(HEADERS, WHOLE, stream, &get(&[])), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
}

#[tokio::test]
async fn rapid_resets_are_calmed() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::connect(proxy.address).await;
    // A hundred are allowed in ten seconds.
    for stream in (1..).step_by(2).take(100) {
        peer.send(&in_vain(stream)).await;
    }
    peer.send(&frame(HEADERS, WHOLE, 201, &get(&[]))).await;
    assert!(matches!(peer.fate(201).await, Fate::Answered(block) if is_status(&block, 200)));
    peer.send(&in_vain(203)).await;
    assert_eq!((peer.end().await, refused(&proxy, "h2_resets")), (Some(ENHANCE_YOUR_CALM), 1));
    assert!(backend.connections() <= 102, "{}", backend.connections());
    assert_neighbour(&proxy).await;
}

/// As a flood that goes on whatever comes back.
#[tokio::test]
async fn a_flood_of_resets_is_calmed() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::connect(proxy.address).await;
    for stream in (1..2001).step_by(2) {
        if !peer.send(&in_vain(stream)).await {
            break;
        }
    }
    assert_eq!((peer.end().await, refused(&proxy, "h2_resets")), (Some(ENHANCE_YOUR_CALM), 1));
    assert!(backend.connections() <= 101, "{}", backend.connections());
    assert_neighbour(&proxy).await;
}

/// Too slow for any count within ten seconds: of more than two hundred streams, half may be in vain. The counts within ten
/// seconds are shown on the meter, whose clock is given to it; here they are kept out of the way by resets that are few.
#[tokio::test]
async fn more_than_half_of_many_streams_in_vain_are_calmed_however_slowly() {
    let backend = Backend::start(answering("fine")).await;
    // Ten in ten seconds, so of more than twenty streams at most half.
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.http2.resets = 10).start();
    let mut peer = Peer::connect(proxy.address).await;
    let mut streams = (1..).step_by(2);
    let mut one = async |peer: &mut Peer, vain: bool| {
        let stream = streams.next().unwrap();
        if vain {
            return peer.send(&in_vain(stream)).await;
        }
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
        assert!(matches!(peer.fate(stream).await, Fate::Answered(block) if is_status(&block, 200)), "{stream}");
        true
    };
    for _ in 0..10 {
        one(&mut peer, true).await;
        one(&mut peer, false).await;
    }
    assert_eq!(refused(&proxy, "h2_resets"), 0);
    // The first ten are long ago now.
    tokio::time::sleep(Duration::from_secs(11)).await;
    one(&mut peer, true).await;
    assert_eq!((peer.end().await, refused(&proxy, "h2_resets")), (Some(ENHANCE_YOUR_CALM), 1));
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn resets_of_requests_under_way_are_counted_too() {
    let backend = Backend::start(silent()).await;
    let proxy = Proxy::over(&[backend.address]);
    let mut peer = Peer::connect(proxy.address).await;
    for stream in (1..).step_by(2).take(101) {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
        eventually("the request", LIMIT, async || (proxy.in_flight() == 1).then_some(())).await;
        peer.send(&frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await;
        eventually("its end", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    }
    assert_eq!((peer.end().await, refused(&proxy, "h2_resets")), (Some(ENHANCE_YOUR_CALM), 1));
}

/// Streams beyond the bound are refused, and are work for nothing as those are that the client resets.
#[tokio::test]
async fn streams_that_are_refused_are_counted_as_resets_are() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.http2.streams = 3).start();
    let mut peer = Peer::connect(proxy.address).await;
    let octets: Vec<u8> = (1..).step_by(2).take(103).flat_map(|n| frame(HEADERS, WHOLE, n, &get(&[]))).collect();
    peer.send(&octets).await;
    assert_eq!(peer.fate(205).await, Fate::Reset(7));
    assert_eq!((refused(&proxy, "h2_streams"), refused(&proxy, "h2_calm")), (100, 0));
    peer.send(&frame(HEADERS, WHOLE, 207, &get(&[]))).await;
    assert_eq!((peer.end().await, refused(&proxy, "h2_calm")), (Some(ENHANCE_YOUR_CALM), 1));
    eventually("three connections", LIMIT, async || (backend.connections() == 3).then_some(())).await;
}

#[tokio::test]
async fn heads_in_too_many_pieces_end_the_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let piece = |flags, payload: &[u8]| frame(CONTINUATION, flags, 1, payload);
    let many: Vec<u8> = (0..100).flat_map(|i| piece(0, &field(format!("x-{i}").as_bytes(), b"1"))).collect();
    let hollow: Vec<u8> = (0..3).flat_map(|_| piece(0, b"")).collect();
    for pieces in [many, hollow] {
        let before = refused(&proxy, "h2_continuations");
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, END_STREAM, 1, &get(&[]))).await;
        peer.send(&pieces).await;
        assert_eq!(peer.end().await, Some(ENHANCE_YOUR_CALM));
        assert_eq!(refused(&proxy, "h2_continuations"), before + 1);
    }
    // A head in a few pieces is none of that.
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, END_STREAM, 1, &get(&[]))).await;
    peer.send(&[piece(0, &field(b"x-a", b"1")), piece(END_HEADERS, &field(b"x-b", b"1"))].concat()).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(block) if is_status(&block, 200)));
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn floods_of_control_frames_end_the_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let floods: [(&str, Vec<u8>); 7] = [
        ("PING", frame(PING, 0, 0, &[7; 8])),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())),
        ("an unknown kind", frame(0xbb, 0, 0, &[])),
        ("resets of no stream", frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())),
        ("empty DATA", frame(DATA, 0, 1, &[])),
    ];
    for (index, (what, octets)) in floods.into_iter().enumerate() {
        let mut peer = Peer::connect(proxy.address).await;
        if what == "empty DATA" {
            let post = block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]);
            peer.send(&frame(HEADERS, OPEN, 1, &post)).await;
        } else if what == "resets of no stream" {
            peer.send(&in_vain(1)).await;
        }
        let mut sent = 0;
        while sent < 200 && peer.send(&octets.repeat(100)).await {
            sent += 1;
        }
        assert_eq!(peer.end().await, Some(ENHANCE_YOUR_CALM), "{what}");
        assert_eq!(refused(&proxy, "h2_control_frames"), index as u64 + 1, "{what}");
        assert_neighbour(&proxy).await;
    }
}

#[tokio::test]
async fn a_bomb_of_fields_is_answered_431_or_ends_the_connection() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    // 60 fields of 2 KiB behind one entry of the dynamic table each time: 6 octets say 2 KiB.
    let mut bomb = get(&[]);
    bomb.extend([0x40]);
    bomb.extend(&field(b"x-evil", &[b'a'; 2000])[1..]);
    bomb.extend([0xbe; 60]);
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &bomb)).await;
    let fate = peer.fate(1).await;
    assert!(matches!(&fate, Fate::Answered(block) if is_status(block, 431)), "{fate:?}");
    // And one of thousands.
    bomb.extend([0xbe; 8000]);
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &bomb)).await;
    let fate = peer.fate(1).await;
    assert!(!matches!(&fate, Fate::Answered(block) if is_status(block, 200)), "{fate:?}");
    assert!(!backend.received_text().contains("evil"));
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn fields_and_crumbs_are_counted_while_they_are_short() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    for (what, name) in [("crumbs", "cookie"), ("fields", "x-evil")] {
        let many: Vec<_> = (0..200).map(|_| (name, "a")).collect();
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, WHOLE, 1, &get(&many))).await;
        let fate = peer.fate(1).await;
        assert!(matches!(&fate, Fate::Answered(block) if is_status(block, 431)), "{what}: {fate:?}");
        assert_eq!(refused(&proxy, "too_many_fields"), if name == "cookie" { 1 } else { 2 });
    }
    assert_eq!(backend.received_text(), "");
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn a_window_that_never_opens_is_cut_and_frees_the_endpoint() {
    let backend = Backend::start(answering("fine")).await;
    let setup = Setup::new(&[backend.address]);
    let proxy = setup.with(|s| s.options.timeouts.answer_window = Duration::from_millis(300)).start();
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    let mut peer = Peer::with_settings(proxy.address, &[(4, 0)]).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    assert!(matches!(peer.fate(1).await, Fate::Reset(_)));
    assert_eq!(refused(&proxy, "client_stalled"), 1);
    assert_eq!(proxy.in_flight(), 0);
    assert_neighbour(&proxy).await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_others_served() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.http2.streams = 3).start();
    let mut peer = Peer::connect(proxy.address).await;
    // Its settings must be there and be agreed to before they bind.
    peer.until(SETTINGS).await.unwrap();
    peer.send(&frame(SETTINGS, 1, 0, &[])).await;
    for stream in [1, 3, 5, 7] {
        peer.send(&frame(HEADERS, WHOLE, stream, &get(&[]))).await;
    }
    assert_eq!(peer.fate(7).await, Fate::Reset(7));
    eventually("the three", LIMIT, async || (proxy.in_flight() == 3).then_some(())).await;
}

#[tokio::test]
async fn connect_is_not_offered() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Proxy::over(&[backend.address]);
    let plain = block(&[(":method", "CONNECT"), (":authority", "evil.test:443")]);
    let other = block(&[
        (":method", "CONNECT"),
        (":protocol", "evil"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/"),
    ]);
    for head in [plain, other] {
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(&frame(HEADERS, OPEN, 1, &head)).await;
        let fate = peer.fate(1).await;
        assert!(matches!(&fate, Fate::Answered(block) if !is_status(block, 200)), "{fate:?}");
    }
    assert_eq!(backend.received_text(), "");
}

#[tokio::test]
async fn a_preface_that_is_none_or_comes_late_is_not_taken_for_one() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.head = Duration::from_millis(300)).start();
    let mut raw = crate::support::http::Raw::connect(proxy.address).await.unwrap();
    raw.send("PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n").await;
    assert!(!String::from_utf8_lossy(&raw.rest().await).contains("200"));
    let mut raw = crate::support::http::Raw::connect(proxy.address).await.unwrap();
    assert_eq!(raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 505);
    // Half a preface, and nothing more.
    let mut raw = crate::support::http::Raw::connect(proxy.address).await.unwrap();
    raw.send("PRI * HTTP/2.0\r\n\r\n").await;
    raw.rest().await;
    assert_neighbour(&proxy).await;
}
