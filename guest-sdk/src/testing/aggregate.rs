//! Tests of aggregates: given events, when a command arrives, then these events or this refusal.

use super::{envelope, expect_outcome, readable};
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::codec::{self, Encoded};
use crate::glue::Live;
use crate::log::native;
use crate::{Aggregate, Metadata};
use crate::{readback, upcast};
use serde::Serialize;

/// Makes an aggregate with this history.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Default)] struct Door { open: bool }
/// # #[derive(Serialize, Deserialize)] enum Command { Open }
/// # #[derive(Serialize, Deserialize)] enum Event { Opened }
/// # impl Aggregate for Door {
/// #     const TYPE: &'static str = "door";
/// #     type Command = Command;
/// #     type Event = Event;
/// #     type Error = &'static str;
/// #     fn handle(&self, _: Command) -> Result<Vec<Event>, &'static str> {
/// #         if self.open { Err("the door is open") } else { Ok(vec![Event::Opened]) }
/// #     }
/// #     fn apply(&mut self, _: Event) { self.open = true; }
/// # }
/// use wasmill_guest::testing::given;
///
/// given::<Door>([])
///     .when(Command::Open)
///     .then_events([Event::Opened])
///     .when(Command::Open)
///     .then_rejected("is open")
///     .when_json("Close", "")
///     .then_malformed("known are Open");
/// ```
///
/// # Panics
/// If an event of the history is not the same after encoding and decoding.
#[must_use = "add `when`"]
#[track_caller]
pub fn given<A: Aggregate>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let encode = |event| {
        let Encoded { name, payload, .. } = readback::encode_event(&event, A::UPCASTS)?;
        Ok::<_, codec::Error>((name, payload))
    };
    readback::check_all();
    let events = history.into_iter().map(encode).collect::<Result<Vec<_>, _>>();
    with_history(events.unwrap_or_else(|error| panic!("an event does not encode: {error}")))
}

/// Makes an aggregate with this history, given as names and JSON, as they are in a store. Use it for events of an older
/// schema version.
///
/// # Panics
/// If an event does not decode.
#[must_use = "add `when`"]
#[track_caller]
pub fn given_json<'e, A: Aggregate>(history: impl IntoIterator<Item = (&'e str, &'e str)>) -> Given<A> {
    with_history(history.into_iter().map(|(name, payload)| (name, payload.as_bytes().to_vec())))
}

#[track_caller]
fn with_history<'e, A: Aggregate>(history: impl IntoIterator<Item = (&'e str, Vec<u8>)>) -> Given<A> {
    readback::check_all();
    let recorded = |(name, payload): (&str, Vec<u8>)| Recorded { name: name.to_owned(), payload, metadata: None };
    let history: Vec<_> = history.into_iter().map(recorded).collect();
    let live = rebuilt(&history);
    Given { live, history, command: envelope::metadata("command-1", 0) }
}

/// Rebuilds an aggregate from its events, as after a restart.
#[track_caller]
fn rebuilt<A: Aggregate>(history: &[Recorded]) -> Live<A> {
    let live = Live::empty("test".to_owned());
    let stream = (A::TYPE, "test");
    let recorded = |(event, place): (&Recorded, u64)| {
        let mut recorded = envelope::recorded(stream, place, &event.name, event.payload.clone());
        recorded.metadata = event.metadata.clone().unwrap_or(recorded.metadata);
        recorded
    };
    if let Err(failure) = live.apply(history.iter().zip(1..).map(recorded).collect()) {
        panic!("event {} of the history does not decode: {:?}", failure.index + 1, failure.outcome);
    }
    live
}

/// A recorded event. It has metadata if a command of the test decided on it.
struct Recorded {
    name: String,
    payload: Vec<u8>,
    metadata: Option<types::Metadata>,
}

