//! The memory that a thread holds, as the allocator counts it.

use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};

thread_local! {
    static COUNTERS: Option<(ThreadLocal<u64>, ThreadLocal<u64>)> =
        Option::zip(allocatedp::read().ok(), deallocatedp::read().ok());
}

/// Returns the bytes that this thread has allocated and not freed. Memory that other threads free still counts as held,
/// so only differences over a short time are meaningful. The result is always 0 if the process has another allocator.
pub(super) fn held() -> u64 {
    COUNTERS
        .with(|counters| counters.as_ref().map_or(0, |(allocated, freed)| allocated.get().saturating_sub(freed.get())))
}
