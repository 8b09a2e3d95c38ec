//! HTTP/2 endpoints whose answers are malformed, doubled, too large or cut: nobody gets anything of them.

use crate::client::{call, connect, get};
use crate::frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, block, field, frame};
use crate::support::http::Raw;
use crate::support::proxy::{Proxy, Setup};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir::model::EndpointProtocol;

const WHOLE: u8 = END_HEADERS | END_STREAM;

/// An endpoint that says the same on each stream, of which `answer` makes the frames.
async fn saying(answer: impl Fn(u32) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                stream.read_exact(&mut [0; 24]).await?;
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
                loop {
                    let mut head = [0; 9];
                    stream.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    stream.read_exact(&mut vec![0; length]).await?;
                    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    match head[3] {
                        HEADERS => stream.write_all(&answer(number)).await?,
                        SETTINGS if head[4] == 0 => stream.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
                        _ => {}
                    }
                }
                #[allow(unreachable_code, reason = "tells the type of the error")]
                std::io::Result::Ok(())
            });
        }
    });
    address
}

fn before(endpoint: SocketAddr) -> Proxy {
    let setup = Setup::new(&[endpoint]).with(|s| {
        s.spec.protocol = EndpointProtocol::Http2;
        s.spec.retries = 0;
    });
    setup.start()
}

/// A whole head.
fn head(fields: Vec<u8>) -> impl Fn(u32) -> Vec<u8> + Send + Sync + 'static {
    move |stream| frame(HEADERS, WHOLE, stream, &fields)
}

#[tokio::test]
async fn a_malformed_head_of_an_http2_endpoint_is_a_502() {
    let ok = || block(&[(":status", "200")]);
    let with = |name: &[u8], value: &[u8]| [ok(), field(name, value)].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no status", block(&[("x-a", "evil")])),
        ("a status twice", block(&[(":status", "200"), (":status", "200"), ("x-a", "evil")])),
        ("a status of two digits", block(&[(":status", "20"), ("x-a", "evil")])),
        ("a status that is no number", block(&[(":status", "evil")])),
        ("a status behind a field", block(&[("x-a", "evil"), (":status", "200")])),
        ("101, which HTTP/2 has not", block(&[(":status", "101"), ("x-a", "evil")])),
        ("an uppercase name", with(b"X-Evil", b"evil")),
        ("a blank in a name", with(b"x evil", b"evil")),
        ("an empty name", with(b"", b"evil")),
        ("CRLF in a value", with(b"x-a", b"1\r\nset-cookie: evil")),
        ("LF in a value", with(b"x-a", b"1\nset-cookie: evil")),
        ("NUL in a value", with(b"x-a", b"evil\0")),
        ("CRLF in a name", with(b"x-a: 1\r\nevil", b"1")),
        ("connection", with(b"connection", b"evil")),
        ("transfer-encoding", with(b"transfer-encoding", b"evil")),
        ("a path", with(b":path", b"/evil")),
        ("an indexed path", [ok(), vec![0x84], field(b"x-a", b"evil")].concat()),
        ("an authority", with(b":authority", b"evil")),
        ("a method", with(b":method", b"EVIL")),
        ("a scheme", with(b":scheme", b"evil")),
        ("a protocol", with(b":protocol", b"evil")),
        ("an unknown pseudo-field", with(b":evil", b"1")),
        ("lengths that differ", [with(b"content-length", b"0"), field(b"content-length", b"4")].concat()),
        ("a length that is no number", with(b"content-length", b"+0evil")),
    ];
    for (what, fields) in cases {
        let proxy = before(saying(head(fields)).await);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let answer = raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(answer.status, 502, "{what}: {}", answer.head);
        assert!(!answer.head.contains("evil"), "{what}: {}", answer.head);
        assert_eq!(answer.field("weir-reason"), Some("bad_response"), "{what}");
        assert_eq!(proxy.metric("weir_refused_total{reason=\"bad_response\"}"), 1, "{what}");
        assert_eq!((proxy.in_flight(), proxy.metric("weir_panics_total")), (0, 0), "{what}");
    }
}

