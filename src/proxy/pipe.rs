//! Pipes for splice(2): octets move from socket to socket without passing through this process's memory.
//!
//! One pipe carries one direction of one stream while it moves bulk; between uses it waits in the worker's pool. Their
//! number is bounded: each is two descriptors and up to a mebibyte of kernel memory that counts against the user.

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// Pipes of one worker, in use and waiting; streams beyond copy.
const MAX_PIPES: usize = 64;
/// Of these so many are kept when nobody uses them.
const MAX_WAITING: usize = 16;
/// Size of a pipe, and the most that one splice moves: 1 MiB halves the CPU per octet of 64 KiB (measured 2026-11-22).
pub(crate) const PIPE_BYTES: usize = 1024 * 1024;
/// Less than this is not worth two calls for what one receive and one send do.
const MIN_PIPE_BYTES: usize = 128 * 1024;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    waiting: RefCell<Vec<Ends>>,
    /// In use and waiting.
    open: Cell<usize>,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe in use; given back when dropped empty, else closed.
#[derive(Debug)]
pub(crate) struct Pipe {
    ends: Option<Ends>,
    /// Octets in it.
    fill: usize,
    pipes: Rc<Pipes>,
}

impl Pipes {
    /// Takes a pipe; `None` when there are enough already, or the system gives none that is large enough.
    pub(crate) fn take(self: &Rc<Self>) -> Option<Pipe> {
        let waiting = self.waiting.borrow_mut().pop();
        let ends = match waiting {
            Some(ends) => ends,
            None if self.open.get() >= MAX_PIPES => return None,
            None => {
                let ends = open()?;
                self.open.set(self.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), fill: 0, pipes: self.clone() })
    }

    /// Returns the pipes that are open.
    #[cfg(test)]
    fn open(&self) -> usize {
        self.open.get()
    }
}

/// Opens a pipe of a useful size. A user without privileges gets small ones once too many are open.
fn open() -> Option<Ends> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
    let size = fcntl_setpipe_size(&write, PIPE_BYTES).ok()?;
    (size >= MIN_PIPE_BYTES).then_some(Ends { read, write })
}

impl Pipe {
    /// Returns the octets in it.
    pub(crate) fn fill(&self) -> usize {
        self.fill
    }

    /// Moves at most so many octets from a socket into the empty pipe; 0: the socket has ended.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has none now, and whatever broke it.
    pub(crate) fn fill_from(&mut self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::NotConnected.into()) };
        let moved = moved(|flags| splice(&socket, None, &ends.write, None, most.min(PIPE_BYTES), flags))?;
        self.fill += moved;
        Ok(moved)
    }

    /// Moves octets from the pipe to a socket.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes none now, and whatever broke it.
    pub(crate) fn drain_to(&mut self, socket: impl AsFd) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Err(io::ErrorKind::NotConnected.into()) };
        let moved = moved(|flags| splice(&ends.read, None, &socket, None, self.fill, flags))?;
        self.fill -= moved.min(self.fill);
        Ok(moved)
    }
}

fn moved(call: impl Fn(SpliceFlags) -> Result<usize, Errno>) -> io::Result<usize> {
    loop {
        match call(SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Err(Errno::INTR) => {}
            moved => return Ok(moved?),
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut waiting = self.pipes.waiting.borrow_mut();
        match self.ends.take() {
            Some(ends) if self.fill == 0 && waiting.len() < MAX_WAITING => waiting.push(ends),
            _ => self.pipes.open.set(self.pipes.open.get() - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_PIPES, MAX_WAITING, PIPE_BYTES, Pipes};
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    #[test]
    fn carries_octets_and_is_reused_only_when_empty() {
        let pipes = Rc::new(Pipes::default());
        let ((mut a, b), (c, mut d)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        a.write_all(b"hello").unwrap();
        let mut pipe = pipes.take().unwrap();
        assert_eq!((pipe.fill_from(&b, PIPE_BYTES).unwrap(), pipe.fill()), (5, 5));
        assert_eq!((pipe.drain_to(&c).unwrap(), pipe.fill()), (5, 0));
        let mut read = [0; 5];
        d.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"hello");
        drop(pipe);
        assert_eq!(pipes.open(), 1);
        let mut pipe = pipes.take().unwrap();
        a.write_all(b"left").unwrap();
        pipe.fill_from(&b, PIPE_BYTES).unwrap();
        drop(pipe);
        assert_eq!(pipes.open(), 0, "what is not empty is closed");
    }

    #[test]
    fn the_number_is_bounded() {
        let pipes = Rc::new(Pipes::default());
        let taken: Vec<_> = std::iter::from_fn(|| pipes.take()).take(MAX_PIPES + 1).collect();
        assert!(taken.len() <= MAX_PIPES && !taken.is_empty(), "{}", taken.len());
        drop(taken);
        assert!(pipes.open() <= MAX_WAITING);
    }
}
