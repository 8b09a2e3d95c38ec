//! Octets under way while what serves changes: an upload and a TCP stream, stopped in the middle with every buffer and pipe on the
//! way full, meet a reload, the removal of their endpoint, and an upgrade, and arrive whole.

use crate::support::http::Raw;
use crate::support::process::{Weir, free_address};
use crate::{loaded, support};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(60);
const PIECE: usize = 256 << 10;
/// Much more than the buffers on the way hold.
const LENGTH: usize = 384 * PIECE;
/// So much is read before the change; then nothing is until it is over.
const BEFORE: usize = 24 * PIECE;

/// How far readers have come, and whether they may go on.
#[derive(Clone)]
struct Gate {
    at: watch::Sender<(usize, usize)>,
    open: watch::Receiver<bool>,
}

/// Octets of which each piece begins with its place; the period divides no power of two.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        Self((0..PIECE).map(|i| (i % 251) as u8).collect())
    }

    fn at(&mut self, at: usize) -> &[u8] {
        self.0[..8].copy_from_slice(&at.to_be_bytes());
        &self.0
    }
}

async fn write_all(mut to: impl AsyncWrite + Unpin) {
    let mut pattern = Pattern::new();
    for at in (0..LENGTH).step_by(PIECE) {
        to.write_all(pattern.at(at)).await.unwrap_or_else(|error| panic!("at {at}: {error}"));
    }
}

/// Reads it all and compares it, after a stop in the middle.
async fn read_all(mut from: impl AsyncRead + Unpin, mut gate: Gate, told: impl Fn(&mut (usize, usize), usize)) {
    let (mut pattern, mut piece) = (Pattern::new(), vec![0; PIECE]);
    for at in (0..LENGTH).step_by(PIECE) {
        if at == BEFORE {
            gate.open.wait_for(|open| *open).await.unwrap();
        }
        from.read_exact(&mut piece).await.unwrap_or_else(|error| panic!("at {at}: {error}"));
        assert!(piece == pattern.at(at), "other octets from {at} on");
        gate.at.send_modify(|far| told(far, at + PIECE));
    }
}

/// Reads uploads, and sends back what comes by other connections.
async fn serve(mut stream: TcpStream, gate: Gate) {
    let mut first = [0; 5];
    if stream.read_exact(&mut first).await.is_err() {
        return;
    }
    match &first {
        b"POST " => {
            let mut head = first.to_vec();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            read_all(&mut stream, gate, |far, at| far.0 = at).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole").await.unwrap();
        }
        first => {
            let (mut from, mut to) = stream.into_split();
            to.write_all(first).await.unwrap();
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        }
    }
}

async fn endpoint(gate: Gate) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, gate.clone()));
        }
    });
    address
}

fn services(raw: SocketAddr, endpoints: &[SocketAddr], more: &str) -> String {
    let endpoints: String =
        endpoints.iter().map(|at| format!("\n[[service.endpoint]]\naddress = \"{at}\"\n")).collect();
    format!(
        "[[listener]]\nname = \"raw\"\naddress = \"{raw}\"\nprotocol = \"tcp\"\nservice = \"web\"\n\n\
         [[route]]\nname = \"web\"\nservice = \"web\"\n\n[[service]]\nname = \"web\"\n{more}\n{endpoints}"
    )
}

/// Writes another configuration and has it taken up.
async fn reload(weir: &Weir, before: &str, after: &str) {
    let file = weir.folder.0.join("weir.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(before));
    std::fs::write(&file, text.replace(before, after)).unwrap();
    let done = weir.cli(&["reload"]).await;
    assert_eq!(done.code, 0, "{done:?}\n{}", weir.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_arrives_whole_through_a_reload_the_removal_of_its_endpoint_and_an_upgrade() {
    let _loaded = loaded().await;
    let (go, open) = watch::channel(false);
    let (at, mut far) = watch::channel((0, 0));
    let gate = Gate { at, open };
    let (raw, address) = (free_address(), endpoint(gate.clone()).await);
    let first = services(raw, &[address], "");
    let weir = Weir::start_keeping("moving", &first).await;
    weir.settled("web", 1, LIMIT).await;

    let mut upload = Raw::connect(weir.http).await.unwrap();
    upload.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let upload = tokio::spawn(async move {
        write_all(&mut upload.stream).await;
        upload.answer().await
    });
    let (from, to) = TcpStream::connect(raw).await.unwrap().into_split();
    let sent = tokio::spawn(write_all(to));
    let echoed = tokio::spawn(read_all(from, gate, |far, at| far.1 = at));
    let both = far.wait_for(|far| far.0 == BEFORE && far.1 == BEFORE);
    support::within("both are in the middle", LIMIT, both).await.unwrap();

    let second = services(raw, &[address], "retries = 0\n");
    reload(&weir, &first, &second).await;
    reload(&weir, &second, &services(raw, &[support::backend::Backend::refusing()], "retries = 0\n")).await;
    let serving = weir.serving();
    let finished = weir.cli(&["upgrade"]).await;
    assert_eq!(finished.code, 0, "{finished:?}\n{}", weir.log());
    assert_ne!(weir.serving(), serving);
    assert!(!upload.is_finished() && !sent.is_finished() && !echoed.is_finished(), "{}", weir.log());

    go.send(true).unwrap();
    let answer = support::within("the upload", LIMIT, upload).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "whole"), "{}", weir.log());
    support::within("the stream", LIMIT, async { (sent.await.unwrap(), echoed.await.unwrap()) }).await;
}
