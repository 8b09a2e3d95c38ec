//! Questions: one at a time, checked; and the load, which is dnsperf.

use crate::zone::Case;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(3);

/// How questions travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Udp,
    Tcp,
    Dot,
}

impl Mode {
    /// As dnsperf calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
        }
    }
}

fn question(name: &str, kind: RecordType, id: u16) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    Ok(message.to_vec()?)
}

/// A connection for one question at a time.
pub(crate) struct Stream(Box<dyn ReadWrite>);

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Stream {
    /// Connects by TCP.
    pub(crate) fn plain(server: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_nodelay(true)?;
        Ok(Self(Box::new(stream)))
    }

    /// Connects by TLS and trusts nobody but this certificate.
    pub(crate) fn tls(server: SocketAddr, certificate: &Path) -> Result<Self, Box<dyn Error>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(certificate)?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let session = rustls::ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
        let stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_nodelay(true)?;
        Ok(Self(Box::new(rustls::StreamOwned::new(session, stream))))
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&mut self, name: &str, kind: RecordType) -> Result<Message, Box<dyn Error>> {
        let message = question(name, kind, 7)?;
        self.0.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat())?;
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut answer)?;
        Ok(Message::from_vec(&answer)?)
    }
}

/// Asks every question once and compares; returns the mean size of an answer over UDP.
pub(crate) fn verify(
    server: SocketAddr,
    mode: Mode,
    certificate: &Path,
    cases: &[Case],
) -> Result<f64, Box<dyn Error>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect(server)?;
    let mut stream = match mode {
        Mode::Udp => None,
        Mode::Tcp => Some(Stream::plain(server)?),
        Mode::Dot => Some(Stream::tls(server, certificate)?),
    };
    let (mut room, mut octets) = (vec![0; 65_536], 0);
    for (id, case) in (0u16..).cycle().zip(cases) {
        let answer = match &mut stream {
            Some(stream) => stream.ask(&case.name, case.kind)?,
            None => {
                socket.send(&question(&case.name, case.kind, id)?)?;
                let length = socket.recv(&mut room)?;
                octets += length;
                let answer = Message::from_vec(&room[..length])?;
                if answer.metadata.id != id {
                    return Err("an answer to another question".into());
                }
                answer
            }
        };
        if let Some(complaint) = case.complaint(&answer) {
            return Err(complaint.into());
        }
    }
    Ok(octets as f64 / cases.len() as f64)
}

/// What dnsperf says of one run.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) answers: u64,
    pub(crate) lost: u64,
    /// Answers with another code than NOERROR or NXDOMAIN.
    pub(crate) wrong: u64,
    pub(crate) per_second: f64,
    /// Mean size of an answer in octets.
    pub(crate) answer_bytes: f64,
    /// Sorted, in microseconds; only when they were asked for.
    pub(crate) latencies_us: Vec<u32>,
}

/// One load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) server: SocketAddr,
    pub(crate) mode: Mode,
    pub(crate) questions: &'a Path,
    pub(crate) seconds: f64,
    /// Questions per second, with the latency of each; `None`: as fast as 100 in flight go.
    pub(crate) rate: Option<u32>,
    /// Whether it ends with the last question of the file.
    pub(crate) once: bool,
}

/// Runs dnsperf on this process's CPU: 100 questions in flight on 10 sockets, or 4 connections.
pub(crate) fn dnsperf(load: &Load<'_>, scratch: &Path) -> Result<Run, Box<dyn Error>> {
    let clients = if load.mode == Mode::Udp { "10" } else { "4" };
    let (port, seconds) = (load.server.port().to_string(), load.seconds.to_string());
    // A file and no pipe: lines must not wake this process.
    let file = scratch.join("dnsperf.out");
    let mut command = Command::new("dnsperf");
    command.args(["-s", "127.0.0.1", "-p", &port, "-m", load.mode.name(), "-c", clients, "-q", "100", "-T", "1"]);
    command.args(["-t", "3", "-l", &seconds, "-d"]).arg(load.questions);
    if let Some(rate) = load.rate {
        command.args(["-v", "-Q", &rate.to_string()]);
    }
    if load.once {
        command.args(["-n", "1"]);
    }
    let output = fs::File::create(&file)?;
    let ended = command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output).status()?;
    let text = fs::read_to_string(&file)?;
    if !ended.success() {
        return Err(format!("dnsperf failed:\n{}", text.lines().rev().take(5).collect::<Vec<_>>().join("\n")).into());
    }
    Ok(read(&text))
}

fn read(text: &str) -> Run {
    let after =
        |label: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(label)).unwrap_or_default().trim();
    let number = |text: &str| text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|n| n.parse::<f64>().ok());
    let count = |label: &str| number(after(label)).unwrap_or(0.0);
    let mut run = Run {
        answers: count("Queries completed:") as u64,
        lost: count("Queries lost:") as u64,
        per_second: count("Queries per second:"),
        ..Run::default()
    };
    for part in after("Response codes:").split(", ") {
        let known = ["NOERROR", "NXDOMAIN"].iter().any(|code| part.starts_with(code));
        run.wrong += if known { 0 } else { number(part).unwrap_or(0.0) as u64 };
    }
    let sizes = after("Average packet size:");
    run.answer_bytes = sizes.split("response").nth(1).and_then(number).unwrap_or(0.0);
    let lines = text.lines().filter(|line| line.starts_with("> "));
    let latency = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    run.latencies_us = lines.filter_map(latency).map(|seconds| (seconds * 1e6) as u32).collect();
    run.latencies_us.sort_unstable();
    run
}

/// Answers every datagram with itself, marked as an answer: what the kernel costs, and nothing else. Does not return.
pub(crate) fn echo(address: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    // Whoever waits for this server waits for a listener.
    let _listener = std::net::TcpListener::bind(address)?;
    let mut room = [0; 4096];
    loop {
        let (length, peer) = socket.recv_from(&mut room)?;
        if let Some(flags) = room.get_mut(2) {
            *flags |= 0x80;
        }
        let _ = socket.send_to(&room[..length], peer)?;
    }
}
