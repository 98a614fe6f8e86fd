//! The size of the batches with which a guest is called.
//!
//! A batch of items has the time limit of one item, so that an item that never ends is interrupted after that time,
//! however large the batch is. After an overrun the items of the batch are called one by one, each with that limit,
//! until the item at fault is known or all are done. The time that slow items take shows how many of them fit into a
//! call.

use std::time::{Duration, Instant};

/// The divisor of the time limit: a batch should take at most this fraction of it.
const SHARE: u32 = 3;

/// The size of the batches of one caller.
#[derive(Debug)]
pub struct Pace {
    limit: Duration,
    /// The number of next items to call one by one, because one of them may be at fault.
    singly: usize,
    /// The number of items that fit into one call, as far as is known.
    fits: usize,
}

impl Pace {
    /// Creates the pace for code with a time limit per call.
    pub fn new(limit: Duration) -> Self {
        Self { limit, singly: 0, fits: usize::MAX }
    }

    /// Returns how many of the next items to put into a batch: at least one.
    pub fn list(&self, items: usize) -> usize {
        if self.singly > 0 { 1 } else { items.min(self.fits).max(1) }
    }

    /// Records that a call with `items` has ended, with whatever result.
    pub fn took(&mut self, items: usize, began: Instant) {
        self.took_time(items, began.elapsed());
    }

    fn took_time(&mut self, items: usize, time: Duration) {
        self.singly = self.singly.saturating_sub(items);
        let share = self.limit / SHARE;
        if time > share {
            let fit = items as f64 * share.as_secs_f64() / time.as_secs_f64();
            self.fits = (fit as usize).max(1);
        } else if items >= self.fits {
            self.fits = self.fits.saturating_mul(2);
        }
    }

    /// Records that a call with `items` exceeded its time limit.
    pub fn overran(&mut self, items: usize) {
        (self.singly, self.fits) = (items, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    /// Calls with all items as a subscription does. `items` has the time of each, `None` for one that never ends.
    /// Returns how long it took in all, and how often a call was interrupted.
    fn call_all(pace: &mut Pace, items: &[Option<Duration>]) -> (Duration, usize) {
        let (mut at, mut spent, mut interrupted) = (0, Duration::ZERO, 0);
        while at < items.len() {
            let count = pace.list(items.len() - at);
            let time = items[at..at + count].iter().try_fold(Duration::ZERO, |sum, time| Some(sum + (*time)?));
            match time.filter(|time| *time < LIMIT) {
                Some(time) => {
                    spent += time;
                    pace.took_time(count, time);
                    at += count;
                }
                None => {
                    spent += LIMIT;
                    interrupted += 1;
                    if count > 1 {
                        pace.overran(count);
                    } else {
                        // The item at fault is known: it is dead-lettered.
                        pace.took_time(1, LIMIT);
                        at += 1;
                    }
                }
            }
        }
        (spent, interrupted)
    }

    #[test]
    fn one_item_without_end_costs_two_limits_wherever_it_is() {
        for at in [0, 1, 255, 500, 511] {
            let mut items = vec![Some(Duration::from_micros(10)); 512];
            items[at] = None;
            let (spent, interrupted) = call_all(&mut Pace::new(LIMIT), &items);
            assert_eq!(interrupted, 2, "at {at}: the list, and the item alone");
            assert!(spent < LIMIT * 2 + Duration::from_millis(10), "at {at}: {spent:?}");
        }
    }

    #[test]
    fn items_that_are_slow_by_nature_are_all_done_and_interrupted_once() {
        let mut pace = Pace::new(LIMIT);
        let items = vec![Some(Duration::from_millis(100)); 2_000];
        let (spent, interrupted) = call_all(&mut pace, &items);
        assert_eq!(interrupted, 1);
        assert_eq!(spent, Duration::from_millis(100) * 2_000 + LIMIT);
        assert!((2..=4).contains(&pace.list(512)), "{pace:?}");
        // Code that has become quick gets large batches again.
        call_all(&mut pace, &[Some(Duration::from_micros(10)); 5_000]);
        assert_eq!(pace.list(512), 512);
    }

    #[test]
    fn a_list_is_never_empty_and_never_longer_than_what_there_is() {
        let mut pace = Pace::new(Duration::ZERO);
        assert_eq!(pace.list(7), 7);
        pace.took_time(7, Duration::from_secs(9));
        assert_eq!(pace.list(7), 1);
        pace.overran(7);
        assert_eq!(pace.list(7), 1);
    }
}
