//! The canary: before new code of a plugin serves, it replays recent histories, and what comes of that is discarded.
//!
//! Aggregates and sagas are rebuilt from their recorded events, among them at least one of each kind of event (name and schema
//! version) that the search finds. Subscribers get the newest events of their filter. Code that traps or does not decode what the
//! code before it does is refused. A projection needs no canary: its new read model is built beside the one that answers.
//!
//! The canary is bounded in time and in number, so it may miss what is rare in a large store.

use crate::filter::Filter;
use crate::model::{Position, RecordedEvent, Refusal, StreamId, Version};
use crate::plugin::{AggregateGuest, Error, Live, LiveSaga, Plugin, Role, SagaGuest, SubscriberGuest};
use crate::store::{self, EventSearch, EventStore, Reader};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest time that the search for histories of one type takes, and the longest time of their replay.
const TIME_MAX: Duration = Duration::from_secs(1);

/// The most streams of one type that are replayed, besides those with a kind of event that no other has.
const STREAMS_MAX: usize = 64;

/// The most kinds of events of one type that are looked for.
const KINDS_MAX: usize = 1_000;

/// The most events of one type that are replayed.
const EVENTS_MAX: usize = 20_000;

/// The bytes of a history at which the rest of it is not replayed.
const HISTORY_BYTES_MAX: usize = 16 << 20;

/// The number of events that are searched or applied at once.
const PAGE: usize = 500;

/// The most events that a subscriber gets.
const DELIVERIES_MAX: usize = 200;

/// What the canary found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Why the new code must not serve.
    pub(super) refused: Option<String>,
    /// The streams whose state differs, in words.
    pub(super) differences: Vec<String>,
}

/// Has new code of a plugin replay histories that its old code knows.
pub(super) fn replay(store: &dyn EventStore, old: &Plugin, new: &Plugin) -> Result<Found, store::Error> {
    let mut reader = store.reader()?;
    let head = *store.head().borrow();
    let mut found = Found::default();
    for role in &new.description.roles {
        let refused = match role {
            Role::Aggregate { aggregate_type, .. } => {
                let codes = Codes { old: Aggregates(old, aggregate_type), new: Aggregates(new, aggregate_type) };
                codes.replay(&mut *reader, head, aggregate_type, &mut found.differences)?
            }
            Role::Saga { aggregate_type, .. } => {
                let codes = Codes { old: Sagas(old), new: Sagas(new) };
                codes.replay(&mut *reader, head, aggregate_type, &mut found.differences)?
            }
            Role::Subscriber { .. } => deliver(&mut *reader, head, old, new)?,
            Role::Projection { .. } => None,
        };
        if refused.is_some() {
            found.refused = refused;
            break;
        }
    }
    Ok(found)
}

/// Code that rebuilds states from events.
trait Rebuilds {
    type Guest;
    type Live;

    fn guest(&self) -> Result<Self::Guest, Error>;
    fn create(guest: &mut Self::Guest, id: &str) -> Result<Self::Live, Error>;
    /// Applies events. The inner error is the index and the reason of the event that does not decode.
    fn apply(
        guest: &mut Self::Guest,
        live: &Self::Live,
        events: &[RecordedEvent],
    ) -> Result<Result<(), (usize, String)>, Error>;
    fn state(guest: &mut Self::Guest, live: &Self::Live) -> Result<Option<Vec<u8>>, Error>;
    fn discard(guest: &mut Self::Guest, live: Self::Live) -> Result<(), Error>;
}

struct Aggregates<'p>(&'p Plugin, &'p str);

impl Rebuilds for Aggregates<'_> {
    type Guest = AggregateGuest;
    type Live = Live;

    fn guest(&self) -> Result<AggregateGuest, Error> {
        AggregateGuest::new(self.0, self.1)
    }

    fn create(guest: &mut AggregateGuest, id: &str) -> Result<Live, Error> {
        guest.create(id)
    }

    fn apply(
        guest: &mut AggregateGuest,
        live: &Live,
        events: &[RecordedEvent],
    ) -> Result<Result<(), (usize, String)>, Error> {
        let applied = guest.apply(live, events)?;
        Ok(applied.map_err(|failure| (failure.index, failure.refusal.to_string())))
    }

    fn state(guest: &mut AggregateGuest, live: &Live) -> Result<Option<Vec<u8>>, Error> {
        guest.snapshot(live)
    }

    fn discard(guest: &mut AggregateGuest, live: Live) -> Result<(), Error> {
        guest.discard(live)
    }
}

struct Sagas<'p>(&'p Plugin);

