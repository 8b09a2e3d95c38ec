//! Listening sockets: made once, lent to workers, never closed while their address stays.

use socket2::{Domain, Protocol, Socket, Type};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// Connections that may wait for accept; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// An address that could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}{}", held(.holder.as_deref()))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Who holds it, as `name (pid N)`, where that can be found out.
    pub holder: Option<String>,
    /// What the kernel said.
    pub source: io::Error,
}

impl BindError {
    /// Returns whether the address is about to be free: nobody can be found who holds it, or a process that Weir forked and
    /// that has not yet executed its program, which closes what it inherited.
    pub(super) fn is_passing(&self) -> bool {
        let is_forked = |holder: &str| holder.starts_with("spawner (pid ");
        self.source.kind() == io::ErrorKind::AddrInUse && self.holder.as_deref().is_none_or(is_forked)
    }
}

fn held(holder: Option<&str>) -> String {
    holder.map(|who| format!(", which {who} holds")).unwrap_or_default()
}

/// Binds `count` sockets that share one address by SO_REUSEPORT; port 0 takes a free port, the same for all.
///
/// The address is first tried without SO_REUSEPORT: else a second Weir of the same user would silently share the
/// traffic. `[::]` takes IPv4 too, and falls back to `0.0.0.0` where there is no IPv6. With `ahead` the address need not be
/// there yet (IP_FREEBIND).
///
/// # Errors
/// [`BindError`] with the holder's name and pid where `/proc` tells.
pub fn bind(address: SocketAddr, count: usize, ahead: bool) -> Result<Vec<TcpListener>, BindError> {
    match bind_all(address, count, ahead) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && no_ipv6(&error) => {
            bind_all(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port()), count, ahead)
        }
        other => other,
    }
    .map_err(|source| BindError { address, holder: holder(address, &source, &TCP), source })
}

/// Binds `count` further sockets to an exact address of which [`bind`] made the first, still open.
///
/// # Errors
/// [`BindError`] with what the kernel said.
pub fn bind_more(address: SocketAddr, count: usize, ahead: bool) -> Result<Vec<TcpListener>, BindError> {
    (0..count).map(|_| bind_one(address, ahead)).collect::<io::Result<_>>().map_err(|source| BindError {
        address,
        holder: holder(address, &source, &TCP),
        source,
    })
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind_all(address: SocketAddr, count: usize, ahead: bool) -> io::Result<Vec<TcpListener>> {
    let probe = socket(address, ahead)?;
    probe.bind(&address.into())?;
    probe.listen(1)?;
    let taken = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..count.max(1)).map(|_| bind_one(taken, ahead)).collect()
}

fn bind_one(address: SocketAddr, ahead: bool) -> io::Result<TcpListener> {
    let socket = socket(address, ahead)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr, ahead: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if ahead {
        bind_ahead(&socket, address)?;
    }
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Lets a socket be bound to an address that is not there yet.
pub(super) fn bind_ahead(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_freebind_v6(true) } else { socket.set_freebind_v4(true) }
}

/// Where the kernel lists the sockets of a transport, and the state of one that takes what comes.
pub(super) struct Listing {
    tables: [&'static str; 2],
    state: &'static str,
}

const TCP: Listing = Listing { tables: ["/proc/net/tcp", "/proc/net/tcp6"], state: "0A" };
pub(super) const UDP: Listing = Listing { tables: ["/proc/net/udp", "/proc/net/udp6"], state: "07" };

/// Finds who listens on the address: the listing has the socket's inode, `/proc/PID/fd` its owner.
pub(super) fn holder(address: SocketAddr, error: &io::Error, listing: &Listing) -> Option<String> {
    if error.kind() != io::ErrorKind::AddrInUse {
        return None;
    }
    let inode = listing.tables.iter().find_map(|table| {
        let sockets = fs::read_to_string(table).ok()?;
        sockets.lines().skip(1).find_map(|line| listening_inode(line, address, listing.state))
    })?;
    let wanted = format!("socket:[{inode}]");
    let is_pid = |name: &std::ffi::OsStr| name.to_str().is_some_and(|n| n.parse::<u32>().is_ok());
    for process in fs::read_dir("/proc").ok()?.flatten().filter(|entry| is_pid(&entry.file_name())) {
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds =
            descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()));
        if holds {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    None
}

/// Reads one line of `/proc/net/tcp`: `sl local_address rem_address st … uid timeout inode`; of a socket that is in the way.
fn listening_inode(line: &str, address: SocketAddr, wanted: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let (ip, port) = local.split_once(':')?;
    let (ip, local_port) = (listed_ip(ip)?, u16::from_str_radix(port, 16).ok()?);
    let wildcard = ip.is_unspecified() || address.ip().is_unspecified();
    let is_it = *state == wanted && local_port == address.port() && (wildcard || ip == address.ip().to_canonical());
    is_it.then(|| (*inode).to_owned())
}

/// Reads an address as the kernel lists it: words of 32 bits in the byte order of the machine.
fn listed_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return Some(IpAddr::from(word(0)?));
    }
    let mut octets = [0u8; 16];
    for (index, place) in octets.chunks_exact_mut(4).enumerate() {
        place.copy_from_slice(&word(index * 8)?);
    }
    Some(IpAddr::from(octets).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::bind;
    use std::net::SocketAddr;

    #[test]
    fn several_sockets_share_one_free_port() {
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 3, false).unwrap();
        let ports: Vec<u16> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|p| *p == ports[0]), "{ports:?}");
    }

    #[test]
    fn a_taken_address_is_refused_by_the_name_of_its_holder() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, false).unwrap();
        let address = first[0].local_addr().unwrap();
        let error = bind(address, 2, false).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    }

    #[test]
    fn an_address_that_is_not_there_yet_can_be_bound_ahead() {
        // RFC 5737: documentation only.
        let absent = SocketAddr::from(([192, 0, 2, 1], 0));
        assert!(bind(absent, 1, false).is_err());
        assert_eq!(bind(absent, 2, true).unwrap().len(), 2);
    }

    #[test]
    fn whoever_has_the_port_of_another_address_is_not_in_the_way() {
        let line =
            |local: &str| format!("0: {local} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 42 1 x");
        let in_the_way =
            |local: &str, wanted: &str| super::listening_inode(&line(local), wanted.parse().unwrap(), "0A").is_some();
        assert!(in_the_way("0100007F:0035", "127.0.0.1:53"));
        assert!(!in_the_way("3500007F:0035", "172.17.0.1:53") && !in_the_way("0100007F:0036", "127.0.0.1:53"));
        assert!(in_the_way("00000000:0035", "172.17.0.1:53") && in_the_way("3500007F:0035", "0.0.0.0:53"));
        assert!(in_the_way("00000000000000000000000001000000:0035", "[::1]:53"));
        assert!(in_the_way("0000000000000000FFFF00000100007F:0035", "127.0.0.1:53"));
    }

    #[test]
    fn an_unspecified_ipv6_address_takes_ipv4_too() {
        let sockets = bind("[::]:0".parse().unwrap(), 1, false).unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}
