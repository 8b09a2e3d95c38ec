//! Memory that is not used → the kernel.
//!
//! Beside a workload Weir is one of many, and most of the time it does nothing: then it holds only what it uses. What it needs
//! again is still in the page cache; each piece of it costs a minor fault.

use crate::clock;
use crate::sys::memory::{self, Resident};
use std::time::Duration;

/// What the start began is over so long after it: a first table was taken in, and what that needed is free.
const SETTLED: Duration = Duration::from_secs(10);
/// So often is looked whether the process does little.
const EACH: Duration = Duration::from_secs(60);
/// A process that used less than one part in so many of a processor does little: nobody waits for the faults.
const LITTLE: u32 = 100;
/// From so many octets on it is not done again: giving back takes locks of the allocator, longer with more.
const SMALL: u64 = 64 << 20;

/// Gives back what was needed until now.
pub(super) fn give_back() {
    memory::give_back_heap();
    if let Err(error) = memory::give_back_text() {
        tracing::debug!(%error, "the program's pages stay resident");
    }
}

/// Gives back again when the start is over, and from then on after each minute in which little was done, for as long as the
/// process is small. Does not end.
pub(super) async fn give_back_later() {
    tokio::time::sleep(SETTLED).await;
    let mut does_little = true;
    loop {
        let resident = Resident::open().and_then(|resident| resident.bytes());
        if does_little && resident.is_ok_and(|bytes| bytes < SMALL) {
            give_back();
        }
        let before = clock::cpu();
        tokio::time::sleep(EACH).await;
        does_little = is_little(clock::cpu().saturating_sub(before));
    }
}

fn is_little(used: Duration) -> bool {
    used < EACH / LITTLE
}

#[cfg(test)]
mod tests {
    use super::is_little;
    use std::time::Duration;

    #[test]
    fn a_hundredth_of_a_processor_is_much() {
        assert!(is_little(Duration::ZERO) && is_little(Duration::from_millis(599)));
        assert!(!is_little(Duration::from_millis(600)) && !is_little(Duration::from_secs(120)));
    }
}
