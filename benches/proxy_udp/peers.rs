//! The proxies that are compared, as proxies of datagrams: one worker on one CPU, long idle timeouts, no log. Each also has a
//! TCP address, so that it is seen when it runs.

use crate::proxies::process::{NGINX_STREAM, Peer, free_address, program};
use crate::proxies::pypi;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

const ENVOY: &str = "type.googleapis.com/envoy.extensions";

/// Starts a peer by name and waits until it runs; returns it with the address of its datagrams.
pub(crate) fn start(
    name: &str,
    folder: &Path,
    (cpu, backend): (usize, SocketAddr),
    weir: &Path,
) -> io::Result<(Peer, SocketAddr)> {
    let folder = folder.join(name);
    fs::create_dir_all(&folder)?;
    let (tcp, udp) = (free_address()?, UdpSocket::bind("127.0.0.1:0")?.local_addr()?);
    let (name, command) = match name {
        "nginx" => ("nginx", nginx(&folder, (tcp, udp), backend)?),
        "envoy" => ("envoy", envoy(&folder, (tcp, udp), backend)?),
        "relay" => {
            let own = std::env::current_exe()?.to_string_lossy().into_owned();
            let (pair, tcp) = (format!("{udp}={backend}"), tcp.to_string());
            ("relay", vec![own, "--relay".into(), pair, "--relay-runs".into(), tcp])
        }
        "weir" => ("weir", weir_command(&folder, (tcp, udp), backend, weir)?),
        other => return Err(io::Error::other(format!("no peer is called {other}"))),
    };
    let peer = Peer::spawn(name, (folder, &cpu.to_string()), [tcp, tcp], false, command)?;
    Ok((peer, udp))
}

fn nginx(folder: &Path, (tcp, udp): (SocketAddr, SocketAddr), backend: SocketAddr) -> io::Result<Vec<String>> {
    let dir = folder.display();
    let text = format!(
        "load_module {NGINX_STREAM};\ndaemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit;
events {{ worker_connections 8192; use epoll; multi_accept on; accept_mutex off; }}
stream {{
  server {{ listen {tcp}; return ''; }}
  server {{ listen {udp} udp reuseport; proxy_pass {backend}; proxy_timeout 600s; }}
}}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let (dir, file) = (folder.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let errors = format!("{dir}/error.log");
    Ok(vec![program("nginx")?, "-p".into(), dir, "-c".into(), file, "-e".into(), errors])
}

fn address(address: SocketAddr, protocol: &str) -> Value {
    json!({ "socket_address": {
        "protocol": protocol, "address": address.ip().to_string(), "port_value": address.port() } })
}

fn envoy(folder: &Path, (tcp, udp): (SocketAddr, SocketAddr), backend: SocketAddr) -> io::Result<Vec<String>> {
    let route = json!({ "name": "route", "typed_config": {
        "@type": format!("{ENVOY}.filters.udp.udp_proxy.v3.Route"), "cluster": "be" } });
    let filter = json!({ "name": "envoy.filters.udp_listener.udp_proxy", "typed_config": {
        "@type": format!("{ENVOY}.filters.udp.udp_proxy.v3.UdpProxyConfig"),
        "stat_prefix": "u", "idle_timeout": "600s",
        "matcher": { "on_no_match": { "action": route } } } });
    let endpoint = json!({ "endpoint": { "address": address(backend, "UDP") } });
    let document = json!({
        "node": { "id": "bench", "cluster": "bench" },
        "admin": { "address": address(tcp, "TCP") },
        "stats_config": { "stats_matcher": { "reject_all": true } },
        "static_resources": {
            "listeners": [{ "name": "u", "address": address(udp, "UDP"), "listener_filters": [filter] }],
            "clusters": [{ "name": "be", "type": "STATIC", "lb_policy": "ROUND_ROBIN",
                "load_assignment": { "cluster_name": "be", "endpoints": [{ "lb_endpoints": [endpoint] }] } }],
        }
    });
    let file = folder.join("envoy.json");
    fs::write(&file, document.to_string())?;
    let program = pypi::program("envoy");
    let arguments = ["-c", &file.to_string_lossy(), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        .map(str::to_owned);
    Ok(std::iter::once(program).chain(arguments).collect())
}

fn weir_command(
    folder: &Path,
    (tcp, udp): (SocketAddr, SocketAddr),
    backend: SocketAddr,
    weir: &Path,
) -> io::Result<Vec<String>> {
    let text = format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{tcp}\"\n
[[listener]]\nname = \"u\"\naddress = \"{udp}\"\nprotocol = \"udp\"\nservice = \"s\"\n
[listener.udp]\nidle = \"10m\"\n
[[service]]\nname = \"s\"\n
[[service.port]]\nname = \"u\"\nprotocol = \"udp\"\n
[[service.endpoint]]\naddress = \"{backend}\"\n",
        folder.join("state").display()
    );
    let file = folder.join("weir.toml");
    fs::write(&file, text)?;
    let weir = weir.to_string_lossy().into_owned();
    Ok(vec![weir, "run".into(), "--no-keeper".into(), "--config".into(), file.to_string_lossy().into_owned()])
}
