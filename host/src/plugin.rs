//! The plugin runtime: the only module that uses wasmtime.
//!
//! The host reads a plugin's file and the names of its exports, which are its roles. It compiles the code or takes it from the
//! cache, links it against the imports of its roles, and asks each role for its description, which is a test as well. Each thread that works with a plugin then creates its own
//! guest ([`AggregateGuest`], [`SubscriberGuest`], [`ProjectionGuest`], [`SagaGuest`]): one wasm store, which no other thread calls.
//! The threads find the code that serves now in a [`Slot`].

mod aggregate;
mod bindings;
mod cache;
mod catalog;
mod clock;
mod configuration;
mod decision;
mod description;
mod engine;
mod exports;
mod guarded;
mod guest_log;
mod guest_text;
mod history;
mod lowering;
mod meter;
mod pace;
mod projection;
mod saga;
mod sandbox;
mod slot;
mod subscriber;
mod upcasting;
mod wasi;
mod watch;

pub use aggregate::{AggregateGuest, Live};
pub use catalog::{Catalog, CatalogChange, Choice, Replaced, Staged};
pub use configuration::{Configuration, Settings};
pub use description::{Description, MessageType, Role};
pub use engine::{Compiler, Demand};
pub use exports::{API_VERSION, ApiVersion, RoleName};
pub(crate) use guest_text::of_library;
pub use history::{HeldBack, History, HistoryEntry, PluginHistory};
pub use meter::{PluginMeter, PluginUse};
pub use pace::Pace;
pub use projection::{ProjectionGuest, QueryError};
pub use saga::{LiveSaga, SagaDecision, SagaEnd, SagaGuest, SagaInput};
pub use slot::Slot;
pub use subscriber::SubscriberGuest;
pub use watch::{Watch, WatchRule};

use crate::file_watch::FileIdentity;
use crate::filter::Filter;
use crate::model::{Due, Failure, Header, Refusal};
use crate::names::{self, Name};
use crate::paths;
use crate::upcasts::Shape;
use bindings::wasmill::plugin::types;
use clock::Time;
use description::Identity;
use exports::Exports;
use guarded::Guarded;
use guest_log::GuestLog;
use sandbox::Sandbox;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use upcasting::Recorders;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};

/// The maximum size of a plugin's file, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why a plugin can't be loaded, or why a call into it failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The plugin is at fault. The text names it and the remedy.
    #[error("{0}")]
    Plugin(String),
    /// The host is at fault, for example because the system gives it no memory. The operation is retried later. A wasm
    /// store that was called must not be used again.
    #[error("{0}")]
    Host(String),
    /// The host is stopping and has interrupted the guest. Its wasm store must not be used again.
    #[error("the host is stopping")]
    Stopping,
    /// A batch of items took longer than one item may, and no item of it is known to be at fault. The wasm store must not
    /// be used again; [`Pace`] decides the size of the next batch.
    #[error("plugin {label} took longer than {limit:?} for a batch of items")]
    Overrun {
        /// Name and version.
        label: Arc<str>,
        /// The time limit of one item, which also holds for a batch.
        limit: Duration,
    },
    /// An item took longer than a caller in a hurry waits for it, which is no fault of it. The wasm store must not be used again.
    #[error("plugin {label} took long for an item")]
    Slow {
        /// Name and version.
        label: Arc<str>,
        /// The index of the item, if the guest said which one it had begun.
        item: Option<u32>,
    },
    /// The guest trapped or exceeded its time or memory. Its wasm store must not be used again.
    #[error("plugin {label} failed: {cause}")]
    Trap {
        /// Name and version.
        label: Arc<str>,
        /// What happened, with the guest's own message if there is one.
        cause: String,
        /// The index of the item at fault, if the guest said which one it had begun.
        item: Option<u32>,
    },
}

impl Error {
    /// Says which item of a list was at fault, if the guest failed at one.
    fn at(self, index: u32) -> Self {
        match self {
            Self::Slow { label, .. } => Self::Slow { label, item: Some(index) },
            Self::Trap { label, cause, .. } => Self::Trap { label, cause, item: Some(index) },
            other => other,
        }
    }

    /// Whether neither the plugin nor the data is at fault, so that the operation is to be retried later.
    pub fn is_of_host(&self) -> bool {
        matches!(self, Self::Host(_) | Self::Stopping)
    }
}

