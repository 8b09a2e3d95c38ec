//! Bulk and idle connections in one thread: a backend that sends as many octets as a client asks for, and a client that
//! has the kernel throw them away, so that the load's CPU is not the limit.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustix::net::{RecvFlags, recv};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;
use weir::clock;

const LISTENER: usize = usize::MAX;
const CLIENTS: usize = 1 << 20;
/// What the backend gives the kernel at once.
const PIECE_BYTES: usize = 1024 * 1024;
/// Connections that may be on their way at once: below the shortest usual accept queue.
const MAX_WAITING: usize = 64;
const STALL: Duration = Duration::from_secs(20);

struct Backend {
    stream: TcpStream,
    request: Vec<u8>,
    left: u64,
}

struct Client {
    stream: TcpStream,
    /// Octets of the answer that have not come; the request is sent when the connection is writable.
    left: u64,
    asked: bool,
}

/// The thread's state.
pub(crate) struct Bulk {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    backends: Vec<Option<Backend>>,
    clients: Vec<Client>,
    piece: Box<[u8]>,
    sink: Box<[u8]>,
    waiting: usize,
}

impl Bulk {
    /// Opens the backend.
    pub(crate) fn open() -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        poll.registry().register(&mut listener, Token(LISTENER), Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            listener,
            backends: Vec::new(),
            clients: Vec::new(),
            piece: vec![b'x'; PIECE_BYTES].into(),
            sink: vec![0; PIECE_BYTES].into(),
            waiting: 0,
        })
    }

    /// Returns the backend's address.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Opens `count` connections that ask for `bytes` octets each and waits for all of them; they stay open.
    pub(crate) fn fetch(&mut self, target: SocketAddr, count: usize, bytes: u64) -> io::Result<()> {
        for _ in 0..count {
            let mut stream = TcpStream::connect(target)?;
            let (token, interest) = (Token(CLIENTS + self.clients.len()), Interest::READABLE | Interest::WRITABLE);
            self.poll.registry().register(&mut stream, token, interest)?;
            self.clients.push(Client { stream, left: bytes, asked: false });
            self.waiting += 1;
            // Not more at once than an accept queue takes: a dropped SYN comes again only after a second.
            self.turn(Duration::ZERO)?;
            while self.waiting >= MAX_WAITING {
                self.turn(Duration::from_secs(1))?;
            }
        }
        let mut deadline = clock::now() + STALL;
        let mut before = self.left();
        while self.waiting > 0 {
            self.turn(Duration::from_secs(1))?;
            if self.left() != before {
                (before, deadline) = (self.left(), clock::now() + STALL);
            }
            if clock::now() > deadline {
                return Err(io::Error::other(format!("{} connections stall", self.waiting)));
            }
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.clients.iter().map(|client| client.left).sum()
    }

    /// Closes every client, and waits until the proxy has closed its side.
    pub(crate) fn close(&mut self) -> io::Result<()> {
        self.clients.clear();
        self.waiting = 0;
        let deadline = clock::now() + STALL;
        while self.backends.iter().any(Option::is_some) && clock::now() < deadline {
            self.turn(Duration::from_millis(50))?;
        }
        self.backends.clear();
        Ok(())
    }

    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            let Token(token) = event.token();
            if token == LISTENER {
                self.accept()?;
            } else if token >= CLIENTS {
                self.client(token - CLIENTS)?;
            } else if let Some(place) = self.backends.get_mut(token)
                && let Some(backend) = place
                && backend.serve(&self.piece).is_err()
            {
                *place = None;
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.backends.len()), interest)?;
            self.backends.push(Some(Backend { stream, request: Vec::new(), left: 0 }));
        }
    }

    fn client(&mut self, index: usize) -> io::Result<()> {
        let Some(client) = self.clients.get_mut(index) else { return Ok(()) };
        if !client.asked {
            match client.stream.write(&client.left.to_be_bytes()) {
                Ok(8) => client.asked = true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Ok(_) => return Err(io::Error::other("a request went out in pieces")),
                Err(error) => return Err(error),
            }
        }
        while client.left > 0 {
            // With TRUNC the kernel throws the octets away instead of copying them.
            match recv(&client.stream, &mut *self.sink, RecvFlags::TRUNC) {
                Ok((_, 0)) => return Err(io::Error::other(format!("{} octets are missing", client.left))),
                Ok((_, n)) => client.left = client.left.saturating_sub(n as u64),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if client.left == 0 {
                self.waiting -= 1;
            }
        }
        Ok(())
    }
}

impl Backend {
    /// Reads how much is asked for and sends until the socket takes no more.
    fn serve(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.left == 0 {
            let mut bytes = [0; 8];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.request.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let Ok(length) = <[u8; 8]>::try_from(self.request.as_slice()) else { return Ok(()) };
            self.left = u64::from_be_bytes(length);
            self.request.clear();
        }
        while self.left > 0 {
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(piece.len());
            match self.stream.write(piece.get(..length).unwrap_or_default()) {
                Ok(n) => self.left -= n as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
