//! Bells: how a thread with several queues learns that there is work.
//!
//! Waiting on several queues at once would register the thread with each of them, and those who send would meet it there, which
//! costs more than a decision of an aggregate. So the thread looks into its queues, and then waits for its bell, which is rung after
//! something was put into one of them.

use crossbeam_utils::sync::{Parker, Unparker};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

thread_local! {
    /// The bells that this thread rings at the end of [`together`].
    static RUNG: RefCell<Option<Vec<Bell>>> = const { RefCell::new(None) };
}

/// A bell. Its clones ring the same one.
#[derive(Clone)]
pub(crate) struct Bell(Arc<Unparker>);

/// The side of the thread that waits.
pub(crate) struct Waiter(Parker);

/// Creates a bell.
pub(crate) fn bell() -> (Bell, Waiter) {
    let parker = Parker::new();
    (Bell(Arc::new(parker.unparker().clone())), Waiter(parker))
}

/// Does something that rings bells, and has each of them ring once, at the end. So a thread wakes once for all that it is given.
pub(crate) fn together(work: impl FnOnce()) {
    let _round = Round(RUNG.replace(Some(Vec::new())));
    work();
}

/// Rings the bells of a round when it ends, also by a panic. It has those of the round around it.
struct Round(Option<Vec<Bell>>);

impl Drop for Round {
    fn drop(&mut self) {
        let rung = RUNG.replace(self.0.take());
        rung.into_iter().flatten().for_each(|bell| bell.ring());
    }
}

impl Bell {
    /// Wakes the thread that waits, or has its next wait return at once. Call it after the work is in its queue.
    pub(crate) fn ring(&self) {
        let is_kept = RUNG.with_borrow_mut(|rung| {
            rung.as_mut().map(|rung| {
                if !rung.iter().any(|bell| Arc::ptr_eq(&bell.0, &self.0)) {
                    rung.push(self.clone());
                }
            })
        });
        if is_kept.is_none() {
            self.0.unpark();
        }
    }
}

impl Waiter {
    /// Waits until the bell rings, or has rung since the last wait. It may also return without a reason, so look for work again.
    pub(crate) fn wait(&self, until: Option<Instant>) {
        match until {
            Some(until) => self.0.park_deadline(until),
            None => self.0.park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Returns whether the bell has rung since the last wait.
    fn has_rung(waiter: &Waiter) -> bool {
        let until = Instant::now() + Duration::from_millis(5);
        waiter.wait(Some(until));
        Instant::now() < until
    }

    #[test]
    fn a_ring_before_the_wait_ends_it_and_counts_once() {
        let (bell, waiter) = bell();
        bell.ring();
        bell.clone().ring();
        waiter.wait(None);
        assert!(!has_rung(&waiter));
        let other = std::thread::spawn(move || bell.ring());
        waiter.wait(None);
        other.join().unwrap();
    }

    #[test]
    fn bells_that_are_rung_together_ring_once_at_the_end() {
        let ((first, waits), (second, waits_too)) = (bell(), bell());
        together(|| {
            first.ring();
            together(|| second.ring());
            first.ring();
            assert!(!has_rung(&waits) && !has_rung(&waits_too));
        });
        assert!(has_rung(&waits) && !has_rung(&waits) && has_rung(&waits_too));
    }

    #[test]
    fn a_panic_loses_no_ring() {
        let (bell, waiter) = bell();
        let rung = bell.clone();
        let panicked = std::thread::spawn(move || {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                together(|| {
                    rung.ring();
                    panic!("the work fails");
                });
            }));
            assert!(caught.is_err());
        });
        waiter.wait(None);
        panicked.join().unwrap();
        bell.ring();
        assert!(has_rung(&waiter), "nothing is kept any more");
    }
}