/// An aggregate that waits for a command.
///
/// Each command is decided twice: by the live aggregate, and by one that is rebuilt from its encoded events. If the two
/// differ the test fails, because a restart of the host would change the aggregate.
pub struct Given<A: Aggregate> {
    live: Live<A>,
    history: Vec<Recorded>,
    command: types::Metadata,
}

impl<A: Aggregate> Given<A> {
    /// Borrows the state.
    pub fn state(&self) -> std::cell::Ref<'_, A> {
        self.live.state()
    }

    /// Sets the time of the next command, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn at(mut self, time_ms: u64) -> Self {
        self.command.time = time_ms;
        self
    }

    /// Adds a header to the next command.
    pub fn with_header(mut self, name: &str, value: &[u8]) -> Self {
        envelope::add_header(&mut self.command, name, Some(value));
        self
    }

    /// Takes a snapshot of the state and restores it into a new instance.
    ///
    /// # Panics
    /// If the aggregate takes no snapshot or does not restore it.
    #[track_caller]
    pub fn through_a_snapshot(self) -> Self {
        let state = self.live.try_snapshot().unwrap_or_else(|error| panic!("the state has no snapshot: {error}"));
        let state = state.expect("the aggregate takes no snapshot");
        let live = Live::empty("test".to_owned());
        let version = self.history.len() as u64;
        live.restore(state, version).unwrap_or_else(|error| panic!("the snapshot does not restore: {error}"));
        Self { live, ..self }
    }

    /// Lets the aggregate decide on a command.
    ///
    /// # Panics
    /// If the command does not encode, or if a rebuilt aggregate decides differently.
    #[track_caller]
    pub fn when(self, command: A::Command) -> When<A>
    where
        A::Command: Serialize,
    {
        let encoded = codec::encode(&command);
        let (name, payload) = encoded.unwrap_or_else(|error| panic!("the command does not encode: {error}"));
        self.handle(name, payload)
    }

    /// Lets the aggregate decide on a command, given by its name and JSON, as a sender writes it.
    pub fn when_json(self, name: &str, payload: &str) -> When<A> {
        self.handle(name, payload.as_bytes().to_vec())
    }

    #[track_caller]
    fn handle(self, name: &str, payload: Vec<u8>) -> When<A> {
        let Self { live, history, command: metadata } = self;
        let recorded = as_recorded(&metadata);
        let command = types::Command { name: name.to_owned(), payload, metadata };
        let rebuilt = rebuilt::<A>(&history);
        // The rebuilt aggregate repeats the log lines of the live one, so they are dropped.
        let (by_rebuilt, _) = native::logs(|| rebuilt.handle(command.clone()));
        let result = live.handle(command);
        assert_eq!(
            comparable(&by_rebuilt),
            comparable(&result),
            "an aggregate that is rebuilt from its events decides differently (left) than the live one (right)"
        );
        When { result, live, history, recorded }
    }
}

/// Returns the metadata of the events that a command decides on.
fn as_recorded(command: &types::Metadata) -> types::Metadata {
    let causation = types::Causation {
        correlation_id: Metadata(command).correlation_id().to_owned(),
        causation_id: command.id.clone(),
    };
    types::Metadata { cause: types::Cause::Known(causation), ..command.clone() }
}

/// A decision of an aggregate. Each `then_` method checks it and returns the aggregate after the decision.
#[must_use = "add a `then_`"]
pub struct When<A: Aggregate> {
    live: Live<A>,
    history: Vec<Recorded>,
    result: Result<Vec<types::NewEvent>, types::Outcome>,
    /// The metadata of the events.
    recorded: types::Metadata,
}

impl<A: Aggregate> When<A> {
    /// Expects exactly these events, in this order, and records them.
    ///
    /// # Panics
    /// If the decision is anything else.
    #[track_caller]
    pub fn then_events(self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let actual = match &self.result {
            Ok(events) => {
                events.iter().map(|event| (event.name.as_str(), readable(&event.payload))).collect::<Vec<_>>()
            }
            Err(outcome) => panic!("expected events, got: {outcome:?}"),
        };
        let encode = |event| {
            let Encoded { name, payload, .. } = upcast::encode(&event, A::UPCASTS)
                .unwrap_or_else(|error| panic!("an expected event does not encode: {error}"));
            (name, readable(&payload))
        };
        let expected = expected.into_iter().map(encode).collect::<Vec<_>>();
        assert_eq!(actual, expected, "the events (left) are not the expected ones (right)");
        self.next()
    }

