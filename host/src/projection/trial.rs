//! A read model of its own for a test of a projection, without a store and without a thread.

use super::generation::{Generation, Projected};
use super::read_model::{Mark, Origin};
use super::shelf::Shelf;
use super::{Error, QueryError};
use crate::model::{Failure, RecordedEvent, Refusal};
use crate::plugin::{Plugin, ProjectionGuest};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A read model in a test. Each event is a transaction.
pub struct Trial {
    generation: Generation,
    guest: ProjectionGuest,
    checkpoint: Mark,
}

impl Trial {
    /// Creates an empty read model in an empty folder, which the caller deletes.
    pub fn new(plugin: &Arc<Plugin>, folder: &Path) -> Result<Self, Error> {
        let origin = Origin { store: Uuid::nil(), code: plugin.digest.clone() };
        let generation = Generation::create(plugin, &Shelf::new(folder.to_owned()), &origin)?;
        Ok(Self { generation, guest: ProjectionGuest::new(plugin)?, checkpoint: Mark::default() })
    }

    /// Folds an event. If it fails, the read model is as it was. After an [`Error`] the trial must be dropped.
    pub fn project(&mut self, event: &RecordedEvent) -> Result<Result<(), Failure>, Error> {
        self.generation.begin()?;
        let Projected { outcome, is_open } = self.generation.project(&mut self.guest, std::slice::from_ref(event))?;
        match outcome? {
            Ok(()) if is_open => {
                let mark = Mark { position: event.position, event: event.id };
                self.generation.commit(self.checkpoint.position, mark)?;
                self.checkpoint = mark;
                Ok(Ok(()))
            }
            Ok(()) => {
                let reason = "it passed over an error that had undone its transaction".to_owned();
                let refusal = Refusal::Retry { after: Duration::ZERO, reason };
                self.generation.roll_back()?;
                Ok(Err(Failure { index: 0, refusal }))
            }
            Err(failure) => {
                self.generation.roll_back()?;
                Ok(Err(failure))
            }
        }
    }

    /// Answers a query.
    pub fn query(&self, query: &str, params: &[u8]) -> Result<Vec<u8>, QueryError> {
        self.generation.query(query, params)
    }
}
