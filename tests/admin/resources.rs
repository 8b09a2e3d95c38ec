//! Each resource: what it answers, and what it refuses.

use crate::client::{Answer, change, eventually, get};
use crate::fixture::{Weir, start};
use std::collections::BTreeSet;
use weir::balance::InFlight;
use weir::lifecycle::Phase;

const ONE: &str =
    r#"{"id":"web-one","service":"web","address":"127.0.0.1","ports":[7001,7002],"lease":"60s","weight":3}"#;

async fn register(weir: &Weir, body: &str) -> Answer {
    change(weir.address, "POST", "/v1/instances", body).await
}

#[tokio::test]
async fn an_instance_is_registered_renewed_and_deregistered() {
    let weir = start("register").await;
    let answer = register(&weir, ONE).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.head.to_lowercase().contains("location: /v1/instances/web-one"), "{}", answer.head);
    let instance = answer.json();
    let keys: BTreeSet<&str> = instance.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        "id service namespace state health reason address ports pid node revision in_flight rps latency_ms age_s";
    assert_eq!(keys, expected.split(' ').collect());
    assert_eq!((instance["id"].as_str(), instance["namespace"].as_str()), (Some("web-one"), Some("default")));
    assert_eq!(instance["ports"], serde_json::json!([7001, 7002]));
    assert_eq!((instance["pid"].is_null(), instance["node"].as_str()), (true, Some("node-1")));

    let lease = change(weir.address, "POST", "/v1/instances/web-one/renew", "").await;
    assert_eq!((lease.status, lease.json()["lease_ms"].as_u64()), (200, Some(60_000)));
    assert_eq!(get(weir.address, "/v1/instances/web-one").await.json()["id"], "web-one");
    assert_eq!(get(weir.address, "/v1/instances/web-one/history").await.body, "{\"history\":[]}");
    assert_eq!(get(weir.address, "/v1/instances/web-two/history").await.code(), "unknown_instance");

    let gone = change(weir.address, "DELETE", "/v1/instances/web-one", "").await;
    assert_eq!((gone.status, gone.body.as_str()), (204, ""));
    assert_eq!(get(weir.address, "/v1/instances/web-one").await.json()["state"], "gone");
    let late = change(weir.address, "POST", "/v1/instances/web-one/renew", "").await;
    assert_eq!((late.status, late.code().as_str()), (404, "unknown_instance"));
}

