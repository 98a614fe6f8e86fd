//! The live aggregates of one shard, which are kept in memory or rebuilt from their history.
//!
//! A live aggregate belongs to the guest that created it. When a guest is lost or replaced, its live aggregates are
//! gone. The next command to each of them rebuilds it from the store: from a snapshot, if there is one, and the events
//! after it.

use super::handlers::{Guest, GuestDecision, GuestError, Handlers};
use super::prebuild::Prebuilt;
use super::second_opinion::{self, CodeWatch};
use crate::model::{Command, Failing, RecordedEvent, StreamId, Version};
use crate::store::{self, EventStore, Reader, Snapshot};
use lru::LruCache;
use std::sync::Arc;

/// The events that are read and applied at once when an aggregate is rebuilt.
const HISTORY_PAGE: usize = 500;

/// A live aggregate and the version of its state.
pub(super) struct Instance<L> {
    live: L,
    pub(super) version: Version,
    /// The number of the guest that created it.
    generation: u64,
    /// Whether the stream may have later events, because it was rebuilt before its code served.
    is_behind: bool,
}

type LiveOf<H> = <<H as Handlers>::Guest as Guest>::Live;

/// An instance of these handlers.
pub(super) type InstanceOf<H> = Instance<LiveOf<H>>;

/// Why a command could not be decided.
pub(super) enum HandleError {
    /// The guest is lost.
    Trap(String),
    /// The host is at fault, and the command can be retried. The guest is lost, or there is none.
    Host(String),
    /// The aggregate can't be rebuilt from its history.
    History(String),
    /// The store can't be read.
    Store(store::Error),
}

pub(super) struct Instances<H: Handlers> {
    handlers: Arc<H>,
    /// The guest. `None` if the last one was lost and no other could be created since.
    guest: Option<H::Guest>,
    /// A guest of the code before, while new code is watched.
    guest_before: Option<H::Guest>,
    /// A guest of new code that is about to serve, with live aggregates.
    prebuilt: Option<Prebuilt<H::Guest>>,
    /// Why no guest could be created, until one is.
    trouble: Option<GuestError>,
    /// The number of the current guest.
    generation: u64,
    /// The idle live aggregates.
    at_rest: LruCache<Arc<str>, InstanceOf<H>>,
    /// How many idle live aggregates this guest may keep.
    instances_max: usize,
    /// The size of the guest's memory when it was last checked.
    memory_bytes_seen: usize,
    reader: Box<dyn Reader>,
    store: Arc<dyn EventStore>,
    /// The events after which a snapshot is kept; 0 keeps none.
    snapshot_every: u64,
    /// The code that trapped while it took or restored a snapshot. It does neither any more.
    unfit_for_snapshots: Option<Arc<str>>,
}

impl<H: Handlers> Instances<H> {
    pub(super) fn new(
        handlers: Arc<H>,
        store: Arc<dyn EventStore>,
        snapshot_every: u64,
    ) -> Result<Self, super::StartError> {
        let guest = handlers.guest()?;
        Ok(Self {
            instances_max: guest.instances_max(),
            memory_bytes_seen: 0,
            guest: Some(guest),
            guest_before: None,
            prebuilt: None,
            trouble: None,
            handlers,
            generation: 0,
            // Unbounded here, because `keep` must discard in the guest what it evicts.
            at_rest: LruCache::unbounded(),
            reader: store.reader()?,
            store,
            snapshot_every,
            unfit_for_snapshots: None,
        })
    }

    /// Whether other hosts may record events of these aggregates at any time.
    pub(super) fn are_shared(&self) -> bool {
        self.store.sharing().is_some()
    }

    /// Returns the shard's reader of the store.
    pub(super) fn reader(&mut self) -> &mut dyn Reader {
        &mut *self.reader
    }

    /// Returns the number of idle live aggregates.
    pub(super) fn len(&self) -> usize {
        self.at_rest.len()
    }

    /// Takes a live aggregate out, or rebuilds it from its history.
    pub(super) fn take(&mut self, stream: &StreamId) -> Result<InstanceOf<H>, HandleError> {
        match self.at_rest.pop(&stream.aggregate_id) {
            Some(instance) if instance.is_behind => self.brought_up(stream, instance),
            Some(instance) => Ok(instance),
            None => self.rebuild(stream),
        }
    }

