//! A scheduler with one service, and Weirs that follow its table.

use crate::support;
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::support::traffic::{Plan, Report, Traffic};
pub(crate) use crate::support::turns::{alone, beside, loaded};
use serde_json::Value;
use std::time::Duration;

/// What settles takes.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);

/// A service of `weir whoami` with a route.
pub(crate) fn service(replicas: usize) -> String {
    format!(
        "[[route]]\nname = \"web\"\nservice = \"web\"\n
[[service]]\nname = \"web\"\nreplicas = {replicas}\ndns_ttl = \"1s\"\n
[service.run]\ncommand = [\"${{WEIR}}\", \"whoami\", \"--listen\", \"127.0.0.1:${{PORT}}\"]\n
[service.rollout]\nmin_healthy = \"1s\"\nprogress_deadline = \"20s\"\n
[service.health]\ntype = \"http\"\npath = \"/health\"\ninterval = \"1s\"\n"
    )
}

/// Deploys `web` and waits until it serves; returns what is said about it.
pub(crate) async fn deploy(origin: &Weir, number: usize) -> String {
    let release = format!("RELEASE={number}");
    let finished = origin.cli(&["deploy", "web", "--wait", "--timeout", "2m", "--env", &release]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", origin.log());
    finished.out
}

/// Starts a Weir that follows others.
pub(crate) async fn follower(name: &str, from: &str) -> Weir {
    Weir::start(name, &format!("[source.weir]\nfrom = {from}\nname = \"{name}\"\n")).await
}

/// Starts a Weir that follows one.
pub(crate) async fn follows(name: &str, origin: &Weir) -> Weir {
    follower(name, &format!("\"{}\"", origin.admin)).await
}

/// Waits until a Weir's table has so many usable endpoints of `web`.
pub(crate) async fn has(weir: &Weir, count: usize) {
    let what = format!("{count} endpoints of web at {}", weir.admin);
    support::eventually(&what, SETTLED, || async {
        let (_, found) = weir.api("GET", "/v1/endpoints", None).await;
        let endpoints = found["endpoints"].as_array().cloned().unwrap_or_default();
        let usable = endpoints.iter().filter(|one| one["service"] == "web" && one["state"] == "usable").count();
        (usable == count).then_some(())
    })
    .await;
}

/// Returns a member of `GET /v1/table`.
pub(crate) async fn table(weir: &Weir) -> Value {
    weir.api("GET", "/v1/table", None).await.1
}

/// How often an attempt followed one that failed, by the text of a Weir's metrics: 0 says that no endpoint was used that was
/// stopped already.
pub(crate) fn retries(metrics: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with("weir_retries_total{"));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Waits until a subscriber is in a state.
pub(crate) async fn subscriber(origin: &Weir, name: &str, state: &str) -> Value {
    support::eventually(&format!("{name} is {state}"), SETTLED, || async {
        let table = table(origin).await;
        let all = table["subscribers"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == name && one["state"] == state)
    })
    .await
}

/// Subscribes by hand and reads nothing but the head.
pub(crate) async fn subscription(origin: &Weir, name: &str, session: &str) -> Raw {
    let mut raw = Raw::connect(origin.admin).await.unwrap();
    let path = format!("/v1/table?watch&name={name}&session={session}");
    raw.send(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    subscriber(origin, name, "following").await;
    raw
}

/// Gentle traffic at a Weir: quick requests and some that are in flight for a while.
pub(crate) struct Load {
    quick: Traffic,
    slow: Traffic,
}

impl Load {
    /// Starts it; `number` keeps the tags of several apart.
    pub(crate) fn start(weir: &Weir, number: u64, rate: f64) -> Self {
        let tags = number << 45;
        let quick = Plan { rate, keepalive: 8, fresh: 4, first_tag: tags, ..Plan::new(weir.http) };
        let slow = Plan {
            rate: 10.0,
            keepalive: 8,
            fresh: 0,
            path: "/delay/250".to_owned(),
            first_tag: tags | 1 << 42,
            ..Plan::new(weir.http)
        };
        Self { quick: Traffic::start(quick), slow: Traffic::start(slow) }
    }

    /// Waits until so many more requests have passed.
    pub(crate) async fn passes(&self, more: u64) {
        let wanted = self.quick.passed() + more;
        support::eventually("requests pass", Duration::from_secs(120), || async {
            (self.quick.passed() >= wanted).then_some(())
        })
        .await;
    }

    /// Ends it; nothing may have failed.
    pub(crate) async fn stop(self, what: &str) -> u64 {
        let mut count = 0;
        for traffic in [self.quick, self.slow] {
            let report: Report = traffic.stop().await;
            println!("{what}: {}", report.line());
            assert_eq!(report.failed(), 0, "{what}: {:?}", report.failures);
            count += report.requests;
        }
        count
    }
}
