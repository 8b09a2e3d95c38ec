//! Reading what stands before the traffic: looked at where it waits in the kernel, and taken only when it is whole.

use rustix::net::{RecvFlags, recv};
use std::io;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How looking ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peeked<T> {
    /// What was looked for.
    Found(T),
    /// The other side ended before it was whole; so many octets came.
    Ended(usize),
}

/// Looks at the first octets, at most as many as `into` holds, until `decide` gives a result; nothing is taken. `decide` is
/// called again only when more octets came. Whoever awaits it bounds its time; where `into` is full `decide` must decide.
///
/// # Errors
/// Those of the socket; `InvalidData` when nothing is decided with `into` full.
pub async fn peek<T>(
    socket: &TcpStream,
    into: &mut [u8],
    mut decide: impl FnMut(&[u8]) -> Option<T>,
) -> io::Result<Peeked<T>> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let mut seen = 0;
        let looked = socket.try_io(Interest::READABLE, || {
            let (_, n) = recv(socket, &mut *into, RecvFlags::PEEK)?;
            seen = n;
            match decide(into.get(..n).unwrap_or_default()) {
                Some(found) => Ok(Some(found)),
                None if n == 0 || ready.is_read_closed() => Ok(None),
                None if n == into.len() => Err(io::ErrorKind::InvalidData.into()),
                // What is there stays there: only more octets make the socket ready again.
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        match looked {
            Ok(Some(found)) => return Ok(Peeked::Found(found)),
            Ok(None) => return Ok(Peeked::Ended(seen)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes as many octets as `into` holds, which were seen before.
///
/// # Errors
/// Those of the socket; `UnexpectedEof` when they are not there.
pub fn take(socket: &TcpStream, into: &mut [u8]) -> io::Result<()> {
    let mut at = 0;
    while let Some(rest) = into.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match recv(socket, rest, RecvFlags::empty())? {
            (_, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (_, n) => at += n,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Peeked, peek, take};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn octets_that_come_one_by_one_are_seen_together_and_stay() {
        let (mut client, server) = pair().await;
        let mut calls = 0;
        let mut room = [0; 16];
        let looking = peek(&server, &mut room, |octets| {
            calls += 1;
            octets.ends_with(b"!").then(|| octets.to_vec())
        });
        let writing = async {
            for octet in b"hello!" {
                client.write_all(&[*octet]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = tokio::join!(looking, writing);
        assert_eq!(found.unwrap(), Peeked::Found(b"hello!".to_vec()));
        assert!(calls <= 7, "{calls} looks at six octets");
        let mut taken = [0; 6];
        take(&server, &mut taken).unwrap();
        assert_eq!(&taken, b"hello!");
    }

    #[tokio::test]
    async fn an_end_and_too_many_octets_end_it() {
        let (mut client, server) = pair().await;
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(peek(&server, &mut [0; 16], |_| None::<()>).await.unwrap(), Peeked::Ended(3));
        let (mut client, server) = pair().await;
        client.write_all(b"abcdefgh").await.unwrap();
        assert!(peek(&server, &mut [0; 4], |_| None::<()>).await.is_err());
    }
}
