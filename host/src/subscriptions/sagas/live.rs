//! The live sagas of a subscription, in one guest. A saga is rebuilt from its stream when it is needed.
//!
//! A live saga is ahead of the store: it holds the events of decisions whose steps are under way. So whoever uses this must
//! drop all live sagas if a step fails ([`LiveSagas::lose`]), and must not rebuild a saga while a step of it is under way
//! ([`LiveSagas::needs_store`]).

use crate::filter::Filter;
use crate::model::{Failure, RecordedEvent, Refusal, StreamId, Version};
use crate::plugin::{self, Effect, LiveSaga, Plugin, SagaDecision, SagaGuest, SagaInput, Slot};
use crate::store::{self, Reader};
use crate::subscriptions::handler::Unhandled;
use lru::LruCache;
use std::collections::HashSet;
use std::sync::Arc;

/// The number of events of a saga's stream that are applied in one call.
const HISTORY_PAGE: usize = 500;

/// The live sagas of a subscription.
pub(super) struct LiveSagas {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    /// The aggregate type of their streams.
    saga_type: Arc<str>,
    guest: Option<SagaGuest>,
    /// The live sagas, each with the version of its stream once all steps under way are durable. Unbounded here, because a
    /// saga that is evicted must be discarded in the guest.
    sagas: LruCache<Arc<str>, (LiveSaga, Version)>,
    /// The sagas that end with a step under way.
    ended: HashSet<Arc<str>>,
    /// Whether a live saga was dropped since all steps were durable.
    has_dropped: bool,
    /// Whether inputs that take long are interrupted.
    is_hurried: bool,
}

/// What a saga makes of an input.
pub(super) enum Decided {
    /// There is no such saga, or it has ended, or the input did not start it.
    Ignored,
    /// A decision, made on this version of its stream.
    Decision(Version, SagaDecision),
}

/// Why a saga made nothing of an input.
pub(super) enum Undecidable {
    /// The input was refused, or the guest failed.
    Unhandled(Unhandled),
    /// The store could not be read.
    Store(store::Error),
}

impl From<store::Error> for Undecidable {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl LiveSagas {
    pub(super) fn new(slot: Arc<Slot>, saga_type: Arc<str>) -> Self {
        let plugin = slot.current();
        Self::of(slot, plugin, saga_type)
    }

    fn of(slot: Arc<Slot>, plugin: Arc<Plugin>, saga_type: Arc<str>) -> Self {
        Self {
            slot,
            plugin,
            saga_type,
            guest: None,
            sagas: LruCache::unbounded(),
            ended: HashSet::new(),
            has_dropped: false,
            is_hurried: false,
        }
    }

    /// Decides whether inputs that take long are interrupted, because other sagas wait.
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.is_hurried = is_hurried;
    }

    /// Switches to new code, if there is any, and returns whether there was.
    pub(super) fn renew(&mut self) -> bool {
        let is_new = self.is_outdated();
        if is_new {
            self.plugin = self.slot.current();
            self.lose();
        } else if self.guest.as_ref().is_some_and(SagaGuest::is_worn) {
            self.lose();
        }
        is_new
    }

    /// Whether there is new code.
    pub(super) fn is_outdated(&self) -> bool {
        !self.slot.is_current(&self.plugin)
    }

    /// Returns the filter of the events that are inputs, and the filter of those that start a saga.
    pub(super) fn filters(&self) -> (Filter, Filter) {
        self.plugin.saga_filters()
    }

    /// Returns the number of live sagas.
    pub(super) fn len(&self) -> usize {
        self.sagas.len()
    }

    /// Drops the guest with all live sagas.
    pub(super) fn lose(&mut self) {
        self.guest = None;
        self.sagas.clear();
        self.ended.clear();
        self.has_dropped = true;
    }

    /// Whether a saga must be rebuilt although a step of it may be under way. Once all steps are durable, the caller says so
    /// with [`is_durable`](Self::is_durable).
    pub(super) fn needs_store(&self, key: &str) -> bool {
        self.has_dropped && !self.sagas.contains(key) && !self.ended.contains(key)
    }

    /// Notes that all steps are durable.
    pub(super) fn is_durable(&mut self) {
        self.ended.clear();
        self.has_dropped = false;
    }

