//! TLS that is passed through by what it asks for, and TLS that ends at a TCP listener.

use crate::authority::{Authority, Pair};
use crate::client::Client;
use crate::support::process::{Folder, Weir, free_address};
use crate::support::within;
use crate::{WAIT, refused};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A TLS server that says its name, and then echoes.
async fn server(pair: &Pair, name: &'static str, alpn: &[&[u8]]) -> SocketAddr {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(socket).await?;
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

/// Says its name, and then echoes, in clear text.
async fn plain(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

fn service(name: &str, endpoint: SocketAddr, more: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\n{more}\n[[service.endpoint]]\naddress = \"{endpoint}\"\n")
}

/// Asks for a host; returns the certificate that is shown and the first octet that comes.
async fn ask(client: &Client, address: SocketAddr, host: &str) -> io::Result<(Vec<u8>, String)> {
    let mut stream = within("a handshake", WAIT, client.connect(address, host)).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    stream.write_all(b"!").await?;
    let mut said = [0; 2];
    within("an answer", WAIT, stream.read_exact(&mut said)).await?;
    Ok((shown, String::from_utf8_lossy(&said).into_owned()))
}

fn shown(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap().to_vec()
}

struct World {
    weir: Weir,
    address: SocketAddr,
    authority: Authority,
    pairs: [Pair; 3],
}

/// Three hosts on three servers behind one listener; `own` is what the listener says beside its rules.
async fn three(name: &str, own: &str) -> World {
    let authority = Authority::new();
    let pairs = [&["a.test"][..], &["x.b.test", "b.test"], &["c.test"]].map(|names| authority.issue(names));
    let a = server(&pairs[0], "a", &[]).await;
    let b = server(&pairs[1], "b", &[]).await;
    let c = server(&pairs[2], "c", &[]).await;
    let address = free_address();
    let rule = |service: &str, host: &str| format!("[[listener.sni]]\nnames = [\"{host}\"]\nservice = \"{service}\"\n");
    let toml = format!(
        "[[listener]]\nname = \"tls\"\naddress = \"{address}\"\nprotocol = \"tcp\"\n{own}\n{}{}{}{}{}{}{}",
        rule("a", "a.test"),
        rule("b", "*.b.test"),
        rule("c", "C.test"),
        service("a", a, ""),
        service("b", b, ""),
        service("c", c, ""),
        service("plain", plain("p").await, ""),
    );
    let weir = Weir::start(name, &toml).await;
    for service in ["a", "b", "c", "plain"] {
        weir.settled(service, 1, WAIT).await;
    }
    World { weir, address, authority, pairs }
}

#[tokio::test]
async fn three_hosts_lead_to_three_servers_and_their_certificates() {
    let world = three("sni", "").await;
    let client = Client::fresh(&world.authority);
    for (host, said, pair) in [("a.test", "a!", 0), ("x.b.test", "b!", 1), ("c.test", "c!", 2)] {
        assert_eq!(ask(&client, world.address, host).await.unwrap(), (shown(&world.pairs[pair]), said.to_owned()));
    }
    // Of no rule: told so by an alert, counted.
    let error = ask(&client, world.address, "b.test").await.unwrap_err();
    assert!(
        error.to_string().contains("UnrecognizedName") || error.to_string().contains("UnrecognisedName"),
        "{error}"
    );
    refused(&world.weir, "no_route", 1).await;
    assert!(ask(&client, world.address, "127.0.0.1").await.is_err());
    refused(&world.weir, "no_sni", 1).await;
    // No TLS.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(matches!(within("the end", WAIT, stream.read(&mut [0; 8])).await, Ok(0) | Err(_)));
    refused(&world.weir, "not_tls", 1).await;
}

/// The octets of a hello for a host.
pub(crate) fn hello(authority: &Authority, host: &str) -> Vec<u8> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = host.to_owned().try_into().unwrap();
    let mut client = rustls::client::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut octets = Vec::new();
    client.write_tls(&mut octets).unwrap();
    octets
}

