//! Backend and load generator in one thread: the proxy on the other CPU is the bottleneck, and no scheduling between
//! load processes disturbs the figures.
//!
//! Edge-triggered: a read that does not fill the buffer has drained the socket, so a request costs two receives and two
//! sends here. Every answer is checked for its status and its exact length.

use super::message::{self, Answer, Kind};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use weir::clock;

const BACKENDS: usize = 1 << 20;
const CLIENTS: usize = 1 << 21;
const READ_BYTES: usize = 64 * 1024;
/// Nothing on loopback takes longer; a cell that stalls counts its requests as errors.
const STALL: Duration = Duration::from_secs(5);

/// What one measured stretch gave.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// From the first request to the last answer.
    pub(crate) seconds: f64,
    /// Sorted, in microseconds; from the scheduled time with an open loop.
    pub(crate) latencies_us: Vec<u32>,
}

/// How requests are made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// A new connection for each request.
    pub(crate) close: bool,
    /// Requests per second with an open loop; `None`: the next request follows its answer.
    pub(crate) rate: Option<f64>,
}

struct Backend {
    stream: TcpStream,
    input: Vec<u8>,
    /// What a short write left over.
    output: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// When the request that is in flight was due.
    since: Option<Instant>,
    answer: Answer,
    /// The answer is complete; only the end of the connection is awaited.
    ending: bool,
}

/// The thread's state: one poll, the backend's listeners and connections, the clients.
pub(crate) struct Load {
    poll: Poll,
    events: Events,
    listeners: Vec<TcpListener>,
    backends: Vec<Option<Backend>>,
    clients: Vec<Option<Client>>,
    buffer: Box<[u8]>,
    /// The head of the request that a backend received last.
    pub(crate) last_head: Vec<u8>,
    /// Connections that the backends accepted.
    pub(crate) accepted: u64,
}

struct Run {
    /// Connections go to each in turn.
    targets: Vec<SocketAddr>,
    shape: Shape,
    request: Vec<u8>,
    stretch: Stretch,
    sending: bool,
    in_flight: usize,
    /// Open loop: requests that are due and wait for a connection, and connections that wait for a request.
    due: VecDeque<Instant>,
    idle: Vec<usize>,
}

