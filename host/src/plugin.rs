//! The plugin runtime: the only place that knows wasmtime.
//!
//! A plugin is read, its section is checked, it is compiled (or found in the cache), linked against what its roles
//! may import, and instantiated once to see that it starts. Each thread that works with it makes a guest of its own
//! ([`AggregateGuest`], [`SubscriberGuest`], [`ProjectionGuest`]): one wasm store, called by nobody else.
//! [`Slot`] is where the threads find the code that serves now.

mod aggregate;
mod bindings;
mod cache;
mod catalog;
mod clock;
mod engine;
mod guarded;
mod lowering;
mod pace;
mod projection;
mod sandbox;
mod section;
mod slot;
mod subscriber;

pub use aggregate::{AggregateGuest, AggregateNames, Live};
pub use catalog::{Catalog, FileWatch};
pub use engine::{Compiler, Demand};
pub use pace::Pace;
pub use projection::{ProjectionGuest, QueryError};
pub use section::{API_VERSION, Description, Role};
pub use slot::{Slot, Switch};
pub use subscriber::SubscriberGuest;

use crate::filter::Filter;
use crate::model::Header;
use bindings::exports::wasmill::plugin as exports;
use clock::Time;
use guarded::Guarded;
use sandbox::{Lines, Sandbox};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};

/// Bytes that the file of a plugin may have.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a plugin can't be had, or why a call into it did not end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The plugin is at fault; the sentence names it and tells what to do.
    #[error("{0}")]
    Plugin(String),
    /// The host is at fault, for example because the system gives it no memory. What was to be done is as good as before:
    /// it is tried again later. A wasm store that was called must not be used again.
    #[error("{0}")]
    Host(String),
    /// The host is stopping, and has interrupted the guest. Its wasm store must not be used again.
    #[error("the host is stopping")]
    Stopping,
    /// A list of items took longer than one item may: it is not known whether one of them is at fault. The wasm store must
    /// not be used again; [`Pace`] says how to go on.
    #[error("plugin {label} took longer than {limit:?} for a list")]
    Overrun {
        /// Name and version.
        label: Arc<str>,
        /// The time for one item, which lists have too.
        limit: Duration,
    },
    /// The guest trapped, ran out of time or memory. Its wasm store must not be used again.
    #[error("plugin {label} failed: {cause}")]
    Trap {
        /// Name and version.
        label: Arc<str>,
        /// What happened, with the guest's own message where it left one.
        cause: String,
    },
}

impl Error {
    /// Whether it says nothing about the plugin or the data: what was to be done is tried again later.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Host(_) | Self::Stopping)
    }
}

/// What a guest may use. Each limit has a name in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for one call: a command, a query, an event, or a list of events. A list that takes longer is handled event by
    /// event.
    pub event_time: Duration,
    /// Linear memory of one wasm store, in bytes.
    pub memory_bytes_max: usize,
    /// Size of the linear memory at which live aggregates begin to leave, in bytes.
    pub live_bytes_max: usize,
    /// Elements in one table.
    pub table_elements_max: usize,
    /// Live aggregates in one wasm store.
    pub instances_max: usize,
    /// Effects of one call of a subscriber.
    pub effects_max: usize,
    /// Bytes that one call may hand over: what it returns, and what it asks for.
    pub output_bytes_max: usize,
    /// Bytes of one text, blob or row of a read model.
    pub sql_value_bytes_max: usize,
    /// Bytes of memory that one SQL statement may hold.
    pub sql_memory_bytes_max: usize,
    /// Bytes of a read model's file.
    pub read_model_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            event_time: Duration::from_secs(1),
            memory_bytes_max: 256 << 20,
            live_bytes_max: 128 << 20,
            table_elements_max: 100_000,
            instances_max: 20_000,
            effects_max: 10_000,
            output_bytes_max: 16 << 20,
            sql_value_bytes_max: 1 << 20,
            sql_memory_bytes_max: 256 << 20,
            read_model_bytes_max: 16 << 30,
        }
    }
}

