//! Services whose endpoints DNS names, around a whole Weir.

use crate::resolvers::{Liar, Unbound};
use crate::support::eventually;
use crate::support::process::{Weir, free_address};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
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

#[tokio::test(flavor = "multi_thread")]
async fn srv_brings_ports_and_weights_and_aaaa_only_ipv6_rfc2782() {
    let backends = [1, 2].map(|n| TcpListener::bind((Ipv4Addr::new(127, 0, 0, n), 0)).unwrap());
    let six_backend = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let (one, two, six_port) = (port(&backends[0]), port(&backends[1]), port(&six_backend));
    let _beside = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), six_port)).unwrap();
    let names = Unbound::start(&format!(
        "local-zone: \"example.\" static\n local-data: \"example. 30 IN SOA ns.example. me.example. 1 2 3 4 30\"\n \
         local-data: \"_db._tcp.example. 1 IN SRV 0 10 {one} one.example.\"\n \
         local-data: \"_db._tcp.example. 1 IN SRV 0 30 {two} two.example.\"\n \
         local-data: \"_db._tcp.example. 1 IN SRV 0 20 {six_port} six.example.\"\n \
         local-data: \"one.example. 1 IN A 127.0.0.1\"\n local-data: \"two.example. 1 IN A 127.0.0.2\"\n \
         local-data: \"six.example. 1 IN AAAA ::1\"\n local-data: \"six.example. 1 IN A 127.0.0.3\""
    ));
    let (server, listener) = (names.address, free_address());
    let text = format!(
        "[[listener]]\nname = \"six\"\naddress = \"{listener}\"\nprotocol = \"tcp\"\nservice = \"six\"\n
[[service]]\nname = \"db\"\n[service.resolve]\nname = \"_db._tcp.example\"\ntype = \"srv\"\nservers = [\"{server}\"]\n
[[service]]\nname = \"six\"\n[service.resolve]\nname = \"six.example\"\ntype = \"aaaa\"\nport = {six_port}\nservers = [\"{server}\"]\n"
    );
    let weir = Weir::start("resolve-srv", &text).await;
    let found = async |service: &str| {
        let ready = weir.ready_instances(service).await;
        let address = |instance: &serde_json::Value| {
            let ports = instance["ports"].as_array().and_then(|ports| ports.first()?.as_u64()).unwrap_or_default();
            format!("{} {ports}", instance["address"].as_str().unwrap_or_default())
        };
        let mut found: Vec<String> = ready.iter().map(address).collect();
        found.sort();
        found
    };
    let mut expected = vec![
        format!("127.0.0.1 {one}"),
        format!("127.0.0.2 {two}"),
        format!("127.0.0.3 {six_port}"),
        format!("::1 {six_port}"),
    ];
    expected.sort();
    let all = async || {
        let found = found("db").await;
        (found == expected).then_some(())
    };
    eventually("the endpoints of the SRV records", WAIT, all).await;
    let said = crate::tools::dig(weir.dns, "+short _http._tcp.db.weir.internal SRV");
    let mut weights: Vec<String> =
        said.lines().iter().map(|line| line.split(" db-").next().unwrap().to_owned()).collect();
    weights.sort();
    let mut told =
        [(10, one), (30, two), (20, six_port), (20, six_port)].map(|(weight, port)| format!("0 {weight} {port}"));
    told.sort();
    assert_eq!(weights, told, "{}", said.text);
    let six = async || (found("six").await == [format!("::1 {six_port}")]).then_some(());
    eventually("the endpoint of the AAAA record", WAIT, six).await;
    // And connections arrive there.
    six_backend.set_nonblocking(true).unwrap();
    let _client = std::net::TcpStream::connect(listener).unwrap();
    let arrived = async || six_backend.accept().ok();
    eventually("a connection at the IPv6 endpoint", WAIT, arrived).await;
}
