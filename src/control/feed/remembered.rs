//! Who follows, by name, in a file: a Weir that is started again waits for them as for any that says nothing for a moment, so
//! that nothing is stopped that they still use while they come back.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names in the file at most; further ones are waited for only while they follow.
const MAX_NAMES: usize = 1024;
/// Largest file that is read, in octets: so many names of 63 letters.
const MAX_FILE: u64 = 64 * MAX_NAMES as u64;

/// The names, and whether the file has them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    path: Option<PathBuf>,
    names: BTreeSet<Arc<str>>,
    is_news: bool,
}

impl Remembered {
    /// Reads the file; one that is not there, or is none, names nobody.
    pub(super) fn open(path: PathBuf) -> Self {
        let fits = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
        let text = if fits { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let names = text.lines().filter(|line| crate::model::parse_label(line, 63).is_ok()).take(MAX_NAMES);
        Self { names: names.map(Arc::from).collect(), path: Some(path), is_news: false }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter()
    }

    pub(super) fn add(&mut self, name: &Arc<str>) {
        self.is_news |= self.names.len() < MAX_NAMES && self.names.insert(name.clone());
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.is_news |= self.names.remove(name);
    }

    /// Returns what is to be written, and where.
    pub(super) fn news(&mut self) -> Option<(PathBuf, String)> {
        let path = self.path.clone().filter(|_| std::mem::take(&mut self.is_news))?;
        Some((path, self.names.iter().map(|name| format!("{name}\n")).collect()))
    }
}

/// Writes the file in place of the one before.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_data()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::{Remembered, write};

    #[test]
    fn names_survive_and_what_is_none_names_nobody() {
        let path = std::env::temp_dir().join(format!("weir-followers-{}", std::process::id()));
        let mut remembered = Remembered::open(path.clone());
        for name in ["b", "a", "b"] {
            remembered.add(&name.into());
        }
        remembered.remove("c");
        let (at, text) = remembered.news().unwrap();
        write(&at, &text).unwrap();
        assert!(remembered.news().is_none());
        let names = |path| Remembered::open(path).names().map(|name| name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(path.clone()), ["a", "b"]);
        std::fs::write(&path, "a\n../x\n\n B\n").unwrap();
        assert_eq!(names(path.clone()), ["a"]);
        std::fs::write(&path, [0xff, b'\n']).unwrap();
        assert!(names(path.clone()).is_empty());
        std::fs::remove_file(&path).unwrap();
    }
}
