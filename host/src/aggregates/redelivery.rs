//! Commands with an origin that came back to their source unsettled, because the store failed or the host is stopping.
//!
//! The source sends such a command again, in its place. Until then, later commands of the same ledger to the same
//! aggregate must not be decided, because they would overtake it.

use crate::model::{Command, Origin};
use crate::store::Reader;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// An aggregate's id and a ledger's name.
type Key = (Arc<str>, Arc<str>);

/// The numbers of the pending redeliveries for each aggregate and ledger.
#[derive(Clone, Default)]
pub(super) struct CommandRedeliveries(HashMap<Key, BTreeSet<u64>>);

impl CommandRedeliveries {
    /// Adds a command that is given back to its source.
    pub(super) fn add(&mut self, command: &Command) {
        if let Some((key, number)) = place(command) {
            self.0.entry(key).or_default().insert(number);
        }
    }

    /// Adds the pending redeliveries of another shard.
    pub(super) fn add_all(&mut self, others: Self) {
        others.0.into_iter().for_each(|(key, mut numbers)| self.0.entry(key).or_default().append(&mut numbers));
    }

    /// Forgets the commands of ledgers that nobody uses any more.
    pub(super) fn forget(&mut self, is_of: &dyn Fn(&str) -> bool) {
        self.0.retain(|(_, ledger), _| !is_of(ledger));
    }

    /// Whether this command would overtake a pending redelivery.
    pub(super) fn is_overtaken_by(&mut self, command: &Command, reader: &mut dyn Reader) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let Some((key, number)) = place(command) else { return false };
        let Some(pending) = self.0.get_mut(&key) else { return false };
        if pending.first().is_some_and(|first| *first < number) {
            let Ok(ledger) = reader.ledger(&key.1) else { return true };
            // A command that was settled elsewhere never comes again.
            pending.retain(|earlier| *earlier == number || !ledger.has(*earlier));
        }
        if pending.first().is_some_and(|first| *first < number) {
            return true;
        }
        pending.remove(&number);
        if pending.is_empty() {
            self.0.remove(&key);
        }
        false
    }
}

fn place(command: &Command) -> Option<(Key, u64)> {
    let Origin { ledger, last, .. } = command.origin.as_ref()?;
    Some(((command.stream.aggregate_id.clone(), ledger.clone()), *last))
}
