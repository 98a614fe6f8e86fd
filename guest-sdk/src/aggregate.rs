//! The role that turns commands into events.
//!
//! An aggregate is pure: the same history and command give the same events. It knows nothing about the host, storage
//! or other aggregates.

use crate::Metadata;
use crate::declared;
use crate::readback;
use crate::schema::Schema;
use crate::upcast::Upcasts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;

/// A consistency boundary. It decides on commands from the events of its own stream and nothing else.
///
/// ```
/// use wasmill_guest::prelude::*;
///
/// #[derive(Default)]
/// struct Counter { value: u32 }
///
/// #[derive(Serialize, Deserialize)]
/// enum Command { Add { amount: u32 } }
///
/// #[derive(Serialize, Deserialize)]
/// enum Event { Added { amount: u32 } }
///
/// impl Aggregate for Counter {
///     const TYPE: &'static str = "counter";
///     type Command = Command;
///     type Event = Event;
///     type Error = String;
///
///     fn handle(&self, Command::Add { amount }: Command) -> Result<Vec<Event>, String> {
///         self.value.checked_add(amount).ok_or("the counter is full")?;
///         Ok(vec![Event::Added { amount }])
///     }
///
///     fn apply(&mut self, Event::Added { amount }: Event) {
///         self.value += amount;
///     }
/// }
/// export_aggregate!(Counter);
///
/// use wasmill_guest::testing::given;
/// given::<Counter>([]).when(Command::Add { amount: 2 }).then_events([Event::Added { amount: 2 }]);
/// given::<Counter>([Event::Added { amount: u32::MAX }]).when(Command::Add { amount: 1 }).then_rejected("full");
/// ```
pub trait Aggregate: Default + 'static {
    /// The aggregate's type: 1 to 64 characters of `a-z`, `0-9` and `-`. It must be unique among the plugins of a host.
    const TYPE: &'static str;

    /// The commands: a plain serde enum. A command's name is the variant's name, and its payload is the variant's
    /// content. A command that does not decode is malformed: [`handle`](Self::handle) is not called.
    type Command: DeserializeOwned;

    /// The events: a plain serde enum, like the commands. Events are kept forever, so new code must be able to decode
    /// old ones, with serde's attributes or with [`UPCASTS`](Self::UPCASTS).
    type Event: Serialize + DeserializeOwned;

    /// The reason why a command is rejected. The sender gets its text.
    type Error: Display;

    /// The way to make snapshots. By default there are none, and the host replays the history.
    ///
    /// `const SNAPSHOTS: Snapshots<Self> = Snapshots::json();` keeps the state as JSON, which is worth it for long
    /// streams. The host takes a snapshot as often as the manifest says (`plugins.NAME.snapshot_every`). It restores a
    /// snapshot only into the code that made it, so you can change the state's type freely.
    const SNAPSHOTS: Snapshots<Self> = Snapshots::none();

    /// The upcasts, which turn events of older schema versions into events that the code knows. By default there are
    /// none, and every event has schema version 1. See [`upcast`](crate::upcast).
    const UPCASTS: &'static [Upcasts] = &[];

    /// The JSON Schema of the commands: `Schema::of::<Command>()`. By default there is none. See [`schema`](crate::schema).
    const COMMAND_SCHEMA: Schema = Schema::none();

    /// The JSON Schema of the events.
    const EVENT_SCHEMA: Schema = Schema::none();

    /// The JSON Schema of the state.
    const STATE_SCHEMA: Schema = Schema::none();

    /// Decides on a command. The events, if any, are recorded in this order, all of them or none, and are then passed
    /// to [`apply`](Self::apply). An error rejects the command, and nothing is recorded.
    ///
    /// Implement this or [`handle_with`](Self::handle_with). A plugin with neither does not compile.
    fn handle(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error> {
        let _ = command;
        const { declared::assert_handles::<Self>() };
        unreachable!("an aggregate without `handle` does not compile")
    }

    /// Updates the state with a recorded event. Events arrive in version order. This cannot fail, because the event has
    /// already happened.
    ///
    /// Implement this or [`apply_with`](Self::apply_with). A plugin with neither does not compile.
    fn apply(&mut self, event: Self::Event) {
        let _ = event;
        const { declared::assert_applies::<Self>() };
        unreachable!("an aggregate without `apply` does not compile")
    }

    /// Updates the state with a recorded event and its context: the aggregate, the version, and the command that decided on
    /// the event. The context is the same whether the event was just decided or is replayed. The host calls this instead of
    /// [`apply`](Self::apply), and by default it just calls `apply`.
    fn apply_with(&mut self, event: Self::Event, context: &Applied<'_>) {
        let _ = context;
        self.apply(event);
    }

    /// Decides on a command with its context: ids, time and headers. The host calls this instead of
    /// [`handle`](Self::handle), and by default it just calls `handle`.
    fn handle_with(&self, command: Self::Command, context: &Context<'_>) -> Result<Vec<Self::Event>, Self::Error> {
        let _ = context;
        self.handle(command)
    }
}

/// The context of a command: the aggregate that it is for, and its metadata.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub(crate) aggregate_id: &'a str,
    pub(crate) metadata: Metadata<'a>,
}

impl<'a> Context<'a> {
    /// The id of this aggregate.
    pub fn aggregate_id(&self) -> &'a str {
        self.aggregate_id
    }

    /// The command's id, time, correlation and headers.
    pub fn metadata(&self) -> Metadata<'a> {
        self.metadata
    }
}

/// The context of an event that is applied: its place in the stream, and the command that decided on it.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    pub(crate) aggregate_id: &'a str,
    pub(crate) version: u64,
    pub(crate) command_id: &'a str,
    pub(crate) metadata: Metadata<'a>,
}

impl<'a> Applied<'a> {
    /// The id of this aggregate.
    pub fn aggregate_id(&self) -> &'a str {
        self.aggregate_id
    }

    /// The version of the event: the version of the aggregate with it.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The id of the command.
    pub fn command_id(&self) -> &'a str {
        self.command_id
    }

    /// The time of the command, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn time_ms(&self) -> u64 {
        self.metadata.time_ms()
    }

    /// The correlation id of the command.
    pub fn correlation_id(&self) -> &'a str {
        self.metadata.correlation_id()
    }

    /// The value of the command's last header with this name. It is none if there is no such header or if it has no value.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.metadata.header(name)
    }

    /// All headers of the command in their order. Names may repeat, and a header may have no value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        self.metadata.headers()
    }
}

type Take<A> = fn(&A) -> Result<Option<Vec<u8>>, String>;
type Restore<A> = fn(&[u8]) -> Result<A, String>;

/// The way to turn an aggregate's state into bytes and back.
pub struct Snapshots<A> {
    pub(crate) take: Take<A>,
    pub(crate) restore: Restore<A>,
}

impl<A> Snapshots<A> {
    /// Makes no snapshots.
    pub const fn none() -> Self {
        Self { take: |_| Ok(None), restore: |_| Err("this aggregate keeps no snapshots".to_owned()) }
    }
}

impl<A: Serialize + DeserializeOwned> Snapshots<A> {
    /// Keeps the state as JSON. If a state does not encode, or would not be the same once it is restored, there is no
    /// snapshot of it and the history is replayed instead. The log says so once.
    pub const fn json() -> Self {
        Self {
            take: |state| readback::encode_state(state).map(Some),
            restore: |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        }
    }
}
