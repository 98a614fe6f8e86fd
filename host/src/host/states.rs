//! The state of an aggregate as its code makes it from its history, up to any version.

use super::Host;
use super::maintenance::blocking;
use super::plugin_handlers::aggregate_type;
use crate::model::{RecordedEvent, StreamId, Version};
use crate::names::Name;
use crate::plugin::{self, AggregateGuest, Live, Plugin};
use crate::store::{self, Reader};
use crate::upcasts::Upcasts;
use std::sync::Arc;

/// The number of events that are applied in one call.
const PAGE: usize = 500;

/// The state of an aggregate.
pub struct AggregateState {
    /// The version of the last event that was applied.
    pub version: Version,
    /// The state, in the format of the aggregate's snapshots.
    pub state: Vec<u8>,
}

/// Why a state can't be shown.
pub enum Unshown {
    /// There is no such aggregate, stream or version.
    Unknown(String),
    /// The code can't make or show it.
    Impossible(String),
    /// The store could not be read.
    Store(store::Error),
}

impl From<store::Error> for Unshown {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<plugin::Error> for Unshown {
    fn from(error: plugin::Error) -> Self {
        Self::Impossible(error.to_string())
    }
}

impl Host {
    /// Returns the migration of recorded events by the loaded code.
    pub fn upcasts(&self) -> Upcasts {
        self.core.catalog.upcasts()
    }

    /// Returns the state of an aggregate at a version, or at its newest one. It is made from the events alone, in a guest
    /// of its own, so nothing waits for it.
    ///
    /// The work ends early once it is not wanted any more.
    pub async fn state(
        &self,
        stream: StreamId,
        version: Option<Version>,
        is_wanted: impl Fn() -> bool + Send + 'static,
    ) -> Result<AggregateState, Unshown> {
        let code = self.code_of(&stream)?;
        let store = self.store().clone();
        blocking(move || {
            let mut reader = store.reader()?;
            let newest = reader.stream_version(&stream)?;
            let version = version.unwrap_or(newest);
            if newest == Version(0) {
                return Err(Unshown::Unknown(format!("there is no stream {stream}")));
            }
            if version > newest || version == Version(0) {
                return Err(Unshown::Unknown(format!(
                    "stream {stream} has the versions 1 to {newest}, and not {version}"
                )));
            }
            state_at(&code, &mut *reader, &stream, version, &is_wanted)
        })
        .await
    }

    /// Returns the plugin that serves the type of a stream, with that type.
    fn code_of(&self, stream: &StreamId) -> Result<(Arc<Plugin>, Name), Unshown> {
        let mut known = Vec::new();
        for plugin in self.core.catalog.plugins() {
            for name in plugin.description.roles.iter().filter_map(aggregate_type) {
                if **name == *stream.aggregate_type {
                    return Ok((plugin.clone(), name.clone()));
                }
                known.push(name.to_string());
            }
        }
        let known = known.join(", ");
        Err(Unshown::Unknown(format!("no plugin has an aggregate `{}`; there are: {known}", stream.aggregate_type)))
    }
}

fn state_at(
    (plugin, aggregate_type): &(Arc<Plugin>, Name),
    reader: &mut dyn Reader,
    stream: &StreamId,
    version: Version,
    is_wanted: &dyn Fn() -> bool,
) -> Result<AggregateState, Unshown> {
    let mut guest = AggregateGuest::new(plugin, aggregate_type)?;
    let live = match rebuilt(&mut guest, reader, stream, version, PAGE, is_wanted) {
        // A page took longer than one event may. Applying event by event shows which one is at fault, if any is.
        Err(Unapplied::Guest(plugin::Error::Overrun { .. })) => {
            guest = AggregateGuest::new(plugin, aggregate_type)?;
            rebuilt(&mut guest, reader, stream, version, 1, is_wanted)
        }
        live => live,
    };
    let live = live.map_err(|unapplied| match unapplied {
        Unapplied::Guest(error) => error.into(),
        Unapplied::Event(event, reason) => Unshown::Impossible(format!(
            "{stream} can't be rebuilt: event {} at version {} is not applied: {reason}",
            event.name, event.version
        )),
        Unapplied::Store(error) => Unshown::Store(error),
        Unapplied::Unwanted => Unshown::Impossible("nobody waits for it any more".to_owned()),
    })?;
    match guest.snapshot(&live)? {
        Some(state) => Ok(AggregateState { version, state }),
        None => Err(Unshown::Impossible(format!(
            "plugin {} shows no state: its aggregate has no `SNAPSHOTS`; with `Snapshots::json()` its state can be shown as JSON",
            plugin.label()
        ))),
    }
}

enum Unapplied {
    Guest(plugin::Error),
    Event(Box<RecordedEvent>, String),
    Store(store::Error),
    Unwanted,
}

fn rebuilt(
    guest: &mut AggregateGuest,
    reader: &mut dyn Reader,
    stream: &StreamId,
    version: Version,
    limit: usize,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Live, Unapplied> {
    let live = guest.create(&stream.aggregate_id).map_err(Unapplied::Guest)?;
    let mut reached = Version(0);
    while reached < version {
        if !is_wanted() {
            return Err(Unapplied::Unwanted);
        }
        let mut page = reader.read_stream(stream, reached, limit).map_err(Unapplied::Store)?;
        page.retain(|event| event.version <= version);
        let Some(last) = page.last() else { break };
        reached = last.version;
        if let Err(failure) = guest.apply(&live, &page).map_err(Unapplied::Guest)? {
            let at = failure.index.min(page.len() - 1);
            return Err(Unapplied::Event(Box::new(page.swap_remove(at)), failure.refusal.to_string()));
        }
    }
    Ok(live)
}
