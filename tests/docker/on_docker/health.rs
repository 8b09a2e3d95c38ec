//! An image's own check decides where the service configures none.

use crate::engine::Engine;
use crate::support;
use crate::support::process::Weir;
use crate::world::{SETTLED, odd, preface, service};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthcheck_of_the_image_is_used_when_no_check_is_configured() {
    let engine = Engine::start();
    let check = |status: u8| {
        format!("HEALTHCHECK --interval=200ms --timeout=5s --retries=1 CMD [\"/tool\", \"exit\", \"{status}\"]")
    };
    engine.import("well:1", &[&check(0)]);
    engine.import("ill:1", &[&check(1)]);
    let services = [service("web", 1, ""), odd("well", "well:1", ""), odd("ill", "ill:1", "")];
    let weir = Weir::start("healthcheck", &format!("{}{}", preface(&engine), services.concat())).await;
    let well = weir.settled("well", 1, SETTLED).await;
    assert_eq!(well[0]["reason"], "HEALTHCHECK: healthy");
    let ill = support::eventually("an unhealthy container", SETTLED, || async {
        let all = weir.instances().await;
        all.into_iter().find(|one| one["service"] == "ill" && one["reason"] == "HEALTHCHECK: unhealthy")
    })
    .await;
    assert_eq!(ill["state"], "starting", "it listens, but its own check fails");
    assert_eq!(engine.inspect(ill["id"].as_str().unwrap(), "{{.State.Health.Status}}"), "unhealthy");
}
