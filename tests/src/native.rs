//! Aggregates of the SDK as native handlers of the host: the author's code, the SDK's glue and its codec, compiled for
//! this machine instead of WebAssembly.

use std::marker::PhantomData;
use std::sync::Arc;
use wasmill::aggregates::{Guest, GuestError, Handlers};
use wasmill::model::{Command, Header, NewEvent, RecordedEvent, Version};
use wasmill::model::{Failure, Refusal};
use wasmill_guest::Aggregate;
use wasmill_guest::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use wasmill_guest::bindings::types;
use wasmill_guest::glue::Live;

/// The test plugin `cart`, compiled for this machine.
#[path = "../plugins/cart/src/lib.rs"]
pub mod cart;

/// Native handlers that run the aggregate `A`.
pub struct Native<A> {
    /// Largest number of live aggregates that a shard keeps.
    pub instances_max: usize,
    aggregate: PhantomData<fn() -> A>,
}

/// The live aggregates of a shard. There is no guest memory; each aggregate is a value in this process.
pub struct NativeGuest<A> {
    instances_max: usize,
    aggregate: PhantomData<fn() -> A>,
}

impl<A> Native<A> {
    /// Makes handlers with this largest number of live aggregates in a shard.
    pub fn new(instances_max: usize) -> Self {
        Self { instances_max, aggregate: PhantomData }
    }
}

impl<A: Aggregate + Send> Handlers for Native<A>
where
    A::Event: Send,
{
    type Guest = NativeGuest<A>;

    fn name(&self) -> Arc<str> {
        format!("native-{}", A::TYPE).into()
    }

    fn guest(&self) -> Result<NativeGuest<A>, GuestError> {
        Ok(NativeGuest { instances_max: self.instances_max, aggregate: PhantomData })
    }

    fn is_current(&self, _: &NativeGuest<A>) -> bool {
        true
    }
}

impl<A: Aggregate + Send> Guest for NativeGuest<A>
where
    A::Event: Send,
{
    type Live = Live<A>;

    fn label(&self) -> Arc<str> {
        format!("native-{}", A::TYPE).into()
    }

    fn code(&self) -> Arc<str> {
        self.label()
    }

    fn instances_max(&self) -> usize {
        self.instances_max
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn live_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn is_worn(&self) -> bool {
        false
    }

    fn create(&mut self, id: &str) -> Result<Live<A>, GuestError> {
        Ok(Live::empty(id.to_owned()))
    }

    fn apply(&mut self, live: &Live<A>, events: &[RecordedEvent]) -> Result<Result<(), Failure>, GuestError> {
        let applied = live.apply(events.iter().map(recorded).collect());
        Ok(applied.map_err(|failure| Failure { index: failure.index as usize, refusal: refusal(failure.outcome) }))
    }

    fn handle(&mut self, live: &Live<A>, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, GuestError> {
        let metadata = types::Metadata {
            id: command.id.to_string(),
            time: command.time_ms,
            cause: cause_of(command),
            headers: headers(&command.headers),
        };
        let command = types::Command { name: command.name.to_string(), payload: command.payload.to_vec(), metadata };
        Ok(match live.handle(command) {
            Ok(events) => {
                Ok(events.into_iter().map(|event| NewEvent { name: event.name, payload: event.payload }).collect())
            }
            Err(outcome) => Err(refusal(outcome)),
        })
    }

    fn snapshot(&mut self, live: &Live<A>) -> Result<Option<Vec<u8>>, GuestError> {
        Ok(live.snapshot())
    }

    fn restore(&mut self, live: &Live<A>, state: &[u8], version: Version) -> Result<Result<(), String>, GuestError> {
        Ok(live.restore(state.to_vec(), version.0))
    }

    fn discard(&mut self, live: Live<A>) -> Result<(), GuestError> {
        drop(live);
        Ok(())
    }
}

fn recorded(event: &RecordedEvent) -> types::RecordedEvent {
    types::RecordedEvent {
        position: event.position.0,
        aggregate_type: event.stream.aggregate_type.to_string(),
        aggregate_id: event.stream.aggregate_id.to_string(),
        version: event.version.0,
        name: event.name.to_string(),
        payload: event.payload.to_vec(),
        recorded_time: event.recorded_ms(),
        first_time: event.first_ms.unwrap_or(event.time_ms),
        metadata: types::Metadata {
            id: event.id.to_string(),
            time: event.time_ms,
            cause: known(&event.correlation_id, &event.causation_id),
            headers: headers(&event.headers),
        },
    }
}

fn cause_of(command: &Command) -> types::Cause {
    let Command { id, correlation_id, causation_id, .. } = command;
    if causation_id != id {
        known(correlation_id, causation_id)
    } else if correlation_id != id {
        types::Cause::Correlated(correlation_id.to_string())
    } else {
        types::Cause::First
    }
}

fn known(correlation_id: &str, causation_id: &str) -> types::Cause {
    let (correlation_id, causation_id) = (correlation_id.to_owned(), causation_id.to_owned());
    types::Cause::Known(types::Causation { correlation_id, causation_id })
}

fn headers(headers: &[Header]) -> Option<Vec<types::Header>> {
    let owned = |header: &Header| types::Header { name: header.name.clone(), value: header.value.clone() };
    (!headers.is_empty()).then(|| headers.iter().map(owned).collect())
}

fn refusal(outcome: types::Outcome) -> Refusal {
    match outcome {
        types::Outcome::Rejected(reason) => Refusal::Rejected(reason),
        types::Outcome::Malformed(reason) => Refusal::Malformed(reason),
        types::Outcome::Retry(retry) => {
            Refusal::Retry { after: std::time::Duration::from_millis(retry.after_ms), reason: retry.reason }
        }
    }
}
