//! What a service had to do since the last look, and what it has to do it with. Values only.

/// One sample of a service: counts since the sample before, and what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Time since the sample before, seconds.
    pub elapsed_s: f64,
    /// Requests that came.
    pub arrivals: f64,
    /// Requests that an endpoint served to their end, tunnels left out.
    pub served: f64,
    /// Sum of their times in service, seconds: from the pick to the end of the answer.
    pub service_s: f64,
    /// Sum of the squares of those times.
    pub service_s2: f64,
    /// Requests that ended, however.
    pub ended: f64,
    /// Those of them that took longer than the objective, or never reached an endpoint.
    pub late: f64,
    /// Requests in service now, tunnels left out.
    pub in_service: u32,
    /// Requests that wait for a free replica now; streams that wait for a first one too.
    pub queued: u32,
    /// Whether something else used it since: streams or tunnels, or a DNS answer that names a replica and may still be cached.
    pub in_use: bool,
}

impl Load {
    /// Returns whether anybody used the service since the sample before.
    pub fn is_used(&self) -> bool {
        self.in_use || self.arrivals > 0.0 || self.ended > 0.0 || self.in_service > 0 || self.queued > 0
    }
}

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fleet {
    /// Replicas that are wanted: ordered, whether they serve yet or not.
    pub wanted: u32,
    /// Replicas that serve.
    pub ready: u32,
    /// Requests that one serves at once.
    pub slots: u32,
    /// Time from the start of a replica until it serves, seconds; nine of ten take no longer.
    pub cold_start_s: f64,
}