#[tokio::test]
async fn a_hello_in_single_octets_and_over_many_records_is_read_and_what_is_too_large_or_late_is_closed() {
    let world = three("sni-pieces", "").await;
    let octets = hello(&world.authority, "a.test");
    let over_records: Vec<u8> =
        octets[5..].chunks(7).flat_map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat()).collect();
    for octets in [&octets, &over_records] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for octet in octets.iter() {
            stream.write_all(&[*octet]).await.unwrap();
            tokio::task::yield_now().await;
        }
        // The server's answer: a handshake record.
        let mut head = [0; 3];
        within("a ServerHello", WAIT, stream.read_exact(&mut head)).await.unwrap();
        assert_eq!(head, [22, 3, 3]);
    }
    let closed = async |octets: &[u8], reason: &str| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let _ = stream.write_all(octets).await;
        assert!(matches!(within("the end", WAIT, stream.read(&mut [0; 8])).await, Ok(0) | Err(_)));
        refused(&world.weir, reason, 1).await;
    };
    closed(b"\x16\x03\x01\x40\0\x01\0\x40\x01", "hello_too_large").await;
    closed(b"\x16\x03\x01\0\x04\x02\0\0\0", "hello_malformed").await;
    closed(&octets[..100], "hello_timeout").await;
    // Neighbours are served.
    assert!(ask(&Client::fresh(&world.authority), world.address, "a.test").await.is_ok());
}

#[tokio::test]
async fn what_fits_no_rule_goes_to_the_service_of_the_listener() {
    let world = three("sni-else", "service = \"plain\"\n").await;
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(b"?").await.unwrap();
    let mut said = [0; 2];
    within("an answer", WAIT, stream.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"p?");
    let client = Client::fresh(&world.authority);
    assert_eq!(ask(&client, world.address, "c.test").await.unwrap().1, "c!");
}

#[tokio::test]
async fn tls_ends_at_the_listener_or_begins_towards_the_endpoint() {
    let authority = Authority::new();
    let (front, back) = (authority.issue(&["front.test", "other.test"]), authority.issue(&["back.test"]));
    let folder = Folder::new("tcp-tls");
    let (entry, ca) = (front.write(&folder, "front"), folder.write("ca.pem", &authority.pem()));
    let secure = server(&back, "s", &[]).await;
    let (ends, begins) = (free_address(), free_address());
    let toml = format!(
        "[[listener]]\nname = \"ends\"\naddress = \"{ends}\"\nprotocol = \"tcp\"\nservice = \"plain\"\n\
         [listener.tls]\ncertificates = [{entry}]\n\
         [[listener.sni]]\nnames = [\"other.test\"]\nservice = \"secure\"\n\
         [[listener]]\nname = \"begins\"\naddress = \"{begins}\"\nprotocol = \"tcp\"\nservice = \"secure\"\n{}{}",
        service("plain", plain("p").await, ""),
        service("secure", secure, &format!("[service.tls]\nca = {ca:?}\nserver_name = \"back.test\"\n")),
    );
    let weir = Weir::start("tcp-tls", &toml).await;
    for name in ["plain", "secure"] {
        weir.settled(name, 1, WAIT).await;
    }
    let client = Client::fresh(&authority);
    assert_eq!(ask(&client, ends, "front.test").await.unwrap(), (shown(&front), "p!".to_owned()));
    // By its rule to an endpoint that speaks TLS itself: ended, and begun anew.
    assert_eq!(ask(&client, ends, "other.test").await.unwrap(), (shown(&front), "s!".to_owned()));
    let mut stream = TcpStream::connect(begins).await.unwrap();
    stream.write_all(b"!").await.unwrap();
    let mut said = [0; 2];
    within("an answer", WAIT, stream.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"s!");
}
