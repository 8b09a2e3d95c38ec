//! Where mutation starts: small valid messages, and what once was read wrongly somewhere.

pub(crate) const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a/b?c=d HTTP/1.1\r\nHost: example.test:8080\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
    b"POST /f HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /t HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\nConnection: close, x\r\nX: 1\r\n\r\n",
    b"PUT /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok",
    b"GET /w HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    b"\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET http://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%2e%2e/../a//b HTTP/1.1\r\nHost: a\r\n\r\n",
];

pub(crate) const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nbody",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 100\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /x\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 0\r\n\r\n",
];

pub(crate) const CHUNKED: &[&[u8]] = &[
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1;a\r\nx\r\n000A;b=\"c\"\r\n0123456789\r\n00\r\nTrailer: v\r\n\r\n",
    b"a\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nGET / HTTP/1.1\r\n",
];

pub(crate) const PROXY: &[&[u8]] = &[
    b"PROXY TCP4 10.0.0.1 10.0.0.2 12345 80\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 1 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50GET /",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x2c\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50\x01\0\x02h2\x02\0\x06a.test\x20\0\x0f\x05\0\0\0\0\x21\0\x07TLSv1.3",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x30\x39\0\x50",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\x0a\0\0\x01\x0a\0\0\x02\x30\x39\0\x50\x03\0\x04\0\0\0\0",
];

pub(crate) const HELLOS: &[&[u8]] = &[
    // Name and protocols.
    b"\x16\x03\x01\0\x49\x01\0\0\x45\x03\x030123456789abcdef0123456789abcdef\0\0\x02\x13\x01\x01\0\0\x1a\0\0\0\x0b\0\x09\0\0\x06a.test\0\x10\0\x07\0\x05\x02h2\x01x",
    // No extensions.
    b"\x16\x03\x01\0\x2d\x01\0\0\x29\x03\x030123456789abcdef0123456789abcdef\0\0\x02\x13\x01\x01\0",
    // Over two records.
    b"\x16\x03\x01\0\x04\x01\0\0\x29\x16\x03\x03\0\x29\x03\x030123456789abcdef0123456789abcdef\0\0\x02\x13\x01\x01\0",
    b"\x16\x03\x01\x40\0\x01\0\x40\x01",
    b"GET / HTTP/1.1\r\n",
];
