//! Migration of recorded events by the loaded code of their aggregates and sagas.

use super::{AggregateGuest, Error, Plugin, Role, SagaGuest, Slot};
use crate::model::{Failure, RecordedEvent, Refusal};
use crate::supervise::Held as _;
use crate::upcasts::{Migrates, Shape, Unmigrated};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

/// The slots of a host's plugins, in which the code is found that records the events of a type. It is empty until all plugins are
/// loaded.
#[derive(Default)]
pub(super) struct Recorders(Mutex<Vec<Weak<Slot>>>);

impl Recorders {
    pub(super) fn set<'s>(&self, slots: impl Iterator<Item = &'s Arc<Slot>>) {
        *self.0.held() = slots.map(Arc::downgrade).collect();
    }

    /// Returns the code that records the events of a type, if a plugin does.
    fn of(&self, aggregate_type: &str) -> Option<Recorder> {
        self.0.held().iter().filter_map(Weak::upgrade).find_map(|slot| Recorder::find(slot, aggregate_type))
    }
}

/// The events as one reader gets them.
pub(super) struct ReaderShape(Option<PluginUpcasts>);

impl ReaderShape {
    /// Returns the shape that a role of a plugin asks for.
    pub(super) fn new(plugin: &Plugin, is_role: impl Fn(&Role) -> bool) -> Self {
        let is_newest = plugin.description.roles.iter().any(|role| is_role(role) && role.shape() == Shape::Newest);
        Self(is_newest.then(|| PluginUpcasts::new(plugin.recorders.clone())))
    }

    /// Returns the events in this shape. The inner error names the first event that can't have it.
    pub(super) fn of<'e>(
        &mut self,
        events: &'e [RecordedEvent],
    ) -> Result<Result<Cow<'e, [RecordedEvent]>, Failure>, Error> {
        let Some(upcasts) = &mut self.0 else { return Ok(Ok(Cow::Borrowed(events))) };
        let mut events = events.to_vec();
        let migrated = upcasts.migrate(&mut events);
        match migrated.into_iter().enumerate().find_map(|(index, result)| Some((index, result.err()?))) {
            None => Ok(Ok(Cow::Owned(events))),
            Some((_, Unmigrated::Host(reason))) => Err(Error::Host(format!("upcasting events: {reason}"))),
            Some((index, Unmigrated::Event(reason))) => {
                let refusal = Refusal::Malformed(format!("it can't be upcast: {reason}"));
                Ok(Err(Failure { index, refusal }))
            }
        }
    }
}

/// Guests of the code that records events, made when they are needed.
pub(super) struct PluginUpcasts {
    recorders: Arc<Recorders>,
    /// By type. A type that nobody serves has none.
    types: HashMap<Arc<str>, Option<Recorder>>,
}

/// The code that records the events of a type.
struct Recorder {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    role: Role,
    guest: Option<RecorderGuest>,
    /// Why the code is not called any more: it trapped or took too long.
    broken: Option<String>,
}

enum RecorderGuest {
    Aggregate(AggregateGuest),
    Saga(SagaGuest),
}

impl Migrates for PluginUpcasts {
    fn migrate(&mut self, events: &mut [RecordedEvent]) -> Vec<Result<(), Unmigrated>> {
        let mut results = vec![Ok(()); events.len()];
        let mut by_type = HashMap::<Arc<str>, Vec<usize>>::new();
        for (index, event) in events.iter().enumerate() {
            by_type.entry(event.stream.aggregate_type.clone()).or_default().push(index);
        }
        for (aggregate_type, indexes) in by_type {
            let Some(recorder) = self.recorder(&aggregate_type) else { continue };
            let of_type: Vec<&RecordedEvent> = indexes.iter().map(|index| &events[*index]).collect();
            let migrated = recorder.migrate(&of_type);
            for (index, migrated) in indexes.into_iter().zip(migrated) {
                match migrated {
                    Ok(payload) => events[index].payload = payload,
                    Err(unmigrated) => results[index] = Err(unmigrated),
                }
            }
        }
        results
    }
}

impl PluginUpcasts {
    pub(super) fn new(recorders: Arc<Recorders>) -> Self {
        Self { recorders, types: HashMap::new() }
    }

    /// Returns the code of a type, in its newest version.
    fn recorder(&mut self, aggregate_type: &Arc<str>) -> Option<&mut Recorder> {
        let recorders = &self.recorders;
        let recorder = self.types.entry(aggregate_type.clone()).or_insert_with(|| recorders.of(aggregate_type));
        let recorder = recorder.as_mut()?;
        if !recorder.slot.is_current(&recorder.plugin) {
            recorder.plugin = recorder.slot.current();
            (recorder.guest, recorder.broken) = (None, None);
        }
        Some(recorder)
    }
}

impl Recorder {
    /// Returns the code in a slot, if it records the events of a type.
    fn find(slot: Arc<Slot>, aggregate_type: &str) -> Option<Self> {
        let plugin = slot.current();
        let role = plugin.description.roles.iter().find(|role| match role {
            Role::Aggregate { aggregate_type: own } | Role::Saga { aggregate_type: own, .. } => {
                **own == *aggregate_type
            }
            Role::Subscriber { .. } | Role::Projection { .. } => false,
        });
        let role = role?.clone();
        Some(Self { slot, plugin, role, guest: None, broken: None })
    }

    /// Migrates events of the type. If a list fails as a whole, each event is tried alone until one fails again. The code is
    /// not called for the rest, because each call may take as long as an event may.
    fn migrate(&mut self, events: &[&RecordedEvent]) -> Vec<Result<Vec<u8>, Unmigrated>> {
        if self.broken.is_none()
            && let Ok(migrated) = self.call(events)
        {
            return migrated.into_iter().map(|payload| payload.map_err(Unmigrated::Event)).collect();
        }
        events.iter().map(|event| self.migrate_one(event)).collect()
    }

    fn migrate_one(&mut self, event: &RecordedEvent) -> Result<Vec<u8>, Unmigrated> {
        if let Some(reason) = &self.broken {
            return Err(Unmigrated::Event(reason.clone()));
        }
        match self.call(&[event]) {
            Ok(mut migrated) => migrated.pop().expect("it returns one for each event").map_err(Unmigrated::Event),
            Err(error @ (Error::Host(_) | Error::Stopping)) => Err(Unmigrated::Host(error.to_string())),
            Err(error) => {
                let reason = format!("{error}, at event {} of {} version {}", event.name, event.stream, event.version);
                self.broken = Some(reason.clone());
                Err(Unmigrated::Event(reason))
            }
        }
    }

    /// Calls the code. After an error the guest is lost.
    fn call(&mut self, events: &[&RecordedEvent]) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
        let mut guest = match self.guest.take() {
            Some(guest) => guest,
            None => match &self.role {
                Role::Aggregate { aggregate_type } => {
                    RecorderGuest::Aggregate(AggregateGuest::new(&self.plugin, aggregate_type)?)
                }
                _ => RecorderGuest::Saga(SagaGuest::new(&self.plugin)?),
            },
        };
        let migrated = match &mut guest {
            RecorderGuest::Aggregate(guest) => guest.upcast(events)?,
            RecorderGuest::Saga(guest) => guest.upcast(events)?,
        };
        self.guest = Some(guest);
        Ok(migrated)
    }
}
