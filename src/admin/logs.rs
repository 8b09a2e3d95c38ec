//! What a replica wrote: the end of its standard output and error, and live what it writes.
//!
//! The files are written by the replica itself and rotated by copy and truncate, so a reader keeps its place by length:
//! a file that became shorter is read again from its start. Rotated files are read only for lines that the current one
//! lacks.

use crate::admin::stream::Feed;
use crate::admin::{Problem, State, extract, instances};
use crate::lifecycle::{Phase, Signal};
use crate::model::{InstanceId, InstanceState};
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use utoipa::IntoParams;

/// Lines of each file that are shown unless asked otherwise.
const DEFAULT_TAIL: usize = 100;
/// Octets of each file that are searched for those lines: 10,000 lines of 100.
const MAX_TAIL_BYTES: u64 = 1024 * 1024;
/// Octets that are sent at a time.
const CHUNK_BYTES: u64 = 64 * 1024;
/// Time between two looks at a file that is followed.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Chunks that may wait for a slow reader; the file keeps the rest.
const QUEUE: usize = 4;
/// Longest wait of who does not follow for the last of what a replica that has ended wrote: an engine may be busy.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is shown of a log.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Range {
    /// Last lines of each of output and error; 100 when absent.
    tail: Option<usize>,
    /// Whether to go on with what comes.
    #[serde(default)]
    follow: bool,
}

/// Shows the end of what a replica wrote.
#[utoipa::path(get, path = "/v1/instances/{id}/logs", operation_id = "show_logs", tag = "instances",
    params(("id" = String, Path), Range),
    responses((status = 200, description = "output, then error", content_type = "text/plain"),
              (status = 404, description = "unknown_instance", body = Problem),
              (status = 409, description = "no_logs: Weir does not run it", body = Problem)))]
