//! What is changed by hand: scaling, draining; and the logs of what Weir runs.

use crate::client::{change, eventually, get};
use crate::fixture::{Weir, start};
use serde_json::Value;
use std::process::{Command, Output};

/// Returns the instances of `jobs` that are not gone.
async fn jobs(weir: &Weir) -> Vec<Value> {
    let all = get(weir.address, "/v1/instances?service=jobs").await.json()["instances"].as_array().unwrap().clone();
    all.into_iter().filter(|instance| instance["state"] != "gone").collect()
}

async fn scale(weir: &Weir, replicas: u32) -> Vec<Value> {
    let answer = change(weir.address, "POST", "/v1/services/jobs/scale", &format!("{{\"replicas\":{replicas}}}")).await;
    assert_eq!((answer.status, answer.json()["replicas"].as_u64()), (202, Some(replicas.into())));
    eventually("the replicas run", async || jobs(weir).await.len() == replicas as usize).await;
    jobs(weir).await
}

async fn cli(weir: &Weir, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(args).env("WEIR_ADDR", weir.address.to_string());
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_scaled_shown_and_stopped() {
    let weir = start("scale").await;
    for instance in scale(&weir, 2).await {
        assert!(instance["pid"].as_u64().unwrap() > 1, "{instance}");
        assert!(instance.get("container").is_none());
    }
    let service = get(weir.address, "/v1/services/jobs").await.json();
    assert_eq!((service["scalable"].as_bool(), service["replicas"].as_u64()), (Some(true), Some(2)));
    assert_eq!(service["running"], 2);
    let (code, text) = cli(&weir, &["scale", "jobs", "1"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "jobs: 1 replica wanted\n"));
    eventually("one is left", async || jobs(&weir).await.len() == 1).await;
    scale(&weir, 0).await;
}

#[tokio::test]
async fn a_scale_that_makes_no_sense_is_refused() {
    let weir = start("scale-refused").await;
    let scale = async |service: &str, body: &str| {
        let answer = change(weir.address, "POST", &format!("/v1/services/{service}/scale"), body).await;
        (answer.status, answer.code())
    };
    assert_eq!(scale("none", "{\"replicas\":1}").await, (404, "unknown_service".to_owned()));
    assert_eq!(scale("web", "{\"replicas\":1}").await, (409, "not_scalable".to_owned()));
    for body in
        ["", "{}", "{\"replicas\":-1}", "{\"replicas\":1.5}", "{\"replicas\":1,\"x\":2}", "{\"replicas\":4000000000}"]
    {
        assert_eq!(scale("jobs", body).await, (400, "invalid_request".to_owned()), "{body}");
    }
}

#[tokio::test]
async fn a_foreign_instance_drains_until_that_is_undone() {
    let weir = start("drain").await;
    let body = r#"{"id":"web-one","service":"web","address":"127.0.0.1","ports":[7001]}"#;
    assert_eq!(change(weir.address, "POST", "/v1/instances", body).await.status, 201);
    weir.passes("web-one").await;
    let state = async || get(weir.address, "/v1/instances/web-one").await.json()["state"].as_str().unwrap().to_owned();
    assert_eq!(state().await, "ready");
    assert_eq!(change(weir.address, "POST", "/v1/instances/web-one/drain", "").await.status, 204);
    assert_eq!(state().await, "draining");
    assert_eq!(get(weir.address, "/v1/endpoints").await.json()["endpoints"][0]["state"], "draining");
    let (code, text) = cli(&weir, &["drain", "web-one", "--undo"]).await;
    assert_eq!((code, text.as_str()), (Some(0), "web-one takes new work again\n"));
    assert_eq!(state().await, "ready");
    assert_eq!(change(weir.address, "POST", "/v1/instances/none/drain", "").await.code(), "unknown_instance");
    assert_eq!(change(weir.address, "DELETE", "/v1/instances/none/drain", "").await.code(), "unknown_instance");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_cannot_be_deregistered_and_its_log_is_shown() {
    let weir = start("logs").await;
    let id = scale(&weir, 1).await[0]["id"].as_str().unwrap().to_owned();
    let refused = change(weir.address, "DELETE", &format!("/v1/instances/{id}"), "").await;
    assert_eq!((refused.status, refused.code().as_str()), (409, "not_registered_here"));

    let path = format!("/v1/instances/{id}/logs");
    eventually("it wrote that it listens", async || get(weir.address, &path).await.body.contains("listening")).await;
    let (code, text) = cli(&weir, &["logs", &id, "--tail", "1"]).await;
    assert_eq!((code, text.lines().count()), (Some(0), 1), "{text}");
    assert_eq!(get(weir.address, &format!("{path}?tail=0")).await.body, "");
    assert_eq!(get(weir.address, &format!("{path}?tail=x")).await.code(), "invalid_request");

    let body = r#"{"id":"web-one","service":"web","address":"127.0.0.1","ports":[7001]}"#;
    change(weir.address, "POST", "/v1/instances", body).await;
    assert_eq!(get(weir.address, "/v1/instances/web-one/logs").await.code(), "no_logs");
    assert_eq!(get(weir.address, "/v1/instances/none/logs").await.code(), "unknown_instance");
    let followed = tokio::spawn({
        let (address, path) = (weir.address, format!("{path}?follow=true"));
        async move { get(address, &path).await.body }
    });
    scale(&weir, 0).await;
    assert!(followed.await.unwrap().contains("listening"), "a followed log ends with its replica");
    // The log outlives the replica, so that people can see why it ended.
    assert!(get(weir.address, &path).await.body.contains("listening"));
}