/// The limits of a guest. Each has a key in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for one call: a command, a query, an event, or a batch of events. If a batch takes longer, its events are
    /// handled one by one.
    pub event_time: Duration,
    /// Linear memory of one wasm store, in bytes.
    pub memory_bytes_max: usize,
    /// Size of the linear memory at which live aggregates begin to be evicted, in bytes.
    pub live_bytes_max: usize,
    /// Elements in all tables of one wasm store.
    pub table_elements_max: usize,
    /// Live aggregates in one wasm store.
    pub instances_max: usize,
    /// Effects of one call of a subscriber.
    pub effects_max: usize,
    /// Bytes that one call may hand over: its result and the effects it asks for.
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

/// The effects that a subscriber or a saga asked for in one call.
#[derive(Debug, Default)]
pub struct Effects {
    /// The number of deliveries in the call.
    deliveries: u32,
    /// The effects, each with the index of the delivery that caused it, in the order in which the guest asked for them.
    pub list: Vec<(u32, Effect)>,
}

impl Effects {
    /// Appends the effects of the next deliveries.
    fn append(&mut self, next: Self) {
        if self.deliveries == 0 {
            *self = next;
            return;
        }
        let before = self.deliveries;
        self.list.extend(next.list.into_iter().map(|(delivery, effect)| (before + delivery, effect)));
        self.deliveries += next.deliveries;
    }
}

/// An effect that a subscriber or a saga may ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// A command to send.
    Command(OutgoingCommand),
    /// A message to publish.
    Message(OutgoingMessage),
    /// A timer that sends a command, with its name.
    Later(Option<String>, Due, OutgoingCommand),
    /// A timer that wakes the subscriber, with its name and the payload.
    Wake(String, Due, Vec<u8>),
    /// The name of a timer to cancel.
    Cancel(String),
    /// An HTTP request to send.
    Http(OutgoingRequest),
}

/// A command that a subscriber sends.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/bus.wit
pub struct OutgoingCommand {
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub name: String,
    pub payload: Vec<u8>,
    pub headers: Vec<Header>,
    pub expected_version: Option<u64>,
    pub outcome: Option<Vec<u8>>,
}

/// A message that a subscriber publishes.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/bus.wit
pub struct OutgoingMessage {
    pub topic: String,
    pub key: Option<Vec<u8>>,
    pub partition: Option<i32>,
    pub headers: Vec<Header>,
    pub payload: Option<Vec<u8>>,
}

/// An HTTP request that a subscriber sends.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs)] // as in wit/bus.wit
pub struct OutgoingRequest {
    pub endpoint: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<Header>,
    pub body: Vec<u8>,
    pub response: Option<Vec<u8>>,
}

/// The database of a projection, as its guest uses it. The module `projection` implements it.
pub trait ReadModel: Send {
    /// Runs one statement and returns the number of changed rows.
    fn execute(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<u64, SqlError>;
    /// Runs one statement and returns its rows.
    fn query(&mut self, statement: &str, parameters: Vec<SqlValue>) -> Result<SqlRows, SqlError>;
}

/// An SQL value of a read model.
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

/// The result of a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SqlRows {
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, in the order of the statement.
    pub rows: Vec<Vec<SqlValue>>,
}

/// The error text of SQLite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError(pub String);

/// What an operator wants of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its file.
    pub file: PathBuf,
    /// The SHA-256 that the file must have, in hexadecimal. `None` is any.
    pub sha256: Option<String>,
    /// The limits of its guests.
    pub limits: Limits,
    /// Its settings and secrets.
    pub configuration: Configuration,
    /// How its new code is watched.
    pub watch: WatchRule,
}

impl Wanted {
    /// Returns a plugin of any code in a file, without settings and with the default limits.
    pub fn of(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            sha256: None,
            limits: Limits::default(),
            configuration: Configuration::default(),
            watch: WatchRule::default(),
        }
    }
}

/// A plugin's code, ready to be instantiated.
pub struct Plugin {
    /// Its name in the manifest.
    pub name: Arc<str>,
    /// What it says about itself.
    pub description: Description,
    /// SHA-256 in hexadecimal: of the bytes of its file, followed by its settings if it has any.
    pub digest: String,
    /// SHA-256 in hexadecimal of its code without settings.
    code_digest: String,
    /// The identity of its file at the time it was read.
    file_identity: FileIdentity,
    /// What it was loaded as.
    wanted: Wanted,
    /// The limits of its guests.
    pub limits: Limits,
    /// Its settings and secrets.
    pub configuration: Configuration,
    label: Arc<str>,
    /// The file that its code was read from, which is not the one that is wanted if it is kept code.
    code: PathBuf,
    pre: InstancePre<Sandbox>,
    time: Arc<Time>,
    /// The log of its guests.
    log: GuestLog,
    /// What it imports of WASI.
    wasi: wasi::Imported,
    /// The number of events that its guests have skipped because they do not know them.
    unknown_events: Arc<AtomicU64>,
    /// What the guests of all codes of this plugin do.
    meter: Arc<PluginMeter>,
    /// The code that records the events of any type.
    recorders: Arc<Recorders>,
}

