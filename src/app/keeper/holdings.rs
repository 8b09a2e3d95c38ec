//! The listening sockets that the keeper holds: bound when first asked for, closed only when told.

use crate::net::message::{MAX_DESCRIPTORS, send};
use crate::net::{BindError, Kind, SocketFile, UnixError, Wanted, bind, bind_datagrams, bind_more, bind_unix, or_free};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Until a process sets its own; blocking sockets without any bound would be a trap.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Where a socket is, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Address(SocketAddr),
    Path(PathBuf),
}

/// The sockets of one address.
#[derive(Debug)]
struct Held {
    kind: Kind,
    place: Place,
    label: String,
    sockets: Vec<OwnedFd>,
    /// Whether the address need not be there.
    ahead: bool,
    /// The process that asked last.
    asked_by: u32,
    _file: Option<SocketFile>,
}

/// What a request was refused with.
#[derive(Debug)]
struct Refusal {
    /// After `refused`.
    words: String,
    text: String,
}

/// All that is held.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    held: Vec<Held>,
}

impl Holdings {
    /// Answers `bind KIND COUNT free|no LABEL` with the address or path in the body.
    ///
    /// # Errors
    /// When the asker is gone.
    pub(super) fn bind(&mut self, words: &[&str], body: &[u8], pid: u32, to: impl AsFd) -> io::Result<()> {
        match self.lend(words, body, pid) {
            Ok((held, instead_of)) => {
                let all: Vec<BorrowedFd<'_>> = held.sockets.iter().map(AsFd::as_fd).collect();
                let mut packets = all.chunks(MAX_DESCRIPTORS).peekable();
                while let Some(packet) = packets.next() {
                    match packets.peek() {
                        Some(_) => send(&to, "more", b"", packet)?,
                        None => send(&to, "ok", instead_of.as_bytes(), packet)?,
                    }
                }
                Ok(())
            }
            Err(refusal) => send(&to, &format!("refused {}", refusal.words), refusal.text.as_bytes(), &[]),
        }
    }

    /// Answers `close KIND LABEL` with the address in the body.
    ///
    /// # Errors
    /// When the asker is gone.
    pub(super) fn close(&mut self, words: &[&str], body: &[u8], to: impl AsFd) -> io::Result<()> {
        if let (Some(kind), Some(label)) = (words.get(1).and_then(|word| kind(word)), words.get(2))
            && let Some(place) = place(kind, body)
        {
            self.held.retain(|held| !held.is_at(kind, &place, label));
        }
        send(to, "ok", b"", &[])
    }

    /// Closes what the process that serves now did not ask for.
    pub(super) fn sweep(&mut self, pid: u32) {
        self.held.retain(|held| held.asked_by == pid);
    }

    fn lend(&mut self, words: &[&str], body: &[u8], pid: u32) -> Result<(&Held, String), Refusal> {
        let unknown = || Refusal { words: "errno 22".to_owned(), text: String::new() };
        let ["bind", kind_word, count, free, label, ..] = words else { return Err(unknown()) };
        let kind = kind(kind_word).ok_or_else(unknown)?;
        let count: usize = count.parse().map_err(|_| unknown())?;
        let place = place(kind, body).ok_or_else(unknown)?;
        let mut instead_of = String::new();
        let index = match self.held.iter().position(|held| held.is_at(kind, &place, label)) {
            Some(index) => index,
            None => {
                let (sockets, taken, file) = make(kind, &place, count, free)?;
                instead_of = taken;
                let label = (*label).to_owned();
                self.held.push(Held {
                    kind,
                    place,
                    label,
                    sockets,
                    ahead: *free == "ahead",
                    asked_by: pid,
                    _file: file,
                });
                self.held.len() - 1
            }
        };
        let held = self.held.get_mut(index).ok_or_else(unknown)?;
        held.asked_by = pid;
        held.grow(count).map_err(|error| refusal(&error))?;
        Ok((held, instead_of))
    }
}

impl Held {
    fn is_at(&self, kind: Kind, place: &Place, label: &str) -> bool {
        // Several may have asked for any free port of an address.
        let is_any = matches!(place, Place::Address(address) if address.port() == 0);
        self.kind == kind && self.place == *place && (!is_any || self.label == label)
    }

    /// Binds further TCP sockets beside what there is. A UDP address keeps its number: one socket alone stands without
    /// SO_REUSEPORT.
    fn grow(&mut self, count: usize) -> Result<(), BindError> {
        if self.kind != Kind::Tcp || self.sockets.len() >= count {
            return Ok(());
        }
        let first = self.sockets.first().and_then(|socket| socket.try_clone().ok());
        if let Some(bound) = first.and_then(|socket| TcpListener::from(socket).local_addr().ok()) {
            self.sockets
                .extend(bind_more(bound, count - self.sockets.len(), self.ahead)?.into_iter().map(OwnedFd::from));
        }
        Ok(())
    }
}

type Made = (Vec<OwnedFd>, String, Option<SocketFile>);

fn make(kind: Kind, place: &Place, count: usize, how: &str) -> Result<Made, Refusal> {
    let (free, ahead) = (how == "free", how == "ahead");
    let owned = |bound: (Vec<OwnedFd>, Option<String>)| (bound.0, bound.1.unwrap_or_default(), None);
    let made = match (kind, place) {
        (Kind::Tcp, Place::Address(address)) => {
            let wanted = Wanted { address: *address, count, free, ahead, label: "" };
            or_free(&wanted, |address| bind(address, count, ahead))
                .map(|bound| owned((bound.sockets.into_iter().map(OwnedFd::from).collect(), bound.instead_of)))
        }
        (Kind::Udp, Place::Address(address)) => {
            let wanted = Wanted { address: *address, count, free, ahead, label: "" };
            or_free(&wanted, |address| bind_datagrams(address, count, ahead, RECEIVE_TIMEOUT))
                .map(|bound| owned((bound.sockets.into_iter().map(OwnedFd::from).collect(), bound.instead_of)))
        }
        (Kind::Unix, Place::Path(path)) => {
            let (listener, file) = bind_unix(path).map_err(|error| match error {
                UnixError::Live(_) => Refusal { words: "live".to_owned(), text: String::new() },
                UnixError::NoSocket(_) => Refusal { words: "no-socket".to_owned(), text: String::new() },
                UnixError::System { source, .. } => errno(&source, String::new()),
            })?;
            Ok((vec![listener.into()], String::new(), Some(file)))
        }
        _ => return Err(Refusal { words: "errno 22".to_owned(), text: String::new() }),
    };
    made.map_err(|error| refusal(&error))
}

fn refusal(error: &BindError) -> Refusal {
    errno(&error.source, error.holder.clone().unwrap_or_default())
}

fn errno(source: &io::Error, text: String) -> Refusal {
    Refusal { words: format!("errno {}", source.raw_os_error().unwrap_or(5)), text }
}

fn kind(word: &str) -> Option<Kind> {
    [Kind::Tcp, Kind::Udp, Kind::Unix].into_iter().find(|kind| kind.to_string() == word)
}

fn place(kind: Kind, body: &[u8]) -> Option<Place> {
    if kind == Kind::Unix {
        return Some(Place::Path(Path::new(std::ffi::OsStr::from_bytes(body)).to_owned()));
    }
    std::str::from_utf8(body).ok()?.parse().ok().map(Place::Address)
}