#[tokio::test]
async fn a_head_without_end_a_flood_of_interim_answers_and_data_without_a_head_are_a_502() {
    let many = |stream| {
        let fields: Vec<u8> = [block(&[(":status", "200")]), block(&[("x-evil", "1")]).repeat(3000)].concat();
        let mut pieces = fields.chunks(8000);
        let mut octets = frame(HEADERS, END_STREAM, stream, pieces.next().unwrap());
        for piece in pieces {
            octets.extend(frame(CONTINUATION, 0, stream, piece));
        }
        octets.extend(frame(CONTINUATION, END_HEADERS, stream, &[]));
        octets
    };
    let interim = |stream| {
        let hint = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "103"), ("link", "</a>")]));
        [hint.repeat(100), frame(HEADERS, WHOLE, stream, &block(&[(":status", "200"), ("x-evil", "1")]))].concat()
    };
    let headless = |stream| frame(DATA, END_STREAM, stream, b"evil");
    let reset = |stream| frame(RST_STREAM, 0, stream, &1u32.to_be_bytes());
    let endpoints = [
        ("many fields", saying(many).await),
        ("interim answers", saying(interim).await),
        ("data", saying(headless).await),
    ];
    for (what, endpoint) in endpoints.into_iter().chain([("a reset", saying(reset).await)]) {
        let proxy = before(endpoint);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        let mut answer = raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut hints = 0;
        while answer.status == 103 {
            hints += 1;
            answer = raw.answer().await;
        }
        assert!(answer.status == 502 && hints <= 16, "{what}: {hints} hints, {}", answer.head);
        assert!(!answer.head.contains("evil") && !answer.text().contains("evil"), "{what}");
    }
}

#[tokio::test]
async fn a_body_that_differs_from_its_length_or_is_reset_never_ends_cleanly() {
    let with_length =
        |stream| frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200"), ("content-length", "10")]));
    let short = move |stream| [with_length(stream), frame(DATA, END_STREAM, stream, b"four")].concat();
    let long = move |stream| [with_length(stream), frame(DATA, END_STREAM, stream, b"far too many")].concat();
    let cut = move |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        [head, frame(DATA, 0, stream, b"four"), frame(RST_STREAM, 0, stream, &2u32.to_be_bytes())].concat()
    };
    let bad_trailers = move |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        let trailers = frame(HEADERS, WHOLE, stream, &field(b"x-sum", b"1\r\nevil: 1"));
        [head, frame(DATA, 0, stream, b"four"), trailers].concat()
    };
    let status_in_trailers = move |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        let trailers = frame(HEADERS, WHOLE, stream, &block(&[(":status", "200"), ("x-sum", "evil")]));
        [head, frame(DATA, 0, stream, b"four"), trailers].concat()
    };
    // The head leaves its status in the endpoint's table, and the trailers have nothing but its place.
    let remembered_in_trailers = move |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &[&[0x48, 3][..], b"201", &[0x40, 1, b'x', 1, b'1']].concat());
        let trailers = [&[0xbf][..], &block(&[("x-sum", "evil")])].concat();
        [head, frame(DATA, 0, stream, b"four"), frame(HEADERS, WHOLE, stream, &trailers)].concat()
    };
    let path_in_trailers = move |stream| {
        let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        [head, frame(DATA, 0, stream, b"four"), frame(HEADERS, WHOLE, stream, &block(&[(":path", "/evil")]))].concat()
    };
    let endpoints = [
        ("a status in trailers", saying(status_in_trailers).await),
        ("a status that is only remembered in trailers", saying(remembered_in_trailers).await),
        ("a path in trailers", saying(path_in_trailers).await),
        ("too little", saying(short).await),
        ("too much", saying(long).await),
        ("a reset", saying(cut).await),
        ("malformed trailers", saying(bad_trailers).await),
    ];
    for (what, endpoint) in endpoints {
        let proxy = before(endpoint);
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
        let answer = crate::support::within(what, std::time::Duration::from_secs(20), raw.try_answer(false)).await;
        match answer {
            // Seen before anything was passed on.
            Ok(answer) => assert_eq!(answer.status, 502, "{what}: {}", answer.head),
            Err(broken) => assert!(!format!("{broken:?}").contains("evil"), "{what}: {broken:?}"),
        }
        // Over HTTP/2: a 502, or its stream is reset.
        let (mut send, _driver) = connect(proxy.address).await;
        if let Ok(answer) = call(&mut send, get("/"), None, None).await {
            assert_eq!(answer.status(), 502, "{what}: {answer:?}");
        }
        let settled = async || (proxy.in_flight() == 0).then_some(());
        crate::support::eventually(what, std::time::Duration::from_secs(20), settled).await;
        let of = |reason| proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}"));
        if what.contains(" in trailers") {
            assert_eq!(of("bad_response") + of("truncated"), 2, "{what}");
        }
        assert_eq!(proxy.metric("weir_panics_total"), 0, "{what}");
    }
}
