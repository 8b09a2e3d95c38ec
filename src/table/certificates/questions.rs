//! Names that clients ask for and that no certificate is for: asked of whoever can obtain one.

use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Questions that may wait; above, the client is refused.
const MAX_QUESTIONS: usize = 256;

/// A client that waits for a certificate.
#[derive(Debug)]
pub struct Question {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// Takes whether there is a certificate now.
    pub reply: oneshot::Sender<bool>,
}

/// Where such questions are asked; a cheap handle.
#[derive(Debug, Clone)]
pub struct Questions {
    sender: mpsc::Sender<Question>,
}

impl Questions {
    /// Makes the handle, and what whoever answers receives from.
    pub fn new() -> (Self, mpsc::Receiver<Question>) {
        let (sender, receiver) = mpsc::channel(MAX_QUESTIONS);
        (Self { sender }, receiver)
    }

    /// Asks for a name in lower case; returns whether there is a certificate for it now. Whoever waits bounds the wait.
    pub async fn ask(self, name: Arc<str>) -> bool {
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(Question { name, reply }).is_ok() && answer.await.unwrap_or(false)
    }
}