impl Plugin {
    /// Reads, checks, compiles, links, configures and starts a plugin. If any step fails, nothing is left behind.
    pub fn load(compiler: &Compiler, name: &str, wanted: Wanted) -> Result<Self, Error> {
        let configuration = wanted.configuration.clone();
        let file = wanted.file.clone();
        Self::load_with(compiler, name, wanted, &file, |_| configuration)
    }

    /// Loads code that was kept, with the settings in it, in the place of the code of the file that is wanted. `read` is what that file
    /// was when it was read last.
    fn load_kept(
        compiler: &Compiler,
        name: &str,
        wanted: Wanted,
        code: &Path,
        read: Option<FileIdentity>,
    ) -> Result<Self, Error> {
        let configuration = wanted.configuration.clone();
        let wanted_code = Wanted { sha256: None, ..wanted.clone() };
        let kept =
            Self::load_with(compiler, name, wanted_code, code, |settings| configuration.with_settings(settings))?;
        // The file is watched as before.
        let file_identity = read.unwrap_or(kept.file_identity);
        Ok(Self { file_identity, wanted, ..kept })
    }

    /// Loads a copy that [`Plugin::copy_code`] made, with the settings in it and the secrets of `configuration`.
    fn load_copy(
        compiler: &Compiler,
        name: &str,
        file: &Path,
        limits: &Limits,
        configuration: &Configuration,
    ) -> Result<Self, Error> {
        let wanted = Wanted { limits: limits.clone(), ..Wanted::of(file) };
        Self::load_with(compiler, name, wanted, file, |settings| configuration.with_settings(settings))
    }

    fn load_with(
        compiler: &Compiler,
        name: &str,
        wanted: Wanted,
        file: &Path,
        configuration: impl FnOnce(Settings) -> Configuration,
    ) -> Result<Self, Error> {
        let (bytes, file_identity) = read(file).map_err(|cause| {
            Error::Plugin(format!(
                "plugin {name} can't be read from {}: {cause}; build it (`wasmill build {name}`, if the manifest has its `source`), or correct \
                 `plugins.{name}.file`",
                file.display()
            ))
        })?;
        if let Some(pinned) = &wanted.sha256
            && let found = engine::digest(&bytes)
            && found != *pinned
        {
            return Err(Error::Plugin(format!(
                "plugin {name}: {} has the SHA-256 {found}, and `plugins.{name}.sha256` pins {pinned}: put the pinned file there, \
                 or change the key if this one is trusted",
                file.display()
            )));
        }
        let exports = exports::read(name, &bytes)?;
        let (code, settings) = configuration::separate(&bytes);
        let configuration = configuration(settings);
        let code_digest = engine::digest(code);
        let component = compiler.compile(name, code, &code_digest)?;
        let (pre, wasi) = link(compiler, name, &exports, &component)?;
        let unknown = String::new;
        let mut plugin = Self {
            name: name.into(),
            description: Description {
                plugin: unknown(),
                version: unknown(),
                api_version: exports.api_version,
                roles: Vec::new(),
            },
            digest: engine::digest(&configuration.append_to(code)),
            code_digest,
            file_identity,
            limits: wanted.limits.clone(),
            wanted,
            configuration,
            label: name.into(),
            code: file.to_owned(),
            pre,
            time: compiler.time().clone(),
            log: GuestLog::new(name.into()),
            wasi,
            unknown_events: Arc::default(),
            meter: compiler.meter(name),
            recorders: compiler.recorders().clone(),
        };
        plugin.describe(&exports)?;
        Ok(plugin)
    }

    /// Returns the number of events that its guests have skipped because they do not know them, since it was loaded.
    pub fn unknown_events(&self) -> u64 {
        self.unknown_events.load(Ordering::Relaxed)
    }

    /// Returns what the guests of all codes of this plugin did since the host started.
    pub fn used(&self) -> PluginUse {
        self.meter.read()
    }

