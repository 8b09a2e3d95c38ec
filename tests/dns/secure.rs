//! DNS over TLS (RFC 7858) and over HTTPS (RFC 8484) with clients of others: kdig, dig, curl and a client of our own.

use crate::support::backend::{Backend, answering};
use crate::support::http;
use crate::support::process::{Folder, Weir, free_address};
use crate::support::{eventually, within};
use crate::tools::{Said, dig, kdig, run};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The name in the certificate.
const NAME: &str = "dns.test";
const WAIT: Duration = Duration::from_secs(10);
const MEDIA_TYPE: &str = "application/dns-message";

/// A Weir with DNS over TLS and HTTPS, and a service `api` of one endpoint.
struct World {
    weir: Weir,
    dot: SocketAddr,
    doh: SocketAddr,
    certificate: PathBuf,
    /// Holds the certificate's files.
    folder: Folder,
    /// What `api` is.
    backend: Backend,
}

fn write_pair(folder: &Folder, name: &str) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    folder.write("dns.key.next", &made.signing_key.serialize_pem());
    folder.write("dns.pem.next", &made.cert.pem());
    for file in ["dns.key", "dns.pem"] {
        std::fs::rename(folder.0.join(format!("{file}.next")), folder.0.join(file)).unwrap();
    }
}

impl World {
    async fn start(name: &str, dns: &str) -> Self {
        let backend = Backend::start(answering("hello")).await;
        let (dot, doh) = (free_address(), free_address());
        let folder = Folder::new(name);
        write_pair(&folder, NAME);
        let (certificate, key) = (folder.0.join("dns.pem"), folder.0.join("dns.key"));
        let text = format!(
            "{dns}\n[dns.tls]\nlisten = [\"{dot}\"]\nhttps = [\"{doh}\"]\n\
             certificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n\
             [[service]]\nname = \"api\"\n[[service.endpoint]]\naddress = \"{}\"\n",
            certificate.display(),
            key.display(),
            backend.address
        );
        let weir = Weir::start(name, &text).await;
        let world = Self { weir, dot, doh, certificate, folder, backend };
        let address = world.weir.dns;
        eventually("the endpoint", WAIT, async || {
            let said = blocking(move || dig(address, "+short api.weir.internal A")).await;
            (said.lines() == ["127.0.0.1"]).then_some(())
        })
        .await;
        world
    }

    fn ca(&self) -> String {
        self.certificate.display().to_string()
    }

    async fn metric(&self, line: &str) -> u64 {
        let text = http::get(self.weir.admin, "/metrics").await.text();
        let value = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' ')).unwrap_or("0").to_owned();
        value.parse::<f64>().unwrap() as u64
    }
}

async fn blocking(act: impl FnOnce() -> Said + Send + 'static) -> Said {
    within("a program", Duration::from_secs(30), tokio::task::spawn_blocking(act)).await.unwrap()
}

fn question(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    [&[high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03api\x04weir\x08internal\x00\x00\x01\x00\x01"].concat()
}

fn base64url(octets: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in octets.chunks(3) {
        let bits = chunk.iter().chain([&0, &0]).take(3).fold(0u32, |bits, octet| bits << 8 | u32::from(*octet));
        out.extend((0..=chunk.len()).map(|n| char::from(digits[(bits >> (18 - 6 * n) & 63) as usize])));
    }
    out
}

/// Speaks TLS and trusts nobody but the certificate in the file.
async fn tls(world: &World, address: SocketAddr, protocols: &[&str]) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&world.certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect(ServerName::try_from(NAME).unwrap(), stream).await.unwrap()
}

async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let length = within("a frame", WAIT, stream.read_u16()).await.unwrap();
    let mut message = vec![0; usize::from(length)];
    within("the rest", WAIT, stream.read_exact(&mut message)).await.unwrap();
    message
}

#[tokio::test]
async fn rfc7858_3_3_kdig_and_dig_ask_over_tls_and_check_the_certificate() {
    let world = World::start("dns-dot", "").await;
    let (dot, ca) = (world.dot, world.ca());
    let said =
        blocking(move || kdig(dot, &format!("+tls-ca={ca} +tls-hostname={NAME} +short api.weir.internal A"))).await;
    assert_eq!(said.lines(), ["127.0.0.1"], "{}", said.text);
    let ca = world.ca();
    let said =
        blocking(move || kdig(dot, &format!("+tls-ca={ca} +tls-hostname=other.test +short api.weir.internal"))).await;
    assert!(said.lines().iter().all(|line| *line != "127.0.0.1"), "{}", said.text);
    let said = blocking(move || dig(dot, "+tls +short api.weir.internal A")).await;
    assert_eq!(said.lines(), ["127.0.0.1"], "{}", said.text);
    let counted = r#"weir_dns_queries_total{path="fast",rcode="NOERROR",transport="tls",type="A"}"#;
    assert_eq!(world.metric(counted).await, 2);
}

