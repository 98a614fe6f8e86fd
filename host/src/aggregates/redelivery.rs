//! Commands with an origin that came back to their source unsettled, because the store failed or the host is stopping.
//!
//! The source sends such a command again, in its place. Until then, later commands of the same ledger to the same
//! aggregate must not be decided, because they would overtake it.

use crate::model::{Command, Origin};
use crate::store::Reader;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

/// An aggregate's id and a ledger's name.
type Key = (Arc<str>, Arc<str>);

/// The number of the first pending redelivery for each aggregate and ledger.
#[derive(Clone, Default)]
pub(super) struct CommandRedeliveries(HashMap<Key, u64>);

impl CommandRedeliveries {
    /// Adds a command that is given back to its source.
    pub(super) fn add(&mut self, command: &Command) {
        if let Some((key, number)) = place(command) {
            self.add_at(key, number);
        }
    }

    /// Adds the pending redeliveries of another shard.
    pub(super) fn add_all(&mut self, others: Self) {
        others.0.into_iter().for_each(|(key, number)| self.add_at(key, number));
    }

    /// Forgets the commands of ledgers that nobody uses any more.
    pub(super) fn forget(&mut self, is_of: &dyn Fn(&str) -> bool) {
        self.0.retain(|(_, ledger), _| !is_of(ledger));
    }

    fn add_at(&mut self, key: Key, number: u64) {
        self.0.entry(key).and_modify(|first| *first = number.min(*first)).or_insert(number);
    }

    /// Whether this command would overtake a pending redelivery.
    pub(super) fn is_overtaken_by(&mut self, command: &Command, reader: &mut dyn Reader) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let Some((key, number)) = place(command) else { return false };
        let Some(&pending) = self.0.get(&key) else { return false };
        match number.cmp(&pending) {
            Ordering::Less => return false,
            Ordering::Equal => {}
            // If the pending command was settled elsewhere, it never comes again.
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
