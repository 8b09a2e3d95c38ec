//! Taking things away: a service that was made over the API, and waiting until what is drained is unused.

use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::support::traffic::{Plan, Traffic};
use crate::support::{eventually, within};
use crate::web::{SETTLED, beside, loaded, none_failed, service, services};
use serde_json::json;

/// A service with one registered endpoint, beside `web`.
fn with_external() -> String {
    format!(
        "{}[[service]]\nname = \"ext\"\n\n[[route]]\nname = \"ext\"\nhost = \"ext\"\nservice = \"ext\"\n",
        services(1, "/dev/null")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_made_over_the_api_is_removed_and_others_are_refused() {
    let _loaded = loaded().await;
    let mut weir = Weir::start("removing", &services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let file = weir.folder.write("fresh.toml", &service("fresh", 2, "/dev/null")).display().to_string();
    assert_eq!(weir.cli(&["deploy", "-f", &file, "--wait"]).await.code, 0, "{}", weir.log());
    let pids: Vec<u64> =
        weir.settled("fresh", 2, SETTLED).await.iter().map(|one| one["pid"].as_u64().unwrap()).collect();
    let traffic = Traffic::start(Plan { rate: 200.0, keepalive: 8, fresh: 4, ..Plan::new(weir.http) });
    let finished = weir.cli(&["remove", "fresh", "--wait"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", weir.log());
    assert!(finished.out.contains("fresh is gone"), "{finished:?}");
    assert_eq!(weir.api("GET", "/v1/services/fresh", None).await.0, 404);
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "replica {pid} ended");
    }
    for (arguments, code, says) in [
        (&["remove", "web"][..], 4, "is defined in the configuration file"),
        (&["remove", "fresh"], 3, "there is no service fresh"),
    ] {
        let finished = weir.cli(arguments).await;
        assert!(finished.code == code && finished.err.contains(says), "{arguments:?}: {finished:?}");
    }
    let (status, problem) = weir.api("DELETE", "/v1/services/web", Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &"defined_in_file".into()), "{problem}");
    none_failed(&traffic.stop().await, &weir);
    // It stays away after a restart, and a later one of the same name begins anew.
    crate::support::process::kill(weir.pid(), "TERM").await;
    weir.child.wait().await.unwrap();
    weir.respawn();
    weir.ready().await;
    assert_eq!(weir.api("GET", "/v1/services/fresh", None).await.0, 404);
    assert_eq!(weir.cli(&["deploy", "-f", &file, "--wait"]).await.code, 0, "{}", weir.log());
    let (_, again) = weir.api("GET", "/v1/services/fresh", None).await;
    assert_eq!(again["revision"], 1, "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_waited_for_until_nothing_is_in_flight() {
    let _loaded = loaded().await;
    let weir = Weir::start("drain-wait", &with_external()).await;
    let web = weir.settled("web", 1, SETTLED).await.remove(0);
    let port = web["ports"][0].as_u64().unwrap();
    // The same process, registered by hand: Weir neither replaces nor stops it.
    let new = json!({"id": "ext-1", "service": "ext", "address": "127.0.0.1", "ports": [port], "lease": "1h"});
    assert_eq!(weir.api("POST", "/v1/instances", Some(new)).await.0, 201);
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: ext\r\nConnection: close\r\n\r\n");
    eventually("it is ready", SETTLED, || async {
        let mut raw = Raw::connect(weir.http).await.ok()?;
        raw.send(ask("/")).await;
        raw.try_answer(false).await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let mut busy = Raw::connect(weir.http).await.unwrap();
    busy.send(ask("/delay/3000")).await;
    eventually("it is in flight", SETTLED, || async {
        let (_, instance) = weir.api("GET", "/v1/instances/ext-1", None).await;
        (instance["in_flight"] == 1).then_some(())
    })
    .await;
    let late = weir.cli(&["drain", "ext-1", "--wait", "--timeout", "300ms"]).await;
    assert_eq!(late.code, 9, "{late:?}");
    assert!(late.err.contains("1 requests and streams are in flight"), "{late:?}");
    let answered = tokio::spawn(async move { busy.answer().await.status });
    let done = within("the drain ends", SETTLED, weir.cli(&["drain", "ext-1", "--wait"])).await;
    assert!(done.code == 0 && done.out.contains("ext-1 is drained"), "{done:?}\n{}", weir.log());
    assert!(answered.is_finished(), "not before the answer ended");
    assert_eq!(answered.await.unwrap(), 200);
    let undone = weir.cli(&["drain", "ext-1", "--undo", "--wait"]).await;
    assert_eq!(undone.code, 2, "{undone:?}");
    // One that Weir runs is replaced first and has ended then.
    let id = web["id"].as_str().unwrap();
    let done = within("the replica ends", SETTLED, weir.cli(&["drain", id, "--wait"])).await;
    assert_eq!(done.code, 0, "{done:?}\n{}", weir.log());
    let pid = web["pid"].as_u64().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    weir.settled_without(id, "web", 1, SETTLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_is_checked_when_no_weir_has_it() {
    let _beside = beside().await;
    let mut weir = Weir::start("store-check", &services(1, "/dev/null")).await;
    weir.settled("web", 1, SETTLED).await;
    let state = weir.folder.0.join("state");
    let path = state.to_str().unwrap();
    let check = |path: String| async move { crate::support::process::weir(&["store", "check", &path]).await };
    let used = check(path.to_owned()).await;
    assert!(used.code == 4 && used.err.contains("is in use by process"), "{used:?}");
    crate::support::process::kill(weir.pid(), "TERM").await;
    weir.child.wait().await.unwrap();
    let store = state.join("weir.redb");
    let whole = std::fs::read(&store).unwrap();
    let good = check(path.to_owned()).await;
    assert!(
        good.code == 0 && good.out.contains(": whole\n") && good.out.contains("1 services, 1 revisions"),
        "{good:?}"
    );
    assert_eq!(std::fs::read(&store).unwrap(), whole, "nothing is changed");
    let json = crate::support::process::weir(&["store", "check", path, "-o", "json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&json["records"]["services"], &json["problems"]), (&json!(1), &json!([])), "{json}");
    let copy = check(state.join("weir.redb.last").display().to_string()).await;
    assert_eq!(copy.code, 0, "{copy:?}");
    std::fs::write(&store, &whole[..whole.len() / 2]).unwrap();
    let damaged = check(path.to_owned()).await;
    assert!(damaged.code == 1 && damaged.err.contains("is damaged"), "{damaged:?}");
    assert!(damaged.err.contains("weir.redb.last"), "what to do: {damaged:?}");
    let none = check("/no/such/folder".to_owned()).await;
    assert_eq!(none.code, 3, "{none:?}");
}
