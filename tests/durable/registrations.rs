//! What came over the API is there again, with one full lease; what was taken back is not.

use crate::node::{LIMIT, Node};
use crate::support::eventually;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SERVICE: &str = "[[route]]\nname = \"ext\"\nservice = \"ext\"\n\n[[service]]\nname = \"ext\"\n
[service.health]\ntype = \"http\"\npath = \"/\"\ninterval = \"500ms\"\n";

/// A backend that answers everything with 200 for as long as the test runs; returns its port.
async fn backend() -> u16 {
    backend_until(std::future::pending()).await
}

/// A backend that answers everything with 200 until it is told to end; returns its port.
async fn backend_until(ended: impl Future<Output = ()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        tokio::pin!(ended);
        loop {
            let (mut stream, _) = tokio::select! {
                accepted = listener.accept() => accepted.unwrap(),
                () = &mut ended => return,
            };
            connections.spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    port
}

async fn register(node: &Node, id: &str, port: u16, lease: &str) {
    let body = json!({"id": id, "service": "ext", "address": "127.0.0.1", "ports": [port], "lease": lease});
    let (status, answer) = node.api("POST", "/v1/instances", Some(body)).await;
    assert_eq!(status, 201, "{answer}");
}

async fn reaches(node: &Node, id: &str, state: &str) {
    eventually(&format!("{id} is {state}"), LIMIT, || async {
        let all = node.instances().await;
        (all.get(id)?["state"] == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_and_drains_survive_kill_9_and_deregistrations_do_too() {
    let port = backend().await;
    let mut node = Node::new("registered", "keep", SERVICE);
    node.start().await;
    for id in ["ext-one", "ext-two", "ext-three", "ext-four"] {
        register(&node, id, port, "60s").await;
        reaches(&node, id, "ready").await;
    }
    assert_eq!(node.api("DELETE", "/v1/instances/ext-two", None).await.0, 204);
    assert_eq!(node.api("POST", "/v1/instances/ext-three/drain", None).await.0, 204);
    assert_eq!(node.api("POST", "/v1/instances/ext-four/drain", None).await.0, 204);
    assert_eq!(node.api("DELETE", "/v1/instances/ext-four/drain", None).await.0, 204);
    node.noted(3).await;
    node.kill().await;
    node.spawn();
    let first = node.first_answer().await;
    assert_eq!(first, 200, "it serves from the first connection on\n{}", node.log());
    node.ready().await;
    let all = node.instances().await;
    assert_eq!(all.keys().collect::<Vec<_>>(), ["ext-four", "ext-one", "ext-three"]);
    assert_eq!((&all["ext-one"]["state"], &all["ext-four"]["state"]), (&json!("ready"), &json!("ready")));
    assert_eq!(all["ext-three"]["state"], "draining");
    assert_eq!(node.api("POST", "/v1/instances/ext-one/renew", None).await.0, 200);
    assert_eq!(node.api("DELETE", "/v1/instances/ext-three/drain", None).await.0, 204);
    reaches(&node, "ext-three", "ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_gets_one_full_period_after_a_restart_and_then_ends() {
    let port = backend().await;
    let mut node = Node::new("lease", "keep", SERVICE);
    node.start().await;
    register(&node, "ext-one", port, "3s").await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    node.kill().await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    node.start().await;
    assert!(node.instances().await.contains_key("ext-one"), "its lease would have ended by now");
    eventually("its new lease ends", LIMIT, || async {
        (!node.instances().await.contains_key("ext-one")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_instance_that_served_before_is_found_out_at_once() {
    let mut node = Node::new("dead", "keep", SERVICE);
    node.start().await;
    let port = backend().await;
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let gone = backend_until(async { ended.await.unwrap() }).await;
    register(&node, "ext-one", port, "60s").await;
    register(&node, "ext-two", gone, "60s").await;
    reaches(&node, "ext-two", "ready").await;
    reaches(&node, "ext-one", "ready").await;
    node.noted(2).await;
    node.kill().await;
    end.send(()).unwrap();
    node.start().await;
    assert_eq!(node.instances().await.len(), 2);
    assert_eq!(node.get().await, 200, "another endpoint is tried");
    eventually("the dead one is found out", LIMIT, || async {
        (node.instances().await["ext-two"]["health"] == "unhealthy").then_some(())
    })
    .await;
}
