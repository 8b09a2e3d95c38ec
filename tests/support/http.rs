//! A raw HTTP/1.1 client: sends exact bytes, reads exact answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer of a test takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// An answer as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and fields, without the empty line.
    pub head: String,
    /// The body, framing removed.
    pub body: Vec<u8>,
    /// The trailer section of a chunked body.
    pub trailers: String,
}

impl Answer {
    /// Returns the first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// Returns whether the sender ends the connection after it.
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Broken {
    /// The connection ended or failed before the first octet.
    BeforeAnswer(io::ErrorKind),
    /// It ended or failed inside an answer; what had come.
    InsideAnswer(io::ErrorKind, Vec<u8>),
    /// What came is no HTTP.
    Malformed(Vec<u8>),
}

/// Returns the first value of a field of a head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// One connection.
#[derive(Debug)]
pub struct Raw {
    /// The socket.
    pub stream: TcpStream,
    /// Received, not yet read.
    pub input: Vec<u8>,
}

impl Raw {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Sends exactly these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends to a peer that may end the connection at any time: `None` when it has.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Option<()> {
        self.stream.write_all(bytes.as_ref()).await.ok()
    }

    /// Sends bytes one by one, each in its own segment as far as the kernel lets it.
    pub async fn send_slowly(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref() {
            self.send([*byte]).await;
            tokio::task::yield_now().await;
        }
    }

    /// Reads one answer to a GET; panics when there is none.
    pub async fn answer(&mut self) -> Answer {
        super::within("an answer", LIMIT, self.try_answer(false)).await.unwrap_or_else(|e| panic!("no answer: {e:?}"))
    }

    /// Reads one answer to a HEAD: no body whatever its fields say.
    pub async fn head_answer(&mut self) -> Answer {
        super::within("an answer", LIMIT, self.try_answer(true)).await.unwrap_or_else(|e| panic!("no answer: {e:?}"))
    }

    /// Sends and reads one answer.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// When the connection ends before or inside it, or it is no HTTP.
    pub async fn try_answer(&mut self, no_body: bool) -> Result<Answer, Broken> {
        let head = self.read_head().await?;
        let status = head.get(9..12).and_then(|s| s.parse().ok()).filter(|_| head.starts_with("HTTP/1."));
        let status = status.ok_or_else(|| Broken::Malformed(head.clone().into_bytes()))?;
        let mut answer = Answer { status, head, ..Answer::default() };
        if no_body || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        let chunked = answer.field("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"));
        if chunked {
            self.read_chunks(&mut answer).await?;
        } else if let Some(length) = answer.field("content-length").map(str::to_owned) {
            let length = length.parse().map_err(|_| Broken::Malformed(answer.head.clone().into_bytes()))?;
            answer.body = self.read_exact(length).await?;
        } else {
            while self.fill().await.map_err(|kind| Broken::InsideAnswer(kind, self.input.clone()))? > 0 {}
            answer.body = std::mem::take(&mut self.input);
        }
        Ok(answer)
    }

    /// Reads to the end of the connection; returns what came. A reset ends it too.
    pub async fn rest(&mut self) -> Vec<u8> {
        let all = async { while matches!(self.fill().await, Ok(n) if n > 0) {} };
        super::within("the end of the connection", LIMIT, all).await;
        std::mem::take(&mut self.input)
    }

    /// Returns true when the peer has ended the connection, as far as known now. Does not wait.
    pub fn is_ended(&mut self) -> bool {
        let mut buffer = [0u8; 4096];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => true,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                false
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }

    async fn read_head(&mut self) -> Result<String, Broken> {
        let mut from = 0;
        loop {
            if let Some(at) = self.input.get(from..).and_then(|new| memchr::memmem::find(new, b"\r\n\r\n")) {
                let rest = self.input.split_off(from + at + 4);
                let mut head = std::mem::replace(&mut self.input, rest);
                head.truncate(from + at);
                return String::from_utf8(head).map_err(|e| Broken::Malformed(e.into_bytes()));
            }
            from = self.input.len().saturating_sub(3);
            let kind = match self.fill().await {
                Ok(0) => io::ErrorKind::UnexpectedEof,
                Ok(_) => continue,
                Err(kind) => kind,
            };
            return Err(match self.input.is_empty() {
                true => Broken::BeforeAnswer(kind),
                false => Broken::InsideAnswer(kind, std::mem::take(&mut self.input)),
            });
        }
    }

    async fn read_exact(&mut self, length: usize) -> Result<Vec<u8>, Broken> {
        while self.input.len() < length {
            self.fill_inside().await?;
        }
        let rest = self.input.split_off(length);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    async fn read_line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, b"\r\n") {
                let mut line = self.read_exact(at + 2).await?;
                line.truncate(at);
                return String::from_utf8(line).map_err(|e| Broken::Malformed(e.into_bytes()));
            }
            self.fill_inside().await?;
        }
    }

    async fn read_chunks(&mut self, answer: &mut Answer) -> Result<(), Broken> {
        loop {
            let line = self.read_line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| Broken::Malformed(line.clone().into_bytes()))?;
            if size == 0 {
                break;
            }
            answer.body.extend(self.read_exact(size).await?);
            self.read_exact(2).await?;
        }
        loop {
            let line = self.read_line().await?;
            if line.is_empty() {
                return Ok(());
            }
            answer.trailers.push_str(&line);
            answer.trailers.push_str("\r\n");
        }
    }

    async fn fill_inside(&mut self) -> Result<(), Broken> {
        match self.fill().await {
            Ok(0) => Err(Broken::InsideAnswer(io::ErrorKind::UnexpectedEof, self.input.clone())),
            Ok(_) => Ok(()),
            Err(kind) => Err(Broken::InsideAnswer(kind, self.input.clone())),
        }
    }

    async fn fill(&mut self) -> Result<usize, io::ErrorKind> {
        self.input.reserve(16 * 1024);
        self.stream.read_buf(&mut self.input).await.map_err(|error| error.kind())
    }
}

/// Gets a path over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    let mut raw = Raw::connect(address).await.unwrap();
    raw.exchange(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}
