//! How much memory a thread holds, as the allocator counts it.

use tikv_jemalloc_ctl::thread::{ThreadLocal, allocatedp, deallocatedp};

thread_local! {
    static COUNTERS: Option<(ThreadLocal<u64>, ThreadLocal<u64>)> =
        Option::zip(allocatedp::read().ok(), deallocatedp::read().ok());
}

/// Bytes that this thread has allocated and not freed. What other threads free of it counts as held, so only
/// differences over a short time mean something. Always 0 where the process has another allocator.
pub(super) fn held() -> u64 {
    COUNTERS
        .with(|counters| counters.as_ref().map_or(0, |(allocated, freed)| allocated.get().saturating_sub(freed.get())))
}
