//! Numbers, sizes and durations within their bounds, or a problem that names the bounds.

use crate::spec::{Duration, Problems, Size};
use std::ops::RangeInclusive;
use std::time::Duration as Time;

/// Returns the number or its default; records one that is out of bounds.
pub(super) fn within(
    p: &mut Problems,
    key: &str,
    value: Option<usize>,
    default: usize,
    bounds: &RangeInclusive<usize>,
) -> usize {
    let value = value.unwrap_or(default);
    if !bounds.contains(&value) {
        p.add(key, format!("is {value}"), format!("write {} to {}", bounds.start(), bounds.end()));
    }
    value
}

/// Returns the size or its default; records one that is out of bounds.
pub(super) fn size(
    p: &mut Problems,
    key: &str,
    value: Option<Size>,
    default: usize,
    bounds: RangeInclusive<usize>,
) -> usize {
    let value = value.map_or(default, Size::octets);
    if !bounds.contains(&value) {
        let [value, first, last] = [value, *bounds.start(), *bounds.end()].map(|octets| Size::new(octets as u64));
        p.add(key, format!("is {value}"), format!("write \"{first}\" to \"{last}\""));
    }
    value
}

/// Returns the duration or its default; records one that is out of bounds.
pub(super) fn time(
    p: &mut Problems,
    key: &str,
    value: Option<Duration>,
    default: Time,
    bounds: RangeInclusive<Time>,
) -> Time {
    let value = value.map_or(default, Duration::get);
    if !bounds.contains(&value) {
        let [value, first, last] = [value, *bounds.start(), *bounds.end()].map(Duration::new);
        p.add(key, format!("is {value}"), format!("write \"{first}\" to \"{last}\""));
    }
    value
}
