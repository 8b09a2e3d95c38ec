#![allow(
    unsafe_code,
    reason = "the only module with system calls that neither std nor tokio offers; each block states its preconditions"
)]
//! The only `unsafe` of the product: listening sockets, batched datagrams, process handles, signals, thread placement.
//!
//! Each function is a thin, safe wrapper over one or two system calls and returns `io::Error` with the call's errno.

pub mod accept;
pub mod memory;
pub mod signal;

/// Threads: where they run.
pub mod thread {
    use std::io;

    /// Pins the calling thread to one CPU, numbered from 0.
    ///
    /// # Errors
    /// The errno of `sched_setaffinity`: `EINVAL` when the CPU does not exist or is not allowed here.
    pub fn pin(cpu: usize) -> io::Result<()> {
        // SAFETY: an all-zero `cpu_set_t` is a valid empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: `cpu` is below CPU_SETSIZE, checked above.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: the pointer and the size describe `set`, which lives through the call; pid 0 is this thread.
        let rc = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// Batched datagrams: `recvmmsg` and `sendmmsg`, with the local address that each datagram was sent to.
pub mod datagram {
    use std::io;
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};
    use std::os::fd::{AsFd, AsRawFd};

    /// Datagrams per system call. Measured: batches save 7 % at full load; more than 32 save nothing more.
    pub const BATCH: usize = 32;
    /// Room for one `in6_pktinfo` control message (40 octets), in words so that it is aligned for a `cmsghdr`.
    const CONTROL_WORDS: usize = 8;

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
                to_send: [0; BATCH],
            }
        }

        /// Waits for a datagram and takes what else is there; returns how many, 0 when the socket's receive timeout passed
        /// or a signal came. Longer datagrams are cut off at the buffer's size.
        ///
        /// # Errors
        /// The errno of `recvmmsg` but `EAGAIN` and `EINTR`.
        pub fn receive(&mut self, socket: impl AsFd) -> io::Result<usize> {
            self.to_send = [0; BATCH];
            let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
            // SAFETY: `mmsghdr` is plain old data; all zeroes is a valid empty header.
            let mut headers: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
            let buffers = self.requests.chunks_exact_mut(self.request_bytes);
            let places = headers.iter_mut().zip(vectors.iter_mut()).zip(self.peers.iter_mut());
            for (((header, vector), peer), buffer) in places.zip(buffers) {
                vector.iov_base = buffer.as_mut_ptr().cast();
                vector.iov_len = buffer.len();
                header.msg_hdr.msg_name = (&raw mut peer.address).cast();
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = (&raw mut peer.control).cast();
                header.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>() as _;
            }
            let (start, flags) = (headers.as_mut_ptr(), libc::MSG_WAITFORONE);
            let descriptor = socket.as_fd().as_raw_fd();
            // SAFETY: `BATCH` initialised headers; what they point to (`requests`, `peers`, `vectors`) outlives the call and
            // is not otherwise borrowed during it; no timeout is passed.
            let count = unsafe { libc::recvmmsg(descriptor, start, BATCH as _, flags as _, std::ptr::null_mut()) };
            let Ok(count) = usize::try_from(count) else {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                    _ => Err(error),
                };
            };
            let done = headers.iter().zip(self.peers.iter_mut()).zip(self.received.iter_mut());
            for ((header, peer), received) in done.take(count) {
                peer.address_bytes = header.msg_hdr.msg_namelen;
                #[allow(clippy::unnecessary_cast, reason = "the field is 32 bits wide with musl")]
                let control_bytes = header.msg_hdr.msg_controllen as usize;
                peer.control_bytes = control_bytes;
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

    /// Makes a socket report the local address of each datagram: needed where it is bound to a wildcard address, so that
    /// replies leave from the address that was asked.
    ///
    /// # Errors
    /// The errno of `setsockopt`.
    pub fn report_destination(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
        let on: libc::c_int = 1;
        let (level, name) =
            if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
        let (value, bytes) = ((&raw const on).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: `value` points to an int of `bytes` octets that lives through the call.
        let rc = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value, bytes) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Returns the header of one reply: to the peer, from the address that the peer sent to.
    fn header_to(peer: &mut Peer, vector: &mut libc::iovec) -> libc::msghdr {
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
}

/// Processes: handles, signals to groups, death signals, limits.
pub mod process {
    use std::fs;
    use std::io;
    use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// A signal that Weir sends to the processes it runs.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Signal {
        /// SIGTERM: finish and end.
        Terminate,
        /// SIGKILL: end now.
        Kill,
    }

    fn check(rc: libc::c_int) -> io::Result<()> {
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn group(pid: u32) -> io::Result<libc::pid_t> {
        // 0 would be this process's own group and 1 everything that may be signalled: neither is ever meant.
        let group = libc::pid_t::try_from(pid).ok().filter(|group| *group > 1);
        group.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }

    /// Returns a handle of a child that becomes readable when the child ends; pidfd_open(2), Linux 5.3.
    ///
    /// The child must not have been waited for, else the number may be another process's.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process, `ENOSYS` on an older kernel, `EMFILE`.
    pub fn open_handle(pid: u32) -> io::Result<OwnedFd> {
        let pid = group(pid)?;
        // SAFETY: pidfd_open takes two integers and touches no memory.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the call returned a new descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A handle registered with the reactor of the current runtime.
    #[derive(Debug)]
    pub struct Watch(AsyncFd<OwnedFd>);

    impl Watch {
        /// Registers what [`open_handle`] returned. Must be called on a runtime with I/O.
        ///
        /// # Errors
        /// The errno of epoll_ctl(2): out of memory or of watches.
        pub fn register(handle: OwnedFd) -> io::Result<Self> {
            // SAFETY: an `OwnedFd` moved into the `AsyncFd` stays open and the same until that is dropped.
            let watched = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) };
            Ok(Self(watched?))
        }

        /// Waits until the process has ended, or the reactor is gone. Cancel-safe.
        pub async fn ended(&self) {
            // An error means the reactor is gone.
            let _ = self.0.readable().await;
        }
    }

    /// Returns true until the process of the handle has ended. Never blocks.
    pub fn is_alive(handle: impl AsFd) -> bool {
        let fd = handle.as_fd();
        let mut polled = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut polled, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(0)
    }

    /// Kills the one process of the handle, whatever has become of its number.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM` when it may not be signalled.
    pub fn kill_by_handle(handle: impl AsFd) -> io::Result<()> {
        Ok(rustix::process::pidfd_send_signal(handle, rustix::process::Signal::KILL)?)
    }

    fn number(signal: Signal) -> libc::c_int {
        match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
        }
    }

    /// Sends a signal to each process of the group that `leader` leads.
    ///
    /// # Errors
    /// `ESRCH` when it leads none or nothing is left, `EPERM` when none may be signalled.
    pub fn signal_group(leader: u32, signal: Signal) -> io::Result<()> {
        let leader = group(leader)?;
        // SAFETY: killpg takes two integers and touches no memory.
        check(unsafe { libc::killpg(leader, number(signal)) })
    }

    /// Sends a signal to a child that has not been waited for, and to its group once it leads one.
    ///
    /// # Errors
    /// `ESRCH` when there is no such process, `EPERM` when it may not be signalled.
    pub fn signal_child(child: u32, signal: Signal) -> io::Result<()> {
        match signal_group(child, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                let child = group(child)?;
                // SAFETY: kill takes two integers and touches no memory.
                check(unsafe { libc::kill(child, number(signal)) })
            }
            sent => sent,
        }
    }

    /// Returns true while the group has a member, zombies included.
    pub fn group_exists(leader: u32) -> bool {
        // SAFETY: killpg takes two integers and touches no memory; signal 0 only asks.
        group(leader).is_ok_and(|leader| unsafe { libc::killpg(leader, 0) } == 0)
    }

    /// Asks the kernel to kill this process when the thread that started it ends.
    ///
    /// # Errors
    /// `ESRCH` when that parent has ended already: the signal would never come. The errno of prctl(2) otherwise.
    pub fn die_with_parent(parent: u32) -> io::Result<()> {
        // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        if std::os::unix::process::parent_id() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// Makes this process the leader of a new session and group.
    ///
    /// # Errors
    /// `EPERM` when it leads a group already.
    pub fn new_session() -> io::Result<()> {
        // SAFETY: setsid takes nothing and touches no memory.
        if unsafe { libc::setsid() } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Bars this process and what it starts from gaining privileges (set-user-ID programs run as their caller).
    ///
    /// # Errors
    /// The errno of prctl(2).
    pub fn forbid_new_privileges() -> io::Result<()> {
        // SAFETY: PR_SET_NO_NEW_PRIVS takes integers and touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
    }

    /// Forbids core dumps, which would hold secrets, for this process and what it starts.
    ///
    /// # Errors
    /// The errno of setrlimit(2).
    pub fn forbid_core_dumps() -> io::Result<()> {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a value that lives through the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })
    }

    /// Marks every open descriptor from `first` on to be closed by the next exec; close_range(2), else one by one.
    ///
    /// # Errors
    /// When the list of descriptors cannot be read on a kernel before 5.11.
    pub fn close_on_exec_from(first: u32) -> io::Result<()> {
        // SAFETY: close_range takes three integers; with CLOEXEC it closes nothing now, so no owner is surprised.
        let rc = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if rc == 0 {
            return Ok(());
        }
        for entry in fs::read_dir("/proc/self/fd")? {
            let fd = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
            if let Some(fd) = fd.filter(|fd| u32::try_from(*fd).is_ok_and(|fd| fd >= first)) {
                // SAFETY: fcntl with F_SETFD takes integers; a descriptor that is closed meanwhile gives EBADF.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
        Ok(())
    }

    /// Returns the effective group id.
    pub fn effective_group() -> u32 {
        // SAFETY: getegid takes nothing and cannot fail.
        unsafe { libc::getegid() }
    }

    #[cfg(test)]
    mod tests {
        use super::{Signal, group_exists, open_handle, signal_child, signal_group};
        use std::os::unix::process::{CommandExt, ExitStatusExt};
        use std::process::Command;

        #[test]
        fn signals_a_whole_group_and_never_its_own() {
            let mut leader = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
            let mut member = Command::new("sleep").arg("60").process_group(leader.id() as i32).spawn().unwrap();
            let handle = open_handle(leader.id()).unwrap();
            assert!(group_exists(leader.id()));
            signal_group(leader.id(), Signal::Kill).unwrap();
            assert_eq!(leader.wait().unwrap().signal(), Some(9));
            assert_eq!(member.wait().unwrap().signal(), Some(9));
            assert!(!group_exists(leader.id()));
            assert!(signal_group(leader.id(), Signal::Terminate).is_err());
            for never in [0, 1, u32::MAX] {
                assert!(signal_child(never, Signal::Kill).is_err());
            }
            drop(handle);
        }

        #[test]
        fn signals_a_process_that_leads_no_group_yet() {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            assert!(signal_group(child.id(), Signal::Terminate).is_err());
            signal_child(child.id(), Signal::Terminate).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(15));
            assert!(open_handle(u32::MAX).is_err());
        }
    }
}
