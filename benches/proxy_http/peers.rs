//! The proxies that are compared: their configuration, start and end.
//!
//! Equal terms: one worker on one CPU, upstream keepalive pools of 512 or more, no access log, long idle timeouts, and the
//! same fields added to each request: `X-Forwarded-For`, `-Proto`, `-Host`, `X-Request-Id` and `Via`. Each peer listens
//! twice: one endpoint behind the first address, two behind the second.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
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

/// What a peer is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    pub(crate) endpoints: &'a [SocketAddr],
    /// Whether the forwarding fields are added.
    pub(crate) fields: bool,
    pub(crate) weir: &'a Path,
}

impl Peer {
    /// Starts a peer by name and waits until it listens.
    pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Self> {
        let folder = setting.folder.join(name);
        fs::create_dir_all(&folder)?;
        let listen = [free_address()?, free_address()?];
        let (name, closes, command) = match name {
            "nginx" => ("nginx", true, nginx(&folder, listen, setting)?),
            "haproxy" => ("haproxy", true, haproxy(&folder, listen, setting)?),
            "relay" => ("relay", false, relay(listen, setting)?),
            "weir" => ("weir", true, weir_command(&folder, listen, setting)?),
            other => return Err(io::Error::other(format!("no peer is called {other}"))),
        };
        let log = fs::File::create(folder.join("log"))?;
        let child = Command::new("taskset")
            .args(["-c", &setting.cpu.to_string()])
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

    fn wait(&mut self) -> io::Result<()> {
        let deadline = clock::now() + Duration::from_secs(15);
        for address in self.listen {
            while TcpStream::connect(address).is_err() {
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

impl Drop for Peer {
    fn drop(&mut self) {
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

/// Installs the packages of peers that are missing, where that is possible.
pub(crate) fn install(names: &[&str]) -> io::Result<()> {
    let programs = [("nginx", "nginx-light"), ("haproxy", "haproxy")];
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| names.contains(program) && program_path(program).is_none())
        .map(|(_, package)| *package)
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

fn program(name: &str) -> io::Result<String> {
    let path = program_path(name).ok_or_else(|| io::Error::other(format!("{name} is not installed")))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Returns an address that nobody uses now.
pub(crate) fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.local_addr()
}

/// Returns the endpoints behind each of the two listeners.
fn groups<'a>(setting: &Setting<'a>) -> [&'a [SocketAddr]; 2] {
    [setting.endpoints.get(..1).unwrap_or_default(), setting.endpoints]
}

fn nginx(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let fields = if setting.fields {
        "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $http_host;
  proxy_set_header X-Request-Id $request_id; proxy_set_header Via \"1.1 nginx\";"
    } else {
        ""
    };
    let mut servers = String::new();
    for (index, group) in groups(setting).iter().enumerate() {
        let endpoints: String = group.iter().map(|e| format!("server {e}; ")).collect();
        let address = listen[index];
        servers += &format!(
            "  upstream be{index} {{ {endpoints}keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  server {{ listen {address} reuseport backlog=4096; location / {{ proxy_pass http://be{index}; }} }}\n"
        );
    }
    let dir = folder.display();
    let text = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit; worker_rlimit_nofile 20000;
events {{ worker_connections 16000; use epoll; multi_accept on; accept_mutex off; }}
http {{
  access_log off; server_tokens off; tcp_nodelay on; sendfile off;
  keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  proxy_http_version 1.1; proxy_set_header Connection \"\"; {fields}
  proxy_buffer_size 8k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k; proxy_max_temp_file_size 0;
{servers}}}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let (dir, file) = (folder.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let errors = format!("{dir}/error.log");
    Ok(vec![program("nginx")?, "-p".into(), dir, "-c".into(), file, "-e".into(), errors])
}

fn haproxy(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let fields = if setting.fields {
        "  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request add-header Via \"1.1 haproxy\"\n"
    } else {
        ""
    };
    let mut sections = String::new();
    for (index, group) in groups(setting).iter().enumerate() {
        let endpoints: String = group.iter().enumerate().map(|(n, e)| format!("  server s{n} {e}\n")).collect();
        let address = listen[index];
        sections += &format!(
            "frontend f{index}\n  bind {address} backlog 4096\n{fields}  default_backend b{index}\nbackend b{index}\n{endpoints}"
        );
    }
    let text = format!(
        "global\n  nbthread 1\n  maxconn 7500\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s
  option http-keep-alive\n  http-reuse always\n  balance roundrobin\n{sections}"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    Ok(vec![program("haproxy")?, "-db".into(), "-f".into(), file.to_string_lossy().into_owned()])
}

fn relay(listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut command = vec![own, "--relay".into()];
    for (address, group) in listen.iter().zip(groups(setting)) {
        let upstreams: Vec<String> = group.iter().map(SocketAddr::to_string).collect();
        command.push(format!("{address}={}", upstreams.join(",")));
    }
    Ok(command)
}

fn weir_command(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let admin = free_address()?;
    let mut text = format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n",
        folder.join("state").display()
    );
    for (index, group) in groups(setting).iter().enumerate() {
        let address = listen[index];
        text += &format!(
            "\n[[listener]]\nname = \"l{index}\"\naddress = \"{address}\"\n
[[route]]\nname = \"r{index}\"\nlisteners = [\"l{index}\"]\npath = \"/\"\nservice = \"s{index}\"\n
[[service]]\nname = \"s{index}\"\n"
        );
        for endpoint in *group {
            text += &format!("\n[[service.endpoint]]\naddress = \"{endpoint}\"\n");
        }
    }
    let file = folder.join("weir.toml");
    fs::write(&file, text)?;
    let weir = setting.weir.to_string_lossy().into_owned();
    Ok(vec![weir, "run".into(), "--config".into(), file.to_string_lossy().into_owned()])
}
