//! HTTP/2 endpoints frame by frame: silence, GOAWAY, refusals.

use crate::frames::{ACK, CANCEL, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING, Peer, REFUSED, RST_STREAM, frame};
use crate::support::backend::{Backend, answering};
use crate::support::http::{Answer, Raw};
use crate::support::proxy::{Proxy, Setup};
use crate::support::within;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use weir::model::EndpointProtocol;

const LIMIT: Duration = Duration::from_secs(20);
/// Silence until an endpoint is asked.
const QUIET: Duration = Duration::from_millis(600);
/// A connection is looked at twice a second; the rest is for a busy machine.
const LATE: Duration = Duration::from_secs(4);

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

fn before(listeners: &[&TcpListener]) -> Proxy {
    let addresses: Vec<SocketAddr> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    Setup::new(&addresses)
        .with(|s| {
            s.spec.protocol = EndpointProtocol::Http2;
            s.spec.timeouts.ping = QUIET;
        })
        .start()
}

/// Sends a request of a method on a connection of its own.
fn ask(proxy: &Proxy, method: &str) -> JoinHandle<Answer> {
    let (address, request) =
        (proxy.address, format!("{method} / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n"));
    tokio::spawn(async move { Raw::connect(address).await.unwrap().exchange(request).await })
}

async fn answer(asked: JoinHandle<Answer>) -> (u16, Option<String>) {
    let answer = within("an answer", LIMIT, asked).await.unwrap();
    (answer.status, answer.field("weir-reason").map(str::to_owned))
}

fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// Reads the next request's head; returns its stream.
async fn head(peer: &mut Peer) -> u32 {
    peer.until(HEADERS).await.expect("a request").stream
}

#[tokio::test]
async fn a_silent_endpoint_is_asked_by_ping_and_then_given_up() {
    let listener = listen().await;
    let proxy = before(&[&listener]);
    let began = Instant::now();
    let asked = ask(&proxy, "POST");
    let mut peer = Peer::accept(&listener, &[]).await;
    head(&mut peer).await;
    let ping = peer.until(PING).await.expect("a PING");
    assert_eq!((ping.flags, ping.stream, ping.payload.len()), (0, 0, 8));
    assert!(began.elapsed() >= QUIET, "{:?}", began.elapsed());
    // It may have been processed: a POST is not sent again.
    assert_eq!(answer(asked).await, (502, Some("upstream_reset".to_owned())));
    assert!((2 * QUIET..2 * QUIET + LATE).contains(&began.elapsed()), "{:?}", began.elapsed());
    while peer.next().await.is_some() {}
    // The next request does not wait for that connection.
    let asked = ask(&proxy, "POST");
    let mut peer = Peer::accept(&listener, &[]).await;
    let stream = head(&mut peer).await;
    peer.fine(stream).await;
    assert_eq!(answer(asked).await, (200, None));
}

