//! Migration of recorded events by the loaded code of their aggregates and sagas.

use crate::model::RecordedEvent;
use crate::plugin::{AggregateGuest, Catalog, Error, Plugin, Role, SagaGuest, Slot};
use crate::upcasts::{Migrates, Unmigrated, Upcasts};
use std::collections::HashMap;
use std::sync::Arc;

/// Returns the migration by the plugins of a catalog.
pub(super) fn upcasts(catalog: &Arc<Catalog>) -> Upcasts {
    let catalog = catalog.clone();
    Upcasts::new(move || Box::new(PluginUpcasts { catalog: catalog.clone(), types: HashMap::new() }))
}

/// Guests of the code that records events, made when they are needed.
struct PluginUpcasts {
    catalog: Arc<Catalog>,
    /// By type. A type that nobody serves has none.
    types: HashMap<Arc<str>, Option<Recorder>>,
}

/// The code that records the events of a type.
struct Recorder {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    is_saga: bool,
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
    /// Returns the code of a type, in its newest version.
    fn recorder(&mut self, aggregate_type: &Arc<str>) -> Option<&mut Recorder> {
        let catalog = &self.catalog;
        let recorder = self.types.entry(aggregate_type.clone()).or_insert_with(|| recorder(catalog, aggregate_type));
        let recorder = recorder.as_mut()?;
        if !recorder.slot.is_current(&recorder.plugin) {
            recorder.plugin = recorder.slot.current();
            (recorder.guest, recorder.broken) = (None, None);
        }
        Some(recorder)
    }
}

fn recorder(catalog: &Catalog, aggregate_type: &str) -> Option<Recorder> {
    catalog.slots().find_map(|slot| {
        let plugin = slot.current();
        let is_saga = plugin.description.roles.iter().find_map(|role| match role {
            Role::Aggregate { aggregate_type: own } if **own == *aggregate_type => Some(false),
            Role::Saga { aggregate_type: own, .. } if **own == *aggregate_type => Some(true),
            _ => None,
        })?;
        Some(Recorder { slot: slot.clone(), plugin, is_saga, guest: None, broken: None })
    })
}

impl Recorder {
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
            None if self.is_saga => RecorderGuest::Saga(SagaGuest::new(&self.plugin)?),
            None => RecorderGuest::Aggregate(AggregateGuest::new(&self.plugin)?),
        };
        let migrated = match &mut guest {
            RecorderGuest::Aggregate(guest) => guest.upcast(events)?,
            RecorderGuest::Saga(guest) => guest.upcast(events)?,
        };
        self.guest = Some(guest);
        Ok(migrated)
    }
}
