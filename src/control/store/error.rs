//! Why the store could not be opened or written.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store did not open; nothing was changed in it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds it.
    #[error("the store {} is in use{}: stop that Weir, or give this one its own store.path", path.display(), holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process that holds it, when it could be found.
        holder: Option<u32>,
    },
    /// A later Weir wrote it.
    #[error("the store {} has format {found}, written by a newer Weir; this one reads up to {known}: run the newer Weir, or give this one its own store.path", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: u32,
        /// The newest format that this Weir reads.
        known: u32,
    },
    /// The file is truncated or its content cannot be read.
    #[error("the store {} is damaged: {what}; {}", path.display(), remedy(copy.as_deref()))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
        /// The copy that the last start made, when there is one.
        copy: Option<PathBuf>,
    },
    /// The file system refused.
    #[error("failed to open the store {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Says what to do about a damaged file.
fn remedy(copy: Option<&Path>) -> String {
    let away = "or move it away to start without what it kept";
    match copy {
        Some(copy) => {
            format!("put back {}, the copy of the last start (what was changed since is lost), {away}", copy.display())
        }
        None => format!("restore it from a copy of your own, {away}"),
    }
}

/// Why a commit was refused; nothing of it is stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No room is left for the file.
    #[error("the disk of the store is full; nothing was changed")]
    Full,
    /// The file cannot be written.
    #[error("the store cannot be written: {0}; nothing was changed")]
    Failed(String),
    /// The store was closed: Weir ends, or hands over to another.
    #[error("the store is closed; nothing was changed")]
    Closed,
}
