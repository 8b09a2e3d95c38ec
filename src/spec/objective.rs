//! A latency objective as one text: `p99 < 500ms`.

use crate::spec::{Duration, text};
use std::fmt;
use std::str::FromStr;
use std::time::Duration as Time;

/// The share of requests, in millionths, that `p99` means.
const P99_PPM: u32 = 990_000;
/// Lowest and highest quantile: below the median nothing is promised, above `p99.99` nothing can be measured.
const QUANTILES_PPM: std::ops::RangeInclusive<u32> = 500_000..=999_900;
/// Shortest and longest latency: Weir's own clock ticks in milliseconds, and nobody waits for a day.
const LATENCIES: std::ops::RangeInclusive<Time> = Time::from_millis(1)..=Time::from_secs(3600);

/// What a service is to hold: a quantile of response times below a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objective {
    quantile_ppm: u32,
    latency: Time,
}

/// Why a text is no objective.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectiveError {
    /// Not of the form at all.
    #[error("{0:?} is no objective: write a quantile and a time, such as \"p99 < 500ms\"")]
    Form(String),
    /// The quantile is out of bounds.
    #[error("objective {0:?} has the quantile {1}: write one from p50 to p99.99")]
    Quantile(String, String),
    /// The time cannot be read or is out of bounds.
    #[error("objective {0:?} has the time {1:?}: write one from 1ms to 1h, such as \"500ms\"")]
    Latency(String, String),
}

impl Objective {
    /// Makes an objective: the share of requests in millionths, and the response time that they stay below.
    pub fn new(quantile_ppm: u32, latency: Time) -> Self {
        Self { quantile_ppm, latency }
    }

    /// Returns the share of requests that stay below the latency, in millionths: 990000 for `p99`.
    pub fn quantile_ppm(self) -> u32 {
        self.quantile_ppm
    }

    /// Returns the response time that they stay below.
    pub fn latency(self) -> Time {
        self.latency
    }
}

impl Default for Objective {
    fn default() -> Self {
        Self { quantile_ppm: P99_PPM, latency: Time::from_millis(500) }
    }
}

impl FromStr for Objective {
    type Err = ObjectiveError;

    fn from_str(text: &str) -> Result<Self, ObjectiveError> {
        let form = || ObjectiveError::Form(text.to_owned());
        let (quantile, latency) = text.split_once('<').ok_or_else(form)?;
        let (quantile, latency) = (quantile.trim(), latency.trim());
        let number = quantile.strip_prefix('p').ok_or_else(form)?;
        let quantile_ppm = parts(number).ok_or_else(form)?;
        if !QUANTILES_PPM.contains(&quantile_ppm) {
            return Err(ObjectiveError::Quantile(text.to_owned(), quantile.to_owned()));
        }
        let time = latency.parse::<Duration>().map(Duration::get).ok().filter(|time| LATENCIES.contains(time));
        let latency = time.ok_or_else(|| ObjectiveError::Latency(text.to_owned(), latency.to_owned()))?;
        Ok(Self { quantile_ppm, latency })
    }
}

/// Reads a percentage of at most two decimals as millionths.
fn parts(number: &str) -> Option<u32> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || decimals.len() > 2 || number.ends_with('.') {
        return None;
    }
    if !digits(whole) || !digits(decimals) {
        return None;
    }
    let hundredths: u32 = format!("{decimals:0<2}").parse().ok()?;
    Some(whole.parse::<u32>().ok()? * 10_000 + hundredths * 100)
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, hundredths) = (self.quantile_ppm / 10_000, self.quantile_ppm % 10_000 / 100);
        write!(f, "p{whole}")?;
        if hundredths > 0 {
            let decimals = format!("{hundredths:02}");
            write!(f, ".{}", decimals.trim_end_matches('0'))?;
        }
        write!(f, " < {}", Duration::new(self.latency))
    }
}

text!(
    Objective,
    "Objective",
    expecting "an objective in quotes, such as \"p99 < 500ms\"",
    pattern "^p[0-9]{2}(\\.[0-9]{1,2})? *< *[0-9a-z]+$",
    example "p99 < 500ms"
);

#[cfg(test)]
mod tests {
    use super::{Objective, ObjectiveError};
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    #[test]
    fn reads_a_quantile_and_a_time() {
        let read = |text: &str| text.parse::<Objective>().map(|o| (o.quantile_ppm(), o.latency()));
        assert_eq!(read("p99 < 500ms"), Ok((990_000, Duration::from_millis(500))));
        assert_eq!(read("p99.9<2s"), Ok((999_000, Duration::from_secs(2))));
        assert_eq!(read(" p50 <1m "), Ok((500_000, Duration::from_secs(60))));
        assert_eq!(read("p99.05 < 1ms"), Ok((990_500, Duration::from_millis(1))));
        assert_eq!(Objective::default().to_string(), "p99 < 500ms");
    }

    #[test]
    fn says_what_is_wrong() {
        let read = |text: &str| text.parse::<Objective>().unwrap_err();
        for form in ["", "p99", "99 < 1s", "p < 1s", "p99 > 1s", "p99. < 1s", "p9x < 1s", "p99.123 < 1s", "mean < 1s"] {
            assert!(matches!(read(form), ObjectiveError::Form(_)), "{form}");
        }
        for quantile in ["p49.99 < 1s", "p100 < 1s", "p0 < 1s", "p999 < 1s"] {
            assert!(matches!(read(quantile), ObjectiveError::Quantile(..)), "{quantile}");
        }
        for latency in ["p99 < 0s", "p99 < 500", "p99 < 2h", "p99 < ", "p99 < 1us", "p99 < < 1s"] {
            assert!(matches!(read(latency), ObjectiveError::Latency(..)), "{latency}");
        }
        assert_eq!(
            read("p100 < 1s").to_string(),
            "objective \"p100 < 1s\" has the quantile p100: write one from p50 to p99.99"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_shown_reads_as_the_same(
            text in any::<String>(), near in "p[0-9.]{0,6} ?< ?[0-9a-z]{0,6}", hundredths in 5000_u32..=9999, ms in 1_u64..=3_600_000
        ) {
            let _ = (text.parse::<Objective>(), near.parse::<Objective>());
            let objective = Objective::new(hundredths * 100, Duration::from_millis(ms));
            assert_eq!(objective.to_string().parse(), Ok(objective));
        }
    }
}