    /// Returns the key of the saga that each of these events is for.
    pub(super) fn keys(&mut self, events: &[RecordedEvent]) -> Result<Vec<Option<String>>, Unhandled> {
        // There is nobody else to leave a key to that takes long.
        let keys = self.guest().and_then(|guest| {
            guest.hurry(false);
            guest.keys(events)
        });
        keys.map_err(|error| self.lost(&error))?.map_err(Unhandled::Refused)
    }

    /// Has a saga decide on an input. An input that may not start a saga is ignored if there is none. A failure counts against new
    /// code that is watched, unless the code before fails in the same way.
    pub(super) fn decide(
        &mut self,
        reader: &mut dyn Reader,
        key: &Arc<str>,
        input: SagaInput<'_>,
        may_start: bool,
    ) -> Result<Decided, Undecidable> {
        let decided = self.decide_now(reader, key, input, may_start);
        let Some(watch) = self.slot.watch_of(&self.plugin) else { return decided };
        watch.handled(1);
        let failed = match &decided {
            Err(Undecidable::Unhandled(unhandled)) => unhandled.failing().map(|how| (how, unhandled.to_string())),
            _ => None,
        };
        let Some((how, reason)) = failed else { return decided };
        let mut before = Self::of(self.slot.clone(), watch.old().clone(), self.saga_type.clone());
        if let Err(Undecidable::Unhandled(unhandled)) = before.decide_now(reader, key, input, may_start)
            && unhandled.failing() == Some(how)
        {
            return decided;
        }
        watch.failed(&reason);
        Err(Undecidable::Unhandled(Unhandled::Held(reason, 0)))
    }

    fn decide_now(
        &mut self,
        reader: &mut dyn Reader,
        key: &Arc<str>,
        input: SagaInput<'_>,
        may_start: bool,
    ) -> Result<Decided, Undecidable> {
        if self.ended.contains(key) {
            return Ok(Decided::Ignored);
        }
        let (live, version) = match self.sagas.pop(&**key) {
            Some(known) => known,
            None => match self.find(reader, key, may_start)? {
                Some(found) => found,
                None => return Ok(Decided::Ignored),
            },
        };
        let decided = self.guest().and_then(|guest| guest.handle(&live, input));
        match decided.map_err(|error| self.lost(&error)).map_err(Undecidable::Unhandled)? {
            Ok(decision) => self.keep(key, live, version, decision),
            Err(refusal) => {
                self.put_back(key, live, version);
                Err(refused(refusal))
            }
        }
    }

    /// Notes that a saga has decided on an input elsewhere.
    pub(super) fn has_decided(&mut self, key: &Arc<str>, decided: &Decided) {
        if let Some((live, _)) = self.sagas.pop(&**key) {
            self.discard(live);
        }
        self.has_dropped = true;
        if let Decided::Decision(_, SagaDecision { end: Some(_), .. }) = decided {
            self.ended.insert(key.clone());
        }
    }

    /// Keeps a saga after its decision.
    fn keep(
        &mut self,
        key: &Arc<str>,
        live: LiveSaga,
        version: Version,
        decision: SagaDecision,
    ) -> Result<Decided, Undecidable> {
        let SagaDecision { events, end, effects } = &decision;
        let is_nothing = events.is_empty() && end.is_none() && effects.list.is_empty();
        let wrong = match effects.list.iter().find_map(|(_, effect)| timer_of(effect).filter(|name| name.contains('/')))
        {
            Some(name) => Some(format!("it names a timer {name:?}, and the name of a saga's timer has no `/`")),
            None if version == Version(0) && events.is_empty() && !is_nothing => {
                Some("the first decision of a saga has no event, so there would be no saga: record one".to_owned())
            }
            None => None,
        };
        if let Some(wrong) = wrong {
            // The guest may hold the events of this decision.
            self.lose();
            return Err(refused(Refusal::Malformed(wrong)));
        }
        if end.is_some() {
            self.discard(live);
            self.ended.insert(key.clone());
        } else if !events.is_empty() && self.guest.as_ref().is_some_and(SagaGuest::takes_recorded_events) {
            // It is rebuilt once the step is durable, so that its events are applied as they were recorded.
            self.discard(live);
            self.has_dropped = true;
        } else {
            self.put_back(key, live, Version(version.0 + events.len() as u64));
        }
        Ok(if is_nothing && version == Version(0) { Decided::Ignored } else { Decided::Decision(version, decision) })
    }

