//! The keys of session tickets across processes: what takes over after an upgrade or a crash resumes what was begun before.
//!
//! The keeper holds them in memory, and in memory only, beside the last good configuration: a line of format, and a line for
//! each key, the newest of each listener first. A key counts for its listener and the same rules for clients' certificates.
//! They are written when one changes. Next on the path: `net/tls/tickets.rs`.

use crate::clock;
use crate::net::Link;
use crate::net::tls::{Secret, Tickets};
use rustix::fs::{MemfdFlags, memfd_create};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

const FORMAT: &str = "weir-tickets 1";
/// Larger ones are none of ours: a hundred octets for each key, two for each of 65,536 listeners.
const MAX_OCTETS: u64 = 16 * 1024 * 1024;

/// The keys of all listeners; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    /// Of the process before, by what they are bound to.
    inherited: Arc<Inherited>,
    /// Never held across a wait.
    open: Arc<Mutex<BTreeMap<String, Vec<Weak<Tickets>>>>>,
    changed: Arc<Notify>,
}

type Inherited = BTreeMap<String, Vec<Secret>>;

impl Book {
    /// Opens it with what the keeper holds.
    pub(super) fn open(link: Option<&Link>) -> Self {
        let inherited = link.and_then(held).unwrap_or_default();
        if !inherited.is_empty() {
            tracing::debug!(listeners = inherited.len(), "the keys of tickets are those of the process before");
        }
        Self { inherited: Arc::new(inherited), ..Self::default() }
    }

    /// Returns the tickets of a listener; `binding` has its name, and all that must be the same for a session to be resumed.
    ///
    /// # Errors
    /// As [`Tickets::new`].
    pub(super) fn tickets(&self, binding: &str, rotation: Duration) -> Result<Arc<Tickets>, rustls::Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let known = open.entry(binding.to_owned()).or_default();
        known.retain(|tickets| tickets.strong_count() > 0);
        let own = known.iter().find_map(Weak::upgrade).map(|tickets| tickets.secrets());
        let inherited = own.as_ref().or_else(|| self.inherited.get(binding)).map_or(&[][..], Vec::as_slice);
        let tickets = Arc::new(Tickets::new(rotation, inherited, self.changed.clone())?);
        known.push(Arc::downgrade(&tickets));
        Ok(tickets)
    }

    /// Gives the keys to the keeper whenever one changed, until there is none.
    pub(super) async fn run(self, link: Link) {
        while !link.is_gone() {
            self.changed.notified().await;
            let (text, link) = (self.encode(), link.clone());
            let held = tokio::task::spawn_blocking(move || hold(&link, &text)).await;
            if let Ok(Err(error)) = held {
                tracing::debug!(%error, "the keeper does not hold the keys of tickets: the next process makes its own");
            }
        }
    }

    fn encode(&self) -> String {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("{FORMAT}\n");
        let in_use = |known: &Vec<Weak<Tickets>>| known.iter().find_map(Weak::upgrade);
        for (binding, tickets) in open.iter().filter_map(|(binding, known)| Some((binding, in_use(known)?))) {
            for Secret { name, key, age } in tickets.secrets() {
                let made_ms = clock::unix_ms().saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{:032x} {} {made_ms} {binding}", u128::from_be_bytes(name), hex(&key));
            }
        }
        text
    }
}

fn hold(link: &Link, text: &str) -> io::Result<()> {
    let mut memory = File::from(memfd_create("weir-tickets", MemfdFlags::CLOEXEC)?);
    memory.write_all(text.as_bytes())?;
    let answer = link.ask_with("hold-tickets", b"", &[memory.as_fd()])?;
    if answer.words().first() == Some(&"ok") { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

fn held(link: &Link) -> Option<Inherited> {
    let answer = link.ask("held-tickets", b"").ok()?;
    let memory = File::from(answer.descriptors.into_iter().next()?);
    let length = memory.metadata().ok()?.len();
    let mut whole = vec![0; usize::try_from(length).ok().filter(|_| length <= MAX_OCTETS)?];
    // The position is shared with every earlier and later reader.
    memory.read_exact_at(&mut whole, 0).ok()?;
    decode(std::str::from_utf8(&whole).ok()?, clock::unix_ms())
}

/// Reads keys; `None` where they are from another version.
fn decode(text: &str, now_ms: u64) -> Option<Inherited> {
    let mut lines = text.lines();
    if lines.next() != Some(FORMAT) {
        return None;
    }
    let mut found = Inherited::new();
    for line in lines {
        let mut words = line.splitn(4, ' ');
        let name = u128::from_str_radix(words.next()?, 16).ok()?.to_be_bytes();
        let (key, made_ms) = (unhex(words.next()?)?, words.next()?.parse::<u64>().ok()?);
        let age = Duration::from_millis(now_ms.saturating_sub(made_ms));
        found.entry(words.next()?.to_owned()).or_default().push(Secret { name, key, age });
    }
    Some(found)
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().fold(String::with_capacity(64), |text, octet| text + &format!("{octet:02x}"))
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes().as_array::<64>()?;
    let mut key = [0; 32];
    for (place, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::{Book, FORMAT, decode};
    use crate::clock;
    use crate::net::tls::Tickets;
    use rustls::server::ProducesTickets;
    use std::sync::Arc;
    use std::time::Duration;

    const ROTATION: Duration = Duration::from_secs(3600);

    fn next(book: &Book) -> Book {
        let inherited = decode(&book.encode(), clock::unix_ms()).unwrap();
        Book { inherited: Arc::new(inherited), ..Book::default() }
    }

    fn resumes(tickets: &Tickets, ticket: &[u8]) -> bool {
        tickets.decrypt(ticket).is_some()
    }

    #[test]
    fn the_next_process_resumes_what_is_of_the_same_listener_and_rules() {
        let book = Book::default();
        let [web, other] = ["web 0", "other 0"].map(|binding| book.tickets(binding, ROTATION).unwrap());
        let ticket = web.encrypt(b"a session").unwrap();
        let after = next(&next_with(&book));
        assert!(resumes(&after.tickets("web 0", ROTATION).unwrap(), &ticket));
        assert!(!resumes(&after.tickets("web 1", ROTATION).unwrap(), &ticket));
        assert!(!resumes(&after.tickets("other 0", ROTATION).unwrap(), &ticket) && !resumes(&other, &ticket));
        // The same listener with another rotation goes on too.
        assert!(resumes(&book.tickets("web 0", ROTATION / 2).unwrap(), &ticket));
        drop(web);
    }

    /// A process that took over, opened the same listeners, and is followed itself.
    fn next_with(book: &Book) -> Book {
        let after = next(book);
        let kept: Vec<_> = ["web 0", "other 0"].map(|binding| after.tickets(binding, ROTATION).unwrap()).into();
        // They live as long as the listener does; here, as long as the program.
        Box::leak(Box::new(kept));
        after
    }

    #[test]
    fn what_is_cut_or_of_another_version_is_not_taken() {
        let book = Book::default();
        let _tickets = book.tickets("a listener with blanks", ROTATION).unwrap();
        let whole = book.encode();
        assert_eq!(
            decode(&whole, clock::unix_ms()).unwrap().into_keys().collect::<Vec<_>>(),
            ["a listener with blanks"]
        );
        assert!(decode(&whole.replace(FORMAT, "weir-tickets 2"), 0).is_none() && decode("", 0).is_none());
        let key = whole.rfind(' ').unwrap();
        assert!((FORMAT.len() + 2..key.min(100)).all(|end| decode(&whole[..end], 0).is_none()));
    }
}
