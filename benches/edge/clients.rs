//! The loads that speak TLS: h2load for requests, a client of our own for handshakes and for connections that stay idle.
//!
//! They run on the load's CPU while the calling thread serves the backend.

use crate::proxies::load::{Load, Stretch};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use weir::clock;

/// The name in the certificate.
pub(crate) const NAME: &str = "www.example.com";
/// Time for one exchange of our own client.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the backend until the work is done.
fn serve_while<T: Send + 'static>(
    load: &mut Load,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<dyn Error>> {
    let worker = thread::spawn(|| {
        let result = work();
        crate::proxies::cpu::thread_ends();
        result
    });
    while !worker.is_finished() {
        load.idle(Duration::from_millis(2))?;
    }
    worker.join().map_err(|_panic| "the load panicked".into())
}

/// One run of h2load: `requests` in all, over HTTP/1.1 or HTTP/2 with TLS.
pub(crate) fn h2load(
    load: &mut Load,
    target: SocketAddr,
    (requests, clients, streams): (u64, u32, u32),
) -> Result<Stretch, Box<dyn Error>> {
    let mut command = Command::new("h2load");
    command.args(["-t1", &format!("-n{requests}"), &format!("-c{clients}"), &format!("-m{streams}")]);
    if streams == 1 {
        command.arg("--h1");
    }
    // The name goes to SNI and Host by a resolution of its own.
    command.arg(format!("--connect-to={target}")).arg(format!("https://{NAME}/"));
    command.stdin(Stdio::null());
    let output = serve_while(load, move || command.output())??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    let counted = |what: &str| -> Option<u64> {
        let line = line("requests: ")?;
        line.split(", ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
    };
    let seconds = line("finished in ").and_then(|rest| duration(rest.split(',').next()?));
    match (counted(" succeeded"), seconds) {
        (Some(succeeded), Some(seconds)) => {
            let errors = requests.saturating_sub(succeeded);
            Ok(Stretch { requests: succeeded, errors, seconds, latencies_us: Vec::new() })
        }
        _ => Err(format!("h2load said:\n{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// Reads `1.23s`, `456.7ms` or `89us` in seconds.
fn duration(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, scale) = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0)]
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}

/// Trusts the one certificate; never resumes a session.
pub(crate) fn config(certificate: &Path) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_slice_iter(&fs::read(certificate)?) {
        roots.add(der?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

type Connection = StreamOwned<ClientConnection, TcpStream>;

/// Connects, shakes hands, and has one request answered.
fn exchange(target: SocketAddr, config: &Arc<ClientConfig>, close: bool) -> io::Result<Connection> {
    let socket = TcpStream::connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, socket);
    let connection = if close { "Connection: close\r\n" } else { "" };
    write!(stream, "GET / HTTP/1.1\r\nHost: {NAME}\r\n{connection}\r\n")?;
    let mut answer = crate::proxies::message::Answer::default();
    let mut buffer = [0u8; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => match answer.feed(&buffer[..n]) {
                Ok(true) => return Ok(stream),
                Ok(false) => {}
                Err(()) => return Err(io::Error::other("a wrong answer")),
            },
        }
    }
}

/// One full handshake and one request.
pub(crate) fn shake(target: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<()> {
    exchange(target, config, true).map(|_| ())
}

/// Full handshakes one after the other for a while, each with one request.
pub(crate) fn handshakes(
    load: &mut Load,
    target: SocketAddr,
    config: Arc<ClientConfig>,
    time: Duration,
) -> Result<Stretch, Box<dyn Error>> {
    serve_while(load, move || {
        let mut stretch = Stretch::default();
        let begun = clock::now();
        while clock::now() - begun < time {
            match exchange(target, &config, true) {
                Ok(_) => stretch.requests += 1,
                Err(_) => stretch.errors += 1,
            }
        }
        stretch.seconds = (clock::now() - begun).as_secs_f64();
        stretch
    })
}

/// Opens connections that stay idle after one exchange; dropping them closes them.
pub(crate) fn hold(
    load: &mut Load,
    target: SocketAddr,
    config: Arc<ClientConfig>,
    count: usize,
) -> Result<Vec<Connection>, Box<dyn Error>> {
    let held = serve_while(load, move || (0..count).map(|_| exchange(target, &config, false)).collect())?;
    let held: io::Result<Vec<_>> = held;
    Ok(held?)
}