    /// Returns a saga that is not live, with its version. If there is none, it is created if it may start.
    fn find(
        &mut self,
        reader: &mut dyn Reader,
        key: &Arc<str>,
        may_start: bool,
    ) -> Result<Option<(LiveSaga, Version)>, Undecidable> {
        let stream = StreamId { aggregate_type: self.saga_type.clone(), aggregate_id: key.clone() };
        let first = reader.read_stream(&stream, Version(0), HISTORY_PAGE)?;
        if first.is_empty() {
            return if may_start { Ok(Some((self.create(key)?, Version(0)))) } else { Ok(None) };
        }
        if reader.is_archived(&stream)? {
            return Ok(None);
        }
        match self.rebuild(reader, &stream, first, HISTORY_PAGE) {
            // A page took longer than one event may. Applying event by event shows which one is at fault, if any is.
            Err(Undecidable::Unhandled(Unhandled::Overrun(_))) => {
                let first = reader.read_stream(&stream, Version(0), 1)?;
                self.rebuild(reader, &stream, first, 1).map(Some)
            }
            rebuilt => rebuilt.map(Some),
        }
    }

    fn rebuild(
        &mut self,
        reader: &mut dyn Reader,
        stream: &StreamId,
        mut page: Vec<RecordedEvent>,
        limit: usize,
    ) -> Result<(LiveSaga, Version), Undecidable> {
        let live = self.create(&stream.aggregate_id)?;
        let mut version = Version(0);
        while let Some(last) = page.last() {
            version = last.version;
            let applied = self.guest().and_then(|guest| guest.apply(&live, &page));
            let applied = applied.map_err(|error| self.lost(&error)).map_err(Undecidable::Unhandled)?;
            if let Err(Failure { index, refusal }) = applied {
                self.lose();
                let at = page.get(index).map_or(version, |event| event.version);
                let reason =
                    format!("saga {stream} can't be rebuilt: the event at version {at} is not applied: {refusal}");
                return Err(refused(Refusal::Malformed(reason)));
            }
            page = reader.read_stream(stream, version, limit)?;
        }
        Ok((live, version))
    }

    fn create(&mut self, key: &str) -> Result<LiveSaga, Undecidable> {
        let created = self.guest().and_then(|guest| guest.create(key));
        created.map_err(|error| self.lost(&error)).map_err(Undecidable::Unhandled)
    }

    fn put_back(&mut self, key: &Arc<str>, live: LiveSaga, version: Version) {
        if version == Version(0) {
            return self.discard(live);
        }
        self.push(key, live, version);
    }

    fn push(&mut self, key: &Arc<str>, live: LiveSaga, version: Version) {
        self.sagas.push(key.clone(), (live, version));
        while self.sagas.len() > self.plugin.limits.instances_max
            && let Some((_, (oldest, _))) = self.sagas.pop_lru()
        {
            self.has_dropped = true;
            self.discard(oldest);
        }
    }

    fn discard(&mut self, live: LiveSaga) {
        if let Some(guest) = &mut self.guest
            && let Err(error) = guest.discard(live)
        {
            tracing::error!("a live saga can't be freed: {error}; all sagas of its subscription will be rebuilt");
            self.lose();
        }
    }

    fn guest(&mut self) -> Result<&mut SagaGuest, plugin::Error> {
        if self.guest.is_none() {
            self.guest = Some(SagaGuest::new(&self.plugin)?);
        }
        let guest = self.guest.as_mut().expect("it was just made");
        guest.hurry(self.is_hurried);
        Ok(guest)
    }

    fn lost(&mut self, error: &plugin::Error) -> Unhandled {
        self.lose();
        Unhandled::from(error)
    }
}

fn refused(refusal: Refusal) -> Undecidable {
    Undecidable::Unhandled(Unhandled::Refused(Failure { index: 0, refusal }))
}

/// Returns the name of the timer that an effect sets or cancels.
fn timer_of(effect: &Effect) -> Option<&str> {
    match effect {
        Effect::Later(name, ..) => name.as_deref(),
        Effect::Wake(name, ..) | Effect::Cancel(name) => Some(name),
        Effect::Command(_) | Effect::Message(_) | Effect::Http(_) => None,
    }
}
