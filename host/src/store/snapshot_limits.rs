//! The limits of snapshots, which both stores have.

use super::Snapshot;

/// The most snapshots that may wait to be written. More are dropped.
pub(super) const QUEUE_MAX: usize = 64;

/// The most bytes of a state that is kept.
const STATE_BYTES_MAX: usize = 4 << 20;

/// Returns whether a snapshot is too large to be kept, and logs it.
pub(super) fn refuse_large(snapshot: &Snapshot) -> bool {
    let is_large = snapshot.state.len() > STATE_BYTES_MAX;
    if is_large {
        tracing::warn!(
            "the snapshot of {} has {} bytes, more than {STATE_BYTES_MAX}, and is not kept: make the aggregate's state smaller",
            snapshot.stream,
            snapshot.state.len()
        );
    }
    is_large
}