impl Load {
    /// Opens the backend's listeners, one for each endpoint.
    pub(crate) fn open(endpoints: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for index in 0..endpoints {
            let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
            listeners.push(listener);
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(512),
            listeners,
            backends: Vec::new(),
            clients: Vec::new(),
            buffer: vec![0; READ_BYTES].into(),
            last_head: Vec::new(),
            accepted: 0,
        })
    }

    /// Returns the addresses of the endpoints.
    pub(crate) fn endpoints(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves the backend alone for a while, so that peers can probe it or close connections.
    pub(crate) fn idle(&mut self, time: Duration) -> io::Result<()> {
        let end = clock::now() + time;
        loop {
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(None, Some(left))?;
        }
    }

    /// Loads `target` for `time`, then waits for what is in flight.
    pub(crate) fn run(&mut self, target: SocketAddr, shape: Shape, time: Duration) -> io::Result<Stretch> {
        self.run_all(&[target], shape, time)
    }

    /// As [`Load::run`], with the connections spread over several targets.
    pub(crate) fn run_all(&mut self, targets: &[SocketAddr], shape: Shape, time: Duration) -> io::Result<Stretch> {
        let mut run = Run {
            targets: targets.to_vec(),
            shape,
            request: message::request(shape.kind, shape.close),
            stretch: Stretch::default(),
            sending: true,
            in_flight: 0,
            due: VecDeque::new(),
            idle: Vec::new(),
        };
        let start = clock::now();
        self.clients.clear();
        for index in 0..shape.connections {
            self.clients.push(None);
            self.connect(index, &mut run)?;
        }
        let end = start + time;
        let mut next_due = start;
        loop {
            let now = clock::now();
            if now >= end {
                break;
            }
            let mut wait = end - now;
            if let Some(rate) = shape.rate {
                while next_due <= now {
                    run.due.push_back(next_due);
                    next_due += Duration::from_secs_f64(1.0 / rate);
                }
                self.dispatch(&mut run);
                // Below a millisecond the poll cannot wait: look again at once.
                wait = wait.min(next_due - now);
                wait = if wait < Duration::from_millis(1) { Duration::ZERO } else { wait };
            }
            self.turn(Some(&mut run), Some(wait))?;
        }
        run.sending = false;
        run.due.clear();
        let deadline = clock::now() + STALL;
        while run.in_flight > 0 && clock::now() < deadline {
            self.turn(Some(&mut run), Some(Duration::from_millis(100)))?;
        }
        run.stretch.errors += run.in_flight as u64;
        run.stretch.seconds = (clock::now() - start).as_secs_f64();
        run.stretch.latencies_us.sort_unstable();
        self.clients.clear();
        Ok(run.stretch)
    }

    /// Opens connections that make one request each and stay open, idle, until [`Load::release`]; returns how many.
    pub(crate) fn hold(&mut self, target: SocketAddr, count: usize) -> io::Result<usize> {
        let shape = Shape { kind: Kind::Tiny, connections: count, close: false, rate: None };
        let request = message::request(shape.kind, false);
        let (due, idle) = (VecDeque::new(), Vec::new());
        let mut run = Run {
            targets: vec![target],
            shape,
            request,
            stretch: Stretch::default(),
            sending: false,
            in_flight: 0,
            due,
            idle,
        };
        self.clients.clear();
        for index in 0..count {
            self.clients.push(None);
            self.connect(index, &mut run)?;
            while run.in_flight >= 64 {
                self.turn(Some(&mut run), Some(Duration::from_millis(100)))?;
            }
        }
        let deadline = clock::now() + STALL;
        while run.in_flight > 0 && clock::now() < deadline {
            self.turn(Some(&mut run), Some(Duration::from_millis(100)))?;
        }
        match (run.in_flight, run.stretch.errors) {
            (0, 0) => Ok(count),
            (left, errors) => Err(io::Error::other(format!("{left} of {count} unanswered, {errors} failed"))),
        }
    }

    /// Closes the connections that [`Load::hold`] opened.
    pub(crate) fn release(&mut self) {
        self.clients.clear();
    }

    fn turn(&mut self, mut run: Option<&mut Run>, wait: Option<Duration>) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        match self.poll.poll(&mut events, wait) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            let Token(token) = event.token();
            if token >= CLIENTS {
                if let Some(run) = run.as_deref_mut() {
                    self.client(token - CLIENTS, run, event.is_read_closed());
                }
            } else if token >= BACKENDS {
                self.backend(token - BACKENDS, event.is_read_closed());
            } else {
                self.accept(token)?;
            }
        }
        self.events = events;
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        let Some(socket) = self.listeners.get(listener) else { return Ok(()) };
        loop {
            let mut stream = match socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let free = self.backends.iter().position(Option::is_none).unwrap_or(self.backends.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(BACKENDS + free), interest)?;
            if free == self.backends.len() {
                self.backends.push(None);
            }
            self.accepted += 1;
            if let Some(place) = self.backends.get_mut(free) {
                *place = Some(Backend { stream, input: Vec::new(), output: Vec::new() });
            }
        }
    }

    fn backend(&mut self, index: usize, closed: bool) {
        let Some(place) = self.backends.get_mut(index) else { return };
        let Some(backend) = place else { return };
        if backend.serve(&mut self.buffer, closed, &mut self.last_head).is_err() {
            *place = None;
        }
    }

    fn connect(&mut self, index: usize, run: &mut Run) -> io::Result<()> {
        let target = run.targets.get(index % run.targets.len().max(1)).copied().ok_or(ErrorKind::InvalidInput)?;
        let mut stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(CLIENTS + index), interest)?;
        let mut client = Client { stream, since: None, answer: Answer::default(), ending: false };
        if run.shape.rate.is_some() {
            run.idle.push(index);
        } else {
            client.since = Some(clock::now());
            run.in_flight += 1;
        }
        if let Some(place) = self.clients.get_mut(index) {
            *place = Some(client);
        }
        Ok(())
    }

    /// Gives due requests to idle connections.
    fn dispatch(&mut self, run: &mut Run) {
        while let (Some(&due), Some(index)) = (run.due.front(), run.idle.pop()) {
            run.due.pop_front();
            if let Some(Some(client)) = self.clients.get_mut(index) {
                client.since = Some(due);
                run.in_flight += 1;
                // A connection that is not established yet sends when it becomes writable.
                client.answer = Answer::default();
                let _ = client.send(&run.request);
            }
        }
    }

    fn client(&mut self, index: usize, run: &mut Run, closed: bool) {
        let Some(Some(client)) = self.clients.get_mut(index) else { return };
        match client.progress(&mut self.buffer, &run.request, closed) {
            Progress::Waiting => {}
            Progress::Answered { latency_us, end } => {
                run.in_flight -= 1;
                run.stretch.requests += 1;
                run.stretch.latencies_us.push(latency_us);
                if end {
                    self.again(index, run);
                } else if run.shape.close {
                    client.ending = true;
                } else if run.shape.rate.is_some() {
                    run.idle.push(index);
                } else if run.sending {
                    client.since = Some(clock::now());
                    run.in_flight += 1;
                    if client.send(&run.request).is_err() {
                        self.failed(index, run);
                    }
                }
            }
            Progress::Ended => self.again(index, run),
            Progress::Failed => self.failed(index, run),
        }
    }

    fn failed(&mut self, index: usize, run: &mut Run) {
        if let Some(Some(client)) = self.clients.get(index)
            && client.since.is_some()
        {
            run.in_flight -= 1;
            run.stretch.errors += 1;
        }
        self.again(index, run);
    }

    /// Replaces a connection that ended.
    fn again(&mut self, index: usize, run: &mut Run) {
        if let Some(place) = self.clients.get_mut(index) {
            *place = None;
        }
        run.idle.retain(|&idle| idle != index);
        if run.sending && self.connect(index, run).is_err() {
            run.stretch.errors += 1;
        }
    }
}

