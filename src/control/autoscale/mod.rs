//! The autoscaler: how many replicas a service with `[service.scale]` is to have, each second, from the proxy's own counters.
//!
//! `sample` turns counters into a [`Load`]; `policy` turns loads into a [`Recommendation`] with every input that led to it,
//! by `forecast` (arrivals until an order serves), `held` (a load that stays), `service_time`, `staffing` (Erlang C), `budget`,
//! `stabilize` and, for services that may have no replica, `idle`; all of that is pure, with the time as an argument. `autoscaler` is the loop: it hands the number to the scheduler, which
//! ignores it while a number by hand or a rollout counts, and tells what it did. Invariants: a recommendation lies within
//! `scale.min` and `scale.max`; queue length never feeds the proportional term, so that nothing winds up while replicas
//! start; without a scaled service nothing runs.

mod autoscaler;
mod budget;
mod cold_start;
mod forecast;
mod gauges;
mod handle;
mod held;
mod idle;
mod load;
mod policy;
mod sample;
mod service_time;
mod stabilize;
mod staffing;
#[cfg(test)]
mod tests;

pub use autoscaler::{Parts, spawn};
pub use cold_start::ColdStart;
pub use gauges::ScaleGauges;
pub use handle::{Decision, Decisions, Handle};
pub use load::{Fleet, Load};
pub use policy::{Because, Recommendation, Scaler};
pub(crate) use sample::Reading;
pub use staffing::{Demand, staff};
