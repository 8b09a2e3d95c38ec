//! Session tickets of a listener (RFC 8446 §4.6.1, RFC 5077 §4): sealed with a key that changes, and that another process may
//! go on with.
//!
//! A ticket is the key's name, a nonce at random, and the session sealed by AES-256-GCM with the name beside it. The key before
//! is taken until the next change, and is gone after it. Keys are rolled when they are used; time is the monotonic clock's.

use crate::clock;
use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use rustls::crypto::GetRandomFailed;
use rustls::server::ProducesTickets;
use std::fmt;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;
use tokio::sync::Notify;

const NAME: usize = 16;
const KEY: usize = 32;

/// A key as another process takes it over.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// What tickets sealed with it begin with.
    pub name: [u8; NAME],
    /// The key itself.
    pub key: [u8; KEY],
    /// How long ago it was made.
    pub age: Duration,
}

struct Sealer {
    name: [u8; NAME],
    key: [u8; KEY],
    /// On the scale of `clock::now_ms`; what came from another process may be older than that scale.
    made_ms: i128,
    aead: RandomizedNonceKey,
}

/// The key in use, and the one before.
struct Keys {
    current: Arc<Sealer>,
    previous: Option<Arc<Sealer>>,
}

/// The tickets of one listener.
pub struct Tickets {
    keys: ArcSwap<Keys>,
    rotation: Duration,
    /// Held by who makes the next key; nobody waits for it.
    turn: Mutex<()>,
    /// Told when the keys are others.
    changed: Arc<Notify>,
}

impl Tickets {
    /// Begins with the keys of another process, the newest first, as far as they are not too old, or with a new one. Who waits
    /// for `changed` hears of every further one.
    ///
    /// # Errors
    /// The system has no random octets.
    pub fn new(rotation: Duration, inherited: &[Secret], changed: Arc<Notify>) -> Result<Self, rustls::Error> {
        let now = clock::now_ms();
        let mut known = inherited.iter().filter(|secret| secret.age < rotation * 2);
        let keys = match known.next() {
            Some(first) if first.age < rotation => Keys {
                current: Arc::new(Sealer::inherit(first, now)?),
                previous: known.next().map(|secret| Sealer::inherit(secret, now).map(Arc::new)).transpose()?,
            },
            first => Keys {
                current: Arc::new(Sealer::make(now)?),
                previous: first.map(|secret| Sealer::inherit(secret, now).map(Arc::new)).transpose()?,
            },
        };
        changed.notify_one();
        Ok(Self { keys: ArcSwap::from_pointee(keys), rotation, turn: Mutex::new(()), changed })
    }

    /// Returns the keys for another process, the newest first.
    pub fn secrets(&self) -> Vec<Secret> {
        let (keys, now) = (self.keys.load(), clock::now_ms());
        [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().map(|sealer| sealer.secret(now)).collect()
    }

    /// Makes the next key when it is time; `now_ms` is on the scale of `clock::now_ms`.
    fn roll(&self, now_ms: u64) {
        let due = |keys: &Keys| keys.current.age(now_ms) >= self.rotation;
        if !due(&self.keys.load()) {
            return;
        }
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let keys = self.keys.load();
        // Another thread may have been faster; without random octets the key before goes on.
        let Some(next) = due(&keys).then(|| Sealer::make(now_ms).ok()).flatten() else { return };
        let recent = keys.current.age(now_ms) < self.rotation * 2;
        let previous = recent.then(|| keys.current.clone());
        self.keys.store(Arc::new(Keys { current: Arc::new(next), previous }));
        self.changed.notify_one();
    }

    fn seal(&self, plain: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.roll(now_ms);
        self.keys.load().current.seal(plain)
    }

    fn open(&self, ticket: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        self.roll(now_ms);
        let (name, sealed) = ticket.split_first_chunk::<NAME>()?;
        let keys = self.keys.load();
        let sealer = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find(|s| s.name == *name)?;
        sealer.open(sealed)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// As long as the key, and the next.
    fn lifetime(&self) -> u32 {
        u32::try_from(self.rotation.as_secs() * 2).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, clock::now_ms())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, clock::now_ms())
    }
}

impl Sealer {
    fn make(now_ms: u64) -> Result<Self, rustls::Error> {
        let (mut name, mut key) = ([0; NAME], [0; KEY]);
        rand::fill(&mut name).and_then(|()| rand::fill(&mut key)).map_err(|_| GetRandomFailed)?;
        Self::new(name, key, i128::from(now_ms))
    }

