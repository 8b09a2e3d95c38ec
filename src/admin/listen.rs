//! The API's doors: a loopback TCP address and a Unix socket that only its owner may open (`net/unix.rs`).

use crate::admin::{Options, RemoteOptions, Tokens};
use crate::net::tls::{BadFile, Door};
use crate::net::{self, Binder, UnixError, UnixFile, Wanted};
use std::io;
use std::net::SocketAddr;
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
    /// The certificate for other machines cannot be used.
    #[error("admin.remote: {0}; {hint}", hint = .0.hint)]
    Certificate(BadFile),
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
    pub(super) unix: Option<(UnixListener, UnixFile)>,
    pub(super) remote: Option<Remote>,
}

/// The door for other machines.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Door>,
    pub(super) tokens: Tokens,
}

impl Listeners {
    /// Returns the bound TCP address, which tells the port when 0 was asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Returns the bound address for other machines.
    pub fn remote_address(&self) -> Option<SocketAddr> {
        self.remote.as_ref().and_then(|remote| remote.listener.local_addr().ok())
    }

    /// Returns the tokens of other machines.
    pub fn tokens(&self) -> Option<Tokens> {
        self.remote.as_ref().map(|remote| remote.tokens.clone())
    }
}

/// Binds what the options ask for; where allowed, a free port when the wanted one is taken. Call inside a runtime.
///
/// # Errors
/// [`BindError`] when an address is no loopback address, is in use or cannot be bound.
pub fn bind(options: &Options, binder: &Binder, free: bool) -> Result<Listeners, BindError> {
    let tcp = options.listen.map(|address| bind_tcp(address, binder, free)).transpose()?;
    let unix = options.socket.as_deref().map(|path| bind_unix(path, binder)).transpose()?;
    let remote = options.remote.as_ref().map(|remote| bind_remote(remote, binder, free)).transpose()?;
    Ok(Listeners { tcp, unix, remote })
}

fn bind_remote(options: &RemoteOptions, binder: &Binder, free: bool) -> Result<Remote, BindError> {
    let tls = options.tls.clone().map(Door::open).transpose().map_err(BindError::Certificate)?;
    if tls.is_none() && !options.listen.ip().is_loopback() {
        return Err(BindError::NotLoopback(options.listen));
    }
    let listener = listen(options.listen, binder, free, "admin remote")?;
    Ok(Remote { listener, tls, tokens: Tokens::new(options.token_file.clone()) })
}

fn bind_tcp(address: SocketAddr, binder: &Binder, free: bool) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    listen(address, binder, free, "admin")
}

fn listen(address: SocketAddr, binder: &Binder, free: bool, label: &'static str) -> Result<TcpListener, BindError> {
    let mut bound = binder.tcp(&Wanted { address, count: 1, free, ahead: false, label }).map_err(BindError::Tcp)?;
    if let Some(taken) = bound.instead_of {
        tracing::warn!("{taken}; taking a free port instead");
    }
    let unusable = |source| BindError::Tcp(net::BindError { address, holder: None, source });
    let listener = bound.sockets.pop().ok_or_else(|| unusable(io::ErrorKind::NotFound.into()))?;
    TcpListener::from_std(listener).map_err(unusable)
}

fn bind_unix(path: &Path, binder: &Binder) -> Result<(UnixListener, UnixFile), BindError> {
    let (listener, file) = binder.unix(path).map_err(|error| match error {
        UnixError::Live(path) => BindError::Live(path),
        UnixError::NoSocket(path) => BindError::NoSocket(path),
        UnixError::System { path, source } => BindError::Unix { path, source },
    })?;
    let registered = UnixListener::from_std(listener);
    registered.map(|listener| (listener, file)).map_err(|source| BindError::Unix { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::{BindError, bind};
    use crate::admin::Options;
    use crate::net::Binder;
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
            assert!(matches!(bind(&options, &Binder::Local, false), Err(BindError::NotLoopback(_))), "{address}");
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused() {
        let first = bind(
            &Options { listen: Some("127.0.0.1:0".parse().unwrap()), ..Options::default() },
            &Binder::Local,
            false,
        )
        .unwrap();
        let second =
            bind(&Options { listen: first.address(), ..Options::default() }, &Binder::Local, false).unwrap_err();
        assert!(matches!(&second, BindError::Tcp(error) if error.source.kind() == std::io::ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn the_socket_is_private_replaces_a_stale_one_and_never_a_live_one() {
        let directory = scratch("socket");
        let path = directory.join("weir.sock");
        // A dead Weir left its file: nobody listens on it any more.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = bind(&socket_at(&path), &Binder::Local, false).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left behind");
        let refused = bind(&socket_at(&path), &Binder::Local, false).unwrap_err();
        assert!(matches!(&refused, BindError::Live(_)) && refused.to_string().contains("weir.sock"));
        drop(first);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&socket_at(&path), &Binder::Local, false), Err(BindError::NoSocket(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[tokio::test]
    async fn a_missing_directory_is_made_for_its_owner_only() {
        let directory = scratch("parent");
        let first = bind(&socket_at(&directory.join("a/b/weir.sock")), &Binder::Local, false).unwrap();
        assert_eq!(std::fs::metadata(directory.join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        drop(first);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
