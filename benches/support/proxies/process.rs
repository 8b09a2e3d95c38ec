//! Peers as processes: started on their CPU, waited for, ended; their packages.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use weir::clock;

/// A peer that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// Where it listens: for one endpoint and for two.
    pub(crate) listen: [SocketAddr; 2],
    /// Whether it can answer one request per connection.
    pub(crate) closes: bool,
    child: Child,
    folder: PathBuf,
}

impl Peer {
    /// Starts a peer's command on a CPU, with its output in a folder, and waits until it listens.
    pub(crate) fn spawn(
        name: &'static str,
        (folder, cpus): (PathBuf, &str),
        listen: [SocketAddr; 2],
        closes: bool,
        command: Vec<String>,
    ) -> io::Result<Self> {
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new("taskset")
            .args(["-c", cpus])
            .args(command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut peer = Self { name, listen, closes, child, folder };
        peer.wait()?;
        Ok(peer)
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it: it has no time to say anything to anybody.
    #[allow(dead_code, reason = "not every bench kills one")]
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn wait(&mut self) -> io::Result<()> {
        let deadline = clock::now() + Duration::from_secs(15);
        for address in self.listen {
            while !is_here(address) || TcpStream::connect(address).is_err() {
                if self.child.try_wait()?.is_some() || clock::now() > deadline {
                    let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                    return Err(io::Error::other(format!("{} does not listen on {address}:\n{log}", self.name)));
                }
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

/// Returns whether an address is this machine's by now; before that a connection would go elsewhere.
fn is_here(address: SocketAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address.ip(), 0)).is_ok()
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // SIGTERM, so that a master ends its workers; SIGKILL for what stays.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let deadline = clock::now() + Duration::from_secs(5);
        while clock::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where Debian keeps nginx's module for TCP.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What each peer needs: its name, a file of the package, the package.
const PACKAGES: [(&str, &str, &str); 10] = [
    ("nginx", "/usr/sbin/nginx", "nginx-light"),
    ("nginx", NGINX_STREAM, "libnginx-mod-stream"),
    ("haproxy", "/usr/sbin/haproxy", "haproxy"),
    ("h2load", "/usr/bin/h2load", "nghttp2-client"),
    ("dnsperf", "/usr/bin/dnsperf", "dnsperf"),
    ("knot", "/usr/sbin/knotd", "knot"),
    ("gdnsd", "/usr/sbin/gdnsd", "gdnsd"),
    ("nsd", "/usr/sbin/nsd", "nsd"),
    ("unbound", "/usr/sbin/unbound", "unbound"),
    ("dnsmasq", "/usr/sbin/dnsmasq", "dnsmasq-base"),
];

/// Installs the packages of peers that are missing, where that is possible.
pub(crate) fn install(names: &[&str]) -> io::Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(name, file, _)| names.contains(name) && !Path::new(file).exists())
        .map(|(_, _, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    // A package must not start its service: the policy is in place only while it is installed.
    let script = format!(
        "set -e; export DEBIAN_FRONTEND=noninteractive; policy=/usr/sbin/policy-rc.d; \
         if [ ! -e $policy ]; then printf '#!/bin/sh\\nexit 101\\n' >$policy; chmod +x $policy; trap 'rm -f '$policy EXIT; fi; \
         apt-get update -qq; apt-get install -y -qq --no-install-recommends {}",
        missing.join(" ")
    );
    let status = Command::new("sh").args(["-c", &script]).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("please install {}", missing.join(" ")))) }
}

fn program_path(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.exists())
}

pub(crate) fn program(name: &str) -> io::Result<String> {
    let path = program_path(name).ok_or_else(|| io::Error::other(format!("{name} is not installed")))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Returns an address that nobody uses now.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()
}
