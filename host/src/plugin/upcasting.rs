//! Migration of recorded events by the loaded code of their aggregates and sagas.

use super::{AggregateGuest, Error, Plugin, Role, SagaGuest, Slot};
use crate::model::{Failure, RecordedEvent, Refusal};
use crate::names::Name;
use crate::supervise::Held as _;
use crate::upcasts::{Migrates, Shape, Tries, Unmigrated, not_upcast};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// The slots of a host's plugins, in which the code is found that records the events of a type. It is empty until all plugins are
/// loaded.
#[derive(Default)]
pub(super) struct Recorders(Mutex<Vec<Weak<Slot>>>);

impl Recorders {
    pub(super) fn set<'s>(&self, slots: impl Iterator<Item = &'s Arc<Slot>>) {
        *self.0.held() = slots.map(Arc::downgrade).collect();
    }

    /// Returns how many times code of any plugin was put into service.
    pub(super) fn loads(&self) -> u64 {
        self.0.held().iter().filter_map(Weak::upgrade).map(|slot| slot.loads()).sum()
    }

    /// Returns the code that records the events of a type, if a plugin does.
    fn of(&self, aggregate_type: &str) -> Option<Recorder> {
        self.0.held().iter().filter_map(Weak::upgrade).find_map(|slot| Recorder::find(slot, aggregate_type))
    }
}

/// The events as one reader gets them.
pub(super) struct ReaderShape {
    upcasts: Option<PluginUpcasts>,
    is_hurried: bool,
}

impl ReaderShape {
    /// Returns the shape that a role of a plugin asks for.
    pub(super) fn new(plugin: &Plugin, is_role: impl Fn(&Role) -> bool) -> Self {
        let is_newest = plugin.description.roles.iter().any(|role| is_role(role) && role.shape() == Shape::Newest);
        Self { upcasts: is_newest.then(|| PluginUpcasts::new(plugin.recorders.clone())), is_hurried: false }
    }

