//! A start with a bad file serves on from the last good configuration.

use crate::crash::{answers, services};
use crate::support::family;
use crate::support::http::Raw;
use crate::support::process::{Weir, weir as weir_cli};
use crate::support::traffic::{Kind, Plan, Traffic};
use crate::{Whoami, loaded, passes, support};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// One mistake, on the last line of a file that ends with it.
const WRONG: &str = "[log]\nlevel = \"loud\"\n";

/// Weir with one endpoint that is ready, and the text of its file.
async fn serving(name: &str, backend: &Whoami) -> (Weir, String) {
    let weir = Weir::start(name, &services(backend.address)).await;
    support::eventually("the endpoint is ready", LIMIT, || async { answers(weir.http).await.then_some(()) }).await;
    let text = fs::read_to_string(weir.folder.0.join("weir.toml")).unwrap();
    (weir, text)
}

/// Replaces the file as an editor does, whole.
fn put(weir: &Weir, text: &str) {
    let part = weir.folder.write("weir.toml.new", text);
    fs::rename(part, weir.folder.0.join("weir.toml")).unwrap();
}

/// Returns the status of a path, which tells the routes in use.
async fn status_of(weir: &Weir, path: &str) -> u16 {
    let Ok(mut raw) = Raw::connect(weir.http).await else { return 0 };
    let _ = raw.try_send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
    raw.try_answer(false).await.map_or(0, |answer| answer.status)
}

/// Waits until another process than `old` serves from the last good configuration and says why.
async fn falls_back(weir: &Weir, old: u32, says: &[&str]) -> serde_json::Value {
    support::eventually("another process serves", LIMIT, || async {
        let serving = weir.serving();
        (serving != old && serving != 0 && answers(weir.http).await).then_some(())
    })
    .await;
    let (_, configuration) = weir.api("GET", "/v1/configuration", None).await;
    assert_eq!(configuration["cause"], "last_good", "{configuration}\n{}", weir.log());
    assert_eq!(configuration["failure"]["cause"], "start", "{configuration}");
    let status = weir.cli(&["status"]).await;
    for part in says {
        assert!(status.out.contains(part), "{part} is not in {status:?}");
        assert!(weir.log().contains(part), "{part} is not in\n{}", weir.log());
    }
    assert!(status.out.contains("the file is not in use"), "{status:?}");
    support::eventually("the metric tells", LIMIT, || async {
        let mut raw = Raw::connect(weir.admin).await.ok()?;
        let answer = raw.exchange("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        String::from_utf8_lossy(&answer.body).contains("weir_config_current 0").then_some(())
    })
    .await;
    configuration
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_the_file_is_bad_refuses_nothing_and_changes_nothing() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let (weir, good) = serving("bad-crash", &backend).await;
    // What was taken up last counts, not what it started with.
    let routed = format!(
        "{good}\n[[route]]\nname = \"none\"\npath = \"/none\"\nservice = \"none\"\n\n[[service]]\nname = \"none\"\n"
    );
    put(&weir, &routed);
    support::eventually("the route is in use", LIMIT, || async {
        (status_of(&weir, "/none").await == 503).then_some(())
    })
    .await;
    let traffic = Traffic::start(Plan { rate: 200.0, ..Plan::new(weir.http) });
    let bad = format!("{routed}{WRONG}");
    let line = bad.lines().count();
    let wrong = format!("weir.toml:{line}:");
    for (text, says) in
        [(bad.as_str(), [wrong.as_str(), "unknown value \"loud\""]), ("", ["is empty", "write what shall run"])]
    {
        put(&weir, text);
        support::eventually("it is refused", LIMIT, || async { weir.log().contains(says[0]).then_some(()) }).await;
        passes(&traffic, 300).await;
        let old = weir.serving();
        family::send(old, "KILL");
        let configuration = falls_back(&weir, old, &says).await;
        assert_eq!(configuration["reloads"]["refused"], 1, "{configuration}");
        assert_eq!(status_of(&weir, "/none").await, 503, "the last table, not the first");
    }
    fs::remove_file(weir.folder.0.join("weir.toml")).unwrap();
    let old = weir.serving();
    passes(&traffic, 300).await;
    family::send(old, "KILL");
    falls_back(&weir, old, &["cannot be read"]).await;
    passes(&traffic, 50).await;
    let report = traffic.stop().await;
    println!("three crashes with a bad file: {}", report.line());
    assert_eq!(report.of(Kind::Refused), 0, "{:?}\n{}", report.failures, weir.log());
    // A repaired file is taken up by itself.
    put(&weir, &good);
    support::eventually("the repaired file is in use", LIMIT, || async {
        let (_, now) = weir.api("GET", "/v1/configuration", None).await;
        (now["failure"].is_null() && now["cause"] == "file" && status_of(&weir, "/none").await == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_of_everything_with_a_bad_file_serves_the_last_good_one() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let (mut weir, good) = serving("bad-start", &backend).await;
    let file = weir.folder.0.join("weir.toml");
    for bad in [format!("{good}{WRONG}"), format!("{good}[[listener\n")] {
        put(&weir, &bad);
        let old = weir.serving();
        weir.kill();
        weir.child.wait().await.unwrap();
        let checked = weir_cli(&["check", file.to_str().unwrap()]).await;
        assert_eq!(checked.code, 2, "a check does not take the copy for the file: {checked:?}");
        weir.respawn();
        weir.ready().await;
        falls_back(&weir, old, &["weir.toml:"]).await;
    }
    put(&weir, &good);
    support::eventually("the repaired file is in use", LIMIT, || async {
        let (_, now) = weir.api("GET", "/v1/configuration", None).await;
        now["failure"].is_null().then_some(())
    })
    .await;
    // Another file has no copy, though it names the same state.
    let other = weir.folder.write("other.toml", &format!("{good}{WRONG}"));
    let refused = weir_run(other.to_str().unwrap()).await;
    assert!(refused.code == 2 && refused.err.contains("1 problem"), "{refused:?}");
}

async fn weir_run(file: &str) -> support::process::Finished {
    support::within("it is refused", LIMIT, weir_cli(&["run", "--config", file])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_text_that_cannot_be_taken_up_does_not_end_a_process_that_is_started_again() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let (weir, good) = serving("unbound-crash", &backend).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    put(&weir, &format!("{good}[[listener]]\nname = \"second\"\naddress = \"{address}\"\n"));
    support::eventually("it is refused", LIMIT, || async { weir.log().contains("is refused, the last").then_some(()) })
        .await;
    let old = weir.serving();
    family::send(old, "KILL");
    falls_back(&weir, old, &["cannot be taken up", &address.to_string()]).await;
    drop(taken);
    assert_eq!(weir.cli(&["reload"]).await.code, 0);
    assert!(Raw::connect(address).await.is_ok(), "once the address is free it is taken up");
}
