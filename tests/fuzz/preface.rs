//! What stands before the traffic of a connection.

use crate::corpus::{HELLOS, PROXY, REQUESTS};
use crate::fuzz;
use weir::net::preface::proxy::{Header, MAX_BYTES, Reading, read, write_v1, write_v2};
use weir::net::preface::{detect, hello};

#[test]
fn proxy_headers() {
    fuzz("PROXY header", PROXY, |input, rng| {
        let whole = read(input);
        // Whatever comes in pieces comes to the same: nothing is decided before it must be, nor changes its mind.
        let mut at = 0;
        let piecewise = loop {
            let read = read(&input[..at]);
            if read != Ok(Reading::Partial) || at == input.len() {
                break read;
            }
            at += 1 + rng.below(input.len() - at);
        };
        assert_eq!(whole, piecewise);
        match whole {
            Ok(Reading::Header(header, length)) => {
                assert!(length <= input.len() && length <= MAX_BYTES);
                // Only these octets count.
                assert_eq!(read(&input[..length]), Ok(Reading::Header(header.clone(), length)));
                // What is said is written, and read again.
                let written = write_v2(&header);
                let Ok(Reading::Header(again, length)) = read(&written) else { panic!("{written:?}") };
                assert_eq!(length, written.len());
                let family = |addresses: (std::net::SocketAddr, std::net::SocketAddr)| {
                    (
                        addresses.0.ip().to_canonical(),
                        addresses.1.ip().to_canonical(),
                        addresses.0.port(),
                        addresses.1.port(),
                    )
                };
                assert_eq!(again.addresses.map(family), header.addresses.map(family));
                if header.addresses.is_some() {
                    assert_eq!(
                        (&again.authority, &again.alpn, &again.tls),
                        (&header.authority, &header.alpn, &header.tls)
                    );
                }
                let line = write_v1(&Header { addresses: header.addresses, ..Header::default() });
                assert!(
                    line.len() <= 107 && matches!(read(&line), Ok(Reading::Header(_, length)) if length == line.len())
                );
            }
            Ok(Reading::Partial) => assert!(input.len() < MAX_BYTES),
            Ok(Reading::Absent) => {
                assert!(!input.starts_with(b"PROXY ") && !input.starts_with(b"\r\n\r\n\0\r\nQUIT\n"))
            }
            Err(_) => {}
        }
    });
}

#[test]
fn client_hellos() {
    fuzz("ClientHello", HELLOS, |input, rng| {
        let whole = hello::read(input);
        let mut at = 0;
        let piecewise = loop {
            let read = hello::read(&input[..at]);
            if read != Ok(hello::Reading::Partial) || at == input.len() {
                break read;
            }
            at += 1 + rng.below(input.len() - at);
        };
        assert_eq!(whole, piecewise);
        match whole {
            Ok(hello::Reading::Hello(hello)) => {
                let plain = |name: &str| {
                    !name.is_empty()
                        && name.len() <= 253
                        && !name.bytes().any(|b| b.is_ascii_uppercase() || b <= b' ' || b > 126)
                };
                assert!(hello.server_name.as_deref().is_none_or(plain), "{hello:?}");
                assert!(hello.alpn.iter().all(|protocol| !protocol.is_empty()));
            }
            Ok(hello::Reading::Partial) => assert!(input.len() < hello::MAX_BYTES),
            Ok(hello::Reading::Absent) => assert!(!input.starts_with(b"\x16\x03")),
            Err(_) => {}
        }
    });
}

#[test]
fn protocols() {
    fuzz("protocol", &[HELLOS, PROXY, REQUESTS].concat(), |input, rng| {
        let whole = detect::detect(input);
        let mut at = 0;
        let piecewise = loop {
            let told = detect::detect(&input[..at]);
            if told.is_some() || at == input.len() {
                break told;
            }
            at += 1 + rng.below(input.len() - at);
        };
        assert_eq!(whole, piecewise);
        assert!(whole.is_some() || input.len() < detect::MAX_BYTES);
    });
}
