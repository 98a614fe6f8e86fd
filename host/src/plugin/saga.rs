//! The saga role: live sagas in one wasm store.

use super::bindings::exports::wasmill::plugin::saga as export;
use super::bindings::wasmill::plugin::types::Delivery;
use super::decision::new_events;
use super::lowering::{CallbackLender, Lender, lend_payloads};
use super::upcasting::ReaderShape;
use super::{Effects, Error, Guarded, Identity, Plugin, Role, RoleName, description, refusal};
use crate::model::{Failure, KeptCallback, NewEvent, RecordedEvent, Refusal};
use wasmtime::component::ResourceAny;

/// A wasm store with live sagas. After an [`Error`] it must be dropped with all of them.
pub struct SagaGuest {
    guarded: Guarded,
    guest: export::Guest,
    shape: ReaderShape,
}

/// A live saga. It is valid in the guest that created it, until it is discarded there.
#[derive(Debug)]
pub struct LiveSaga(ResourceAny);

/// An input of a saga.
#[derive(Clone, Copy, Debug)]
pub enum SagaInput<'i> {
    /// A recorded event.
    Event(&'i RecordedEvent),
    /// An outcome or a timer.
    Callback(&'i KeptCallback),
}

/// The decision of a saga on an input.
#[derive(Debug, Default)]
pub struct SagaDecision {
    /// The events to record in its own stream.
    pub events: Vec<NewEvent>,
    /// How it ends, if it does.
    pub end: Option<SagaEnd>,
    /// Its effects.
    pub effects: Effects,
}

/// How a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaEnd {
    /// The process reached its goal.
    Completed,
    /// What the process had done is undone.
    Compensated,
}

/// Returns what the role says about itself.
pub(super) fn describe(plugin: &Plugin) -> Result<(Identity, Vec<Role>), Error> {
    let (mut guarded, guest) = instantiate(plugin)?;
    let described = guarded.call("describe", 1, |store| guest.call_describe(store))?;
    guarded.described(RoleName::Saga, described, |described| {
        let export::Description { plugin, saga_type, starts, subscriptions, shape, endpoints, events, state } =
            described;
        let starts = description::subscriptions(starts)?;
        if starts.is_empty() {
            return Err("`starts` names no event, and without one that starts it there is never a saga".to_owned());
        }
        let role = Role::Saga {
            aggregate_type: description::name("the type of the sagas", &saga_type)?,
            subscriptions: [starts.clone(), description::subscriptions(subscriptions)?].concat(),
            starts,
            shape: description::shape(shape),
            endpoints: description::endpoints(&endpoints)?,
            events: description::messages("events", "an event", events)?,
            state: description::schema("the state", state)?,
        };
        Ok((description::identity(plugin)?, vec![role]))
    })
}

fn instantiate(plugin: &Plugin) -> Result<(Guarded, export::Guest), Error> {
    let misfit = |error| plugin.misfit(RoleName::Saga, &error);
    let indices = export::GuestIndices::new(&plugin.pre).map_err(misfit)?;
    let (mut guarded, instance) = Guarded::instantiate(plugin, true)?;
    let guest = indices.load(&mut guarded.store, &instance).map_err(misfit)?;
    Ok((guarded, guest))
}

impl SagaGuest {
    /// Creates a guest in a new wasm store.
    pub fn new(plugin: &Plugin) -> Result<Self, Error> {
        let (guarded, guest) = instantiate(plugin)?;
        let shape = ReaderShape::new(plugin, |role| matches!(role, Role::Saga { .. }));
        Ok(Self { guarded, guest, shape })
    }

    /// Decides whether inputs that take long are interrupted with [`Error::Slow`], because other sagas wait.
    pub fn hurry(&mut self, is_hurried: bool) {
        self.guarded.hurry(is_hurried);
        self.shape.hurry(is_hurried);
    }

    /// Migrates the payloads of events of its own streams to the version that the code knows. An inner error is the guest's,
    /// if it can't.
    pub fn upcast(&mut self, events: &[&RecordedEvent]) -> Result<Vec<Result<Vec<u8>, String>>, Error> {
        let lent = lend_payloads(events);
        let migrated = self.guarded.call("upcast", events.len(), |store| self.guest.call_upcast(store, &lent))?;
        self.guarded.migrated(events, migrated)
    }

