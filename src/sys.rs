#![allow(
    unsafe_code,
    reason = "the only module with system calls that neither std nor tokio offers; each block states its preconditions"
)]
//! The only `unsafe` of the product: batched datagrams, process handles, thread placement.
//!
//! Each function is a thin, safe wrapper over one or two system calls and returns `io::Error` with the call's errno.

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

/// Batched datagrams: `recvmmsg` and `sendmmsg`.
pub mod datagram {}

/// Processes: handles, signals to groups, death signals, limits.
pub mod process {}
