//! The handshake with a client.

use crate::net::Stream;
use crate::net::tls::layer::TlsLayer;
use crate::net::tls::refusal::Refusal;
use rustls::server::{Acceptor, ClientHello};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio_rustls::LazyConfigAcceptor;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Accepted {
    /// The octets inside.
    pub stream: Stream,
    /// What the two sides will speak.
    pub protocol: Protocol,
    /// The version as it is called, such as `1.3`.
    pub version: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The host that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The certificate that the client showed and that was checked, DER.
    pub client_certificate: Option<Box<[u8]>>,
}

/// What is spoken inside (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, also where the client named nothing.
    Http1,
    /// HTTP/2.
    Http2,
    /// Nothing: an authority has seen the answer to its challenge.
    Challenge,
}

/// Does the handshake; `choose` gives the configuration for what the client says of itself, or refuses it. Whoever awaits
/// this bounds its time.
///
/// Others are served between its parts: the key exchange with the signature takes longer than anything else that a thread
/// does in one go, so that neither the reading of the hello nor the sending of the answer comes on top.
///
/// # Errors
/// [`Refusal`]; the client was sent the alert that belongs to it.
pub async fn accept<F: Future<Output = Option<Arc<ServerConfig>>>>(
    socket: TcpStream,
    choose: impl FnOnce(&ClientHello<'_>) -> F,
) -> Result<Accepted, Refusal> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(|error| Refusal::of(&error))?;
    let choosing = choose(&hello.client_hello());
    let config = choosing.await.ok_or(Refusal::NoCertificate)?;
    yield_now().await;
    // Here is the arithmetic, before anything is awaited.
    let answering = hello.into_stream(config);
    yield_now().await;
    let stream = answering.await.map_err(|error| Refusal::of(&error))?;
    let (_, session) = stream.get_ref();
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        Some(b"acme-tls/1") => Protocol::Challenge,
        _ => Protocol::Http1,
    };
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    Ok(Accepted {
        protocol,
        version: version(session.protocol_version()),
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        server_name: session.server_name().map(|name| name.to_ascii_lowercase().into()),
        client_certificate: certificate.map(|certificate| certificate.as_ref().into()),
        stream: Stream::Layered(Box::new(TlsLayer::new(stream.into()))),
    })
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        Some(ProtocolVersion::TLSv1_2) => "1.2",
        _ => "none",
    }
}