impl Rebuilds for Sagas<'_> {
    type Guest = SagaGuest;
    type Live = LiveSaga;

    fn guest(&self) -> Result<SagaGuest, Error> {
        SagaGuest::new(self.0)
    }

    fn create(guest: &mut SagaGuest, id: &str) -> Result<LiveSaga, Error> {
        guest.create(id)
    }

    fn apply(
        guest: &mut SagaGuest,
        live: &LiveSaga,
        events: &[RecordedEvent],
    ) -> Result<Result<(), (usize, String)>, Error> {
        let applied = guest.apply(live, events)?;
        Ok(applied.map_err(|failure| (failure.index, failure.refusal.to_string())))
    }

    /// Sagas take no snapshots.
    fn state(_: &mut SagaGuest, _: &LiveSaga) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn discard(guest: &mut SagaGuest, live: LiveSaga) -> Result<(), Error> {
        guest.discard(live)
    }
}

/// Old and new code of one type.
struct Codes<C> {
    old: C,
    new: C,
}

impl<C: Rebuilds> Codes<C> {
    /// Rebuilds states with the new code. Returns why it is refused, if it is.
    fn replay(
        &self,
        reader: &mut dyn Reader,
        head: Position,
        aggregate_type: &str,
        differences: &mut Vec<String>,
    ) -> Result<Option<String>, store::Error> {
        let streams = sample(reader, head, aggregate_type)?;
        let until = Instant::now() + TIME_MAX;
        let (mut left, mut guests) = (EVENTS_MAX, (None, None));
        for stream in streams {
            if left == 0 || Instant::now() > until {
                break;
            }
            let history = History { events: history(reader, &stream, &mut left)?, stream };
            let History { stream, events } = &history;
            let new = rebuilt(&self.new, &mut guests.1, &history, until);
            match new {
                Ok(state) => {
                    let Some(state) = state else { continue };
                    let old = rebuilt(&self.old, &mut guests.0, &history, until);
                    if let Ok(Some(old)) = old
                        && old != state
                    {
                        differences.push(format!("{stream} at version {}", version_of(events)));
                    }
                }
                Err(Unbuilt::Host(reason)) => {
                    tracing::warn!("the canary of {aggregate_type} is cut short: {reason}");
                    break;
                }
                Err(Unbuilt::Code(reason)) => {
                    // What the old code can't do either is not the fault of the new one.
                    let old = rebuilt(&self.old, &mut guests.0, &history, Instant::now() + TIME_MAX);
                    if old.is_ok() {
                        return Ok(Some(format!("it can't rebuild {stream}, which the code before it can: {reason}")));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// A stream with its events.
struct History {
    stream: StreamId,
    events: Vec<RecordedEvent>,
}

enum Unbuilt {
    /// The code is at fault.
    Code(String),
    /// The host is, or the time is up.
    Host(String),
}

impl From<Error> for Unbuilt {
    fn from(error: Error) -> Self {
        if error.is_of_host() { Self::Host(error.to_string()) } else { Self::Code(error.to_string()) }
    }
}

/// Rebuilds a state until the time is up. Returns it, if the code shows states.
fn rebuilt<C: Rebuilds>(
    code: &C,
    guest: &mut Option<C::Guest>,
    history: &History,
    until: Instant,
) -> Result<Option<Vec<u8>>, Unbuilt> {
    match rebuilt_by(code, guest, history, PAGE, until) {
        // A page took longer than one event may. Applying event by event shows which one is at fault, if any is.
        Err(Replayed::Overrun) => rebuilt_by(code, guest, history, 1, until).map_err(|failed| match failed {
            Replayed::Overrun => Unbuilt::Code("an event takes too long".to_owned()),
            Replayed::Failed(unbuilt) => unbuilt,
        }),
        Err(Replayed::Failed(unbuilt)) => Err(unbuilt),
        Ok(state) => Ok(state),
    }
}

enum Replayed {
    Overrun,
    Failed(Unbuilt),
}

impl From<Error> for Replayed {
    fn from(error: Error) -> Self {
        match error {
            Error::Overrun { .. } => Self::Overrun,
            error => Self::Failed(error.into()),
        }
    }
}

fn rebuilt_by<C: Rebuilds>(
    code: &C,
    kept: &mut Option<C::Guest>,
    History { stream, events }: &History,
    page: usize,
    until: Instant,
) -> Result<Option<Vec<u8>>, Replayed> {
    // A guest that fails is lost.
    let mut guest = match kept.take() {
        Some(guest) => guest,
        None => code.guest()?,
    };
    let live = C::create(&mut guest, &stream.aggregate_id)?;
    for page in events.chunks(page) {
        if Instant::now() > until {
            return Err(Replayed::Failed(Unbuilt::Host("the time is up".to_owned())));
        }
        if let Err((index, reason)) = C::apply(&mut guest, &live, page)? {
            let event = &page[index.min(page.len() - 1)];
            let reason = format!("event {} at version {} is not applied: {reason}", event.name, event.version);
            return Err(Replayed::Failed(Unbuilt::Code(reason)));
        }
    }
    let state = C::state(&mut guest, &live)?;
    C::discard(&mut guest, live)?;
    *kept = Some(guest);
    Ok(state)
}

fn version_of(events: &[RecordedEvent]) -> Version {
    events.last().map_or(Version(0), |event| event.version)
}

/// Reads the history of a stream, as far as there is room for it.
fn history(reader: &mut dyn Reader, stream: &StreamId, left: &mut usize) -> Result<Vec<RecordedEvent>, store::Error> {
    let (mut events, mut bytes) = (Vec::<RecordedEvent>::new(), 0);
    while *left > 0 && bytes < HISTORY_BYTES_MAX {
        let limit = PAGE.min(*left);
        let page = reader.read_stream(stream, version_of(&events), limit)?;
        *left -= page.len();
        bytes += page.iter().map(|event| event.payload.len()).sum::<usize>();
        let is_full = store::is_full(&page, limit);
        events.extend(page);
        if !is_full {
            break;
        }
    }
    Ok(events)
}

/// Returns the streams of a type that are replayed: the most recently used ones, and one for each kind of event.
fn sample(reader: &mut dyn Reader, head: Position, aggregate_type: &str) -> Result<Vec<StreamId>, store::Error> {
    let (mut streams, mut seen, mut kinds) = (Vec::new(), HashSet::new(), HashSet::<(Arc<str>, u32)>::new());
    newest(reader, head, &format!("{aggregate_type}.*"), |event| {
        let is_new_kind =
            kinds.len() < KINDS_MAX && kinds.insert((event.name.to_string().into(), schema_of(&event.payload)));
        if (is_new_kind || streams.len() < STREAMS_MAX) && seen.insert(event.stream.clone()) {
            streams.push(event.stream);
        }
        true
    })?;
    Ok(streams)
}

/// Gives the newest events of a pattern to `take`, the newest first, until it wants no more or the time is up.
fn newest(
    reader: &mut dyn Reader,
    head: Position,
    pattern: &str,
    take: impl FnMut(RecordedEvent) -> bool,
) -> Result<(), store::Error> {
    let filter = Filter::parse([pattern]).expect("a type and a wildcard are a pattern");
    newest_of(reader, head, filter, take)
}

fn newest_of(
    reader: &mut dyn Reader,
    head: Position,
    filter: Filter,
    mut take: impl FnMut(RecordedEvent) -> bool,
) -> Result<(), store::Error> {
    let until = Instant::now() + TIME_MAX;
    let search = EventSearch { filter, id: None };
    let mut from = head;
    while from > Position(0) && Instant::now() < until {
        let page = reader.search(&search, from, Position(1), PAGE)?;
        for event in page.events {
            if !take(event) {
                return Ok(());
            }
        }
        from = Position(page.reached.0.saturating_sub(1));
    }
    Ok(())
}

/// Returns the schema version of an event, which begins with its mark if it is not 1.
fn schema_of(payload: &[u8]) -> u32 {
    const MARK: &[u8] = b"{\"@schema\":";
    let digits = payload.strip_prefix(MARK).unwrap_or_default();
    let digits: Vec<u8> = digits.iter().copied().take_while(u8::is_ascii_digit).take(9).collect();
    std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(1)
}

/// Delivers the newest events of a subscriber's filter to its new code. Returns why it is refused, if it is.
fn deliver(
    reader: &mut dyn Reader,
    head: Position,
    old: &Plugin,
    new: &Plugin,
) -> Result<Option<String>, store::Error> {
    let mut events = Vec::new();
    newest_of(reader, head, new.subscriber_filter(), |event| {
        events.push(event);
        events.len() < DELIVERIES_MAX
    })?;
    let until = Instant::now() + TIME_MAX;
    let mut guests = (None, None);
    for event in events {
        if Instant::now() > until {
            break;
        }
        if let Err(reason) = handled(new, &mut guests.0, &event)
            && handled(old, &mut guests.1, &event).is_ok()
        {
            return Ok(Some(format!(
                "it can't handle event {} ({} of {}), which the code before it can: {reason}",
                event.position, event.name, event.stream
            )));
        }
    }
    Ok(None)
}

/// Whether code handles an event. Its effects are discarded. A refusal for the moment is none of the code.
fn handled(plugin: &Plugin, kept: &mut Option<SubscriberGuest>, event: &RecordedEvent) -> Result<(), String> {
    let guest = match kept.take() {
        Some(guest) => Ok(guest),
        None => SubscriberGuest::new(plugin),
    };
    let handled = guest.and_then(|mut guest| {
        let handled = guest.handle(std::slice::from_ref(event))?;
        *kept = Some(guest);
        Ok(handled)
    });
    match handled {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => match failure.refusal {
            Refusal::Malformed(reason) => Err(format!("malformed: {reason}")),
            Refusal::Rejected(_) | Refusal::Retry { .. } => Ok(()),
        },
        Err(error) if error.is_of_host() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_version_of_an_event_is_read_from_its_mark() {
        for (payload, version) in [
            ("null", 1),
            ("{\"name\":\"a\"}", 1),
            ("{\"@schema\":3,\"name\":\"a\"}", 3),
            ("{\"@schema\":}", 1),
            ("{\"@schema\":99999999999}", 999_999_999),
        ] {
            assert_eq!(schema_of(payload.as_bytes()), version, "{payload}");
        }
    }
}