#[tokio::test]
async fn rfc7858_3_3_questions_are_pipelined_inside_of_tls() {
    let world = World::start("dns-dot-pipe", "").await;
    for protocols in [&["dot"][..], &[]] {
        let mut stream = tls(&world, world.dot, protocols).await;
        let mut frames = Vec::new();
        for id in 0..300 {
            let message = question(id);
            frames.extend_from_slice(&(message.len() as u16).to_be_bytes());
            frames.extend_from_slice(&message);
        }
        within("questions", WAIT, stream.write_all(&frames)).await.unwrap();
        for id in 0..300u16 {
            let answer = read_frame(&mut stream).await;
            assert_eq!((&answer[..2], answer[3] & 15, answer[7]), (&id.to_be_bytes()[..], 0, 1));
        }
    }
}

#[tokio::test]
async fn certificates_of_dns_are_read_again_and_named_in_the_report() {
    let world = World::start("dns-dot-renew", "").await;
    let before = std::fs::read(&world.certificate).unwrap();
    let said = world.weir.cli(&["certificates"]).await;
    assert!(said.out.contains(NAME) && said.out.contains("[dns]"), "{}{}", said.out, said.err);
    write_pair(&world.folder, NAME);
    assert_ne!(before, std::fs::read(&world.certificate).unwrap());
    eventually("the new certificate", WAIT, async || {
        // Trusts the new one only.
        let (dot, ca) = (world.dot, world.ca());
        let said =
            blocking(move || kdig(dot, &format!("+tls-ca={ca} +tls-hostname={NAME} +short api.weir.internal"))).await;
        (said.lines() == ["127.0.0.1"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn rfc8484_4_1_kdig_dig_and_curl_ask_over_https() {
    let world = World::start("dns-doh", "").await;
    let (doh, ca) = (world.doh, world.ca());
    for method in ["", "+https-get "] {
        let words = format!("+https=/dns-query {method}+tls-ca={ca} +tls-hostname={NAME} +short api.weir.internal A");
        let said = blocking(move || kdig(doh, &words)).await;
        assert_eq!(said.lines(), ["127.0.0.1"], "{}", said.text);
    }
    for method in ["+https=/dns-query", "+https-get=/dns-query"] {
        let said = blocking(move || dig(doh, &format!("{method} +short api.weir.internal A"))).await;
        assert_eq!(said.lines(), ["127.0.0.1"], "{}", said.text);
    }
    // curl resolves by it and fetches from the endpoint.
    let (ca, port) = (world.ca(), world.backend.address.port());
    let (url, page) = (format!("https://{NAME}:{}/dns-query", doh.port()), format!("http://api.weir.internal:{port}/"));
    let resolve = format!("{NAME}:{}:127.0.0.1", doh.port());
    let said = blocking(move || {
        let mut arguments = vec!["-sS", "-o", "/dev/null", "-w", "%{http_code} %{remote_ip}", "--doh-url", &url];
        arguments.extend(["--cacert", &ca, "--resolve", &resolve, "--max-time", "10", &page]);
        run("curl", &arguments)
    })
    .await;
    assert_eq!(said.text, "200 127.0.0.1");
    let counted = r#"weir_dns_queries_total{path="fast",rcode="NOERROR",transport="https",type="A"}"#;
    assert!(world.metric(counted).await >= 5);
}

/// What came back over HTTPS: status, media type, freshness, body.
type Got = (u16, String, String, Vec<u8>);

async fn doh2(world: &World, requests: Vec<(&str, String, Option<&str>, Vec<u8>)>) -> Vec<Got> {
    let stream = tls(world, world.doh, &["h2"]).await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let task = tokio::spawn(connection);
    let mut found = Vec::new();
    for (method, target, kind, body) in requests {
        let mut request = hyper::Request::builder().method(method).uri(format!("https://{NAME}{target}"));
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::<Bytes>::new(body.into())).unwrap();
        let response = within("an answer", WAIT, sender.send_request(request)).await.unwrap();
        let field = |name: &str| response.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        let (status, kind, fresh) = (response.status().as_u16(), field("content-type"), field("cache-control"));
        let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
        found.push((status, kind, fresh, body));
    }
    task.abort();
    found
}

#[tokio::test]
async fn rfc8484_4_and_5_1_get_post_freshness_and_what_is_refused() {
    let world = World::start("dns-doh-rules", "").await;
    let get = |message: &[u8]| ("GET", format!("/dns-query?dns={}", base64url(message)), None, Vec::new());
    let post = |kind, body| ("POST", "/dns-query".to_owned(), kind, body);
    let mut negative = question(0);
    negative[13] = b'x';
    let mut two = question(9);
    two[5] = 2;
    let good = doh2(
        &world,
        vec![get(&question(0)), post(Some(MEDIA_TYPE), question(77)), get(&negative), post(Some(MEDIA_TYPE), two)],
    )
    .await;
    for ((status, kind, fresh, body), (id, code, age)) in
        good.iter().zip([(0u16, 0, "max-age=5"), (77, 0, "max-age=5"), (0, 3, "max-age=5"), (9, 1, "max-age=0")])
    {
        // An error of DNS is no error of HTTP (§4.2.1).
        assert_eq!((*status, kind.as_str(), fresh.as_str()), (200, MEDIA_TYPE, age));
        assert_eq!((&body[..2], body[3] & 15), (&id.to_be_bytes()[..], code));
    }
    let refused = doh2(
        &world,
        vec![
            ("GET", "/dns-query".to_owned(), None, Vec::new()),
            ("GET", "/dns-query?dns=****".to_owned(), None, Vec::new()),
            ("GET", "/other?dns=AAAA".to_owned(), None, Vec::new()),
            ("GET", format!("/dns-query?dns={}", "A".repeat(6000)), None, Vec::new()),
            post(Some("text/plain"), question(1)),
            post(None, question(1)),
            post(Some(MEDIA_TYPE), vec![0; 5000]),
            ("PUT", "/dns-query".to_owned(), Some(MEDIA_TYPE), question(1)),
            // An answer is answered by nothing over UDP, and here by a refusal.
            post(Some(MEDIA_TYPE), [&[0, 0, 0x80][..], &question(1)[3..]].concat()),
            get(&question(3)),
        ],
    )
    .await;
    let status: Vec<u16> = refused.iter().map(|(status, ..)| *status).collect();
    assert_eq!(status, [400, 400, 404, 414, 415, 415, 413, 405, 400, 200]);
}

#[tokio::test]
async fn rfc8484_5_http_1_1_is_spoken_too_and_idle_connections_are_closed() {
    let world = World::start("dns-doh-idle", "").await;
    let mut stream = tls(&world, world.doh, &["http/1.1"]).await;
    let target = base64url(&question(0));
    let request = format!("GET /dns-query?dns={target} HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    for _ in 0..2 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut room = vec![0; 4096];
        let length = within("an answer", WAIT, stream.read(&mut room)).await.unwrap();
        let text = String::from_utf8_lossy(&room[..length]);
        assert!(text.starts_with("HTTP/1.1 200") && text.contains(MEDIA_TYPE), "{text}");
    }
    drop(stream);
    let world = World::start("dns-doh-idle2", "").await;
    let config = std::fs::read_to_string(world.weir.folder.0.join("weir.toml")).unwrap();
    let changed =
        config.replace("[dns.tls]", "[dns.limits]\n[dns.tls]").replace("[dns]\n", "[dns]\ntcp_idle = \"200ms\"\n");
    world.weir.folder.write("weir.toml", &changed);
    let said = world.weir.cli(&["reload"]).await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    for (address, protocol) in [(world.dot, "dot"), (world.doh, "http/1.1"), (world.doh, "h2")] {
        let mut stream = tls(&world, address, &[protocol]).await;
        if protocol == "h2" {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        }
        let mut room = vec![0; 4096];
        let ended = async { while !matches!(stream.read(&mut room).await, Ok(0) | Err(_)) {} };
        within("the end of an idle connection", Duration::from_secs(5), ended).await;
    }
}

#[tokio::test]
async fn silent_handshakes_and_a_client_with_many_connections_keep_nobody_else_out() {
    let world = World::start("dns-dot-many", "[dns.limits]\ntcp_connections_per_client = 20\n").await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(world.dot).await.unwrap());
    }
    // As many as one client may have wait for a hello; the others are closed at once, and so is a good one from there.
    let mut closed = 0;
    for stream in &mut silent[20..] {
        closed += usize::from(matches!(within("the end", WAIT, stream.read(&mut [0; 1])).await, Ok(0) | Err(_)));
    }
    assert_eq!(closed, 20);
    // Another client is served.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.77:0".parse().unwrap()).unwrap();
    let mut stream = socket.connect(world.dot).await.unwrap();
    stream.write_all(&[0x16]).await.unwrap();
    let (dot, ca) = (world.dot, world.ca());
    let words = format!("-b 127.0.0.78 +tls-ca={ca} +tls-hostname={NAME} +short api.weir.internal A");
    let said = blocking(move || kdig(dot, &words)).await;
    assert_eq!(said.lines(), ["127.0.0.1"], "{}", said.text);
}
