//! The last good configuration: what a start falls back on when the file is bad.
//!
//! Two copies of the text that is in use. The keeper holds one in memory, for a serving process that is started again,
//! whatever the disk does; one stands in the state directory, on the disk before it has its name, for a start of the whole
//! program. Each is a line of format and hash, a line with the file's path, and the text as it was read. A copy counts only
//! for the file that it was read from. Next on the path: `app/start.rs`.

use crate::config::{Reader, Text};
use crate::net::Link;
use anyhow::{Context, bail};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The copy's name in the state directory.
const NAME: &str = "configuration.last";
/// Before the hash.
const FORMAT: &str = "weir-configuration 1 ";
/// Larger copies are none of ours: the largest file and its two lines.
const MAX_OCTETS: u64 = 65 * 1024 * 1024;

/// Keeps what is in use; a cheap handle.
#[derive(Debug, Clone)]
pub(super) struct LastGood {
    link: Option<Link>,
    /// The file that the text comes from; `None`: it is the program's own, and nothing is kept.
    file: Option<PathBuf>,
    state: PathBuf,
}

/// A copy that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// The file that it was read from.
    pub(super) file: PathBuf,
    /// What it said.
    pub(super) text: Text,
}

impl LastGood {
    /// Makes the keeper of a reader's text, for a state directory.
    pub(super) fn new(link: Option<Link>, reader: &Reader, state: &Path) -> Self {
        let file = reader.path().and_then(|path| std::path::absolute(path).ok());
        Self { link, file, state: state.to_owned() }
    }

    /// Keeps a text that is in use now. What cannot be kept is logged: nothing else depends on it.
    pub(super) async fn keep(&self, text: &Text) {
        let (this, text) = (self.clone(), text.clone());
        let kept = tokio::task::spawn_blocking(move || this.write(&text)).await;
        if let Ok(Err(error)) = kept {
            tracing::warn!(
                error = format!("{error:#}"),
                "the configuration in use is not kept for a start with a bad file"
            );
        }
    }

    fn write(&self, text: &Text) -> anyhow::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let whole = encode(file, text)?;
        let held = self.link.as_ref().filter(|link| !link.is_gone()).map_or(Ok(()), |link| hold(link, &whole));
        let path = self.state.join(NAME);
        let written = match fs::read(&path) {
            Ok(there) if there == whole => Ok(()),
            _ => replace(&path, &whole).with_context(|| format!("failed to write {}", path.display())),
        };
        held.context("failed to give it to the keeper").and(written)
    }
}

/// Returns what the keeper holds; an older keeper holds nothing.
pub(super) fn held(link: &Link) -> Option<Copy> {
    let answer = link.ask("held", b"").ok()?;
    let memory = File::from(answer.descriptors.into_iter().next()?);
    let length = memory.metadata().ok()?.len();
    let mut whole = vec![0; usize::try_from(length).ok().filter(|_| length <= MAX_OCTETS)?];
    // The position is shared with every earlier and later reader.
    memory.read_exact_at(&mut whole, 0).ok()?;
    decode(&whole)
}

/// Returns the copy in a state directory.
pub(super) fn stored(state: &Path) -> Option<Copy> {
    let path = state.join(NAME);
    let is_sane = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_OCTETS);
    decode(&fs::read(path).ok().filter(|_| is_sane)?)
}

fn hold(link: &Link, whole: &[u8]) -> anyhow::Result<()> {
    let mut memory = File::from(memfd_create("weir-configuration", MemfdFlags::CLOEXEC)?);
    memory.write_all(whole)?;
    let answer = link.ask_with("hold", b"", &[memory.as_fd()])?;
    if answer.words().first() != Some(&"ok") {
        bail!("it is older than this program and holds none");
    }
    Ok(())
}

/// Writes a file beside and gives it the name once it is on the disk.
fn replace(path: &Path, whole: &[u8]) -> io::Result<()> {
    let part = path.with_extension("part");
    let write = || {
        // It may hold secrets, as the file does.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(whole)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    let written = write();
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn encode(file: &Path, text: &Text) -> anyhow::Result<Vec<u8>> {
    let path = file.as_os_str().as_bytes();
    if path.contains(&b'\n') {
        bail!("the path of the file has a line feed");
    }
    Ok([FORMAT.as_bytes(), text.hash().as_bytes(), b"\n", path, b"\n", text.text.as_bytes()].concat())
}

/// Reads a copy; `None` when it is incomplete, or from another version.
fn decode(whole: &[u8]) -> Option<Copy> {
    let mut parts = whole.splitn(3, |byte| *byte == b'\n');
    let (first, path, text) = (parts.next()?, parts.next()?, parts.next()?);
    let hash = first.strip_prefix(FORMAT.as_bytes())?;
    let file = PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()));
    let text = Text { name: file.display().to_string(), text: String::from_utf8(text.to_vec()).ok()? };
    (text.hash().as_bytes() == hash).then_some(Copy { file, text })
}

#[cfg(test)]
mod tests {
    use super::{Copy, NAME, decode, encode, replace, stored};
    use crate::config::Text;
    use std::path::{Path, PathBuf};

    fn text(text: &str) -> Text {
        Text { name: "/etc/weir/weir.toml".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_copy_is_read_as_it_was_written_and_no_part_of_it_is() {
        for original in ["", "a = 1", "\n\nb = \"ä\"\n"].map(text) {
            let file = Path::new("/etc/weir/weir.toml");
            let whole = encode(file, &original).unwrap();
            assert_eq!(decode(&whole), Some(Copy { file: file.to_owned(), text: original }));
            for end in 0..whole.len() {
                assert_eq!(decode(&whole[..end]), None, "{end} octets of it");
            }
            for at in 0..whole.len() {
                let mut other = whole.clone();
                other[at] ^= 1;
                let is_path = (whole.len() - 1 > at) && decode(&other).is_some_and(|copy| copy.file != file);
                assert!(is_path || decode(&other).is_none(), "octet {at} differs");
            }
        }
        assert!(encode(Path::new("/a\nb"), &text("")).is_err());
    }

    #[test]
    fn a_copy_replaces_another_whole() {
        let state = std::env::temp_dir().join(format!("weir-last-good-{}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        assert_eq!(stored(&state), None);
        for one in ["first = 1", "second = 2"].map(text) {
            replace(&state.join(NAME), &encode(Path::new("/w"), &one).unwrap()).unwrap();
            let found = stored(&state).unwrap();
            assert_eq!((found.file, found.text.text), (PathBuf::from("/w"), one.text));
        }
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing is left beside it");
        std::fs::remove_dir_all(&state).unwrap();
    }
}
