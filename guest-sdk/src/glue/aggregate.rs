//! The exports of aggregates: a resource that holds the state of one.
//!
//! A plugin may serve several aggregate types. They are a list of types, which ends with [`Only`], so that a plugin with one
//! type has no choice to make at run time.

use crate::aggregate::{Aggregate, Applied, Context};
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate as wit;
use crate::bindings::types;
use crate::codec::Encoded;
use crate::declared::{Crate, identity, owned};
use crate::log::install_panic_hook;
use crate::upcast::Upcasts;
use crate::{Failure, Metadata, codec, readback, upcast};
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

/// The exports of the aggregates in the list `L`, in the crate `C`.
pub struct AggregateRole<L, C>(PhantomData<(L, C)>);

impl<L: Aggregates, C: Crate> wit::Guest for AggregateRole<L, C> {
    type Instance = L::Live;

    fn describe() -> Result<wit::Description, String> {
        install_panic_hook();
        let mut aggregate_types = Vec::new();
        L::describe(&mut aggregate_types)?;
        Ok(wit::Description { plugin: identity::<C>(), aggregate_types })
    }

    fn upcast(aggregate_type: String, events: Vec<types::RecordedPayload>) -> Vec<Result<Vec<u8>, String>> {
        install_panic_hook();
        super::upcast(events, L::upcasts(&aggregate_type))
    }
}

/// A list of aggregates.
pub trait Aggregates: 'static {
    /// A live aggregate of any of the types.
    type Live: wit::GuestInstance;

    /// The names of the types.
    const TYPES: Types;

    /// Appends the descriptions, in the order of the list.
    fn describe(types: &mut Vec<wit::AggregateType>) -> Result<(), String>;

    /// Returns the upcasts of a type.
    fn upcasts(aggregate_type: &str) -> &'static [Upcasts];
}

/// The list of one aggregate.
pub struct Only<A>(PhantomData<A>);

/// The list that begins with `A`, followed by the list `L`.
pub struct Beside<A, L>(PhantomData<(A, L)>);

impl<A: Aggregate> Aggregates for Only<A> {
    type Live = Live<A>;

    const TYPES: Types = Types { first: A::TYPE, rest: None };

    fn describe(types: &mut Vec<wit::AggregateType>) -> Result<(), String> {
        types.push(describe::<A>()?);
        Ok(())
    }

    fn upcasts(aggregate_type: &str) -> &'static [Upcasts] {
        if aggregate_type == A::TYPE { A::UPCASTS } else { unserved(aggregate_type) }
    }
}

impl<A: Aggregate, L: Aggregates> Aggregates for Beside<A, L> {
    type Live = OneOf<A, L>;

    const TYPES: Types = Types { first: A::TYPE, rest: Some(&L::TYPES) };

    fn describe(types: &mut Vec<wit::AggregateType>) -> Result<(), String> {
        types.push(describe::<A>()?);
        L::describe(types)
    }

    fn upcasts(aggregate_type: &str) -> &'static [Upcasts] {
        if aggregate_type == A::TYPE { A::UPCASTS } else { L::upcasts(aggregate_type) }
    }
}

/// Returns the description of an aggregate.
fn describe<A: Aggregate>() -> Result<wit::AggregateType, String> {
    let commands = owned(codec::variants::<A::Command>("commands")?);
    let events = upcast::names::<A::Event>(A::UPCASTS)?;
    Ok(wit::AggregateType {
        name: A::TYPE.to_owned(),
        commands: A::COMMAND_SCHEMA.describe(commands),
        events: A::EVENT_SCHEMA.describe(events),
        state: A::STATE_SCHEMA.text(),
    })
}

/// The host asks only for types in the plugin's description.
#[cold]
fn unserved(aggregate_type: &str) -> ! {
    panic!("this plugin has no aggregate `{aggregate_type}`")
}

/// The names of aggregate types, for a check at compile time.
pub struct Types {
    first: &'static str,
    rest: Option<&'static Types>,
}

