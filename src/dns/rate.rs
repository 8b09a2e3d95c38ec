//! Response rate limiting: how many answers over UDP one network gets for which nobody has shown to be there.
//!
//! Who forges the source of questions makes servers flood a victim; a limit for each source network makes that useless.
//! Each `slip`-th answer above it is an empty one with TC, so that a client that really is there comes back by TCP, and the
//! others are not sent. A table of fixed size holds one clock for each network (the generic cell rate algorithm): the time at
//! which all its answers would have been due at the allowed pace. Networks that fall on full places push out the quietest:
//! memory stays the same whatever comes. Shared by all threads; each step is one load and one store.

use crate::dns::counters::{Limited, Limits};
use crate::dns::network::contains;
use crate::dns::options::RateLimitOptions;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Networks that are remembered: half a megabyte.
const PLACES: usize = 1 << 16;
/// Places that one network may have.
const WAYS: usize = 4;
/// A place is a tag of 16 bits and a time of 48 bits in microseconds: nine years.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;
/// How far a network may be ahead of its pace: the answers of one second at once.
const BURST_US: u64 = 1_000_000;

/// What to do with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it.
    Send,
    /// Send an empty one with TC.
    Slip,
    /// Send none.
    Drop,
}

/// The limit of one server.
#[derive(Debug)]
pub(crate) struct Limiter {
    options: RateLimitOptions,
    /// Time between two answers at the allowed pace; 0: no limit.
    interval_us: u64,
    seed: u64,
    places: Box<[AtomicU64]>,
    over: AtomicU64,
}

impl Limiter {
    /// Makes a limit; `seed` keeps others from knowing which networks share places.
    pub(crate) fn new(options: RateLimitOptions, seed: u64) -> Self {
        let rate = u64::from(options.answers_per_second);
        let places = if rate == 0 { 0 } else { PLACES };
        Self {
            interval_us: 1_000_000u64.checked_div(rate).unwrap_or(0),
            seed,
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            over: AtomicU64::new(0),
            options,
        }
    }

    /// Returns what it was made of.
    pub(crate) fn options(&self) -> &RateLimitOptions {
        &self.options
    }

    /// Says what to do with an answer to this client, and counts what is not sent whole.
    pub(crate) fn check(&self, client: Option<IpAddr>, now_ms: u64, limits: &Limits) -> Verdict {
        let Some(client) = client.filter(|client| self.interval_us > 0 && !self.is_exempt(*client)) else {
            return Verdict::Send;
        };
        if self.admits(client, now_ms * 1000) {
            return Verdict::Send;
        }
        let over = self.over.fetch_add(1, Ordering::Relaxed);
        if self.options.slip > 0 && over.is_multiple_of(u64::from(self.options.slip)) {
            limits.count(Limited::Truncated);
            return Verdict::Slip;
        }
        limits.count(Limited::Dropped);
        Verdict::Drop
    }

    fn is_exempt(&self, client: IpAddr) -> bool {
        self.options.exempt.iter().any(|network| contains(*network, client))
    }

    fn admits(&self, client: IpAddr, now_us: u64) -> bool {
        let hash = xxh3_64_with_seed(&self.network(client), self.seed);
        let now_us = now_us & TIME;
        let tag = hash >> TIME_BITS;
        let start = hash as usize % PLACES / WAYS * WAYS;
        let Some(ways) = self.places.get(start..start + WAYS) else { return true };
        let due = |place: &AtomicU64| {
            let value = place.load(Ordering::Relaxed);
            (value >> TIME_BITS == tag, value & TIME)
        };
        let known = ways.iter().find(|place| due(place).0);
        // Else the one that was quiet for longest: mostly it is of nobody.
        let Some(place) = known.or_else(|| ways.iter().min_by_key(|place| due(place).1)) else { return true };
        let was = if known.is_some() { due(place).1.max(now_us) } else { now_us };
        if was - now_us > BURST_US {
            return false;
        }
        place.store(tag << TIME_BITS | ((was + self.interval_us) & TIME), Ordering::Relaxed);
        true
    }

