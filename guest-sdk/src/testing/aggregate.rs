//! Given events, when a command comes, then these events or this refusal.

use super::{envelope, expect_outcome, readable};
use crate::Aggregate;
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::codec::{self, Encoded};
use crate::glue::Live;
use crate::log::native;
use crate::{readback, upcast};
use serde::Serialize;

/// An aggregate with this history.
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
/// When an event of the history does not survive encoding and decoding.
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

/// An aggregate with this history, by names and JSON as a store has them: for events of an older shape.
///
/// # Panics
/// When an event does not decode.
#[must_use = "add `when`"]
#[track_caller]
pub fn given_json<'e, A: Aggregate>(history: impl IntoIterator<Item = (&'e str, &'e str)>) -> Given<A> {
    with_history(history.into_iter().map(|(name, payload)| (name, payload.as_bytes().to_vec())))
}

#[track_caller]
fn with_history<'e, A: Aggregate>(history: impl IntoIterator<Item = (&'e str, Vec<u8>)>) -> Given<A> {
    readback::check_all();
    let history: Vec<_> = history.into_iter().map(|(name, payload)| (name.to_owned(), payload)).collect();
    let live = rebuilt(&history);
    Given { live, history, command: envelope::metadata("command-1", 0) }
}

/// An aggregate that is made from its events, as after a restart.
#[track_caller]
fn rebuilt<A: Aggregate>(history: &[Recorded]) -> Live<A> {
    let live = Live::new("test".to_owned());
    let stream = (A::TYPE, "test");
    let recorded =
        |((name, payload), place): (&Recorded, u64)| envelope::recorded(stream, place, name, payload.clone());
    if let Err(failure) = live.apply(history.iter().zip(1..).map(recorded).collect()) {
        panic!("event {} of the history does not decode: {:?}", failure.index + 1, failure.outcome);
    }
    live
}

/// The name and the payload of an event that counts.
type Recorded = (String, Vec<u8>);

/// An aggregate that waits for a command.
///
/// Each command is decided twice: by the live aggregate, and by one that is rebuilt from its encoded events. Where the two
/// differ the test fails, since a restart of the host would change the aggregate.
pub struct Given<A: Aggregate> {
    live: Live<A>,
    history: Vec<Recorded>,
    command: types::Metadata,
}

impl<A: Aggregate> Given<A> {
    /// A look at the state.
    pub fn state(&self) -> std::cell::Ref<'_, A> {
        self.live.state()
    }

    /// The next command comes at this time, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn at(mut self, time_ms: u64) -> Self {
        self.command.time = time_ms;
        self
    }

    /// The next command carries this header.
    pub fn with_header(mut self, name: &str, value: &[u8]) -> Self {
        envelope::add_header(&mut self.command, name, Some(value));
        self
    }

    /// The state goes through a snapshot.
    ///
    /// # Panics
    /// When the aggregate takes no snapshot or does not restore it.
    #[track_caller]
    pub fn through_a_snapshot(self) -> Self {
        let state = self.live.try_snapshot().unwrap_or_else(|error| panic!("the state has no snapshot: it {error}"));
        let state = state.expect("the aggregate takes no snapshot");
        let live = Live::new("test".to_owned());
        live.restore(state).unwrap_or_else(|error| panic!("the snapshot does not restore: {error}"));
        Self { live, ..self }
    }

    /// A command comes.
    ///
    /// # Panics
    /// When it does not encode.
    #[track_caller]
    pub fn when(self, command: A::Command) -> When<A>
    where
        A::Command: Serialize,
    {
        let encoded = codec::encode(&command);
        let (name, payload) = encoded.unwrap_or_else(|error| panic!("the command does not encode: {error}"));
        self.handle(name, payload)
    }

    /// A command comes by its name and JSON, as from the outside.
    pub fn when_json(self, name: &str, payload: &str) -> When<A> {
        self.handle(name, payload.as_bytes().to_vec())
    }

    #[track_caller]
    fn handle(self, name: &str, payload: Vec<u8>) -> When<A> {
        let Self { live, history, command: metadata } = self;
        let command = types::Command { name: name.to_owned(), payload, metadata };
        let rebuilt = rebuilt::<A>(&history);
        // Its lines are those of the live one over again.
        let (by_rebuilt, _) = native::logs(|| rebuilt.handle(command.clone()));
        let result = live.handle(command);
        assert_eq!(
            comparable(&by_rebuilt),
            comparable(&result),
            "an aggregate that is rebuilt from its events decides otherwise (left) than the live one (right)"
        );
        When { result, live, history }
    }
}

/// What an aggregate decided. Each `then_` goes on with what follows from it.
#[must_use = "add a `then_`"]
pub struct When<A: Aggregate> {
    live: Live<A>,
    history: Vec<Recorded>,
    result: Result<Vec<types::NewEvent>, types::Outcome>,
}

impl<A: Aggregate> When<A> {
    /// Exactly these events, which then are recorded.
    ///
    /// # Panics
    /// When it is anything else.
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

    /// The command is accepted and nothing happens.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then_events([])
    }

    /// The command is refused, with this in the reason.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) -> Given<A> {
        expect_outcome(&self.result, "rejected", part_of_the_reason);
        self.next()
    }

    /// The command does not decode, with this in the reason.
    ///
    /// # Panics
    /// When it is anything else.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) -> Given<A> {
        expect_outcome(&self.result, "malformed", part_of_the_reason);
        self.next()
    }

    /// The events are recorded, and the live aggregate applies them. If it takes snapshots, they tell whether it is then
    /// what its events make of it.
    #[track_caller]
    fn next(self) -> Given<A> {
        let Self { live, mut history, result } = self;
        history.extend(result.into_iter().flatten().map(|event| (event.name, event.payload)));
        let state = |live: &Live<A>| live.try_snapshot().ok().flatten();
        if let (Some(of_live), Some(of_rebuilt)) = (state(&live), state(&rebuilt(&history))) {
            assert!(
                readback::is_same(&of_live, &of_rebuilt),
                "an aggregate that is rebuilt from its events is not what the live one is:\n{}\n{}",
                readable(&of_rebuilt),
                readable(&of_live)
            );
        }
        Given { live, history, command: envelope::metadata("command-1", 0) }
    }
}

/// A decision as people compare it.
fn comparable(result: &Result<Vec<types::NewEvent>, types::Outcome>) -> Result<Vec<(&str, serde_json::Value)>, String> {
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

    /// Counts in a way that its events do not tell.
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

    /// The event decodes to what was encoded: only the live aggregate knows more.
    #[test]
    #[should_panic(expected = "an aggregate that is rebuilt from its events is not what the live one is")]
    fn a_live_aggregate_that_knows_more_than_its_events_fails() {
        given::<Tally>([]).when(Command::Add(2.4)).then_events([Event::Added { amount: 2.4 }]);
    }
}
