//! What keeper and serving process say to each other: one packet of a Unix socket each, with descriptors beside it.
//!
//! A packet is one line of words and, after the line's end, octets for what words cannot hold (a path, a text for
//! people). Words are plain ASCII without blanks. Both sides skip words that they do not know at the end of a line, so
//! that an older keeper can serve a newer process.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors of one packet; the kernel takes 253 (SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 128;
/// Octets of one packet: a path of 4,096 and a few words.
const MAX_BYTES: usize = 8 * 1024;

/// One packet.
#[derive(Debug, Default)]
pub struct Message {
    /// The line.
    pub line: String,
    /// What follows the line.
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// Returns the words of the line.
    pub fn words(&self) -> Vec<&str> {
        self.line.split(' ').collect()
    }

    /// Returns what follows the line as text for people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one packet.
///
/// # Errors
/// When it is too large, or the other side is gone.
pub fn send(socket: impl AsFd, line: &str, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    debug_assert!(!line.contains('\n') && descriptors.len() <= MAX_DESCRIPTORS);
    if line.len() + 1 + body.len() > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message to or from the keeper is too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let parts = [IoSlice::new(line.as_bytes()), IoSlice::new(b"\n"), IoSlice::new(body)];
    // A packet is sent whole or not at all. NOSIGNAL: the other side may be gone.
    rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut beside, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one packet, waiting as the socket does; `None` when the other side is gone.
///
/// # Errors
/// The errno of recvmsg(2), also `EAGAIN` on a nonblocking socket.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut buffer = vec![0u8; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut buffer)], &mut beside, RecvFlags::CMSG_CLOEXEC)
    });
    let bytes = match received {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::CONNRESET) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut descriptors = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // No packet of ours is empty: every line has its end.
    if bytes == 0 {
        return Ok(None);
    }
    buffer.truncate(bytes);
    let end = buffer.iter().position(|byte| *byte == b'\n').unwrap_or(bytes);
    let body = buffer.get(end + 1..).unwrap_or_default().to_vec();
    buffer.truncate(end);
    Ok(Some(Message { line: String::from_utf8_lossy(&buffer).into_owned(), body, descriptors }))
}

#[cfg(test)]
mod tests {
    use super::{MAX_DESCRIPTORS, receive, send};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn words_octets_and_descriptors_arrive_as_they_were_sent_and_the_end_is_seen() {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        send(&a, "bind tcp 2", b"/a path\n\xff", &[]).unwrap();
        send(&a, "ready", b"", &vec![a.as_fd(); MAX_DESCRIPTORS]).unwrap();
        let first = receive(&b).unwrap().unwrap();
        assert_eq!((first.words(), &first.body[..]), (vec!["bind", "tcp", "2"], &b"/a path\n\xff"[..]));
        let second = receive(&b).unwrap().unwrap();
        assert_eq!((second.line.as_str(), second.descriptors.len()), ("ready", MAX_DESCRIPTORS));
        drop((a, second));
        assert!(receive(&b).unwrap().is_none());
        assert!(send(&b, "late", b"", &[]).is_err(), "and no signal");
    }
}
