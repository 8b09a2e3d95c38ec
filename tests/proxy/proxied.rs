//! The PROXY protocol of listeners: who is believed, what is refused, and that nothing of the traffic is lost.

use crate::support::proxy::{Proxy, Setup};
use crate::support::{eventually, within};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir::model::{AdmissionSpec, ProxyProtocolSpec, ProxyVersion};

const LIMIT: Duration = Duration::from_secs(20);
const V1: &[u8] = b"PROXY TCP4 192.0.2.7 192.0.2.8 4000 443\r\n";

/// Answers with all that came, once the client has ended.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).await.is_ok() {
                    let _ = stream.write_all(&all).await;
                }
            });
        }
    });
    address
}

async fn front(from: &str, required: bool, tells: Option<ProxyVersion>) -> Proxy {
    let mut setup = Setup::tcp(&[echo().await]);
    let from = vec![(from.parse().unwrap(), 32)];
    setup.admission =
        AdmissionSpec { proxy_protocol: Some(ProxyProtocolSpec { required, from }), ..AdmissionSpec::default() };
    setup.spec.streams.proxy_protocol = tells;
    setup.start()
}

/// What comes back of octets that are sent in these pieces; `None`: the connection was closed before.
async fn send(proxy: &Proxy, pieces: impl Iterator<Item = &[u8]>) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        // It may be closed already.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    let mut all = Vec::new();
    within("the end", LIMIT, stream.read_to_end(&mut all)).await.ok().map(|_| all).filter(|all| !all.is_empty())
}

async fn refused(proxy: &Proxy, reason: &str, count: u64) {
    let line = format!("weir_refused_total{{reason=\"{reason}\"}}");
    eventually(&line, LIMIT, async || (proxy.metric(&line) == count).then_some(())).await;
}

