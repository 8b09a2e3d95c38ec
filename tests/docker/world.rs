//! Weir with services of containers.

use crate::engine::{Engine, IMAGE};
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::support::{self};
use std::time::Duration;

/// What settles takes on a busy machine.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);

/// The start of a configuration: the engine, and a route to `web`.
pub(crate) fn preface(engine: &Engine) -> String {
    format!(
        "[docker]\nhost = \"{}\"\nnetwork = \"weir-test\"\ncall_timeout = \"2s\"\nbinds = [\"{}\"]\n\n\
         [[route]]\nname = \"web\"\nservice = \"web\"\n\n",
        engine.host(),
        engine.folder().display(),
    )
}

/// A service of `weir whoami` in containers; `more` are keys of `[service.run]`.
pub(crate) fn service(name: &str, replicas: usize, more: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n\
         [service.run]\nimage = \"{IMAGE}\"\nstop_grace = \"2s\"\n{more}\n\
         [service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"10s\"\n\
         [service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"500ms\"\n\n"
    )
}

/// A service whose replicas do as `command` says, without a check.
pub(crate) fn odd(name: &str, image: &str, more: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\n[service.run]\nimage = \"{image}\"\n{more}\n\n")
}

/// Starts Weir with `web`.
pub(crate) async fn start(engine: &Engine, name: &str, replicas: usize) -> Weir {
    let weir = Weir::start(name, &format!("{}{}", preface(engine), service("web", replicas, ""))).await;
    weir.settled("web", replicas, SETTLED).await;
    weir
}

/// Gets `/` and returns status and the instance that answered.
pub(crate) async fn get(weir: &Weir) -> (u16, String) {
    let mut raw = Raw::connect(weir.http).await.unwrap();
    let answer = raw.exchange("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    (answer.status, answer.field("x-instance").unwrap_or_default().to_owned())
}

/// Waits until Weir's log holds a text.
pub(crate) async fn logged(weir: &Weir, text: &str) {
    support::eventually(&format!("{text:?} in the log"), SETTLED, || async { weir.log().contains(text).then_some(()) })
        .await;
}

/// Returns the ids of instances.
pub(crate) fn ids(instances: &[serde_json::Value]) -> Vec<String> {
    let mut ids: Vec<String> = instances.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// Returns the container ids of instances, in order.
pub(crate) fn containers(instances: &[serde_json::Value]) -> Vec<String> {
    let mut ids: Vec<String> = instances.iter().map(|one| one["container"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}
