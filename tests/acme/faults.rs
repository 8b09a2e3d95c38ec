//! An authority that misbehaves, and a Weir that is killed in the middle of an order.

use crate::proxy::{Directory, Forwards};
use crate::{Pebble, WAIT, World, curl, leaf};

const NAME: &str = "shop.example.test";

/// A pebble behind a directory that misbehaves as told, and a Weir that orders there.
struct Trouble {
    directory: Directory,
    _pebble: Pebble,
    world: World,
    root: String,
}

impl Trouble {
    async fn start(name: &str, fault: &'static str) -> Self {
        let ports = Forwards::new().await;
        let pebble = Pebble::start(ports.http.port(), ports.https.port()).await;
        let directory = Directory::start(&pebble).await;
        directory.misbehave(fault);
        let tls = format!("acme = [\"{NAME}\"]\ninternal = [\"db.internal\"]");
        let world = World::start(name, Some((&directory.url(), &directory.root)), "", &tls).await;
        ports.lead_to(world.weir.http, world.https);
        let root = pebble.root().await;
        Self { directory, _pebble: pebble, world, root }
    }

    /// Waits until so many attempts in a row have failed; returns what is said of the name.
    async fn failed(&self, times: u64) -> serde_json::Value {
        crate::support::eventually("a failed attempt", WAIT, || async {
            let listed = self.world.certificate(NAME).await;
            (listed["failures"].as_u64() >= Some(times)).then_some(listed)
        })
        .await
    }

    async fn renew(&self) {
        assert_eq!(self.world.weir.cli(&["certificates", "renew", NAME]).await.code, 0);
    }

    /// Kills Weir and starts it again on the same store.
    async fn restart(&mut self) {
        self.world.weir.kill();
        self.world.weir.child.wait().await.unwrap();
        self.world.weir.respawn();
        self.world.weir.ready().await;
    }
}

#[tokio::test]
async fn a_failed_order_is_told_waits_and_takes_nothing_away() {
    let mut trouble = Trouble::start("acme-faults", "500").await;
    let listed = trouble.failed(1).await;
    assert!(listed["error"].as_str().is_some_and(|error| !error.is_empty()), "{listed}");
    assert_eq!(listed["issuer"], serde_json::Value::Null);
    // Neither listeners nor the other authority mind.
    let internal = trouble.world.weir.cli(&["certificates", "ca"]).await.out;
    assert_eq!(curl(&trouble.world, "db.internal", &internal).await, "fine");

    // A nonce that is refused is followed by another.
    trouble.directory.misbehave("nonce");
    trouble.renew().await;
    let shown = trouble.world.shown(NAME, &trouble.root).await;
    assert_eq!(trouble.world.certificate(NAME).await["failures"], 0);

    for (times, fault) in [(1, "500"), (2, "garbage"), (3, "close")] {
        trouble.directory.misbehave(fault);
        trouble.renew().await;
        trouble.failed(times).await;
        assert_eq!(leaf(trouble.world.https, NAME, &trouble.root).await.unwrap(), shown, "{fault}");
    }
    let line = "weir_certificate_orders_total{origin=\"acme\",result=\"failed\"}";
    assert!(trouble.world.metric(line).await >= 4);

    // It waits after a restart too, and what there was is served.
    let before = trouble.failed(3).await;
    let asked = trouble.directory.orders();
    trouble.directory.misbehave("");
    trouble.restart().await;
    let after = trouble.world.certificate(NAME).await;
    assert_eq!((&after["failures"], &after["error"]), (&before["failures"], &before["error"]), "{after}");
    assert_eq!(leaf(trouble.world.https, NAME, &trouble.root).await.unwrap(), shown);
    assert_eq!(trouble.directory.orders(), asked);
}

#[tokio::test]
async fn an_order_that_a_kill_broke_off_is_taken_up_and_not_placed_again() {
    let mut trouble = Trouble::start("acme-kill", "stall-finalize").await;
    for kills in 0..3 {
        crate::support::eventually("an order that stalls", WAIT, || async {
            (trouble.directory.stalled() > kills).then_some(())
        })
        .await;
        trouble.restart().await;
    }
    assert_eq!(trouble.directory.orders(), 1);
    trouble.directory.misbehave("");
    trouble.restart().await;
    trouble.world.shown(NAME, &trouble.root).await;
    assert_eq!(trouble.directory.orders(), 1, "four Weirs, one order");
}

#[tokio::test]
async fn a_certificate_is_renewed_when_the_authority_says() {
    let trouble = Trouble::start("acme-window", "window").await;
    let first = trouble.world.shown(NAME, &trouble.root).await;
    // The window that the directory tells of is over: at once.
    trouble.world.renewed(NAME, &trouble.root, &first).await;
}