    /// Returns the key of the saga that each of these events is for, or `None` if an event is for no saga.
    pub fn keys(&mut self, events: &[RecordedEvent]) -> Result<Result<Vec<Option<String>>, Failure>, Error> {
        let events = match self.shape.of(events)? {
            Ok(events) => events,
            Err(failure) => return Ok(Err(failure)),
        };
        let lender = Lender::new(&events);
        let deliveries = lender.deliveries();
        let guest = &self.guest;
        let keys =
            self.guarded.call_with_list("keys", &deliveries, |store, deliveries| guest.call_keys(store, deliveries))?;
        match keys.map(|keys| keys.concat()) {
            Ok(keys) if keys.len() != events.len() => {
                let cause = format!("it returned {} keys of {} events", keys.len(), events.len());
                Err(self.guarded.broke_the_contract(cause))
            }
            keys => Ok(keys),
        }
    }

    /// Creates a live saga without history.
    pub fn create(&mut self, key: &str) -> Result<LiveSaga, Error> {
        self.guarded.call("constructor", 1, |store| self.guest.instance().call_constructor(store, key)).map(LiveSaga)
    }

    /// Applies recorded events of the saga's own stream.
    pub fn apply(&mut self, live: &LiveSaga, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error> {
        let lender = Lender::new(events);
        let lent = lender.events();
        let instance = self.guest.instance();
        let applied =
            self.guarded.call_with_list("apply", &lent, |store, lent| instance.call_apply(store, live.0, lent))?;
        Ok(applied.map(drop))
    }

    /// Applies the events of the previous decision and decides on an input.
    pub fn handle(&mut self, live: &LiveSaga, input: SagaInput<'_>) -> Result<Result<SagaDecision, Refusal>, Error> {
        match input {
            SagaInput::Event(event) => match self.shape.of(std::slice::from_ref(event))? {
                Ok(event) => self.decide(live, Lender::new(&event).deliveries()),
                Err(failure) => Ok(Err(failure.refusal)),
            },
            SagaInput::Callback(kept) => {
                self.decide(live, CallbackLender::new(std::slice::from_ref(kept)).deliveries())
            }
        }
    }

    fn decide(
        &mut self,
        live: &LiveSaga,
        mut input: Vec<Delivery<'_>>,
    ) -> Result<Result<SagaDecision, Refusal>, Error> {
        let input = input.pop().expect("an input is one delivery");
        self.guarded.store.data_mut().begin_effects(1);
        let item = (input.metadata.time, input.metadata.id);
        let decided =
            self.guarded.call_with("handle", item, |store| self.guest.instance().call_handle(store, live.0, input));
        let effects = self.guarded.store.data_mut().effects.take().unwrap_or_default();
        let export::Decision { events, end } = match decided? {
            Ok(decision) => decision,
            Err(outcome) => return Ok(Err(refusal(outcome))),
        };
        let events = new_events(events).map_err(|cause| self.guarded.broke_the_contract(cause))?;
        let end = end.map(|end| match end {
            export::End::Completed => SagaEnd::Completed,
            export::End::Compensated => SagaEnd::Compensated,
        });
        Ok(Ok(SagaDecision { events, end, effects }))
    }

    /// Whether a saga must be rebuilt after a decision with events, because the code may ask WASI for the time or randomness of each
    /// when it is applied.
    pub fn takes_recorded_events(&self) -> bool {
        self.guarded.is_item_by_item()
    }

    /// Whether the guest should be recreated, because it has taken much of what it may have and gives nothing back.
    pub fn is_worn(&self) -> bool {
        self.guarded.is_worn()
    }

    /// Returns the bytes of its linear memory, which never shrinks. Freed memory is reused.
    pub fn memory_bytes(&self) -> usize {
        self.guarded.store.data().usage.memory_bytes()
    }

    /// Frees a live saga.
    pub fn discard(&mut self, live: LiveSaga) -> Result<(), Error> {
        self.guarded.call("drop", 1, |store| live.0.resource_drop(store))
    }
}