    /// Returns what it may use of WASI, in words; nothing if it imports nothing of it.
    pub fn wasi_in_words(&self) -> Option<&'static str> {
        match (self.wasi.any, self.wasi.of_item) {
            (false, _) => None,
            (true, false) => Some("standard output and error"),
            (true, true) => Some("standard output and error, clocks and randomness, which belong to the input"),
        }
    }

    /// Returns the names of the events that its aggregates and its sagas record or read, by type.
    pub fn recorded_events(&self) -> impl Iterator<Item = (&Name, Vec<&str>)> {
        let recorded = self.description.roles.iter().filter_map(Role::recorded);
        recorded.map(|(name, events)| (name, events.iter().map(|event| event.name.as_str()).collect()))
    }

    /// Returns a number that changes when other code may upcast the events that a reader of this plugin asks for in the newest
    /// shape; none if none asks.
    pub fn upcasting_code(&self) -> Option<u64> {
        let asks = self.description.roles.iter().any(|role| role.shape() == Shape::Newest);
        asks.then(|| self.recorders.loads())
    }

    /// Returns name and version, as errors and the log show them.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Returns the file that the manifest names.
    pub fn file(&self) -> &Path {
        &self.wanted.file
    }

    /// Returns the identity that its file had when it was read.
    pub fn file_identity(&self) -> FileIdentity {
        self.file_identity
    }

    /// Returns the digest of its code without settings.
    pub fn code_digest(&self) -> &str {
        &self.code_digest
    }

    /// Returns what it was loaded as.
    pub fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// Copies the code with its settings to another file, completely or not at all. It fails if, for example, the plugin's
    /// own file has changed since it was loaded.
    pub fn copy_code(&self, to: &Path) -> Result<(), String> {
        let (bytes, _) = read(&self.code)?;
        let bytes = self.configuration.append_to(configuration::separate(&bytes).0);
        if engine::digest(&bytes) != self.digest {
            return Err(format!("{} has changed since it was loaded", self.code.display()));
        }
        paths::replace(to, &bytes).map_err(|error| format!("{}: {error}", to.display()))
    }

    /// Returns the filter of the events that its subscriber wants.
    pub fn subscriber_filter(&self) -> Filter {
        self.filter(|role| matches!(role, Role::Subscriber { .. }))
    }

    /// Returns the filter of the events that are inputs of its sagas, and the filter of those that start one.
    pub fn saga_filters(&self) -> (Filter, Filter) {
        let starts = self.description.roles.iter().find_map(|role| match role {
            Role::Saga { starts, .. } => Some(starts.as_slice()),
            _ => None,
        });
        (self.filter(|role| matches!(role, Role::Saga { .. })), parsed(starts.unwrap_or_default()))
    }

    /// Returns the filter of the events that its projection wants.
    pub fn projection_filter(&self) -> Filter {
        self.filter(|role| matches!(role, Role::Projection { .. }))
    }

    /// Returns the filter of the events that its subscription handles.
    pub fn handled_events(&self) -> Filter {
        self.filter(|role| matches!(role, Role::Subscriber { .. } | Role::Saga { .. }))
    }

    fn filter(&self, is_asked: impl Fn(&Role) -> bool) -> Filter {
        let patterns = self.description.roles.iter().filter(|role| is_asked(role)).flat_map(Role::subscriptions);
        parsed(patterns)
    }

    /// Asks each role for its description, in an instance of its own, which is a test of the code.
    fn describe(&mut self, exports: &Exports) -> Result<(), Error> {
        let mut identity: Option<Identity> = None;
        for role in &exports.roles {
            let (of_role, roles) = match role {
                RoleName::Aggregate => aggregate::describe(self)?,
                RoleName::Subscriber => subscriber::describe(self)?,
                RoleName::Saga => saga::describe(self)?,
                RoleName::Projection => projection::describe(self)?,
            };
            match &identity {
                Some(other) if *other != of_role => return Err(self.of_two(other, &of_role)),
                _ => identity = Some(of_role),
            }
            self.description.roles.extend(roles);
        }
        description::check_schemas(&self.description.roles)
            .map_err(|cause| Error::Plugin(format!("plugin {}: {cause}", self.label)))?;
        let Identity { plugin, version } = identity.expect("there is a role");
        self.label = format!("{} {version}", self.name).into();
        self.log = GuestLog::new(self.label.clone());
        (self.description.plugin, self.description.version) = (plugin, version);
        Ok(())
    }

    /// Returns the error for roles that call their plugin by different names, as those of two linked crates do.
    fn of_two(&self, one: &Identity, other: &Identity) -> Error {
        Error::Plugin(format!(
            "plugin {} contains roles of {} {} and of {} {}: a plugin can't depend on another plugin, only its native tests can; \
             take the types that they share from a crate that exports no role, and build both separately",
            self.label, one.plugin, one.version, other.plugin, other.version
        ))
    }

    /// Returns the error for a role that is exported in another form than the contract has.
    fn misfit(&self, role: RoleName, error: &wasmtime::Error) -> Error {
        let version = self.description.api_version;
        // wasmtime names what it looked for, which has the version of the host.
        let cause = format!("{error:#}").replace(&format!("@{API_VERSION}`"), &format!("@{version}`"));
        Error::Plugin(format!(
            "plugin {} exports the role {role}, but not as version {version} of the contract has it: {}; docs/languages.md says \
             what to export",
            self.label,
            guest_text::of_library(&cause)
        ))
    }
}

