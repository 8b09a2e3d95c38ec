//! Endpoints that misbehave: what is tried again, what the client is told, what never happens twice.

use crate::support::backend::{self, Backend, Script, Step, answering, send};
use crate::support::http::Raw;
use crate::{front, one};
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn a_get_is_tried_at_another_endpoint_whatever_the_first_one_breaks() {
    let cases: [(&str, Script); 5] = [
        ("closing", backend::closing_before_answer()),
        ("resetting", backend::resetting_before_answer()),
        ("inside-head", backend::resetting_inside_head()),
        ("junk", backend::junk()),
        ("503", backend::status(503)),
    ];
    for (name, script) in cases {
        let (bad, good) = (Backend::start(script).await, Backend::start(answering("good")).await);
        let weir = front(name, &[bad.address, good.address], "", "").await;
        let mut raw = Raw::connect(weir.http).await.unwrap();
        for _ in 0..4 {
            assert_eq!(raw.exchange(GET).await.text(), "good", "{name}");
        }
        assert!(bad.connections() > 0, "{name}: round robin went to it first or second");
    }
}

#[tokio::test]
async fn a_post_that_may_have_been_executed_is_not_repeated() {
    let (bad, good) = (Backend::start(backend::closing_before_answer()).await, Backend::start(answering("good")).await);
    let weir = front("post", &[bad.address, good.address], "outliers = { enabled = false }", "").await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let (mut passed, mut failed) = (0, 0);
    for _ in 0..6 {
        let answer = raw.exchange(POST).await;
        match answer.status {
            200 => passed += 1,
            502 => failed += 1,
            other => panic!("{other}: {}", answer.head),
        }
    }
    assert_eq!((passed, failed), (3, 3));
    let posts = |b: &Backend| b.received_text().matches("POST / ").count();
    assert_eq!((posts(&bad), posts(&good)), (3, 3), "each was sent once");
}

#[tokio::test]
async fn a_post_is_tried_again_where_nothing_was_sent() {
    let good = Backend::start(answering("good")).await;
    let gone = Backend::start(answering("gone")).await;
    let weir = front("refused", &[gone.address, good.address], "", "").await;
    gone.refuse();
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for _ in 0..4 {
        assert_eq!(raw.exchange(POST).await.text(), "good");
    }
}

#[tokio::test]
async fn a_connection_that_the_endpoint_closed_while_idle_fails_nobody() {
    // Answers once and closes without saying so.
    let once = vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), Step::Close];
    let (weir, backend) = one("idle-close", once).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    for n in 0..10 {
        let request = if n % 2 == 0 { GET } else { POST };
        assert_eq!(raw.exchange(request).await.text(), "ok", "request {n}");
        // The close must have arrived at Weir: wait until the next connection is needed.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(backend.connections(), 10);
}

#[tokio::test]
async fn what_an_endpoint_may_not_send_is_502() {
    let cases: [(&str, Script); 4] = [
        ("junk-alone", backend::junk()),
        ("both-framings", backend::both_framings()),
        ("closing-alone", backend::closing_before_answer()),
        ("bad-field", vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nX : b\r\nContent-Length: 0\r\n\r\n"), Step::Close]),
    ];
    for (name, script) in cases {
        let (weir, _backend) = one(name, script).await;
        let mut raw = Raw::connect(weir.http).await.unwrap();
        let answer = raw.exchange(GET).await;
        assert_eq!(answer.status, 502, "{name}: {}", answer.head);
        assert!(answer.field("weir-reason").is_some(), "{name}");
    }
}

#[tokio::test]
async fn a_silent_endpoint_is_504_and_a_service_without_endpoints_503() {
    let (weir, _backend) = {
        let backend = Backend::start(backend::silent()).await;
        let weir = front("silent", &[backend.address], "timeouts = { response = \"200ms\" }", "").await;
        (weir, backend)
    };
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (504, Some("response_timeout")), "{}", answer.head);

    let weir = front("empty", &[], "", "").await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let answer = raw.exchange(GET).await;
    assert_eq!((answer.status, answer.field("weir-reason")), (503, Some("no_endpoint")), "{}", answer.head);
}

#[tokio::test]
async fn interim_answers_pass_and_a_flood_of_them_is_502() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let final_answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (weir, _backend) = one("hints", vec![Step::ReadHead, send(hints), send(final_answer), Step::Repeat]).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send(GET).await;
    let mut answer = raw.answer().await;
    if answer.status == 103 {
        answer = raw.answer().await;
    }
    assert_eq!(answer.text(), "ok");

    let (weir, _backend) =
        one("flood", vec![Step::ReadHead, send(&hints.repeat(40)), send(final_answer), Step::Repeat]).await;
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send(GET).await;
    let last = loop {
        match crate::support::within("an answer", Duration::from_secs(20), raw.try_answer(false)).await {
            Ok(answer) if answer.status == 103 => {}
            Ok(answer) => break Some(answer.status),
            Err(_) => break None,
        }
    };
    assert_ne!(last, Some(200), "row 32: at most 16 interim answers");
}
