//! SIGTERM of Weir under load: whatever it had read is answered.

use crate::support;
use crate::support::process::{Folder, Weir};
use crate::support::traffic::{Kind, Plan, Traffic};
use crate::web::{FULL, SETTLED, SHORT, Scale, World, loaded, services};
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

/// A connection that was made is served, also one that was made in the last moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_while_weir_ends_is_answered_or_refused() {
    let _loaded = loaded().await;
    let folder = Folder::new("last-moment-journal");
    for _ in 0..3 {
        let mut weir = Weir::start("last-moment", &services(1, &folder.0.join("journal").display().to_string())).await;
        weir.settled("web", 1, SETTLED).await;
        let traffic = Traffic::start(Plan { keepalive: 0, fresh: 64, ..Plan::new(weir.http) });
        support::eventually("GETs pass", Duration::from_secs(20), || async { (traffic.passed() >= 200).then_some(()) })
            .await;
        weir.signal("TERM").await;
        let status = support::within("weir ends", Duration::from_secs(60), weir.child.wait()).await.unwrap();
        let report = traffic.stop().await;
        println!("{}", report.line());
        assert!(status.success(), "{status}\n{}", weir.log());
        assert_eq!(report.failed(), report.of(Kind::Refused), "{:?}\n{}", report.failures, weir.log());
    }
}
