//! Backends with control over each byte: a script says what a connection does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One thing that a backend does on a connection.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reads to the end of a request head.
    ReadHead,
    /// Reads so many octets of a body.
    ReadBody(usize),
    /// Reads a chunked body to its last empty line.
    ReadChunks,
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes one at a time, so long apart.
    SendSlowly(Vec<u8>, Duration),
    /// Waits.
    Wait(Duration),
    /// Ends the sending direction only.
    Shutdown,
    /// Ends the connection normally.
    Close,
    /// Ends the connection with a reset.
    Reset,
    /// Keeps the connection open and silent for ever.
    Hold,
    /// Starts the script again, for the next request on the connection.
    Repeat,
}

/// What a backend does on one connection.
pub type Script = Vec<Step>;

/// A backend that runs until dropped.
#[derive(Debug)]
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
    socket: socket2::Socket,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    /// Sends that are done, and connections that were ended here or there.
    sent: AtomicUsize,
    ended: AtomicUsize,
    /// What each connection received.
    received: Mutex<Vec<Vec<u8>>>,
}

impl Backend {
    /// Starts a backend whose every connection follows `script`.
    pub async fn start(script: Script) -> Self {
        Self::start_each(vec![script]).await
    }

    /// Starts a backend whose n-th connection follows the n-th script; the last one repeats.
    pub async fn start_each(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        let socket = socket2::SockRef::from(&listener).try_clone().unwrap();
        let scripts: Arc<[Script]> = scripts.into();
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                tokio::spawn(connection(stream, scripts.clone(), shared.clone()));
            }
        });
        Self { address, seen, task, socket }
    }

    /// Returns an address where nobody listens: its port stays taken, so no other test can get it.
    pub fn refusing() -> SocketAddr {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Box::leak(Box::new(socket));
        address
    }

    /// Refuses connections from now on; its port stays taken, so no other test can get it.
    pub fn refuse(&self) {
        self.socket.shutdown(std::net::Shutdown::Both).unwrap();
    }

    /// Returns how many connections it accepted.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Returns how many of its sends are done.
    pub fn sent(&self) -> usize {
        self.seen.sent.load(Ordering::SeqCst)
    }

    /// Returns how many of its connections have ended.
    pub fn ended(&self) -> usize {
        self.seen.ended.load(Ordering::SeqCst)
    }

    /// Returns what a connection received so far.
    pub fn received(&self, connection: usize) -> Vec<u8> {
        self.seen.received.lock().unwrap().get(connection).cloned().unwrap_or_default()
    }

    /// Returns what all connections received so far, as text.
    pub fn received_text(&self) -> String {
        self.seen.received.lock().unwrap().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a connection and follows its script. Where every script reads first, a connection without a byte is none: a
/// check that only connects does not count.
async fn connection(stream: TcpStream, scripts: Arc<[Script]>, seen: Arc<Seen>) {
    let reads_first = |script: &Script| matches!(script.first(), Some(Step::ReadHead));
    if scripts.iter().all(reads_first) && !matches!(stream.peek(&mut [0u8; 1]).await, Ok(1)) {
        return;
    }
    let number = {
        let mut received = seen.received.lock().unwrap();
        received.push(Vec::new());
        received.len() - 1
    };
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let script = scripts[number.min(scripts.len() - 1)].clone();
    Connection { stream, number, unread: Vec::new(), seen: seen.clone() }.follow(script).await;
    seen.ended.fetch_add(1, Ordering::SeqCst);
}

struct Connection {
    stream: TcpStream,
    number: usize,
    unread: Vec<u8>,
    seen: Arc<Seen>,
}

impl Connection {
    async fn follow(mut self, script: Script) {
        let _ = self.stream.set_nodelay(true);
        let mut at = 0;
        while let Some(step) = script.get(at) {
            at += 1;
            let going = match step {
                Step::ReadHead => self.read_until(b"\r\n\r\n").await,
                Step::ReadChunks => self.read_until(b"0\r\n\r\n").await,
                Step::ReadBody(length) => self.read_body(*length).await,
                Step::Send(bytes) => {
                    let done = self.stream.write_all(bytes).await.is_ok();
                    self.seen.sent.fetch_add(usize::from(done), Ordering::SeqCst);
                    done
                }
                Step::SendSlowly(bytes, pause) => self.send_slowly(bytes, *pause).await,
                Step::Wait(time) => {
                    tokio::time::sleep(*time).await;
                    true
                }
                Step::Shutdown => self.stream.shutdown().await.is_ok(),
                Step::Close => false,
                Step::Reset => {
                    let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                    false
                }
                Step::Hold => {
                    while self.fill().await {}
                    false
                }
                Step::Repeat => {
                    at = 0;
                    true
                }
            };
            if !going {
                return;
            }
        }
    }

    async fn fill(&mut self) -> bool {
        let mut buffer = [0u8; 16 * 1024];
        match self.stream.read(&mut buffer).await {
            Ok(n) if n > 0 => {
                self.unread.extend_from_slice(&buffer[..n]);
                self.seen.received.lock().unwrap()[self.number].extend_from_slice(&buffer[..n]);
                true
            }
            _ => false,
        }
    }

    async fn read_until(&mut self, end: &[u8]) -> bool {
        loop {
            if let Some(at) = memchr::memmem::find(&self.unread, end) {
                self.unread.drain(..at + end.len());
                return true;
            }
            if !self.fill().await {
                return false;
            }
        }
    }

    async fn read_body(&mut self, length: usize) -> bool {
        while self.unread.len() < length {
            if !self.fill().await {
                return false;
            }
        }
        self.unread.drain(..length);
        true
    }

    async fn send_slowly(&mut self, bytes: &[u8], pause: Duration) -> bool {
        for byte in bytes {
            if self.stream.write_all(&[*byte]).await.is_err() {
                return false;
            }
            tokio::time::sleep(pause).await;
        }
        true
    }
}

/// Returns a step that sends text.
pub fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// Answers each request on a connection with a body; the normal backend.
pub fn answering(body: &str) -> Script {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    vec![Step::ReadHead, send(&answer), Step::Repeat]
}

/// Answers each request with a status and no body.
pub fn status(code: u16) -> Script {
    vec![Step::ReadHead, send(&format!("HTTP/1.1 {code} Status\r\nContent-Length: 0\r\n\r\n")), Step::Repeat]
}

/// Closes as soon as the connection is open.
pub fn closing_at_once() -> Script {
    vec![Step::Close]
}

/// Closes after the request head, before any answer.
pub fn closing_before_answer() -> Script {
    vec![Step::ReadHead, Step::Close]
}

/// Resets after the request head, before any answer.
pub fn resetting_before_answer() -> Script {
    vec![Step::ReadHead, Step::Reset]
}

/// Resets inside the answer's head.
pub fn resetting_inside_head() -> Script {
    vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Le"), Step::Wait(Duration::from_millis(20)), Step::Reset]
}

/// Promises a longer body than it sends.
pub fn truncating() -> Script {
    vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this"), Step::Close]
}

/// Ends a chunked body without its last chunk.
pub fn truncating_chunks() -> Script {
    vec![Step::ReadHead, send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), Step::Close]
}