/// What a guest said no with, named by what the host does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A business rule: tell the sender, do not try again.
    Rejected(String),
    /// It will never decode: dead-letter it.
    Malformed(String),
    /// Something passing: try again after a while.
    Retry {
        /// At least so long.
        after: Duration,
        /// For the log.
        reason: String,
    },
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::Malformed(reason) => write!(f, "malformed: {reason}"),
            Self::Retry { reason, .. } => write!(f, "to be tried again: {reason}"),
        }
    }
}

/// The first item of a list that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its index; the items before it succeeded, those after it were not tried.
    pub index: usize,
    /// Why.
    pub refusal: Refusal,
}

/// What a subscriber asked for in one call: the index of the delivery that caused it, and the effect.
#[derive(Debug, Default)]
pub struct Effects {
    /// How many deliveries the call has.
    deliveries: u32,
    /// In the order of the calls.
    pub list: Vec<(u32, Effect)>,
}

/// A thing a subscriber may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a command.
    Command(OutgoingCommand),
    /// Publish a message.
    Message(OutgoingMessage),
}

/// A command as a subscriber gives it.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/bus.wit
pub struct OutgoingCommand {
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub name: String,
    pub payload: Vec<u8>,
    pub headers: Vec<Header>,
}

/// A message as a subscriber gives it.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/bus.wit
pub struct OutgoingMessage {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub partition: Option<i32>,
    pub headers: Vec<Header>,
    pub payload: Option<Vec<u8>>,
}

/// The database of a projection, as its guest sees it. `projection` implements it.
pub trait ReadModel: Send {
    /// Runs one statement; returns the number of changed rows.
    fn execute(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlError>;
    /// Runs one statement; returns its rows.
    fn query(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlError>;
}

/// A value of the read model.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // SQLite's own five kinds
pub enum SqlValue {
    Null,
    Integer(i64),
    Unsigned(u64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// What a statement found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SqlRows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// In the statement's order.
    pub rows: Vec<Vec<SqlValue>>,
}

/// What SQLite said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError(pub String);

/// A plugin's code, ready to be instantiated.
pub struct Plugin {
    /// Its name in the manifest.
    pub name: Arc<str>,
    /// What it says of itself.
    pub description: Description,
    /// SHA-256 of its file, in hexadecimal.
    pub digest: String,
    /// What its file was when it was read.
    file_identity: FileIdentity,
    /// What its guests may use.
    pub limits: Limits,
    label: Arc<str>,
    file: PathBuf,
    pre: InstancePre<Sandbox>,
    time: Arc<Time>,
    /// What its guests write to the log.
    lines: Arc<Mutex<Lines>>,
}

impl Plugin {
    /// Reads, checks, compiles, links and starts the plugin in a file. When any step fails nothing is left behind.
    pub fn load(compiler: &Compiler, name: &str, file: &Path, limits: &Limits) -> Result<Self, Error> {
        let (bytes, file_identity) = read(file).map_err(|cause| {
            Error::Plugin(format!(
                "plugin {name} can't be read from {}: {cause}; build it, or correct `plugins.{name}.file` in the manifest",
                file.display()
            ))
        })?;
        let description = section::read(name, &bytes)?;
        let digest = engine::digest(&bytes);
        let label: Arc<str> = format!("{name} {}", description.version).into();
        let component = compiler.compile(&label, &bytes, &digest)?;
        let pre = link(compiler, &label, &description, &component)?;
        let lines = Arc::default();
        let (file, limits, time) = (file.to_owned(), limits.clone(), compiler.time().clone());
        let plugin =
            Self { name: name.into(), description, digest, file_identity, limits, label, file, pre, time, lines };
        plugin.smoke_test()?;
        Ok(plugin)
    }

    /// Name and version, as errors and the log show them.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Where it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Writes the code to another file, whole or not at all. An error says why not, such as that the plugin's own file has
    /// changed since.
    pub fn copy_code(&self, to: &Path) -> Result<(), String> {
        let (bytes, _) = read(&self.file)?;
        if engine::digest(&bytes) != self.digest {
            return Err(format!("{} has changed since it was loaded", self.file.display()));
        }
        let unfinished = to.with_extension("unfinished");
        std::fs::write(&unfinished, bytes)
            .and_then(|()| std::fs::File::open(&unfinished)?.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, to))
            .map_err(|error| format!("{}: {error}", to.display()))
    }

    /// The events that its subscriber wants.
    pub fn subscriber_filter(&self) -> Filter {
        self.filter(|role| matches!(role, Role::Subscriber { .. }))
    }

    /// The events that its projection wants.
    pub fn projection_filter(&self) -> Filter {
        self.filter(|role| matches!(role, Role::Projection { .. }))
    }

    fn filter(&self, is_asked: impl Fn(&Role) -> bool) -> Filter {
        let patterns = self.description.roles.iter().filter(|role| is_asked(role)).flat_map(Role::subscriptions);
        Filter::parse(patterns.map(String::as_str)).expect("patterns are checked when a plugin is loaded")
    }

    /// Instantiates each role once, and asks what can be asked without effects.
    fn smoke_test(&self) -> Result<(), Error> {
        for role in &self.description.roles {
            match role {
                Role::Aggregate { .. } => {
                    AggregateGuest::new(self)?.describe()?;
                }
                Role::Subscriber { .. } => {
                    SubscriberGuest::new(self)?;
                }
                Role::Projection { .. } => {
                    ProjectionGuest::new(self)?.schema()?;
                }
            }
        }
        Ok(())
    }

    fn lacks(&self, role: &str, error: &wasmtime::Error) -> Error {
        Error::Plugin(format!(
            "plugin {} says it is {role}, but does not export that role ({error:#}): export it with the SDK's macro",
            self.label
        ))
    }
}

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(file: &Path) -> std::io::Result<Self> {
        std::fs::metadata(file).map(|about| Self::from(&about))
    }

    fn from(about: &std::fs::Metadata) -> Self {
        let modified = (about.mtime(), about.mtime_nsec());
        Self { device: about.dev(), inode: about.ino(), length: about.len(), modified }
    }
}

/// The bytes of a plugin's file. What is no file might never end.
fn read(file: &Path) -> Result<(Vec<u8>, FileIdentity), String> {
    let about = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is no file".to_owned());
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes and the limit is {FILE_BYTES_MAX}", about.len()));
    }
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    Ok((bytes, FileIdentity::from(&about)))
}

