//! What people and programs read: aligned columns, JSON, times.
//!
//! Colour only on a terminal, and not when `NO_COLOR` is set (no-color.org). Everything goes through [`write()`], which
//! ends quietly when the reader is gone (`weir ps | head`).

use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Meaning of a cell, shown as its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// On the way.
    Changing,
    /// Needs attention.
    Bad,
}

impl Tone {
    /// Returns the tone of a state or health word of the API.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "ready" | "healthy" | "usable" => Self::Good,
            "starting" | "draining" => Self::Changing,
            "unhealthy" | "ejected" | "fail_open" | "quarantined" => Self::Bad,
            _ => Self::Plain,
        }
    }

    /// The SGR parameter (ECMA-48 §8.3.117).
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Good => Some("32"),
            Self::Changing => Some("33"),
            Self::Bad => Some("31"),
        }
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// Starts a table.
    pub(super) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// Adds a row; states and verdicts get their colour. An empty cell is shown as `-`, so that columns can be counted.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cell = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let cells = cells.into_iter().map(cell).map(|text| {
            let tone = Tone::of(&text);
            (text, tone)
        });
        self.rows.push(cells.collect());
    }

    /// Returns the table as text; the last column is not padded.
    pub(super) fn render(&self, colored: bool) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
            cells.chain(self.headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        let heading = self.headings.iter().map(|heading| ((*heading).to_owned(), Tone::Plain)).collect();
        for row in std::iter::once(&heading).chain(&self.rows) {
            line(&mut text, row, &widths, colored);
        }
        text
    }
}

fn line(text: &mut String, row: &[(String, Tone)], widths: &[usize], colored: bool) {
    for (column, ((cell, tone), width)) in row.iter().zip(widths).enumerate() {
        if column > 0 {
            text.push_str("  ");
        }
        match tone.sgr().filter(|_| colored) {
            Some(sgr) => text.push_str(&format!("\x1b[{sgr}m{cell}\x1b[0m")),
            None => text.push_str(cell),
        }
        if column + 1 < row.len() {
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
    }
    text.push('\n');
}

/// Prints a table.
pub(super) fn table(table: &Table) -> io::Result<()> {
    write(&table.render(is_colored()))
}

/// Prints a value as JSON on one line, so that a feed is one value a line.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(value)?;
    text.push('\n');
    Ok(write(&text)?)
}

/// Writes text to standard output.
pub(super) fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Returns whether standard output takes colour.
fn is_colored() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Returns `2026-11-24T10:22:01.123Z` (RFC 3339) for milliseconds since the Unix epoch.
pub(super) fn time(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Returns year, month and day of a day since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Returns `45s`, `12m`, `3h10m` or `2d4h`.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Returns an address with its first port, as `127.0.0.1:8080` or `[::1]:8080`.
pub(super) fn socket(address: &str, ports: &[u16]) -> String {
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    match ports {
        [] => host,
        [first, rest @ ..] => rest.iter().fold(format!("{host}:{first}"), |text, port| format!("{text},{port}")),
    }
}

/// Returns a service as `name` or `namespace/name`.
pub(super) fn service(namespace: &str, name: &str) -> String {
    if namespace == "default" { name.to_owned() } else { format!("{namespace}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::{Table, age, date, service, socket, time};

    #[test]
    fn columns_are_aligned_and_empty_cells_are_shown() {
        let mut table = Table::new(&["ID", "STATE", "NOTE"]);
        table.row(["web-abc".to_owned(), "ready".to_owned(), String::new()]);
        table.row(["x".to_owned(), "draining".to_owned(), "slow".to_owned()]);
        let plain = table.render(false);
        assert_eq!(plain, "ID       STATE     NOTE\nweb-abc  ready     -\nx        draining  slow\n");
        let colored = table.render(true);
        assert!(colored.contains("\x1b[32mready\x1b[0m     -"));
        assert!(colored.contains("\x1b[33mdraining\x1b[0m  slow"));
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_709_208_000_007), "2024-02-29T12:00:00.007Z");
        assert_eq!(date(20_781), (2026, 11, 24));
        assert_eq!(date(11_016), (2000, 2, 29));
    }

    #[test]
    fn ages_and_addresses_are_short() {
        assert_eq!([age(0), age(59), age(61), age(3661), age(90_000)], ["0s", "59s", "1m01s", "1h01m", "1d01h"]);
        assert_eq!(socket("127.0.0.1", &[80]), "127.0.0.1:80");
        assert_eq!(socket("::1", &[80, 81]), "[::1]:80,81");
        assert_eq!(socket("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!([service("default", "web"), service("dev", "web")], ["web", "dev/web"]);
    }
}
