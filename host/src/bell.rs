//! Bells: how a thread with several queues learns that there is work.
//!
//! Waiting on several queues at once would register the thread with each of them, and those who send would meet it there, which
//! costs more than a decision of an aggregate. So the thread looks into its queues, and then waits for its bell, which is rung after
//! something was put into one of them.

use crossbeam_utils::sync::{Parker, Unparker};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

/// The number of rings after which those who wait are woken although the round has not ended, so that they work beside it.
const RINGS_AT_ONCE: usize = 32;

thread_local! {
    /// The round of this thread, if it is in [`together`].
    static ROUND: RefCell<Option<Rung>> = const { RefCell::new(None) };
}

/// The bells that are to ring.
#[derive(Default)]
struct Rung {
    bells: Vec<Bell>,
    /// The number of rings since they rang last.
    rings: usize,
}

impl Rung {
    fn add(&mut self, bell: &Bell) {
        if !self.bells.iter().any(|rung| Arc::ptr_eq(&rung.0, &bell.0)) {
            self.bells.push(bell.clone());
        }
        self.rings += 1;
        if self.rings == RINGS_AT_ONCE {
            self.end();
        }
    }

    fn end(&mut self) {
        self.bells.drain(..).for_each(|bell| bell.0.unpark());
        self.rings = 0;
    }
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

/// Does something that rings bells, and has each of them ring at the end, once for many rings. So a thread wakes once for what it is
/// given meanwhile.
pub(crate) fn together(work: impl FnOnce()) {
    let _round = Round(ROUND.replace(Some(Rung::default())));
    work();
}

/// Rings the bells of a round when it ends, also by a panic. It has the round around it.
struct Round(Option<Rung>);

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(mut rung) = ROUND.replace(self.0.take()) {
            rung.end();
        }
    }
}

impl Bell {
    /// Wakes the thread that waits, or has its next wait return at once. Call it after the work is in its queue.
    pub(crate) fn ring(&self) {
        let is_kept = ROUND.with_borrow_mut(|round| round.as_mut().map(|rung| rung.add(self)).is_some());
        if !is_kept {
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
            assert!(has_rung(&waits_too), "its round has ended");
            first.ring();
            assert!(!has_rung(&waits));
        });
        assert!(has_rung(&waits) && !has_rung(&waits) && !has_rung(&waits_too));
    }

    #[test]
    fn a_long_round_wakes_those_who_wait_in_between() {
        let (bell, waiter) = bell();
        together(|| {
            (1..RINGS_AT_ONCE).for_each(|_| bell.ring());
            assert!(!has_rung(&waiter));
            bell.ring();
            assert!(has_rung(&waiter) && !has_rung(&waiter));
            bell.ring();
        });
        assert!(has_rung(&waiter));
    }

    #[test]
    fn a_panic_ends_a_round_and_loses_no_ring() {
        let ((first, waits), (second, waits_too)) = (bell(), bell());
        let panicked = std::thread::spawn(move || {
            let failing = || {
                together(|| {
                    first.ring();
                    panic!("the work fails");
                });
            };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(failing)).is_err());
            second.ring();
        });
        waits.wait(None);
        waits_too.wait(None);
        panicked.join().unwrap();
    }
}
