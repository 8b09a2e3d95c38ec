//! Who runs beside whom among the scenarios of one test program.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Who has traffic, or waits for none of others.
static TRAFFIC: Semaphore = Semaphore::const_new(2);

/// Scenarios that measure how long something takes run while no other has traffic.
pub async fn alone() -> SemaphorePermit<'static> {
    TRAFFIC.acquire_many(2).await.unwrap()
}

/// Scenarios with traffic mostly wait: two at a time.
pub async fn loaded() -> SemaphorePermit<'static> {
    TRAFFIC.acquire().await.unwrap()
}

/// Scenarios that mostly wait and measure nothing run beside each other and beside all others; this bounds how many.
pub async fn beside() -> SemaphorePermit<'static> {
    static BESIDE: Semaphore = Semaphore::const_new(2);
    BESIDE.acquire().await.unwrap()
}
