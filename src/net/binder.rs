//! Where listening sockets come from: made by this process, or held by the keeper and lent.
//!
//! Both give the same sockets and the same errors. A kept socket outlives this process with its queue. When the keeper is
//! gone, what is needed further is made here.

use crate::net::bind_datagrams;
use crate::net::link::Link;
use crate::net::listener::{BindError, bind, bind_more};
use crate::net::message::Message;
use crate::net::unix::{SocketFile, UnixError, bind_unix};
use rustix::event::{Timespec, poll};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

/// Tries, and the pause before each, while an address is held by who is about to let go: one second. After a kill -9 a child
/// that was forked and has not executed yet holds the sockets for some milliseconds more.
const PASSING_TRIES: u32 = 50;
const PASSING_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// A kind of socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP listener.
    Tcp,
    /// A UDP socket.
    Udp,
    /// A Unix listener.
    Unix,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
        })
    }
}

/// An address with what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// The address as configured; port 0 takes a free port.
    pub address: SocketAddr,
    /// Sockets that share it.
    pub count: usize,
    /// Where it is taken, take a free port instead.
    pub free: bool,
    /// The address need not be there yet (IP_FREEBIND).
    pub ahead: bool,
    /// Tells several addresses with port 0 apart; one word.
    pub label: &'a str,
}

/// Sockets of one address.
#[derive(Debug)]
pub struct Bound<S> {
    /// At least as many as wanted; a keeper may hold more, and each must be served.
    pub sockets: Vec<S>,
    /// Why a free port was taken instead of the wanted one, the first time.
    pub instead_of: Option<String>,
}

/// A Unix listener's file; removed on drop by whoever is responsible for it.
#[derive(Debug)]
pub enum UnixFile {
    /// This process.
    Own(SocketFile),
    /// The keeper, as long as it lives.
    Kept {
        /// The file, to be removed when the keeper cannot.
        file: Option<SocketFile>,
        /// The keeper.
        link: Link,
    },
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        if let Self::Kept { file, link } = self
            && !link.is_gone()
            && let Some(file) = file.take()
        {
            file.leave();
        }
    }
}

/// Makes listening sockets; a cheap handle.
#[derive(Debug, Clone)]
pub enum Binder {
    /// In this process.
    Local,
    /// Through the keeper.
    Kept(Link),
}

impl Binder {
    /// Returns the keeper's link while the keeper lives.
    fn link(&self) -> Option<&Link> {
        match self {
            Self::Kept(link) if !link.is_gone() => Some(link),
            Self::Kept(_) | Self::Local => None,
        }
    }

    /// Binds nonblocking TCP listeners.
    ///
    /// # Errors
    /// [`BindError`] with the holder's name and pid where `/proc` tells.
    pub fn tcp(&self, wanted: &Wanted<'_>) -> Result<Bound<TcpListener>, BindError> {
        match self.link() {
            None => or_free(wanted, |address| bind(address, wanted.count, wanted.ahead)),
            Some(link) => lent(link, Kind::Tcp, wanted),
        }
    }

    /// Binds further TCP listeners beside `have` of the exact address `bound`, up to the wanted count.
    ///
    /// # Errors
    /// As of [`Binder::tcp`].
    pub fn more_tcp(&self, wanted: &Wanted<'_>, bound: SocketAddr, have: usize) -> Result<Vec<TcpListener>, BindError> {
        if wanted.count <= have {
            return Ok(Vec::new());
        }
        match self.link() {
            None => bind_more(bound, wanted.count - have, wanted.ahead),
            Some(link) => {
                let all: Bound<TcpListener> = lent(link, Kind::Tcp, wanted)?;
                Ok(all.sockets.into_iter().skip(have).collect())
            }
        }
    }

    /// Binds blocking UDP sockets; `receive_timeout` bounds each wait.
    ///
    /// # Errors
    /// As of [`Binder::tcp`].
    pub fn udp(&self, wanted: &Wanted<'_>, receive_timeout: Duration) -> Result<Bound<UdpSocket>, BindError> {
        match self.link() {
            None => or_free(wanted, |address| bind_datagrams(address, wanted.count, wanted.ahead, receive_timeout)),
            Some(link) => {
                let bound: Bound<UdpSocket> = lent(link, Kind::Udp, wanted)?;
                for socket in &bound.sockets {
                    let unusable = |source| BindError { address: wanted.address, holder: None, source };
                    socket.set_read_timeout(Some(receive_timeout)).map_err(unusable)?;
                }
                Ok(bound)
            }
        }
    }

    /// Binds a nonblocking Unix listener of mode 0600.
    ///
    /// # Errors
    /// [`UnixError`] with the path.
    pub fn unix(&self, path: &Path) -> Result<(UnixListener, UnixFile), UnixError> {
        let Some(link) = self.link() else {
            return bind_unix(path).map(|(listener, file)| (listener, UnixFile::Own(file)));
        };
        let failed = |source| UnixError::System { path: path.to_owned(), source };
        // The keeper's working directory is this process's, but that may change.
        let absolute = std::path::absolute(path).map_err(failed)?;
        let mut answer = link.ask("bind unix 1 no -", absolute.as_os_str().as_bytes()).map_err(failed)?;
        let socket = answer.descriptors.pop();
        match (answer.words().as_slice(), socket) {
            (["ok", ..], Some(socket)) => {
                let file = SocketFile::at(path).ok();
                Ok((UnixListener::from(socket), UnixFile::Kept { file, link: link.clone() }))
            }
            (["refused", "live", ..], _) => Err(UnixError::Live(path.to_owned())),
            (["refused", "no-socket", ..], _) => Err(UnixError::NoSocket(path.to_owned())),
            (words, _) => Err(failed(errno(words))),
        }
    }

