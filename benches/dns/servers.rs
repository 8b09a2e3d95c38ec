//! The servers: an echo as the floor, Weir, Knot, gdnsd and NSD, each with one thread for questions on one CPU.

use crate::proxies::process::{Peer, free_address, program};
use crate::zone::ZONE;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// What a server is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    pub(crate) weir: &'a Path,
    /// Weir's services.
    pub(crate) services: &'a str,
    /// The zone as a master file.
    pub(crate) zone: &'a Path,
    /// PEM files of the certificate and its key.
    pub(crate) certificate: &'a Path,
    pub(crate) key: &'a Path,
}

/// Starts a server by name; it listens for UDP and TCP on its first address and for TLS on its second, where it can.
pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Peer> {
    let folder = setting.folder.join(name);
    fs::create_dir_all(&folder)?;
    let plain = free_for_both()?;
    let tls = free_address()?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (name, listen, command) = match name {
        "echo" => {
            let own = text(std::env::current_exe()?);
            ("echo", [plain, plain], vec![own, "--echo".into(), plain.to_string()])
        }
        "weir" => {
            let file = folder.join("weir.toml");
            fs::write(&file, weir(&folder, plain, tls, setting))?;
            let weir = setting.weir.to_string_lossy().into_owned();
            ("weir", [plain, tls], vec![weir, "run".into(), "--no-keeper".into(), "--config".into(), text(file)])
        }
        "knot" => {
            let file = folder.join("knot.conf");
            fs::write(&file, knot(&folder, plain, setting))?;
            ("knot", [plain, plain], vec![program("knotd")?, "-c".into(), text(file)])
        }
        "gdnsd" => {
            for sub in ["run", "state", "zones"] {
                fs::create_dir_all(folder.join(sub))?;
            }
            fs::copy(setting.zone, folder.join("zones").join(ZONE))?;
            fs::write(folder.join("config"), gdnsd(&folder, plain))?;
            ("gdnsd", [plain, plain], vec![program("gdnsd")?, "-c".into(), text(folder.clone()), "start".into()])
        }
        "nsd" => {
            let file = folder.join("nsd.conf");
            fs::write(&file, nsd(&folder, plain, tls, setting))?;
            ("nsd", [plain, tls], vec![program("nsd")?, "-d".into(), "-c".into(), text(file)])
        }
        other => return Err(io::Error::other(format!("no server is called {other}"))),
    };
    Peer::spawn(name, (folder, &setting.cpu.to_string()), listen, true, command)
}

/// Returns a port that is free for TCP and UDP.
pub(crate) fn free_for_both() -> io::Result<SocketAddr> {
    for _ in 0..50 {
        let address = free_address()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(io::Error::other("no port is free for both TCP and UDP"))
}

fn weir(folder: &Path, plain: SocketAddr, tls: SocketAddr, setting: &Setting<'_>) -> String {
    format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n
[dns]\nlisten = [\"{plain}\"]\nzone = \"{ZONE}\"\nthreads = 1\n
[dns.tls]\nlisten = [\"{tls}\"]\ncertificates = [{{ certificate = \"{}\", key = \"{}\" }}]\n{}",
        folder.join("state").display(),
        setting.certificate.display(),
        setting.key.display(),
        setting.services
    )
}

fn knot(folder: &Path, listen: SocketAddr, setting: &Setting<'_>) -> String {
    let (dir, zone) = (folder.display(), setting.zone.display());
    let at = format!("{}@{}", listen.ip(), listen.port());
    format!(
        "server:\n    rundir: \"{dir}\"\n    user: root:root\n    listen: {at}\n    udp-workers: 1\n    tcp-workers: 1
    background-workers: 1\n    udp-max-payload: 1232\nlog:\n  - target: \"{dir}/knot.log\"\n    any: warning
database:\n    storage: \"{dir}/db\"\ncontrol:\n    listen: \"{dir}/knot.sock\"
zone:\n  - domain: {ZONE}\n    file: \"{zone}\"\n    zonefile-sync: -1\n    journal-content: none\n"
    )
}

fn gdnsd(folder: &Path, listen: SocketAddr) -> String {
    let dir = folder.display();
    format!(
        "options => {{\n  listen => [ {listen} ],\n  run_dir => {dir}/run,\n  state_dir => {dir}/state,\n  udp_threads => 1,
  tcp_threads => 1,\n  tcp_clients_per_thread => 500,\n  max_edns_response => 1232,\n  weaker_security => true,\n}}\n"
    )
}

fn nsd(folder: &Path, plain: SocketAddr, tls: SocketAddr, setting: &Setting<'_>) -> String {
    let dir = folder.display();
    let at = |address: SocketAddr| format!("{}@{}", address.ip(), address.port());
    format!(
        "server:\n    ip-address: {}\n    ip-address: {}\n    tls-service-key: \"{}\"\n    tls-service-pem: \"{}\"\n    tls-port: {}
    server-count: 1\n    username: root\n    zonesdir: \"{dir}\"\n    pidfile: \"{dir}/nsd.pid\"\n    database: \"\"
    xfrdfile: \"{dir}/xfrd.state\"\n    zonelistfile: \"{dir}/zone.list\"\n    logfile: \"{dir}/nsd.log\"\n    round-robin: yes
    minimal-responses: no\n    tcp-count: 200\n    ipv4-edns-size: 1232\n    rrl-ratelimit: 0
remote-control:\n    control-enable: no\nzone:\n    name: {ZONE}\n    zonefile: \"{}\"\n",
        at(plain),
        at(tls),
        setting.key.display(),
        setting.certificate.display(),
        tls.port(),
        setting.zone.display()
    )
}
