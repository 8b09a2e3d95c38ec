//! The query log: some of the questions, drawn by chance, as lines on standard output; off unless it is asked for.
//!
//! Owns the draw, a bounded queue and the thread `dns-log` that writes. Whoever answers never waits for it: what is above the
//! rate or does not fit the queue is counted and left out. An answer is on its way before its line is.

use crate::clock;
use crate::dns::counters::{Path, code_name, path_name, transport_name};
use crate::dns::handler::Transport;
use crate::dns::options::QueryLogOptions;
use crate::dnswire::MAX_NAME_BYTES;
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Lines that wait for the writer: a third of a megabyte.
const QUEUE: usize = 1024;
/// Lines that are written at once: whole lines, so that those of the access log never get into them.
const BATCH: usize = 256;
/// Bits of a window that count its lines; the others are its second.
const COUNT_BITS: u32 = 32;

/// One answered question.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'q> {
    /// Who asked.
    pub(crate) client: Option<IpAddr>,
    pub(crate) transport: Transport,
    /// The name on the wire as sent; empty: it could not be read.
    pub(crate) name: &'q [u8],
    /// The asked type.
    pub(crate) kind: u16,
    /// The response code.
    pub(crate) code: u16,
    pub(crate) path: Path,
}

/// How many lines there were; carried over when the options change.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Lines {
    /// Returns lines that were written, and those that were left out for the rate or because the writer was behind.
    pub(crate) fn counts(&self) -> [u64; 2] {
        [&self.written, &self.dropped].map(|count| count.load(Ordering::Relaxed))
    }
}

/// The log; the writer ends when it is dropped.
#[derive(Debug)]
pub(crate) struct QueryLog {
    options: QueryLogOptions,
    seed: u64,
    drawn: AtomicU64,
    /// The second since the log began, and its lines.
    window: AtomicU64,
    begin: Instant,
    sender: SyncSender<Waiting>,
    lines: Arc<Lines>,
}

/// A line that waits for the writer.
#[derive(Debug)]
struct Waiting {
    unix_ms: u64,
    took: Duration,
    client: Option<IpAddr>,
    transport: Transport,
    name: [u8; MAX_NAME_BYTES],
    name_bytes: usize,
    kind: u16,
    code: u16,
    path: Path,
}

