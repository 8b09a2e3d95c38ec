//! SIGTERM of Weir under load: whatever it had read is answered.

use crate::support;
use crate::support::traffic::Kind;
use crate::web::{FULL, SHORT, Scale, World, loaded};
use std::time::Duration;

async fn sigterm_answers_what_was_read(scale: Scale) {
    let _loaded = loaded().await;
    let mut world = World::start("sigterm", scale).await;
    world.victim(scale.in_flight).await;
    world.weir.signal("TERM").await;
    // Refused connections say that the listener is closed; what was read before is still being answered.
    support::eventually("the listener is closed", Duration::from_secs(20), || async {
        (world.gets.report().of(Kind::Refused) > 0).then_some(())
    })
    .await;
    let status = support::within("weir ends", Duration::from_secs(60), world.weir.child.wait()).await.unwrap();
    let outcome = world.stop("SIGTERM").await;
    assert!(status.success(), "{status}\n{}", outcome.weir.log());
    for report in [&outcome.gets, &outcome.slow, &outcome.posts] {
        let refused = report.of(Kind::Refused);
        assert_eq!(report.failed(), refused, "only connections that were never accepted fail\n{:?}", report.failures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_fails_no_request_that_was_read() {
    sigterm_answers_what_was_read(SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: at 2,000 requests a second; run by tests/run --long"]
async fn sigterm_under_full_load_fails_no_request_that_was_read() {
    sigterm_answers_what_was_read(FULL).await;
}
