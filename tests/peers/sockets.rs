//! Many WebSockets live through many changes of the configuration, over HTTP/1.1 and as streams of HTTP/2.

use crate::client::connect;
use crate::support::process::{Weir, free_address};
use crate::support::{eventually, within};
use crate::tunnel::{MASK, Tunnel, frame, read_frame, upgrade};
use bytes::Bytes;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
/// Streams on one connection: as many as Weir allows by default.
const STREAMS: usize = 100;
/// From one echo of a socket to its next.
const PACE: Duration = Duration::from_millis(250);

/// A WebSocket of either kind.
enum Socket {
    Http1(BufReader<TcpStream>),
    Http2(Tunnel),
}

impl Socket {
    async fn over_http1(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(upgrade("/ws").as_bytes()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("an answer", LIMIT, stream.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        Self::Http1(stream)
    }

    /// Sends a frame and reads what comes back: a wrong octet, an end or a reset is told as text.
    async fn echo(&mut self, payload: &[u8]) -> Result<(), String> {
        let sent = frame(payload, Some(MASK));
        let same = match self {
            Self::Http1(stream) => {
                stream.write_all(&sent).await.map_err(|error| format!("cut: {error}"))?;
                read_frame(stream).await.ok_or("cut")? == payload
            }
            Self::Http2(tunnel) => {
                let expected = frame(payload, None);
                tunnel.write(sent.into()).await.map_err(|error| format!("cut: {error}"))?;
                tunnel.read(expected.len()).await.map_err(|error| format!("cut: {error}"))? == expected
            }
        };
        if same { Ok(()) } else { Err("wrong octets".to_owned()) }
    }

    /// Ends our side; the other side has to end in order.
    async fn end(self) -> Result<(), String> {
        match self {
            Self::Http1(mut stream) => {
                stream.shutdown().await.map_err(|error| error.to_string())?;
                let rest = stream.read_u8().await;
                if rest.is_ok() { Err("octets behind the end".to_owned()) } else { Ok(()) }
            }
            Self::Http2(mut tunnel) => {
                tunnel.send.send_data(Bytes::new(), true).map_err(|error| error.to_string())?;
                let rest = tunnel.read(1).await.map_err(|error| error.to_string())?;
                if rest.is_empty() { Ok(()) } else { Err("octets behind the end".to_owned()) }
            }
        }
    }
}

/// What a socket does until it is told to stop, and how often it has done it.
struct Pinging {
    echoes: Arc<AtomicU64>,
    task: JoinHandle<Result<Duration, String>>,
}

/// The octets of one echo: no two of a run are the same, of 1 to 2,000 octets, now and then of more than a window.
fn payload(number: usize, echo: u64) -> Vec<u8> {
    let seed = number as u64 * 1_000_003 + echo * 7919;
    let length = if echo % 64 == 63 { 70_000 } else { 1 + seed % 2000 };
    (0..length).map(|i| (seed + i * 31 + (i >> 8)) as u8).collect()
}

fn ping(mut socket: Socket, number: usize, stop: Arc<AtomicBool>) -> Pinging {
    let echoes = Arc::new(AtomicU64::new(0));
    let count = echoes.clone();
    let task = tokio::spawn(async move {
        let mut longest = Duration::ZERO;
        // Each begins at another time.
        tokio::time::sleep(PACE.mul_f64((number % 97) as f64 / 97.0)).await;
        loop {
            // The last one is after the last change.
            let last = stop.load(Ordering::SeqCst);
            let (begun, echo) = (Instant::now(), count.load(Ordering::SeqCst));
            let octets = payload(number, echo);
            let echoed = tokio::time::timeout(LIMIT, socket.echo(&octets)).await;
            echoed.unwrap_or_else(|_| Err("no echo".to_owned())).map_err(|error| format!("{number}: {error}"))?;
            longest = longest.max(begun.elapsed());
            count.fetch_add(1, Ordering::SeqCst);
            if last {
                socket.end().await.map_err(|error| format!("{number}: at the end: {error}"))?;
                return Ok(longest);
            }
            tokio::time::sleep_until((begun + PACE).into()).await;
        }
    });
    Pinging { echoes, task }
}

/// The configuration of a turn: routes, listeners, other services, limits, the log, and the sockets' own service change.
fn change(base: &str, turn: usize) -> String {
    let own = format!("[[service]]\nname = \"web\"\nretries = {}\n", turn % 5);
    let base = base.replace("[[service]]\nname = \"web\"\n", &own);
    let more = match turn % 6 {
        0 => "[[route]]\nname = \"extra\"\npath = \"/extra\"\nservice = \"web\"\n".to_owned(),
        1 => String::new(),
        2 => format!("[[listener]]\nname = \"extra\"\naddress = \"{}\"\n", free_address()),
        3 => "[[service]]\nname = \"new\"\n[[service.endpoint]]\naddress = \"127.0.0.1:9\"\n".to_owned(),
        // The last section of the file is that of the sockets' own service.
        4 => format!("[service.limits]\nqueue = {}\n[service.timeouts]\ntunnel_idle = \"2h\"\n", 200 + turn),
        _ => "[log]\nlevel = \"debug\"\n".to_owned(),
    };
    format!("{base}\n{more}")
}

async fn applied(weir: &Weir) -> u64 {
    let (status, found) = weir.api("GET", "/v1/configuration", None).await;
    assert_eq!((status, &found["failure"]), (200, &serde_json::Value::Null), "{}", weir.log());
    found["reloads"]["applied"].as_u64().unwrap()
}

/// Opens `count` WebSockets, half of them as streams of HTTP/2, and changes the configuration `reloads` times.
async fn sockets_survive(count: usize, reloads: usize) {
    let weir = Weir::start(
        "sockets",
        "[[route]]\nname = \"web\"\nservice = \"web\"\n\n[[service]]\nname = \"web\"\nreplicas = 2\n\
         [service.run]\ncommand = [\"${WEIR}\", \"whoami\", \"--listen\", \"127.0.0.1:${PORT}\"]\n",
    )
    .await;
    weir.settled("web", 2, LIMIT).await;
    let base = fs::read_to_string(weir.folder.0.join("weir.toml")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut pinging, mut drivers) = (Vec::new(), Vec::new());
    for number in 0..count / 2 {
        pinging.push(ping(Socket::over_http1(weir.http).await, number, stop.clone()));
    }
    for first in (count / 2..count).step_by(STREAMS) {
        let (connection, driver) = connect(weir.http).await;
        drivers.push(driver);
        for number in first..count.min(first + STREAMS) {
            let tunnel = Tunnel::open(&connection, "/ws").await;
            pinging.push(ping(Socket::Http2(tunnel), number, stop.clone()));
        }
    }
    let all_echo = async |more: u64| {
        let seen: Vec<u64> = pinging.iter().map(|one| one.echoes.load(Ordering::SeqCst)).collect();
        eventually("each echoes", LIMIT, async || {
            let ended = pinging.iter().filter(|one| one.task.is_finished()).count();
            assert_eq!(ended, 0, "{ended} of {count} ended\n{}", weir.log());
            pinging.iter().zip(&seen).all(|(one, seen)| one.echoes.load(Ordering::SeqCst) >= seen + more).then_some(())
        })
        .await;
    };
    all_echo(1).await;
    let begun = Instant::now();
    for turn in 0..reloads {
        let before = applied(&weir).await;
        fs::write(weir.folder.0.join("weir.toml.new"), change(&base, turn)).unwrap();
        fs::rename(weir.folder.0.join("weir.toml.new"), weir.folder.0.join("weir.toml")).unwrap();
        eventually("the change is in use", LIMIT, async || (applied(&weir).await > before).then_some(())).await;
        // The first may have been sent before the change.
        all_echo(2).await;
    }
    let took = begun.elapsed();
    assert_eq!(applied(&weir).await, reloads as u64);
    stop.store(true, Ordering::SeqCst);
    let (mut echoes, mut longest) = (0, Duration::ZERO);
    for one in pinging {
        longest = longest.max(one.task.await.unwrap().unwrap());
        echoes += one.echoes.load(Ordering::SeqCst);
    }
    for driver in drivers {
        driver.await.unwrap().unwrap();
    }
    println!(
        "{count} WebSockets, {} of them on {} connections of HTTP/2, {reloads} reloads in {took:?}: {echoes} echoes, none cut, \
         0 wrong octets, longest wait {longest:?}",
        count - count / 2,
        (count - count / 2).div_ceil(STREAMS),
    );
    assert!(echoes >= (count * (2 * reloads + 2)) as u64);
    let metrics = crate::support::http::get(weir.admin, "/metrics").await.text();
    assert!(metrics.lines().any(|line| line == "weir_panics_total 0"), "{metrics}");
    // None was refused, reset or cut, whatever the reason.
    let refused: Vec<_> = metrics.lines().filter(|line| line.starts_with("weir_refused_total{")).collect();
    assert!(refused.iter().all(|line| line.ends_with(" 0")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_websockets_survive_ten_reloads() {
    sockets_survive(100, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: a thousand WebSockets and a hundred reloads; run by tests/run --long"]
async fn a_thousand_websockets_survive_a_hundred_reloads() {
    sockets_survive(1000, 100).await;
}
