//! Services whose endpoints DNS names, around a whole Weir.

use crate::resolvers::Liar;
use crate::support::eventually;
use crate::support::process::{Weir, free_address};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_dns_by_its_ttl_and_the_last_good_ones_stay() {
    let names = Liar::start();
    let port = free_address().port();
    let bind = |n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), port)).unwrap();
    let _backends = [1, 2, 3].map(bind);
    // Its records have a TTL of 1 s.
    let text = format!(
        "[[service]]\nname = \"db\"\ndrain_timeout = \"1s\"\n[service.resolve]\nname = \"local.example\"\ntype = \"a\"\n\
         port = {port}\nservers = [\"{}\"]\n",
        names.address
    );
    let weir = Weir::start("resolve", &text).await;
    let serves = async |address: &str| {
        let ready = weir.ready_instances("db").await;
        let found: Vec<&str> = ready.iter().filter_map(|instance| instance["address"].as_str()).collect();
        (found == [address]).then_some(())
    };
    eventually("the first answer", WAIT, async || serves("127.0.0.1").await).await;
    names.octet.store(2, Ordering::SeqCst);
    eventually("the next answer", WAIT, async || serves("127.0.0.2").await).await;
    names.silent.store(true, Ordering::SeqCst);
    let said = async || weir.log().contains("was not resolved").then_some(());
    eventually("word of the failure", WAIT, said).await;
    assert!(serves("127.0.0.2").await.is_some(), "the last good one stays");
    names.silent.store(false, Ordering::SeqCst);
    names.octet.store(3, Ordering::SeqCst);
    eventually("the answer after that", WAIT, async || serves("127.0.0.3").await).await;
}