#[tokio::test]
async fn what_cannot_be_registered_says_why_and_changes_nothing() {
    let weir = start("refused").await;
    let generation = weir.table.load().generation;
    let cases = [
        ("", 400, "invalid_request", "EOF"),
        ("{", 400, "invalid_request", "line 1 column 1"),
        ("[]", 400, "invalid_request", "in the body"),
        (r#"{"service":"web","address":"127.0.0.1","ports":[1],"wieght":2}"#, 400, "invalid_request", "wieght"),
        (r#"{"service":"Web","address":"127.0.0.1","ports":[1]}"#, 400, "invalid_request", "service"),
        (r#"{"service":"web","address":"localhost","ports":[1]}"#, 400, "invalid_request", "IP address"),
        (r#"{"service":"web","address":"127.0.0.1","ports":[70000]}"#, 400, "invalid_request", "70000"),
        (r#"{"service":"web","address":"127.0.0.1","ports":[1],"lease":"soon"}"#, 400, "invalid_request", "soon"),
        (r#"{"service":"web","address":"127.0.0.1","ports":[1,2,3]}"#, 400, "invalid_request", "port"),
        (r#"{"service":"web","address":"127.0.0.1","ports":[1],"weight":0}"#, 400, "invalid_request", "weight"),
        (r#"{"id":"a.b","service":"web","address":"127.0.0.1","ports":[1]}"#, 400, "invalid_request", "id"),
        (r#"{"service":"none","address":"127.0.0.1","ports":[1]}"#, 404, "unknown_service", "none"),
    ];
    for (body, status, code, part) in cases {
        let answer = register(&weir, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(part), "{body}: {detail}");
    }
    assert_eq!(weir.table.load().generation, generation);
    assert_eq!(register(&weir, ONE).await.status, 201);
    assert_eq!(register(&weir, ONE).await.code(), "duplicate_instance");
}

#[tokio::test]
async fn lists_are_objects_and_can_be_narrowed() {
    let weir = start("lists").await;
    register(&weir, ONE).await;
    weir.passes("web-one").await;
    register(&weir, r#"{"id":"api-1","service":"staging/api","address":"::1","ports":[7003]}"#).await;
    weir.passes("api-1").await;
    let ids = async |path: &str, list: &str| {
        let answer = get(weir.address, path).await;
        let rows = answer.json()[list].as_array().unwrap_or_else(|| panic!("{path}: {answer:?}")).clone();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("/v1/instances", "instances").await, ["web-one", "api-1"]);
    assert_eq!(ids("/v1/instances?service=web", "instances").await, ["web-one"]);
    assert_eq!(ids("/v1/endpoints?service=staging%2Fapi", "endpoints").await, ["api-1"]);
    assert_eq!(get(weir.address, "/v1/endpoints?service=none").await.code(), "unknown_service");
    assert_eq!(get(weir.address, "/v1/endpoints?sevrice=web").await.code(), "invalid_request");
    assert_eq!(get(weir.address, "/v1/instances?service=WEB").await.code(), "invalid_request");
}

#[tokio::test]
async fn endpoints_show_what_picking_sees() {
    let weir = start("endpoints").await;
    register(&weir, ONE).await;
    weir.passes("web-one").await;
    let begin = |count: usize| -> Vec<InFlight> {
        let snapshot = weir.table.load();
        let service = snapshot.services.iter().find(|service| service.name().name() == "web").unwrap();
        (0..count).map(|_| service.candidates[0].stats.begin()).collect()
    };
    let busy = begin(4);
    let answer = get(weir.address, "/v1/endpoints").await.json();
    let endpoint = &answer["endpoints"][0];
    assert_eq!(answer["generation"], weir.table.load().generation);
    assert_eq!((endpoint["state"].as_str(), endpoint["weight"].as_u64()), (Some("usable"), Some(3)));
    assert_eq!((endpoint["in_flight"].as_u64(), endpoint["requests"].as_u64()), (Some(4), Some(4)));
    assert_eq!(endpoint["warm"].as_f64(), Some(1.0));
    drop(busy);
    eventually("requests per second are measured", async || {
        drop(begin(10));
        get(weir.address, "/v1/instances/web-one").await.json()["rps"].as_f64().unwrap() > 0.0
    })
    .await;
}

#[tokio::test]
async fn services_routes_and_table_are_shown() {
    let weir = start("services").await;
    register(&weir, ONE).await;
    weir.passes("web-one").await;
    let services = get(weir.address, "/v1/services").await.json();
    let names: Vec<_> = services["services"].as_array().unwrap().iter().map(|s| s["name"].clone()).collect();
    assert_eq!(names, ["jobs", "web", "api"]);
    let web = get(weir.address, "/v1/services/web").await.json();
    assert_eq!((web["policy"].as_str(), web["usable"].as_u64()), (Some("round-robin"), Some(1)));
    let port = |name: &str| serde_json::json!({"name": name, "protocol": "tcp", "served": null});
    assert_eq!(
        (&web["ports"], &web["address"]),
        (&serde_json::json!([port("http"), port("metrics")]), &serde_json::Value::Null)
    );
    assert_eq!(get(weir.address, "/v1/services/jobs").await.json()["rps"].to_string(), "0.0", "no sign");
    assert_eq!(get(weir.address, "/v1/services/staging%2Fapi").await.json()["namespace"], "staging");
    assert_eq!(get(weir.address, "/v1/services/none").await.code(), "unknown_service");
    assert_eq!(get(weir.address, "/v1/services/N%20ne").await.code(), "invalid_request");
    assert_eq!(get(weir.address, "/v1/services/%ff").await.code(), "invalid_request");

    let route = &get(weir.address, "/v1/routes").await.json()["routes"][0];
    assert_eq!((route["host"].as_str(), route["port"].as_str()), (Some("*.example.com"), Some("metrics")));
    assert_eq!((route["service"].as_str(), &route["listeners"]), (Some("staging/api"), &serde_json::json!(["http"])));

    let table = get(weir.address, "/v1/table").await.json();
    assert_eq!(table["generation"], weir.table.load().generation);
    assert_eq!(table["acknowledgers"][0]["name"], "worker-0");
    assert_eq!(table["acknowledgers"][0]["idle"], true);
    assert!(table["acknowledgers"][0]["generation"].as_u64() < table["generation"].as_u64());
}

#[tokio::test]
async fn ready_from_the_first_table_until_the_drain_and_live_all_the_time() {
    let mut weir = start("ready").await;
    assert_eq!(get(weir.address, "/livez").await.body, "ok\n");
    assert_eq!(get(weir.address, "/readyz").await.body, "ready\n");
    let verbose = get(weir.address, "/readyz?verbose").await.body;
    let generation = weir.table.load().generation;
    assert_eq!(verbose, format!("[+] table: generation {generation}\n[+] lifecycle: running\nready\n"));
    assert_eq!(weir.worker.load().generation, generation);
    weir.trigger.raise(Phase::Draining);
    let answer = get(weir.address, "/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "[-] lifecycle: draining\nnot ready\n"));
    assert_eq!(get(weir.address, "/livez").await.status, 200);
    assert_eq!(get(weir.address, "/v1/services").await.status, 200, "people may look while it drains");
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let weir = start("metrics").await;
    let answer = get(weir.address, "/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let weir = start("unknown").await;
    for path in ["/", "/v1", "/v2/services", "/v1/services/a/b", "/v1/instances/x/y"] {
        assert_eq!(get(weir.address, path).await.code(), "unknown_path", "{path}");
    }
    let answer = change(weir.address, "PUT", "/v1/services", "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (405, "unknown_method"));
}

#[tokio::test]
async fn every_route_is_in_the_openapi_document_and_every_entry_is_served() {
    let weir = start("openapi").await;
    let document = get(weir.address, "/openapi.json").await.json();
    let (mut listed, mut operations) = (BTreeSet::new(), BTreeSet::<String>::new());
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, entry) in methods.as_object().unwrap() {
            listed.insert(format!("{} {path}", method.to_uppercase()));
            assert!(operations.insert(entry["operationId"].to_string()), "{method} {path}: its id is taken");
            for (status, answer) in entry["responses"].as_object().unwrap() {
                assert!(
                    answer["description"].as_str().is_some_and(|text| !text.is_empty()),
                    "{method} {path}: {status}"
                );
            }
            assert!(
                entry["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} says what it does"
            );
            let path = if path == "/v1/events" { "/v1/events?follow=false" } else { path };
            let answer = change(weir.address, &method.to_uppercase(), &path.replace(['{', '}'], ""), "{}").await;
            assert!(answer.status != 405 && !answer.body.contains("unknown_path"), "{method} {path}: {answer:?}");
        }
    }
    let served = "GET /v1/services, GET /v1/services/{name}, DELETE /v1/services/{name}, \
        POST /v1/services/{name}/scale, \
        GET /v1/services/{name}/scale, DELETE /v1/services/{name}/scale, GET /v1/explain, \
        GET /v1/resolve, \
        POST /v1/services/{name}/deploy, POST /v1/deploy, POST /v1/services/{name}/rollback, \
        GET /v1/services/{name}/revisions, GET /v1/services/{name}/rollout, GET /v1/instances, \
        POST /v1/instances, GET /v1/instances/{id}, DELETE /v1/instances/{id}, POST /v1/instances/{id}/renew, \
        POST /v1/instances/{id}/drain, DELETE /v1/instances/{id}/drain, GET /v1/instances/{id}/logs, \
        GET /v1/instances/{id}/history, \
        GET /v1/status, GET /v1/upgrade, POST /v1/upgrade, GET /v1/endpoints, GET /v1/routes, GET /v1/table, \
        POST /v1/table/acknowledge, POST /v1/table/leave, GET /v1/configuration, \
        GET /v1/certificates, GET /v1/certificates-authority, POST /v1/certificates/{name}/renew, \
        POST /v1/configuration/diff, POST /v1/reload, GET /v1/events, GET /metrics, GET /livez, GET /readyz, \
        GET /openapi.json";
    assert_eq!(listed, served.split(", ").map(str::to_owned).collect());
}
