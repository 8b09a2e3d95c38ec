//! The peers of this bench, and the configuration of Weir, nginx and HAProxy.
//!
//! Equal terms: one worker on one CPU, two endpoints by round robin, upstream keepalive pools of 512 or more, no access log,
//! the same forwarding fields, the same certificate (ECDSA P-256), TLS 1.3 without resumption, HTTP/2 and HTTP/1.1 by ALPN.

use crate::foreign;
use crate::proxies::process::{Peer, free_address, program};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a peer is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    pub(crate) endpoints: &'a [SocketAddr],
    pub(crate) weir: &'a Path,
    /// PEM files of the certificate and its key.
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
}

/// Starts a peer by name and waits until it listens: plain on its first address, with TLS on its second.
pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Peer> {
    let folder = setting.folder.join(name);
    fs::create_dir_all(&folder)?;
    let listen = [free_address()?, free_address()?];
    let (name, command) = match name {
        "weir" => ("weir", weir_command(&folder, listen, setting)?),
        "nginx" => ("nginx", nginx(&folder, listen, setting)?),
        "haproxy" => ("haproxy", haproxy(&folder, listen, setting)?),
        "envoy" => ("envoy", foreign::envoy(&folder, listen, setting)?),
        "traefik" => ("traefik", foreign::traefik(&folder, listen, setting)?),
        "caddy" => ("caddy", foreign::caddy(&folder, listen, setting)?),
        other => return Err(io::Error::other(format!("no peer is called {other}"))),
    };
    Peer::spawn(name, (folder, &setting.cpu.to_string()), listen, true, command)
}

fn nginx(folder: &Path, [plain, tls]: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let endpoints: String = setting.endpoints.iter().map(|e| format!("server {e}; ")).collect();
    let (dir, certificate, key) = (folder.display(), setting.certificate.display(), setting.key.display());
    let text = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit; worker_rlimit_nofile 20000;
events {{ worker_connections 16000; use epoll; multi_accept on; accept_mutex off; }}
http {{
  access_log off; server_tokens off; tcp_nodelay on; sendfile off; keepalive_timeout 600s; keepalive_requests 1000000000;
  client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2; fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
  proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
  proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id; proxy_set_header Via \"1.1 nginx\";
  proxy_buffer_size 8k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k; proxy_max_temp_file_size 0;
  ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;
  upstream be {{ {endpoints}keepalive 512; keepalive_requests 1000000000; keepalive_timeout 600s; }}
  server {{ listen {plain} reuseport backlog=4096; location / {{ proxy_pass http://be; }} }}
  server {{ listen {tls} ssl http2 reuseport backlog=4096; location / {{ proxy_pass http://be; }} }}
}}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let (dir, file) = (folder.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let errors = format!("{dir}/error.log");
    Ok(vec![program("nginx")?, "-p".into(), dir, "-c".into(), file, "-e".into(), errors])
}

fn haproxy(folder: &Path, [plain, tls]: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    // HAProxy reads certificate and key from one file.
    let pem = folder.join("both.pem");
    fs::write(&pem, [fs::read(setting.certificate)?, fs::read(setting.key)?].concat())?;
    let endpoints: String = setting.endpoints.iter().enumerate().map(|(n, e)| format!("  server s{n} {e}\n")).collect();
    let fields = |scheme: &str| {
        format!(
            "  option forwardfor\n  http-request set-header X-Forwarded-Proto {scheme}
  http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  unique-id-format %[uuid()]\n  unique-id-header X-Request-Id
  http-request add-header Via \"1.1 haproxy\"\n"
        )
    };
    let (http, https, pem) = (fields("http"), fields("https"), pem.display());
    let text = format!(
        "global\n  nbthread 1\n  maxconn 7500\n  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets\n  tune.ssl.cachesize 0
defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s
  option http-keep-alive\n  http-reuse always\n  balance roundrobin
frontend plain\n  bind {plain} backlog 4096\n{http}  default_backend be
frontend tls\n  bind {tls} backlog 4096 ssl crt {pem} alpn h2,http/1.1\n{https}  default_backend be
backend be\n{endpoints}"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    Ok(vec![program("haproxy")?, "-db".into(), "-f".into(), file.to_string_lossy().into_owned()])
}

fn weir_command(folder: &Path, [plain, tls]: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let file = folder.join("weir.toml");
    fs::write(&file, weir_text(folder, [plain, tls], setting, setting.endpoints))?;
    let weir = setting.weir.to_string_lossy().into_owned();
    Ok(vec![weir, "run".into(), "--no-keeper".into(), "--config".into(), file.to_string_lossy().into_owned()])
}

/// Changes which endpoints Weir has, as an operator would: by a new configuration file in the old one's place.
pub(crate) fn change_endpoints(peer: &Peer, setting: &Setting<'_>, endpoints: &[SocketAddr]) -> io::Result<()> {
    let folder = setting.folder.join("weir");
    let next = folder.join("weir.toml.next");
    fs::write(&next, weir_text(&folder, peer.listen, setting, endpoints))?;
    fs::rename(next, folder.join("weir.toml"))
}

/// Where Weir's admin socket is.
pub(crate) fn admin_socket(setting: &Setting<'_>) -> PathBuf {
    setting.folder.join("weir/state/weir.sock")
}

fn weir_text(folder: &Path, [plain, tls]: [SocketAddr; 2], setting: &Setting<'_>, endpoints: &[SocketAddr]) -> String {
    let state = folder.join("state");
    let mut text = format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n
[[listener]]\nname = \"plain\"\naddress = \"{plain}\"\n
[[listener]]\nname = \"tls\"\naddress = \"{tls}\"\n
[listener.tls]\nminimum_version = \"1.3\"\ncertificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n
[[route]]\nname = \"all\"\npath = \"/\"\nservice = \"be\"\n
[[service]]\nname = \"be\"\npolicy = \"round-robin\"\n",
        state.display(),
        setting.certificate.display(),
        setting.key.display()
    );
    for endpoint in endpoints {
        text += &format!("\n[[service.endpoint]]\naddress = \"{endpoint}\"\n");
    }
    text
}