#[tokio::test]
async fn what_may_be_sent_twice_goes_elsewhere_when_an_endpoint_is_silent() {
    let (dead, alive) = (listen().await, listen().await);
    let proxy = before(&[&dead, &alive]);
    // Round robin: one of two requests goes to each.
    let asked = [ask(&proxy, "GET"), ask(&proxy, "GET")];
    let mut silent = Peer::accept(&dead, &[]).await;
    head(&mut silent).await;
    let mut peer = Peer::accept(&alive, &[]).await;
    for _ in 0..2 {
        let stream = head(&mut peer).await;
        peer.fine(stream).await;
    }
    for asked in asked {
        assert_eq!(answer(asked).await, (200, None));
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_its_pings_may_take_its_time_and_is_asked_three_times() {
    let listener = listen().await;
    let proxy = before(&[&listener]);
    let asked = ask(&proxy, "POST");
    let mut peer = Peer::accept(&listener, &[]).await;
    let stream = head(&mut peer).await;
    for _ in 0..3 {
        let ping = peer.until(PING).await.expect("a PING");
        peer.send(&frame(PING, ACK, 0, &ping.payload)).await;
    }
    // The pause is what is tested: gRPC servers end a connection that asks a fourth time within five minutes.
    let more = tokio::time::timeout(QUIET * 5, peer.until(PING)).await;
    assert!(more.is_err(), "{more:?}");
    peer.fine(stream).await;
    assert_eq!(answer(asked).await, (200, None));
}

#[tokio::test]
async fn an_endpoint_that_falls_silent_after_an_answered_ping_is_asked_again_and_given_up() {
    let listener = listen().await;
    let proxy = before(&[&listener]);
    let asked = ask(&proxy, "POST");
    let mut peer = Peer::accept(&listener, &[]).await;
    head(&mut peer).await;
    let ping = peer.until(PING).await.expect("a PING");
    peer.send(&frame(PING, ACK, 0, &ping.payload)).await;
    peer.until(PING).await.expect("another PING");
    assert_eq!(answer(asked).await, (502, Some("upstream_reset".to_owned())));
    while peer.next().await.is_some() {}
}

#[tokio::test]
async fn streams_behind_the_last_one_of_a_goaway_are_sent_again_and_the_others_go_on() {
    for code in [0, ENHANCE_YOUR_CALM] {
        let listener = listen().await;
        let proxy = before(&[&listener]);
        let first = ask(&proxy, "POST");
        let mut old = Peer::accept(&listener, &[]).await;
        assert_eq!(head(&mut old).await, 1);
        let second = ask(&proxy, "POST");
        assert_eq!(head(&mut old).await, 3);
        old.send(&goaway(1, code)).await;
        // The only endpoint: on a new connection.
        let mut new = Peer::accept(&listener, &[]).await;
        let stream = head(&mut new).await;
        new.fine(stream).await;
        assert_eq!(answer(second).await, (200, None), "code {code}");
        // Who comes after it goes there too.
        let third = ask(&proxy, "POST");
        let stream = head(&mut new).await;
        new.fine(stream).await;
        assert_eq!(answer(third).await, (200, None), "code {code}");
        old.fine(1).await;
        assert_eq!(answer(first).await, (200, None), "code {code}");
    }
}

#[tokio::test]
async fn a_refused_stream_of_a_kept_connection_is_sent_again_to_the_only_endpoint() {
    let listener = listen().await;
    let proxy = before(&[&listener]);
    let first = ask(&proxy, "POST");
    let mut kept = Peer::accept(&listener, &[]).await;
    let stream = head(&mut kept).await;
    kept.fine(stream).await;
    assert_eq!(answer(first).await, (200, None));
    let second = ask(&proxy, "POST");
    let stream = head(&mut kept).await;
    kept.send(&frame(RST_STREAM, 0, stream, &REFUSED.to_be_bytes())).await;
    let mut new = Peer::accept(&listener, &[]).await;
    let stream = head(&mut new).await;
    new.fine(stream).await;
    assert_eq!(answer(second).await, (200, None));
    assert_eq!(proxy.metric("weir_retries_total{outcome=\"allowed\",service=\"web\"}"), 1);
}

#[tokio::test]
async fn a_stream_that_is_reset_otherwise_may_have_been_processed() {
    let (one, other) = (listen().await, listen().await);
    let proxy = before(&[&one, &other]);
    let asked = ask(&proxy, "POST");
    let mut peer = tokio::select! {
        peer = Peer::accept(&one, &[]) => peer,
        peer = Peer::accept(&other, &[]) => peer,
    };
    let stream = head(&mut peer).await;
    peer.send(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())).await;
    assert_eq!(answer(asked).await, (502, Some("upstream_reset".to_owned())));
}

#[tokio::test]
async fn an_endpoint_that_speaks_http1_is_no_answer() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.spec.protocol = EndpointProtocol::Http2).start();
    let (status, reason) = answer(ask(&proxy, "POST")).await;
    assert!(status == 502 && reason.as_deref() == Some("bad_response"), "{status} {reason:?}");
}