impl Backend {
    fn serve(&mut self, buffer: &mut [u8], closed: bool, last_head: &mut Vec<u8>) -> io::Result<()> {
        self.flush()?;
        loop {
            let n = match self.stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let data = buffer.get(..n).unwrap_or_default();
            if self.input.is_empty() {
                let used = self.answer(data, last_head)?;
                self.input.extend_from_slice(data.get(used..).unwrap_or_default());
            } else {
                self.input.extend_from_slice(data);
                let input = std::mem::take(&mut self.input);
                let used = self.answer(&input, last_head)?;
                self.input.extend_from_slice(input.get(used..).unwrap_or_default());
            }
            if n < buffer.len() && !closed {
                return Ok(());
            }
        }
    }

    /// Answers every complete request; returns the octets used.
    fn answer(&mut self, data: &[u8], last_head: &mut Vec<u8>) -> io::Result<usize> {
        let mut used = 0;
        while let Some(length) = data.get(used..).and_then(message::head_length) {
            let head = data.get(used..used + length).unwrap_or_default();
            used += length;
            last_head.clear();
            last_head.extend_from_slice(head);
            let answer = message::answer(head);
            if self.output.is_empty() {
                let sent = match self.stream.write(answer) {
                    Ok(n) => n,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                };
                self.output.extend_from_slice(answer.get(sent..).unwrap_or_default());
            } else {
                self.output.extend_from_slice(answer);
            }
        }
        Ok(used)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

enum Progress {
    Waiting,
    Answered {
        latency_us: u32,
        /// The peer has closed the connection.
        end: bool,
    },
    Ended,
    Failed,
}

impl Client {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        match self.stream.write(request) {
            Ok(n) if n == request.len() => {
                self.answer.sent = true;
                Ok(())
            }
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn progress(&mut self, buffer: &mut [u8], request: &[u8], closed: bool) -> Progress {
        if self.since.is_some() && !self.answer.sent {
            // A fresh connection became writable, or failed.
            return if self.send(request).is_err() { Progress::Failed } else { Progress::Waiting };
        }
        loop {
            let n = match self.stream.read(buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(_) if self.ending => return Progress::Ended,
                Err(_) => return Progress::Failed,
            };
            if n == 0 {
                return if self.since.is_none() { Progress::Ended } else { Progress::Failed };
            }
            if self.ending || self.since.is_none() {
                return Progress::Failed;
            }
            match self.answer.feed(buffer.get(..n).unwrap_or_default()) {
                Err(()) => return Progress::Failed,
                Ok(true) => {
                    let Some(since) = self.since.take() else { return Progress::Failed };
                    let latency_us = u32::try_from((clock::now() - since).as_micros()).unwrap_or(u32::MAX);
                    let ended = closed && matches!(self.stream.read(buffer), Ok(0));
                    self.answer = Answer::default();
                    return Progress::Answered { latency_us, end: ended };
                }
                Ok(false) if n < buffer.len() && !closed => return Progress::Waiting,
                Ok(false) => {}
            }
        }
    }
}
