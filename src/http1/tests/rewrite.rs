use crate::http1::framing::request_body;
use crate::http1::head::{Fields, Limits, parse_request, parse_response};
use crate::http1::reject::Reject;
use crate::http1::rewrite::{Forwarding, Persistence, authority, connection, request, response};

const LIMITS: Limits = Limits { head_bytes: 4096, fields: 32, target_bytes: 256 };

fn forward(text: &str, trusted: bool) -> Result<String, Reject> {
    let mut fields = Fields::default();
    let head = text.as_bytes();
    let line = parse_request(head, &LIMITS, &mut fields)?.unwrap();
    let authority = authority(head, &line, &fields)?;
    let framing = request_body(head, &fields, line.version)?;
    let forwarding = Forwarding {
        authority,
        framing,
        client: b"192.0.2.1",
        scheme: "http",
        identity: b"",
        trusted,
        request_id: b"abc",
        http2: false,
    };
    let mut out = Vec::new();
    request(head, &line, &fields, &forwarding, &mut out);
    Ok(String::from_utf8(out).unwrap())
}

const OWN: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Request-Id: abc\r\nVia: 1.1 weir\r\n\r\n";

#[test]
fn keeps_end_to_end_fields_and_adds_its_own() {
    assert_eq!(
        forward("GET /a HTTP/1.1\r\nA: 1\r\nHost: h\r\nB:  2 \r\nCookie: x\r\n\r\n", false).unwrap(),
        format!("GET /a HTTP/1.1\r\nHost: h\r\nA: 1\r\nB:  2 \r\nCookie: x\r\n{OWN}")
    );
}

#[test]
fn drops_hop_by_hop_fields_and_what_connection_names() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Drop, host, content-length\r\nX-Drop: 1\r\nKeep-Alive: timeout=1\r\nProxy-Connection: x\r\nHTTP2-Settings: x\r\nUpgrade: h2c\r\nTE: gzip\r\nProxy-Authorization: x\r\nContent-Length: 0\r\nKeep: y\r\n\r\n";
    assert_eq!(
        forward(text, false).unwrap(),
        format!("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nKeep: y\r\n{OWN}")
    );
}

#[test]
fn an_untrusted_client_cannot_set_forwarding_fields_and_a_trusted_one_can() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=x\r\nX-Real-IP: 1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o\r\nX-Request-Id: mine\r\n\r\n";
    assert_eq!(forward(text, false).unwrap(), format!("GET / HTTP/1.1\r\nHost: h\r\n{OWN}"));
    assert_eq!(
        forward(text, true).unwrap(),
        "GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=x\r\nX-Real-IP: 1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: o\r\nX-Request-Id: mine\r\nX-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nVia: 1.1 weir\r\n\r\n"
    );
}

#[test]
fn absolute_form_wins_over_host() {
    let out = forward("GET http://a.example:8080/p?q HTTP/1.1\r\nHost: h\r\n\r\n", false).unwrap();
    assert!(out.starts_with("GET /p?q HTTP/1.1\r\nHost: a.example:8080\r\n"), "{out}");
    assert!(
        forward("GET http://a HTTP/1.1\r\nHost: h\r\n\r\n", false)
            .unwrap()
            .starts_with("GET / HTTP/1.1\r\nHost: a\r\n")
    );
}

#[test]
fn refuses_bad_hosts_and_targets() {
    for host in ["", "a b", "a,b", "a/b", "u@h", "h:80x", "h:123456", "[::1", "[zz]", "h:80:80"] {
        assert_eq!(forward(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), false), Err(Reject::Host), "{host:?}");
    }
    for host in ["h", "h:80", "h:", "[::1]", "[::1]:80", "1.2.3.4:5", "a_b.c"] {
        assert!(forward(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), false).is_ok(), "{host:?}");
    }
    assert_eq!(forward("GET / HTTP/1.1\r\n\r\n", false), Err(Reject::Host));
    assert!(forward("GET / HTTP/1.0\r\n\r\n", false).is_ok());
    assert_eq!(forward("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", false), Err(Reject::Host));
    for target in ["x", "*", "ftp://a/", "http:///x", "http://u@h/"] {
        assert_eq!(
            forward(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), false),
            Err(Reject::Target),
            "{target}"
        );
    }
    assert!(forward("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", false).is_ok());
    let starts = |text: &str, with: &str| forward(text, false).unwrap().starts_with(with);
    assert!(starts("GET http://a?q HTTP/1.1\r\nHost: h\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: a\r\n"));
    assert!(starts("OPTIONS http://a HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n"));
    assert_eq!(forward("CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", false), Err(Reject::Connect));
}

#[test]
fn a_websocket_upgrade_passes_and_another_does_not() {
    let ws =
        forward("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n", false)
            .unwrap();
    assert!(ws.contains("Connection: upgrade\r\nUpgrade: websocket\r\n"));
    let h2c = forward("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", false).unwrap();
    assert!(!h2c.to_lowercase().contains("upgrade"));
}

#[test]
fn a_chunked_request_keeps_its_coding() {
    let out = forward(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nExpect: 100-continue\r\n\r\n",
        false,
    )
    .unwrap();
    assert!(
        out.contains("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nConnection: te\r\nTE: trailers\r\n"),
        "{out}"
    );
}

#[test]
fn reads_the_connection_options() {
    let text = b"GET / HTTP/1.1\r\nConnection: Keep-Alive ,CLOSE\r\nConnection: te\r\nTE: trailers, gzip\r\n\r\n";
    let mut fields = Fields::default();
    parse_request(text, &LIMITS, &mut fields).unwrap().unwrap();
    let found = connection(text, &fields);
    assert!(found.close && found.keep_alive && found.trailers && !found.websocket);
}

fn answer(text: &str, chunked: bool, persistence: Persistence) -> String {
    let mut fields = Fields::default();
    let line = parse_response(text.as_bytes(), &LIMITS, &mut fields).unwrap().unwrap();
    let mut out = Vec::new();
    response(text.as_bytes(), &line, &fields, chunked, persistence, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_response_keeps_end_to_end_fields_only() {
    let text = "HTTP/1.0 200 Fine\r\nA: 1\r\nConnection: close, x-h\r\nX-H: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\n";
    assert_eq!(answer(text, false, Persistence::Open), "HTTP/1.1 200 Fine\r\nA: 1\r\nContent-Length: 2\r\n\r\n");
    assert!(answer(text, false, Persistence::Close).ends_with("Connection: close\r\n\r\n"));
    let chunked = answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", true, Persistence::Open);
    assert_eq!(chunked, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let switched =
        answer("HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", false, Persistence::Upgrade);
    assert_eq!(switched, "HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n");
}
