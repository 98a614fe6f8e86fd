//! A segment of a subscription: which events it handles, and how it takes over from the segments before when the manifest asks for
//! another number of them.

use super::outbox::Outbox;
use super::pausing::Pausing;
use crate::ack;
use crate::aggregates::Aggregates;
use crate::flows::Flows;
use crate::follow::{Follower, FollowerProgress};
use crate::manifest::Start;
use crate::model::{FactName, Position, RecordedEvent, Segment, StreamId, SubscriptionName};
use crate::plugin::Slot;
use crate::status::State;
use crate::store::{Divisions, Error, EventStore, Reader, segments_of};
use crate::supervise::Held as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it is looked whether the commands of the segments before are settled.
const LOOK: Duration = Duration::from_millis(50);

/// A segment that takes over.
pub(super) struct Successor {
    /// The plugin.
    pub(super) plugin: Arc<str>,
    pub(super) segment: Segment,
    store: Arc<dyn EventStore>,
    aggregates: Arc<Aggregates>,
    flows: Flows,
    settling: Arc<Settling>,
}

/// The commands of other segments that are being settled, so that a stop need not wait for them.
#[derive(Default)]
pub(super) struct Settling(Mutex<(bool, Option<Arc<Outbox>>)>);

impl Settling {
    /// Notes the outbox that sends them. Returns false if the subscription is stopping.
    fn begin(&self, outbox: &Arc<Outbox>) -> bool {
        let (is_stopped, current) = &mut *self.0.held();
        *current = Some(outbox.clone());
        !*is_stopped
    }

    /// Ends the waits for room. From now on nothing is sent.
    pub(super) fn stop(&self) {
        let (is_stopped, current) = &mut *self.0.held();
        *is_stopped = true;
        current.iter().for_each(|outbox| outbox.stop());
    }
}

impl Successor {
    pub(super) fn new(
        slot: &Slot,
        segment: Segment,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
        flows: &Flows,
        settling: &Arc<Settling>,
    ) -> Self {
        Self {
            plugin: slot.name.clone(),
            segment,
            store: store.clone(),
            aggregates: aggregates.clone(),
            flows: flows.clone(),
            settling: settling.clone(),
        }
    }

    /// Has the store divide the subscription as the manifest says, unless it is. Commands that other segments have left are settled
    /// before. The progress says what it waits for. Fails with [`Error::Closed`] if the host stops meanwhile.
    pub(super) fn take_over(
        &self,
        start: Start,
        follower: &mut Follower,
        pausing: &Pausing,
        progress: &FollowerProgress,
    ) -> Result<(), Error> {
        let tell = |reason| progress.is_because(State::Retrying, reason);
        loop {
            let own = segments_of(&self.plugin, &follower.reader().checkpoints()?);
            if own.keys().copied().eq(Segment::all(self.segment.count())) {
                break;
            }
            // Until it has taken over, it is where the segments before are.
            own.into_values().min().into_iter().for_each(|lowest| progress.reach(lowest));
            if follower.is_stopped() {
                return Err(Error::Closed);
            }
            let start = start.checkpoint(follower.head());
            match ack::wait(|ack| self.store.divide(&self.plugin, self.segment.count(), start, ack)) {
                Err(Error::Unsettled { subscription, .. }) => self.settle(&subscription, follower, &tell)?,
                divided => divided?,
            }
        }
        // What a person has paused may have come with the division, since this segment was made.
        pausing.reload()
    }

    fn settle(&self, name: &Arc<str>, follower: &mut Follower, tell: &impl Fn(String)) -> Result<(), Error> {
        let Self { store, aggregates, flows, .. } = self;
        let outbox = Arc::new(Outbox::new(name.clone(), store.clone(), aggregates.clone(), flows.clone()));
        if !self.settling.begin(&outbox) {
            return Err(Error::Closed);
        }
        outbox.resend()?;
        while outbox.is_busy() {
            let trouble = outbox.trouble().map_or(String::new(), |reason| format!(": {reason}"));
            tell(format!("the commands that {name} has left must be settled first{trouble}"));
            if follower.pause(LOOK) {
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
    /// The end of that.
    first_new: Position,
    /// Whether the store has something of this, passed or not.
    is_kept: bool,
}

impl Share {
    pub(super) fn new(subscription: Arc<str>, segment: Segment) -> Self {
        let (divisions, first_new) = Default::default();
        Self { subscription, segment, divisions, first_new, is_kept: false }
    }

    /// Reads what the segments before it have handled.
    pub(super) fn begin(&mut self, reader: &mut dyn Reader, checkpoint: Position) -> Result<(), Error> {
        let fact = reader.fact(&self.fact_name())?;
        self.is_kept = fact.is_some();
        self.divisions = Divisions::parse(&self.subscription, fact.as_deref())?.beyond(checkpoint);
        self.first_new = self.divisions.end();
        Ok(())
    }

    fn fact_name(&self) -> String {
        FactName::Divisions(SubscriptionName::parse(&self.subscription)).to_string()
    }

    /// Returns the fact to keep when a person moves the checkpoint: everything is to be handled again that is after it.
    pub(super) fn reset(&self) -> Option<(String, String)> {
        self.is_kept.then(|| (self.fact_name(), Divisions::default().fact()))
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

    /// Whether other segments handle some events, or have handled some of those up to a position.
    pub(super) fn is_divided_at(&self, position: Position) -> bool {
        self.segment != Segment::WHOLE || position <= self.first_new
    }

    /// Returns the position from which on no segment before it has handled anything. Until then a held key stays held, because only
    /// its version says what is handled of it.
    pub(super) fn first_new(&self) -> Position {
        self.first_new
    }
}
