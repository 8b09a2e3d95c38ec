#![allow(
    dead_code,
    unsafe_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a bench uses a part of it; the counting allocator is an unsafe trait; benches print and may panic"
)]
//! What the small benches share: a counting allocator, timing, values of the model.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use weir::clock;
use weir::model::{Instance, InstanceId, InstanceState, NodeId, Policy, ServiceName, ServiceSpec, Source, Verdict};
use weir::spec;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, counting per thread.
pub(crate) struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a const-initialised thread-local without
// a destructor, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + layout.size() as i64);
        // SAFETY: the caller's promise for `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as i64);
        // SAFETY: `at` came from `alloc` above with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        BYTES.set(BYTES.get() + size as i64 - layout.size() as i64);
        // SAFETY: `at` came from `alloc` above with this layout; the caller's promise for `size` is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// Returns the allocations of this thread so far.
pub(crate) fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// Returns the octets that this thread has allocated and not freed.
pub(crate) fn held_bytes() -> i64 {
    BYTES.get()
}

/// Returns the lower quartile over `rounds` of the time of one call, in nanoseconds; each round makes `calls` calls.
pub(crate) fn nanoseconds<T>(rounds: usize, calls: u32, mut call: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = clock::now();
            for _ in 0..calls {
                black_box(call());
            }
            (clock::now() - start).as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

/// Returns the value below which a share `q` of the values lies.
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Returns a service with defaults and a policy.
pub(crate) fn service(name: &str, policy: Policy) -> ServiceSpec {
    let written = spec::Service { name: Some(name.to_owned()), ..spec::Service::default() };
    ServiceSpec { policy, ..written.to_model().unwrap() }
}

/// Returns a ready instance; `number` makes its id and address.
pub(crate) fn instance(service: &ServiceName, number: u32) -> Instance {
    Instance {
        state: InstanceState::Ready,
        verdict: Verdict::Healthy,
        ..Instance::new(
            InstanceId::parse(&format!("{}-{number}", service.name())).unwrap(),
            service.clone(),
            Source::Api,
            NodeId::parse("local").unwrap(),
            IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)),
            vec![8080],
        )
    }
}