    fn inherit(secret: &Secret, now_ms: u64) -> Result<Self, rustls::Error> {
        let age_ms = i128::try_from(secret.age.as_millis()).unwrap_or(i128::MAX);
        Self::new(secret.name, secret.key, i128::from(now_ms).saturating_sub(age_ms))
    }

    fn new(name: [u8; NAME], key: [u8; KEY], made_ms: i128) -> Result<Self, rustls::Error> {
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| GetRandomFailed)?;
        Ok(Self { name, key, made_ms, aead })
    }

    fn age(&self, now_ms: u64) -> Duration {
        let age_ms = i128::from(now_ms).saturating_sub(self.made_ms).max(0);
        Duration::from_millis(u64::try_from(age_ms).unwrap_or(u64::MAX))
    }

    fn secret(&self, now_ms: u64) -> Secret {
        Secret { name: self.name, key: self.key, age: self.age(now_ms) }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.aead.seal_in_place_append_tag(Aad::from(self.name), &mut sealed).ok()?;
        Some([&self.name[..], &nonce.as_ref()[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut octets = sealed.to_vec();
        let plain = self.aead.open_in_place(nonce, Aad::from(self.name), &mut octets).ok()?;
        Some(plain.to_vec())
    }
}

/// Keys are not shown.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").field("rotation", &self.rotation).finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("age", &self.age).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, Tickets};
    use crate::clock;
    use rustls::server::ProducesTickets;
    use std::sync::Arc;
    use std::time::Duration;

    const ROTATION: Duration = Duration::from_secs(90);

    fn tickets(inherited: &[Secret]) -> Tickets {
        Tickets::new(ROTATION, inherited, Arc::default()).unwrap()
    }

    /// As another process takes them over so much later.
    fn later(tickets: &Tickets, passed: Duration) -> Vec<Secret> {
        tickets.secrets().into_iter().map(|secret| Secret { age: secret.age + passed, ..secret }).collect()
    }

    #[test]
    fn tickets_are_of_one_listener_and_whole() {
        let (own, other) = (tickets(&[]), tickets(&[]));
        assert_eq!((own.lifetime(), own.enabled()), (180, true));
        let ticket = own.encrypt(b"a session").unwrap();
        assert_eq!(own.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(other.decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[at] ^= 1;
            assert_eq!(own.decrypt(&altered), None, "octet {at}");
            assert_eq!(own.decrypt(&ticket[..at]), None, "{at} octets");
        }
        assert_ne!(own.encrypt(b"a session").unwrap(), ticket);
    }

    #[test]
    fn a_key_is_taken_until_the_second_change_after_it() {
        let (own, from) = (tickets(&[]), clock::now_ms());
        let first = own.seal(b"first", from).unwrap();
        assert_eq!(own.secrets().len(), 1);
        let second = own.seal(b"second", from + 90_000).unwrap();
        assert_ne!(first[..16], second[..16]);
        assert_eq!(own.open(&first, from + 179_000).as_deref(), Some(&b"first"[..]));
        assert_eq!(own.secrets().len(), 2);
        assert_eq!(own.open(&second, from + 180_000).as_deref(), Some(&b"second"[..]));
        assert_eq!(own.open(&first, from + 180_000), None);
        // After a long silence nothing of before is taken.
        assert_eq!(own.open(&second, from + 1_000_000), None);
        assert_eq!(own.secrets().len(), 1);
    }

    #[test]
    fn another_process_goes_on_with_the_keys_and_their_age() {
        let (own, from) = (tickets(&[]), clock::now_ms());
        let first = own.seal(b"first", from).unwrap();
        // The same key goes on, and is changed when it would have been.
        let next = tickets(&later(&own, Duration::from_secs(60)));
        assert_eq!(next.open(&first, clock::now_ms()).as_deref(), Some(&b"first"[..]));
        assert_eq!(next.seal(b"again", clock::now_ms()).unwrap()[..16], first[..16]);
        let second = next.seal(b"second", clock::now_ms() + 31_000).unwrap();
        assert_ne!(second[..16], first[..16]);
        // Its time has passed: it is the one before. Then it is nothing.
        let next = tickets(&later(&own, Duration::from_secs(100)));
        assert_eq!(next.open(&first, clock::now_ms()).as_deref(), Some(&b"first"[..]));
        assert_ne!(next.seal(b"new", clock::now_ms()).unwrap()[..16], first[..16]);
        let next = tickets(&later(&own, Duration::from_secs(181)));
        assert_eq!(next.open(&first, clock::now_ms()), None);
        assert_eq!(next.secrets().len(), 1);
    }
}
