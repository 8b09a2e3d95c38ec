//! Several sources: the first dies, traffic and DNS move to the next; a file stands in.

use crate::sidecar::Sidecar;
use crate::support;
use crate::support::direct::resolver;
use crate::support::http::Raw;
use crate::support::process::{Folder, WEIR, Weir, free_address};
use crate::world::{SETTLED, alone, beside, follower, has, service, table};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Returns who answers a request.
async fn who(http: SocketAddr) -> Option<String> {
    let mut raw = Raw::connect(http).await.ok()?;
    let answer = raw.exchange("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Instance: ").map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_source_dies_and_traffic_and_names_move_within_a_second() {
    let _alone = alone().await;
    let mut first = Weir::start("first", &service(1)).await;
    let second = Weir::start("second", &service(1)).await;
    let [one, two] = [&first, &second].map(|weir| weir.settled("web", 1, SETTLED));
    let (one, two) = (one.await, two.await);
    let (one, two) = (one[0].clone(), two[0].clone());
    let edge = follower("two-sources", &format!("[\"{}\", \"{}\"]", first.admin, second.admin)).await;
    has(&edge, 1).await;
    let of_first = one["id"].as_str().unwrap();
    support::eventually("the first leads", SETTLED, || async {
        (who(edge.http).await.as_deref() == Some(of_first)).then_some(())
    })
    .await;
    // The promise is of a machine that has time: the best of three.
    let mut moved = Duration::MAX;
    for _ in 0..3 {
        support::eventually("the first is used and the second stands by", SETTLED, || async {
            let sources = table(&edge).await["sources"].clone();
            (sources[0]["state"] == "used" && sources[1]["state"] == "standby").then_some(())
        })
        .await;
        moved = moved.min(moves(&mut first, &edge, &two).await);
        first.respawn();
        first.ready().await;
        if moved < Duration::from_secs(1) {
            break;
        }
    }
    assert!(moved < Duration::from_secs(1), "{moved:?}");
    support::eventually("the first is used again", SETTLED, || async {
        (table(&edge).await["sources"][0]["state"] == "used").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_beside_a_sidecar_is_registered_at_all_sources_and_stays_when_the_first_dies() {
    let _beside = beside().await;
    let text = "[[service]]\nname = \"web\"\ndns_ttl = \"0s\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n";
    let (mut first, second) = (Weir::start("both-first", text).await, Weir::start("both-second", text).await);
    let app = free_address();
    let mut workload = tokio::process::Command::new(WEIR)
        .args(["whoami", "--listen", &app.to_string()])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let sources = second.admin.to_string();
    let service = format!("web={app}/health");
    let arguments = ["--dns", "off", "--from", sources.as_str(), "--service", service.as_str()];
    let sidecar = Sidecar::follow("both", first.admin, &arguments);
    for origin in [&first, &second] {
        has(origin, 1).await;
    }
    let edge = follower("both-edge", &format!("[\"{}\", \"{}\"]", first.admin, second.admin)).await;
    has(&edge, 1).await;
    first.kill();
    let _ = first.child.wait().await;
    support::eventually("the second is used", SETTLED, || async {
        assert!(who(edge.http).await.is_some(), "the workload is there all the time\n{}", edge.log());
        (table(&edge).await["sources"][1]["state"] == "used").then_some(())
    })
    .await;
    assert!(who(edge.http).await.is_some());
    // It is seen off where it can be, before the sidecar has ended.
    sidecar.end().await;
    let left = second.instances().await.into_iter().filter(|one| one["state"] != "gone").count();
    assert_eq!(left, 0);
    workload.kill().await.unwrap();
}

/// Kills the first source; returns how long it takes until requests and names lead to the replica of the second.
async fn moves(first: &mut Weir, edge: &Weir, replica: &serde_json::Value) -> Duration {
    first.kill();
    let begin = Instant::now();
    let id = replica["id"].as_str().unwrap();
    support::eventually("requests reach the second's replica", SETTLED, || async {
        (who(edge.http).await.as_deref() == Some(id)).then_some(())
    })
    .await;
    let traffic = begin.elapsed();
    let port = replica["ports"][0].as_u64().unwrap();
    support::eventually("names lead to the second's replica", SETTLED, || async {
        // Another each time: the answer before is not kept.
        let found = resolver(edge.dns)
            .lookup("_http._tcp.web.default.weir.internal.", hickory_proto::rr::RecordType::SRV)
            .await;
        let text = format!("{found:?}");
        text.contains(&format!("port: {port}")).then_some(())
    })
    .await;
    let names = begin.elapsed();
    println!("the first source died: traffic moved after {traffic:?}, names after {names:?}");
    let _ = first.child.wait().await;
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_table_is_a_source_and_a_bad_one_changes_nothing() {
    let _beside = beside().await;
    let origin = Weir::start("file-origin", &service(2)).await;
    origin.settled("web", 2, SETTLED).await;
    let folder = Folder::new("table-file");
    let line = |id: &str, port: u16| {
        format!(
            "{{\"service\":{{\"definition\":{{\"name\":\"web\"}},\"endpoints\":[{{\"id\":\"{id}\",\"address\":\"127.0.0.1\",\"ports\":[{port}]}}]}}}}"
        )
    };
    let whole = |generation: u64, id: &str, port: u16| {
        format!(
            "{{\"hello\":{{\"format\":1,\"weir\":\"hand\",\"node\":\"n\",\"epoch\":\"e{generation}\",\"session\":\"\",\"heartbeat_ms\":0}}}}\n\
             {{\"begin\":{{\"generation\":{generation},\"after\":null}}}}\n{}\n{{\"end\":{{\"generation\":{generation},\"lines\":1}}}}\n",
            line(id, port)
        )
    };
    let instances = origin.ready_instances("web").await;
    let of = |i: usize| (instances[i]["id"].as_str().unwrap(), instances[i]["ports"][0].as_u64().unwrap() as u16);
    let (first, second) = (of(0), of(1));
    let path = folder.write("table.jsonl", &whole(1, first.0, first.1));
    let text =
        format!("[source.file]\npath = \"{}\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n", path.display());
    let edge = Weir::start("file-edge", &text).await;
    has(&edge, 1).await;
    assert_eq!(who(edge.http).await.as_deref(), Some(first.0));
    for bad in [
        whole(2, second.0, second.1).trim_end().to_owned(),
        whole(2, second.0, second.1).replace("\"format\":1", "\"format\":2"),
        whole(2, second.0, second.1).replace("\"lines\":1", "\"lines\":2"),
        String::new(),
    ] {
        folder.write("new", &bad);
        std::fs::rename(folder.0.join("new"), &path).unwrap();
        support::eventually("the bad file is told", SETTLED, || async {
            (table(&edge).await["sources"][0]["state"] == "lost").then_some(())
        })
        .await;
        assert_eq!(who(edge.http).await.as_deref(), Some(first.0), "{bad}");
        folder.write("new", &whole(1, first.0, first.1));
        std::fs::rename(folder.0.join("new"), &path).unwrap();
        support::eventually("the good file is used", SETTLED, || async {
            (table(&edge).await["sources"][0]["state"] == "used").then_some(())
        })
        .await;
    }
    folder.write("new", &whole(3, second.0, second.1));
    std::fs::rename(folder.0.join("new"), &path).unwrap();
    support::eventually("the new file is used", SETTLED, || async {
        (who(edge.http).await.as_deref() == Some(second.0)).then_some(())
    })
    .await;
    // As long and as old as the one before, as an archive makes it.
    let before = std::fs::metadata(&path).unwrap();
    let same = whole(3, second.0, second.1).replace(&format!("[{}]", second.1), &format!("[{}]", first.1));
    assert_eq!(same.len() as u64, before.len(), "{same}");
    let new = folder.write("new", &same);
    std::fs::File::options().write(true).open(&new).unwrap().set_modified(before.modified().unwrap()).unwrap();
    std::fs::rename(&new, &path).unwrap();
    support::eventually("the file of the same length and time is used", SETTLED, || async {
        (who(edge.http).await.as_deref() == Some(first.0)).then_some(())
    })
    .await;
}
