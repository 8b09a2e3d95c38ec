//! Why a request goes where it goes, and why a service has as many replicas as it has, through the command line.

use crate::cli::ask;
use crate::client::{change, eventually, get};
use crate::fixture::{Weir, start};
use serde_json::Value;

/// `staging/api` has three endpoints: one ready, one that failed its checks, one that drains.
async fn with_endpoints(test: &str) -> Weir {
    let api = start(test).await;
    api.check_api().await;
    for (id, port) in [("api-good", 7001), ("api-sick", 7002), ("api-gone", 7003)] {
        let body =
            format!(r#"{{"id":"{id}","service":"staging/api","address":"127.0.0.1","ports":[{port},{}]}}"#, port + 100);
        assert_eq!(change(api.address, "POST", "/v1/instances", &body).await.status, 201);
        api.passes(id).await;
    }
    api.fails("api-sick").await;
    assert_eq!(change(api.address, "POST", "/v1/instances/api-gone/drain", "").await.status, 204);
    let states = async || {
        let json = get(api.address, "/v1/explain?method=GET&url=http://x.example.com:8080/").await.json();
        let states = json["endpoints"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap().to_owned());
        states.collect::<Vec<_>>()
    };
    eventually("the table has all three", async || states().await == ["candidate", "draining", "unhealthy"]).await;
    api
}

#[tokio::test]
async fn a_request_is_followed_to_its_endpoints() {
    let api = with_endpoints("explain-request").await;
    let (code, out, error) = ask(&api, &["explain", "GET", "http://shop.example.com:8080/a/b?c"]).await;
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    for part in ["listener  http", "route     all", "service   staging/api", "round-robin", "port metrics", "1 retries"]
    {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    assert!(out.contains("outcome   forwarded: round-robin picks one of 1 endpoints"), "{out}");
    let row = |id: &str| out.lines().find(|line| line.starts_with(id)).unwrap_or_default().to_owned();
    // The route goes to the second port.
    assert!(row("api-good").contains("127.0.0.1:7101") && row("api-good").contains("candidate"), "{out}");
    assert!(row("api-sick").contains("unhealthy"), "{out}");
    let (_, out, _) = ask(&api, &["explain", "POST", "http://shop.example.com:8080/", "-o", "json"]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((json["retries"].as_u64(), json["outcome"].as_str()), (Some(0), Some("forwarded")));
    assert_eq!(json["endpoints"][0]["id"], "api-good", "candidates first");
    assert!(json["endpoints"][0]["score"].is_null(), "round robin compares nothing");
}

#[tokio::test]
async fn why_nothing_matches_is_said() {
    let api = start("explain-nothing").await;
    for (url, outcome, why) in [
        ("http://a.example.com:9999/", "no_listener", "no listener is on port 9999; there is: http on 127.0.0.1:8080"),
        ("http://example.org:8080/", "no_route", "no route is for host \"example.org\""),
        ("http://example.org:8080/", "no_route", "there are routes for: *.example.com"),
        ("/path", "no_route", "no route is for a request without a host"),
        ("http://a.example.com:8080/", "no_endpoint", "service staging/api has no endpoint: no replica of it is ready"),
    ] {
        let (code, out, _) = ask(&api, &["explain", "GET", url]).await;
        assert_eq!(code, 0, "{url}");
        assert!(out.contains(&format!("outcome   {outcome}: ")) && out.contains(why), "{url}: {out}");
    }
    let (code, _, error) = ask(&api, &["explain", "GET", "http://[nonsense"]).await;
    assert_eq!(code, 2, "{error}");
    let (code, _, error) = ask(&api, &["explain", "G T", "http://a/"]).await;
    assert_eq!(code, 2, "{error}");
    assert_eq!(get(api.address, "/v1/explain?method=GET").await.status, 400);
}

#[tokio::test]
async fn a_number_of_replicas_is_explained() {
    let api = start("explain-scale").await;
    let (code, out, _) = ask(&api, &["explain", "scale", "jobs"]).await;
    assert_eq!(code, 0);
    assert!(out.contains("jobs: 0 replicas wanted, 0 ready") && out.contains("it has no [service.scale]"), "{out}");
    assert_eq!(ask(&api, &["explain", "scale", "none"]).await.0, 3);
    assert_eq!(ask(&api, &["explain", "scale", "web"]).await.0, 4, "Weir does not run it");
    let (code, out, _) = ask(&api, &["scale", "jobs", "2"]).await;
    assert_eq!((code, out.as_str()), (0, "jobs: 2 replicas wanted\n"));
    let (_, out, _) = ask(&api, &["explain", "scale", "jobs"]).await;
    assert!(out.contains("set by hand; `weir scale jobs auto` gives it back"), "{out}");
    let (code, out, _) = ask(&api, &["scale", "jobs", "auto"]).await;
    assert_eq!((code, out.as_str()), (0, "jobs: scaled automatically\n"));
    let json = get(api.address, "/v1/services/jobs/scale").await.json();
    assert_eq!((json["replicas"].as_u64(), json["pinned"].as_bool()), (Some(0), Some(false)), "as defined");
    assert!(json["autoscaler"].is_null());
    let (code, _, error) = ask(&api, &["scale", "jobs", "some"]).await;
    assert_eq!(code, 2);
    assert!(error.contains("write a number, or `auto`"), "{error}");
}

#[tokio::test]
async fn a_scaled_service_shows_every_input() {
    let api = start("explain-scaled").await;
    api.scale_jobs(2, 4).await;
    let mut shown = Value::Null;
    eventually("a decision", async || {
        shown = get(api.address, "/v1/services/jobs/scale").await.json();
        shown["autoscaler"]["newest"].is_object()
    })
    .await;
    let autoscaler = &shown["autoscaler"];
    assert_eq!((autoscaler["min"].as_u64(), autoscaler["max"].as_u64()), (Some(2), Some(4)));
    assert_eq!(
        (autoscaler["policy"].as_str(), autoscaler["objective"].as_str()),
        (Some("objective"), Some("p99 < 500ms"))
    );
    for key in [
        "rate",
        "forecast",
        "sigma",
        "z",
        "service_ms",
        "cv",
        "queued",
        "cold_start_s",
        "by_forecast",
        "by_backlog",
        "by_window",
        "window_s",
        "late_ratio",
    ] {
        assert!(autoscaler["newest"][key].is_number(), "{key}: {shown}");
    }
    let metrics = get(api.address, "/metrics").await.body;
    assert!(metrics.contains("weir_scale_recommended{service=\"jobs\"} 2"), "{metrics}");
    let (_, out, _) = ask(&api, &["explain", "scale", "jobs"]).await;
    assert!(out.contains("follows      p99 < 500ms, 2 to 4 replicas") && out.contains("recommended  2"), "{out}");
    api.stop().await;
}