/// Links a component to what its roles may import; a role's world is all it can reach.
fn link(
    compiler: &Compiler,
    label: &Arc<str>,
    description: &Description,
    component: &Component,
) -> Result<InstancePre<Sandbox>, Error> {
    let mut granted = vec!["wasmill:plugin/log@", "wasmill:plugin/types@"];
    for role in &description.roles {
        match role {
            Role::Aggregate { .. } => {}
            Role::Subscriber { .. } => granted.push("wasmill:plugin/bus@"),
            Role::Projection { .. } => granted.push("wasmill:plugin/sql@"),
        }
    }
    let engine = compiler.engine();
    for (import, _) in component.component_type().imports(engine) {
        if !granted.iter().any(|granted| import.starts_with(granted)) {
            let roles: Vec<String> = description.roles.iter().map(Role::to_string).collect();
            return Err(Error::Plugin(format!(
                "plugin {label} imports {import}, which its roles ({}) are not granted: build it for \
                 wasm32-unknown-unknown, without crates that need an operating system",
                roles.join(", ")
            )));
        }
    }
    let mut linker = Linker::new(engine);
    bindings::EveryRole::add_to_linker::<_, HasSelf<Sandbox>>(&mut linker, |sandbox| sandbox)
        .and_then(|()| linker.instantiate_pre(component))
        .map_err(|error| Error::Plugin(format!("plugin {label} does not fit this host's contract: {error:#}")))
}

/// A guest's own words for an outcome.
fn refusal(outcome: exports::aggregate::Outcome) -> Refusal {
    match outcome {
        exports::aggregate::Outcome::Rejected(reason) => Refusal::Rejected(reason),
        exports::aggregate::Outcome::Malformed(reason) => Refusal::Malformed(reason),
        exports::aggregate::Outcome::Retry(retry) => {
            Refusal::Retry { after: Duration::from_millis(retry.after_ms), reason: retry.reason }
        }
    }
}

fn failure(failure: exports::aggregate::Failure) -> Failure {
    Failure { index: failure.index as usize, refusal: refusal(failure.outcome) }
}
