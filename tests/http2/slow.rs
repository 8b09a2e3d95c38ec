//! Clients over HTTP/2 that take their time: every state of a connection and of a stream ends by a clock that frames
//! without use do not wind up again; and errors that a client makes the proxy make.

use crate::client::{call, connect, get as get_request};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Fate, HEADERS, Peer, RST_STREAM, WINDOW_UPDATE, block, frame, get,
};
use crate::support::backend::{Backend, Step, answering, send, silent};
use crate::support::eventually;
use crate::support::proxy::{Proxy, Setup};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);
const WHOLE: u8 = END_HEADERS | END_STREAM;

fn refused(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric(&format!("weir_refused_total{{reason=\"{reason}\"}}"))
}

async fn assert_neighbour(proxy: &Proxy) {
    let (mut send, _driver) = connect(proxy.address).await;
    assert_eq!(call(&mut send, get_request("/neighbour"), None, None).await.unwrap().status(), 200);
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

fn post() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/up")])
}

#[tokio::test]
async fn whoever_sends_no_head_half_a_head_or_nothing_more_is_let_go() {
    let backend = Backend::start(answering("fine")).await;
    let setup = Setup::new(&[backend.address]).with(|s| {
        s.options.timeouts.head = SHORT;
        s.options.timeouts.keepalive = SHORT;
    });
    let proxy = setup.start();
    let whole = frame(HEADERS, WHOLE, 1, &get(&[]));
    let half = frame(HEADERS, END_STREAM, 1, &get(&[]));
    let cases: [(&str, &[u8]); 4] =
        [("no head", b""), ("half a head", &half), ("half a frame", &whole[..12]), ("nothing more", &whole)];
    for (what, octets) in cases {
        let begun = Instant::now();
        let mut peer = Peer::connect(proxy.address).await;
        peer.send(octets).await;
        peer.end().await;
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: {:?}", begun.elapsed());
        assert_neighbour(&proxy).await;
    }
    // A second head that does not end is no longer waited for than the first.
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&whole).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    peer.send(&frame(HEADERS, END_STREAM, 3, &get(&[]))).await;
    let begun = Instant::now();
    peer.end().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_body_that_stops_or_drips_is_ended_and_its_connection_serves_on() {
    let backend = Backend::start(silent()).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.body_idle = SHORT).start();
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, END_HEADERS, 1, &post())).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_) | Fate::Reset(_)));
    assert_eq!(refused(&proxy, "body_timeout"), 1);
    assert_eq!(proxy.in_flight(), 0);
    // One octet at a time, far below the least pace: the grace of five seconds is all that it gets.
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.timeouts.body_idle = LIMIT).start();
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, END_HEADERS, 1, &post())).await;
    let begun = Instant::now();
    while refused(&proxy, "body_timeout") == 0 && begun.elapsed() < LIMIT {
        peer.send(&frame(DATA, 0, 1, b"x")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((4..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(matches!(peer.fate(1).await, Fate::Answered(_) | Fate::Reset(_)));
    assert_eq!(proxy.in_flight(), 0);
}

#[tokio::test]
async fn a_stream_has_the_time_of_a_request() {
    let head = send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    let dripping = Step::SendSlowly(vec![b'x'; 10_000], Duration::from_millis(20));
    let backend = Backend::start(vec![Step::ReadHead, head, dripping]).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.spec.timeouts.request = Some(SHORT)).start();
    let mut peer = Peer::connect(proxy.address).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    assert_eq!(peer.until(RST_STREAM).await.expect("a reset").stream, 1);
    eventually("the endpoint", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(refused(&proxy, "request_timeout"), 1);
    // Its connection serves on.
    peer.send(&frame(HEADERS, WHOLE, 3, &get(&[]))).await;
    assert!(matches!(peer.fate(3).await, Fate::Answered(_)));
}

/// 1 KiB a second, averaged over ten, with every limit at its default, whichever window it is that hardly opens; and who takes
/// twice as much is waited for.
#[tokio::test]
async fn a_window_that_is_opened_by_drips_does_not_hold_an_answer() {
    let backend = Backend::start(answering(&"x".repeat(1 << 20))).await;
    let proxy = Proxy::over(&[backend.address]);
    // The connection's window is 65,535 octets at first, so that the stream's is not in the way.
    let (_, _, mut peer) =
        tokio::join!(drip(&proxy, (4, 0), 1, 1), drip(&proxy, (4, 1 << 20), 0, 90), drip(&proxy, (4, 0), 1, 205),);
    assert_eq!((refused(&proxy, "client_stalled"), proxy.in_flight()), (2, 1));
    peer.send(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes())).await;
    peer.send(&frame(WINDOW_UPDATE, 0, 1, &(1u32 << 20).to_be_bytes())).await;
    while peer.until(DATA).await.expect("the end of the answer").flags & END_STREAM == 0 {}
}

/// Asks, with a setting, and opens the window of a stream by so many octets ten times a second until two streams were given
/// up. Asserts which: one below the pace.
async fn drip(proxy: &Proxy, setting: (u16, u32), stream: u32, octets: u32) -> Peer {
    let mut peer = Peer::with_settings(proxy.address, &[setting]).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    assert!(matches!(peer.fate(1).await, Fate::Answered(_)));
    let begun = Instant::now();
    while refused(proxy, "client_stalled") < 2 && begun.elapsed() < LIMIT * 2 {
        peer.send(&frame(WINDOW_UPDATE, 0, stream, &octets.to_be_bytes())).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // In the first ten seconds what buffers take at once may count.
    let passed = begun.elapsed();
    assert!((Duration::from_millis(9800)..Duration::from_secs(26)).contains(&passed), "{passed:?}");
    if octets < 100 {
        assert_eq!(peer.until(RST_STREAM).await.expect("a reset").stream, 1);
    }
    peer
}

/// Windows that are wide open, and a socket that nobody reads.
#[tokio::test]
async fn a_connection_that_is_not_read_is_ended() {
    let backend = Backend::start(answering(&"x".repeat(16 << 20))).await;
    let setup = Setup::new(&[backend.address]);
    let proxy = setup.with(|s| s.options.timeouts.answer_window = Duration::from_secs(1)).start();
    let mut peer = Peer::narrow(proxy.address, &[(4, 1 << 30)]).await;
    peer.send(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes())).await;
    peer.send(&frame(HEADERS, WHOLE, 1, &get(&[]))).await;
    eventually("its end", LIMIT, async || (refused(&proxy, "h2_stalled") == 1).then_some(())).await;
    eventually("the endpoint", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    while peer.next().await.is_some() {}
    let (mut send, _driver) = connect(proxy.address).await;
    assert_eq!(call(&mut send, get_request("/"), None, None).await.unwrap().body.len(), 16 << 20);
}

/// MadeYouReset (CVE-2025-8671): the client breaks a rule on each stream, so that the proxy is the one that resets.
#[tokio::test]
async fn errors_that_a_client_provokes_are_calmed_as_its_own_resets_are() {
    let most = (1u32 << 31) - 1;
    let provocations: [(&str, u8, Vec<u8>); 3] = [
        ("a window that is too large", WINDOW_UPDATE, most.to_be_bytes().to_vec()),
        ("an increment of nothing", WINDOW_UPDATE, vec![0; 4]),
        ("data behind the end", DATA, b"evil".to_vec()),
    ];
    for (what, kind, payload) in provocations {
        let backend = Backend::start(silent()).await;
        let proxy = Proxy::over(&[backend.address]);
        let mut peer = Peer::connect(proxy.address).await;
        for stream in (1..4001).step_by(2) {
            let octets = [frame(HEADERS, WHOLE, stream, &get(&[])), frame(kind, 0, stream, &payload)].concat();
            if !peer.send(&octets).await {
                break;
            }
        }
        // A hundred in ten seconds, as for the client's own resets; the one after that is the last.
        assert_eq!((peer.end().await, refused(&proxy, "h2_calm")), (Some(ENHANCE_YOUR_CALM), 1), "{what}");
        eventually(what, LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
        assert!(backend.connections() <= 101, "{what}: {} of 2,000 reached the endpoint", backend.connections());
        assert!(!backend.received_text().contains("evil"), "{what}");
        assert_eq!(proxy.metric("weir_panics_total"), 0);
    }
}
