//! What every request passes before its handler: the defence of an API that has no password.
//!
//! The API is reachable from this machine only, so its attackers are web pages that a user of this machine visits (DNS
//! rebinding, cross-site requests) and mistaken programs. Hence: on TCP the `Host` must name this machine (421); a
//! change must carry a header that a web page cannot send without asking first, and no foreign origin (403); no CORS;
//! bodies are bounded in octets (413) and time (408).

use crate::admin::seats::Seat;
use crate::admin::{Problem, Tokens};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;
use std::time::Duration;

/// Longest time for a request body: a body of the API is a few lines.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// Loopback TCP: a browser can get here.
    Tcp,
    /// The Unix socket: file permissions keep the door.
    Unix,
    /// TCP from anywhere: a token keeps it.
    Remote,
}

/// Largest request body in octets.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimit(pub(super) usize);

/// Checks a request and reads its body; the handler sees a complete one.
pub(super) async fn check(State(limit): State<BodyLimit>, request: Request, next: Next) -> Response {
    let transport = request.extensions().get::<Transport>().copied().unwrap_or(Transport::Tcp);
    let admitted = match (transport, request.extensions().get::<Tokens>()) {
        (Transport::Remote, Some(tokens)) => tokens.admit(request.method(), request.uri().path(), request.headers()),
        _ => admit(transport, request.method(), request.headers()),
    };
    if let Err(problem) = admitted {
        return problem.into_response();
    }
    let seated = request.extensions().get::<Seat>().map(|seat| seat.suits(request.method(), request.uri()));
    if let Some(Err(problem)) = seated {
        return problem.into_response();
    }
    match read_body(limit, request).await {
        Ok(request) => secure(next.run(request).await),
        Err(problem) => problem.into_response(),
    }
}

/// Decides by method and header fields only.
fn admit(transport: Transport, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let host = single(headers, header::HOST)?;
    if transport != Transport::Unix && !host.is_some_and(|host| is_local(name_of(host))) {
        let detail = "the Host of a request to the admin API must be localhost, 127.0.0.1 or [::1]";
        return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail));
    }
    if method.is_safe() {
        return Ok(());
    }
    let foreign = |detail| Problem::new(StatusCode::FORBIDDEN, "cross_site", detail);
    let json = single(headers, header::CONTENT_TYPE)?.is_some_and(|value| {
        value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json && !headers.contains_key("x-requested-with") {
        return Err(foreign("a change needs the header `content-type: application/json` or `x-requested-with: weir`"));
    }
    let same_origin = match single(headers, header::ORIGIN)? {
        None => true,
        Some(origin) => origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == host),
    };
    let same_site = match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => true,
        Some(_) => false,
    };
    if same_origin && same_site { Ok(()) } else { Err(foreign("a change from a page of another origin is refused")) }
}

/// Returns the only value of a field; repeated ones are refused, as two readers could choose differently.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Problem::invalid(format!("the header {name} is not text")))
        }
        (Some(_), Some(_)) => Err(Problem::invalid(format!("the header {name} is repeated"))),
    }
}

/// Returns the host of `host[:port]`.
fn name_of(host: &str) -> &str {
    if let Some(end) = host.starts_with('[').then(|| host.find(']')).flatten() {
        return host.get(1..end).unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// Returns whether a name can only mean this machine: a loopback address is out of reach of DNS rebinding.
fn is_local(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

async fn read_body(BodyLimit(limit): BodyLimit, request: Request) -> Result<Request, Problem> {
    let too_large = || {
        let detail = format!("a request body holds at most {limit} octets");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let (parts, body) = request.into_parts();
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|octets: u64| octets > limit as u64) {
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await.map_err(|_| {
        let detail = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
    })?;
    let bytes = read.map_err(|error| {
        let long =
            std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if long { too_large() } else { Problem::invalid("the body ended before its length") }
    })?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Tells a browser to make nothing else of an answer than what it says.
fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static("default-src 'self'"));
    response
}

#[cfg(test)]
mod tests {
    use super::{Transport, admit};
    use axum::http::{HeaderMap, HeaderName, Method};

    fn status(transport: Transport, method: Method, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        admit(transport, &method, &map).map_or_else(|problem| problem.status, |()| 200)
    }

    #[test]
    fn on_tcp_the_host_must_name_this_machine() {
        for host in ["localhost", "LOCALHOST:9600", "127.0.0.1", "127.0.0.1:9600", "[::1]", "[::1]:9600", "127.0.0.2"] {
            assert_eq!(status(Transport::Tcp, Method::GET, &[("host", host)]), 200, "{host}");
        }
        let foreign = [
            "evil.example",
            "evil.example:9600",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "",
            "localhost.x",
            "::1",
        ];
        for host in foreign {
            assert_eq!(status(Transport::Tcp, Method::GET, &[("host", host)]), 421, "{host}");
        }
        assert_eq!(status(Transport::Tcp, Method::GET, &[]), 421);
        assert_eq!(status(Transport::Tcp, Method::GET, &[("host", "localhost"), ("host", "localhost")]), 400);
        assert_eq!(status(Transport::Unix, Method::GET, &[("host", "weir")]), 200);
    }

    #[test]
    fn a_change_needs_a_header_that_no_foreign_page_can_send() {
        let host = ("host", "localhost:9600");
        let json = ("content-type", "application/json; charset=utf-8");
        for transport in [Transport::Tcp, Transport::Unix] {
            assert_eq!(status(transport, Method::POST, &[host]), 403);
            assert_eq!(status(transport, Method::DELETE, &[host, ("content-type", "text/plain")]), 403);
            assert_eq!(status(transport, Method::POST, &[host, json]), 200);
            assert_eq!(status(transport, Method::DELETE, &[host, ("x-requested-with", "weir")]), 200);
        }
    }

    #[test]
    fn a_change_from_another_origin_is_refused() {
        let (host, json) = (("host", "localhost:9600"), ("content-type", "application/json"));
        let post = |more: (&str, &str)| status(Transport::Tcp, Method::POST, &[host, json, more]);
        assert_eq!(post(("origin", "http://localhost:9600")), 200);
        for origin in ["http://evil.example", "https://localhost:9600", "http://localhost:9601", "null"] {
            assert_eq!(post(("origin", origin)), 403, "{origin}");
        }
        assert_eq!(post(("sec-fetch-site", "same-origin")), 200);
        assert_eq!(post(("sec-fetch-site", "cross-site")), 403);
        assert_eq!(post(("sec-fetch-site", "same-site")), 403);
    }
}
