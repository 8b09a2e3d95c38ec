//! Batched datagrams: `recvmmsg` and `sendmmsg`, with the local address that each datagram was sent to.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

/// Datagrams per system call. Measured: batches save 7 % at full load; more than 32 save nothing more.
pub const BATCH: usize = 32;
/// Room for one `in6_pktinfo` control message (40 octets), in words so that it is aligned for a `cmsghdr`.
const CONTROL_WORDS: usize = 8;

/// Octets of datagrams that pass as one at most: with its headers the longest packet of IP.
const MERGED_BYTES: usize = 65_000;
/// `cmsg_len` of `UDP_SEGMENT`: a header of 16 octets and two.
const SEGMENT_LENGTH: u64 = 18;
/// Octets of the control message `UDP_GRO`: a header of 16, an int, and its padding.
const SEGMENT_BYTES: usize = 24;
const EMPTY_VECTOR: MaybeUninit<libc::iovec> = MaybeUninit::uninit();
const EMPTY_HEADER: MaybeUninit<libc::mmsghdr> = MaybeUninit::uninit();

/// Who sent a datagram, and to which of our addresses when the socket reports it.
#[derive(Clone, Copy)]
pub struct Peer {
    address: libc::sockaddr_storage,
    address_bytes: libc::socklen_t,
    control: [u64; CONTROL_WORDS],
    control_bytes: usize,
}

/// Buffers for one batch: requests, replies, peers. Allocated once per thread.
pub struct Batch {
    requests: Box<[u8]>,
    replies: Box<[u8]>,
    request_bytes: usize,
    reply_bytes: usize,
    peers: [Peer; BATCH],
    received: [usize; BATCH],
    /// Length of the datagrams that came as one; 0: it is one.
    segments: [usize; BATCH],
    to_send: [usize; BATCH],
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.address())
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Peer {
    fn empty() -> Self {
        // SAFETY: `sockaddr_storage` is plain old data; all zeroes is a valid value (family AF_UNSPEC).
        let address = unsafe { std::mem::zeroed() };
        Self { address, address_bytes: 0, control: [0; CONTROL_WORDS], control_bytes: 0 }
    }

    /// Returns the sender's address; `None` when it is neither IPv4 nor IPv6.
    pub fn address(&self) -> Option<SocketAddr> {
        let family = libc::c_int::from(self.address.ss_family);
        let start = &raw const self.address;
        if family == libc::AF_INET {
            // SAFETY: the kernel wrote a `sockaddr_in`, as the family says; the storage is larger and aligned for all.
            let v4 = unsafe { start.cast::<libc::sockaddr_in>().read() };
            let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
            return Some(SocketAddr::new(ip, u16::from_be(v4.sin_port)));
        }
        if family == libc::AF_INET6 {
            // SAFETY: the kernel wrote a `sockaddr_in6`, as the family says; the storage is larger and aligned for all.
            let v6 = unsafe { start.cast::<libc::sockaddr_in6>().read() };
            let ip = IpAddr::V6(Ipv6Addr::from(v6.sin6_addr.s6_addr));
            return Some(SocketAddr::new(ip, u16::from_be(v6.sin6_port)));
        }
        None
    }

    /// Returns the local address that the datagram was sent to; `None` when the socket does not report it.
    pub fn local(&self) -> Option<IpAddr> {
        // Layout as in `clear_interface`; of `in_pktinfo` the last word is the address in the datagram's header.
        let [_, kind, data, more, ..] = self.control.map(u64::to_ne_bytes);
        let ([l0, l1, l2, l3, ..], [a0, a1, a2, a3, ..]) = (kind, more);
        if self.control_bytes == 0 {
            return None;
        }
        match i32::from_ne_bytes([l0, l1, l2, l3]) {
            libc::IPPROTO_IP => Some(IpAddr::from([a0, a1, a2, a3])),
            libc::IPPROTO_IPV6 => {
                let mut octets = [0; 16];
                let (first, last) = octets.split_at_mut(8);
                first.copy_from_slice(&data);
                last.copy_from_slice(&more);
                Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical())
            }
            _ => None,
        }
    }

    /// Takes the control message `UDP_GRO`, which comes first, out; returns the length that it tells, 0 where there is none.
    fn take_segment(&mut self) -> usize {
        let [_, kind, data, ..] = self.control.map(u64::to_ne_bytes);
        let ([l0, l1, l2, l3, k0, k1, k2, k3], [d0, d1, d2, d3, ..]) = (kind, data);
        let is_segment = i32::from_ne_bytes([l0, l1, l2, l3]) == libc::SOL_UDP
            && i32::from_ne_bytes([k0, k1, k2, k3]) == libc::UDP_GRO;
        if self.control_bytes < SEGMENT_BYTES || !is_segment {
            return 0;
        }
        self.control.rotate_left(SEGMENT_BYTES / 8);
        self.control_bytes -= SEGMENT_BYTES;
        usize::try_from(i32::from_ne_bytes([d0, d1, d2, d3])).unwrap_or(0)
    }

    /// Clears the interface of the control message, so that the reply is routed as usual; it keeps its source address.
    ///
    /// Link-local IPv6 needs the interface. Layout: `cmsghdr` of 16 octets, then `in_pktinfo` (interface first) or
    /// `in6_pktinfo` (address of 16 octets, then interface).
    fn clear_interface(&mut self) {
        let [_, kind, data, ..] = self.control;
        let [l0, l1, l2, l3, ..] = kind.to_ne_bytes();
        let level = i32::from_ne_bytes([l0, l1, l2, l3]);
        let word = if level == libc::IPPROTO_IP {
            2
        } else if data.to_ne_bytes().starts_with(&[0xFE, 0x80]) {
            return;
        } else {
            4
        };
        if let Some(word) = self.control.get_mut(word).filter(|_| self.control_bytes > 0) {
            let [_, _, _, _, rest @ ..] = word.to_ne_bytes();
            let [r0, r1, r2, r3] = rest;
            *word = u64::from_ne_bytes([0, 0, 0, 0, r0, r1, r2, r3]);
        }
    }
}

