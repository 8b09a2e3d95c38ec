//! The only reader of time.
//!
//! Pure cores receive `now` as an argument; shells ask here. Both functions follow the runtime's clock, so a test with
//! paused time controls them. The data plane counts in whole milliseconds since the process's first reading: small,
//! `Copy` and storable in an atomic.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static EPOCH: OnceLock<Instant> = OnceLock::new();

/// The scale of [`now_ms`] starts this long before the first reading: runtimes of one process whose clocks are paused
/// (tests) may disagree by as much, and none of them reads before the start.
const BEFORE_FIRST: Duration = Duration::from_secs(3600);

/// Returns the monotonic time; about 25 ns.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Returns milliseconds since about an hour before the process first asked; monotonic, never 0 so that 0 can mean "never".
pub fn now_ms() -> u64 {
    to_ms(now())
}

/// Returns nanoseconds on the scale of [`now_ms`], for what takes microseconds; monotonic, about 25 ns.
pub fn now_ns() -> u64 {
    let epoch = *EPOCH.get_or_init(epoch);
    u64::try_from(now().saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// Converts a monotonic time to the scale of [`now_ms`].
pub fn to_ms(at: Instant) -> u64 {
    let epoch = *EPOCH.get_or_init(epoch);
    u64::try_from(at.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Reads the machine's clock and not the runtime's: the epoch is shared by all runtimes.
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the clock")]
fn epoch() -> Instant {
    let first = Instant::now();
    first.checked_sub(BEFORE_FIRST).unwrap_or(first)
}

/// Returns wall-clock milliseconds since the Unix epoch, for what people and other programs read.
#[expect(clippy::disallowed_methods, reason = "this module is the one reader of the wall clock")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns how long the process's threads have run on processors (`CLOCK_PROCESS_CPUTIME_ID`); about 300 ns.
pub fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{cpu, now, now_ms, to_ms};
    use std::time::Duration;

    #[test]
    fn millis_start_above_zero_and_follow_the_instant() {
        let at = now();
        let base = now_ms();
        assert!(base > 0);
        assert!(to_ms(at + Duration::from_secs(5)) >= base + 4_999);
    }

    #[tokio::test(start_paused = true)]
    async fn follows_the_paused_clock_of_the_runtime() {
        let before = now_ms();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!(now_ms() - before >= 3_600_000);
    }
    #[test]
    fn work_takes_time_of_a_processor() {
        let before = cpu();
        let worked = (0_u64..).find(|_| cpu() >= before + Duration::from_millis(2));
        assert!(worked.is_some_and(|times| times > 0));
    }
}
