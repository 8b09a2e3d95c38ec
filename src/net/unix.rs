//! Unix listening sockets that only their owner may open.
//!
//! The socket is bound inside a directory of mode 0700, made 0600, then moved to its place: at no moment can anybody
//! else connect. A file left by a dead Weir is replaced; a socket that somebody answers on is refused by name.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a Unix socket cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum UnixError {
    /// Somebody answers on it.
    #[error("somebody listens on {}", .0.display())]
    Live(PathBuf),
    /// Something that is no socket stands in its place.
    #[error("{} exists and is no socket", .0.display())]
    NoSocket(PathBuf),
    /// It cannot be made.
    #[error("create {}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The socket's file; removed on drop unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file that was made; `None`: somebody else removes it.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Takes charge of a file that is there.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Some(identity(path)?) })
    }

    /// Leaves the file to somebody else.
    pub(super) fn leave(mut self) {
        self.identity = None;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| Some(now) == self.identity) {
            // It may be gone already; there is nobody left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a nonblocking socket of mode 0600; a missing directory is made with mode 0700.
///
/// # Errors
/// [`UnixError`] with the path.
pub fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), UnixError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(UnixError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(UnixError::Live(path.to_owned())),
        // Absent, or left by a dead Weir: the move below replaces it.
        Ok(_) | Err(_) => {}
    }
    let make = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !parent.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        // Short names: the path of a socket holds at most 107 octets (unix(7)).
        let private = parent.join(format!(".w{}", std::process::id()));
        let _ = fs::remove_dir_all(&private);
        fs::DirBuilder::new().mode(0o700).create(&private)?;
        let made = place(&private, path);
        let _ = fs::remove_dir_all(&private);
        made
    };
    make().map_err(|source| UnixError::System { path: path.to_owned(), source })
}

fn place(private: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let temporary = private.join("s");
    let listener = UnixListener::bind(&temporary)?;
    listener.set_nonblocking(true)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok((listener, SocketFile::at(path)?))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}
