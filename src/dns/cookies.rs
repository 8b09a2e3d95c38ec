//! Server cookies (RFC 7873, RFC 9018): a client that shows one has received an answer at its address before.
//!
//! Nothing is kept for a client: a cookie is a keyed hash of the client's own cookie, its address and the time. The key
//! changes each day, derived from one that the process made up at its start; a cookie is good for an hour, so that those of
//! the day before are still taken at midnight. Cookies are not demanded: without a good one a question is answered all the
//! same, but counts against the rate limit.

use crate::clock;
use crate::dnswire::{Query, REPLY_COOKIE_BYTES};
use rustls::crypto::aws_lc_rs::default_provider;
use std::net::IpAddr;

/// Octets of a client cookie, RFC 7873 §4.
const CLIENT_BYTES: usize = 8;
/// Octets of the COOKIE option of an answer: the client's cookie and the server's, RFC 9018 §4.
const COOKIE_BYTES: usize = REPLY_COOKIE_BYTES;
/// Version of the server cookie and three reserved octets, RFC 9018 §4.1, §4.2.
const VERSION: [u8; 4] = [1, 0, 0, 0];
/// How old a cookie may be, and how far in the future, in seconds: RFC 9018 §4.3.
const MAX_AGE_S: u32 = 3600;
const MAX_AHEAD_S: u32 = 300;
/// How long one key makes cookies, in seconds.
const ROTATION_S: u32 = 86_400;

/// Key of SipHash: two words of 64 bits.
pub(crate) type Secret = [u64; 2];

/// Makes and checks cookies; each thread has one of its own.
#[derive(Debug, Clone)]
pub(crate) struct Baker {
    master: Secret,
    /// The key of one day, kept because the next cookie mostly is of the same.
    day: Option<(u32, Secret)>,
}

impl Baker {
    /// Makes one with a key of the operating system's randomness; clones agree with each other.
    pub(crate) fn from_os() -> Self {
        let mut octets = [0u8; 16];
        if default_provider().secure_random.fill(&mut octets).is_err() {
            // Cookies that can be guessed are as good as none: they only spare a client the rate limit.
            tracing::warn!("the system gives no randomness for DNS cookies");
        }
        Self { master: key_of(octets), day: None }
    }

    #[cfg(test)]
    fn with_day(day: u32, octets: [u8; 16]) -> Self {
        Self { master: [0; 2], day: Some((day, key_of(octets))) }
    }

    /// Returns the COOKIE option of the answer, and whether the one of the question shows that the client is at its address.
    pub(crate) fn answer(&mut self, shown: &[u8], client: IpAddr, now_s: u32) -> Option<([u8; COOKIE_BYTES], bool)> {
        let (own, server) = shown.split_first_chunk::<CLIENT_BYTES>()?;
        let good = server.first_chunk::<16>().filter(|_| server.len() == 16).is_some_and(|server| {
            let [version @ .., t0, t1, t2, t3] = server.first_chunk::<8>().copied().unwrap_or_default();
            let made_s = u32::from_be_bytes([t0, t1, t2, t3]);
            // RFC 9018 §4.3: serial arithmetic, RFC 1982.
            let age = now_s.wrapping_sub(made_s);
            let timely = age <= MAX_AGE_S || made_s.wrapping_sub(now_s) <= MAX_AHEAD_S;
            timely && version == VERSION && self.bake(*own, client, made_s).get(CLIENT_BYTES..) == Some(&server[..])
        });
        Some((self.bake(*own, client, now_s), good))
    }

    /// Gives the answer to a question the cookie that belongs to it; returns whether the question's own was good.
    pub(crate) fn serve(&mut self, query: &mut Query<'_>, client: Option<IpAddr>) -> bool {
        let (Some(shown), Some(client)) = (query.cookie, client) else { return false };
        // RFC 9018 §4.3: seconds of 32 bits, which wrap.
        let now_s = ((clock::unix_ms() / 1000) & u64::from(u32::MAX)) as u32;
        let Some((reply, good)) = self.answer(shown, client, now_s) else { return false };
        query.reply_cookie = Some(reply);
        good
    }

