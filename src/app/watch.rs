//! When the file of the configuration, or one that it names, may have changed: hints only, its content decides.
//!
//! Watches directories, never the file: editors and deployments replace it by renames, and a volume swaps a symbolic link
//! (`..data`) somewhere on its path. So every directory that a link of the path, or the file, stands in is watched, and the
//! nearest that exists where one is missing; they are taken up anew after each change. A burst of changes is one hint, and
//! whoever writes is given time to finish. Where the kernel has no watch left the file's state is polled instead.

use crate::clock;
use crate::control::configuration::{Cause, Handle};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// A change is over when nothing more happens for so long.
const QUIET: Duration = Duration::from_millis(100);
/// A burst that does not end is looked at all the same.
const LONGEST_BURST: Duration = Duration::from_millis(500);
/// Longest wait for who opened the file for writing to close it.
const LONGEST_WRITE: Duration = Duration::from_secs(2);
/// Pause between two looks where the kernel cannot watch.
const POLL: Duration = Duration::from_secs(1);
/// Symbolic links that one path may have, as in Linux.
const MAX_LINKS: usize = 40;

/// Names of interest in each directory.
type Places = BTreeMap<PathBuf, BTreeSet<OsString>>;

/// What the kernel tells.
#[derive(Debug, Default)]
struct Bell {
    /// Rings for every event of interest.
    ring: Notify,
    /// Whether somebody is writing the file and has not closed it.
    writing: AtomicBool,
    /// What is of interest; a short lock on the watcher's thread.
    places: Mutex<Places>,
}

/// Watches some paths.
#[derive(Debug)]
pub(super) struct Watch {
    paths: Vec<PathBuf>,
    bell: Arc<Bell>,
    /// `None`: the file's state is polled.
    watcher: Option<INotifyWatcher>,
}

impl Watch {
    /// Begins to watch a path.
    pub(super) fn new(path: &Path) -> Self {
        Self::over([path.to_owned()])
    }

    /// Begins to watch some paths.
    pub(super) fn over(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let paths = absolute(paths);
        let bell = Arc::new(Bell::default());
        let hear = bell.clone();
        let watcher = INotifyWatcher::new(move |event| hear.hear(event), notify::Config::default());
        match watcher {
            Ok(watcher) => {
                let mut watch = Self { paths, bell, watcher: Some(watcher) };
                watch.take_up();
                watch
            }
            Err(error) => {
                cannot_watch(&error);
                Self { paths, bell: Arc::default(), watcher: None }
            }
        }
    }

    /// Watches other paths from now on.
    pub(super) fn move_to(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        self.paths = absolute(paths);
        self.take_up();
    }

