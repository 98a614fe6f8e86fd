//! Given events, when a command comes, then these events or this refusal.

use super::{envelope, expect_outcome, readable};
use crate::Aggregate;
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::glue::Live;
use crate::{codec, upcast};
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
    let encode = |event| upcast::encode(&event, A::UPCASTS);
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
    let given = Given { live: Live::new("test".to_owned()), command: envelope::metadata("command-1", 0) };
    let stream = (A::TYPE, "test");
    let recorded = |((name, payload), place)| envelope::recorded(stream, place, name, payload);
    if let Err(failure) = given.live.apply(history.into_iter().zip(1..).map(recorded).collect()) {
        panic!("event {} of the history does not decode: {:?}", failure.index + 1, failure.outcome);
    }
    given
}

/// An aggregate that waits for a command.
pub struct Given<A: Aggregate> {
    live: Live<A>,
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
        let state = self.live.snapshot().expect("the aggregate takes no snapshot");
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

    fn handle(self, name: &str, payload: Vec<u8>) -> When<A> {
        let command = types::Command { name: name.to_owned(), payload, metadata: self.command };
        When { result: self.live.handle(command), live: self.live }
    }
}

/// What an aggregate decided. Each `then_` goes on with what follows from it.
#[must_use = "add a `then_`"]
pub struct When<A: Aggregate> {
    live: Live<A>,
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
            let (name, payload) = upcast::encode(&event, A::UPCASTS)
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

    fn next(self) -> Given<A> {
        Given { live: self.live, command: envelope::metadata("command-1", 0) }
    }
}