#[tokio::test]
async fn a_header_in_any_pieces_is_taken_and_nothing_behind_it() {
    let proxy = front("127.0.0.1", true, Some(ProxyVersion::V1)).await;
    let octets = [V1, b"hello"].concat();
    let whole = [V1, b"hello"].concat();
    for size in [1, 2, 7, 42, 43, 44, 100] {
        assert_eq!(send(&proxy, octets.chunks(size)).await.as_deref(), Some(&whole[..]), "pieces of {size}");
    }
    // A check of the proxy's own: told as what the socket says.
    let own = send(&proxy, [&b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0x"[..]].into_iter()).await.unwrap();
    let own = String::from_utf8(own).unwrap();
    assert!(own.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && own.ends_with("\r\nx"), "{own:?}");
    for reason in ["untrusted", "absent", "malformed", "timeout"] {
        assert_eq!(proxy.metric(&format!("weir_refused_total{{reason=\"proxy_{reason}\"}}")), 0, "{reason}");
    }
}

#[tokio::test]
async fn what_is_known_of_the_client_is_told_in_version_2() {
    let proxy = front("127.0.0.1", true, Some(ProxyVersion::V2)).await;
    let told = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x15\xc0\0\x02\x07\xc0\0\x02\x08\x0f\xa0\x01\xbb\x02\0\x06a.testx";
    assert_eq!(send(&proxy, [&told[..]].into_iter()).await.as_deref(), Some(&told[..]));
}

#[tokio::test]
async fn who_is_not_believed_and_what_is_malformed_or_absent_is_closed_and_counted() {
    let proxy = front("127.0.0.1", true, None).await;
    assert_eq!(send(&proxy, [&b"GET / HTTP/1.1\r\n\r\n"[..]].into_iter()).await, None);
    refused(&proxy, "proxy_absent", 1).await;
    assert_eq!(send(&proxy, [&b"PROXY TCP4 1.2.3.4 nonsense\r\nx"[..]].into_iter()).await, None);
    refused(&proxy, "proxy_malformed", 1).await;
    let mut long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    long.resize(70_000, 0);
    assert_eq!(send(&proxy, [&long[..]].into_iter()).await, None);
    refused(&proxy, "proxy_malformed", 2).await;
    // Half a header, and then silence: let go after three seconds.
    let mut half = TcpStream::connect(proxy.address).await.unwrap();
    half.write_all(&V1[..20]).await.unwrap();
    let mut rest = Vec::new();
    assert!(matches!(within("the end", LIMIT, half.read_to_end(&mut rest)).await, Ok(0) | Err(_)));
    refused(&proxy, "proxy_timeout", 1).await;
    // Neighbours are served.
    assert_eq!(send(&proxy, [V1, b"x"].into_iter()).await.as_deref(), Some(&b"x"[..]));

    let strangers = front("192.0.2.1", true, None).await;
    assert_eq!(send(&strangers, [V1, b"x"].into_iter()).await, None);
    assert_eq!(send(&strangers, [&b"x"[..]].into_iter()).await, None);
    refused(&strangers, "proxy_untrusted", 2).await;
    // Also one that says nothing: at once.
    let mut silent = TcpStream::connect(strangers.address).await.unwrap();
    assert!(matches!(within("the end", LIMIT, silent.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    refused(&strangers, "proxy_untrusted", 3).await;
}

#[tokio::test]
async fn where_it_is_optional_clients_may_come_without() {
    let proxy = front("127.0.0.1", false, None).await;
    assert_eq!(send(&proxy, [V1, b"x"].into_iter()).await.as_deref(), Some(&b"x"[..]));
    // That it begins as a header does loses nothing.
    for text in [&b"PROXX"[..], b"P", b"\r\n\r\nQUIT", b"GET /"] {
        let came = send(&proxy, [text, b" and more"].into_iter()).await;
        assert_eq!(came, Some([text, b" and more"].concat()));
    }
    let strangers = front("192.0.2.1", false, None).await;
    assert_eq!(send(&strangers, [&b"hello"[..]].into_iter()).await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(send(&strangers, [V1, b"x"].into_iter()).await, None);
    refused(&strangers, "proxy_untrusted", 1).await;
}

#[tokio::test]
async fn connections_above_a_bound_of_listener_client_or_service_are_reset_and_counted() {
    let held = async |proxy: &Proxy| {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream
    };
    let is_reset = async |proxy: &Proxy| {
        // The reset may come before the client has looked whether it is connected.
        if let Ok(mut stream) = TcpStream::connect(proxy.address).await {
            let _ = stream.write_all(b"x").await;
            let end = within("the end", LIMIT, stream.read(&mut [0; 8])).await;
            assert!(matches!(end, Err(_) | Ok(0)), "{end:?}");
        }
    };
    for (reason, change) in [
        ("listener_full", AdmissionSpec { connections: Some(2), ..AdmissionSpec::default() }),
        ("client_full", AdmissionSpec { connections_per_client: Some(2), ..AdmissionSpec::default() }),
        ("streams_full", AdmissionSpec::default()),
    ] {
        let mut setup = Setup::tcp(&[echo().await]);
        setup.admission = change;
        setup.spec.streams.open = (reason == "streams_full").then_some(2);
        let proxy = setup.start();
        let streams = [held(&proxy).await, held(&proxy).await];
        eventually("two streams", LIMIT, async || (proxy.in_flight() == 2).then_some(())).await;
        is_reset(&proxy).await;
        refused(&proxy, reason, 1).await;
        drop(streams);
        eventually("no stream", LIMIT, async || (proxy.in_flight() == 0).then_some(())).await;
        assert_eq!(send(&proxy, [&b"again"[..]].into_iter()).await.as_deref(), Some(&b"again"[..]), "{reason}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_it_has_lasted_as_long_as_it_may_whatever_moves() {
    let mut setup = Setup::tcp(&[echo().await]);
    setup.spec.streams.session = Some(Duration::from_millis(400));
    let proxy = setup.start();
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let begun = std::time::Instant::now();
    let mut octet = [0; 1];
    let end = loop {
        tokio::select! {
            end = stream.read(&mut octet) => break end,
            // The kernel tells of a reset once, to whoever asks first.
            () = tokio::time::sleep(Duration::from_millis(20)) => if let Err(error) = stream.write_all(b"x").await {
                break Err(error);
            },
        }
        assert!(begun.elapsed() < LIMIT, "it goes on");
    };
    assert!(end.is_err(), "a reset: {end:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300));
}
