//! A flag that a test or one of its threads raises when it ends, so that those who work beside it end too.

use std::sync::atomic::{AtomicBool, Ordering};

/// A guard that raises a flag when it is dropped, also when a check fails.
pub struct Raised<'a>(pub &'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
