//! A relay that parses nothing: the floor below which no proxy with an epoll loop can go.
//!
//! One thread, one poll, one scratch buffer. A client's connection is paired with an upstream connection for its life;
//! afterwards the upstream connection is kept for the next client.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::thread;

const LISTENER: usize = usize::MAX;
const READ_BYTES: usize = 64 * 1024;

struct Side {
    stream: TcpStream,
    /// The index of the other side; `None` for an upstream connection that waits for a client.
    other: Option<usize>,
    upstream: bool,
    /// What a short write left over.
    output: Vec<u8>,
}

struct Relay {
    poll: Poll,
    sides: Vec<Option<Side>>,
    idle: Vec<usize>,
    upstreams: Vec<SocketAddr>,
    next: usize,
    buffer: Box<[u8]>,
}

/// The floor as a process of its own: one relay thread for each `LISTEN=UPSTREAM,...`.
pub(crate) fn all(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let mut threads = Vec::new();
    for argument in arguments {
        let (listen, upstreams) = argument.split_once('=').ok_or("LISTEN=UPSTREAM,... expected")?;
        let listen: SocketAddr = listen.parse()?;
        let upstreams = upstreams.split(',').map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
        threads.push(thread::spawn(move || run(listen, upstreams)));
    }
    for thread in threads {
        thread.join().map_err(|_panic| "a relay thread panicked")??;
    }
    Ok(())
}

/// Returns what starts the floor: one relay for each address, to its group of endpoints.
pub(crate) fn command<'a>(pairs: impl Iterator<Item = (SocketAddr, &'a [SocketAddr])>) -> io::Result<Vec<String>> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let mut command = vec![own, "--relay".into()];
    for (address, group) in pairs {
        let upstreams: Vec<String> = group.iter().map(SocketAddr::to_string).collect();
        command.push(format!("{address}={}", upstreams.join(",")));
    }
    Ok(command)
}

/// Relays until the process is ended.
fn run(listen: SocketAddr, upstreams: Vec<SocketAddr>) -> io::Result<()> {
    let mut listener = TcpListener::bind(listen)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, Token(LISTENER), Interest::READABLE)?;
    let mut relay =
        Relay { poll, sides: Vec::new(), idle: Vec::new(), upstreams, next: 0, buffer: vec![0; READ_BYTES].into() };
    let mut events = Events::with_capacity(512);
    loop {
        match relay.poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            let Token(token) = event.token();
            if token == LISTENER {
                relay.accept(&listener)?;
            } else if relay.forward(token, event.is_read_closed()).is_err() {
                relay.end(token);
            }
        }
    }
}

impl Relay {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let upstream = match self.idle.pop() {
                Some(index) => index,
                None => {
                    let address = self.upstreams.get(self.next % self.upstreams.len()).copied();
                    self.next += 1;
                    let address = address.ok_or(ErrorKind::InvalidInput)?;
                    self.add(TcpStream::connect(address)?, true)?
                }
            };
            let client = self.add(stream, false)?;
            self.pair(client, Some(upstream));
            self.pair(upstream, Some(client));
        }
    }

    fn add(&mut self, mut stream: TcpStream, upstream: bool) -> io::Result<usize> {
        stream.set_nodelay(true)?;
        let index = self.sides.iter().position(Option::is_none).unwrap_or(self.sides.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(index), interest)?;
        let side = Some(Side { stream, other: None, upstream, output: Vec::new() });
        match self.sides.get_mut(index) {
            Some(place) => *place = side,
            None => self.sides.push(side),
        }
        Ok(index)
    }

    fn pair(&mut self, index: usize, other: Option<usize>) {
        if let Some(Some(side)) = self.sides.get_mut(index) {
            side.other = other;
        }
    }

    fn forward(&mut self, index: usize, closed: bool) -> io::Result<()> {
        let Some(Some(side)) = self.sides.get_mut(index) else { return Ok(()) };
        let other = side.other;
        let had_output = !side.output.is_empty();
        side.flush()?;
        if had_output
            && side.output.is_empty()
            && let Some(other) = other
        {
            // The reader had stopped for this side: go on.
            self.copy(other, true)?;
        }
        self.copy(index, closed)
    }

    /// Moves what `index` has to its other side, until it has no more or the other side takes no more.
    fn copy(&mut self, index: usize, closed: bool) -> io::Result<()> {
        loop {
            let other = self.sides.get(index).and_then(Option::as_ref).and_then(|side| side.other);
            let to = other.and_then(|other| self.sides.get(other)).and_then(Option::as_ref);
            if to.is_some_and(|to| !to.output.is_empty()) {
                return Ok(());
            }
            let Some(Some(side)) = self.sides.get_mut(index) else { return Ok(()) };
            let n = match side.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let Some(to) = other.and_then(|other| self.sides.get_mut(other)).and_then(Option::as_mut) else {
                return Err(ErrorKind::UnexpectedEof.into());
            };
            to.send(self.buffer.get(..n).unwrap_or_default())?;
            if n < self.buffer.len() && !closed {
                return Ok(());
            }
        }
    }

    /// A client's end gives its upstream connection back; an upstream's end takes its client along.
    fn end(&mut self, index: usize) {
        let Some(side) = self.sides.get_mut(index).and_then(Option::take) else { return };
        self.idle.retain(|&idle| idle != index);
        let Some(other) = side.other else { return };
        if side.upstream {
            if let Some(place) = self.sides.get_mut(other) {
                *place = None;
            }
        } else {
            self.pair(other, None);
            self.idle.push(other);
        }
    }
}

impl Side {
    fn send(&mut self, data: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.output.is_empty() {
            sent = match self.stream.write(data) {
                Ok(n) => n,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => 0,
                Err(error) => return Err(error),
            };
        }
        self.output.extend_from_slice(data.get(sent..).unwrap_or_default());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
