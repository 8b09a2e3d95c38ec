//! Ports for processes: bind-tested, reserved until the process has ended, never the same one twice in a row.

use crate::rng::Rng;
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Hands out ports of a range in turn.
///
/// The turn starts at random, so that several Weirs with one range rarely try the same port, and goes on round the range:
/// a process that ended at once, perhaps because somebody took its port first, gets another one next time.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    count: u32,
    next: u32,
    reserved: HashSet<u16>,
}

impl Ports {
    /// Starts at a random place of the range.
    pub(super) fn new(range: &RangeInclusive<u16>, rng: &mut Rng) -> Self {
        let count = u32::from(*range.end()).saturating_sub(u32::from(*range.start())) + u32::from(!range.is_empty());
        let next = u32::try_from(rng.below(count as usize)).unwrap_or(0);
        Self { first: *range.start(), count, next, reserved: HashSet::new() }
    }

    /// Reserves `wanted` ports that are free by `is_free`; each port of the range is tried at most once.
    pub(super) fn reserve(&mut self, wanted: usize, is_free: impl Fn(u16) -> bool) -> Option<Vec<u16>> {
        let mut found = Vec::with_capacity(wanted);
        for _ in 0..self.count {
            if found.len() == wanted {
                break;
            }
            let port = u16::try_from(u32::from(self.first) + self.next).unwrap_or(self.first);
            self.next = (self.next + 1) % self.count;
            if !self.reserved.contains(&port) && is_free(port) {
                found.push(port);
            }
        }
        if found.len() < wanted {
            return None;
        }
        self.reserved.extend(&found);
        Some(found)
    }

    /// Reserves ports that an adopted process has, in the range or not.
    pub(super) fn hold(&mut self, ports: &[u16]) {
        self.reserved.extend(ports);
    }

    /// Gives ports back.
    pub(super) fn release(&mut self, ports: &[u16]) {
        for port in ports {
            self.reserved.remove(port);
        }
    }
}

/// Returns true when nobody listens on the port, on any address, for connections or datagrams.
pub(super) fn is_free(port: u16) -> bool {
    is_free_for(Type::STREAM, port) && is_free_for(Type::DGRAM, port)
}

fn is_free_for(kind: Type, port: u16) -> bool {
    // Dual-stack when there is IPv6, which tests both families at once; never listening, so nobody can connect.
    let bind = |domain, address: SocketAddr| -> io::Result<()> {
        let socket = Socket::new(domain, kind, None)?;
        // What connections leave behind for a minute is no listener; with datagrams several sockets could share the port.
        socket.set_reuse_address(kind == Type::STREAM)?;
        if domain == Domain::IPV6 {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())
    };
    match bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => false,
        Err(_) => bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into()).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Ports, is_free};
    use crate::rng::Rng;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn hands_out_each_port_once_and_another_after_a_release() {
        let mut ports = Ports::new(&(100..=104), &mut Rng::from_seed(1));
        let mut all: Vec<u16> = (0..5).flat_map(|_| ports.reserve(1, |_| true).unwrap()).collect();
        assert_eq!(ports.reserve(1, |_| true), None);
        ports.release(&all[1..3]);
        let again = ports.reserve(2, |_| true).unwrap();
        assert_eq!(again, all[1..3]);
        ports.release(&again[..1]);
        assert_eq!(ports.reserve(2, |_| true), None);
        assert_eq!(ports.reserve(1, |_| true).unwrap(), again[..1]);
        all.sort_unstable();
        assert_eq!(all, [100, 101, 102, 103, 104]);

        let mut ports = Ports::new(&(100..=102), &mut Rng::from_seed(1));
        ports.hold(&[101, 7]);
        let mut rest = ports.reserve(2, |_| true).unwrap();
        rest.sort_unstable();
        assert_eq!((rest, ports.reserve(1, |_| true)), (vec![100, 102], None));

        let mut ports = Ports::new(&(100..=104), &mut Rng::from_seed(1));
        let first = ports.reserve(1, |_| true).unwrap();
        ports.release(&first);
        assert_ne!(ports.reserve(1, |_| true).unwrap(), first);
    }

    #[test]
    fn passes_over_taken_ports_and_ends_at_the_highest() {
        let mut ports = Ports::new(&(65_530..=65_535), &mut Rng::from_seed(9));
        let mut even = ports.reserve(3, |port| port % 2 == 0).unwrap();
        even.sort_unstable();
        assert_eq!(even, [65_530, 65_532, 65_534]);
        assert_eq!(ports.reserve(1, |port| port % 2 == 0), None);
        assert_eq!(ports.reserve(0, |_| true), Some(vec![]));
        #[expect(clippy::reversed_empty_ranges, reason = "what a broken configuration would give")]
        let mut none = Ports::new(&(10..=9), &mut Rng::from_seed(9));
        assert_eq!(none.reserve(1, |_| true), None);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_taken() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let bound = listener.local_addr().unwrap();
            let port = bound.port();
            assert!(!is_free(port), "{address}");
            drop(listener);
            assert!(is_free(port), "{address}");
            let datagrams = UdpSocket::bind(bound).unwrap();
            assert!(!is_free(port), "{address}");
            drop(datagrams);
            assert!(is_free(port), "{address}");
        }
    }
}
