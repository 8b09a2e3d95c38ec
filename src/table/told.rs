//! The line of a service that other Weirs are told, kept with it: it is written once, however many are told.

use bytes::Bytes;
use std::sync::{Mutex, PoisonError};

/// A line, once somebody was told it.
#[derive(Debug, Default)]
pub struct Told(Mutex<Option<Bytes>>);

impl Told {
    /// Returns the line; `write` makes it where it was not told yet.
    pub fn line(&self, write: impl FnOnce() -> Vec<u8>) -> Bytes {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.unwrap_or_else(|| {
            // Two at once may write it; one of the two lines is kept. Nobody waits for the other meanwhile.
            let line = Bytes::from(write());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(line).clone()
        })
    }

    /// Forgets the line: another one is told instead of it.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::Told;

    #[test]
    fn a_line_is_written_once_until_it_is_forgotten() {
        let (told, mut count) = (Told::default(), 0);
        for round in 1..=2 {
            for _ in 0..1000 {
                let line = told.line(|| {
                    count += 1;
                    b"line".to_vec()
                });
                assert_eq!(&*line, b"line");
            }
            assert_eq!(count, round, "of 1,000 that are told");
            told.forget();
        }
    }
}
