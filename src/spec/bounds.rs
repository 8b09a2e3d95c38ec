//! Numbers and times that must lie within bounds.

use crate::spec::{Duration, Problems};
use std::ops::RangeInclusive;
use std::time::Duration as Time;

/// Returns the value or its default; records one that is out of bounds.
pub(super) fn bounded(
    p: &mut Problems,
    key: &str,
    value: Option<u32>,
    default: u32,
    bounds: &RangeInclusive<u32>,
) -> u32 {
    let value = value.unwrap_or(default);
    if !bounds.contains(&value) {
        p.add(key, format!("is {value}"), format!("write {} to {}", bounds.start(), bounds.end()));
    }
    value
}

/// Returns the value or its default; records zero.
pub(super) fn positive(p: &mut Problems, key: &str, value: Option<Duration>, default: Time) -> Time {
    let value = value.map_or(default, Duration::get);
    if value.is_zero() {
        p.add(key, "is zero", format!("write a time above zero; {} is the default", Duration::new(default)));
    }
    value
}
