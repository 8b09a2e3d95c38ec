//! A scheduler that is started again: its generations count from the beginning, and those that followed it are waited for.

use crate::scene::Way;
use crate::support;
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::world::{SETTLED, alone, beside, follower, has, service, subscriber, table};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Between two heartbeats of the one that pretends to be a scheduler.
const BEAT: Duration = Duration::from_millis(20);

/// What followers said to the one that pretends to be a scheduler: session and generation.
#[derive(Default)]
struct Heard {
    said: Mutex<Vec<(String, u64)>>,
    sessions: Mutex<Vec<String>>,
}

async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

/// Takes acknowledgements.
async fn listen(mut socket: TcpStream, mut first: String, heard: Arc<Heard>) -> Option<()> {
    loop {
        let length = first.to_ascii_lowercase().split("content-length: ").nth(1)?.split('\r').next()?.parse().ok()?;
        let mut body = vec![0; length];
        socket.read_exact(&mut body).await.ok()?;
        let body: Value = serde_json::from_slice(&body).ok()?;
        heard.said.lock().unwrap().push((body["session"].as_str()?.to_owned(), body["generation"].as_u64()?));
        socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.ok()?;
        first = head(&mut socket).await?;
    }
}

/// A scheduler in two lives: at generation 50 in the first, which ends when that is acknowledged, and at 60 in the second,
/// which says so when the follower could have said something.
async fn two_lives(listener: TcpListener, heard: Arc<Heard>) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let heard = heard.clone();
        tokio::spawn(async move {
            let head = head(&mut socket).await?;
            if !head.starts_with("GET") {
                return listen(socket, head, heard).await;
            }
            let session = head.split("session=").nth(1)?.split(['&', ' ']).next()?.to_owned();
            let life = {
                let mut sessions = heard.sessions.lock().unwrap();
                sessions.push(session.clone());
                sessions.len()
            };
            let generation = 40 + 10 * life.min(2);
            let hello = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{{\"hello\":{{\"format\":1,\"weir\":\"x\",\"node\":\"n\",\"epoch\":\"e{}\",\"session\":\"{session}\",\"heartbeat_ms\":1000}}}}\n",
                life.min(2)
            );
            let update = format!(
                "{{\"begin\":{{\"generation\":{generation},\"after\":null}}}}\n{{\"service\":{{\"definition\":{{\"name\":\"web\"}},\"endpoints\":[]}}}}\n{{\"end\":{{\"generation\":{generation},\"lines\":1}}}}\n"
            );
            let said = |session: &str| heard.said.lock().unwrap().iter().any(|(of, _)| of == session);
            socket.write_all(hello.as_bytes()).await.ok()?;
            if life > 1 {
                // Whatever it has to say of the life before it says now; nothing would come for as long as it waits.
                let says = async {
                    while !said(&session) {
                        tokio::time::sleep(BEAT).await;
                    }
                };
                let _ = tokio::time::timeout(25 * BEAT, says).await;
            }
            socket.write_all(update.as_bytes()).await.ok()?;
            while life > 1 || !said(&session) {
                tokio::time::sleep(BEAT).await;
                socket
                    .write_all(format!("{{\"heartbeat\":{{\"generation\":{generation}}}}}\n").as_bytes())
                    .await
                    .ok()?;
            }
            Some(())
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_of_a_scheduler_is_not_acknowledged_to_the_next_one() {
    let _beside = beside().await;
    let heard: Arc<Heard> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let lives = tokio::spawn(two_lives(listener, heard.clone()));
    let edge = follower("lives-edge", &format!("\"{address}\"")).await;
    support::eventually("the second life is acknowledged", SETTLED, || async {
        heard.said.lock().unwrap().iter().any(|(_, generation)| *generation == 60).then_some(())
    })
    .await;
    lives.abort();
    let (said, sessions) = (heard.said.lock().unwrap().clone(), heard.sessions.lock().unwrap().clone());
    println!("{said:?}");
    assert!(said.contains(&(sessions[0].clone(), 50)), "{said:?}");
    let wrong: Vec<_> =
        said.iter().filter(|(session, generation)| *session != sessions[0] && *generation != 60).collect();
    assert!(wrong.is_empty(), "numbers of the first life, said in the second: {wrong:?}");
    assert_eq!(table(&edge).await["services"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_followed_before_a_restart_is_waited_for_until_it_is_back() {
    let _alone = alone().await;
    let mut origin = Weir::start_keeping("again-scheduler", &service(1)).await;
    origin.settled("web", 1, SETTLED).await;
    let way = Way::to(origin.admin).await;
    let edge = follower("again-follower", &format!("\"{}\"", way.address)).await;
    has(&edge, 1).await;
    subscriber(&origin, "again-follower", "following").await;
    support::eventually("it is remembered", SETTLED, || async {
        let known = std::fs::read_to_string(origin.folder.0.join("state/followers")).unwrap_or_default();
        (known == "again-follower\n").then_some(())
    })
    .await;
    let http = edge.http;
    let held = tokio::spawn(async move {
        let mut raw = Raw::connect(http).await.unwrap();
        raw.send("GET /delay/12000 HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await;
        raw.try_answer(false).await.map(|answer| answer.status).ok()
    });
    support::eventually("it is in flight", SETTLED, || async {
        let (_, found) = edge.api("GET", "/v1/endpoints", None).await;
        found["endpoints"].as_array()?.iter().any(|one| one["in_flight"] == 1).then_some(())
    })
    .await;
    // The scheduler dies and comes back, and is asked to stop the replica before the follower can have come back.
    way.cut();
    origin.kill();
    let _ = origin.child.wait().await;
    origin.respawn();
    origin.ready().await;
    let scaled = origin.cli(&["scale", "web", "0"]);
    let back = async {
        support::eventually("the replica leaves", SETTLED, || async {
            origin.instances().await.iter().any(|one| one["state"] == "draining").then_some(())
        })
        .await;
        way.mend();
    };
    let (finished, ()) = tokio::join!(scaled, back);
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(held.await.unwrap(), Some(200), "{}\n{}", origin.log(), edge.log());
    support::eventually("the replica is gone", SETTLED, || async {
        origin.instances().await.iter().all(|one| one["state"] == "gone").then_some(())
    })
    .await;
}

/// What a Weir defines itself, with one endpoint.
fn own(port: u16) -> String {
    format!("\n[[service]]\nname = \"web\"\n[[service.endpoint]]\naddress = \"127.0.0.1:{port}\"\n")
}

/// Changes a Weir's configuration while it runs.
async fn reload(weir: &Weir, change: impl Fn(&str) -> String) {
    let path = weir.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    weir.folder.write("new.toml", &change(&text));
    std::fs::rename(weir.folder.0.join("new.toml"), &path).unwrap();
    let finished = weir.cli(&["reload"]).await;
    assert_eq!(finished.code, 0, "{finished:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_a_follower_defines_while_it_runs_is_its_own_until_it_gives_it_up() {
    let _beside = beside().await;
    let origin = Weir::start("own-origin", &service(1)).await;
    let told = origin.settled("web", 1, SETTLED).await[0]["id"].as_str().unwrap().to_owned();
    let edge = follower("own-edge", &format!("\"{}\"", origin.admin)).await;
    has(&edge, 1).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let ids = || async {
        let (_, found) = edge.api("GET", "/v1/endpoints", None).await;
        let endpoints = found["endpoints"].as_array().cloned().unwrap_or_default();
        let usable = endpoints.iter().filter(|one| one["service"] == "web" && one["state"] == "usable");
        usable.map(|one| one["id"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    reload(&edge, |text| format!("{text}{}", own(port))).await;
    support::eventually("its own endpoint is the only one", SETTLED, || async {
        let ids = ids().await;
        (ids.len() == 1 && ids[0] != told).then_some(())
    })
    .await;
    reload(&edge, |text| text.replace(&own(port), "")).await;
    support::eventually("the told one is back", SETTLED, || async { (ids().await == [told.as_str()]).then_some(()) })
        .await;
}