impl Batch {
    /// Returns buffers for requests and replies of at most so many octets each.
    pub fn new(request_bytes: usize, reply_bytes: usize) -> Self {
        Self {
            requests: vec![0; BATCH * request_bytes].into(),
            replies: vec![0; BATCH * reply_bytes].into(),
            request_bytes,
            reply_bytes,
            peers: [Peer::empty(); BATCH],
            received: [0; BATCH],
            segments: [0; BATCH],
            to_send: [0; BATCH],
        }
    }

    /// Waits for a datagram and takes what else is there; returns how many, 0 when the socket's receive timeout passed
    /// or a signal came. Longer datagrams are cut off at the buffer's size.
    ///
    /// # Errors
    /// The errno of `recvmmsg` but `EAGAIN` and `EINTR`.
    pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
        self.receive_some(socket, BATCH, true)
    }

    /// Does so for at most so many datagrams: making ready for each costs some nanoseconds. Whose they are is told where that is
    /// asked for: of a socket that is connected it is known.
    ///
    /// # Errors
    /// As [`Batch::receive`].
    pub fn receive_some(&mut self, socket: impl AsFd, most: usize, from: bool) -> io::Result<usize> {
        self.to_send = [0; BATCH];
        let (mut vectors, mut headers) = ([EMPTY_VECTOR; BATCH], [EMPTY_HEADER; BATCH]);
        let buffers = self.requests.chunks_exact_mut(self.request_bytes);
        let places = headers.iter_mut().zip(vectors.iter_mut()).zip(self.peers.iter_mut());
        let most = most.clamp(1, BATCH);
        for (((header, vector), peer), buffer) in places.zip(buffers).take(most) {
            let vector = vector.write(libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() });
            let header = &mut header.write(empty_header()).msg_hdr;
            header.msg_iov = vector;
            header.msg_iovlen = 1;
            if from {
                header.msg_name = (&raw mut peer.address).cast();
                header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            }
            header.msg_control = (&raw mut peer.control).cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
        }
        let (start, flags) = (headers.as_mut_ptr().cast::<libc::mmsghdr>(), libc::MSG_WAITFORONE);
        let descriptor = socket.as_fd().as_raw_fd();
        // SAFETY: `most` initialised headers; what they point to (`requests`, `peers`, `vectors`) outlives the call and
        // is not otherwise borrowed during it; no timeout is passed.
        let count = unsafe { libc::recvmmsg(descriptor, start, most as _, flags as _, std::ptr::null_mut()) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        let lengths = self.received.iter_mut().zip(self.segments.iter_mut());
        let done = headers.iter().zip(self.peers.iter_mut()).zip(lengths);
        for ((header, peer), (received, segment)) in done.take(count) {
            // SAFETY: the first `most` were initialised, and no more come.
            let header = unsafe { header.assume_init_ref() };
            peer.address_bytes = header.msg_hdr.msg_namelen;
            #[allow(clippy::unnecessary_cast, reason = "the field is 32 bits wide with musl")]
            let control_bytes = header.msg_hdr.msg_controllen as usize;
            peer.control_bytes = control_bytes;
            *segment = peer.take_segment();
            peer.clear_interface();
            *received = (header.msg_len as usize).min(self.request_bytes);
        }
        Ok(count)
    }

    /// Returns a received datagram, the buffer for its reply, and who sent it.
    pub fn exchange(&mut self, index: usize) -> Option<(&[u8], &mut [u8], &Peer)> {
        let start = index * self.request_bytes;
        let request = self.requests.get(start..start + *self.received.get(index)?)?;
        let start = index * self.reply_bytes;
        Some((request, self.replies.get_mut(start..start + self.reply_bytes)?, self.peers.get(index)?))
    }

    /// Returns a received datagram and who sent it.
    pub fn received(&self, index: usize) -> Option<(&[u8], &Peer)> {
        let start = index * self.request_bytes;
        Some((self.requests.get(start..start + *self.received.get(index)?)?, self.peers.get(index)?))
    }

    /// Returns the datagrams that came in one place of the batch: one, or those that came as one.
    pub fn pieces(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        let octets = self.received(index).map_or(&[][..], |(octets, _)| octets);
        let segment = self.segments.get(index).copied().filter(|&length| length > 0).unwrap_or(octets.len().max(1));
        // An empty datagram is one too.
        (0..octets.len().div_ceil(segment).max(1))
            .map(move |piece| octets.get(piece * segment..).map_or(octets, |rest| rest.get(..segment).unwrap_or(rest)))
    }

    /// Sets the length of the reply to a datagram; 0 sends none.
    pub fn set_reply(&mut self, index: usize, bytes: usize) {
        if let Some(length) = self.to_send.get_mut(index) {
            *length = bytes.min(self.reply_bytes);
        }
    }

    /// Sends the replies that were set; returns how many the kernel refused. Never waits for long: UDP buffers drain
    /// at wire speed.
    pub fn send(&mut self, socket: impl AsFd) -> usize {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        // SAFETY: `mmsghdr` is plain old data; all zeroes is a valid empty header.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        let replies = self.replies.chunks_exact_mut(self.reply_bytes).zip(self.to_send);
        let mut places = headers.iter_mut().zip(vectors.iter_mut());
        let mut total = 0;
        for ((buffer, length), peer) in replies.zip(self.peers.iter_mut()).filter(|((_, length), _)| *length > 0) {
            let Some((header, vector)) = places.next() else { break };
            vector.iov_base = buffer.as_mut_ptr().cast();
            vector.iov_len = length;
            header.msg_hdr = header_to(peer, vector);
            total += 1;
        }
        let (descriptor, mut sent, mut refused) = (socket.as_fd().as_raw_fd(), 0, 0);
        while sent < total {
            let Some(rest) = headers.get_mut(sent..total) else { break };
            // SAFETY: `rest` are initialised headers whose vectors, peers and buffers outlive the call.
            let count = unsafe { libc::sendmmsg(descriptor, rest.as_mut_ptr(), rest.len() as _, 0) };
            match usize::try_from(count) {
                Ok(count) if count > 0 => sent += count,
                // The first of the rest was refused (a firewall, a vanished address): go on with the next.
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => {
                    sent += 1;
                    refused += 1;
                }
            }
        }
        refused
    }
}

