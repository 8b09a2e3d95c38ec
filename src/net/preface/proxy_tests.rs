//! Every form of a header, every place where one can be cut, every octet that can be wrong.

use super::{Header, Malformed, Reading, Tls, read, write_v1, write_v2};

fn addresses(source: &str, destination: &str) -> Header {
    let addresses = Some((source.parse().unwrap(), destination.parse().unwrap()));
    Header { addresses, ..Header::default() }
}

fn said(octets: &[u8]) -> Header {
    let Ok(Reading::Header(header, length)) = read(octets) else { panic!("{:?}", read(octets)) };
    assert_eq!(length, octets.len());
    *header
}

fn full() -> Header {
    Header {
        authority: Some("db.test".into()),
        alpn: Some(b"h2".as_slice().into()),
        tls: Some(Tls { version: "TLSv1.3".into(), certificate: true }),
        ..addresses("[2001:db8::1]:40000", "[2001:db8::2]:443")
    }
}

fn v2(family: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    octets.push(family);
    octets.extend((body.len() as u16).to_be_bytes());
    octets.extend(body);
    octets
}

fn with_facts(facts: &[u8]) -> Result<Reading, Malformed> {
    read(&v2(0x11, &[&[10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0, 80], facts].concat()))
}

#[test]
fn what_is_written_is_read() {
    let v4 = addresses("10.0.0.1:12345", "10.0.0.2:80");
    let v6 = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
    assert_eq!(write_v1(&v4), b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\n");
    assert_eq!(write_v1(&v6), b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
    for header in [&v4, &v6, &Header::default()] {
        assert_eq!((&said(&write_v1(header)), &said(&write_v2(header))), (header, header));
    }
    for certificate in [false, true] {
        let tls = Some(Tls { version: "TLSv1.2".into(), certificate });
        let header = Header { tls, ..full() };
        assert_eq!(said(&write_v2(&header)), header);
    }
    let mixed = addresses("10.0.0.1:1", "[2001:db8::2]:2");
    assert_eq!(said(&write_v2(&mixed)), addresses("[::ffff:10.0.0.1]:1", "[2001:db8::2]:2"));
    let mapped = addresses("[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:2");
    assert_eq!(said(&write_v1(&mapped)), addresses("10.0.0.1:1", "10.0.0.2:2"));
}

#[test]
fn a_part_of_a_header_is_partial_and_what_follows_is_not_touched() {
    let headers =
        [write_v1(&addresses("10.0.0.1:12345", "10.0.0.2:80")), b"PROXY UNKNOWN\r\n".to_vec(), write_v2(&full())];
    for header in headers {
        for cut in 0..header.len() {
            assert_eq!(read(&header[..cut]), Ok(Reading::Partial), "{cut}");
        }
        let more = [&header[..], b"PROXY and more\r\n"].concat();
        assert!(matches!(read(&more), Ok(Reading::Header(_, length)) if length == header.len()));
    }
}

#[test]
fn other_octets_are_no_header() {
    for octets in
        [&b"GET / HTTP/1.1\r\n"[..], b"POST /", b"PO", b"\x16\x03\x01", b"PROXYX", b"\r\n\r\n\0\r\nQUIX", b"\r\nGET"]
    {
        assert_eq!(read(octets), Ok(Reading::Absent), "{}", octets.escape_ascii());
    }
}

#[test]
fn version_1_is_exact() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
        "PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
        "PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP5 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY tcp4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 \r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
        "PROXY TCP4 10.0.0.1\t10.0.0.2 1 2\r\n",
    ] {
        // Without an end it is cut off at the longest line.
        let octets = if line.ends_with('\n') { line.to_owned() } else { format!("{line}{}", " ".repeat(80)) };
        assert!(read(octets.as_bytes()).is_err(), "{octets:?} is {:?}", read(octets.as_bytes()));
    }
    let longest = format!("PROXY UNKNOWN{}\r\n", "x".repeat(0));
    assert_eq!(said(longest.as_bytes()), Header::default());
    assert_eq!(said(format!("PROXY UNKNOWN {}\r\n", "f".repeat(91)).as_bytes()), Header::default());
    assert!(read(format!("PROXY UNKNOWN {}\r\n", "f".repeat(92)).as_bytes()).is_err());
    assert!(read(b"PROXY UNKNOWN \xff\r\n").is_err());
}

