//! The binary is swapped under load.

use crate::crash::services;
use crate::support::family;
use crate::support::http::Raw;
use crate::support::process::{WEIR, Weir};
use crate::support::traffic::{Plan, Traffic};
use crate::{Whoami, alone, loaded, passes, support};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

const LIMIT: Duration = Duration::from_secs(60);

/// Two replicas of `weir whoami`.
const WEB: &str = "[[route]]\nname = \"web\"\nservice = \"web\"\n\n[[service]]\nname = \"web\"\nreplicas = 2\n\n\
    [service.run]\ncommand = [\"${WEIR}\", \"whoami\", \"--listen\", \"127.0.0.1:${PORT}\"]\n";

/// Writes an executable into Weir's folder.
fn script(weir: &Weir, name: &str, text: &str) -> PathBuf {
    let path = weir.folder.write(name, text);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Opens a tunnel through Weir and checks that it is one.
async fn tunnel(weir: &Weir) -> Raw {
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send(
        "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status, 101);
    raw
}

/// Sends a frame of text and waits for its echo.
async fn echoes(raw: &mut Raw) {
    raw.send([0x81, 0x84, 0, 0, 0, 0, b'e', b'c', b'h', b'o']).await;
    let mut echo = [0; 6];
    support::within("an echo", LIMIT, raw.stream.read_exact(&mut echo)).await.expect("the tunnel lives");
    assert_eq!(&echo, b"\x81\x04echo");
}

async fn upgrades_fail_no_request(upgrades: usize, rate: f64) {
    let _loaded = loaded().await;
    let mut weir = Weir::start_keeping("upgrade", WEB).await;
    let before = weir.settled("web", 2, LIMIT).await;
    let traffic = Traffic::start(Plan { rate, ..Plan::new(weir.http) });
    passes(&traffic, 50).await;
    // On disk beside the running one, as a package manager would put it.
    let new = weir.folder.0.join("weir-new");
    std::fs::copy(WEIR, &new).unwrap();
    let mut held = tunnel(&weir).await;
    echoes(&mut held).await;
    let mut serving = weir.serving();
    for number in 1..=upgrades {
        let finished = weir.cli(&["upgrade", "--binary", new.to_str().unwrap()]).await;
        assert_eq!(finished.code, 0, "upgrade {number}: {finished:?}\n{}", weir.log());
        assert!(weir.serving() != serving, "upgrade {number}");
        serving = weir.serving();
        if number == 1 {
            echoes(&mut held).await;
        }
        passes(&traffic, rate as u64).await;
    }
    let after = weir.settled("web", 2, LIMIT).await;
    let pids = |instances: &[serde_json::Value]| {
        let mut pids: Vec<_> = instances.iter().map(|i| i["pid"].as_u64().unwrap()).collect();
        pids.sort_unstable();
        pids
    };
    let report = traffic.stop().await;
    println!("{upgrades} upgrades: {}", report.line());
    assert_eq!(report.failed(), 0, "{:?}\n{}", report.failures, weir.log());
    assert_eq!(pids(&before), pids(&after), "the replicas are untouched\n{}", weir.log());
    family::send(weir.pid(), "TERM");
    drop(held);
    let status = support::within("weir ends", LIMIT, weir.child.wait()).await.unwrap();
    assert!(status.success(), "{status}\n{}", weir.log());
    // `keep` is the default: what was left running is this test's to end.
    for pid in pids(&after) {
        family::send(pid as u32, "KILL");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_fails_no_request_and_leaves_tunnels_and_replicas() {
    upgrades_fail_no_request(2, 200.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: 20 upgrades at 2,000 requests a second; run by tests/run --long"]
async fn twenty_upgrades_fail_no_request() {
    upgrades_fail_no_request(20, 2_000.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_asked_for_during_an_upgrade_is_the_end_of_all() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    for (is_early, by_keeper) in [(true, true), (false, true), (false, false)] {
        let mut weir = Weir::start_keeping("ended-upgrade", &services(backend.address)).await;
        let (keeper, old) = (weir.pid(), weir.serving());
        family::send(keeper, "USR2");
        let is_there = || match is_early {
            true => weir.log().contains("giving up the store"),
            false => family::serving(keeper).len() == 2,
        };
        support::eventually("the upgrade is under way", LIMIT, || async { is_there().then_some(()) }).await;
        family::send(if by_keeper { keeper } else { old }, "TERM");
        if !by_keeper {
            // Where the new one served already, only the old one was told, and ends.
            support::eventually("the old one ends", LIMIT, || async {
                let pids = family::serving(keeper);
                (!pids.contains(&old)).then_some(())
            })
            .await;
            if weir.log().contains("upgraded:") {
                assert!(crate::crash::answers(weir.http).await, "{}", weir.log());
                family::send(keeper, "TERM");
            }
        }
        let status = support::within("weir ends", LIMIT, weir.child.wait()).await.unwrap();
        assert!(status.success(), "{status}\n{}", weir.log());
        assert!(Raw::connect(weir.http).await.is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_that_does_not_serve_is_given_up_and_the_old_one_serves_on() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let weir = Weir::start_keeping("bad-upgrade", &services(backend.address)).await;
    support::eventually("the endpoint is ready", LIMIT, || async {
        let mut raw = Raw::connect(weir.http).await.ok()?;
        (raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status == 200).then_some(())
    })
    .await;
    let traffic = Traffic::start(Plan { rate: 200.0, keepalive: 8, fresh: 4, ..Plan::new(weir.http) });
    let serving = weir.serving();
    let foreign = weir.cli(&["upgrade", "--binary", "/bin/true"]).await;
    assert!(foreign.code == 4 && foreign.err.contains("is no weir"), "{foreign:?}");
    let none = weir.cli(&["upgrade", "--binary", "/nowhere/weir"]).await;
    assert!(none.code == 4 && none.err.contains("/nowhere/weir"), "{none:?}");
    let strict = "#!/bin/sh\ncase $1 in version) echo weir 9 ;; *) echo no such key >&2; exit 2 ;; esac\n";
    let strict = weir.cli(&["upgrade", "--binary", script(&weir, "strict", strict).to_str().unwrap()]).await;
    assert!(strict.code == 4 && strict.err.contains("no such key"), "{strict:?}");
    assert_eq!(weir.serving(), serving, "nothing was touched");
    let broken = "#!/bin/sh\ncase $1 in version) echo weir 9 ;; check) ;; *) exit 3 ;; esac\n";
    let broken = weir.cli(&["upgrade", "--binary", script(&weir, "broken", broken).to_str().unwrap()]).await;
    assert_eq!(broken.code, 1, "{broken:?}\n{}", weir.log());
    assert!(broken.err.contains("before it served") && broken.err.contains("the old binary serves on"), "{broken:?}");
    passes(&traffic, 100).await;
    let report = traffic.stop().await;
    assert_eq!(report.failed(), 0, "{:?}\n{}", report.failures, weir.log());
    let status = weir.cli(&["status"]).await;
    let processes = format!("{} serves", weir.serving());
    assert!(status.out.contains(&processes) && status.out.contains(&format!("keeper {}", weir.pid())), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigusr2_starts_the_binary_on_disk() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let weir = Weir::start_keeping("usr2", &services(backend.address)).await;
    let serving = weir.serving();
    family::send(weir.pid(), "USR2");
    support::eventually("another process serves", LIMIT, || async {
        let (_, last) = weir.api("GET", "/v1/upgrade", None).await;
        (last["state"] == "done" && weir.serving() != serving && last["number"] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_refused_where_replicas_end_with_their_process() {
    let _loaded = loaded().await;
    let backend = Whoami::start().await;
    let weir = Weir::start("stops", &services(backend.address)).await;
    let serving = weir.serving();
    let finished = weir.cli(&["upgrade"]).await;
    assert!(finished.code == 4 && finished.err.contains("workloads_on_exit"), "{finished:?}");
    assert_eq!(weir.serving(), serving);
}

/// Downloads at 16 MiB a second until it ends; returns how much came, and when it ended.
async fn slow_download(weir: &Weir, length: u64) -> tokio::task::JoinHandle<(u64, Instant)> {
    let mut raw = Raw::connect(weir.http).await.unwrap();
    raw.send(format!("GET /bytes/{length} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
    let mut first = [0; 12];
    raw.stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::spawn(async move {
        let (start, mut got, mut buffer) = (Instant::now(), 0, vec![0; 256 * 1024]);
        while let Ok(count @ 1..) = raw.stream.read(&mut buffer).await {
            got += count as u64;
            // The head is longer than nothing: all of the body came when more than its length did.
            if got > length {
                break;
            }
            let due = start + Duration::from_secs_f64(got as f64 / (16.0 * 1024.0 * 1024.0));
            tokio::time::sleep_until(due.into()).await;
        }
        (got, Instant::now())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_an_upgrade_until_the_drain_deadline_and_are_cut_then() {
    const DRAIN: Duration = Duration::from_secs(4);
    let _alone = alone().await;
    let backend = Whoami::start().await;
    let services = format!("{}\n[proxy.timeouts]\ndrain = \"4s\"\n", services(backend.address));
    let weir = Weir::start_keeping("streams", &services).await;
    support::eventually("the endpoint is ready", LIMIT, || async {
        let mut raw = Raw::connect(weir.http).await.ok()?;
        (raw.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status == 200).then_some(())
    })
    .await;
    let (mut held, mut brief) = (tunnel(&weir).await, tunnel(&weir).await);
    let long = slow_download(&weir, 1 << 30).await;
    let short = slow_download(&weir, 24 << 20).await;
    echoes(&mut held).await;
    let before = Instant::now();
    let finished = weir.cli(&["upgrade"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", weir.log());
    let after = Instant::now();
    // What ends in time ends well.
    echoes(&mut brief).await;
    brief.send([0x88, 0x80, 0, 0, 0, 0]).await;
    assert_eq!(brief.rest().await, [0x88, 0]);
    drop(brief);
    let (got, _) = short.await.unwrap();
    assert!(got > 24 << 20, "{got}\n{}", weir.log());
    // The rest lives until the deadline, and no longer.
    while before.elapsed() < DRAIN - Duration::from_millis(500) {
        echoes(&mut held).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!long.is_finished(), "{}", weir.log());
    let mut end = [0; 1];
    let ended = support::within("the end of the tunnel", LIMIT, held.stream.read(&mut end)).await;
    assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    let tunnel_ended = Instant::now();
    let (got, download_ended) = support::within("the end of the download", LIMIT, long).await.unwrap();
    assert!(got < 1 << 30, "{got}");
    for (what, at) in [("tunnel", tunnel_ended), ("download", download_ended)] {
        println!("{what}: cut {:?} after the upgrade was asked for, {:?} after it was done", at - before, at - after);
        assert!(at - before >= DRAIN && at - after <= DRAIN + Duration::from_secs(3), "{what}\n{}", weir.log());
    }
    support::eventually("it is said", LIMIT, || async {
        weir.log().contains("connections were cut off").then_some(())
    })
    .await;
    // The old process's metrics cannot be read any more; the one that serves shows what it cut.
    support::eventually("what was cut is counted", LIMIT, || async {
        let mut raw = Raw::connect(weir.admin).await.ok()?;
        let answer = raw.exchange("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let cut = |kind: &str| text.contains(&format!("weir_connections_cut_total{{kind=\"{kind}\"}} 1\n"));
        (cut("stream") && cut("request")).then_some(())
    })
    .await;
    // Also the one after that, which the keeper tells.
    assert_eq!(weir.cli(&["upgrade"]).await.code, 0);
    let mut raw = Raw::connect(weir.admin).await.unwrap();
    let answer = raw.exchange("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let text = String::from_utf8_lossy(&answer.body);
    assert!(text.contains("weir_connections_cut_total{kind=\"stream\"} 1\n"), "{text}");
}
