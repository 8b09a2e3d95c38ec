//! Python's h2 as a client: `h2peer.py`.

use crate::program::{Keys, WAIT, Whoami, World, run};
use crate::support::within;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/h2peer.py");
/// Debian's Python, for which `tests/run` installs the package.
const PYTHON: &str = "/usr/bin/python3";

#[tokio::test]
async fn python_s_h2_does_whatever_a_client_may_do() {
    let (keys, whoami) = (Keys::new(), Whoami::start().await);
    let world = World::start(&keys, whoami.address, "", "").await;
    let address = world.weir.http.to_string();
    for case in ["priorities", "padding", "streams", "large", "window", "trailers", "expect"] {
        let said = run(PYTHON, &[SCRIPT, &address, case]).await;
        assert_eq!(said.lines().last(), Some(case), "{said}");
    }
    world.none_refused().await;
}

#[tokio::test]
async fn python_s_h2_is_told_of_a_drain_in_two_steps_and_loses_no_stream() {
    let (keys, whoami) = (Keys::new(), Whoami::start().await);
    let mut world = World::start(&keys, whoami.address, "", "").await;
    let mut client = Command::new(PYTHON)
        .args([SCRIPT, &world.weir.http.to_string(), "drain"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(within("its streams", WAIT, lines.next_line()).await.unwrap().as_deref(), Some("running"));
    // Five answers and an upload are under way: all six are at the endpoint.
    let flying = async || (world.weir.ready_instances("app").await[0]["in_flight"] == 6).then_some(());
    crate::support::eventually("its requests", WAIT, flying).await;
    world.weir.signal("TERM").await;
    let told = within("GOAWAY", WAIT, lines.next_line()).await.unwrap().unwrap_or_default();
    assert_eq!(told, format!("GOAWAY [{}, 11]", i32::MAX));
    assert!(within("its end", WAIT, client.wait()).await.unwrap().success());
    assert!(within("Weir's end", WAIT, world.weir.child.wait()).await.unwrap().success());
}
