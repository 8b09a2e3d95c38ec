//! Weir as a process in front of static endpoints.

use crate::proxies::cpu;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weir::clock;

/// What it is started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) workers: usize,
    pub(crate) services: usize,
    pub(crate) endpoints: &'a [SocketAddr],
}

/// A running Weir; ended when dropped.
pub(crate) struct Weir {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    child: Child,
    folder: PathBuf,
}

impl Weir {
    /// Starts it; does not wait.
    pub(crate) fn start(binary: &Path, shape: Shape<'_>) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("weir-footprint-{}-{}", std::process::id(), clock::now_ms()));
        fs::create_dir_all(&folder)?;
        let free = || TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr();
        let (http, admin) = (free()?, free()?);
        let mut text = format!(
            "[node]\nworkers = {}\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n\n[dns]\nlisten = [\"{}\"]\n
[[listener]]\nname = \"web\"\naddress = \"{http}\"\n",
            shape.workers,
            folder.join("state").display(),
            free()?,
        );
        for n in 0..shape.services {
            let host = if n == 0 { String::new() } else { format!("host = \"s{n}.example.com\"\n") };
            text += &format!(
                "\n[[route]]\nname = \"r{n}\"\n{host}service = \"s{n}\"\n\n[[service]]\nname = \"s{n}\"\npolicy = \"round-robin\"\n"
            );
            for endpoint in shape.endpoints {
                text += &format!("\n[[service.endpoint]]\naddress = \"{endpoint}\"\n");
            }
        }
        let file = folder.join("weir.toml");
        fs::write(&file, text)?;
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new(binary)
            .arg("run")
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { http, admin, child, folder })
    }

    /// Returns its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        cpu::tree(self.child.id())
    }

    /// Returns whether a request is answered with 200 now.
    pub(crate) fn answers(&self) -> bool {
        get(self.http, "/").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Returns the metric lines that start with a name, as label text and value.
    pub(crate) fn metrics(&self, name: &str) -> io::Result<Vec<(String, f64)>> {
        let text = get(self.admin, "/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name));
        Ok(lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(l, v)| Some((l.to_owned(), v.parse().ok()?)))
            .collect())
    }

    /// Returns what it wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = clock::now() + Duration::from_secs(10);
        while clock::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
