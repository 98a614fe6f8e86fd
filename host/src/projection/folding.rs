//! The folding of events into a read model, page by page.

use super::builder::{Builder, EventAt};
use super::opening::mark_at;
use super::skips::{Skip, is_skipped};
use super::{Error, Options};
use crate::backoff::backoff;
use crate::follow::{Follower, FollowerProgress, IDLE_STRIDE};
use crate::model::{Failure, Refusal};
use crate::model::{Position, RecordedEvent};
use crate::plugin::Slot;
use crate::status::State;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The calls in one transaction while a read model lags behind: rows that change often are then written only once.
const CALLS_MAX: usize = 16;

/// The part of a projection's thread that moves a builder along the store.
pub(super) struct Folding {
    pub(super) projection: Arc<str>,
    pub(super) slot: Arc<Slot>,
    pub(super) options: Options,
    pub(super) progress: Arc<FollowerProgress>,
    pub(super) follower: Follower,
    /// The events that a person has decided to skip.
    pub(super) skips: BTreeMap<Position, Skip>,
}

impl Folding {
    /// Moves a builder one page further. If the whole page fails, it folds the events before the failing one, then that
    /// event alone, then the rest. While there is more to read, a transaction spans several pages.
    pub(super) fn step(&mut self, builder: &mut Builder) -> Result<(), Error> {
        match self.fold_page(builder) {
            // The events before it are folded again, with each call in its own transaction.
            Err(Error::Undone) => Ok(()),
            folded => folded,
        }
    }

    fn fold_page(&mut self, builder: &mut Builder) -> Result<(), Error> {
        let mut page = self.follower.page(builder.reached, &builder.filter, self.options.batch_max)?;
        if !self.skips.is_empty() {
            page.events.retain(|event| !is_skipped(&self.skips, event));
        }
        if page.events.is_empty() {
            builder.reached = page.reached;
            return self.fold_nothing(builder);
        }
        let mut rest = &page.events[..];
        let mut count = builder.pace.list(rest.len());
        loop {
            let (part, behind) = rest.split_at(count);
            let to = if behind.is_empty() { page.reached } else { part[part.len() - 1].position };
            if let Err(failure) = builder.project(part, to)? {
                if part.len() > 1 {
                    count = failure.index.clamp(1, part.len() - 1);
                    continue;
                }
                if !self.retry_event(builder, part, to, failure)? {
                    return Ok(());
                }
            }
            if behind.is_empty() {
                break;
            }
            (rest, count) = (behind, builder.pace.list(behind.len()));
        }
        let has_more = builder.reached < self.follower.head() && !self.follower.is_stopped();
        if has_more && builder.calls < CALLS_MAX && builder.reached >= builder.alone_until {
            return Ok(());
        }
        builder.commit()
    }

    /// Handles a page without wanted events. After many positions it commits a checkpoint, so that a later start need
    /// not scan them again.
    fn fold_nothing(&mut self, builder: &mut Builder) -> Result<(), Error> {
        if builder.calls > 0 {
            return builder.commit();
        }
        if builder.reached.0 < builder.checkpoint.position.0 + IDLE_STRIDE {
            return Ok(());
        }
        match mark_at(self.follower.reader(), builder.reached)? {
            Some(mark) => builder.commit_to(mark),
            None => Ok(()),
        }
    }

    /// Retries one event. A read model must not miss an event, so the projection stops after the last attempt. Returns
    /// false if the thread must end, or if new code came, before the event was folded in.
    fn retry_event(
        &mut self,
        builder: &mut Builder,
        event: &[RecordedEvent],
        to: Position,
        mut failure: Failure,
    ) -> Result<bool, Error> {
        let newest = self.slot.current();
        for attempt in 1.. {
            let (again, after) = match &failure.refusal {
                Refusal::Retry { after, .. } => (attempt < self.options.attempts_max, *after),
                Refusal::Rejected(_) | Refusal::Malformed(_) => (false, Duration::ZERO),
            };
            if !again {
                return Err(self.gave_up(builder, &event[0], &failure.refusal));
            }
            self.progress.is_because(State::Retrying, failure.refusal.to_string());
            let pause = self.options.bounds.pause(backoff(self.options.backoff, attempt), after);
            let Self { follower, slot, .. } = self;
            let stopping = follower.pause_unless(pause, || !slot.is_current(&newest));
            if stopping || !self.slot.is_current(&newest) {
                return Ok(false);
            }
            match builder.project(event, to)? {
                Ok(()) => return Ok(true),
                Err(again) => failure = again,
            }
        }
        Ok(false)
    }

    fn gave_up(&self, builder: &Builder, event: &RecordedEvent, refusal: &Refusal) -> Error {
        let RecordedEvent { position, stream, version, name, .. } = event;
        let reason = format!(
            "event {name} of {stream} version {version} ({position}) can't be folded in by plugin {}: {refusal}; repair the \
             plugin and reload it, or skip the event with `wasmill projections skip {} {position}`; nothing was skipped",
            builder.generation.plugin.label(),
            self.projection
        );
        let what = format!("{name} of {stream} version {version}");
        Error::Event { at: EventAt { position: *position, event: event.id, what }, reason }
    }
}
