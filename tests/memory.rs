#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
//! Memory of the whole process (threat row 48): connections go before requests, requests before the process.
//!
//! A program of its own: what other tests of the same process hold would be in its budget.

#[path = "support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Duration;
use support::backend::{Backend, answering};
use support::eventually;
use support::http::Raw;
use support::proxy::Setup;
use weir::sys::memory::Resident;

const LIMIT: Duration = Duration::from_secs(10);
/// Large beside what the process uses for the test itself.
const ROOM: u64 = 512 << 20;
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Holds so much more that the process has this share of the budget, in thousandths.
fn fill(budget: u64, thousandths: u64) -> Vec<u8> {
    let used = Resident::open().unwrap().bytes().unwrap();
    let wanted = budget / 1000 * thousandths;
    black_box(vec![1; usize::try_from(wanted.saturating_sub(used)).unwrap()])
}

#[tokio::test]
async fn near_the_budget_connections_are_reset_at_it_requests_are_refused_and_both_end() {
    let backend = Backend::start(answering("fine")).await;
    let budget = Resident::open().unwrap().bytes().unwrap() + ROOM;
    let proxy = Setup::new(&[backend.address]).with(|s| s.options.limits.memory_bytes = Some(budget)).start();
    let open = tokio::sync::Mutex::new(Raw::connect(proxy.address).await.unwrap());
    let ask = async || {
        let mut open = open.lock().await;
        open.send(GET).await;
        let answer = open.try_answer(false).await.unwrap();
        (answer.status, answer.field("weir-reason").map(str::to_owned), answer.field("retry-after").map(str::to_owned))
    };
    let shed = || proxy.metric("weir_connections_shed_total");
    let comes_in = async || {
        let mut raw = Raw::connect(proxy.address).await.ok()?;
        raw.try_send(GET).await?;
        raw.try_answer(false).await.ok().filter(|answer| answer.status == 200)
    };
    assert_eq!(ask().await.0, 200);

    // What is given back meanwhile is filled up again.
    let held = std::cell::RefCell::new(Vec::new());
    let reset = async || {
        held.borrow_mut().push(fill(budget, 965));
        comes_in().await.is_none().then_some(())
    };
    eventually("connections are reset", LIMIT, reset).await;
    assert!(shed() > 0);
    assert_eq!(ask().await.0, 200, "who is there is served");

    let refused = async || {
        held.borrow_mut().push(fill(budget, 995));
        (ask().await.0 == 503).then_some(())
    };
    eventually("requests are refused", LIMIT, refused).await;
    let (status, reason, after) = ask().await;
    assert_eq!((status, reason.as_deref(), after.is_some()), (503, Some("memory"), true));

    drop(held);
    eventually("all is as before", LIMIT, async || comes_in().await).await;
    assert_eq!(ask().await.0, 200, "the connection was kept");
    let before = shed();
    assert!(comes_in().await.is_some() && shed() == before);
}
