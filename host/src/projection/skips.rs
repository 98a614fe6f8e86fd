//! Events that a person had a projection pass over, because it can't take them.
//!
//! They are facts of the store, `projection/NAME/skipped/POSITION`, so a read model that is built again passes over them
//! too. Each has the event's id: a store of another history has another event in its place, which is not skipped.

use crate::model::{FactName, Position, RecordedEvent};
use crate::status::SkippedEvent;
use crate::store::{self, Reader};
use crate::supervise::Held as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// An event that is passed over, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Skip {
    pub(super) event: String,
    /// Its name and stream, for people.
    pub(super) what: String,
    /// Why the projection stopped at it.
    pub(super) reason: String,
    /// When a person decided.
    pub(super) time_ms: u64,
}

/// What is passed over, shared by those who decide and the thread that does it.
#[derive(Default)]
pub(super) struct Skips {
    all: Mutex<BTreeMap<Position, Skip>>,
    changed: AtomicBool,
}

/// The name of the fact.
pub(super) fn fact(projection: &str, position: Position) -> String {
    FactName::Skipped { projection, position }.to_string()
}

impl Skips {
    /// Those that the store has.
    pub(super) fn load(reader: &mut dyn Reader, projection: &str) -> Result<Self, store::Error> {
        let mut all = BTreeMap::new();
        for (name, value) in reader.facts(&FactName::prefix_of_skipped(projection))? {
            match (FactName::parse(&name), serde_json::from_str::<Skip>(&value)) {
                (Some(FactName::Skipped { position, .. }), Ok(skip)) => {
                    all.insert(position, skip);
                }
                _ => tracing::error!("the store has {name}, which is no event to skip: {value}"),
            }
        }
        Ok(Self { changed: (!all.is_empty()).into(), all: all.into() })
    }

    pub(super) fn add(&self, position: Position, skip: Skip) {
        self.all.held().insert(position, skip);
        self.changed.store(true, Ordering::Release);
    }

    /// All of them, if there are new ones since the last time.
    pub(super) fn changes(&self) -> Option<BTreeMap<Position, Skip>> {
        let changed = self.changed.swap(false, Ordering::Acquire);
        changed.then(|| self.all.held().clone())
    }

    /// For the status.
    pub(super) fn shown(&self) -> Vec<SkippedEvent> {
        let all = self.all.held();
        let shown = |(position, skip): (&Position, &Skip)| {
            let Skip { what, reason, time_ms, event: _ } = skip.clone();
            SkippedEvent { position: position.0, event: what, reason, time_ms }
        };
        all.iter().map(shown).collect()
    }
}

/// Whether a person had this event passed over.
pub(super) fn is_skipped(skips: &BTreeMap<Position, Skip>, event: &RecordedEvent) -> bool {
    skips.get(&event.position).is_some_and(|skip| skip.event.parse::<Uuid>() == Ok(event.id))
}