    /// Decides whether an event whose upcast takes long is interrupted, as one that its reader takes long for.
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.is_hurried = is_hurried;
    }

    /// Returns the events in this shape. The inner error names the first event that can't have it. If the code fails at a
    /// list, it is not known which event is at fault, and the caller tries fewer, as after a list that takes too long.
    pub(super) fn of<'e>(
        &mut self,
        events: &'e [RecordedEvent],
    ) -> Result<Result<Cow<'e, [RecordedEvent]>, Failure>, Error> {
        let Some(upcasts) = &mut self.upcasts else { return Ok(Ok(Cow::Borrowed(events))) };
        let (mut shaped, mut failed) = (events.to_vec(), None::<Failure>);
        for (aggregate_type, indexes) in by_type(events) {
            let Some(recorder) = upcasts.recorder(&aggregate_type) else { continue };
            let of_type: Vec<&RecordedEvent> = indexes.iter().map(|index| &events[*index]).collect();
            let migrated = match recorder.call(&of_type, self.is_hurried) {
                Ok(migrated) => migrated,
                Err(error @ (Error::Host(_) | Error::Stopping)) => return Err(error),
                Err(_) if events.len() > 1 => {
                    let (label, limit) = (recorder.plugin.label.clone(), recorder.plugin.limits.event_time);
                    return Err(Error::Overrun { label, limit });
                }
                Err(Error::Slow { label, .. }) => return Err(Error::Slow { label, item: Some(0) }),
                Err(error) => {
                    let refusal = Refusal::Retry { after: Duration::ZERO, reason: not_upcast(&error.to_string()) };
                    return Ok(Err(Failure { index: 0, refusal }));
                }
            };
            for (index, migrated) in indexes.into_iter().zip(migrated) {
                match migrated {
                    Ok(payload) => shaped[index].payload = payload,
                    Err(reason) if failed.as_ref().is_none_or(|failed| index < failed.index) => {
                        failed = Some(Failure { index, refusal: Refusal::Malformed(not_upcast(&reason)) });
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(failed.map_or(Ok(Cow::Owned(shaped)), Err))
    }
}

/// Returns the indexes of events by their types.
fn by_type(events: &[RecordedEvent]) -> HashMap<Arc<str>, Vec<usize>> {
    let mut by_type = HashMap::<Arc<str>, Vec<usize>>::new();
    for (index, event) in events.iter().enumerate() {
        by_type.entry(event.stream.aggregate_type.clone()).or_default().push(index);
    }
    by_type
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
    aggregate_type: Name,
    is_saga: bool,
    guest: Option<RecorderGuest>,
}

enum RecorderGuest {
    Aggregate(AggregateGuest),
    Saga(SagaGuest),
}

impl RecorderGuest {
    /// Whether it should be recreated, because it has taken much of what it may have and gives nothing back.
    fn is_worn(&self) -> bool {
        match self {
            Self::Aggregate(guest) => guest.is_worn(),
            Self::Saga(guest) => guest.is_worn(),
        }
    }
}

impl Migrates for PluginUpcasts {
    fn migrate(&mut self, events: &mut [RecordedEvent], tries: Tries) -> Vec<Result<(), Unmigrated>> {
        let mut results = vec![Ok(()); events.len()];
        for (aggregate_type, indexes) in by_type(events) {
            let Some(recorder) = self.recorder(&aggregate_type) else { continue };
            let of_type: Vec<&RecordedEvent> = indexes.iter().map(|index| &events[*index]).collect();
            let migrated = recorder.migrate(&of_type, tries);
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
            recorder.guest = None;
        }
        Some(recorder)
    }
}

impl Recorder {
    /// Returns the code in a slot, if it records the events of a type.
    fn find(slot: Arc<Slot>, aggregate_type: &str) -> Option<Self> {
        let plugin = slot.current();
        let (aggregate_type, is_saga) = plugin.description.roles.iter().find_map(|role| {
            let (own, _) = role.recorded()?;
            (**own == *aggregate_type).then(|| (own.clone(), matches!(role, Role::Saga { .. })))
        })?;
        Some(Self { slot, plugin, aggregate_type, is_saga, guest: None })
    }

    /// Migrates events of the type. If the code fails at the list, each event is tried alone.
    fn migrate(&mut self, events: &[&RecordedEvent], tries: Tries) -> Vec<Result<Vec<u8>, Unmigrated>> {
        if let Ok(migrated) = self.call(events, false) {
            return migrated.into_iter().map(|payload| payload.map_err(Unmigrated::Event)).collect();
        }
        let mut broken: Option<String> = None;
        let mut migrated = Vec::with_capacity(events.len());
        for event in events {
            if let Some(reason) = &broken {
                migrated.push(Err(Unmigrated::Event(reason.clone())));
                continue;
            }
            migrated.push(match self.call(&[event], false) {
                Ok(mut one) => one.pop().expect("it returns one for each event").map_err(Unmigrated::Event),
                Err(error @ (Error::Host(_) | Error::Stopping)) => Err(Unmigrated::Host(error.to_string())),
                Err(error) => {
                    let reason =
                        format!("{error}, at event {} of {} version {}", event.name, event.stream, event.version);
                    broken = (tries == Tries::UntilOneFails).then(|| reason.clone());
                    Err(Unmigrated::Event(reason))
                }
            });
        }
        migrated
    }

    /// Calls the code. After an error the guest is lost.
    fn call(&mut self, events: &[&RecordedEvent], is_hurried: bool) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
        let mut guest = match self.guest.take().filter(|guest| !guest.is_worn()) {
            Some(guest) => guest,
            None if self.is_saga => RecorderGuest::Saga(SagaGuest::new(&self.plugin)?),
            None => RecorderGuest::Aggregate(AggregateGuest::new(&self.plugin, &self.aggregate_type)?),
        };
        let migrated = match &mut guest {
            RecorderGuest::Aggregate(guest) => {
                guest.hurry(is_hurried);
                guest.upcast(events)?
            }
            RecorderGuest::Saga(guest) => {
                guest.hurry(is_hurried);
                guest.upcast(events)?
            }
        };
        self.guest = Some(guest);
        Ok(migrated)
    }
}
