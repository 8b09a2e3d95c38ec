//! Calls of every kind, as their client and their endpoint see them.

use crate::endpoint::{Client, Endpoint, Messages, finish, send};
use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::sync::atomic::Ordering;
use std::time::Duration;
use weir::model::EndpointProtocol;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A proxy in front of HTTP/2 endpoints.
pub(crate) fn setup(endpoints: &[&Endpoint]) -> Setup {
    let addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
    Setup::new(&addresses).with(|s| s.spec.protocol = EndpointProtocol::Http2)
}

async fn one() -> (Endpoint, Proxy, Client) {
    let endpoint = Endpoint::start().await;
    let proxy = setup(&[&endpoint]).start();
    let client = Client::connect(proxy.address).await;
    (endpoint, proxy, client)
}

#[tokio::test]
async fn unary_client_and_server_streaming_end_with_their_status() {
    let (_endpoint, proxy, client) = one().await;
    let big = vec![7; 1 << 20];
    let unary = client.call("/last", None, &[&big]).await.unwrap();
    assert!(unary.status == "0" && unary.messages == [big]);
    let up = client.call("/last", None, &[b"a", b"b", b"c"]).await.unwrap();
    assert_eq!((up.status.as_str(), up.messages.as_slice()), ("0", &["c".into()][..]));
    let down = client.call("/count", None, &[&[1; 100]]).await.unwrap();
    assert_eq!((down.status.as_str(), down.messages.len()), ("0", 100));
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[tokio::test]
async fn messages_go_both_ways_in_turn_while_both_sides_are_open() {
    let (_endpoint, _proxy, client) = one().await;
    let (answer, mut stream) = client.begin("/echo", None).await.unwrap();
    send(&mut stream, b"0").await.unwrap();
    let mut messages = Messages::new(within("the head", LIMIT, answer).await.unwrap().into_body());
    for turn in 1..50u8 {
        let echoed = within("an echo", LIMIT, messages.next()).await.unwrap();
        assert_eq!(echoed.unwrap(), (turn - 1).to_string().as_bytes());
        send(&mut stream, turn.to_string().as_bytes()).await.unwrap();
    }
    stream.send_data(bytes::Bytes::new(), true).unwrap();
    assert_eq!(within("the last", LIMIT, messages.next()).await.unwrap().unwrap(), "49");
    assert_eq!(within("the end", LIMIT, messages.next()).await.unwrap(), None);
    assert_eq!(messages.status().await.unwrap().as_deref(), Some("0"));
}

#[tokio::test]
async fn a_status_without_a_message_passes_as_it_is() {
    let (_endpoint, _proxy, client) = one().await;
    let ended = client.call("/fail", None, &[b"x"]).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.messages.len()), ("9", 0));
}

