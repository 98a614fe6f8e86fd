//! The subscriber role: deliveries in, effects out.

use super::aggregate::{lend_headers, lend_metadata};
use super::bindings::exports::wasmill::plugin::subscriber as export;
use super::bindings::wasmill::plugin::types;
use super::{Effects, Error, Failure, Guarded, Plugin, failure};
use crate::model::RecordedEvent;

/// A wasm store with one subscriber. After [`Error::Trap`] it must be thrown away.
pub struct SubscriberGuest {
    guarded: Guarded,
    guest: export::Guest,
}

impl SubscriberGuest {
    /// A fresh wasm store.
    pub fn new(plugin: &Plugin) -> Result<Self, Error> {
        let indices = export::GuestIndices::new(&plugin.pre).map_err(|error| plugin.lacks("a subscriber", &error))?;
        let (mut guarded, instance) = Guarded::instantiate(plugin)?;
        let guest =
            indices.load(&mut guarded.store, &instance).map_err(|error| plugin.lacks("a subscriber", &error))?;
        Ok(Self { guarded, guest })
    }

    /// Delivers events. The effects are those of all of them, or none at all where one failed.
    pub fn handle(&mut self, events: &[RecordedEvent]) -> Result<Result<Effects, Failure>, Error> {
        let headers: Vec<_> = events.iter().map(|event| lend_headers(&event.headers)).collect();
        let ids: Vec<_> = events.iter().map(|event| event.id.to_string()).collect();
        let deliveries: Vec<_> =
            events.iter().zip(&headers).zip(&ids).map(|((event, headers), id)| lend(event, id, headers)).collect();
        self.guarded.store.data_mut().effects = Some(Effects { deliveries: events.len() as u32, list: Vec::new() });
        let handled = self.guarded.call(events.len(), |store| self.guest.call_handle(store, &deliveries));
        let effects = self.guarded.store.data_mut().effects.take().unwrap_or_default();
        Ok(handled?.map(|()| effects).map_err(failure))
    }
}

fn lend<'a>(event: &'a RecordedEvent, id: &'a str, headers: &'a [types::HeaderParam<'a>]) -> types::Delivery<'a> {
    types::Delivery {
        name: &event.name,
        key: Some(event.stream.aggregate_id.as_bytes()),
        payload: Some(&event.payload),
        metadata: lend_metadata(event, id, headers),
        origin: types::Origin::Event(types::EventOrigin {
            position: event.position.0,
            aggregate_type: &event.stream.aggregate_type,
            aggregate_id: &event.stream.aggregate_id,
            version: event.version.0,
        }),
    }
}
