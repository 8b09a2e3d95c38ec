//! One check by the health protocol of gRPC: `grpc.health.v1.Health/Check` over HTTP/2, by prior knowledge or in TLS.
//!
//! The two messages are a field each, so they are written and read here. Limits: 64 KiB of answer, 16 KiB of head.

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::Builder;
use http::{HeaderMap, Request, Version, header};
use std::fmt::Display;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Octets of an answer's body at most.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// Octets of its head, and of its trailers.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
const PATH: &str = "/grpc.health.v1.Health/Check";
/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// Asks a server whether a service of it serves; the empty name is the server as a whole.
///
/// # Errors
/// Says why it does not, or why nobody knows.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (scheme, authority): (&str, &str),
    service: &str,
) -> Result<(), String> {
    let handshake = Builder::new().max_header_list_size(MAX_HEAD_BYTES).enable_push(false).handshake(stream).await;
    let (sender, connection) = handshake.map_err(|error| explain(&error))?;
    // Dropping the set ends the connection, however this attempt ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut sender = sender.ready().await.map_err(|error| explain(&error))?;
    let request = Request::post(format!("{scheme}://{authority}{PATH}"))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION"), " (health check)"))
        .body(())
        .map_err(|error| error.to_string())?;
    let (answer, mut body) = sender.send_request(request, false).map_err(|error| explain(&error))?;
    body.send_data(question(service), true).map_err(|error| explain(&error))?;
    let (head, mut body) = answer.await.map_err(|error| explain(&error))?.into_parts();
    if head.status != 200 {
        return Err(format!("status {} instead of a gRPC answer", head.status.as_u16()));
    }
    let mut octets = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| explain(&error))?;
        body.flow_control().release_capacity(data.len()).map_err(|error| explain(&error))?;
        octets.extend_from_slice(&data);
        if octets.len() > MAX_BODY_BYTES {
            return Err("the answer is longer than 64 KiB".to_owned());
        }
    }
    let trailers = body.trailers().await.map_err(|error| explain(&error))?;
    // An answer of trailers only has them in its head.
    verdict(trailers.as_ref().unwrap_or(&head.headers), &octets)
}

/// `HealthCheckRequest { service }`, in a gRPC message.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length > 127 {
            message.put_u8(u8::try_from(length & 127).unwrap_or(0) | 128);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(&message);
    framed.freeze()
}

/// Reads the call's status and `HealthCheckResponse { status }`.
fn verdict(trailers: &HeaderMap, octets: &[u8]) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => {}
        Some("5") => return Err("the server does not know the service".to_owned()),
        Some("12") => return Err("the server does not implement grpc.health.v1.Health".to_owned()),
        Some(code) => return Err(format!("grpc-status {code} {}", text("grpc-message").unwrap_or_default())),
        None => return Err("the answer is not gRPC: it has no grpc-status".to_owned()),
    }
    let message = match octets.split_first_chunk::<5>() {
        Some(([0, a, b, c, d], message)) if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() => message,
        _ => return Err("the answer is not one plain gRPC message".to_owned()),
    };
    match status(message).ok_or("the answer is no HealthCheckResponse")? {
        SERVING => Ok(()),
        0 => Err("UNKNOWN".to_owned()),
        2 => Err("NOT_SERVING".to_owned()),
        3 => Err("SERVICE_UNKNOWN".to_owned()),
        other => Err(format!("serving status {other}")),
    }
}

/// Returns the varint of field 1, 0 where it is absent; `None`: malformed.
fn status(mut message: &[u8]) -> Option<u64> {
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (octet, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(octet & 127) << shift;
        if octet & 128 == 0 {
            return Some(value);
        }
    }
    None
}

fn explain(error: &(impl Display + ?Sized)) -> String {
    format!("HTTP/2: {error}")
}

#[cfg(test)]
mod tests {
    use super::{check, question, status, verdict};
    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Response};
    use tokio::net::{TcpListener, TcpStream};

    /// Serves one call with a message and a status, as a gRPC server does; returns what was asked.
    async fn serve(
        message: &'static [u8],
        code: &'static str,
    ) -> (TcpStream, tokio::task::JoinHandle<(String, Bytes)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let asked = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
            let path = request.uri().to_string();
            let question = request.into_body().data().await.unwrap().unwrap();
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(message), false).unwrap();
            let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(code))]);
            stream.send_trailers(status).unwrap();
            driver.await.unwrap();
            (path, question)
        });
        (near, asked)
    }

    #[tokio::test]
    async fn a_serving_server_passes() {
        let (stream, asked) = serve(&[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(check(stream, ("http", "a.test:1"), "shop").await, Ok(()));
        let (path, question) = asked.await.unwrap();
        assert_eq!(path, "http://a.test:1/grpc.health.v1.Health/Check");
        assert_eq!(&question[..], b"\0\0\0\0\x06\x0a\x04shop");
    }

    #[tokio::test]
    async fn says_why_it_does_not_pass() {
        for (message, code, expected) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], "0", "NOT_SERVING"),
            (&[0, 0, 0, 0, 0], "0", "UNKNOWN"),
            (&[0, 0, 0, 0, 0], "12", "the server does not implement grpc.health.v1.Health"),
            (&[0, 0, 0, 0, 0], "5", "the server does not know the service"),
            (&[1, 0, 0, 0, 0], "0", "the answer is not one plain gRPC message"),
        ] {
            let (stream, _asked) = serve(message, code).await;
            assert_eq!(check(stream, ("http", "a.test"), "").await, Err(expected.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_server_that_speaks_http1_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let server = tokio::spawn(async move {
            far.writable().await.unwrap();
            far.try_write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
            far
        });
        let error = check(near, ("http", "a.test"), "").await.unwrap_err();
        assert!(error.starts_with("HTTP/2: "), "{error}");
        drop(server.await);
    }

    #[test]
    fn reads_the_status_among_other_fields() {
        assert_eq!(status(&[]), Some(0));
        assert_eq!(status(&[0x12, 2, 9, 9, 8, 1]), Some(1));
        assert_eq!(status(&[0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 8, 0x82, 1]), Some(130));
        for malformed in [&[8][..], &[8, 0x80], &[0x12, 5, 1], &[0x0b], &[0xff; 11]] {
            assert_eq!(status(malformed), None, "{malformed:?}");
        }
        assert!(verdict(&HeaderMap::new(), &[]).unwrap_err().contains("no grpc-status"));
    }

    #[test]
    fn a_question_holds_the_name() {
        assert_eq!(&question("")[..], &[0; 5]);
        let long = "x".repeat(200);
        assert_eq!(&question(&long)[..8], &[0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }
}
