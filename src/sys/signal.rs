//! Signals as a descriptor, for a process with one thread and no runtime.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Octets of one `signalfd_siginfo` (signalfd(2)).
const RECORD_BYTES: usize = 128;

/// Signals that are blocked for this process and read from a descriptor instead.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in the calling thread and opens a nonblocking descriptor that becomes readable when one comes.
    ///
    /// What this thread starts inherits the block: a child calls [`unblock`].
    ///
    /// # Errors
    /// The errno of sigprocmask(2) or signalfd(2).
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = empty();
        for signal in signals {
            // SAFETY: `set` is an initialised set; a number that is no signal is refused by the call.
            if unsafe { libc::sigaddset(&mut set, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: the pointer is to a set that lives through the call; no old set is asked for.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        // SAFETY: the pointer is to a set that lives through the call; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nothing else owns.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Returns the number of the next signal that came; `None` when there is none.
    ///
    /// # Errors
    /// The errno of read(2) but `EAGAIN`.
    pub fn next(&self) -> io::Result<Option<i32>> {
        let mut record = [0u8; RECORD_BYTES];
        match rustix::io::read(&self.0, &mut record) {
            Ok(RECORD_BYTES) => {
                let [a, b, c, d, ..] = record;
                Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
            }
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets every signal through again that the process that started this one had blocked. Call before there are threads.
///
/// # Errors
/// The errno of sigprocmask(2).
pub fn unblock() -> io::Result<()> {
    let none = empty();
    // SAFETY: the pointer is to a set that lives through the call; no old set is asked for.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(rc)) }
}

fn empty() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain old data; all zeroes is the empty set on Linux.
    unsafe { std::mem::zeroed() }
}