impl Types {
    /// Fails the build if two aggregates have the same type.
    pub const fn assert_distinct(&self) {
        let Some(mut other) = self.rest else { return };
        other.assert_distinct();
        loop {
            assert!(
                !is_same(self.first, other.first),
                "two aggregates in export_aggregate! have the same TYPE: give each its own, as its streams are named by it"
            );
            match other.rest {
                Some(rest) => other = rest,
                None => return,
            }
        }
    }
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut at = 0;
    while at < one.len() {
        if one[at] != other[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A live aggregate of one of several types.
pub enum OneOf<A: Aggregate, L: Aggregates> {
    /// One of the first type.
    First(Live<A>),
    /// One of the others.
    Other(L::Live),
}

impl<A: Aggregate, L: Aggregates> wit::GuestInstance for OneOf<A, L> {
    fn new(aggregate_type: String, id: String) -> Self {
        if aggregate_type == A::TYPE {
            Self::First(Live::new(aggregate_type, id))
        } else {
            Self::Other(L::Live::new(aggregate_type, id))
        }
    }

    fn apply(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        match self {
            Self::First(live) => live.apply(events),
            Self::Other(live) => live.apply(events),
        }
    }

    fn handle(&self, command: types::Command) -> Result<Vec<types::NewEvent>, types::Outcome> {
        match self {
            Self::First(live) => live.handle(command),
            Self::Other(live) => live.handle(command),
        }
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        match self {
            Self::First(live) => live.snapshot(),
            Self::Other(live) => live.snapshot(),
        }
    }

    fn restore(&self, state: Vec<u8>, version: u64) -> Result<(), String> {
        match self {
            Self::First(live) => live.restore(state, version),
            Self::Other(live) => live.restore(state, version),
        }
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
    fn new(aggregate_type: String, id: String) -> Self {
        install_panic_hook();
        if aggregate_type != A::TYPE {
            unserved(&aggregate_type);
        }
        Self::empty(id)
    }

    fn apply(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        // If there are any, they are the first of these.
        self.decided.take();
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
    /// Makes the aggregate with this id, with empty state.
    pub fn empty(id: String) -> Self {
        Self { id, state: RefCell::default(), version: Cell::default(), decided: RefCell::default() }
    }

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

/// Logs why a state has no snapshot, but only once for each type, because every other state may have the same problem.
#[cold]
fn say_once<A: Aggregate>(cause: &str) {
    thread_local!(static SAID: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) });
    let is_new = SAID.with_borrow_mut(|said| {
        let is_new = !said.contains(&A::TYPE);
        said.extend(is_new.then_some(A::TYPE));
        is_new
    });
    if is_new {
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

    struct Here;

    impl Crate for Here {
        const NAME: &'static str = "here";
        const VERSION: &'static str = "1.2.3";
    }

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
    struct Size {
        size: u32,
    }

    #[test]
    fn commands_and_events_have_names_or_the_plugin_is_refused() {
        let described = AggregateRole::<Only<Of<Plain, Plain>>, Here>::describe().unwrap();
        assert_eq!((&*described.plugin.name, &*described.plugin.version), ("here", "1.2.3"));
        let names = |messages: &[types::MessageType]| messages.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
        let [of] = &*described.aggregate_types else { panic!() };
        assert_eq!((names(&of.commands), names(&of.events)), (owned(&["One", "Two"]), owned(&["One", "Two"])));
        let refused = |described: Result<wit::Description, String>, part: &str| {
            let reason = described.map(|_| ()).unwrap_err();
            assert!(reason.contains(part) && reason.contains("make it an enum"), "{reason}");
        };
        refused(
            AggregateRole::<Only<Of<Tagged, Plain>>, Here>::describe(),
            "the type of the commands, Tagged, is no plain enum",
        );
        refused(
            AggregateRole::<Only<Of<Size, Plain>>, Here>::describe(),
            "the type of the commands, Size, is no plain enum",
        );
        refused(
            AggregateRole::<Only<Of<Plain, Tagged>>, Here>::describe(),
            "the type of the events, Tagged, is no plain enum",
        );
    }

    /// A counter that is named by a letter, and keeps what it was sent.
    #[derive(Default, Serialize, Deserialize)]
    struct Counter<const LETTER: char>(u32);

    #[derive(Serialize, Deserialize)]
    enum Counted {
        Add(u32),
    }

    const DOUBLE: &[Upcasts] =
        &[Upcasts::of("Add", &[|count| Ok(upcast::json!(2 * count.as_u64().unwrap_or_default()))])];

    impl<const LETTER: char> Aggregate for Counter<LETTER> {
        const TYPE: &'static str = if LETTER == 'a' {
            "a"
        } else if LETTER == 'b' {
            "b"
        } else {
            "c"
        };
        const SNAPSHOTS: crate::aggregate::Snapshots<Self> = crate::aggregate::Snapshots::json();
        const UPCASTS: &'static [Upcasts] = if LETTER == 'b' { DOUBLE } else { &[] };
        type Command = Counted;
        type Event = Counted;
        type Error = String;

        fn handle(&self, command: Counted) -> Result<Vec<Counted>, String> {
            Ok(vec![command])
        }

        fn apply(&mut self, Counted::Add(count): Counted) {
            self.0 += count;
        }
    }

    type Three = Beside<Counter<'a'>, Beside<Counter<'b'>, Only<Counter<'c'>>>>;

    fn command(payload: &str) -> types::Command {
        let metadata = types::Metadata { id: "1".into(), time: 0, cause: types::Cause::First, headers: None };
        types::Command { name: "Add".into(), payload: payload.into(), metadata }
    }

    #[test]
    fn each_of_several_aggregates_has_its_own_description_state_and_upcasts() {
        use wit::GuestInstance as _;
        let described = AggregateRole::<Three, Here>::describe().unwrap();
        let types: Vec<&str> = described.aggregate_types.iter().map(|one| &*one.name).collect();
        assert_eq!(types, ["a", "b", "c"]);
        let one = || types::RecordedPayload { name: "Add".into(), payload: b"1".to_vec() };
        let upcast =
            types.iter().map(|name| AggregateRole::<Three, Here>::upcast((*name).to_owned(), vec![one()]).remove(0));
        assert_eq!(upcast.collect::<Vec<_>>(), [b"1", b"2", b"1"].map(|payload| Ok(payload.to_vec())));
        for (name, count) in [("a", "7"), ("b", "8"), ("c", "9")] {
            let live = <Three as Aggregates>::Live::new(name.to_owned(), "1".to_owned());
            assert_eq!(live.handle(command(count)).unwrap().len(), 1);
            assert_eq!(live.snapshot().as_deref(), Some(count.as_bytes()), "{name}");
            live.restore(b"5".to_vec(), 3).unwrap();
            assert_eq!(live.snapshot().as_deref(), Some(b"5".as_slice()), "{name}");
        }
    }

    #[test]
    fn events_that_come_back_as_recorded_take_the_place_of_those_held() {
        use wit::GuestInstance as _;
        let live = <Three as Aggregates>::Live::new("a".to_owned(), "1".to_owned());
        assert_eq!(live.handle(command("7")).unwrap().len(), 1);
        let recorded = types::RecordedEvent {
            position: 1,
            aggregate_type: "a".into(),
            aggregate_id: "1".into(),
            version: 1,
            name: "Add".into(),
            payload: b"7".to_vec(),
            recorded_time: 0,
            first_time: 0,
            metadata: command("7").metadata,
        };
        live.apply(vec![recorded]).unwrap();
        assert_eq!(live.snapshot().as_deref(), Some(b"7".as_slice()), "it is applied once");
        assert_eq!(live.handle(command("1")).unwrap().len(), 1);
        assert_eq!(live.snapshot().as_deref(), Some(b"8".as_slice()));
    }

    #[test]
    #[should_panic(expected = "this plugin has no aggregate `d`")]
    fn a_type_that_the_plugin_does_not_have_is_no_other_aggregate() {
        let _ = <<Three as Aggregates>::Live as wit::GuestInstance>::new("d".to_owned(), "1".to_owned());
    }

    #[test]
    #[should_panic(
        expected = "two aggregates in export_aggregate! have the same TYPE: give each its own, as its streams are named by it"
    )]
    fn two_aggregates_of_one_type_are_refused() {
        Beside::<Counter<'a'>, Beside<Counter<'b'>, Only<Counter<'a'>>>>::TYPES.assert_distinct();
    }

    #[test]
    fn recorded_events_are_upcast_one_by_one() {
        let recorded = |payload: &str| types::RecordedPayload { name: "One".into(), payload: payload.into() };
        let events = vec![recorded("null"), recorded(r#"{"@schema":2}"#)];
        let upcast = AggregateRole::<Only<Of<Plain, Plain>>, Here>::upcast("of".to_owned(), events);
        assert_eq!(upcast[0].as_deref(), Ok(b"null".as_slice()));
        assert!(upcast[1].as_ref().is_err_and(|reason| reason.contains("schema version 2")), "{:?}", upcast[1]);
    }
}
