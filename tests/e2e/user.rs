//! What a user does with the demo, step by step, each with the tool that they use.

use crate::support::http::get;
use crate::support::process::Weir;
use crate::web::{SETTLED, beside, services};
use std::collections::BTreeSet;
use tokio::process::Command;

/// Runs `dig` against Weir and returns its output.
async fn dig(weir: &Weir, arguments: &[&str]) -> String {
    let (server, port) = (format!("@{}", weir.dns.ip()), weir.dns.port().to_string());
    let output = Command::new("dig")
        .args([&server, "-p", &port, "+tries=1", "+time=5"])
        .args(arguments)
        .output()
        .await
        .expect("dig is installed (tests/run does so)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "dig {arguments:?}: {text}");
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_dig_ps_and_scale_show_the_same_replicas() {
    let _beside = beside().await;
    let weir = Weir::start("user", &services(3, "/dev/null")).await;
    let ready = weir.settled("web", 3, SETTLED).await;
    let ids: BTreeSet<String> = ready.iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect();
    let ports: BTreeSet<u64> = ready.iter().map(|i| i["ports"][0].as_u64().unwrap()).collect();

    let mut answered = BTreeSet::new();
    for _ in 0..30 {
        let text = get(weir.http, "/").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix("Instance: ")).unwrap().to_owned();
        answered.insert(line);
    }
    assert_eq!(answered, ids, "30 requests show all replicas");

    let addresses = dig(&weir, &["web.weir.internal", "+short"]).await;
    assert_eq!(addresses.trim(), "127.0.0.1", "replicas on one address are one A record");
    let records = dig(&weir, &["SRV", "_http._tcp.web.default.weir.internal", "+short"]).await;
    let named: BTreeSet<u64> = records.lines().map(|l| l.split(' ').nth(2).unwrap().parse().unwrap()).collect();
    assert_eq!(named, ports, "{records}");
    let outside = dig(&weir, &["example.com"]).await;
    assert!(outside.contains("status: REFUSED"), "{outside}");

    let table = weir.cli(&["ps"]).await;
    assert_eq!(table.code, 0);
    for id in &ids {
        assert!(table.out.lines().any(|line| line.contains(id.as_str()) && line.contains("ready")), "{}", table.out);
    }
    assert_eq!(weir.cli(&["scale", "web", "6"]).await.code, 0);
    weir.settled("web", 6, SETTLED).await;
    let records = dig(&weir, &["SRV", "_http._tcp.web.default.weir.internal", "+short"]).await;
    assert_eq!(records.lines().count(), 6, "{records}");
    assert_eq!(weir.cli(&["scale", "web", "2"]).await.code, 0);
    weir.settled("web", 2, SETTLED).await;
    let unknown = weir.cli(&["scale", "nothing", "2"]).await;
    assert_eq!(unknown.code, 3, "{unknown:?}");
    assert!(unknown.err.contains("nothing"), "{unknown:?}");
}
