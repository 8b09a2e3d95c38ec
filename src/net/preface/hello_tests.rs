//! Hellos of a real client and made ones, cut everywhere and put into records of every size.

use super::{Hello, MAX_BYTES, Reading, Refused, read};
use rustls::client::{ClientConfig, ClientConnection};
use rustls::crypto::aws_lc_rs::default_provider;
use std::sync::Arc;

/// What rustls sends.
fn real(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
    let mut octets = Vec::new();
    client.write_tls(&mut octets).unwrap();
    octets
}

/// A hello with these extensions.
fn made(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    message(&body)
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    records(&message, 1 << 14)
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1][..], &(part.len() as u16).to_be_bytes(), part].concat();
    message.chunks(size).flat_map(record).collect()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat()
}

fn name(host: &[u8]) -> Vec<u8> {
    let entry = [&[0][..], &(host.len() as u16).to_be_bytes(), host].concat();
    extension(0, &[&(entry.len() as u16).to_be_bytes()[..], &entry].concat())
}

fn named(host: &[u8]) -> Result<Reading, Refused> {
    read(&made(&name(host)))
}

#[test]
fn the_hello_of_a_client_is_read_and_a_part_of_it_is_partial() {
    let octets = real("A.Example.test", &[b"h2", b"http/1.1"]);
    let alpn = vec![b"h2".as_slice().into(), b"http/1.1".as_slice().into()];
    let hello = Hello { server_name: Some("a.example.test".into()), alpn };
    for cut in 0..octets.len() {
        assert_eq!(read(&octets[..cut]), Ok(Reading::Partial), "{cut}");
    }
    assert_eq!(read(&octets), Ok(Reading::Hello(hello.clone())));
    assert_eq!(read(&[&octets[..], b"more"].concat()), Ok(Reading::Hello(hello.clone())));
    // Over several records, down to an octet each.
    for size in [1, 2, 3, 4, 5, 100] {
        assert_eq!(read(&records(&octets[5..], size)), Ok(Reading::Hello(hello.clone())), "records of {size}");
    }
    assert_eq!(read(&real("10.0.0.1", &[])), Ok(Reading::Hello(Hello::default())));
}

#[test]
fn what_is_no_tls_is_told_at_once() {
    for octets in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x02", b"\x80\x2e\x01", b"\0\0\0\x08\x04\xd2\x16\x2f", b"P"] {
        assert_eq!(read(octets), Ok(Reading::Absent), "{}", octets.escape_ascii());
    }
    assert_eq!(read(b""), Ok(Reading::Partial));
}

#[test]
fn extensions_may_be_absent_and_are_there_once() {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    assert_eq!(read(&message(&body)), Ok(Reading::Hello(Hello::default())));
    assert!(read(&made(&[name(b"a.test"), name(b"a.test")].concat())).is_err());
    let alpn = extension(16, b"\0\x03\x02h2");
    assert!(read(&made(&alpn)).is_ok() && read(&made(&[&alpn[..], &alpn].concat())).is_err());
    for wrong in [&b"\0\0"[..], b"\0\x01\0", b"\0\x03\x02h", b"\0\x03\x02h2x", b"\0\x03\x03h2"] {
        assert!(read(&made(&extension(16, wrong))).is_err(), "{}", wrong.escape_ascii());
    }
    assert!(read(&made(&[&alpn[..], b"x"].concat())).is_err());
}

#[test]
fn a_name_is_one_host() {
    for host in [&b"a"[..], b"a.test", b"_x.a-b.test", b"A.TEST"] {
        assert!(named(host).is_ok(), "{}", host.escape_ascii());
    }
    for host in [&b""[..], b".", b"a.", b".a", b"a..b", b"a b", b"a\0", b"a/b", b"a:1", b"\xc3\xa4.test", b"*.test"] {
        assert!(named(host).is_err(), "{}", host.escape_ascii());
    }
    assert!(named(&[b'a'; 253]).is_ok() && named(&[b'a'; 254]).is_err());
    let two = b"\0\x08\0\0\x01a\0\0\x01b";
    assert!(read(&made(&extension(0, two))).is_err());
    assert!(read(&made(&extension(0, b"\0\x04\x01\0\x01a"))).is_err());
    assert!(read(&made(&extension(0, b"\0\x04\0\0\x01ax"))).is_err());
}

#[test]
fn other_records_messages_and_lengths_are_refused() {
    assert!(matches!(read(b"\x16\x03\x01\0\0"), Err(Refused::Malformed(_))));
    assert!(matches!(read(b"\x16\x03\x01\x40\x01"), Err(Refused::Malformed(_))));
    assert!(matches!(read(b"\x16\x03\x01\0\x04\x02\0\0\0"), Err(Refused::Malformed(_))));
    assert!(matches!(read(b"\x16\x03\x01\0\x02\x01\0\x17\x03\x03\0\x01"), Err(Refused::Malformed(_))));
    // Known before it came.
    assert_eq!(read(b"\x16\x03\x01\x40\0\x01\0\x40\x01"), Err(Refused::TooLarge));
    // As many records as there may be, without an end.
    let drops = records(&[&[1, 0, 0x3f, 0xff][..], &[0; 4000]].concat(), 1);
    assert_eq!(read(&drops[..MAX_BYTES - 1]), Ok(Reading::Partial));
    assert_eq!(read(&drops[..MAX_BYTES]), Err(Refused::TooLarge));
}
