//! What every way through Weir must let pass, whoever is in front of it and behind it: asked by curl, answered by nginx
//! from files and by `weir whoami`.

use crate::program::{Keys, Program, WAIT, Whoami, nginx, run};
use crate::support::process::Folder;
use crate::support::within;
use crate::tunnel::{MASK, frame, read_frame, upgrade};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The size of the large file, and of the largest upload.
const LARGE: usize = 8 << 20;

/// nginx that serves files, and passes the rest on to `weir whoami`.
pub(crate) struct Origin {
    pub(crate) nginx: Program,
    whoami: Whoami,
    files: Folder,
}

impl Origin {
    /// Starts it; `http` is added to nginx's section of that name.
    pub(crate) async fn start(keys: &Keys, http: &str) -> Self {
        let (whoami, files) = (Whoami::start().await, Folder::new("files"));
        files.write("small.txt", &"a line of text\n".repeat(500));
        let octets: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
        fs::write(files.0.join("large.bin"), octets).unwrap();
        let server = format!(
            "location /files/ {{ alias {}/; etag on; gzip on; gzip_proxied any; gzip_min_length 100; gzip_types text/plain; }}
             location /put/ {{ alias {}/; dav_methods PUT; }}
             location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
               proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;
               proxy_set_header Connection $upgrading; }}",
            files.0.display(),
            files.0.display(),
            whoami.address
        );
        let map = format!("map $http_upgrade $upgrading {{ default upgrade; '' ''; }} {http}");
        let nginx = nginx(keys, &map, &server).await;
        Self { nginx, whoami, files }
    }

    /// The server behind nginx.
    pub(crate) fn whoami(&self) -> SocketAddr {
        self.whoami.address
    }
}

/// Where a course begins.
pub(crate) struct Course<'a> {
    pub(crate) origin: &'a Origin,
    /// What the client is told before its own: the version, whom it trusts.
    pub(crate) flags: Vec<String>,
    /// Scheme, host and port.
    pub(crate) url: String,
}

