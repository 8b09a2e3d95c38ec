//! A worker for unit tests, without a runtime and without sockets.

use crate::lifecycle::drain;
use crate::proxy::options::Options;
use crate::proxy::state::{Shared, Worker};
use crate::proxy::tls::Tls;
use crate::table::{Snapshot, channel, names::Names};
use crate::telemetry::{Handshakes, Metrics};
use std::rc::Rc;
use std::sync::Arc;

/// A worker with an empty table and the default options.
pub(crate) fn worker() -> Rc<Worker> {
    let (_publisher, table) = channel(Snapshot::empty(Names::default()));
    let (_trigger, signal) = drain();
    let shared = Shared {
        options: Options::default(),
        table,
        metrics: Metrics::new(),
        access: None,
        tls: Tls::new(Handshakes::new().unwrap()),
        challenges: Default::default(),
        signal,
        spread: Arc::default(),
        admissions: Default::default(),
        outgoing: Default::default(),
    };
    let shard = shared.metrics.shard();
    Rc::new(Worker::new(0, &shared, shard))
}
