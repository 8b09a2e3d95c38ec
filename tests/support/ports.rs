//! Ports that a test gives to a program: outside the range that the kernel gives out by itself, so that no connection and
//! no other test gets one before whom it is for.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// Returns an address on loopback that nobody uses now, each time another one.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    loop {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst)) % PORTS;
        let address = SocketAddr::from(([127, 0, 0, 1], u16::try_from(FIRST + offset).unwrap()));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}

/// Returns a range of ports for replicas that no other test of this process uses.
pub fn port_range() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let slice = (std::process::id() as u16 % 40) + NEXT.fetch_add(1, Ordering::SeqCst);
    let first = 20_000 + (slice % 45) * 200;
    format!("{first}-{}", first + 199)
}
