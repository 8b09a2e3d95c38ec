//! A small seedable generator of random numbers, and jitter.
//!
//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014): 64 bits of state,
//! about a nanosecond a number. Good for picking, rotation and jitter; not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// A seedable generator; the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Returns a generator that repeats for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns a generator seeded by the operating system.
    pub fn from_os() -> Self {
        Self::from_seed(RandomState::new().build_hasher().finish())
    }

    /// Returns the next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number in `0..bound`; 0 when `bound` is 0. Multiply-shift: bias below 2^-32 for 32-bit bounds.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// Returns a number in `0.0..1.0` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns `base` moved by up to `± fraction`, evenly.
    pub fn jitter(&mut self, base: Duration, fraction: f64) -> Duration {
        base.mul_f64((1.0 + fraction * (2.0 * self.unit() - 1.0)).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;
    use std::time::Duration;

    #[test]
    fn repeats_for_the_same_seed_and_differs_for_another() {
        let (mut a, mut b, mut c) = (Rng::from_seed(7), Rng::from_seed(7), Rng::from_seed(8));
        let first: Vec<u64> = (0..8).map(|_| a.next_u64()).collect();
        assert_eq!(first, (0..8).map(|_| b.next_u64()).collect::<Vec<_>>());
        assert_ne!(first, (0..8).map(|_| c.next_u64()).collect::<Vec<_>>());
    }

    #[test]
    fn below_stays_in_range_and_covers_it() {
        let mut rng = Rng::from_seed(1);
        let mut seen = [0u32; 10];
        for _ in 0..10_000 {
            seen[rng.below(10)] += 1;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn jitter_stays_within_its_fraction() {
        let mut rng = Rng::from_seed(3);
        for _ in 0..1000 {
            let d = rng.jitter(Duration::from_secs(10), 0.1);
            assert!(d >= Duration::from_secs(9) && d <= Duration::from_secs(11));
        }
    }
}
