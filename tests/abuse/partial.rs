//! Memory for heads that come in pieces (threat row 48): bounded for all connections together, and the greedy ones go.

use crate::support::backend::{Backend, answering};
use crate::support::eventually;
use crate::support::http::Raw;
use crate::support::proxy::Setup;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
const BUDGET: usize = 128 * 1024;

#[tokio::test]
async fn partial_heads_together_hold_no_more_than_the_budget() {
    let backend = Backend::start(answering("fine")).await;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.limits.partial_heads_bytes = BUDGET).start();
    let field = format!("X: {}\r\n", "x".repeat(4000));
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", field.repeat(8));
    let mut greedy = Vec::new();
    for _ in 0..16 {
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(&large).await;
        greedy.push(raw);
    }
    let refused = || proxy.metric("weir_refused_total{reason=\"head_memory\"}");
    // 16 times 32 KiB do not fit in 128 KiB.
    eventually("most are refused", LIMIT, async || (refused() >= 12).then_some(())).await;
    // A head in two pieces is small and served on.
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    raw.send("GET / HTTP/1.1\r\nHo").await;
    eventually("it is held", LIMIT, async || {
        let held = proxy.metric("weir_partial_head_bytes");
        (held > 0 && held <= BUDGET as u64 + 1024).then_some(())
    })
    .await;
    raw.send("st: a\r\n\r\n").await;
    assert_eq!(raw.try_answer(false).await.unwrap().text(), "fine");
    let mut statuses = Vec::new();
    for raw in greedy.iter_mut().rev().take(3) {
        let answer = raw.try_answer(false).await.unwrap();
        assert!(answer.closes());
        statuses.push((answer.status, answer.field("weir-reason").map(str::to_owned)));
    }
    assert!(
        statuses.iter().all(|(status, why)| (*status, why.as_deref()) == (503, Some("head_memory"))),
        "{statuses:?}"
    );
    // Requests that wait behind another count too; beyond the budget they are not read, and the answer says so.
    let mut raw = Raw::connect(proxy.address).await.unwrap();
    let whole = format!("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n{}", large.replace("GET /", "GET /2") + "\r\n");
    raw.send(&whole).await;
    let answer = raw.try_answer(false).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.closes()), ("fine", true));
    drop(greedy);
    eventually("nothing is held", LIMIT, async || (proxy.metric("weir_partial_head_bytes") == 0).then_some(())).await;
}
