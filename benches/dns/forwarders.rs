//! Those that forward: Weir, unbound and dnsmasq, each with one thread, the same room for answers and the same upstream.

use crate::proxies::process::{Peer, program};
use crate::servers::free_for_both;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Who is compared.
pub(crate) const PEERS: [&str; 3] = ["weir", "unbound", "dnsmasq"];
/// Room for answers of Weir and unbound; unbound divides it between messages and records.
const CACHE_BYTES: u64 = 5 << 20;
/// The same for dnsmasq, which counts records: as many answers fit Weir's room.
const CACHE_ENTRIES: u32 = 11_500;
/// Questions in flight that none of them refuses.
const IN_FLIGHT: u32 = 4096;

/// What a forwarder is started with.
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) cpu: usize,
    pub(crate) weir: &'a Path,
    pub(crate) upstream: SocketAddr,
}

/// Says how much room each has.
pub(crate) fn room() -> String {
    format!("{} MiB for Weir and for unbound, {CACHE_ENTRIES} records for dnsmasq", CACHE_BYTES >> 20)
}

/// Starts a forwarder by name, with nothing in its cache.
pub(crate) fn start(name: &str, setting: &Setting<'_>) -> io::Result<Peer> {
    let folder = setting.folder.join(name);
    // Nothing of an earlier one is left: Weir's state would name its address.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let listen = free_for_both()?;
    let (name, command) = match name {
        "weir" => {
            let file = folder.join("weir.toml");
            fs::write(&file, weir(&folder, listen, setting.upstream))?;
            let program = setting.weir.to_string_lossy().into_owned();
            ("weir", vec![program, "run".into(), "--no-keeper".into(), "--config".into(), text(&file)])
        }
        "unbound" => {
            let file = folder.join("unbound.conf");
            fs::write(&file, unbound(&folder, listen, setting.upstream))?;
            ("unbound", vec![program("unbound")?, "-d".into(), "-c".into(), text(&file)])
        }
        "dnsmasq" => ("dnsmasq", dnsmasq(&folder, listen, setting.upstream)?),
        other => return Err(io::Error::other(format!("no forwarder is called {other}"))),
    };
    Peer::spawn(name, (folder, &setting.cpu.to_string()), [listen; 2], true, command)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn weir(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "[node]\nworkers = 1\n\n[store]\npath = \"{}\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n
[dns]\nlisten = [\"{listen}\"]\nthreads = 1\n
[dns.forward]\nservers = [\"{upstream}\"]\nhosts = \"off\"\ncache = \"{}KiB\"\nmax_in_flight = {IN_FLIGHT}\n",
        folder.join("state").display(),
        CACHE_BYTES >> 10
    )
}

fn unbound(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let dir = folder.display();
    // As Weir: letter case at random, answers kept for an hour past their time, asked for anew before their end.
    format!(
        "server:\n    do-daemonize: no\n    username: \"\"\n    chroot: \"\"\n    directory: \"{dir}\"\n    pidfile: \"{dir}/pid\"
    logfile: \"{dir}/unbound.log\"\n    interface: {}@{}\n    access-control: 127.0.0.0/8 allow\n    num-threads: 1
    module-config: \"iterator\"\n    do-not-query-localhost: no\n    msg-cache-slabs: 1\n    rrset-cache-slabs: 1
    msg-cache-size: {}\n    rrset-cache-size: {}\n    outgoing-range: {}\n    num-queries-per-thread: {IN_FLIGHT}
    use-caps-for-id: yes\n    prefetch: yes\n    serve-expired: yes\n    serve-expired-ttl: 3600
    serve-expired-client-timeout: 1800\n    edns-buffer-size: 1232\n    max-udp-size: 1232
remote-control:\n    control-enable: no
forward-zone:\n    name: \".\"\n    forward-addr: {}@{}\n",
        listen.ip(),
        listen.port(),
        CACHE_BYTES / 2,
        CACHE_BYTES / 2,
        2 * IN_FLIGHT,
        upstream.ip(),
        upstream.port()
    )
}

fn dnsmasq(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> io::Result<Vec<String>> {
    let file = folder.join("dnsmasq.conf");
    fs::write(
        &file,
        format!(
            "keep-in-foreground\nuser=root\npid-file={}/pid\nlog-facility=-\nport={}\nlisten-address={}\nbind-interfaces\nno-resolv\nno-hosts
no-poll\nserver={}#{}\ncache-size={CACHE_ENTRIES}\ndns-forward-max={IN_FLIGHT}\nuse-stale-cache=3600\n",
            folder.display(),
            listen.port(),
            listen.ip(),
            upstream.ip(),
            upstream.port()
        ),
    )?;
    Ok(vec![program("dnsmasq")?, "--conf-file".to_owned() + "=" + &text(&file)])
}
