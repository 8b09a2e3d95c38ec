//! The translation of heads for endpoints, as pure functions.

use crate::proxy::http2::head;
use http::HeaderMap;

#[test]
fn trailers_go_there_and_back() {
    let mut out = Vec::new();
    let found = head::trailers(b"X-Sum: 7\r\ngrpc-status:0\r\nconnection: x\r\n\r\n").unwrap();
    head::write_trailers(Some(&found), &mut out).unwrap();
    assert_eq!(out, b"0\r\nx-sum: 7\r\ngrpc-status: 0\r\n\r\n");
    assert_eq!(head::trailers(b"\r\n"), None);
    out.clear();
    head::write_trailers(None::<&HeaderMap>, &mut out).unwrap();
    assert_eq!(out, b"0\r\n\r\n");
}
