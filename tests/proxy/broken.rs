//! Sides of a TCP stream that stop reading and close: what they sent before arrives, as far as the kernel has it.

use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use weir::net::Stream;

const LIMIT: Duration = Duration::from_secs(20);
/// More than a side with small buffers takes unread, and less than the kernel holds for the proxy.
const SAID: usize = 512 << 10;
/// More than the kernel holds for all of them.
const UPLOAD: usize = 24 << 20;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

/// Says the pattern; returns once the proxy's kernel has all of it and there is something unread, so that the close is a reset.
async fn say(stream: TcpStream, ends: bool) -> Stream {
    let mut stream = Stream::from(stream);
    within("the words", LIMIT, stream.write_all(&pattern(SAID))).await.unwrap();
    if ends {
        stream.shutdown().await.unwrap();
    }
    eventually("the proxy has it", LIMIT, async || (stream.queued() == 0).then_some(())).await;
    within("something unread", LIMIT, stream.socket().unwrap().readable()).await.unwrap();
    stream
}

/// A socket that takes little unread.
fn small() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket
}

async fn ended(proxy: &Proxy, received: Option<u64>, sent: Option<u64>) {
    eventually("the end", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    assert_eq!(proxy.metric("weir_streams_open{service=\"web\"}"), 0);
    assert_eq!(proxy.metric("weir_streams_cut_total{service=\"web\"}"), 0);
    for (direction, expected) in [("received", received), ("sent", sent)] {
        if let Some(expected) = expected {
            assert_eq!(proxy.metric(&format!("weir_{direction}_bytes_total{{service=\"web\"}}")), expected);
        }
    }
}

/// Reads all that a side says; returns whether its end was one.
async fn heard(stream: &mut TcpStream) -> bool {
    let mut all = Vec::new();
    let end = within("the end", LIMIT, stream.read_to_end(&mut all)).await;
    assert!(all == pattern(SAID), "{} of {SAID} octets, {end:?}", all.len());
    end.map_err(|error| assert_eq!(error.kind(), ErrorKind::ConnectionReset)).is_ok()
}

/// An endpoint answers and closes while the client still uploads, which reads only after that.
async fn refused_upload(ends: bool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = Setup::tcp(&[listener.local_addr().unwrap()]).start();
    let mut client = small().connect(proxy.address).await.unwrap();
    let (endpoint, _) = listener.accept().await.unwrap();
    let octets = vec![0; UPLOAD];
    let closes = async { drop(say(endpoint, ends).await) };
    let (upload, ()) = tokio::join!(within("the upload gets on", LIMIT, client.write_all(&octets)), closes);
    assert!(upload.is_ok(), "{upload:?}: it was held up");
    assert_eq!(heard(&mut client).await, ends, "an end is one where the endpoint ended");
    ended(&proxy, None, Some(SAID as u64)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_of_an_endpoint_that_resets_an_upload_arrives_whole_before_the_reset() {
    refused_upload(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_of_an_endpoint_that_ends_and_takes_no_more_of_an_upload_arrives_with_its_end() {
    refused_upload(true).await;
}

/// A client says something and closes without reading what the endpoint said first.
async fn deaf_client(ends: bool) {
    let socket = small();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let listener = socket.listen(8).unwrap();
    let proxy = Setup::tcp(&[listener.local_addr().unwrap()]).start();
    let client = TcpStream::connect(proxy.address).await.unwrap();
    let (mut endpoint, _) = listener.accept().await.unwrap();
    endpoint.write_all(b"hello").await.unwrap();
    drop(say(client, ends).await);
    // It goes on talking to a client that is gone.
    let more = endpoint.write_all(b"are you there?").await;
    assert!(more.is_ok(), "{more:?}");
    assert_eq!(heard(&mut endpoint).await, ends, "an end is one where the client ended");
    ended(&proxy, Some(SAID as u64), None).await;
}

#[tokio::test]
async fn what_a_client_that_resets_has_said_arrives_whole_before_the_reset() {
    deaf_client(false).await;
}

#[tokio::test]
async fn what_a_client_that_ended_and_takes_nothing_has_said_arrives_with_its_end() {
    deaf_client(true).await;
}

#[tokio::test]
async fn a_side_that_takes_nothing_of_the_last_words_is_not_waited_for_without_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let idle = Duration::from_secs(1);
    let proxy = Setup::tcp(&[listener.local_addr().unwrap()]).with(|s| s.spec.timeouts.tunnel_idle = idle).start();
    let mut client = small().connect(proxy.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (endpoint, _) = listener.accept().await.unwrap();
    drop(say(endpoint, false).await);
    eventually("the end", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
    drop(client);
}
