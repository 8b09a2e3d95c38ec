//! A tunnel after the endpoint's 101: octets both ways until both sides closed, idle for long, or the drain deadline.
//!
//! The in-flight guard is held to the end, so a drain waits for tunnels too.

use crate::net::Stream;
use crate::proxy::copy::{Relay, Watch};
use crate::proxy::http::Downstream;
use crate::proxy::pick::Picked;
use crate::proxy::state::Worker;
use std::future::poll_fn;

/// Carries a tunnel to its end; `rest` came from the endpoint behind its 101.
pub(crate) async fn tunnel(
    worker: &Worker,
    down: &mut Downstream,
    mut up: Stream,
    rest: Vec<u8>,
    picked: Picked,
    idle_ms: u64,
) {
    if down.stream.watch().is_err() {
        return;
    }
    let watch = Watch::new(worker, &down.deadline, &picked, idle_ms);
    let carry = std::mem::take(&mut down.carry);
    let mut relay = Relay::new(watch, (&mut down.stream, &mut up), (carry, rest));
    poll_fn(|cx| relay.poll(cx)).await;
    drop(relay);
    drop(picked);
}
