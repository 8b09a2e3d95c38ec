//! A Weir that is to follow itself, or one that follows it: that is refused with the reason, and nothing waits for it.

use crate::support;
use crate::support::process::Weir;
use crate::world::{SETTLED, beside, deploy, follows, has, service, table};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// A way whose end is known later; returns its beginning.
async fn way(end: Arc<Mutex<Option<SocketAddr>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let Some(end) = *end.lock().unwrap() else { continue };
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(end).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

/// Waits until a Weir says that it is to follow in a circle.
async fn refuses(weir: &Weir) {
    support::eventually("the circle is told", SETTLED, || async {
        let source = table(weir).await["sources"][0].clone();
        let problem = source["problem"].as_str().unwrap_or_default().to_owned();
        (problem.contains("nobody can follow in a circle") && source["used"] == false).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_follows_itself_and_no_deploy_waits_for_that() {
    let _beside = beside().await;
    let end = Arc::new(Mutex::new(None));
    let source = format!("[source.weir]\nfrom = \"{}\"\nname = \"circle\"\n\n", way(end.clone()).await);
    let one = Weir::start("circle-one", &format!("{source}{}", service(1))).await;
    one.settled("web", 1, SETTLED).await;
    // By way of another that follows it.
    let two = follows("circle-two", &one).await;
    has(&two, 1).await;
    *end.lock().unwrap() = Some(two.admin);
    refuses(&one).await;
    assert_eq!(table(&two).await["sources"][0]["state"], "used", "that one goes on");
    let begin = Instant::now();
    deploy(&one, 1).await;
    println!("in a circle of two the deploy ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // Itself.
    *end.lock().unwrap() = Some(one.admin);
    drop(two);
    support::eventually("it subscribes at itself", SETTLED, || async {
        let rows = table(&one).await["subscribers"].as_array().cloned().unwrap_or_default();
        rows.iter().any(|row| row["name"] == "circle").then_some(())
    })
    .await;
    refuses(&one).await;
    let begin = Instant::now();
    deploy(&one, 2).await;
    println!("in a circle of one the deploy ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}
