//! What is cut off looks cut off (RFC 9112 §8, threat row 22): an end in order is the end of what was sent, and no other.

use crate::support::backend::{Backend, Step, send};
use crate::support::http::Raw;
use crate::support::proxy::Setup;
use crate::support::{eventually, within};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);
/// An answer that ends with its connection, and has not yet.
const PART: &str = "HTTP/1.1 200 OK\r\n\r\npart";

/// Reads to the end; returns how much came and how it ended.
async fn to_the_end(mut stream: impl AsyncReadExt + Unpin) -> (usize, Result<(), ErrorKind>) {
    let (mut came, mut buffer) = (0, vec![0; 1 << 20]);
    loop {
        match within("the end", LIMIT, stream.read(&mut buffer)).await {
            Ok(0) => return (came, Ok(())),
            Ok(n) => came += n,
            Err(error) => return (came, Err(error.kind())),
        }
    }
}

async fn until_it_comes(stream: &mut (impl AsyncReadExt + Unpin), text: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with(text) {
        assert!(within("octets", LIMIT, stream.read_buf(&mut seen)).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn an_answer_that_the_drain_deadline_cuts_does_not_end_as_if_it_were_whole() {
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n"] {
        let backend = Backend::start(vec![Step::ReadHead, send(PART), Step::Hold]).await;
        let proxy = Setup::new(&[backend.address]).start();
        let mut raw = Raw::connect(proxy.address).await.unwrap();
        raw.send(request).await;
        until_it_comes(&mut raw.stream, "part").await;
        proxy.drain();
        drop(proxy);
        assert_eq!(to_the_end(raw.stream).await, (0, Err(ErrorKind::ConnectionReset)), "{request}");
    }
}

/// The endpoint answers early, takes nothing of the body any more and is gone: what notices first is the body's way up.
#[tokio::test]
async fn an_endpoint_that_resets_while_a_body_waits_for_it_has_not_ended_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Setup::new(&[listener.local_addr().unwrap()]).start();
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let sending = tokio::spawn(async move {
        let _ = write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n").await;
        while let Ok(n) = write.write(&[7; 16 * 1024]).await {
            counter.fetch_add(n, Ordering::SeqCst);
        }
        write
    });
    let (mut endpoint, _) = within("a connection", LIMIT, listener.accept()).await.unwrap();
    endpoint.write_all(PART.as_bytes()).await.unwrap();
    until_it_comes(&mut read, "part").await;
    eventually("a stop", LIMIT, async || {
        let before = sent.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(200)).await;
        (before > 0 && sent.load(Ordering::SeqCst) == before).then_some(())
    })
    .await;
    socket2::SockRef::from(&endpoint).set_linger(Some(Duration::ZERO)).unwrap();
    drop(endpoint);
    assert_eq!(to_the_end(read).await, (0, Err(ErrorKind::ConnectionReset)));
    sending.abort();
}

#[tokio::test]
async fn a_stream_that_is_given_up_with_octets_under_way_is_reset() {
    const BYTES: usize = 64 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = Setup::tcp(&[address]).with(|s| s.spec.timeouts.tunnel_idle = Duration::from_secs(1)).start();
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut endpoint, _) = within("a connection", LIMIT, listener.accept()).await.unwrap();
    let sending = tokio::spawn(async move { endpoint.write_all(&vec![7; BYTES]).await });
    let given_up = async || (proxy.metric("weir_refused_total{reason=\"idle_timeout\"}") == 1).then_some(());
    eventually("the idle time", LIMIT, given_up).await;
    let (came, end) = to_the_end(stream).await;
    assert!(came < BYTES && end == Err(ErrorKind::ConnectionReset), "{end:?} after {came} octets");
    assert!(within("the endpoint's end", LIMIT, sending).await.unwrap().is_err());
}