/// Never answers.
pub fn silent() -> Script {
    vec![Step::ReadHead, Step::Hold]
}

/// Answers after a while.
pub fn slow(time: Duration) -> Script {
    vec![Step::ReadHead, Step::Wait(time), send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"), Step::Repeat]
}

/// Sends what is no HTTP.
pub fn junk() -> Script {
    vec![Step::ReadHead, send("\u{1}\u{2}SSH-2.0-OpenSSH_9.2\r\n\r\n"), Step::Close]
}

/// Sends both framings.
pub fn both_framings() -> Script {
    vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Step::Close,
    ]
}

/// Answers an upload before its body has come, and closes.
pub fn early_answer() -> Script {
    vec![
        Step::ReadHead,
        send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        Step::Close,
    ]
}

/// Asks for the body with 100 Continue, reads it and answers.
pub fn continuing(body: usize) -> Script {
    vec![
        Step::ReadHead,
        send("HTTP/1.1 100 Continue\r\n\r\n"),
        Step::ReadBody(body),
        send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        Step::Repeat,
    ]
}

/// Sends chunks with an extension and a trailer.
pub fn chunked() -> Script {
    vec![
        Step::ReadHead,
        send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"),
        send("5;name=value\r\nhello\r\n7\r\n, world\r\n0\r\nX-Sum: 12\r\n\r\n"),
        Step::Repeat,
    ]
}
