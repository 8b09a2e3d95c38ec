//! HTTP/2 endpoints: connections shared by requests, GOAWAY and refusals, replicas that are replaced.

use crate::calls::{LIMIT, setup};
use crate::endpoint::{Client, Endpoint};
use crate::support::eventually;
use crate::support::http::Raw;
use std::sync::atomic::Ordering;
use tokio::task::JoinSet;

#[tokio::test]
async fn requests_share_a_connection_to_an_endpoint() {
    let endpoint = Endpoint::start().await;
    let proxy = setup(&[&endpoint]).start();
    let client = Client::connect(proxy.address).await;
    client.call("/last", None, &[b"first"]).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let client = client.clone();
        calls.spawn(async move { client.call("/last", None, &[b"x"]).await.unwrap().status });
    }
    while let Some(status) = calls.join_next().await {
        assert_eq!(status.unwrap(), "0");
    }
    assert_eq!((endpoint.calls(), endpoint.seen.connections.load(Ordering::Relaxed)), (51, 1));
}

#[tokio::test]
async fn an_http1_client_is_served_by_an_http2_endpoint() {
    let endpoint = Endpoint::start().await;
    let proxy = setup(&[&endpoint]).start();
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    for _ in 0..3 {
        let answer = raw
            .exchange("POST /last HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nConnection: te\r\nContent-Length: 6\r\n\r\n\0\0\0\0\x01x")
            .await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"\0\0\0\0\x01x"[..]), "{}", answer.head);
        assert!(answer.trailers.contains("grpc-status: 0"), "{}", answer.trailers);
    }
}

#[tokio::test]
async fn a_refused_stream_is_tried_elsewhere_though_it_is_a_post() {
    let (one, other) = (Endpoint::start().await, Endpoint::start().await);
    let proxy = setup(&[&one, &other]).start();
    let client = Client::connect(proxy.address).await;
    // Both refuse: the second refusal is what the client is told.
    let ended = client.call("/refuse", None, &[b"x"]).await.unwrap();
    assert_eq!((ended.status.as_str(), ended.reason.as_str()), ("14", "stream_refused"));
    assert_eq!(proxy.metric("weir_retries_total{outcome=\"allowed\",service=\"web\"}"), 1);
    assert_eq!(one.seen.connections.load(Ordering::Relaxed) + other.seen.connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_endpoint_that_goes_away_loses_no_call() {
    let endpoint = Endpoint::start().await;
    let proxy = setup(&[&endpoint]).start();
    let client = Client::connect(proxy.address).await;
    for round in 0..20 {
        assert_eq!(client.call("/last", None, &[b"x"]).await.unwrap().status, "0", "round {round}");
        endpoint.leave();
    }
    assert!(endpoint.seen.connections.load(Ordering::Relaxed) > 1);
}

/// Calls through three replicas while one is replaced by another.
async fn replaced(calls: usize) {
    let replicas = [Endpoint::start().await, Endpoint::start().await, Endpoint::start().await];
    let fourth = Endpoint::start().await;
    let [a, b, c] = &replicas;
    let mut proxy = setup(&[a, b, c]).start();
    let client = Client::connect(proxy.address).await;
    let mut running = JoinSet::new();
    for n in 0..calls {
        if running.len() >= 32 {
            assert_eq!(running.join_next().await.unwrap().unwrap(), "0");
        }
        if n == calls / 2 {
            proxy.publish(&[b.address, c.address, fourth.address]);
        }
        let client = client.clone();
        running.spawn(async move { client.call("/last", None, &[b"x"]).await.unwrap().status });
    }
    while let Some(status) = running.join_next().await {
        assert_eq!(status.unwrap(), "0");
    }
    let shares = [a, b, c, &fourth].map(Endpoint::calls);
    println!("{calls} calls: {shares:?}");
    assert_eq!(shares.iter().sum::<usize>(), calls);
    // Round robin, per call and not per connection.
    assert!(shares[1].abs_diff(shares[2]) <= calls / 50 && shares[1].abs_diff(calls / 3) <= calls / 50, "{shares:?}");
    assert!(shares[0] >= calls / 8 && shares[3] >= calls / 8, "{shares:?}");
    eventually("nothing in flight", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_panics_total"), 0);
}

#[tokio::test]
async fn no_call_fails_while_a_replica_is_replaced() {
    replaced(1000).await;
}

#[tokio::test]
#[ignore = "long: ten thousand calls"]
async fn no_call_of_ten_thousand_fails_while_a_replica_is_replaced() {
    replaced(10_000).await;
}
