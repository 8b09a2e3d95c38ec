//! Loops: a resolver that asks this server what this server asks it.
//!
//! Each resolver is asked once for a name that nobody else knows. Who gets that question from outside is its own resolver.
//! Nothing goes round meanwhile, as identical questions are asked once; but nothing would be answered either.

use crate::clock;
use crate::dns::forward::entry::Key;
use crate::dns::forward::race::Group;
use crate::dns::forward::upstream::Upstream;
use crate::rng::Rng;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// A resolver in a loop is looked at again after this.
const PAUSE_MS: u64 = 60_000;

/// Names, and who was asked for them.
type Asked = Vec<(Key, Arc<Upstream>)>;

/// Names that were asked and not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    asked: Arc<Mutex<Asked>>,
}

impl Loops {
    /// Asks every resolver of a group that was not asked yet for a name of its own.
    pub(crate) fn probe(&self, group: &Group) {
        for upstream in &group.upstreams {
            if upstream.state.is_loop(clock::now_ms()) || upstream.state.probed.swap(true, Ordering::Relaxed) {
                continue;
            }
            let mut rng = Rng::from_os();
            let label = format!("{:016x}.{:016x}", rng.next_u64(), rng.next_u64());
            let Ok(mut name) = Name::from_ascii(&label).and_then(|label| label.append_domain(&group.zone)) else {
                continue;
            };
            name.set_fqdn(true);
            let kind = RecordType::HINFO;
            let key = key_of(&name, kind);
            lock(&self.asked).push((key.clone(), upstream.clone()));
            let (upstream, asked) = (upstream.clone(), self.asked.clone());
            tokio::task::spawn_local(async move {
                // Whatever it says: the question is what counts, and who gets it.
                let _ = upstream.ask(&Query::query(name, kind)).await;
                lock(&asked).retain(|(known, _)| *known != key);
            });
        }
    }

    /// Returns whether a question is one that this server asked, and notes whom it must not ask.
    pub(crate) fn came_back(&self, key: &[u8]) -> bool {
        let asked = lock(&self.asked);
        let Some((_, upstream)) = asked.iter().find(|(known, _)| **known == *key) else { return false };
        let now_ms = clock::now_ms();
        if upstream.state.note_loop(now_ms, now_ms + PAUSE_MS) {
            tracing::error!(
                server = %upstream.server(),
                "this resolver asks this DNS server what it is asked by it; it is not asked any more. Let it ask another, or name \
                 another under dns.forward"
            );
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(name: &Name, kind: RecordType) -> Key {
    let mut key = Vec::new();
    for label in name.iter() {
        key.push(u8::try_from(label.len()).unwrap_or(0));
        key.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    key.push(0);
    key.extend(u16::from(kind).to_be_bytes());
    key.into()
}
