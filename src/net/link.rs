//! The serving process's end of its connection to the keeper.
//!
//! One thread reads: answers go to whoever asked, orders to whoever took their receiver. When the keeper dies, the link
//! is gone: that is told once as an order, and nothing else changes.

use crate::net::message::{Message, receive, send};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest wait for the keeper's answer: it does nothing else, but may look through /proc for who holds a port.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Orders that may wait; each is acted on at once.
const MAX_ORDERS: usize = 64;
/// Packets of one answer that may wait: 512 sockets in packets of 128.
const MAX_ANSWERS: usize = 16;

/// What the keeper orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It got SIGTERM or SIGINT.
    Terminate,
    /// It got SIGQUIT.
    Quit,
    /// It got SIGHUP.
    Reload,
    /// It got SIGUSR1.
    Reopen,
    /// It got SIGUSR2.
    Upgrade,
    /// Stop deciding and give the store up: another process takes over.
    StandDown,
    /// The other process serves: end with the last connection.
    Leave,
    /// Processes that served before have cut off so many connections in all: requests, streams.
    Cut(u64, u64),
    /// It is gone.
    Gone,
}

const ORDERS: [(&str, Order); 7] = [
    ("terminate", Order::Terminate),
    ("quit", Order::Quit),
    ("reload", Order::Reload),
    ("reopen", Order::Reopen),
    ("upgrade", Order::Upgrade),
    ("stand-down", Order::StandDown),
    ("leave", Order::Leave),
];

impl Order {
    /// Returns the word that stands for it in a message.
    pub fn word(self) -> &'static str {
        ORDERS.iter().find(|(_, order)| *order == self).map_or("", |(word, _)| word)
    }

    fn read(message: &Message) -> Option<Self> {
        if let ["cut", requests, streams, ..] = message.words().as_slice() {
            return Some(Self::Cut(requests.parse().ok()?, streams.parse().ok()?));
        }
        ORDERS.iter().find(|(word, _)| *word == message.line).map(|(_, order)| *order)
    }
}

/// A cheap handle of the connection.
#[derive(Debug, Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: OwnedFd,
    is_gone: AtomicBool,
    /// Held from a question to the end of its answer: one at a time. Short, and never on the request path.
    answers: Mutex<blocking::Receiver<Message>>,
}

impl Link {
    /// Starts reading from the keeper.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub fn open(socket: OwnedFd) -> io::Result<(Self, mpsc::Receiver<Order>)> {
        let (answer, answers) = blocking::sync_channel(MAX_ANSWERS);
        let (order, orders) = mpsc::channel(MAX_ORDERS);
        let shared = Arc::new(Shared { socket, is_gone: AtomicBool::new(false), answers: Mutex::new(answers) });
        let reading = shared.clone();
        std::thread::Builder::new().name("keeper-link".to_owned()).spawn(move || {
            while let Ok(Some(message)) = receive(&reading.socket) {
                let lost = match Order::read(&message) {
                    Some(known) => order.try_send(known).is_err(),
                    None => answer.try_send(message).is_err(),
                };
                if lost {
                    tracing::warn!("a message of the keeper came at the wrong time");
                }
            }
            reading.is_gone.store(true, Ordering::SeqCst);
            // Whoever takes orders may have gone.
            let _ = order.blocking_send(Order::Gone);
        })?;
        Ok((Self { shared }, orders))
    }

    /// Returns whether the keeper has died.
    pub fn is_gone(&self) -> bool {
        self.shared.is_gone.load(Ordering::SeqCst)
    }

    /// Tells the keeper something that has no answer.
    ///
    /// # Errors
    /// When the keeper is gone.
    pub fn tell(&self, line: &str) -> io::Result<()> {
        send(&self.shared.socket, line, b"", &[])
    }

    /// Asks the keeper; blocks until it answers. An answer in several packets comes as one.
    ///
    /// # Errors
    /// When the keeper is gone or does not answer in 10 s.
    pub fn ask(&self, line: &str, body: &[u8]) -> io::Result<Message> {
        self.ask_with(line, body, &[])
    }

    /// As [`Link::ask`], with descriptors beside the question, at most `MAX_DESCRIPTORS`.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub fn ask_with(&self, line: &str, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<Message> {
        let answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        // What came too late for an earlier question.
        while answers.try_recv().is_ok() {}
        send(self.shared.socket.as_fd(), line, body, descriptors)?;
        let mut descriptors = Vec::new();
        loop {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the keeper gives no answer");
            let mut message = answers.recv_timeout(ANSWER_TIMEOUT).map_err(late)?;
            descriptors.append(&mut message.descriptors);
            if message.line != "more" {
                message.descriptors = descriptors;
                return Ok(message);
            }
        }
    }
}
