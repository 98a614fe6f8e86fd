//! The role that turns commands into events.
//!
//! An aggregate is pure: the same history and command give the same events. It knows nothing of the host, of storage
//! or of other aggregates.

use crate::Metadata;
use crate::readback;
use crate::upcast::Upcasts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;

/// A consistency boundary: it decides on commands from the events of its own stream and nothing else.
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
    /// The aggregate's type: 1 to 64 characters of `a-z`, `0-9` and `-`. No two plugins of a host may have the same.
    const TYPE: &'static str;

    /// A plain serde enum. A command's name is the variant's, its payload the variant's content.
    type Command: DeserializeOwned;

    /// A plain serde enum, as the commands are. Events live forever: new code must decode the old ones, by itself or
    /// with [`UPCASTS`](Self::UPCASTS).
    type Event: Serialize + DeserializeOwned;

    /// Why a command is refused. The sender reads its text.
    type Error: Display;

    /// How snapshots are made. None by default: the host replays the history.
    ///
    /// `const SNAPSHOTS: Snapshots<Self> = Snapshots::json();` keeps the state as JSON; worth it for long streams. The
    /// host takes them where the manifest says how often (`plugins.NAME.snapshot_every`), and only for the code that
    /// made them: a changed state needs no care.
    const SNAPSHOTS: Snapshots<Self> = Snapshots::none();

    /// How events of older shapes become those that the code knows. None by default: every event is at schema version
    /// 1. See [`upcast`](crate::upcast).
    const UPCASTS: &'static [Upcasts] = &[];

    /// Decides. The events count only once they are recorded; then they come back through [`apply`](Self::apply).
    fn handle(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;

    /// Changes the state by what has happened. Must not fail: what is recorded is true.
    fn apply(&mut self, event: Self::Event);

    /// Decides with a look at the command's context: ids, time and headers. Leaves it to [`handle`](Self::handle) by
    /// default, and is called in its place.
    fn handle_with(&self, command: Self::Command, context: &Context<'_>) -> Result<Vec<Self::Event>, Self::Error> {
        let _ = context;
        self.handle(command)
    }
}

/// What surrounds a command.
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

type Take<A> = fn(&A) -> Result<Option<Vec<u8>>, String>;
type Restore<A> = fn(&[u8]) -> Result<A, String>;

/// How an aggregate's state becomes bytes and comes back.
pub struct Snapshots<A> {
    pub(crate) take: Take<A>,
    pub(crate) restore: Restore<A>,
}

impl<A> Snapshots<A> {
    /// No snapshots.
    pub const fn none() -> Self {
        Self { take: |_| Ok(None), restore: |_| Err("this aggregate keeps no snapshots".to_owned()) }
    }
}

impl<A: Serialize + DeserializeOwned> Snapshots<A> {
    /// The state as JSON. A state that does not encode, or would not be restored as it is, has no snapshot, which the log
    /// says once; the history is replayed instead.
    pub const fn json() -> Self {
        Self {
            take: |state| readback::encode_state(state).map(Some),
            restore: |bytes| serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        }
    }
}
