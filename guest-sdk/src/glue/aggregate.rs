//! The exports of an aggregate: a resource that holds the state.

use crate::aggregate::{Aggregate, Context};
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

    fn describe() -> wit::Description {
        install_panic_hook();
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        wit::Description {
            commands: owned(codec::variants::<A::Command>()),
            events: owned(codec::variants::<A::Event>()),
        }
    }
}

/// One live aggregate: its state, and the events of its last command, which are durable when it is called again.
pub struct Live<A: Aggregate> {
    id: String,
    state: RefCell<A>,
    decided: RefCell<Vec<A::Event>>,
}

impl<A: Aggregate> wit::GuestInstance for Live<A> {
    fn new(id: String) -> Self {
        install_panic_hook();
        Self { id, state: RefCell::default(), decided: RefCell::default() }
    }

    fn apply(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        let mut state = self.state.borrow_mut();
        super::each(events, |_, event| {
            state.apply(upcast::decode(&event.name, event.payload, A::UPCASTS)?);
            Ok(())
        })
    }

    fn handle(&self, command: types::Command) -> Result<Vec<types::NewEvent>, types::Outcome> {
        self.settle();
        let (events, encoded) = self.decide(&command).map_err(types::Outcome::from)?;
        self.decided.replace(events);
        Ok(encoded)
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        self.try_snapshot().unwrap_or_else(|cause| {
            say_once::<A>(&cause);
            None
        })
    }

    fn restore(&self, state: Vec<u8>) -> Result<(), String> {
        self.state.replace((A::SNAPSHOTS.restore)(&state)?);
        Ok(())
    }
}

impl<A: Aggregate> Live<A> {
    /// Applies the events of the last command, which are durable by now.
    fn settle(&self) {
        let mut state = self.state.borrow_mut();
        self.decided.take().into_iter().for_each(|event| state.apply(event));
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
