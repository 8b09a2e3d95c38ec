//! Certificates for private names.

use crate::{World, connect, curl};

#[tokio::test]
async fn private_names_have_certificates_from_the_first_connection_on() {
    let mut world = World::start("internal", None, "", "internal = [\"db.internal\", \"cache\"]").await;
    let root = world.weir.cli(&["certificates", "ca"]).await.out;
    for name in ["db.internal", "cache"] {
        assert_eq!(curl(&world, name, &root).await, "fine", "{name}");
    }
    let first = crate::leaf(world.https, "db.internal", &root).await.unwrap();
    assert_eq!(world.weir.cli(&["certificates", "renew", "DB.internal"]).await.code, 0);
    let second = world.renewed("db.internal", &root, &first).await;
    // The root and what it issued outlive Weir.
    world.weir.kill();
    world.weir.child.wait().await.unwrap();
    world.weir.respawn();
    world.weir.ready().await;
    assert_eq!(world.weir.cli(&["certificates", "ca"]).await.out, root);
    assert_eq!(crate::leaf(world.https, "db.internal", &root).await.unwrap(), second);
    let listed = world.certificate("cache").await;
    let hours = (listed["not_after_unix_ms"].as_u64().unwrap() - listed["next_unix_ms"].as_u64().unwrap()) / 3_600_000;
    assert!((7..=8).contains(&hours), "renewed {hours} h before the end of a day: {listed}");
    assert!(connect(world.https, "db.internal", &root).await.is_ok());
}

#[tokio::test]
async fn a_reload_brings_names_and_takes_them_away() {
    let world = World::start("internal-reload", None, "", "internal = [\"a.internal\"]").await;
    let root = world.weir.cli(&["certificates", "ca"]).await.out;
    assert_eq!(curl(&world, "a.internal", &root).await, "fine");
    let file = world.weir.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("internal = [\"a.internal\"]", "internal = [\"b.internal\"]")).unwrap();
    let reload = world.weir.cli(&["reload"]).await;
    assert_eq!(reload.code, 0, "{reload:?}");
    world.shown("b.internal", &root).await;
    assert!(crate::leaf(world.https, "a.internal", &root).await.is_err());
    assert_eq!(world.certificate("a.internal").await["wanted"], false);
}

#[tokio::test]
async fn without_private_names_there_is_no_authority() {
    let world = World::start("internal-none", None, "", "internal = [\"a.internal\"]").await;
    let file = world.weir.folder.0.join("weir.toml");
    assert_eq!(world.weir.cli(&["certificates", "ca"]).await.code, 0);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("internal = [\"a.internal\"]", "acme = [\"a.example.test\"]")).unwrap();
    let reload = world.weir.cli(&["reload"]).await;
    assert_eq!(reload.code, 2, "{reload:?}");
    assert!(reload.err.contains("there is no authority"), "{reload:?}");
}