#[tokio::test]
async fn a_call_past_its_own_deadline_is_told_so() {
    let (endpoint, proxy, client) = one().await;
    let ended = client.call("/never", Some("200m"), &[b"x"]).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("4", "grpc_timeout"));
    eventually("the endpoint's call", LIMIT, async || {
        (endpoint.seen.cancelled.load(Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    assert_eq!(proxy.in_flight(), 0);
}

#[tokio::test]
async fn a_call_past_its_deadline_inside_of_its_answer_is_told_so_in_the_trailers() {
    let (endpoint, proxy, client) = one().await;
    let (answer, mut stream) = client.begin("/echo", Some("400m")).await.unwrap();
    // A message of more than one window's octets of which the client takes all, then one that waits for an answer.
    let big = vec![7; 100_000];
    send(&mut stream, &big).await.unwrap();
    let ended = within("the end", LIMIT, async { finish(answer.await?).await }).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("4", "grpc_timeout"));
    assert_eq!(ended.messages, [big]);
    eventually("the endpoint's call", LIMIT, async || {
        (endpoint.seen.cancelled.load(Ordering::Relaxed) == 1).then_some(())
    })
    .await;
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_refused_total{reason=\"grpc_timeout\"}"), 1);
    // The client's connection and the endpoint's go on.
    assert_eq!(client.call("/last", None, &[b"y"]).await.unwrap().status, "0");
    assert_eq!(endpoint.seen.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_call_has_no_longer_than_its_service_gives() {
    let endpoint = Endpoint::start().await;
    let proxy = setup(&[&endpoint]).with(|s| s.spec.timeouts.request = Some(Duration::from_millis(300))).start();
    let client = Client::connect(proxy.address).await;
    for own in [None, Some("20S")] {
        let ended = client.call("/never", own, &[b"x"]).await.unwrap();
        assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("4", "request_timeout"));
    }
    let ended = client.call("/never", Some("100m"), &[b"x"]).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("4", "grpc_timeout"));
    let (answer, mut stream) = client.begin("/echo", None).await.unwrap();
    send(&mut stream, b"x").await.unwrap();
    let ended = within("the end", LIMIT, async { finish(answer.await?).await }).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("4", "request_timeout"));
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_call_past_its_deadline_whose_client_takes_nothing_is_reset() {
    let (endpoint, proxy, client) = one().await;
    let (answer, mut stream) = client.begin("/count", Some("300m")).await.unwrap();
    // 4 MB, and the client takes none of them: the trailers have no place on the stream.
    send(&mut stream, &[1; 2000]).await.unwrap();
    let answer = within("the head", LIMIT, answer).await.unwrap();
    let mut body = answer.into_body();
    eventually("the end", LIMIT, async || (endpoint.seen.cancelled.load(Ordering::Relaxed) == 1).then_some(())).await;
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    let end = within("the reset", LIMIT, async {
        loop {
            // Taken without giving the window back.
            match body.data().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("the stream ended in order: {:?}", body.trailers().await),
            }
        }
    })
    .await;
    assert_eq!(end.reason(), Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn what_weir_refuses_has_a_status_of_grpc() {
    let proxy = Setup::new(&[]).with(|s| s.path = "/app".into()).start();
    let client = Client::connect(proxy.address).await;
    for (path, status, reason) in
        [("/none", "12", "no_route"), ("/app", "14", "no_endpoint"), ("/a%00", "13", "target")]
    {
        let ended = client.call(path, None, &[b"x"]).await.unwrap();
        assert_eq!((ended.status.as_str(), ended.reason.as_str()), (status, reason));
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_is_given_up_at_the_endpoint() {
    let (endpoint, proxy, client) = one().await;
    let (answer, mut stream) = client.begin("/never", None).await.unwrap();
    send(&mut stream, b"x").await.unwrap();
    eventually("the call", LIMIT, async || (endpoint.calls() == 1).then_some(())).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    eventually("its end", LIMIT, async || (endpoint.seen.cancelled.load(Ordering::Relaxed) == 1).then_some(())).await;
    assert_eq!(proxy.in_flight(), 0);
    // The connection to the endpoint goes on.
    assert_eq!(client.call("/last", None, &[b"y"]).await.unwrap().status, "0");
    assert_eq!(endpoint.seen.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_quiet_stream_lives_as_long_as_its_idle_time_and_not_by_a_rate() {
    let endpoint = Endpoint::start().await;
    // A body would be cut after a pause of 200 ms, or below any rate.
    let proxy = setup(&[&endpoint])
        .with(|s| {
            s.options.timeouts.body_idle = Duration::from_millis(200);
            s.options.timeouts.body_min_bytes_per_second = 1 << 30;
        })
        .start();
    let client = Client::connect(proxy.address).await;
    let (answer, mut stream) = client.begin("/last", None).await.unwrap();
    eventually("the call", LIMIT, async || (endpoint.calls() == 1).then_some(())).await;
    // The pause is what is tested.
    tokio::time::sleep(Duration::from_millis(700)).await;
    send(&mut stream, b"late").await.unwrap();
    stream.send_data(bytes::Bytes::new(), true).unwrap();
    let ended = within("the answer", LIMIT, async { finish(answer.await?).await }).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.messages.len()), ("0", 1));
}
