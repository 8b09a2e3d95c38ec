//! The API's doors: a loopback TCP address and a Unix socket that only its owner may open.
//!
//! The socket is bound inside a directory of mode 0700, made 0600, then moved to its place: at no moment can anybody
//! else connect. A file left by a dead Weir is replaced; a socket that somebody answers on is refused by name.

use crate::admin::Options;
use crate::net;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, UnixListener};

/// Why the API cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is reachable from other machines.
    #[error("admin address {0} is not a loopback address; use 127.0.0.1 or [::1], the API has no password")]
    NotLoopback(SocketAddr),
    /// The address cannot be bound.
    #[error(transparent)]
    Tcp(net::BindError),
    /// Somebody answers on the socket.
    #[error("another Weir listens on {}; stop it, or give this one another `[admin] socket`", .0.display())]
    Live(PathBuf),
    /// Something that is no socket stands in its place.
    #[error("{} exists and is no socket; remove it, or set another `[admin] socket`", .0.display())]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("create admin socket {}", path.display())]
    Unix {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The listening sockets of the API.
#[derive(Debug)]
pub struct Listeners {
    pub(super) tcp: Option<TcpListener>,
    pub(super) unix: Option<(UnixListener, SocketFile)>,
}

impl Listeners {
    /// Returns the bound TCP address, which tells the port when 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }
}

/// The socket's file; removed on drop unless another one has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode of the file that was made.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // It may be gone already; there is nobody left to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds what the options ask for. Call inside a runtime.
///
/// # Errors
/// [`BindError`] when an address is no loopback address, is in use or cannot be bound.
pub fn bind(options: &Options) -> Result<Listeners, BindError> {
    let tcp = options.listen.map(bind_tcp).transpose()?;
    let unix = options.socket.as_deref().map(bind_unix).transpose()?;
    Ok(Listeners { tcp, unix })
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    let mut listeners = net::bind(address, 1).map_err(BindError::Tcp)?;
    let unusable = |source| BindError::Tcp(net::BindError { address, holder: None, source });
    let listener = listeners.pop().ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
    TcpListener::from_std(listener).map_err(unusable)
}

fn bind_unix(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => return Err(BindError::Live(path.to_owned())),
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
    make().map_err(|source| BindError::Unix { path: path.to_owned(), source })
}

fn place(private: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let temporary = private.join("s");
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity: identity(path)? }))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::{BindError, bind};
    use crate::admin::Options;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("weir-admin-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    fn socket_at(path: &std::path::Path) -> Options {
        Options { listen: None, socket: Some(path.to_owned()), ..Options::default() }
    }

    #[tokio::test]
    async fn refuses_an_address_that_others_can_reach() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9600"] {
            let options = Options { listen: Some(address.parse().unwrap()), ..Options::default() };
            assert!(matches!(bind(&options), Err(BindError::NotLoopback(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused() {
        let first = bind(&Options { listen: Some("127.0.0.1:0".parse().unwrap()), ..Options::default() }).unwrap();
        let second = bind(&Options { listen: first.address(), ..Options::default() }).unwrap_err();
        assert!(matches!(&second, BindError::Tcp(error) if error.source.kind() == std::io::ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn the_socket_is_private_replaces_a_stale_one_and_never_a_live_one() {
        let directory = scratch("socket");
        let path = directory.join("weir.sock");
        // A dead Weir left its file: nobody listens on it any more.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(&socket_at(&path)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
        let refused = bind(&socket_at(&path)).unwrap_err();
        assert!(matches!(&refused, BindError::Live(_)) && refused.to_string().contains("weir.sock"));
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&socket_at(&path)), Err(BindError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn a_missing_directory_is_made_for_its_owner_only() {
        let directory = scratch("parent");
        let first = bind(&socket_at(&directory.join("a/b/weir.sock"))).unwrap();
        assert_eq!(std::fs::metadata(directory.join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        drop(first);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