/// What curl got.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl<'a> Course<'a> {
    /// In clear text over HTTP/1.1 or, by prior knowledge, HTTP/2.
    pub(crate) fn plain(origin: &'a Origin, address: SocketAddr, version: &str) -> Self {
        Self { origin, flags: vec![version.to_owned()], url: format!("http://{address}") }
    }

    /// In TLS, for `app.test`.
    pub(crate) fn tls(origin: &'a Origin, keys: &Keys, address: SocketAddr, version: &str) -> Self {
        let ca = origin.files.write("ca.pem", &keys.authority.pem()).display().to_string();
        let port = address.port();
        let resolve = format!("app.test:{port}:{}", address.ip());
        let flags = [version, "--cacert", &ca, "--resolve", &resolve].map(str::to_owned).to_vec();
        Self { origin, flags, url: format!("https://app.test:{port}") }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.origin.files.0.join(name)
    }

    async fn curl(&self, path: &str, more: &[&str]) -> Got {
        let (head, body) = (self.file("got.head"), self.file("got.body"));
        fs::write(&body, "").unwrap();
        let url = format!("{}{path}", self.url);
        let (head_text, body_text) = (head.display().to_string(), body.display().to_string());
        let mut arguments = vec!["-sS", "--noproxy", "*", "-m", "50", "-w", "%{http_code}", "-D", &head_text];
        arguments.extend(["-o", &body_text]);
        arguments.extend(self.flags.iter().map(String::as_str));
        arguments.extend(more);
        arguments.push(&url);
        let status = run("curl", &arguments).await.parse().unwrap();
        Got { status, head: fs::read_to_string(&head).unwrap(), body: fs::read(&body).unwrap() }
    }

    /// Everything.
    pub(crate) async fn pass(&self) {
        self.files().await;
        self.bodies().await;
    }

    /// Conditional and partial requests, HEAD, compression, a large file.
    async fn files(&self) {
        let small = fs::read(self.file("small.txt")).unwrap();
        let got = self.curl("/files/small.txt", &[]).await;
        assert_eq!((got.status, got.body.len()), (200, small.len()), "{}", got.head);
        let tag = got.field("etag").unwrap().to_owned();
        let got = self.curl("/files/small.txt", &["-H", &format!("If-None-Match: {tag}")]).await;
        assert_eq!((got.status, got.body.len()), (304, 0), "{}", got.head);
        // Traefik asks for compressed answers by itself, whose tag is weak; it is compared as such (RFC 9110 §8.8.3.2).
        let same = got.field("etag").map(|found| found.trim_start_matches("W/") == tag.trim_start_matches("W/"));
        assert_eq!(same, Some(true), "{tag}: {}", got.head);
        let got = self.curl("/files/small.txt", &["-I"]).await;
        assert_eq!((got.status, got.field("content-length")), (200, Some("7500")), "{}", got.head);
        let got = self.curl("/files/large.bin", &["-r", "250-509"]).await;
        assert_eq!((got.status, got.body.len(), got.body[0], got.body[1]), (206, 260, 250, 0), "{}", got.head);
        assert_eq!(got.field("content-range"), Some(format!("bytes 250-509/{LARGE}").as_str()));
        let got = self.curl("/files/large.bin", &["-r", "99999999-"]).await;
        assert_eq!(got.status, 416, "{}", got.head);
        let got = self.curl("/files/small.txt", &["--compressed"]).await;
        assert_eq!((got.field("content-encoding"), got.body == small), (Some("gzip"), true), "{}", got.head);
        let got = self.curl("/files/large.bin", &[]).await;
        assert!(got.status == 200 && got.body == fs::read(self.file("large.bin")).unwrap(), "{}", got.head);
        assert_eq!(self.curl("/files/none", &[]).await.status, 404);
    }

    /// Answers without a body, chunks, uploads of every kind.
    async fn bodies(&self) {
        for status in [204, 304] {
            let got = self.curl(&format!("/status/{status}"), &[]).await;
            assert_eq!((got.status, got.body.len()), (status, 0), "{}", got.head);
        }
        let got = self.curl("/chunked/100000", &[]).await;
        assert!(got.status == 200 && got.body == fs::read(self.file("large.bin")).unwrap()[..100_000], "{}", got.head);
        let got = self.curl("/bytes/0", &[]).await;
        assert_eq!((got.status, got.body.len()), (200, 0), "{}", got.head);
        let (large, one) = (self.file("large.bin"), self.file("one"));
        fs::write(&one, "1").unwrap();
        // nginx asks for no body over HTTP/2 and gets it when curl has waited.
        let wait = ["-H", "Expect: 100-continue", "--expect100-timeout", "1"];
        let chunks = ["-H", "Transfer-Encoding: chunked", "-H", "Content-Length:"];
        for (what, more) in [("waits", &wait[..]), ("does not wait", &["-H", "Expect:"]), ("in chunks", &chunks)] {
            for file in [&one, &large] {
                let _ = fs::remove_file(self.file("put.bin"));
                let data = format!("@{}", file.display());
                let got = self.curl("/put/put.bin", &[&["-X", "PUT", "--data-binary", &data], more].concat()).await;
                assert_eq!(got.status, 201, "{what}: {}", got.head);
                assert!(fs::read(self.file("put.bin")).unwrap() == fs::read(file).unwrap(), "{what}");
            }
        }
        let got = self.curl("/", &["-X", "POST", "-H", "Content-Length: 0"]).await;
        assert!(String::from_utf8_lossy(&got.body).contains("Method: POST\n"), "{}", got.head);
        assert!(String::from_utf8_lossy(&got.body).contains("Body: 0 bytes\n"), "{}", got.head);
        if self.flags[0] == "--http2-prior-knowledge" {
            // curl 7.88 fails on the second request of such a connection, whoever serves it.
            return;
        }
        // Several on one connection: what had no body leaves nothing behind.
        let [a, b, c] = ["/status/204", "/bytes/3", "/chunked/5"].map(|path| format!("{}{path}", self.url));
        let mut arguments = vec!["-sS", "--noproxy", "*", "-w", "%{http_code} %{size_download} %{num_connects}\n"];
        arguments.extend(self.flags.iter().map(String::as_str));
        arguments.extend(["-o", "/dev/null", &a, "-o", "/dev/null", &b, "-o", "/dev/null", &c]);
        let said = run("curl", &arguments).await;
        let lines: Vec<_> = said.lines().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(lines, ["204 0", "200 3", "200 5"], "{said}");
    }
}

/// A WebSocket over HTTP/1.1: small and large frames are echoed, and its end arrives.
pub(crate) async fn websocket(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(upgrade("/ws").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("an answer", WAIT, stream.read_u8()).await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    for size in [1, 126, 70_000, 1 << 20] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let (mut from, mut to) = stream.split();
        let sent = frame(&payload, Some(MASK));
        let (sent, echoed) = tokio::join!(to.write_all(&sent), within("an echo", WAIT, read_frame(&mut from)));
        sent.unwrap();
        assert!(echoed.unwrap() == payload, "{size} octets");
    }
    stream.shutdown().await.unwrap();
    assert!(within("the end", WAIT, stream.read_u8()).await.is_err());
}
