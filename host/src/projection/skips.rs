//! The events that a projection skips, because it can't fold them and a person has decided so.
//!
//! They are facts of the store, `projection/NAME/skipped/POSITION`, so a rebuilt read model skips them too. Each fact
//! has the event's id. If the store's history is another one, a different event is at the position, and it is not
//! skipped.

use crate::model::{FactName, Position, RecordedEvent};
use crate::status::SkippedEvent;
use crate::store::{self, Reader};
use crate::supervise::Held as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// An event that is skipped, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Skip {
    pub(super) event: String,
    /// Its name and stream, for the status.
    pub(super) what: String,
    /// Why the projection stopped at it.
    pub(super) reason: String,
    /// When a person decided to skip it.
    pub(super) time_ms: u64,
}

/// The events to skip, shared by the API and the projection's thread.
#[derive(Default)]
pub(super) struct Skips {
    all: Mutex<BTreeMap<Position, Skip>>,
    changed: AtomicBool,
}

/// Returns the name of the fact.
pub(super) fn fact(projection: &str, position: Position) -> String {
    FactName::Skipped { projection, position }.to_string()
}

impl Skips {
    /// Loads the skipped events from the store.
    pub(super) fn load(reader: &mut dyn Reader, projection: &str) -> Result<Self, store::Error> {
        let all = read(reader, projection)?;
        Ok(Self { changed: (!all.is_empty()).into(), all: all.into() })
    }

    /// Loads them again.
    pub(super) fn read_again(&self, reader: &mut dyn Reader, projection: &str) -> Result<(), store::Error> {
        let found = read(reader, projection)?;
        let mut all = self.all.held();
        if *all != found {
            *all = found;
            self.changed.store(true, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn add(&self, position: Position, skip: Skip) {
        self.all.held().insert(position, skip);
        self.changed.store(true, Ordering::Release);
    }

    /// Returns all of them if there are new ones since the last call.
    pub(super) fn changes(&self) -> Option<BTreeMap<Position, Skip>> {
        let changed = self.changed.swap(false, Ordering::Acquire);
        changed.then(|| self.all.held().clone())
    }

    /// Returns them as the status shows them.
    pub(super) fn shown(&self) -> Vec<SkippedEvent> {
        let all = self.all.held();
        let shown = |(position, skip): (&Position, &Skip)| {
            let Skip { what, reason, time_ms, event: _ } = skip.clone();
            SkippedEvent { position: position.0, event: what, reason, time_ms }
        };
        all.iter().map(shown).collect()
    }
}

fn read(reader: &mut dyn Reader, projection: &str) -> Result<BTreeMap<Position, Skip>, store::Error> {
    let mut all = BTreeMap::new();
    for (name, value) in reader.facts(&FactName::prefix_of_skipped(projection))? {
        match (FactName::parse(&name), serde_json::from_str::<Skip>(&value)) {
            (Some(FactName::Skipped { position, .. }), Ok(skip)) => {
                all.insert(position, skip);
            }
            _ => tracing::error!("the store's fact {name} does not name an event to skip and is ignored: {value}"),
        }
    }
    Ok(all)
}

/// Whether a person has decided to skip this event.
pub(super) fn is_skipped(skips: &BTreeMap<Position, Skip>, event: &RecordedEvent) -> bool {
    skips.get(&event.position).is_some_and(|skip| skip.event.parse::<Uuid>() == Ok(event.id))
}
