//! A process that runs out of descriptors (threat row 48): what is open goes on, nothing spins, and it passes.

use crate::support::backend::{Backend, answering};
use crate::support::http::Raw;
use crate::support::process::Weir;
use crate::support::{eventually, within};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(20);
/// Of each process.
const DESCRIPTORS: u32 = 256;

/// Returns a metric over the admin API, which needs a descriptor too.
async fn metric(weir: &Weir, name: &str) -> u64 {
    let mut raw = Raw::connect(weir.admin).await.unwrap();
    raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = within("the metrics", LIMIT, raw.answer()).await;
    let line = answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Returns the processor time of a process in hundredths of a second (proc(5)).
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum()
}

#[tokio::test]
async fn without_descriptors_accepting_pauses_and_what_is_open_goes_on() {
    let workers = thread::available_parallelism().unwrap().get();
    let backend = Backend::start(answering("fine")).await;
    let services = format!(
        "[proxy.timeouts]\nhead = \"1m\"\n\n[[service]]\nname = \"web\"\n
[[service.endpoint]]\naddress = \"{}\"\n\n[[route]]\nname = \"web\"\nservice = \"web\"\n",
        backend.address
    );
    let mut weir = Weir::start_poor("descriptors", DESCRIPTORS, &services).await;
    let mut kept = Raw::connect(weir.http).await.unwrap();
    assert_eq!(kept.exchange(GET).await.text(), "fine");
    // Whoever connects is connected: by the kernel, which keeps those that are not accepted.
    let mut crowd = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        crowd.push(within("a connection", LIMIT, TcpStream::connect(weir.http)).await.unwrap());
    }
    eventually("a pause", LIMIT, async || (metric(&weir, "weir_accept_pauses_total").await > 0).then_some(())).await;
    let open = metric(&weir, "weir_connections_open").await;
    assert!((100..u64::from(DESCRIPTORS)).contains(&open), "{open} of {DESCRIPTORS} descriptors");

    // The longest pause is a second: two of them pass, in which a loop that spins would use two seconds of a processor.
    let (before, pauses, begun) =
        (ticks(weir.serving()), metric(&weir, "weir_accept_pauses_total").await, Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (used, paused) = (ticks(weir.serving()) - before, metric(&weir, "weir_accept_pauses_total").await - pauses);
    assert!(used < 50, "{used} hundredths of a second of processor time in two seconds");
    // The first seven, from 10 ms on, take 1.27 s, and each further one a second: of each worker.
    let bound = workers as u64 * (8 + begun.elapsed().as_secs().saturating_sub(2));
    assert!((1..=bound).contains(&paused), "{paused} pauses in two seconds");

    // What is open goes on, also with connections to endpoints that did not exist, and so do the others.
    for _ in 0..20 {
        assert_eq!(kept.exchange(GET).await.text(), "fine");
    }
    let mut late = Raw::connect(weir.http).await.unwrap();
    late.send(GET).await;
    assert!(tokio::time::timeout(Duration::from_millis(500), late.answer()).await.is_err(), "it waits to be accepted");
    assert_eq!(metric(&weir, "weir_panics_total").await, 0);

    drop(crowd);
    assert_eq!(within("an answer", LIMIT, late.answer()).await.text(), "fine");
    assert_eq!(kept.exchange(GET).await.text(), "fine");
    // Each worker says when it pauses and when it does not any more: a few times, as those who waited come all at once.
    let told =
        |what: &str| weir.log().lines().filter(|line| line.contains(what) && line.contains("descriptors")).count();
    let pausing = told("accepting pauses");
    assert!((1..=8 * workers).contains(&pausing), "{}", weir.log());
    let ended = || told("there are descriptors again") == told("accepting pauses");
    eventually("the end", LIMIT, async || ended().then_some(())).await;
    assert_eq!(weir.child.try_wait().unwrap(), None);
}
