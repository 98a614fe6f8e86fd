//! The writer's ledgers, which are changed in memory and written once per transaction.

use super::fault::{self, FaultPoint};
use super::outbox::Queue;
use super::rows;
use super::{Error, failed};
use crate::model::{LedgerName, Origin, Origins, QuickMap};
use crate::store::Ledger;
use rusqlite::{Connection, params};
use std::sync::Arc;

/// The ledgers used since the store was opened.
#[derive(Default)]
pub(super) struct Ledgers {
    open: Vec<Open>,
    /// The index of each ledger in `open`.
    places: QuickMap<Arc<str>, usize>,
}

struct Open {
    name: Arc<str>,
    ledger: Ledger,
    dirty: bool,
}

impl Ledgers {
    /// Returns whether the item of an origin is settled.
    pub(super) fn has(&mut self, connection: &Connection, origin: &Origin) -> Result<bool, Error> {
        Ok(self.get(connection, &origin.ledger)?.ledger.has(origin.last))
    }

    /// Settles the item of an origin, and the offsets that Kafka left out before it.
    pub(super) fn settle(&mut self, connection: &Connection, origin: &Origin) -> Result<(), Error> {
        self.settle_range(connection, &origin.ledger, origin.first, origin.last)
    }

    /// Returns the first of these items that is already settled, if there is one.
    pub(super) fn settled_of(&mut self, connection: &Connection, origins: &Origins) -> Result<Option<Origin>, Error> {
        let Origins { ledger: name, items, .. } = origins;
        let ledger = &self.get(connection, name)?.ledger;
        let settled = items.iter().find(|&&item| ledger.has(item));
        Ok(settled.map(|&item| Origin { ledger: name.clone(), first: item, last: item }))
    }

    /// Settles these items, and the offsets that Kafka left out before each of them.
    pub(super) fn settle_all(&mut self, connection: &Connection, origins: &Origins) -> Result<(), Error> {
        let Some(&last) = origins.items.last() else { return Ok(()) };
        self.settle_range(connection, &origins.ledger, origins.first, last)
    }

    /// Settles everything below a number.
    pub(super) fn start(&mut self, connection: &Connection, name: &Arc<str>, next: u64) -> Result<(), Error> {
        let open = self.get(connection, name)?;
        if next > open.ledger.next {
            open.ledger.settle(0, next - 1);
        }
        // This is also written if it starts at 0, so that the store knows that it has started.
        open.dirty = true;
        Ok(())
    }

    /// Starts a ledger at a number, unless there is one.
    pub(super) fn begin(&mut self, connection: &Connection, name: &Arc<str>, next: u64) -> Result<(), Error> {
        let is_changed = self.get(connection, name)?.dirty;
        let is_there = || {
            connection
                .prepare_cached("SELECT 1 FROM ledgers WHERE name = ?1")
                .and_then(|mut select| select.exists([name]))
                .map_err(failed("looking for a ledger"))
        };
        if is_changed || is_there()? { Ok(()) } else { self.start(connection, name, next) }
    }

    /// Lets a ledger resume at a number, whatever was settled before.
    pub(super) fn reset(&mut self, connection: &Connection, name: &Arc<str>, next: u64) -> Result<(), Error> {
        let open = self.get(connection, name)?;
        open.ledger = Ledger { next, ..Ledger::default() };
        open.dirty = true;
        Ok(())
    }

    /// Writes the changed ledgers, and deletes the commands of subscriptions that are now settled.
    pub(super) fn write(&mut self, connection: &Connection) -> Result<(), Error> {
        let failed = failed("writing a ledger");
        for open in self.open.iter_mut().filter(|open| open.dirty) {
            let name = &open.name;
            let ahead = rows::encode(&open.ledger.ahead)?;
            connection
                .prepare_cached("INSERT OR REPLACE INTO ledgers (name, next, ahead) VALUES (?1, ?2, ?3)")
                .and_then(|mut insert| insert.execute(params![name, open.ledger.next, ahead]))
                .map_err(&failed)?;
            fault::at(FaultPoint::LedgerWritten);
            if let Some(LedgerName::Commands(subscription)) = LedgerName::parse(name) {
                Queue::Commands(&subscription.to_string())
                    .remove_below(connection, open.ledger.next)
                    .map_err(&failed)?;
                fault::at(FaultPoint::CommandsForgotten);
            }
            open.dirty = false;
        }
        Ok(())
    }

    /// Drops everything in memory, which may be ahead of the file after a rollback.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.places.clear();
    }

    fn settle_range(&mut self, connection: &Connection, name: &Arc<str>, first: u64, last: u64) -> Result<(), Error> {
        let open = self.get(connection, name)?;
        open.ledger.settle(first, last);
        open.dirty = true;
        Ok(())
    }

    fn get(&mut self, connection: &Connection, name: &Arc<str>) -> Result<&mut Open, Error> {
        let place = match self.places.get(name) {
            Some(&place) => place,
            None => {
                let ledger = rows::ledger(connection, name)?;
                let place = self.open.len();
                self.open.push(Open { name: name.clone(), ledger, dirty: false });
                self.places.insert(name.clone(), place);
                place
            }
        };
        Ok(&mut self.open[place])
    }
}