/// Sends one reply from the address that the request was sent to; never waits.
///
/// # Errors
/// The errno of `sendmsg`; `EAGAIN` when the send buffer is full.
pub fn send_one(socket: impl AsFd, peer: &Peer, reply: &[u8]) -> io::Result<()> {
    let mut peer = *peer;
    let mut vector = libc::iovec { iov_base: reply.as_ptr().cast_mut().cast(), iov_len: reply.len() };
    let header = header_to(&mut peer, &mut vector);
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the header is initialised; the vector, the peer and the reply, which is only read, outlive the call.
    let sent = unsafe { libc::sendmsg(descriptor, &raw const header, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends datagrams, at most [`BATCH`], in one call: to a peer from the address that it sent to, or where the socket is
/// connected to; never waits. Returns how many were sent: at least one where there is any.
///
/// # Errors
/// The errno of `sendmmsg` for the first; `EAGAIN` when the send buffer is full.
pub fn send_many(socket: impl AsFd, datagrams: &[&[u8]], to: Option<&Peer>) -> io::Result<usize> {
    // With an address or without, but without a list of parts, a datagram costs 4 % less.
    if let ([datagram], None | Some(Peer { control_bytes: 0, .. })) = (datagrams, to) {
        let (address, bytes) = to.map_or((std::ptr::null(), 0), |peer| (&raw const peer.address, peer.address_bytes));
        let (descriptor, flags) = (socket.as_fd().as_raw_fd(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        let (start, length) = (datagram.as_ptr().cast(), datagram.len());
        // SAFETY: the datagram and the address, of so many octets or none, are only read and outlive the call.
        let sent = unsafe { libc::sendto(descriptor, start, length, flags, address.cast(), bytes) };
        return if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(1) };
    }
    send_runs(socket, datagrams, to, |_| 1)
}

/// Does as [`send_many`], but consecutive datagrams of one length pass through the stack as one (`UDP_SEGMENT`). `merges` is
/// cleared where the way does not take that: then each passes by itself, now and from then on.
///
/// # Errors
/// As [`send_many`].
pub fn send_merged(
    socket: impl AsFd,
    datagrams: &[&[u8]],
    to: Option<&Peer>,
    merges: &Cell<bool>,
) -> io::Result<usize> {
    if merges.get() && datagrams.len() > 1 {
        match send_runs(&socket, datagrams, to, run_length) {
            // Longer than the way takes, a device that computes no checksums, or a kernel before 4.18.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO | libc::EMSGSIZE)) => {
                merges.set(false);
            }
            sent => return sent,
        }
    }
    send_many(socket, datagrams, to)
}

/// Returns how many of these datagrams, from the first on, may pass as one: those of its length and one shorter at the end.
pub(super) fn run_length(datagrams: &[&[u8]]) -> usize {
    let Some(length) = datagrams.first().map(|first| first.len()).filter(|&length| length > 0) else { return 1 };
    let most = (MERGED_BYTES / length).max(1);
    let same = datagrams.iter().take(most).take_while(|datagram| datagram.len() == length).count();
    let shorter = datagrams.get(same).is_some_and(|next| same < most && (1..length).contains(&next.len()));
    same + usize::from(shorter)
}

/// Sends datagrams in one call, as many as `run` says of those that are left as one message.
fn send_runs(
    socket: impl AsFd,
    datagrams: &[&[u8]],
    to: Option<&Peer>,
    run: impl Fn(&[&[u8]]) -> usize,
) -> io::Result<usize> {
    let mut peer = to.copied();
    let (mut vectors, mut headers) = ([EMPTY_VECTOR; BATCH], [EMPTY_HEADER; BATCH]);
    let mut controls = [const { MaybeUninit::<[u64; CONTROL_WORDS]>::uninit() }; BATCH];
    let mut runs = [0; BATCH];
    let mut left = datagrams.get(..BATCH).unwrap_or(datagrams);
    let mut places = vectors.as_mut_slice();
    let mut count = 0;
    let each = headers.iter_mut().zip(controls.iter_mut()).zip(runs.iter_mut());
    for ((header, control), length) in each {
        let Some(first) = left.first() else { break };
        let (merged, rest) = left.split_at(run(left).clamp(1, left.len()));
        let (own, free) = std::mem::take(&mut places).split_at_mut(merged.len());
        for (vector, datagram) in own.iter_mut().zip(merged) {
            vector.write(libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() });
        }
        let header = header.write(empty_header());
        header.msg_hdr = match &mut peer {
            Some(peer) => header_to(peer, own.as_mut_ptr().cast()),
            None => empty_header().msg_hdr,
        };
        header.msg_hdr.msg_iov = own.as_mut_ptr().cast();
        header.msg_hdr.msg_iovlen = merged.len() as _;
        if merged.len() > 1 {
            let (known, bytes) =
                peer.as_ref().map_or(([0; CONTROL_WORDS], 0), |peer| (peer.control, peer.control_bytes));
            let control = control.write(known);
            header.msg_hdr.msg_controllen = add_segment(control, bytes, first.len()) as _;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
        }
        *length = merged.len();
        (left, places, count) = (rest, free, count + 1);
    }
    let (descriptor, start) = (socket.as_fd().as_raw_fd(), headers.as_mut_ptr().cast::<libc::mmsghdr>());
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `count` initialised headers whose vectors, controls, peer and datagrams, which are only read, outlive the call.
    let sent = unsafe { libc::sendmmsg(descriptor, start, count, flags as _) };
    let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
    Ok(runs.iter().take(sent).sum())
}

/// Adds a control message `UDP_SEGMENT` to what is there; returns its octets. Layout: `cmsghdr` of 16 octets, then a u16.
fn add_segment(control: &mut [u64; CONTROL_WORDS], bytes: usize, length: usize) -> usize {
    let level = libc::SOL_UDP.to_ne_bytes();
    let kind = libc::UDP_SEGMENT.to_ne_bytes();
    let ([l0, l1, l2, l3], [k0, k1, k2, k3]) = (level, kind);
    let [s0, s1] = u16::try_from(length).unwrap_or(0).to_ne_bytes();
    let words = [
        SEGMENT_LENGTH,
        u64::from_ne_bytes([l0, l1, l2, l3, k0, k1, k2, k3]),
        u64::from_ne_bytes([s0, s1, 0, 0, 0, 0, 0, 0]),
    ];
    let at = bytes.div_ceil(8);
    if let Some(places) = control.get_mut(at..at + words.len()) {
        places.copy_from_slice(&words);
    }
    (at + words.len()) * 8
}

/// Makes a socket hand out datagrams of one sender that came as one together: see [`Batch::pieces`].
///
/// # Errors
/// The errno of `setsockopt`: kernels before 5.0 do not know it.
pub fn receive_merged(socket: impl AsFd) -> io::Result<()> {
    turn_on(socket, libc::SOL_UDP, libc::UDP_GRO)
}

/// Makes a socket report the local address of each datagram: needed where it is bound to a wildcard address, so that
/// replies leave from the address that was asked.
///
/// # Errors
/// The errno of `setsockopt`.
pub fn report_destination(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        true => turn_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        false => turn_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO),
    }
}

fn turn_on(socket: impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let (value, bytes) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: `value` points to an int of `bytes` octets that lives through the call.
    let rc = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value, bytes) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` is plain old data; all zeroes is a valid empty header.
    unsafe { std::mem::zeroed() }
}

/// Returns the header of one reply: to the peer, from the address that the peer sent to.
fn header_to(peer: &mut Peer, vector: *mut libc::iovec) -> libc::msghdr {
    // SAFETY: `msghdr` is plain old data; all zeroes is a valid empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = (&raw mut peer.address).cast();
    header.msg_namelen = peer.address_bytes;
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    if peer.control_bytes > 0 {
        header.msg_control = (&raw mut peer.control).cast();
        header.msg_controllen = peer.control_bytes as _;
    }
    header
}