impl QueryLog {
    /// Starts the writer; `seed` decides which questions are drawn.
    pub(crate) fn open(options: &QueryLogOptions, lines: Arc<Lines>, seed: u64) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let written = lines.clone();
        thread::Builder::new()
            .name("dns-log".to_owned())
            .spawn(move || write_all(&receiver, &written, &mut io::stdout()))?;
        Ok(Self::new(options, lines, seed, sender))
    }

    fn new(options: &QueryLogOptions, lines: Arc<Lines>, seed: u64, sender: SyncSender<Waiting>) -> Self {
        let (drawn, window) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { options: options.clone(), seed, drawn, window, begin: clock::now(), sender, lines }
    }

    /// Returns what it was made of.
    pub(crate) fn options(&self) -> &QueryLogOptions {
        &self.options
    }

    /// Takes a line where the draw falls on it: one of so many. `since` is when the question came. Never waits.
    pub(crate) fn offer(&self, line: &Line<'_>, since: Instant) {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        // By chance: what comes in a rhythm is not always or never drawn.
        let drawn = xxh3_64_with_seed(&number.to_le_bytes(), self.seed);
        if !drawn.is_multiple_of(u64::from(self.options.one_in.max(1))) {
            return;
        }
        let now = clock::now();
        let mut name = [0; MAX_NAME_BYTES];
        let octets = line.name.get(..line.name.len().min(MAX_NAME_BYTES)).unwrap_or_default();
        for (place, octet) in name.iter_mut().zip(octets) {
            *place = *octet;
        }
        let waiting = Waiting {
            unix_ms: clock::unix_ms(),
            took: now.saturating_duration_since(since),
            client: line.client,
            transport: line.transport,
            name,
            name_bytes: octets.len(),
            kind: line.kind,
            code: line.code,
            path: line.path,
        };
        let second = now.saturating_duration_since(self.begin).as_secs();
        if !self.has_room(second) || self.sender.try_send(waiting).is_err() {
            self.lines.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one of a second's lines. Threads that meet at its begin may let pass a few more.
    fn has_room(&self, second: u64) -> bool {
        let begin = second << COUNT_BITS;
        if self.window.load(Ordering::Relaxed) >> COUNT_BITS != second {
            self.window.store(begin, Ordering::Relaxed);
        }
        let taken = self.window.fetch_add(1, Ordering::Relaxed) & ((1 << COUNT_BITS) - 1);
        taken < u64::from(self.options.max_per_second)
    }
}

fn write_all(lines: &Receiver<Waiting>, counts: &Lines, output: &mut impl Write) {
    let mut text = Vec::with_capacity(BATCH * 256);
    while let Ok(first) = lines.recv() {
        let mut count = 0;
        for line in std::iter::once(first).chain(lines.try_iter().take(BATCH - 1)) {
            text.extend_from_slice(written(&line).as_bytes());
            text.push(b'\n');
            count += 1;
        }
        // A reader that went away must not end the product: lines are lost, answers go on.
        let is_out = output.write_all(&text).and_then(|()| output.flush()).is_ok();
        let cell = if is_out { &counts.written } else { &counts.dropped };
        cell.fetch_add(count, Ordering::Relaxed);
        text.clear();
    }
}

/// Returns the line as JSON without its end.
fn written(line: &Waiting) -> String {
    let name = line.name.get(..line.name_bytes).unwrap_or_default();
    // Letters, digits and what else is printed stay, the rest is escaped (RFC 1035 §5.1).
    let read = Name::read(&mut BinDecoder::new(name)).ok().filter(|_| !name.is_empty());
    let name = read.map_or_else(String::new, |name| name.to_ascii());
    let kind = match RecordType::from(line.kind) {
        // RFC 3597 §5.
        RecordType::Unknown(code) => format!("TYPE{code}"),
        RecordType::ZERO => "TYPE0".to_owned(),
        known => known.to_string(),
    };
    let code = code_name(line.code).map_or_else(|| format!("RCODE{}", line.code), str::to_owned);
    let client = line.client.map_or_else(String::new, |client| client.to_string());
    format!(
        "{{\"log\":\"dns\",\"ts_ms\":{},\"client\":\"{client}\",\"transport\":\"{}\",\"name\":\"{}\",\"type\":\"{kind}\",\
         \"rcode\":\"{code}\",\"path\":\"{}\",\"duration_us\":{}}}",
        line.unix_ms,
        transport_name(line.transport),
        escaped(&name),
        path_name(line.path),
        line.took.as_micros()
    )
}

/// Escapes what a string of JSON must not have as it is, RFC 8259 §7.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            ' '..='~' => out.push(letter),
            other => out.push_str(&format!("\\u{:04x}", u32::from(other) & 0xFFFF)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Line, Lines, QueryLog, Waiting, write_all, written};
    use crate::clock;
    use crate::dns::counters::Path;
    use crate::dns::handler::Transport;
    use crate::dns::options::QueryLogOptions;
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, sync_channel};

    fn log(one_in: u32, max_per_second: u32, queue: usize) -> (QueryLog, Receiver<Waiting>, Arc<Lines>) {
        let (sender, receiver) = sync_channel(queue);
        let lines = Arc::new(Lines::default());
        let options = QueryLogOptions { one_in, max_per_second };
        (QueryLog::new(&options, lines.clone(), 7, sender), receiver, lines)
    }

    fn line(name: &[u8]) -> Line<'_> {
        let client = Some([10, 0, 0, 1].into());
        Line { client, transport: Transport::Udp, name, kind: 1, code: 3, path: Path::Cached }
    }

    #[test]
    fn a_line_is_one_line_of_json_whatever_was_asked() {
        let (log, lines, _) = log(1, 10, 10);
        log.offer(&line(b"\x04w\"\n.\x03COM\x00"), clock::now());
        let text = written(&lines.recv().unwrap());
        assert!(!text.contains('\n'), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            ["client", "type", "rcode", "path", "transport", "log"].map(word),
            ["10.0.0.1", "A", "NXDOMAIN", "cached", "udp", "dns"]
        );
        assert!(word("name").ends_with(".COM."), "{text}");
        assert!(value["duration_us"].is_u64() && value["ts_ms"].is_u64());
        log.offer(&Line { kind: 65_280, code: 22, ..line(&[3, b'a']) }, clock::now());
        let value: serde_json::Value = serde_json::from_str(&written(&lines.recv().unwrap())).unwrap();
        assert_eq!(
            (&value["type"], &value["rcode"], &value["name"]),
            (&"TYPE65280".into(), &"RCODE22".into(), &"".into())
        );
    }

    #[test]
    fn one_of_so_many_is_drawn_by_chance() {
        let (log, lines, counts) = log(10, u32::MAX, 100_000);
        (0..100_000).for_each(|_| log.offer(&line(b"\x00"), clock::now()));
        let drawn = lines.try_iter().count();
        assert!((9_500..10_500).contains(&drawn), "{drawn} of 100,000, seed 7");
        assert_eq!(counts.counts(), [0, 0]);
    }

    #[test]
    fn what_is_above_the_rate_or_the_queue_is_counted_and_nobody_waits() {
        let (log, _lines, counts) = log(1, u32::MAX, 5);
        (0..8).for_each(|_| log.offer(&line(b"\x00"), clock::now()));
        assert_eq!(counts.counts(), [0, 3], "a queue of five");
        let (log, _lines, _) = self::log(1, 2, 5);
        let taken: Vec<bool> = [0, 0, 0, 4, 4, 4, 5].into_iter().map(|second| log.has_room(second)).collect();
        assert_eq!(taken, [true, true, false, true, true, false, true]);
    }

    #[test]
    fn the_writer_writes_whole_lines_and_ends_with_the_log() {
        let (log, lines, counts) = log(1, 1000, 1000);
        (0..300).for_each(|_| log.offer(&line(b"\x01a\x00"), clock::now()));
        drop(log);
        let mut out = Vec::new();
        write_all(&lines, &counts, &mut out);
        assert_eq!((String::from_utf8(out).unwrap().lines().count(), counts.counts()), (300, [300, 0]));
    }

    #[test]
    fn a_reader_that_went_away_is_counted() {
        struct Gone;
        impl io::Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, lines, counts) = log(1, 1000, 10);
        log.offer(&line(b"\x00"), clock::now());
        drop(log);
        write_all(&lines, &counts, &mut Gone);
        assert_eq!(counts.counts(), [0, 1]);
    }
}
