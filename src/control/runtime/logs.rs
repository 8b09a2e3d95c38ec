//! Log files of processes: where they are, how large they grow, when they go.
//!
//! Each instance has `<id>.stdout.log` and `<id>.stderr.log`, which the process itself appends to: a pipe to Weir would
//! break with Weir. A file above 10 MiB is copied aside and truncated, so the writer need not reopen it; lines written
//! between the copy's end and the truncation are lost (the price that logrotate's `copytruncate` pays too).

use crate::model::InstanceId;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Size in bytes above which a file is rotated.
const MAX_FILE_BYTES: u64 = 10 << 20;
/// Files per stream, the current one included: 30 MiB in all.
const FILES: usize = 3;
/// Ended instances whose files are kept, so that the reason of a crash loop can be read but does not fill the disk.
const ENDED_KEPT: usize = 64;

const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// The log folder of a runtime.
#[derive(Debug)]
pub(super) struct Logs {
    folder: PathBuf,
    /// Ended instances, oldest first.
    ended: VecDeque<String>,
}

impl Logs {
    /// Makes the folder, for this user only, and takes over what an earlier Weir left as files of ended instances.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut found: Vec<_> = fs::read_dir(folder)?
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let id = name.strip_suffix(".stdout.log")?.to_owned();
                Some((entry.metadata().and_then(|metadata| metadata.modified()).ok()?, id))
            })
            .collect();
        found.sort();
        // Nothing goes yet: some of it may be adopted.
        Ok(Self { folder: folder.to_owned(), ended: found.into_iter().map(|(_, id)| id).collect() })
    }

    /// Notes that the instance runs after all: it is adopted.
    pub(super) fn revive(&mut self, id: &InstanceId) {
        self.ended.retain(|ended| ended != id.as_str());
    }

    /// Notes that the instance has ended; its files go when enough others have ended after it.
    pub(super) fn retire(&mut self, id: &InstanceId) {
        self.ended.push_back(id.to_string());
        self.prune();
    }

    fn prune(&mut self) {
        while self.ended.len() > ENDED_KEPT {
            let Some(id) = self.ended.pop_front() else { return };
            for path in STREAMS.iter().flat_map(|stream| files(&self.folder, &id, stream)) {
                // It may never have been rotated.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Returns the names of a stream's files, newest first.
fn files(folder: &Path, id: &str, stream: &str) -> [PathBuf; FILES] {
    std::array::from_fn(|age| match age {
        0 => folder.join(format!("{id}.{stream}.log")),
        age => folder.join(format!("{id}.{stream}.log.{age}")),
    })
}

/// Returns the instance's existing files: each stream oldest first, standard output before standard error.
pub(super) fn existing(folder: &Path, id: &InstanceId) -> Vec<PathBuf> {
    let all = STREAMS.iter().flat_map(|stream| files(folder, id.as_str(), stream).into_iter().rev());
    all.filter(|path| path.exists()).collect()
}

/// Opens the two files for appending, standard output first; readable by this user only.
///
/// # Errors
/// The error of open(2).
pub(super) fn create(folder: &Path, id: &InstanceId) -> io::Result<(File, File)> {
    let open = |stream| {
        let [current, ..] = files(folder, id.as_str(), stream);
        OpenOptions::new().create(true).append(true).mode(0o600).open(current)
    };
    Ok((open("stdout")?, open("stderr")?))
}

/// Rotates the instance's files that are too large; blocks for the time of copying 10 MiB.
///
/// # Errors
/// The first error of copying, renaming or truncating; the file then grows until the next try.
pub(super) fn rotate(folder: &Path, id: &InstanceId) -> io::Result<()> {
    for stream in STREAMS {
        rotate_stream(&files(folder, id.as_str(), stream), MAX_FILE_BYTES)?;
    }
    Ok(())
}

fn rotate_stream(files: &[PathBuf; FILES], most_bytes: u64) -> io::Result<()> {
    let [current, newest, ..] = files;
    let is_large = || fs::metadata(current).is_ok_and(|metadata| metadata.len() > most_bytes);
    if !is_large() {
        return Ok(());
    }
    // While one Weir hands over to the next, both look after the files.
    let writer = OpenOptions::new().write(true).open(current)?;
    if writer.try_lock().is_err() || !is_large() {
        return Ok(());
    }
    for pair in files.windows(2).skip(1).rev() {
        if let [from, to] = pair
            && from.exists()
        {
            fs::rename(from, to)?;
        }
    }
    // `fs::copy` keeps the mode, so the copy is for this user only too.
    fs::copy(current, newest)?;
    writer.set_len(0)?;
    // By word: a child that was forked meanwhile has the descriptor, and so the lock, until it executes its program.
    writer.unlock()
}

#[cfg(test)]
mod tests {
    use super::{ENDED_KEPT, FILES, Logs, create, existing, files, rotate_stream};
    use crate::model::InstanceId;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("weir-logs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn rotates_by_copy_and_truncation_and_keeps_three_files() {
        let folder = folder("rotate");
        Logs::open(&folder).unwrap();
        let id = InstanceId::parse("web-aaaaaa").unwrap();
        let (mut out, _err) = create(&folder, &id).unwrap();
        let names = files(&folder, id.as_str(), "stdout");
        for round in 0..5 {
            out.write_all(format!("round {round}\n").as_bytes()).unwrap();
            rotate_stream(&names, 100).unwrap();
            assert!(!names[0].metadata().unwrap().permissions().mode() & 0o077 == 0o077);
            rotate_stream(&names, 4).unwrap();
            assert_eq!(fs::read_to_string(&names[0]).unwrap(), "");
        }
        out.write_all(b"round 5\n").unwrap();
        let found = existing(&folder, &id);
        assert_eq!(found.len(), FILES + 1);
        let text: String = found.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        assert_eq!(text, "round 3\nround 4\nround 5\n");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn keeps_the_files_of_the_last_ended_instances_also_across_a_restart() {
        let folder = folder("ended");
        let mut logs = Logs::open(&folder).unwrap();
        let id = |i: usize| InstanceId::parse(&format!("web-{i}")).unwrap();
        for i in 0..ENDED_KEPT + 3 {
            create(&folder, &id(i)).unwrap();
            logs.retire(&id(i));
        }
        assert!(existing(&folder, &id(2)).is_empty());
        assert_eq!(existing(&folder, &id(3)).len(), 2);
        let mut again = Logs::open(&folder).unwrap();
        create(&folder, &id(1000)).unwrap();
        again.retire(&id(1000));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2 * ENDED_KEPT);
        assert_eq!(existing(&folder, &id(1000)).len(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
