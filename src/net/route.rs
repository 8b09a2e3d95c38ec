//! One local route: a whole range of addresses that this machine takes for its own, by rtnetlink (RFC 3549).
//!
//! `ip route add local 198.18.0.0/16 dev lo`, with a protocol number of its own: what a killed process left behind is known
//! by it, and what somebody else routed is never touched. The route is of the network namespace of the calling thread.

use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use std::io;
use std::net::Ipv4Addr;

/// Who made the route (`ip route` shows the number; 4 to 255 are free for programs, and no known one has this).
const PROTOCOL: u8 = 87;

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const ERROR: u16 = 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const ASK: u16 = 1 | 4;
/// NLM_F_EXCL.
const EXCLUSIVE: u16 = 0x200;
/// NLM_F_CREATE.
const CREATE: u16 = 0x400;
const TABLE_LOCAL: u8 = 255;
const SCOPE_HOST: u8 = 254;
const TYPE_LOCAL: u8 = 2;
const DESTINATION: u16 = 1;
const INTERFACE: u16 = 4;
/// Octets of `nlmsghdr`.
const HEADER: usize = 16;

/// Why there is no route.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The process may not change routes.
    #[error(
        "routing {0}/{1} to this machine needs CAP_NET_ADMIN: run as root, add AmbientCapabilities=CAP_NET_ADMIN to the unit or --cap-add NET_ADMIN to the container, or remove dns.service_addresses"
    )]
    Forbidden(Ipv4Addr, u8),
    /// Somebody else has routed it.
    #[error(
        "{0}/{1} is routed by something else already: see `ip route show table local`, or give dns.service_addresses another range"
    )]
    Taken(Ipv4Addr, u8),
    /// The kernel said no.
    #[error("failed to route {0}/{1} to this machine (is `lo` up?)")]
    System(Ipv4Addr, u8, #[source] io::Error),
}

/// Whether a route was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routed {
    /// It was made.
    Made,
    /// It was left by a process that was killed, or is there for another one that ends.
    Found,
}

/// Has the kernel take all addresses of a network for this machine's own.
///
/// # Errors
/// [`RouteError`], with what to do.
pub fn add_local_route(network: Ipv4Addr, prefix: u8) -> Result<Routed, RouteError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => RouteError::Forbidden(network, prefix),
        _ => RouteError::System(network, prefix, error),
    };
    match change(NEW_ROUTE, EXCLUSIVE | CREATE, network, prefix) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        made => return made.map(|()| Routed::Made).map_err(failed),
    }
    // The same once more exists only if it has our number too; nothing is taken away meanwhile, for somebody may use it.
    match change(NEW_ROUTE, CREATE, network, prefix) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(Routed::Found),
        Err(error) => Err(failed(error)),
        Ok(()) => {
            // It stands beside another's now.
            change(DELETE_ROUTE, 0, network, prefix).map_err(failed)?;
            Err(RouteError::Taken(network, prefix))
        }
    }
}

/// Takes the route away again; one that is not there, or not ours, is left alone.
///
/// # Errors
/// [`RouteError`] but [`RouteError::Taken`].
pub fn remove_local_route(network: Ipv4Addr, prefix: u8) -> Result<(), RouteError> {
    match change(DELETE_ROUTE, 0, network, prefix) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(RouteError::Forbidden(network, prefix)),
        other => other.map_err(|error| RouteError::System(network, prefix, error)),
    }
}

/// Asks the kernel for one change and reads its answer.
fn change(kind: u16, flags: u16, network: Ipv4Addr, prefix: u8) -> io::Result<()> {
    // Without a protocol: NETLINK_ROUTE, which is 0.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let loopback = name_to_index(&socket, "lo")?;
    let message = message(kind, flags, (network, prefix), loopback);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 1024];
    let (_, octets) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    read_answer(answer.get(..octets).unwrap_or_default())
}

/// Writes `nlmsghdr`, `rtmsg` and its attributes, in the byte order of this machine.
fn message(kind: u16, flags: u16, (network, prefix): (Ipv4Addr, u8), loopback: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(28);
    let family = AddressFamily::INET.as_raw().to_ne_bytes()[0];
    body.extend([family, prefix, 0, 0, TABLE_LOCAL, PROTOCOL, SCOPE_HOST, TYPE_LOCAL]);
    body.extend(0u32.to_ne_bytes());
    let mut attribute = |kind: u16, value: [u8; 4]| {
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(value);
    };
    attribute(DESTINATION, network.octets());
    attribute(INTERFACE, loopback.to_ne_bytes());
    let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((ASK | flags).to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

/// Reads `nlmsgerr`: 0 is an acknowledgement, else a negative errno.
fn read_answer(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|octets| octets.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|octets| octets.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel gives an answer that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::{CREATE, EXCLUSIVE, NEW_ROUTE, message, read_answer};
    use std::net::Ipv4Addr;

    #[test]
    fn a_request_is_what_the_kernel_reads() {
        let octets = message(NEW_ROUTE, EXCLUSIVE | CREATE, (Ipv4Addr::new(198, 18, 0, 0), 16), 1);
        assert_eq!(octets.len(), 16 + 12 + 8 + 8);
        assert_eq!(octets[..4], 44u32.to_ne_bytes());
        assert_eq!(octets[4..8], [24u16.to_ne_bytes(), 0x605u16.to_ne_bytes()].concat());
        assert_eq!(octets[16..24], [2, 16, 0, 0, 255, 87, 254, 2]);
        assert_eq!(octets[32..36], [198, 18, 0, 0]);
    }

    #[test]
    fn an_answer_is_an_acknowledgement_or_an_errno() {
        let answer = |code: i32| {
            let mut octets = [0u8; 36];
            octets[4..6].copy_from_slice(&2u16.to_ne_bytes());
            octets[16..20].copy_from_slice(&code.to_ne_bytes());
            read_answer(&octets).map_err(|error| error.raw_os_error())
        };
        assert_eq!(answer(0), Ok(()));
        assert_eq!(answer(-17), Err(Some(17)));
        assert!(read_answer(&[]).is_err() && read_answer(&[0; 40]).is_err());
    }
}
