//! A mutator: octets and whole tokens of HTTP are replaced, inserted, doubled, moved, and inputs are joined.

use weir::rng::Rng;

/// What parsers tend to stumble over.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\0",
    b"\x7f",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\r\n\r\n",
    b"\r\n ",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 18446744073709551616\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Content-Length\r\n",
    b"Expect: 100-continue\r\n",
    b"Host: b\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffff\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/2.0",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"/../",
    b"%2e%2e/",
    b"%00",
    b"http://b/",
];

/// Inputs of one target.
pub(crate) struct Mutator {
    corpus: Vec<Vec<u8>>,
}

/// Longest input.
const MAX_BYTES: usize = 4096;

impl Mutator {
    pub(crate) fn new(corpus: &[&[u8]]) -> Self {
        Self { corpus: corpus.iter().map(|input| input.to_vec()).collect() }
    }

    /// Returns the next input: one of the corpus with one to six mutations.
    pub(crate) fn next(&mut self, rng: &mut Rng) -> Vec<u8> {
        let mut input = self.corpus[rng.below(self.corpus.len())].clone();
        for _ in 0..=rng.below(6) {
            self.mutate(&mut input, rng);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        let at = rng.below(input.len() + 1);
        let end = (at + 1 + rng.below(8)).min(input.len());
        match rng.below(9) {
            0 => drop(input.drain(at.min(end)..end)),
            1 if at < input.len() => input[at] = rng.next_u64() as u8,
            2 if at < input.len() => input[at] ^= 1 << rng.below(8),
            3 => drop(input.splice(at..at, TOKENS[rng.below(TOKENS.len())].iter().copied())),
            4 => drop(input.splice(at.min(end)..end, TOKENS[rng.below(TOKENS.len())].iter().copied())),
            5 => {
                let piece = input[at.min(end)..end].to_vec();
                let to = rng.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            6 => input.truncate(at),
            7 => {
                // The line that it is in once more.
                let start = input[..at].iter().rposition(|&b| b == b'\n').map_or(0, |n| n + 1);
                let stop = input[at..].iter().position(|&b| b == b'\n').map_or(input.len(), |n| at + n + 1);
                let line = input[start..stop].to_vec();
                input.splice(start..start, line);
            }
            _ => {
                let other = &self.corpus[rng.below(self.corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[rng.below(other.len() + 1)..]);
            }
        }
    }
}