fn parsed<'p>(patterns: impl IntoIterator<Item = &'p String>) -> Filter {
    Filter::parse(patterns.into_iter().map(String::as_str)).expect("patterns are checked when a plugin is loaded")
}

/// Reads a plugin's file. Anything but a regular file is refused, because reading it might never end.
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

/// Links a component to the imports of its roles, which are all that it can reach.
fn link(
    compiler: &Compiler,
    label: &str,
    exports: &Exports,
    component: &Component,
) -> Result<(InstancePre<Sandbox>, wasi::Imported), Error> {
    let mut granted = vec!["wasmill:plugin/log@", "wasmill:plugin/types@"];
    for role in &exports.roles {
        match role {
            RoleName::Aggregate => {}
            RoleName::Subscriber | RoleName::Saga => granted.push("wasmill:plugin/bus@"),
            RoleName::Projection => granted.push("wasmill:plugin/sql@"),
        }
    }
    let engine = compiler.engine();
    let mut of_wasi = wasi::Imported::default();
    for (import, _) in component.component_type().imports(engine) {
        of_wasi.add(import);
        if !granted.iter().any(|granted| import.starts_with(granted)) && !wasi::is_granted(import) {
            let shown = names::shown(import);
            if wasi::is_of_other_version(import) {
                return Err(Error::Plugin(format!(
                    "plugin {label} imports {shown}, and this host has WASI 0.2: build the plugin for WASI 0.2 (in Rust, the target \
                     wasm32-wasip2)"
                )));
            }
            let roles: Vec<&str> = exports.roles.iter().map(|role| role.as_str()).collect();
            return Err(Error::Plugin(format!(
                "plugin {label} imports {shown}, which its roles ({}) are not granted: a plugin may import the interfaces of \
                 its roles, and of WASI 0.2 cli, clocks, filesystem, io, random and sockets",
                roles.join(", ")
            )));
        }
    }
    let mut linker = Linker::new(engine);
    bindings::EveryRole::add_to_linker::<_, HasSelf<Sandbox>>(&mut linker, |sandbox| sandbox)
        .and_then(|()| if of_wasi.any { wasi::add_to_linker(&mut linker) } else { Ok(()) })
        .and_then(|()| linker.instantiate_pre(component))
        .map(|pre| (pre, of_wasi))
        .map_err(|error| {
            let cause = guest_text::of_library(&format_args!("{error:#}"));
            // The outermost text names the import.
            Error::Plugin(if error.to_string().contains("`wasi:") {
                format!(
                    "plugin {label} imports what the WASI of this host does not have: {cause}; build it for an earlier version 0.2 of \
                     WASI, or use a host of a later version"
                )
            } else {
                format!(
                    "plugin {label} was built for version {} of the contract, but does not fit it: {cause}; build it again with the \
                     text of that version, which docs/contract.md has",
                    exports.api_version
                )
            })
        })
}

/// Converts an outcome of a guest.
fn refusal(outcome: types::Outcome) -> Refusal {
    match outcome {
        types::Outcome::Rejected(reason) => Refusal::Rejected(guest_text::reason(reason)),
        types::Outcome::Malformed(reason) => Refusal::Malformed(guest_text::reason(reason)),
        types::Outcome::Retry(types::Retry { after_ms, reason }) => {
            Refusal::Retry { after: Duration::from_millis(after_ms), reason: guest_text::reason(reason) }
        }
    }
}

fn failure(failure: types::Failure) -> Failure {
    Failure { index: failure.index as usize, refusal: refusal(failure.outcome) }
}
