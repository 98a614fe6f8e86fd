//! The exports of an aggregate: a resource that holds the state.

use crate::aggregate::{Aggregate, Applied, Context};
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate as wit;
use crate::bindings::types;
use crate::codec::Encoded;
use crate::log::install_panic_hook;
use crate::{Failure, Metadata, codec, readback, upcast};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

/// The exports of the aggregate `A`.
pub struct AggregateRole<A>(PhantomData<A>);

impl<A: Aggregate> wit::Guest for AggregateRole<A> {
    type Instance = Live<A>;

    fn describe() -> Result<wit::Description, String> {
        install_panic_hook();
        let commands = codec::variants::<A::Command>("commands")?.iter().map(ToString::to_string).collect();
        Ok(wit::Description { commands, events: upcast::names::<A::Event>(A::UPCASTS)? })
    }

    fn upcast(events: Vec<types::RecordedPayload>) -> Vec<Result<Vec<u8>, String>> {
        install_panic_hook();
        super::upcast(events, A::UPCASTS)
    }
}

/// One live aggregate: its state and version, and the events of its last command with the command's metadata. These are
/// durable when it is called again.
pub struct Live<A: Aggregate> {
    id: String,
    state: RefCell<A>,
    version: Cell<u64>,
    decided: RefCell<Option<(Vec<A::Event>, types::Metadata)>>,
}

impl<A: Aggregate> wit::GuestInstance for Live<A> {
    fn new(id: String) -> Self {
        install_panic_hook();
        Self { id, state: RefCell::default(), version: Cell::default(), decided: RefCell::default() }
    }

    fn apply(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        let mut state = self.state.borrow_mut();
        super::each(events, |_, event| {
            let metadata = Metadata(&event.metadata);
            let decoded = upcast::decode(&event.name, event.payload, A::UPCASTS)?;
            let command_id = metadata.causation_id().unwrap_or(metadata.id());
            let context = Applied { aggregate_id: &self.id, version: event.version, command_id, metadata };
            state.apply_with(decoded, &context);
            self.version.set(event.version);
            Ok(())
        })
    }

    fn handle(&self, command: types::Command) -> Result<Vec<types::NewEvent>, types::Outcome> {
        self.settle();
        let (events, encoded) = self.decide(&command).map_err(types::Outcome::from)?;
        if !events.is_empty() {
            self.decided.replace(Some((events, command.metadata)));
        }
        Ok(encoded)
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.try_snapshot().unwrap_or_else(|cause| {
            say_once::<A>(&cause);
            None
        })
    }

    fn restore(&self, state: Vec<u8>, version: u64) -> Result<(), String> {
        self.state.replace((A::SNAPSHOTS.restore)(&state)?);
        self.version.set(version);
        Ok(())
    }
}

impl<A: Aggregate> Live<A> {
    /// Applies the events of the last command, which are durable by now.
    fn settle(&self) {
        let Some((events, metadata)) = self.decided.take() else { return };
        let (mut state, metadata) = (self.state.borrow_mut(), Metadata(&metadata));
        for event in events {
            self.version.set(self.version.get() + 1);
            let (version, command_id) = (self.version.get(), metadata.id());
            state.apply_with(event, &Applied { aggregate_id: &self.id, version, command_id, metadata });
        }
    }

    /// Returns the state as bytes if the aggregate has snapshots, or an error that says why this state can't have one.
    pub(crate) fn try_snapshot(&self) -> Result<Option<Vec<u8>>, String> {
        self.settle();
        (A::SNAPSHOTS.take)(&self.state.borrow())
    }

    /// Borrows the state, for tests.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn state(&self) -> std::cell::Ref<'_, A> {
        self.settle();
        self.state.borrow()
    }

    /// Decides on a command. Returns the events twice: typed, to apply them later, and encoded, to record them now.
    fn decide(&self, command: &types::Command) -> Result<(Vec<A::Event>, Vec<types::NewEvent>), Failure> {
        let context = Context { aggregate_id: &self.id, metadata: Metadata(&command.metadata) };
        let decoded = codec::decode(&command.name, &command.payload)?;
        let events = self.state.borrow().handle_with(decoded, &context).map_err(Failure::rejected)?;
        let encoded = events.iter().map(new_event::<A>).collect::<Result<_, _>>()?;
        Ok((events, encoded))
    }
}

fn new_event<A: Aggregate>(event: &A::Event) -> Result<types::NewEvent, codec::Error> {
    let Encoded { name, payload, .. } = readback::encode_event(event, A::UPCASTS)?;
    Ok(types::NewEvent { name: name.to_owned(), payload })
}

/// Logs why a state has no snapshot, but only once, because every other state may have the same problem.
#[cold]
fn say_once<A: Aggregate>(cause: &str) {
    thread_local!(static SAID: Cell<bool> = const { Cell::new(false) });
    if !SAID.replace(true) {
        crate::warn!(
            "a {} has no snapshot, and its history is replayed instead: its state can't be kept: {cause}",
            A::TYPE
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use wit::Guest as _;

    /// An aggregate with these types of commands and events.
    struct Of<C, E>(PhantomData<(C, E)>);

    impl<C, E> Default for Of<C, E> {
        fn default() -> Self {
            Self(PhantomData)
        }
    }

    impl<C: serde::de::DeserializeOwned + 'static, E: Serialize + serde::de::DeserializeOwned + 'static> Aggregate
        for Of<C, E>
    {
        const TYPE: &'static str = "of";
        type Command = C;
        type Event = E;
        type Error = String;

        fn handle(&self, _: C) -> Result<Vec<E>, String> {
            Ok(Vec::new())
        }

        fn apply(&mut self, _: E) {}
    }

    #[derive(Serialize, Deserialize)]
    enum Plain {
        One,
        Two { size: u32 },
    }

    #[derive(Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        One,
    }

    #[derive(Serialize, Deserialize)]
    struct Only {
        size: u32,
    }

    #[test]
    fn commands_and_events_have_names_or_the_plugin_is_refused() {
        let described = AggregateRole::<Of<Plain, Plain>>::describe().unwrap();
        assert_eq!((described.commands.join(" "), described.events.join(" ")), ("One Two".into(), "One Two".into()));
        let refused = |described: Result<wit::Description, String>, part: &str| {
            let reason = described.map(|_| ()).unwrap_err();
            assert!(reason.contains(part) && reason.contains("make it an enum"), "{reason}");
        };
        refused(AggregateRole::<Of<Tagged, Plain>>::describe(), "the type of the commands, Tagged, is no plain enum");
        refused(AggregateRole::<Of<Only, Plain>>::describe(), "the type of the commands, Only, is no plain enum");
        refused(AggregateRole::<Of<Plain, Tagged>>::describe(), "the type of the events, Tagged, is no plain enum");
    }

    #[test]
    fn recorded_events_are_upcast_one_by_one() {
        let recorded = |payload: &str| types::RecordedPayload { name: "One".into(), payload: payload.into() };
        let upcast = AggregateRole::<Of<Plain, Plain>>::upcast(vec![recorded("null"), recorded(r#"{"@schema":2}"#)]);
        assert_eq!(upcast[0].as_deref(), Ok(b"null".as_slice()));
        assert!(upcast[1].as_ref().is_err_and(|reason| reason.contains("schema version 2")), "{:?}", upcast[1]);
    }
}
