//! What containers write, copied from the engine into Weir's log files, where processes keep theirs.
//!
//! The engine stamps each line when it reads it, and keeps the two streams in one file: lines of one stream are in the order
//! of their stamps, lines of both need not be. So each file has a stamp of its own, that of the last line copied to it, as its
//! time of modification: a later Weir goes on where this one ended.

use crate::control::runtime::logs;
use crate::model::InstanceId;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_core::Stream;
use std::fs::{File, FileTimes};
use std::io::{self, Write};
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};

/// Time of a line since the epoch.
type Stamp = Duration;

/// By how much a line may come later than one of the other stream with a later stamp.
const DISORDER: Duration = Duration::from_secs(1);

/// Why output was not copied to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum CopyError {
    /// The engine broke off, or is away.
    #[error("the engine broke off: {0}")]
    Broken(String),
    /// The engine has none: the container is not there, or its log cannot be read.
    #[error("the engine has no output: {0}")]
    None(String),
    /// The files.
    #[error("failed to write a log file: {0}")]
    File(#[from] io::Error),
}

impl From<Error> for CopyError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { message, .. } => Self::None(message),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// The two files of one container.
#[derive(Debug)]
pub(super) struct Output {
    stdout: Kept,
    stderr: Kept,
}

/// What is kept of one stream.
#[derive(Debug)]
struct Kept {
    file: File,
    /// Of the last line that was copied.
    last: Stamp,
}

impl Kept {
    /// Goes on behind what the file holds.
    fn new(file: File) -> Self {
        let stamp = || {
            let metadata = file.metadata().ok().filter(|metadata| metadata.len() > 0)?;
            metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()
        };
        let last = stamp().unwrap_or_default();
        Self { file, last }
    }

    fn write(&mut self, stamp: Stamp, text: &[u8]) -> io::Result<()> {
        // The engine starts earlier than it has to.
        if stamp <= self.last {
            return Ok(());
        }
        self.file.write_all(text)?;
        self.last = stamp;
        self.file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + stamp))
    }
}

impl Output {
    /// Opens the files for appending; goes on behind what they hold.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(folder: &Path, id: &InstanceId) -> io::Result<Self> {
        let (stdout, stderr) = logs::create(folder, id)?;
        Ok(Self { stdout: Kept::new(stdout), stderr: Kept::new(stderr) })
    }

    /// Copies what the container wrote since the last copy; with `follow` until it has ended.
    ///
    /// # Errors
    /// [`CopyError`].
    pub(super) async fn copy(&mut self, client: &bollard::Docker, name: &str, follow: bool) -> Result<(), CopyError> {
        let last = self.stdout.last.max(self.stderr.last);
        let since = i32::try_from(last.saturating_sub(DISORDER).as_secs()).unwrap_or(0);
        let options = LogsOptionsBuilder::new().follow(follow).stdout(true).stderr(true).timestamps(true).since(since);
        let mut lines = pin!(client.logs(name, Some(options.build())));
        while let Some(line) = std::future::poll_fn(|context| lines.as_mut().poll_next(context)).await {
            self.write(&line?)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &LogOutput) -> io::Result<()> {
        let (kept, message) = match line {
            LogOutput::StdErr { message } => (&mut self.stderr, message),
            LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
                (&mut self.stdout, message)
            }
        };
        let Some((stamp, text)) = split(message) else { return Ok(()) };
        kept.write(stamp, text)
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
    use super::{Output, parse, split};
    use crate::control::runtime::logs::existing;
    use crate::model::InstanceId;
    use bollard::container::LogOutput;
    use std::fs;
    use std::time::Duration;

    /// A line as the engine gives it, stamped so many milliseconds after its first second.
    fn line(is_error: bool, ms: u64, text: &str) -> LogOutput {
        let message = format!("2026-11-25T20:30:{:02}.{:03}Z {text}\n", ms / 1000, ms % 1000).into();
        if is_error { LogOutput::StdErr { message } } else { LogOutput::StdOut { message } }
    }

    #[test]
    fn lines_of_two_streams_may_cross_and_what_was_copied_is_not_copied_again() {
        let folder = std::env::temp_dir().join(format!("weir-output-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let id = InstanceId::parse("web-abcdef").unwrap();
        let read = || existing(&folder, &id).iter().map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>();
        // Written last, stamped first: what the engine does when the two come at once.
        let lines = [line(true, 1002, "wrong"), line(false, 1001, "going"), line(false, 1003, "gone")];
        let mut output = Output::open(&folder, &id).unwrap();
        lines.iter().for_each(|line| output.write(line).unwrap());
        assert_eq!(read(), ["going\ngone\n", "wrong\n"]);
        // Once more from the start, by this Weir and by a later one.
        lines.iter().for_each(|line| output.write(line).unwrap());
        let mut later = Output::open(&folder, &id).unwrap();
        lines.iter().for_each(|line| later.write(line).unwrap());
        later.write(&line(true, 1003, "once more")).unwrap();
        assert_eq!(read(), ["going\ngone\n", "wrong\nonce more\n"]);
        fs::remove_dir_all(&folder).unwrap();
    }

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
