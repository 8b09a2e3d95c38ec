//! One accepted socket, told once.

use crate::proxy::http::{Downstream, h1};
use crate::proxy::state::{Open, Worker};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Serves a connection to its end. `open` counts it; the peer comes with whether it is a trusted proxy.
pub(crate) async fn serve(open: Open, worker: Rc<Worker>, stream: TcpStream, peer: (IpAddr, bool), listener: Arc<str>) {
    // Small answers must not wait for the client's delayed acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let mut down = Downstream::new(stream, peer, listener, worker.timers.register());
    h1::serve(&worker, &mut down).await;
    drop(open);
}
