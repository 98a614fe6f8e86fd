//! Commands of ledgers that came back to their source unsettled, because the store failed or the host stops.
//!
//! The source sends such a command again, in its place. Until then later ones of the same ledger to the same aggregate
//! must not be decided: they would overtake it.

use crate::model::{Command, Origin};
use crate::store::Reader;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// An aggregate's id and a ledger's name.
type Key = (Arc<str>, Arc<str>);

/// The number of the first pending command of each aggregate and ledger.
#[derive(Default)]
pub(super) struct PendingRedeliveries(HashMap<Key, u64>);

impl PendingRedeliveries {
    /// This command comes back to its source.
    pub(super) fn add(&mut self, command: &Command) {
        if let Some((key, number)) = place(command) {
            self.0.entry(key).and_modify(|first| *first = number.min(*first)).or_insert(number);
        }
    }

    /// Whether this command would overtake one that is pending.
    pub(super) fn is_overtaken_by(&mut self, command: &Command, reader: &mut dyn Reader) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let Some((key, number)) = place(command) else { return false };
        let Some(&pending) = self.0.get(&key) else { return false };
        match number.cmp(&pending) {
            Ordering::Less => return false,
            Ordering::Equal => {}
            // It may have been settled elsewhere, and then it never comes again.
            Ordering::Greater if !reader.ledger(&key.1).is_ok_and(|ledger| ledger.has(pending)) => return true,
            Ordering::Greater => {}
        }
        self.0.remove(&key);
        false
    }
}

fn place(command: &Command) -> Option<(Key, u64)> {
    let Origin { ledger, last, .. } = command.origin.as_ref()?;
    Some(((command.stream.aggregate_id.clone(), ledger.clone()), *last))
}
