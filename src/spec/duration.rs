//! Durations as texts: `500ms`, `10s`, `1m30s`.

use crate::spec::text::text;
use std::fmt;
use std::str::FromStr;

/// Longest duration, so that adding one to a point in time never overflows: 365 days.
const MAX_MS: u64 = 365 * 24 * 3600 * 1000;
/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 24 * 3600 * 1000), ("h", 3600 * 1000), ("m", 60 * 1000), ("s", 1000), ("ms", 1)];

/// A duration in whole milliseconds, at most 365 days; written as `500ms`, `10s`, `1m30s`, `1h` or `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Duration(std::time::Duration);

text!(
    Duration, "Duration",
    expecting "a duration with its unit, such as \"10s\" or \"500ms\"",
    pattern "^([0-9]+(ms|s|m|h|d))+$",
    example "10s"
);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number without a unit behind it.
    #[error("duration {0:?} has no unit: write it as \"{0}s\" or \"{0}ms\"")]
    NoUnit(String),
    /// Another form than numbers with units.
    #[error("{0:?} is no duration: write whole numbers with the units ms, s, m, h or d, such as \"10s\" or \"1m30s\"")]
    Form(String),
    /// Above 365 days.
    #[error("duration {0:?} is longer than 365d")]
    TooLong(String),
}

impl Duration {
    /// Wraps a duration, cut to whole milliseconds and 365 days.
    pub fn new(duration: std::time::Duration) -> Self {
        let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(std::time::Duration::from_millis(ms.min(MAX_MS)))
    }

    /// Returns it for use.
    pub fn get(self) -> std::time::Duration {
        self.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let form = || DurationError::Form(text.to_owned());
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(DurationError::NoUnit(text.to_owned()));
        }
        let mut rest = text;
        let mut total: u64 = 0;
        let mut previous = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, next) = after.split_at(letters);
            let (_, ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(form)?;
            if number.is_empty() || ms >= previous {
                return Err(form());
            }
            previous = ms;
            total = number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(ms))
                .and_then(|part| total.checked_add(part))
                .filter(|sum| *sum <= MAX_MS)
                .ok_or_else(|| DurationError::TooLong(text.to_owned()))?;
            rest = next;
        }
        if text.is_empty() {
            return Err(form());
        }
        Ok(Self(std::time::Duration::from_millis(total)))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in UNITS {
            if ms >= unit {
                write!(f, "{}{name}", ms / unit)?;
                ms %= unit;
            }
        }
        Ok(())
    }
}

impl From<std::time::Duration> for Duration {
    fn from(duration: std::time::Duration) -> Self {
        Self::new(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, DurationError};
    use proptest::prelude::{any, proptest};

    fn ms(text: &str) -> u128 {
        text.parse::<Duration>().unwrap().get().as_millis()
    }

    #[test]
    fn reads_each_unit_and_their_sum_from_large_to_small() {
        assert_eq!(
            [ms("500ms"), ms("10s"), ms("1m"), ms("2h"), ms("1d"), ms("0s")],
            [500, 10_000, 60_000, 7_200_000, 86_400_000, 0]
        );
        assert_eq!(ms("1m30s"), 90_000);
        assert_eq!(ms("1h0m1ms"), 3_600_001);
    }

    #[test]
    fn names_what_is_wrong() {
        assert_eq!("10".parse::<Duration>(), Err(DurationError::NoUnit("10".into())));
        for bad in ["", "s", "1.5s", "10 s", "-1s", "10x", "1s1m", "1s1s", "1sx", "ä"] {
            assert!(matches!(bad.parse::<Duration>(), Err(DurationError::Form(_))), "{bad}");
        }
        for long in ["366d", "99999999999999999999s", "18446744073709551615d"] {
            assert!(matches!(long.parse::<Duration>(), Err(DurationError::TooLong(_))), "{long}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_as_the_same(ms in 0_u64..=super::MAX_MS) {
            let duration = Duration::new(std::time::Duration::from_millis(ms));
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in any::<String>()) {
            let _ = text.parse::<Duration>();
        }
    }
}