    /// Returns the client's network, told apart by family.
    fn network(&self, client: IpAddr) -> [u8; 17] {
        let (bits, prefix, family) = match client {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, self.options.ipv4_prefix, 4),
            IpAddr::V6(v6) => (v6.to_bits(), self.options.ipv6_prefix, 6),
        };
        let kept = bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        let mut out = [family; 17];
        if let Some(place) = out.first_chunk_mut::<16>() {
            *place = kept.to_be_bytes();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::{Limiter, PLACES, Verdict};
    use crate::dns::counters::{Limited, Limits};
    use crate::dns::options::RateLimitOptions;
    use std::net::{IpAddr, Ipv4Addr};

    fn limiter(rate: u32, slip: u32) -> (Limiter, Limits) {
        let options =
            RateLimitOptions { answers_per_second: rate, slip, exempt: vec![], ..RateLimitOptions::default() };
        (Limiter::new(options, 7), Limits::new())
    }

    fn sent(limiter: &Limiter, limits: &Limits, client: &str, count: usize, now_ms: u64) -> usize {
        let client: IpAddr = client.parse().unwrap();
        (0..count).filter(|_| limiter.check(Some(client), now_ms, limits) == Verdict::Send).count()
    }

    #[test]
    fn a_network_gets_a_second_at_once_and_then_its_pace() {
        let (limiter, limits) = limiter(100, 2);
        assert_eq!(sent(&limiter, &limits, "203.0.113.1", 500, 10_000), 101);
        assert_eq!(sent(&limiter, &limits, "203.0.113.200", 10, 10_000), 0, "the same network");
        assert_eq!(sent(&limiter, &limits, "203.0.114.1", 10, 10_000), 10, "another one");
        assert_eq!(sent(&limiter, &limits, "203.0.113.1", 500, 10_100), 10);
        assert_eq!(sent(&limiter, &limits, "203.0.113.1", 500, 60_000), 101);
        assert_eq!(sent(&limiter, &limits, "2001:db8:1:ff00::1", 500, 60_000), 101);
        assert_eq!(sent(&limiter, &limits, "2001:db8:1:ff99::1", 500, 60_000), 0, "the same /56");
        assert_eq!(sent(&limiter, &limits, "2001:db8:2::1", 5, 60_000), 5);
    }

    #[test]
    fn slips_share_of_what_is_above_and_counts_both() {
        for (slip, expected) in [(0, 0), (1, 100), (2, 50), (5, 20)] {
            let (limiter, limits) = limiter(1, slip);
            let client = Some("203.0.113.1".parse().unwrap());
            let slipped = (0..102).filter(|_| limiter.check(client, 5, &limits) == Verdict::Slip).count();
            assert_eq!(slipped, expected, "slip {slip}");
            assert_eq!(limits.of(Limited::Truncated), expected as u64);
            assert_eq!(limits.of(Limited::Dropped), 100 - expected as u64);
        }
    }

    #[test]
    fn exempt_networks_and_no_limit_at_all() {
        let limits = Limits::new();
        let defaults = Limiter::new(RateLimitOptions::default(), 1);
        assert_eq!(sent(&defaults, &limits, "10.1.2.3", 5000, 5), 5000);
        assert!(sent(&defaults, &limits, "203.0.113.1", 5000, 5) < 5000);
        let off = Limiter::new(RateLimitOptions { answers_per_second: 0, ..RateLimitOptions::default() }, 1);
        assert_eq!((sent(&off, &limits, "203.0.113.1", 5000, 5), off.places.len()), (5000, 0));
    }

    #[test]
    fn a_flood_from_everywhere_takes_no_more_memory_and_one_network_in_it_is_still_limited() {
        let (limiter, limits) = limiter(10, 0);
        for n in 0..200_000u32 {
            limiter.check(Some(IpAddr::V4(Ipv4Addr::from(n << 8))), 1000, &limits);
        }
        assert_eq!(limiter.places.len(), PLACES);
        assert!(sent(&limiter, &limits, "203.0.113.1", 1000, 1000) <= 11);
    }
}