    /// Applies what was recorded since a live aggregate was prebuilt.
    fn brought_up(&mut self, stream: &StreamId, mut instance: InstanceOf<H>) -> Result<InstanceOf<H>, HandleError> {
        match self.catch_up(stream, &mut instance, HISTORY_PAGE) {
            Ok(true) => Ok(Instance { is_behind: false, ..instance }),
            Ok(false) => {
                self.renew();
                self.rebuild(stream)
            }
            Err(undone) => {
                self.discard(instance);
                Err(undone)
            }
        }
    }

    /// Returns the ids of idle live aggregates, the most recently used first.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Arc<str>> {
        self.at_rest.iter().map(|(id, _)| id)
    }

    /// Keeps live aggregates of code that is about to serve.
    pub(super) fn adopt(&mut self, prebuilt: Prebuilt<H::Guest>) {
        self.prebuilt = Some(prebuilt);
    }

    fn rebuild(&mut self, stream: &StreamId) -> Result<InstanceOf<H>, HandleError> {
        match self.replay(stream, HISTORY_PAGE)? {
            Some(instance) => Ok(instance),
            // A page took longer than one event may. Applying event by event shows which one is at fault, if any is.
            None => {
                self.renew();
                let replayed = self.replay(stream, 1)?;
                replayed.ok_or_else(|| HandleError::Trap(format!("plugin {} can't rebuild {stream}", self.label())))
            }
        }
    }

    /// Rebuilds an aggregate from its snapshot and history, with up to `events_max` events in a call. Returns `None` if
    /// a call with several events took too long: then the guest is lost.
    fn replay(&mut self, stream: &StreamId, events_max: usize) -> Result<Option<InstanceOf<H>>, HandleError> {
        let mut instance = match self.restore(stream)? {
            Some(instance) => instance,
            None => self.create(stream)?,
        };
        let from = instance.version;
        match self.catch_up(stream, &mut instance, events_max) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(undone) => {
                self.discard(instance);
                return Err(undone);
            }
        }
        // A snapshot makes the next rebuild quicker.
        if self.snapshot_every > 0
            && instance.version.0 - from.0 >= self.snapshot_every
            && !self.keep_snapshot(stream, &instance.live, instance.version)
        {
            self.renew();
            return self.replay(stream, events_max);
        }
        Ok(Some(instance))
    }

    /// Applies the events after the version of an instance, with up to `events_max` in a call. Returns false if a call with several
    /// events took too long: then the guest is lost.
    fn catch_up(
        &mut self,
        stream: &StreamId,
        instance: &mut InstanceOf<H>,
        events_max: usize,
    ) -> Result<bool, HandleError> {
        loop {
            let events = self.reader.read_stream(stream, instance.version, HISTORY_PAGE).map_err(HandleError::Store)?;
            let Some(last) = events.last() else { return Ok(true) };
            instance.version = last.version;
            for events in events.chunks(events_max) {
                if !self.apply(stream, instance, events)? {
                    return Ok(false);
                }
            }
            if !store::is_full(&events, HISTORY_PAGE) {
                return Ok(true);
            }
        }
    }

    /// Applies recorded events. Returns false if several took too long: then the guest is lost.
    fn apply(
        &mut self,
        stream: &StreamId,
        instance: &InstanceOf<H>,
        events: &[RecordedEvent],
    ) -> Result<bool, HandleError> {
        let label = self.label();
        let history = |event: &RecordedEvent, cause: &dyn std::fmt::Display| {
            format!(
                "plugin {label} can't rebuild {stream}: event {} at version {} ({cause}); repair the plugin, its history is \
                 unchanged",
                event.name, event.version
            )
        };
        match self.guest()?.apply(&instance.live, events) {
            Ok(Ok(())) => Ok(true),
            Ok(Err(failure)) => {
                Err(HandleError::History(history(&events[failure.index.min(events.len() - 1)], &failure.refusal)))
            }
            Err(GuestError::Overrun(_)) => {
                self.lose();
                Ok(false)
            }
            Err(GuestError::Failed { cause, .. }) if events.len() == 1 => {
                self.lose();
                Err(HandleError::Trap(history(&events[0], &cause)))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn create(&mut self, stream: &StreamId) -> Result<InstanceOf<H>, HandleError> {
        let live = self.guest()?.create(&stream.aggregate_id)?;
        Ok(Instance { live, version: Version(0), generation: self.generation, is_behind: false })
    }

    /// Restores an aggregate from its snapshot. Returns `None` if there is no usable one, and then its whole history is
    /// applied.
    fn restore(&mut self, stream: &StreamId) -> Result<Option<InstanceOf<H>>, HandleError> {
        let code = self.guest()?.code();
        if self.snapshot_every == 0 || self.unfit_for_snapshots.as_ref() == Some(&code) {
            return Ok(None);
        }
        let found = self.reader.snapshot(stream, &code).map_err(HandleError::Store)?;
        let Some(Snapshot { version, state, .. }) = found else { return Ok(None) };
        let instance = self.create(stream)?;
        match self.guest()?.restore(&instance.live, &state, version) {
            Ok(Ok(())) => Ok(Some(Instance { version, ..instance })),
            Ok(Err(reason)) => {
                tracing::warn!("{stream} is replayed: plugin {} does not restore its snapshot: {reason}", self.label());
                self.discard(instance);
                Ok(None)
            }
            Err(error) => {
                self.give_up_snapshots(&format!("restoring a snapshot of {stream}"), &error, code);
                self.renew();
                Ok(None)
            }
        }
    }

    /// Hands the state to the store as a snapshot. Returns false if the guest was lost, with all its live aggregates.
    fn keep_snapshot(&mut self, stream: &StreamId, live: &LiveOf<H>, version: Version) -> bool {
        let Some(guest) = &mut self.guest else { return false };
        let code = guest.code();
        if self.unfit_for_snapshots.as_ref() == Some(&code) {
            return true;
        }
        match guest.snapshot(live) {
            Ok(Some(state)) => self.store.keep_snapshot(Snapshot { stream: stream.clone(), version, code, state }),
            Ok(None) => {}
            Err(error) => {
                self.give_up_snapshots(&format!("taking a snapshot of {stream}"), &error, code);
                return false;
            }
        }
        true
    }

    /// Drops a guest that failed with a snapshot. Its code takes and restores none any more.
    fn give_up_snapshots(&mut self, doing: &str, error: &GuestError, code: Arc<str>) {
        tracing::error!("{doing}: {error}; this code gets no snapshots any more");
        self.unfit_for_snapshots = Some(code);
        self.lose();
    }

    /// Has the live aggregate decide on a command.
    pub(super) fn handle(&mut self, instance: &InstanceOf<H>, command: &Command) -> Result<GuestDecision, HandleError> {
        Ok(self.guest()?.handle(&instance.live, command)?)
    }

    /// Puts a live aggregate back whose last decision is now durable. The guest applies that decision at its next call, or now if it
    /// takes the events as they were recorded.
    pub(super) fn recorded(&mut self, stream: &StreamId, mut instance: InstanceOf<H>, version: Version) {
        if instance.generation != self.generation {
            return;
        }
        let before = instance.version;
        if version > before && self.guest.as_ref().is_some_and(Guest::takes_recorded_events) {
            match self.catch_up(stream, &mut instance, HISTORY_PAGE) {
                Ok(true) => {}
                Ok(false) => return,
                // The next command rebuilds the aggregate, and says what is wrong.
                Err(HandleError::Trap(_) | HandleError::Host(_)) => return self.lose(),
                Err(HandleError::History(_) | HandleError::Store(_)) => return self.discard(instance),
            }
        }
        // Others may have written to the stream since.
        let version = version.max(instance.version);
        if self.is_snapshot_between(before, version) && !self.keep_snapshot(stream, &instance.live, version) {
            return;
        }
        self.keep(stream.aggregate_id.clone(), Instance { version, ..instance });
    }

    /// Whether a live aggregate may decide on a command before its last decisions are durable, after which it will be at this version.
    /// Its code must be the newest, apply events by itself, and have no snapshot to take before.
    pub(super) fn may_decide_ahead(&self, instance: &InstanceOf<H>, version: Version) -> bool {
        instance.generation == self.generation
            && !self.is_snapshot_between(instance.version, version)
            && self.guest.as_ref().is_some_and(|guest| {
                !guest.takes_recorded_events() && !guest.is_worn() && self.handlers.is_current(guest)
            })
    }

    fn is_snapshot_between(&self, before: Version, version: Version) -> bool {
        let steps = |version: Version| version.0.checked_div(self.snapshot_every);
        steps(version) > steps(before)
    }

    /// Puts a live aggregate back. The least recently used ones are evicted if there are too many or they take too much
    /// memory.
    pub(super) fn keep(&mut self, aggregate: Arc<str>, instance: InstanceOf<H>) {
        if instance.generation != self.generation {
            return;
        }
        self.at_rest.push(aggregate, instance);
        self.limit();
        while self.at_rest.len() > self.instances_max
            && let Some((_, oldest)) = self.at_rest.pop_lru()
        {
            self.discard(oldest);
        }
    }

    /// Lowers the number of idle live aggregates while the guest's memory grows beyond its limit for them. The memory
    /// never shrinks, but evicted aggregates make room for others.
    fn limit(&mut self) {
        let Some(guest) = &self.guest else { return };
        let grown_to = guest.memory_bytes();
        if grown_to > self.memory_bytes_seen && grown_to > guest.live_bytes_max() {
            self.instances_max = (self.at_rest.len() - self.at_rest.len().div_ceil(8)).max(1);
            tracing::info!(
                "{} uses {} MiB of memory: it keeps {} live aggregates in a shard (limits.live_mib)",
                guest.label(),
                grown_to >> 20,
                self.instances_max
            );
        }
        self.memory_bytes_seen = grown_to;
    }

    /// Frees a live aggregate. The next command rebuilds it.
    pub(super) fn discard(&mut self, instance: InstanceOf<H>) {
        if instance.generation == self.generation
            && let Some(guest) = &mut self.guest
            && let Err(error) = guest.discard(instance.live)
        {
            tracing::error!("a live aggregate can't be freed: {error}; all aggregates of its shard will be rebuilt");
            self.lose();
        }
    }

    /// Whether there is newer code than that of the guest.
    pub(super) fn is_outdated(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| !self.handlers.is_current(guest))
    }

    /// Recreates the guest if it is lost, worn or has outdated code.
    pub(super) fn renew(&mut self) {
        if self.guest.as_ref().is_some_and(|guest| self.handlers.is_current(guest) && !guest.is_worn()) {
            return;
        }
        let prebuilt = self.prebuilt.take_if(|prebuilt| self.handlers.is_current(&prebuilt.guest));
        let (guest, live) = match prebuilt {
            Some(Prebuilt { guest, live }) => (Ok(guest), live),
            None => (self.handlers.guest(), Vec::new()),
        };
        match guest {
            Ok(guest) => {
                self.lose();
                self.end_watch();
                self.instances_max = guest.instances_max();
                self.memory_bytes_seen = 0;
                self.guest = Some(guest);
                // The least recently used first, so that they are the first to go.
                for (id, live, version) in live.into_iter().rev() {
                    self.at_rest.push(id, Instance { live, version, generation: self.generation, is_behind: true });
                }
                if self.trouble.take().is_some() {
                    tracing::info!("a shard of plugin {} has a guest again", self.handlers.name());
                }
            }
            // The old guest, if there is one, keeps serving. Each command retries, but only the first failure is
            // logged.
            Err(error) => {
                if self.trouble.is_none() {
                    tracing::error!("a shard can't instantiate plugin {}: {error}", self.handlers.name());
                }
                self.trouble = Some(error);
            }
        }
    }

    /// Returns the watch of the guest's code, if it has just begun to serve.
    pub(super) fn watch(&self) -> Option<Arc<dyn CodeWatch>> {
        self.handlers.watch(self.guest.as_ref()?)
    }

    /// Whether the code before the one that is watched fails at a command in this way, too. Code that can't be asked does not.
    pub(super) fn fails_before(&mut self, command: &Command, how: Failing) -> bool {
        let mut guest = self.guest_before.take();
        let make = || self.handlers.guest_before().and_then(Result::ok);
        let asked = second_opinion::failing(&mut guest, make, &mut *self.reader, command);
        self.guest_before = guest.filter(|guest| !guest.is_worn());
        match asked {
            Ok(failing) => failing == Some(how),
            Err(reason) => {
                tracing::warn!("the code before {} can't be asked about a command: {reason}", self.label());
                false
            }
        }
    }

    /// Drops the guest of the code before, once new code is not watched any more.
    pub(super) fn end_watch(&mut self) {
        self.guest_before = None;
    }

    /// Returns why the shard has no guest, or still uses an old one.
    pub(super) fn trouble(&self) -> Option<&GuestError> {
        self.trouble.as_ref()
    }

    /// Drops the guest with all its live aggregates.
    pub(super) fn lose(&mut self) {
        self.guest = None;
        self.generation += 1;
        self.at_rest.clear();
    }

    fn guest(&mut self) -> Result<&mut H::Guest, HandleError> {
        match (&mut self.guest, &self.trouble) {
            (Some(guest), _) => Ok(guest),
            (None, Some(error)) => Err(error.clone().into()),
            (None, None) => Err(HandleError::Host(format!("plugin {} has no guest", self.handlers.name()))),
        }
    }

    fn label(&self) -> Arc<str> {
        self.guest.as_ref().map_or_else(|| self.handlers.name(), Guest::label)
    }
}

impl From<GuestError> for HandleError {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::Host(text) => Self::Host(text),
            GuestError::Overrun(text) | GuestError::Failed { text, .. } => Self::Trap(text),
        }
    }
}