    /// Returns how changes are noticed.
    pub(super) fn kind(&self) -> &'static str {
        if self.watcher.is_some() { "inotify" } else { "poll" }
    }

    /// Asks for a look at the file after each change; ends with the runtime.
    pub(super) async fn run(mut self, configuration: Handle) {
        loop {
            self.changed().await;
            // Before the look: what happens after it rings again.
            self.take_up();
            if configuration.reload(Cause::File).await.is_none() {
                return;
            }
        }
    }

    /// Waits for the end of a change. Not cancel-safe.
    pub(super) async fn changed(&self) {
        if self.watcher.is_none() {
            return self.polled().await;
        }
        self.bell.ring.notified().await;
        let begin = clock::now();
        loop {
            let is_quiet = timeout(QUIET, self.bell.ring.notified()).await.is_err();
            let lasts = clock::now() - begin;
            let over = match self.bell.writing.load(Ordering::Relaxed) {
                true => lasts >= LONGEST_WRITE,
                false => is_quiet || lasts >= LONGEST_BURST,
            };
            if over {
                self.bell.writing.store(false, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits until the file's state has changed and then stays for one more look.
    async fn polled(&self) {
        let look = || self.paths.iter().map(|path| state(path)).collect::<Vec<_>>();
        let before = look();
        let mut last = before.clone();
        loop {
            tokio::time::sleep(POLL).await;
            let now = look();
            if now != before && now == last {
                return;
            }
            last = now;
        }
    }

    /// Watches the directories that matter now.
    pub(super) fn take_up(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = Places::new();
        for (directory, names) in self.paths.iter().flat_map(|path| places(path)) {
            wanted.entry(directory).or_default().extend(names);
        }
        let before =
            std::mem::replace(&mut *self.bell.places.lock().unwrap_or_else(PoisonError::into_inner), wanted.clone());
        // A directory of the same name may be another one by now.
        for directory in before.keys() {
            // An error means that it is gone, and its watch with it.
            let _ = watcher.unwatch(directory);
        }
        for directory in wanted.keys() {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive)
                && !matches!(error.kind, notify::ErrorKind::PathNotFound)
            {
                cannot_watch(&error);
                self.watcher = None;
                return;
            }
        }
    }
}

fn absolute(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().map(|path| std::path::absolute(&path).unwrap_or(path)).collect()
}

fn cannot_watch(error: &notify::Error) {
    tracing::warn!(%error, "the kernel does not watch files (see fs.inotify in sysctl); they are polled");
}

impl Bell {
    /// Rings for what may concern the file; runs on the watcher's thread.
    fn hear(&self, event: notify::Result<Event>) {
        let Ok(event) = event else { return self.ring.notify_one() };
        let is_write = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let is_end = matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
        // Reading it, as Weir does, is no change.
        if matches!(event.kind, EventKind::Access(_)) && !is_end {
            return;
        }
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let concerns = |path: &PathBuf| {
            let named = || Some(places.get(path.parent()?)?.contains(path.file_name()?));
            places.contains_key(path) || named().unwrap_or(false)
        };
        if event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(concerns) {
            self.writing.store(is_write, Ordering::Relaxed);
            self.ring.notify_one();
        }
    }
}

/// Returns the directories that decide what a path leads to, each with the names in it that do.
fn places(path: &Path) -> Places {
    let mut places = Places::new();
    let mut at = PathBuf::from("/");
    let mut links = 0;
    let names = |path: &Path| -> Vec<OsString> {
        let normal = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
        normal.map(|component| component.as_os_str().to_owned()).collect()
    };
    let mut rest: Vec<OsString> = names(path).into_iter().rev().collect();
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        let link = std::fs::read_link(&next).ok().filter(|_| links < MAX_LINKS);
        if let Some(target) = link {
            links += 1;
            places.entry(at.clone()).or_default().insert(name);
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(names(&target).into_iter().rev());
        } else if rest.is_empty() || !next.is_dir() {
            // The file, or where its directory would be.
            places.entry(at.clone()).or_default().insert(name);
            break;
        } else {
            at = next;
        }
    }
    places
}

/// Returns what tells one state of a file from another; `None` when there is none.
fn state(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::{Watch, places};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tokio::time::timeout;

    const WAIT: Duration = Duration::from_secs(10);

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("weir-watch-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(fs::canonicalize(path).unwrap())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    async fn rings(watch: &mut Watch, what: &str) {
        timeout(WAIT, watch.changed()).await.unwrap_or_else(|_| panic!("no hint after: {what}"));
        watch.take_up();
    }

    #[test]
    fn every_directory_on_the_way_matters() {
        let folder = Folder::new("places");
        let root = &folder.0;
        fs::create_dir_all(root.join("real/..1")).unwrap();
        fs::write(root.join("real/..1/weir.toml"), "").unwrap();
        symlink("..1", root.join("real/..data")).unwrap();
        symlink("..data/weir.toml", root.join("real/weir.toml")).unwrap();
        symlink(root.join("real"), root.join("conf")).unwrap();
        let found = places(&root.join("conf/weir.toml"));
        let names = |path: &Path| found[path].iter().map(|n| n.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(root), ["conf"]);
        assert_eq!(names(&root.join("real")), ["..data", "weir.toml"]);
        assert_eq!(names(&root.join("real/..1")), ["weir.toml"]);
        let missing = places(&root.join("none/below/weir.toml"));
        assert!(missing.get(root).is_some_and(|names| names.contains("none".as_ref() as &std::ffi::OsStr)));
    }

    #[tokio::test]
    async fn hears_writes_renames_swapped_links_and_a_directory_that_comes_back() {
        let folder = Folder::new("hears");
        let (root, file) = (folder.0.clone(), folder.0.join("conf/weir.toml"));
        fs::create_dir_all(root.join("one")).unwrap();
        fs::create_dir_all(root.join("two")).unwrap();
        fs::write(root.join("one/weir.toml"), "1").unwrap();
        fs::write(root.join("two/weir.toml"), "2").unwrap();
        symlink("one", root.join("conf")).unwrap();
        let mut watch = Watch::new(&file);
        assert_eq!(watch.kind(), "inotify");
        fs::write(&file, "3").unwrap();
        rings(&mut watch, "a write").await;
        fs::write(root.join("one/.weir.toml.swp"), "4").unwrap();
        fs::rename(root.join("one/.weir.toml.swp"), root.join("one/weir.toml")).unwrap();
        rings(&mut watch, "a rename onto it").await;
        symlink("two", root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join("conf")).unwrap();
        rings(&mut watch, "a swapped link").await;
        fs::write(root.join("two/weir.toml"), "5").unwrap();
        rings(&mut watch, "a write behind the new link").await;
        fs::remove_dir_all(root.join("two")).unwrap();
        rings(&mut watch, "its directory was deleted").await;
        fs::create_dir(root.join("two")).unwrap();
        rings(&mut watch, "its directory came back").await;
        fs::write(root.join("two/weir.toml"), "6").unwrap();
        rings(&mut watch, "and the file").await;
        // Reading and neighbours are nothing.
        fs::read(&file).unwrap();
        fs::write(root.join("two/other.toml"), "7").unwrap();
        assert!(timeout(Duration::from_millis(400), watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn who_writes_slowly_is_waited_for() {
        use std::io::Write;
        let folder = Folder::new("slow");
        let file = folder.0.join("weir.toml");
        fs::write(&file, "").unwrap();
        let watch = Watch::new(&file);
        let path = file.clone();
        let writer = std::thread::spawn(move || {
            let mut half = fs::File::create(&path).unwrap();
            half.write_all(b"half").unwrap();
            std::thread::park_timeout(Duration::from_millis(600));
            half.write_all(b" whole").unwrap();
        });
        timeout(WAIT, watch.changed()).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "half whole");
        writer.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_kernel_the_state_is_polled() {
        let folder = Folder::new("poll");
        let file = folder.0.join("weir.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch { paths: vec![file.clone()], bell: Default::default(), watcher: None };
        assert_eq!(watch.kind(), "poll");
        assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_err(), "nothing changed");
        for text in ["22", "333"] {
            let write = async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                fs::write(&file, text).unwrap();
            };
            let (_, ()) = tokio::join!(rings(&mut watch, text), write);
        }
    }
}
