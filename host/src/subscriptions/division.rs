//! A segment of a subscription: which events it handles, and how it takes over from the segments before when the manifest asks for
//! another number of them.

use super::outbox::Outbox;
use super::pausing::Pausing;
use crate::ack;
use crate::aggregates::Aggregates;
use crate::flows::Flows;
use crate::follow::Follower;
use crate::model::{FactName, Position, RecordedEvent, Segment, StreamId, SubscriptionName};
use crate::store::{Divisions, Error, EventStore, Reader};
use std::sync::Arc;
use std::time::Duration;

/// How often it is looked whether the commands of the segments before are settled.
const LOOK: Duration = Duration::from_millis(50);

/// A segment that takes over.
pub(super) struct Successor {
    /// The plugin.
    pub(super) plugin: Arc<str>,
    pub(super) segment: Segment,
    pub(super) store: Arc<dyn EventStore>,
    pub(super) aggregates: Arc<Aggregates>,
    pub(super) flows: Flows,
}

impl Successor {
    /// Has the commands settled that other segments of the subscription have left, and then moves all that they had to the segments of
    /// the manifest. `tell` is told what it waits for. Fails with [`Error::Closed`] if the host stops meanwhile.
    pub(super) fn take_over(
        &self,
        follower: &mut Follower,
        pausing: &Pausing,
        tell: impl Fn(String),
    ) -> Result<(), Error> {
        let is_old = |name: &str| match SubscriptionName::parse(name) {
            SubscriptionName::Plugin(owner, segment) => {
                *owner == *self.plugin && segment.count() != self.segment.count()
            }
            SubscriptionName::Source(_) => false,
        };
        let checkpoints = follower.reader().checkpoints()?;
        let old: Vec<String> = checkpoints.into_iter().map(|(name, _)| name).filter(|name| is_old(name)).collect();
        for name in &old {
            self.settle(&name.as_str().into(), follower, &tell)?;
        }
        if !old.is_empty() {
            ack::wait(|ack| self.store.divide(&self.plugin, self.segment.count(), ack))?;
        }
        // Another segment may have moved everything since this one was made.
        if self.segment.count() > 1 || !old.is_empty() { pausing.reload() } else { Ok(()) }
    }

    fn settle(&self, name: &Arc<str>, follower: &mut Follower, tell: &impl Fn(String)) -> Result<(), Error> {
        let Self { store, aggregates, flows, .. } = self;
        let outbox = Outbox::new(name.clone(), store.clone(), aggregates.clone(), flows.clone());
        outbox.resend()?;
        while outbox.is_busy() {
            let trouble = outbox.trouble().map_or(String::new(), |reason| format!(": {reason}"));
            tell(format!("the commands that {name} has left must be settled first{trouble}"));
            if follower.pause(LOOK) {
                outbox.stop();
                return Err(Error::Closed);
            }
            if outbox.must_resend() {
                outbox.resend()?;
            }
        }
        Ok(())
    }
}

/// What a segment handles.
pub(super) struct Share {
    subscription: Arc<str>,
    segment: Segment,
    /// What segments before it have handled beyond its checkpoint.
    divisions: Divisions,
}

impl Share {
    pub(super) fn new(subscription: Arc<str>, segment: Segment) -> Self {
        Self { subscription, segment, divisions: Divisions::default() }
    }

    /// Reads what the segments before it have handled.
    pub(super) fn begin(&mut self, reader: &mut dyn Reader, checkpoint: Position) -> Result<(), Error> {
        let fact = reader.fact(&self.fact_name())?;
        self.divisions = Divisions::parse(&self.subscription, fact.as_deref())?.beyond(checkpoint);
        Ok(())
    }

    fn fact_name(&self) -> String {
        FactName::Divisions(SubscriptionName::parse(&self.subscription)).to_string()
    }

    /// Returns the fact to keep when a person moves the checkpoint: everything is to be handled again that is after it.
    pub(super) fn reset(&self) -> Option<(String, String)> {
        (!self.divisions.is_empty()).then(|| (self.fact_name(), Divisions::default().fact()))
    }

    /// Whether a key is in the segment.
    pub(super) fn has(&self, key: &str) -> bool {
        self.segment.has(key.as_bytes())
    }

    /// Returns the segment that has a key.
    pub(super) fn segment_of(&self, key: &str) -> Segment {
        Segment::of(Some(key.as_bytes()), self.segment.count())
    }

    /// Whether the segment has to handle an event of a key.
    pub(super) fn handles(&self, key: &str, position: Position) -> bool {
        self.has(key) && !self.divisions.have_handled(key.as_bytes(), position)
    }

    /// Leaves the events to handle, whose keys are their aggregates. What segments before it have handled says nothing about a key
    /// that is held: its events are not handled from a version on.
    pub(super) fn keep_own(&self, events: &mut Vec<RecordedEvent>, is_held: impl Fn(&StreamId) -> bool) {
        if self.segment == Segment::WHOLE && self.divisions.is_empty() {
            return;
        }
        events.retain(|event| {
            let key = &event.stream.aggregate_id;
            self.handles(key, event.position) || (self.has(key) && is_held(&event.stream))
        });
    }

    /// Returns the position from which on no segment before it has handled anything. Until then a held key stays held, because only
    /// its version says what is handled of it.
    pub(super) fn first_new(&self) -> Position {
        self.divisions.end()
    }
}
