//! Keys that the process that serves cannot change: another one takes over with the new file.

use crate::support::family;
use crate::support::http::Raw;
use crate::support::process::{Weir, free_address};
use crate::support::traffic::{Plan, Traffic};
use crate::{loaded, passes, support};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// A replica of `weir whoami`, and sections that a process cannot change.
const WEB: &str = "[proxy.timeouts]\ndrain = \"5s\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n\n\
    [[service]]\nname = \"web\"\nreplicas = 1\n\n\
    [service.run]\ncommand = [\"${WEIR}\", \"whoami\", \"--listen\", \"127.0.0.1:${PORT}\"]\n";

fn put(weir: &Weir, text: &str) {
    let part = weir.folder.write("weir.toml.new", text);
    fs::rename(part, weir.folder.0.join("weir.toml")).unwrap();
}

/// Waits until another process than `old` serves with the file in use, which it has since `cause`; returns it.
async fn renewed(weir: &Weir, old: u32, cause: &str) -> u32 {
    support::eventually("another process serves", LIMIT, || async {
        let serving = weir.serving();
        let mut raw = Raw::connect(weir.admin).await.ok()?;
        raw.try_send("GET /v1/configuration HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let answer = raw.try_answer(false).await.ok()?;
        let now: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        (serving != old && serving != 0 && now["failure"].is_null() && now["cause"] == cause).then_some(serving)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sections_that_needed_a_restart_are_taken_up_and_no_request_fails() {
    let _loaded = loaded().await;
    let weir = Weir::start_keeping("renew", WEB).await;
    let before = weir.settled("web", 1, LIMIT).await.remove(0);
    let pid = before["pid"].as_u64().unwrap();
    let good = fs::read_to_string(weir.folder.0.join("weir.toml")).unwrap();
    let traffic = Traffic::start(Plan { rate: 200.0, ..Plan::new(weir.http) });
    passes(&traffic, 50).await;
    let mut serving = weir.serving();

    // By command: it waits for the other process.
    let timeouts = good.replace("drain = \"5s\"", "drain = \"6s\"\nkeepalive = \"61s\"");
    put(&weir, &timeouts);
    let finished = weir.cli(&["reload"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", weir.log());
    assert!(finished.out.contains("proxy.timeouts.keepalive"), "{finished:?}");
    serving = renewed(&weir, serving, "start").await;

    // By the file alone: the zone and the address of DNS.
    let moved = free_address();
    let named = timeouts
        .replace(&weir.dns.to_string(), &moved.to_string())
        .replace("[dns]\n", "[dns]\nzone = \"else.internal\"\n");
    put(&weir, &named);
    serving = renewed(&weir, serving, "start").await;
    support::eventually("the other zone is answered at the other address", LIMIT, || async {
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in ["web", "else", "internal"] {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.extend(b"\x00\x00\x01\x00\x01");
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query, moved).await.ok()?;
        let mut answer = [0; 512];
        let got = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut answer)).await.ok()?.ok()?;
        // NOERROR with one answer.
        (got > 12 && answer[3] & 0x0f == 0 && answer[7] == 1).then_some(())
    })
    .await;

    // What cannot be taken up is told, and the last good one serves on.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    put(&weir, &named.replace(&moved.to_string(), &address));
    support::eventually("it is told", LIMIT, || async {
        let status = weir.cli(&["status"]).await;
        (status.out.contains("cannot be taken up") && status.out.contains(&address)).then_some(())
    })
    .await;
    put(&weir, &named);
    serving = renewed(&weir, serving, "last_good").await;

    // The ground that everything stands on stays.
    put(&weir, &named.replace("/state\"", "/elsewhere\""));
    let refused = weir.cli(&["reload"]).await;
    assert!(refused.code == 2 && refused.err.contains("store.path: cannot change while Weir runs"), "{refused:?}");
    assert_eq!(weir.serving(), serving);
    put(&weir, &named);

    let after = weir.settled("web", 1, LIMIT).await.remove(0);
    assert_eq!(after["pid"].as_u64().unwrap(), pid, "the replica is untouched");
    let report = traffic.stop().await;
    println!("sections taken up by other processes: {}", report.line());
    assert_eq!(report.failed(), 0, "{:?}\n{}", report.failures, weir.log());
    family::send(weir.pid(), "TERM");
    let mut weir = weir;
    support::within("weir ends", LIMIT, weir.child.wait()).await.unwrap();
    family::send(pid as u32, "KILL");
}
