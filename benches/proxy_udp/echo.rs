//! Both ends: an endpoint that sends back what it gets, and clients that keep some datagrams on the way.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use std::cell::Cell;
use std::error::Error;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use weir::clock;
use weir::sys::datagram::{BATCH, Batch, Peer, receive_merged, send_many, send_merged};

/// Room for those that come together.
const TRAIN_ROOM: usize = 1 << 16;
/// A datagram that did not come back by then is lost.
const LOST_AFTER: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// Whether datagrams leave and come together at both ends, as in programs that speak QUIC.
pub(crate) static TRAINS: AtomicBool = AtomicBool::new(false);

/// Serves the endpoint on a thread of its own, as long as the program runs; returns its address.
pub(crate) fn serve() -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    // All that is on the way at once finds room.
    SockRef::from(&socket).set_recv_buffer_size(1 << 21)?;
    let address = socket.local_addr()?;
    std::thread::spawn(move || {
        let mut batch = Batch::new(TRAIN_ROOM, TRAIN_ROOM);
        let mut merged = false;
        loop {
            if TRAINS.load(Ordering::Relaxed) && !std::mem::replace(&mut merged, true) {
                let _ = receive_merged(&socket);
            }
            let Ok(count) = batch.receive(&socket) else { continue };
            if TRAINS.load(Ordering::Relaxed) {
                answer_in_trains(&socket, &batch, count);
                continue;
            }
            for index in 0..count {
                let Some((request, reply, _)) = batch.exchange(index) else { continue };
                let length = request.len();
                reply[..length].copy_from_slice(request);
                batch.set_reply(index, length);
            }
            batch.send(&socket);
        }
    });
    Ok(address)
}

/// Sends consecutive datagrams of one peer back together.
fn answer_in_trains(socket: &UdpSocket, batch: &Batch, count: usize) {
    let merges = Cell::new(true);
    let (mut train, mut whose): (Vec<&[u8]>, Option<&Peer>) = (Vec::with_capacity(BATCH), None);
    let all = (0..count).filter_map(|index| Some((index, batch.received(index)?.1)));
    for (index, peer) in all {
        for piece in batch.pieces(index) {
            if train.len() == BATCH || whose.is_some_and(|other| other.address() != peer.address()) {
                let _ = send_merged(socket, &train, whose, &merges);
                train.clear();
            }
            train.push(piece);
            whose = Some(peer);
        }
    }
    let _ = send_merged(socket, &train, whose, &merges);
}

/// What became of the datagrams of a stretch.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) returned: u64,
    /// Came back to somebody else, or not as sent.
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
}

/// The clients of one peer: a flow each.
pub(crate) struct Clients {
    sockets: Vec<UdpSocket>,
    /// What each sends: begins with its number.
    payloads: Vec<Vec<u8>>,
    window: usize,
    batch: Batch,
    merges: Cell<bool>,
}

impl Clients {
    /// Opens `flows` sockets, each of which keeps `window` datagrams of `octets` on the way.
    pub(crate) fn open(proxy: SocketAddr, (flows, window, octets): (usize, usize, usize)) -> io::Result<Self> {
        let (mut sockets, mut payloads) = (Vec::new(), Vec::new());
        for flow in 0..flows {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(proxy)?;
            socket.set_nonblocking(true)?;
            if TRAINS.load(Ordering::Relaxed) {
                receive_merged(&socket)?;
            }
            sockets.push(socket);
            let mut payload = vec![0x5a; octets.max(8)];
            payload[..8].copy_from_slice(&(flow as u64).to_be_bytes());
            payloads.push(payload);
        }
        Ok(Self {
            sockets,
            payloads,
            window: window.min(BATCH),
            batch: Batch::new(TRAIN_ROOM, 1),
            merges: Cell::new(true),
        })
    }

    /// Waits until every flow has an answer: a peer may not be ready when its process is.
    pub(crate) fn warm(&mut self) -> Result<(), Box<dyn Error>> {
        let deadline = clock::now() + Duration::from_secs(10);
        loop {
            let count = self.run(Duration::from_millis(50))?;
            // One that loses some datagrams of many runs all the same.
            if count.returned > 10 * count.lost && count.wrong == 0 {
                return Ok(());
            }
            if clock::now() > deadline {
                return Err(format!("no answers: {count:?}").into());
            }
        }
    }

    /// Keeps datagrams on the way for a time, then waits for the last.
    pub(crate) fn run(&mut self, time: Duration) -> io::Result<Count> {
        let end = clock::now() + time;
        let mut count = Count::default();
        let mut on_the_way = vec![0usize; self.sockets.len()];
        for (flow, some) in on_the_way.iter_mut().enumerate() {
            *some += self.send(flow, self.window)?;
        }
        let mut goes_on = true;
        while on_the_way.iter().any(|&some| some > 0) {
            let mut polled: Vec<PollFd<'_>> = self.sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
            if poll(&mut polled, Some(&LOST_AFTER))? == 0 {
                count.lost += on_the_way.iter().map(|&some| some as u64).sum::<u64>();
                return Ok(count);
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            drop(polled);
            goes_on = goes_on && clock::now() < end;
            for flow in (0..ready.len()).filter(|&flow| ready[flow]) {
                let came = self.receive(flow, &mut count);
                on_the_way[flow] -= came.min(on_the_way[flow]);
                if goes_on && came > 0 {
                    on_the_way[flow] += self.send(flow, came)?;
                }
            }
        }
        Ok(count)
    }

    fn send(&self, flow: usize, count: usize) -> io::Result<usize> {
        let all = [&self.payloads[flow][..]; BATCH];
        let sent = match TRAINS.load(Ordering::Relaxed) {
            true => send_merged(&self.sockets[flow], &all[..count], None, &self.merges),
            false => send_many(&self.sockets[flow], &all[..count], None),
        };
        match sent {
            // The peer is not there yet: what was sent before was refused.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(0),
            sent => sent,
        }
    }

    fn receive(&mut self, flow: usize, count: &mut Count) -> usize {
        let Ok(came) = self.batch.receive(&self.sockets[flow]) else { return 0 };
        let mut all = 0;
        for datagram in (0..came).flat_map(|index| self.batch.pieces(index)) {
            if *datagram == *self.payloads[flow] {
                count.returned += 1;
            } else {
                count.wrong += 1;
            }
            all += 1;
        }
        all
    }
}
