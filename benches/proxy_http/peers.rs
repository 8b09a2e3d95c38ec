//! The proxies that are compared: their configuration, start and end.
//!
//! Equal terms: one worker on one CPU, upstream keepalive pools of 512 or more, no access log, long idle timeouts, and the
//! same fields added to each request: `X-Forwarded-For`, `-Proto`, `-Host`, `X-Request-Id` and `Via`. Each peer listens
//! twice: one endpoint behind the first address, two behind the second.

use crate::proxies::process::{Peer, free_address, program};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// What a peer is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    pub(crate) endpoints: &'a [SocketAddr],
    /// Whether the forwarding fields are added.
    pub(crate) fields: bool,
    pub(crate) weir: &'a Path,
}

/// Starts a peer by name and waits until it listens.
pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Peer> {
    let folder = setting.folder.join(name);
    fs::create_dir_all(&folder)?;
    let listen = [free_address()?, free_address()?];
    let (name, closes, command) = match name {
        "nginx" => ("nginx", true, nginx(&folder, listen, setting)?),
        "haproxy" => ("haproxy", true, haproxy(&folder, listen, setting)?),
        "relay" => ("relay", false, crate::proxies::relay::command(listen.into_iter().zip(groups(setting)))?),
        "weir" => ("weir", true, weir_command(&folder, listen, setting)?),
        other => return Err(io::Error::other(format!("no peer is called {other}"))),
    };
    Peer::spawn(name, (folder, &setting.cpu.to_string()), listen, closes, command)
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
    Ok(vec![weir, "run".into(), "--no-keeper".into(), "--config".into(), file.to_string_lossy().into_owned()])
}
