//! The proxies that are compared, as TCP proxies: one worker on one CPU, long idle timeouts, no log. The first address
//! of each leads to the round-trip backend, the second to the bulk and idle backend.

use crate::proxies::process::{NGINX_STREAM, Peer, free_address, program};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use weir::control::addresses::Addresses;
use weir::control::store::Contents;
use weir::model::ServiceName;

/// Of which `own` gets addresses.
const RANGE: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 16);

/// HAProxy wants 2.5 descriptors for each connection that it may have, and 20,000 are a usual bound.
pub(crate) const HAPROXY_CONNECTIONS: usize = 7500;

/// What a peer is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    /// The backend behind each of the two addresses.
    pub(crate) backends: [SocketAddr; 2],
    pub(crate) weir: &'a Path,
}

/// Starts a peer by name and waits until it listens.
pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Peer> {
    let folder = setting.folder.join(name);
    fs::create_dir_all(&folder)?;
    let listen = match name {
        "own" => own_addresses(setting.backends)?,
        _ => [free_address()?, free_address()?],
    };
    let (name, command) = match name {
        "nginx" => ("nginx", nginx(&folder, listen, setting)?),
        "haproxy" => ("haproxy", haproxy(&folder, listen, setting)?),
        "weir" => ("weir", weir(&folder, Some(listen), setting)?),
        "relay" => {
            let backends = setting.backends.iter().map(std::slice::from_ref);
            ("relay", crate::proxies::relay::command(listen.into_iter().zip(backends))?)
        }
        "own" => ("own", weir(&folder, None, setting)?),
        other => return Err(io::Error::other(format!("no peer is called {other}"))),
    };
    Peer::spawn(name, (folder, &setting.cpu.to_string()), listen, false, command)
}

fn nginx(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let mut servers = String::new();
    for (address, backend) in listen.iter().zip(setting.backends) {
        servers += &format!(
            "  server {{ listen {address} reuseport backlog=4096; proxy_pass {backend}; proxy_buffer_size 64k; tcp_nodelay on; proxy_timeout 600s; }}\n"
        );
    }
    let dir = folder.display();
    let text = format!(
        "load_module {NGINX_STREAM};\ndaemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log crit; worker_rlimit_nofile 20000;
events {{ worker_connections 19900; use epoll; multi_accept on; accept_mutex off; }}
stream {{\n{servers}}}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text)?;
    let (dir, file) = (folder.to_string_lossy().into_owned(), file.to_string_lossy().into_owned());
    let errors = format!("{dir}/error.log");
    Ok(vec![program("nginx")?, "-p".into(), dir, "-c".into(), file, "-e".into(), errors])
}

fn haproxy(folder: &Path, listen: [SocketAddr; 2], setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let mut sections = String::new();
    for (index, (address, backend)) in listen.iter().zip(setting.backends).enumerate() {
        sections +=
            &format!("listen l{index}\n  bind {address} backlog 4096\n  option splice-auto\n  server s {backend}\n");
    }
    let text = format!(
        "global\n  nbthread 1\n  maxconn {HAPROXY_CONNECTIONS}\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n{sections}"
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, text)?;
    Ok(vec![program("haproxy")?, "-db".into(), "-f".into(), file.to_string_lossy().into_owned()])
}

/// Where Weir serves the services `s0` and `s1` at their own addresses.
fn own_addresses(backends: [SocketAddr; 2]) -> io::Result<[SocketAddr; 2]> {
    let mut addresses = Addresses::new(RANGE, &Contents::default(), 0);
    let name = |name| ServiceName::parse(name).map_err(io::Error::other);
    let names = [name("s0")?, name("s1")?];
    for name in &names {
        addresses.assign(name, 0);
    }
    let all = addresses.all();
    let of = |index: usize| SocketAddr::new(all[&names[index]], backends[index].port());
    Ok([of(0), of(1)])
}

/// Weir with a listener for each backend, or with services' own addresses instead (as root).
fn weir(folder: &Path, listen: Option<[SocketAddr; 2]>, setting: &Setting<'_>) -> io::Result<Vec<String>> {
    let admin = free_address()?;
    let mut text = format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"{admin}\"\n",
        folder.join("state").display()
    );
    if listen.is_none() {
        text +=
            &format!("\n[dns]\nlisten = [\"{}\"]\nservice_addresses = \"{}/{}\"\n", free_address()?, RANGE.0, RANGE.1);
    }
    for (index, backend) in setting.backends.iter().enumerate() {
        if let Some(address) = listen.map(|listen| listen[index]) {
            text += &format!(
                "\n[[listener]]\nname = \"l{index}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\nservice = \"s{index}\"\n"
            );
        }
        text += &format!("\n[[service]]\nname = \"s{index}\"\n\n[[service.endpoint]]\naddress = \"{backend}\"\n");
    }
    let file = folder.join("weir.toml");
    fs::write(&file, text)?;
    let weir = setting.weir.to_string_lossy().into_owned();
    Ok(vec![weir, "run".into(), "--no-keeper".into(), "--config".into(), file.to_string_lossy().into_owned()])
}