    /// Expects the command to be accepted without events.
    ///
    /// # Panics
    /// If the decision is anything else.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then_events([])
    }

    /// Expects the command to be rejected with a reason that contains this text.
    ///
    /// # Panics
    /// If the decision is anything else.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) -> Given<A> {
        expect_outcome(&self.result, "rejected", part_of_the_reason);
        self.next()
    }

    /// Expects the command to be malformed, with a reason that contains this text.
    ///
    /// # Panics
    /// If the decision is anything else.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) -> Given<A> {
        expect_outcome(&self.result, "malformed", part_of_the_reason);
        self.next()
    }

    /// Records the events and lets the live aggregate apply them. If the aggregate takes snapshots, this compares its
    /// state with that of a rebuilt one.
    #[track_caller]
    fn next(self) -> Given<A> {
        let Self { live, mut history, result, recorded } = self;
        let event = |types::NewEvent { name, payload }| Recorded { name, payload, metadata: Some(recorded.clone()) };
        history.extend(result.into_iter().flatten().map(event));
        let state = |live: &Live<A>| live.try_snapshot().ok().flatten();
        if let (Some(of_live), Some(of_rebuilt)) = (state(&live), state(&rebuilt(&history))) {
            assert!(
                readback::is_same(&of_live, &of_rebuilt),
                "an aggregate that is rebuilt from its events has another state than the live one:\n{}\n{}",
                readable(&of_rebuilt),
                readable(&of_live)
            );
        }
        Given { live, history, command: envelope::metadata("command-1", 0) }
    }
}

/// Returns a decision in a form that compares by content and is easy to read.
pub(super) fn comparable(
    result: &Result<Vec<types::NewEvent>, types::Outcome>,
) -> Result<Vec<(&str, serde_json::Value)>, String> {
    match result {
        Ok(events) => Ok(events.iter().map(|event| (event.name.as_str(), readable(&event.payload))).collect()),
        Err(outcome) => Err(format!("{outcome:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Snapshots;
    use serde::Deserialize;

    /// An aggregate that counts something that its events do not contain.
    #[derive(Default, Serialize, Deserialize)]
    struct Tally {
        sum: f64,
    }

    #[derive(Serialize, Deserialize)]
    enum Command {
        Add(f64),
    }

    #[derive(Serialize, Deserialize)]
    enum Event {
        Added {
            #[serde(serialize_with = "rounded")]
            amount: f64,
        },
    }

    fn rounded<S: serde::Serializer>(amount: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(amount.round())
    }

    impl Aggregate for Tally {
        const TYPE: &'static str = "tally";
        const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
        type Command = Command;
        type Event = Event;
        type Error = String;

        fn handle(&self, Command::Add(amount): Command) -> Result<Vec<Event>, String> {
            Ok(vec![Event::Added { amount }])
        }

        fn apply(&mut self, Event::Added { amount }: Event) {
            self.sum += amount;
        }
    }

    #[test]
    fn a_rebuilt_aggregate_is_what_the_live_one_is() {
        given::<Tally>([]).when(Command::Add(2.0)).then_events([Event::Added { amount: 2.0 }]);
    }

    /// The event decodes to what was encoded, but the live aggregate has more state than its events give.
    #[test]
    #[should_panic(expected = "an aggregate that is rebuilt from its events has another state than the live one")]
    fn a_live_aggregate_that_knows_more_than_its_events_fails() {
        given::<Tally>([]).when(Command::Add(2.4)).then_events([Event::Added { amount: 2.4 }]);
    }
}
