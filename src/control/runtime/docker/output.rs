//! What containers write, copied from the engine into Weir's log files, where processes keep theirs.
//!
//! The engine stamps each line; the stamp of the last line copied is the file's time of modification, so that a later Weir
//! goes on where this one ended.

use crate::control::runtime::logs;
use crate::model::InstanceId;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_core::Stream;
use std::fs::{File, FileTimes};
use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};

/// Time of a line since the epoch.
type Stamp = Duration;

/// The two files of one container.
#[derive(Debug)]
pub(super) struct Output {
    stdout: File,
    stderr: File,
    /// Of the last line that was copied.
    last: Stamp,
}

impl Output {
    /// Opens the files for appending; goes on behind what they hold.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(folder: &Path, id: &InstanceId) -> io::Result<Self> {
        let (stdout, stderr) = logs::create(folder, id)?;
        let stamp = |file: &File| {
            let metadata = file.metadata().ok().filter(|metadata| metadata.len() > 0)?;
            metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()
        };
        let last = [&stdout, &stderr].into_iter().filter_map(stamp).max().unwrap_or_default();
        Ok(Self { stdout, stderr, last })
    }

    /// Copies what the container wrote since the last copy; with `follow` until it has ended.
    ///
    /// # Errors
    /// When the engine broke off, or a file cannot be written.
    pub(super) async fn copy(&mut self, client: &bollard::Docker, name: &str, follow: bool) -> io::Result<()> {
        let since = i32::try_from(self.last.as_secs()).unwrap_or(0);
        let options = LogsOptionsBuilder::new().follow(follow).stdout(true).stderr(true).timestamps(true).since(since);
        let mut lines = pin!(client.logs(name, Some(options.build())));
        while let Some(line) = std::future::poll_fn(|context| lines.as_mut().poll_next(context)).await {
            self.write(&line.map_err(io::Error::other)?)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &LogOutput) -> io::Result<()> {
        let (file, message) = match line {
            LogOutput::StdErr { message } => (&mut self.stderr, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (&mut self.stdout, message)
            }
        };
        let Some((stamp, text)) = split(message) else { return Ok(()) };
        // The engine starts at a whole second.
        if stamp <= self.last {
            return Ok(());
        }
        file.write_all(text)?;
        self.last = stamp;
        file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + stamp))
    }
}

/// Takes the stamp off a line: `2026-11-25T20:30:00.123456789Z text`.
fn split(line: &[u8]) -> Option<(Stamp, &[u8])> {
    let end = line.iter().position(|byte| *byte == b' ')?;
    let (stamp, text) = line.split_at(end);
    Some((parse(std::str::from_utf8(stamp).ok()?)?, text.get(1..)?))
}

/// Reads a time of RFC 3339 in UTC, as the engine writes it.
fn parse(text: &str) -> Option<Stamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || fraction.len() > 9 {
        return None;
    }
    // Days since the epoch by the proleptic Gregorian calendar; the year begins in March, so that a leap day ends it.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = (shifted_year * 365 + leap_days + (153 * shifted_month + 2) / 5 + day - 1).checked_sub(719_468)?;
    let nanos = format!("{fraction:0<9}").parse().ok()?;
    Some(Duration::new(days * 86_400 + hour * 3600 + minute * 60 + second, nanos))
}

#[cfg(test)]
mod tests {
    use super::{parse, split};
    use std::time::Duration;

    #[test]
    fn reads_the_stamps_of_the_engine() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600, 500_000_000),
            ("2026-11-25T20:30:00.123456789Z", 1_795_638_600, 123_456_789),
            ("2024-12-31T23:59:59.000000001Z", 1_735_689_599, 1),
        ] {
            assert_eq!(parse(text), Some(Duration::new(seconds, nanos)), "{text}");
        }
        for text in ["", "Z", "2026-11-25", "2026-13-01T00:00:00Z", "x-1-1T0:0:0Z", "1969-01-01T00:00:00Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(split(b"1970-01-01T00:00:01Z a b\n"), Some((Duration::from_secs(1), &b"a b\n"[..])));
        assert_eq!(split(b"no stamp"), None);
    }
}