#[test]
fn version_2_knows_its_versions_commands_and_families() {
    let header = write_v2(&addresses("10.0.0.1:12345", "10.0.0.2:80"));
    for octet in 0..=255u8 {
        let mut other = header.clone();
        other[12] = octet;
        assert_eq!(read(&other).is_ok(), matches!(octet, 0x20 | 0x21), "{octet:x}");
        let mut other = header.clone();
        other[13] = octet;
        // 12 octets are too few for IPv6 and Unix addresses.
        let fine = matches!(octet >> 4, 0 | 1) && octet & 15 <= 2;
        assert_eq!(read(&other).is_ok(), fine, "{octet:x}");
        let known = matches!(read(&other), Ok(Reading::Header(said, _)) if said.addresses.is_some());
        assert_eq!(known, octet == 0x11, "{octet:x}");
    }
    // Of a command LOCAL nothing is read, whatever follows.
    let mut local = v2(0x11, &[0xff; 300]);
    local[12] = 0x20;
    assert_eq!(said(&local), Header::default());
    assert_eq!(said(&v2(0, &[0xff; 300])), Header::default());
    assert_eq!(said(&v2(0x31, &[0; 216])), Header::default());
    assert!(read(&v2(0x31, &[0; 215])).is_err());
}

#[test]
fn lengths_fit_to_the_octet() {
    assert!(read(&v2(0x11, &[0; 11])).is_err());
    assert!(read(&v2(0x21, &[0; 35])).is_err());
    // Known before it came.
    let mut long = v2(0x11, &[0; 12]);
    long[14..16].copy_from_slice(&4081u16.to_be_bytes());
    assert_eq!(read(&long), Err(Malformed("too long")));
    long[14..16].copy_from_slice(&4080u16.to_be_bytes());
    assert_eq!(read(&long), Ok(Reading::Partial));
    for facts in [
        &b"\x02"[..],
        b"\x02\0",
        b"\x02\0\x05host",
        b"\x02\0\x04host\x04",
        b"\x20\0\x04\x01\0\0\0",
        b"\x20\0\x07\x01\0\0\0\0\x21\0",
    ] {
        assert!(with_facts(facts).is_err(), "{}", facts.escape_ascii());
    }
    assert!(with_facts(b"\x04\0\x03\0\0\0\x02\0\x04host\xe0\0\0").is_ok());
}

#[test]
fn a_fact_is_said_once_and_within_its_bounds() {
    for twice in [&b"\x01\0\x02h2"[..], b"\x02\0\x04host", b"\x05\0\x01x", b"\x20\0\x05\x01\0\0\0\0"] {
        assert!(with_facts(twice).is_ok(), "{}", twice.escape_ascii());
        assert!(with_facts(&[twice, twice].concat()).is_err(), "{}", twice.escape_ascii());
    }
    let long = |kind: u8, length: u16| [&[kind][..], &length.to_be_bytes(), &vec![b'x'; length.into()]].concat();
    assert!(with_facts(&long(2, 255)).is_ok() && with_facts(&long(2, 256)).is_err());
    assert!(with_facts(&long(5, 128)).is_ok() && with_facts(&long(5, 129)).is_err());
    assert!(with_facts(b"\x02\0\x01\xff").is_err());
}

#[test]
fn a_client_without_tls_and_a_certificate_that_was_not_verified_are_none() {
    let tls = |value: &[u8]| match with_facts(&[&[0x20, 0, value.len() as u8], value].concat()) {
        Ok(Reading::Header(header, _)) => header.tls,
        other => panic!("{other:?}"),
    };
    assert_eq!(tls(b"\0\0\0\0\0"), None);
    assert_eq!(tls(b"\x01\0\0\0\0").map(|tls| tls.certificate), Some(false));
    assert_eq!(tls(b"\x03\0\0\0\x01").map(|tls| tls.certificate), Some(false));
    assert_eq!(tls(b"\x05\0\0\0\0").map(|tls| tls.certificate), Some(true));
}

#[test]
fn a_sum_is_checked_over_the_whole_header() {
    // RFC 9260 appendix A and RFC 3720 appendix B.4: the sum of 32 zeroes.
    assert_eq!(super::crc32c([0; 32].into_iter()), 0x8a91_36aa);
    let mut header = v2(0x11, b"\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50\x02\0\x01h\x03\0\x04\0\0\0\0");
    let sum = super::crc32c(header.iter().copied());
    let at = header.len() - 4;
    header[at..].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(said(&header).authority.as_deref(), Some("h"));
    for place in 16..header.len() {
        let mut other = header.clone();
        other[place] ^= 0x10;
        assert!(read(&other).is_err() || place >= 28, "{place}");
    }
    assert!(with_facts(b"\x03\0\x03\0\0\0").is_err());
}