pub(super) async fn show(
    state: axum::extract::State<Arc<State>>,
    extract::Id(id): extract::Id,
    extract::Params(range): extract::Params<Range>,
) -> Result<Response, Problem> {
    let paths = state.scheduler.log_paths(&id);
    if paths.is_empty() {
        instances::find(&state, &id).await?;
        let detail = format!("Weir does not run instance {id}, so it has no log of it");
        return Err(Problem::new(StatusCode::CONFLICT, "no_logs", detail));
    }
    if !range.follow && has_ended(&state, &id).await {
        // What is there is shown all the same.
        let _ = tokio::time::timeout(LAST_WORDS, state.scheduler.written(&id)).await;
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reader = Reader { sender: sender.clone(), follow: range.follow, signal: state.signal.clone() };
    tokio::spawn(async move {
        let tail = range.tail.unwrap_or(DEFAULT_TAIL);
        if let Err(error) = reader.run(paths, tail, gone(&state, &id)).await {
            tracing::info!(instance = %id, %error, "a log was not shown to its end");
            // The answer breaks off: it is not all that there is.
            let _ = sender.send(Err(error)).await;
        }
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((kind, Body::from_stream(Feed(receiver))).into_response())
}

async fn has_ended(state: &State, id: &InstanceId) -> bool {
    state.registry.instance(id).await.is_none_or(|instance| instance.state == InstanceState::Gone)
}

/// Waits until the instance is gone and all that it wrote is in its files.
async fn gone(state: &State, id: &InstanceId) {
    let mut live = state.events.subscribe();
    loop {
        if has_ended(state, id).await {
            return state.scheduler.written(id).await;
        }
        // Anything that is said of this instance is a reason to look again, and so is having missed something.
        loop {
            match live.recv().await {
                Ok(event) if event.instance.as_ref() != Some(id) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

struct Reader {
    sender: mpsc::Sender<io::Result<Bytes>>,
    follow: bool,
    signal: Signal,
}

/// How far a file was read.
struct Place {
    path: PathBuf,
    offset: u64,
    /// Whether the replica writes to it; a rotated file is only read once.
    current: bool,
}

impl Reader {
    /// Sends the end of each stream; when it follows, also what comes, until `gone` ends or the reader leaves.
    ///
    /// # Errors
    /// When a file cannot be read, and when Weir ends before.
    async fn run(mut self, paths: Vec<PathBuf>, lines: usize, gone: impl Future<Output = ()>) -> io::Result<()> {
        let mut gone = std::pin::pin!(gone);
        let mut last = !self.follow;
        let mut places = places(paths, lines).await?;
        loop {
            for place in &mut places {
                if !self.copy(place).await? {
                    return Ok(());
                }
            }
            places.retain(|place| place.current);
            if last || places.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                () = &mut gone => last = true,
                () = self.sender.closed() => return Ok(()),
                () = self.signal.reached(Phase::Stopping) => return Err(io::Error::other("weir ends")),
            }
        }
    }

    /// Sends what a file has beyond its place; false when the reader is gone.
    async fn copy(&self, place: &mut Place) -> io::Result<bool> {
        let mut file = match File::open(&place.path).await {
            Ok(file) => file,
            // Not written yet, or rotated away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        if file.metadata().await?.len() < place.offset {
            place.offset = 0;
        }
        file.seek(SeekFrom::Start(place.offset)).await?;
        loop {
            let mut chunk = Vec::new();
            let read = (&mut file).take(CHUNK_BYTES).read_to_end(&mut chunk).await?;
            if read == 0 {
                return Ok(true);
            }
            place.offset += read as u64;
            if self.sender.send(Ok(chunk.into())).await.is_err() {
                return Ok(false);
            }
        }
    }
}

/// Returns where to start in each file so that each stream shows its last `lines` lines; `paths` hold each stream's
/// rotated files, oldest first, before the current one, which alone ends in `.log`.
async fn places(paths: Vec<PathBuf>, lines: usize) -> io::Result<Vec<Place>> {
    let mut places = Vec::with_capacity(paths.len());
    let mut wanted = lines;
    for path in paths.into_iter().rev() {
        let current = path.extension().is_some_and(|extension| extension == "log");
        if current {
            wanted = lines;
        }
        let (offset, found) = tail(&path, wanted).await?;
        wanted -= found;
        places.push(Place { path, offset, current });
    }
    places.reverse();
    Ok(places)
}

/// Returns where the last `lines` lines of a file begin, within its last MiB, and how many they are.
async fn tail(path: &Path, lines: usize) -> io::Result<(u64, usize)> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, 0)),
        Err(error) => return Err(error),
    };
    let length = file.metadata().await?.len();
    let start = length.saturating_sub(MAX_TAIL_BYTES);
    file.seek(SeekFrom::Start(start)).await?;
    let mut text = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut text).await?;
    let (offset, found) = last_lines(&text, lines, start == 0);
    Ok((start + offset as u64, found))
}

/// Returns where the last `lines` lines of `text` begin and how many there are; a first line that may be cut is left out.
fn last_lines(text: &[u8], lines: usize, whole: bool) -> (usize, usize) {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let first = if whole { 0 } else { memchr::memchr(b'\n', text).map_or(text.len(), |at| at + 1) };
    let (mut offset, mut found) = (text.len(), 0);
    let breaks = memchr::memrchr_iter(b'\n', body).map(|at| at + 1).take_while(|at| *at > first);
    for at in breaks.chain((first < text.len()).then_some(first)).take(lines) {
        (offset, found) = (at, found + 1);
    }
    (offset, found)
}

#[cfg(test)]
mod tests {
    use super::{Reader, last_lines};
    use crate::lifecycle;
    use std::future::pending;
    use std::io::Write;
    use std::path::PathBuf;
    use std::time::Duration;
    use tokio::sync::mpsc;

    #[test]
    fn finds_the_last_lines() {
        let text = b"one\ntwo\nthree\n";
        let last = |lines| {
            let (offset, found) = last_lines(text, lines, true);
            (std::str::from_utf8(&text[offset..]).unwrap(), found)
        };
        assert_eq!(last(0), ("", 0));
        assert_eq!(last(1), ("three\n", 1));
        assert_eq!(last(2), ("two\nthree\n", 2));
        assert_eq!(last(3), ("one\ntwo\nthree\n", 3));
        assert_eq!(last(9), ("one\ntwo\nthree\n", 3));
        assert_eq!(last_lines(b"", 5, true), (0, 0));
        assert_eq!(last_lines(b"a\nunfinished", 1, true), (2, 1));
        assert_eq!(last_lines(b"cut\nline\n", 9, false), (4, 1), "a line that may be cut is left out");
        assert_eq!(last_lines(b"cut", 9, false), (3, 0));
    }

    /// Two log files in a directory of their own.
    fn files(name: &str) -> (PathBuf, PathBuf) {
        let directory = std::env::temp_dir().join(format!("weir-logs-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        (directory.join("web.stdout.log"), directory.join("web.stderr.log"))
    }

    async fn until(receiver: &mut mpsc::Receiver<std::io::Result<bytes::Bytes>>, text: &mut String, part: &str) {
        while !text.contains(part) {
            let chunk = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await.unwrap();
            let chunk = chunk.unwrap_or_else(|| panic!("ended without {part:?}: {text}")).unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    #[tokio::test]
    async fn shows_the_end_of_each_file_and_ends() {
        let (out, error) = files("end");
        std::fs::write(&out, "a\nb\nc\n").unwrap();
        std::fs::write(&error, "x\ny\n").unwrap();
        let (_trigger, signal) = lifecycle::drain();
        let (sender, mut receiver) = mpsc::channel(8);
        let missing = out.with_extension("none");
        Reader { sender, follow: false, signal }.run(vec![missing, out, error], 2, pending()).await.unwrap();
        let mut text = String::new();
        while let Some(chunk) = receiver.recv().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        assert_eq!(text, "b\nc\nx\ny\n");
    }

    /// What comes until the instance is gone is shown; where Weir ends before, the answer does not end as if it were whole.
    #[tokio::test]
    async fn a_follower_hears_all_or_that_it_did_not() {
        let (out, _) = files("whole");
        std::fs::write(&out, "first\n").unwrap();
        let (trigger, signal) = lifecycle::drain();
        let (sender, mut receiver) = mpsc::channel(8);
        let late = async { std::fs::write(&out, "first\nlast words\n").unwrap() };
        let reader = Reader { sender: sender.clone(), follow: true, signal: signal.clone() };
        reader.run(vec![out.clone()], 9, late).await.unwrap();
        let mut text = String::new();
        until(&mut receiver, &mut text, "last words").await;
        trigger.raise(lifecycle::Phase::Stopping);
        let reader = Reader { sender, follow: true, signal };
        assert!(reader.run(vec![out], 9, pending()).await.is_err());
    }

    #[tokio::test]
    async fn goes_back_into_rotated_files_for_missing_lines() {
        let (out, error) = files("rotated");
        let rotated = |age| out.with_extension(format!("log.{age}"));
        for (path, text) in [(rotated(2), "1\n2\n"), (rotated(1), "3\n4\n"), (out.clone(), "5\n"), (error.clone(), "")]
        {
            std::fs::write(path, text).unwrap();
        }
        for (lines, expected) in [(1, "5\n"), (2, "4\n5\n"), (4, "2\n3\n4\n5\n"), (99, "1\n2\n3\n4\n5\n")] {
            let (_trigger, signal) = lifecycle::drain();
            let (sender, mut receiver) = mpsc::channel(8);
            let paths = vec![rotated(2), rotated(1), out.clone(), error.clone()];
            Reader { sender, follow: false, signal }.run(paths, lines, pending()).await.unwrap();
            let mut text = String::new();
            while let Some(chunk) = receiver.recv().await {
                text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
            }
            assert_eq!(text, expected);
        }
    }

    #[tokio::test]
    async fn follows_across_a_rotation_until_the_reader_leaves() {
        let (out, error) = files("follow");
        std::fs::write(&out, "old\nfirst\n").unwrap();
        let (_trigger, signal) = lifecycle::drain();
        let (sender, mut receiver) = mpsc::channel(8);
        let reader = Reader { sender, follow: true, signal };
        let reading = tokio::spawn(reader.run(vec![out.clone(), error.clone()], 1, pending()));
        let mut text = String::new();
        until(&mut receiver, &mut text, "first").await;
        let append = |path: &PathBuf, line: &str| {
            let mut file = std::fs::File::options().append(true).create(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        };
        append(&out, "second\n");
        append(&error, "appears later\n");
        until(&mut receiver, &mut text, "second").await;
        until(&mut receiver, &mut text, "appears later").await;
        // Copy and truncate: what is written next starts a shorter file.
        std::fs::write(&out, "").unwrap();
        append(&out, "third\n");
        until(&mut receiver, &mut text, "third").await;
        assert!(!text.contains("old"), "{text}");
        drop(receiver);
        tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap().unwrap().unwrap();
    }
}