    fn bake(&mut self, own: [u8; CLIENT_BYTES], client: IpAddr, made_s: u32) -> [u8; COOKIE_BYTES] {
        let secret = self.secret(made_s / ROTATION_S);
        let mut input = [0u8; COOKIE_BYTES + 8];
        let time = made_s.to_be_bytes();
        let address = match client {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().octets(), 12),
            IpAddr::V6(v6) => (v6.octets(), 0),
        };
        let address = address.0.get(address.1..).unwrap_or_default();
        let parts = own.iter().chain(&VERSION).chain(&time).chain(address);
        let mut length = 0;
        for (place, octet) in input.iter_mut().zip(parts) {
            *place = *octet;
            length += 1;
        }
        let hash = siphash(secret, input.get(..length).unwrap_or_default()).to_le_bytes();
        let mut out = [0u8; COOKIE_BYTES];
        for (place, octet) in out.iter_mut().zip(own.iter().chain(&VERSION).chain(&time).chain(&hash)) {
            *place = *octet;
        }
        out
    }

    fn secret(&mut self, day: u32) -> Secret {
        if let Some((known, secret)) = self.day.filter(|(known, _)| *known == day) {
            debug_assert_eq!(known, day);
            return secret;
        }
        let [d0, d1, d2, d3] = day.to_be_bytes();
        let half = |n: u8| siphash(self.master, &[d0, d1, d2, d3, n]);
        let secret = [half(0), half(1)];
        self.day = Some((day, secret));
        secret
    }
}

fn key_of(octets: [u8; 16]) -> Secret {
    let [a @ .., _, _, _, _, _, _, _, _] = octets;
    let [_, _, _, _, _, _, _, _, b @ ..] = octets;
    [u64::from_le_bytes(a), u64::from_le_bytes(b)]
}

/// SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF", 2012).
fn siphash([k0, k1]: Secret, input: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let mut chunks = input.chunks_exact(8);
    for chunk in &mut chunks {
        compress(&mut v, chunk.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word)));
    }
    let mut last = [0u8; 8];
    for (place, octet) in last.iter_mut().zip(chunks.remainder()) {
        *place = *octet;
    }
    compress(&mut v, u64::from_le_bytes(last) | (input.len() as u64) << 56);
    v[2] ^= 0xFF;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v3);
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.wrapping_add(*v3);
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.wrapping_add(*v1);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v2 = v2.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::{Baker, MAX_AGE_S, ROTATION_S, siphash};
    use std::net::IpAddr;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|n| u8::from_str_radix(&text[2 * n..2 * n + 2], 16).unwrap())
    }

    #[test]
    fn hashes_as_its_authors_do() {
        let key = super::key_of(std::array::from_fn(|n| n as u8));
        let input: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &input), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
    }

    #[test]
    fn bakes_the_cookies_of_rfc9018_appendix_a() {
        let made = 0x5cf7_9f11;
        let mut baker = Baker::with_day(made / ROTATION_S, hex("e5e973e5a6b2a43f48e7dc849e37bfcf"));
        let client: IpAddr = "198.51.100.100".parse().unwrap();
        let (cookie, good) = baker.answer(&hex::<8>("2464c4abcf10c957"), client, made).unwrap();
        assert_eq!(cookie, hex::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480"));
        assert!(!good);
    }

    #[test]
    fn takes_its_own_cookies_for_an_hour_from_the_same_address() {
        let mut baker = Baker::from_os();
        let mut other = Baker::from_os();
        for client in ["10.0.0.1", "fd00::1"] {
            let client: IpAddr = client.parse().unwrap();
            // Just before a day ends.
            let made = 20_000 * ROTATION_S - 10;
            let (cookie, good) = baker.answer(&[7; 8], client, made).unwrap();
            assert!(!good);
            let mut shown = |shown: &[u8], client, now| baker.answer(shown, client, now).unwrap().1;
            assert!(shown(&cookie, client, made) && shown(&cookie, client, made + MAX_AGE_S));
            assert!(shown(&cookie, client, made - 300) && !shown(&cookie, client, made - 301));
            assert!(!shown(&cookie, client, made + MAX_AGE_S + 1));
            assert!(!shown(&cookie, "10.0.0.2".parse().unwrap(), made));
            assert!(!shown(&[&cookie[..], &[0]].concat(), client, made));
            for at in 0..cookie.len() {
                let mut wrong = cookie;
                wrong[at] ^= 1;
                assert!(!shown(&wrong, client, made), "octet {at}");
            }
            assert!(!other.answer(&cookie, client, made).unwrap().1);
        }
        assert_eq!(baker.answer(&[1; 7], "10.0.0.1".parse().unwrap(), 1), None);
    }
}
