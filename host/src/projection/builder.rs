//! The progress of a generation through the store: its transaction, its checkpoint, and what is in its way.

use super::Error;
use super::board::Code;
use super::generation::{Generation, Projected};
use super::read_model::Mark;
use crate::backoff::backoff;
use crate::filter::Filter;
use crate::model::{Failure, Refusal};
use crate::model::{Position, RecordedEvent};
use crate::plugin::{self, Pace, ProjectionGuest};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A generation with its progress through the store.
pub(super) struct Builder {
    pub(super) generation: Arc<Generation>,
    pub(super) code: Code,
    pub(super) filter: Filter,
    pub(super) pace: Pace,
    guest: Option<ProjectionGuest>,
    /// The last event that is durably in the read model.
    pub(super) checkpoint: Mark,
    /// The last event that was folded in, perhaps not yet durably.
    folded: Mark,
    /// The position up to which all wanted events are folded in, perhaps not yet durably.
    pub(super) reached: Position,
    /// The value of `reached` when the last transaction ended.
    safe: Position,
    /// The number of calls in the open transaction; 0 if none is open, and then everything is committed.
    pub(super) calls: usize,
    /// The position up to which each call has its own transaction, because one of them rolled back those before it.
    pub(super) alone_until: Position,
    /// Why it has stopped, which only new code or a person can resolve.
    pub(super) broken: Option<Arc<Broken>>,
    /// The temporary problem that is in its way.
    pub(super) trouble: Option<Trouble>,
}

/// Why a generation stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// The event that it can't fold.
    pub(super) at: Option<EventAt>,
    pub(super) reason: String,
}

/// An event that can't be folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAt {
    /// Its position.
    pub position: Position,
    /// Its id.
    pub event: uuid::Uuid,
    /// Its name and stream.
    pub what: String,
}

/// A temporary problem, with the time of the next attempt.
pub(super) struct Trouble {
    pub(super) reason: Arc<str>,
    attempts: u32,
    again_at: Instant,
}

impl Builder {
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        let checkpoint = generation.opened_at;
        let filter = generation.plugin.projection_filter();
        let pace = Pace::new(generation.plugin.limits.event_time);
        let code = Code::of(&generation.plugin);
        Self {
            generation,
            code,
            filter,
            pace,
            guest: None,
            checkpoint,
            folded: checkpoint,
            reached: checkpoint.position,
            safe: checkpoint.position,
            calls: 0,
            alone_until: Position(0),
            broken: None,
            trouble: None,
        }
    }

    /// Returns the position up to which all wanted events are durably in the read model.
    pub(super) fn committed(&self) -> Position {
        if self.calls == 0 { self.reached } else { self.safe }
    }

    /// Whether it can work now.
    pub(super) fn is_at_work(&self) -> bool {
        self.broken.is_none() && self.trouble.as_ref().is_none_or(|trouble| Instant::now() >= trouble.again_at)
    }

    /// Notes a temporary problem: the work resumes after a pause, which doubles.
    pub(super) fn is_held_up(&mut self, reason: String, first_pause: Duration) {
        let attempts = self.trouble.as_ref().map_or(1, |trouble| trouble.attempts + 1);
        let again_at = Instant::now() + backoff(first_pause, attempts);
        self.trouble = Some(Trouble { reason: reason.into(), attempts, again_at });
    }

    /// Folds events. If that fails, the events that were folded before are committed. A trap counts as a temporary
    /// failure, and the guest is recreated.
    pub(super) fn project(&mut self, events: &[RecordedEvent], to: Position) -> Result<Result<(), Failure>, Error> {
        let began = Instant::now();
        let Projected { outcome, is_open } = match self.call(events) {
            Ok(called) => called,
            Err(error) => {
                self.roll_back();
                return Err(error);
            }
        };
        match &outcome {
            Err(plugin::Error::Overrun { .. }) => self.pace.overran(events.len()),
            _ => self.pace.took(events.len(), began),
        }
        let failure = match outcome {
            Ok(Ok(())) if is_open => {
                let last = &events[events.len() - 1];
                self.folded = Mark { position: last.position, event: last.id };
                self.reached = to;
                return Ok(Ok(()));
            }
            Ok(Ok(())) => passing(events, "it passed over an error that had undone its transaction".to_owned()),
            Ok(Err(failure)) => failure,
            Err(error) => {
                self.guest = None;
                if error.is_of_host() {
                    self.roll_back();
                    return Err(error.into());
                }
                let mut failure = passing(events, error.to_string());
                if let plugin::Error::Overrun { .. } = error {
                    // Any of them may run without end, so the first is called alone next.
                    failure.index = 0;
                }
                failure
            }
        };
        if is_open {
            self.commit()?;
        } else if std::mem::take(&mut self.calls) > 1 {
            (self.reached, self.folded, self.alone_until) = (self.safe, self.checkpoint, to);
            return Err(Error::Undone);
        }
        Ok(Err(failure))
    }

    fn call(&mut self, events: &[RecordedEvent]) -> Result<Projected, Error> {
        self.guest = self.guest.take().filter(|guest| !guest.is_worn());
        let guest = match &mut self.guest {
            Some(guest) => guest,
            None => self.guest.insert(ProjectionGuest::new(&self.generation.plugin)?),
        };
        if self.calls == 0 {
            self.generation.begin()?;
            self.safe = self.reached;
        }
        self.calls += 1;
        self.generation.project(guest, events)
    }

    /// Commits the events that are folded in.
    pub(super) fn commit(&mut self) -> Result<(), Error> {
        self.commit_to(self.folded)
    }

    /// Commits the events that are folded in, with a checkpoint at `mark`, up to which no other event is wanted.
    pub(super) fn commit_to(&mut self, mark: Mark) -> Result<(), Error> {
        if self.calls == 0 {
            self.generation.begin()?;
        }
        match self.generation.commit(self.checkpoint.position, mark) {
            Ok(()) => {
                (self.checkpoint, self.folded, self.safe, self.calls) = (mark, mark, self.reached, 0);
                Ok(())
            }
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Goes back to the last durable state.
    pub(super) fn roll_back(&mut self) {
        (self.reached, self.folded, self.calls) = (self.safe, self.checkpoint, 0);
        if let Err(error) = self.generation.roll_back() {
            tracing::error!("{error}");
        }
    }

    /// Resets it to the last durable state, without its guest, after its thread has panicked.
    pub(super) fn begin_again(&mut self) {
        self.guest = None;
        self.roll_back();
    }
}

/// Returns a temporary failure of an unknown event of a batch.
fn passing(events: &[RecordedEvent], reason: String) -> Failure {
    Failure { index: events.len() / 2, refusal: Refusal::Retry { after: Duration::ZERO, reason } }
}
