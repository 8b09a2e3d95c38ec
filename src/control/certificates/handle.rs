//! The handle of the keeper, and what is said through it.

use crate::control::store::Origin;
use crate::table::certificates::Certificates;
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait; each takes microseconds.
pub(super) const MAILBOX: usize = 256;

/// The certificates of one listener, and which names Weir obtains certificates for there.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// Where they are served from.
    pub certificates: Certificates,
    /// Names for the ACME authority.
    pub acme: Vec<Arc<str>>,
    /// Names for the internal authority.
    pub internal: Vec<Arc<str>>,
    /// Whether names that nobody listed may be ordered when a client asks for them.
    pub on_demand: bool,
}

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: Arc<str>,
    /// Who issues for it.
    pub origin: Origin,
    /// Whether a handshake asked for it, and no configuration.
    pub on_demand: bool,
    /// Whether anybody wants it.
    pub is_wanted: bool,
    /// The issuer's name; `None`: there is no certificate.
    pub issuer: Option<String>,
    /// Until when it is valid, in milliseconds since the epoch.
    pub not_after_ms: Option<u64>,
    /// When it is renewed or asked for again; `None`: now.
    pub next_ms: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What is shown to everybody; written by the keeper alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    /// By name.
    pub(super) listed: Vec<Listed>,
    /// The root of the internal authority, PEM.
    pub(super) root: Option<Arc<str>>,
    /// Orders that brought a certificate, by origin.
    pub(super) issued: [u64; 2],
    /// Orders that failed, by origin.
    pub(super) failed: [u64; 2],
    /// Names that were refused without an order.
    pub(super) refused: u64,
}

/// What the keeper is asked.
#[derive(Debug)]
pub(super) enum Message {
    /// Other listeners, or other names on them.
    Shelves(Vec<Shelf>, oneshot::Sender<()>),
    /// Renew a name now.
    Renew(Arc<str>, oneshot::Sender<bool>),
}

/// The keeper of certificates; clones share it.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) mailbox: mpsc::Sender<Message>,
    pub(super) board: Arc<ArcSwap<Board>>,
}

impl Handle {
    /// Takes up listeners and their names; returns when what is there for them is served.
    pub async fn shelves(&self, shelves: Vec<Shelf>) {
        let (reply, answer) = oneshot::channel();
        if self.mailbox.send(Message::Shelves(shelves, reply)).await.is_ok() {
            // The keeper has ended: nothing changes any more.
            let _ = answer.await;
        }
    }

    /// Lists the names, in order.
    pub fn list(&self) -> Vec<Listed> {
        self.read(|board| board.listed.clone())
    }

    /// Returns the root of the internal authority in PEM; `None`: nothing was issued by it yet.
    pub fn root(&self) -> Option<Arc<str>> {
        self.read(|board| board.root.clone())
    }

    /// Has a certificate renewed now; returns whether the name is known and wanted.
    pub async fn renew(&self, name: &str) -> bool {
        let (reply, answer) = oneshot::channel();
        let message = Message::Renew(name.to_ascii_lowercase().into(), reply);
        self.mailbox.send(message).await.is_ok() && answer.await.unwrap_or(false)
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Board) -> T) -> T {
        look(&self.board.load())
    }
}
