//! The example of an application and its sidecar in Docker Compose, as users run it.

use crate::engine::{Engine, IMAGE};
use crate::support::http::Raw;
use crate::support::process::free_address;
use crate::support::{eventually, within};
use crate::world::SETTLED;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

const FILE: &str = "config/examples/compose/compose.yaml";

struct Compose<'a> {
    engine: &'a Engine,
    app: SocketAddr,
    upstream: SocketAddr,
}

impl Compose<'_> {
    fn run(&self, words: &[&str]) -> String {
        let mut compose = Command::new("docker-compose");
        compose.args(["--project-name", "weir-compose", "--file", FILE]).args(words);
        compose.env_remove("DOCKER_CONTEXT").env("DOCKER_HOST", self.engine.host()).env("WEIR", IMAGE);
        compose.env("PORT", self.app.port().to_string()).env("UPSTREAM_PORT", self.upstream.port().to_string());
        let output = compose.output().expect("docker-compose is installed (Debian: docker-compose)");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{words:?}: {said}");
        said
    }
}

/// Returns who answers; nothing while nobody does.
async fn who(target: SocketAddr) -> Option<String> {
    let mut raw = Raw::connect(target).await.ok()?;
    raw.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = within("an answer or its end", SETTLED, raw.try_answer(false)).await.ok()?;
    let name = answer.text().lines().find_map(|line| line.strip_prefix("Instance: ").map(str::to_owned));
    name.filter(|_| answer.status == 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_and_its_sidecar_share_a_namespace_by_compose() {
    let engine = Engine::start();
    let compose = Compose { engine: &engine, app: free_address(), upstream: free_address() };
    compose.run(&["up", "-d"]);
    // The application listens on loopback: what answers at the namespace's address is its sidecar.
    let mode = engine.inspect("weir-compose_sidecar_1", "{{.HostConfig.NetworkMode}}");
    let app = engine.inspect("weir-compose_app_1", "{{.Id}}");
    assert_eq!(mode, format!("container:{app}"));
    eventually("the application answers", SETTLED, || async { (who(compose.app).await? == "app").then_some(()) }).await;
    let seen = eventually("both containers of the upstream answer", SETTLED, || async {
        let both = BTreeSet::from([who(compose.upstream).await?, who(compose.upstream).await?]);
        (both.len() == 2).then_some(both)
    })
    .await;
    let hosts: Vec<&str> = seen.iter().filter_map(|name| name.split('-').next()).collect();
    let ids = ["weir-compose_backend_1", "weir-compose_backend_2"].map(|name| engine.inspect(name, "{{.Id}}"));
    assert!(ids.iter().all(|id| hosts.iter().any(|host| id.starts_with(host))), "{hosts:?} are not {ids:?}");
    // One dies: the application's way leads to the other.
    engine.docker(&["kill", "weir-compose_backend_1"]);
    for _ in 0..10 {
        let name = who(compose.upstream).await.expect("a connection to one that is gone goes elsewhere");
        assert!(ids[1].starts_with(name.split('-').next().unwrap()), "{name}");
    }
    let listed = compose.run(&["exec", "-T", "sidecar", "/weir", "services"]);
    assert!(listed.contains("app") && listed.contains("backend"), "{listed}");
    compose.run(&["down"]);
    assert_eq!(engine.containers(), [""; 0]);
}