    /// Says that an address is no longer wanted. What this process holds of it stays open until dropped.
    pub fn close(&self, kind: Kind, wanted: &Wanted<'_>) {
        if let Some(link) = self.link() {
            let Wanted { address, label, .. } = wanted;
            // Asked, not told: afterwards this process is the last that holds it.
            if let Err(error) = link.ask(&format!("close {kind} {label}"), address.to_string().as_bytes()) {
                tracing::warn!(%error, %address, "failed to have the keeper close an address");
            }
        }
    }
}

/// Binds the wanted address, or a free port where that is allowed and it is taken.
///
/// # Errors
/// The first refusal that no free port mends.
pub fn or_free<S>(
    wanted: &Wanted<'_>,
    bind: impl Fn(SocketAddr) -> Result<Vec<S>, BindError>,
) -> Result<Bound<S>, BindError> {
    let mut bound = bind(wanted.address);
    for _ in 0..PASSING_TRIES {
        if wanted.free || !bound.as_ref().is_err_and(BindError::is_passing) {
            break;
        }
        // At the start, or in the keeper, where nothing else is to be done; a signal only makes it shorter.
        let _ = poll(&mut [], Some(&PASSING_PAUSE));
        bound = bind(wanted.address);
    }
    match bound {
        Err(taken) if wanted.free && taken.source.kind() == io::ErrorKind::AddrInUse => {
            let sockets = bind(SocketAddr::new(wanted.address.ip(), 0))?;
            Ok(Bound { sockets, instead_of: Some(taken.to_string()) })
        }
        bound => bound.map(|sockets| Bound { sockets, instead_of: None }),
    }
}

/// Asks the keeper for sockets.
fn lent<S: From<OwnedFd>>(link: &Link, kind: Kind, wanted: &Wanted<'_>) -> Result<Bound<S>, BindError> {
    let Wanted { address, count, free, ahead, label } = wanted;
    let how = match (free, ahead) {
        (true, _) => "free",
        (false, true) => "ahead",
        (false, false) => "no",
    };
    let line = format!("bind {kind} {count} {how} {label}");
    let failed = |holder, source| BindError { address: *address, holder, source };
    let answer: Message = link.ask(&line, address.to_string().as_bytes()).map_err(|error| failed(None, error))?;
    let instead_of = Some(answer.text()).filter(|text| !text.is_empty());
    match answer.words().as_slice() {
        ["ok", ..] if answer.descriptors.len() >= *count => {
            Ok(Bound { sockets: answer.descriptors.into_iter().map(S::from).collect(), instead_of })
        }
        words => Err(failed(instead_of, errno(words))),
    }
}

/// Reads `refused errno N`.
fn errno(words: &[&str]) -> io::Error {
    match words {
        ["refused", "errno", number, ..] => io::Error::from_raw_os_error(number.parse().unwrap_or(libc::EIO)),
        _ => io::Error::other("the keeper gives an answer that this version does not know"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Wanted, or_free};
    use crate::net::{bind, message};
    use std::net::SocketAddr;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    /// A listener that no process has open: it is on its way between the two ends of a socket pair.
    fn nobodys() -> (SocketAddr, (UnixStream, UnixStream)) {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, false).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let pair = UnixStream::pair().unwrap();
        message::send(&pair.0, "held", b"", &[listener.as_fd()]).unwrap();
        (address, pair)
    }

    fn wanted(address: SocketAddr) -> Wanted<'static> {
        Wanted { address, count: 1, free: false, ahead: false, label: "x" }
    }

    #[test]
    fn an_address_that_nobody_seems_to_hold_is_waited_for() {
        let (address, pair) = nobodys();
        assert!(bind(address, 1, false).unwrap_err().holder.is_none());
        let closer = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(150));
            drop(pair);
        });
        let bound = or_free(&wanted(address), |address| bind(address, 1, false)).unwrap();
        assert_eq!(bound.sockets[0].local_addr().unwrap(), address);
        closer.join().unwrap();
    }

    #[test]
    fn one_that_stays_taken_is_refused_after_a_second_and_at_once_where_the_holder_is_known() {
        let tries = std::cell::Cell::new(0);
        let counted = |address| {
            tries.set(tries.get() + 1);
            bind(address, 1, false)
        };
        let (address, _pair) = nobodys();
        assert_eq!(or_free(&wanted(address), counted).unwrap_err().source.kind(), std::io::ErrorKind::AddrInUse);
        assert_eq!(tries.replace(0), 1 + super::PASSING_TRIES);
        let open = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1, false).unwrap();
        assert!(or_free(&wanted(open[0].local_addr().unwrap()), counted).unwrap_err().holder.is_some());
        assert_eq!(tries.get(), 1);
    }
}
