#![allow(
    unsafe_code,
    reason = "the only module with system calls that neither std nor tokio offers; each block states its preconditions"
)]
//! The only `unsafe` of the product: listening sockets, batched datagrams, process handles, signals, thread placement.
//!
//! Each function is a thin, safe wrapper over one or two system calls and returns `io::Error` with the call's errno.

pub mod accept;
pub mod datagram;
#[cfg(test)]
mod datagram_tests;
pub mod descriptors;
pub mod memory;
pub mod queue;
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
