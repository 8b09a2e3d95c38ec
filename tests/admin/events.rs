//! The feed of events, as a list and live.

use crate::client::{change, eventually, get, request};
use crate::fixture::{Weir, start};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir::lifecycle::Phase;

/// A live feed: its raw text so far.
struct Live {
    stream: TcpStream,
    text: String,
}

impl Live {
    async fn open(weir: &Weir, headers: &[(&str, &str)]) -> Self {
        let mut stream = TcpStream::connect(weir.address).await.unwrap();
        stream.write_all(&request("GET", "/v1/events", headers, "")).await.unwrap();
        Self { stream, text: String::new() }
    }

    /// Reads until the text holds `part`.
    async fn until(&mut self, part: &str) -> &str {
        let mut buffer = [0; 4096];
        while !self.text.contains(part) {
            let read = tokio::time::timeout(Duration::from_secs(20), self.stream.read(&mut buffer)).await;
            let read = read.unwrap_or_else(|_| panic!("no {part:?} in {}", self.text)).unwrap();
            assert!(read > 0, "the feed ended without {part:?}: {}", self.text);
            self.text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        &self.text
    }
}

async fn register(weir: &Weir, id: &str) {
    let body = format!(r#"{{"id":"{id}","service":"web","address":"127.0.0.1","ports":[7001]}}"#);
    assert_eq!(change(weir.address, "POST", "/v1/instances", &body).await.status, 201);
}

#[tokio::test]
async fn the_list_has_generation_and_subject_of_each_event() {
    let weir = start("event-list").await;
    register(&weir, "web-one").await;
    let events = get(weir.address, "/v1/events?follow=false").await.json();
    let events = events["events"].as_array().unwrap();
    let last = events.iter().rfind(|event| event["instance"] == "web-one").unwrap();
    assert_eq!(last["service"], "web");
    assert!(last["generation"].as_u64().unwrap() > 0 && last["at_unix_ms"].as_u64().unwrap() > 1_700_000_000_000);
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(get(weir.address, "/v1/events?follow=maybe").await.code(), "invalid_request");
}

#[tokio::test]
async fn a_live_feed_starts_with_what_was_and_goes_on_with_what_comes() {
    let weir = start("event-feed").await;
    register(&weir, "web-before").await;
    let mut live = Live::open(&weir, &[]).await;
    let head = live.until("web-before").await.to_lowercase();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    register(&weir, "web-after").await;
    let text = live.until("web-after").await;
    assert!(text.contains("event: instance_registered") && text.contains("id: "), "{text}");
}

#[tokio::test]
async fn a_reader_that_resumes_gets_only_what_it_missed() {
    let weir = start("event-resume").await;
    register(&weir, "web-seen").await;
    let events = get(weir.address, "/v1/events?follow=false").await.json();
    let last = events["events"].as_array().unwrap().last().unwrap()["seq"].to_string();
    register(&weir, "web-missed").await;
    let mut live = Live::open(&weir, &[("last-event-id", &last)]).await;
    let text = live.until("web-missed").await;
    assert!(!text.contains("web-seen"), "{text}");
    // A number from another run of Weir: everything is news.
    let mut live = Live::open(&weir, &[("last-event-id", "999999")]).await;
    live.until("web-seen").await;
}

#[tokio::test]
async fn a_feed_ends_when_the_process_stops_and_gives_its_connection_back() {
    let weir = start("event-end").await;
    let mut feeds = Vec::new();
    for _ in 0..weir.connections {
        let mut live = Live::open(&weir, &[]).await;
        live.until("200 OK").await;
        feeds.push(live);
    }
    drop(feeds);
    eventually("the connections are free again", async || get(weir.address, "/livez").await.status == 200).await;
    let mut live = Live::open(&weir, &[]).await;
    live.until("200 OK").await;
    weir.trigger.raise(Phase::Stopping);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), live.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}
