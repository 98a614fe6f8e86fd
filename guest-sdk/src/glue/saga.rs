//! The exports of a saga: the keys of events, and a resource that holds the state.

use super::subscriber::hand_over;
use crate::bindings::saga::exports::wasmill::plugin::saga as wit;
use crate::bindings::types;
use crate::codec::Encoded;
use crate::declared::{Crate, identity, owned};
use crate::log::install_panic_hook;
use crate::reading::skipped_delivery;
use crate::saga::{End, Saga, Step, dispatch, key};
use crate::subscriber::{Delivery, Effect};
use crate::{Failure, codec, readback, upcast};
use std::cell::RefCell;
use std::marker::PhantomData;

/// The exports of the saga `S`, in the crate `C`.
pub struct SagaRole<S, C>(PhantomData<(S, C)>);

impl<S: Saga, C: Crate> wit::Guest for SagaRole<S, C> {
    type Instance = LiveSaga<S>;

    fn describe() -> Result<wit::Description, String> {
        install_panic_hook();
        Ok(wit::Description {
            plugin: identity::<C>(),
            saga_type: S::TYPE.to_owned(),
            starts: owned(S::STARTS),
            subscriptions: owned(S::SUBSCRIPTIONS),
            shape: S::SHAPE.into(),
            endpoints: owned(S::ENDPOINTS),
            events: S::EVENT_SCHEMA.describe(upcast::names::<S::Event>(S::UPCASTS)?),
            state: S::STATE_SCHEMA.text(),
        })
    }

    fn upcast(events: Vec<types::RecordedPayload>) -> Vec<Result<Vec<u8>, String>> {
        install_panic_hook();
        super::upcast(events, S::UPCASTS)
    }

    fn keys(deliveries: Vec<types::Delivery>) -> Result<Vec<Option<String>>, types::Failure> {
        install_panic_hook();
        let mut keys = Vec::with_capacity(deliveries.len());
        super::each(deliveries, |_, delivery| {
            keys.push(key::<S>(&mut Delivery(delivery))?);
            Ok(())
        })?;
        Ok(keys)
    }
}

/// One live saga: its state, and the events of its last decision. These are durable when it is called again, or the host
/// has dropped it.
pub struct LiveSaga<S: Saga> {
    state: RefCell<S>,
    decided: RefCell<Vec<S::Event>>,
}

/// A decision before its effects are handed over.
pub(crate) struct Decision {
    pub(crate) events: Vec<types::NewEvent>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) end: Option<End>,
}

impl<S: Saga> wit::GuestInstance for LiveSaga<S> {
    fn new(_: String) -> Self {
        install_panic_hook();
        Self::empty()
    }

    fn apply(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        self.replay(events)
    }

    fn handle(&self, input: types::Delivery) -> Result<wit::Decision, types::Outcome> {
        let mut input = Delivery(input);
        let Some(decision) = self.decide(&mut input).map_err(types::Outcome::from)? else {
            skipped_delivery(&input.0);
            return Ok(wit::Decision { events: Vec::new(), end: None });
        };
        let Decision { events, effects, end } = decision;
        effects.into_iter().for_each(|effect| hand_over(0, effect));
        let end = end.map(|end| match end {
            End::Completed => wit::End::Completed,
            End::Compensated => wit::End::Compensated,
        });
        Ok(wit::Decision { events, end })
    }
}

impl<S: Saga> LiveSaga<S> {
    /// Makes a saga without history.
    pub(crate) fn empty() -> Self {
        Self { state: RefCell::default(), decided: RefCell::default() }
    }

    /// Applies history.
    pub(crate) fn replay(&self, events: Vec<types::RecordedEvent>) -> Result<(), types::Failure> {
        // If there are any, they are the first of these.
        self.decided.take();
        let mut state = self.state.borrow_mut();
        super::each(events, |_, event| {
            state.apply(upcast::decode(&event.name, event.payload, S::UPCASTS)?);
            Ok(())
        })
    }

    /// Applies the events of the last decision, then decides on an input. The result is none if it is skipped.
    pub(crate) fn decide(&self, input: &mut Delivery) -> Result<Option<Decision>, Failure> {
        self.settle();
        let mut step = Step::default();
        if !dispatch(&*self.state.borrow(), input, &mut step)? {
            return Ok(None);
        }
        let Step { events, outbox, end } = step;
        let encode = |event| {
            let Encoded { name, payload, .. } = readback::encode_event(event, S::UPCASTS)?;
            Ok::<_, codec::Error>(types::NewEvent { name: name.to_owned(), payload })
        };
        let encoded = events.iter().map(encode).collect::<Result<_, _>>()?;
        self.decided.replace(events);
        Ok(Some(Decision { events: encoded, effects: outbox.effects, end }))
    }

    /// Borrows the state, for tests.
    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn state(&self) -> std::cell::Ref<'_, S> {
        self.settle();
        self.state.borrow()
    }

    fn settle(&self) {
        let mut state = self.state.borrow_mut();
        self.decided.take().into_iter().for_each(|event| state.apply(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event_json, record};
    use crate::upcast::{Json, Upcasts, json};
    use serde::{Deserialize, Serialize};
    use wit::Guest as _;

    struct Here;

    impl Crate for Here {
        const NAME: &'static str = "here";
        const VERSION: &'static str = "1.2.3";
    }

    #[derive(Default)]
    struct Visit {
        guests: Vec<String>,
    }

    #[derive(Serialize, Deserialize)]
    enum Event {
        Came { guest: String },
    }

    /// Version 1 was the guest's name.
    fn named(event: Json) -> Result<Json, String> {
        Ok(json!({ "guest": event }))
    }

    impl Saga for Visit {
        const TYPE: &'static str = "visit";
        const STARTS: &'static [&'static str] = &["door.Opened"];
        const UPCASTS: &'static [Upcasts] = &[Upcasts::of("Came", &[named])];
        type Event = Event;

        fn key(event: &Delivery) -> Result<Option<String>, Failure> {
            let id = event.aggregate_id()?;
            Ok((id != "back").then(|| id.to_owned()))
        }

        fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
            step.record(Event::Came { guest: event.json()? });
            Ok(())
        }

        fn apply(&mut self, Event::Came { guest }: Event) {
            self.guests.push(guest);
        }
    }

    fn opened(door: &str, guest: &str) -> Delivery {
        event_json("door", door, "Opened", guest)
    }

    #[test]
    fn each_event_has_a_key_or_none_and_the_first_that_fails_is_named() {
        let keys =
            |events: Vec<Delivery>| SagaRole::<Visit, Here>::keys(events.into_iter().map(|event| event.0).collect());
        let (front, back) = (|| opened("front", "1"), || opened("back", "1"));
        let found = keys(vec![front(), back(), front()]).unwrap();
        assert_eq!(found, [Some("front".to_owned()), None, Some("front".to_owned())]);
        let failure =
            keys(vec![front(), back(), record("doors", None, None), record("doors", None, None)]).unwrap_err();
        assert!(failure.index == 2 && matches!(failure.outcome, types::Outcome::Malformed(_)), "{failure:?}");
    }

    #[test]
    fn events_of_an_older_version_are_read_and_new_ones_are_applied_at_the_next_input() {
        let recorded = |version: u64, payload: &str| types::RecordedEvent {
            position: version,
            aggregate_type: "visit".to_owned(),
            aggregate_id: "front".to_owned(),
            version,
            name: "Came".to_owned(),
            payload: payload.into(),
            recorded_time: 0,
            first_time: 0,
            metadata: opened("front", "1").0.metadata,
        };
        let live = LiveSaga::<Visit>::empty();
        live.replay(vec![recorded(1, r#""Ada""#), recorded(2, r#"{"@schema":2,"guest":"Bob"}"#)]).unwrap();
        let decision = live.decide(&mut opened("front", r#""Eve""#)).unwrap().unwrap();
        assert_eq!(decision.events[0].payload, br#"{"@schema":2,"guest":"Eve"}"#);
        assert_eq!(live.state.borrow().guests, ["Ada", "Bob"]);
        assert!(live.decide(&mut opened("front", "7")).is_err(), "its name is not text");
        assert_eq!(live.state.borrow().guests, ["Ada", "Bob", "Eve"]);
        assert_eq!(live.replay(vec![recorded(3, "1"), recorded(4, r#"{"@schema":3}"#)]).unwrap_err().index, 0);
    }
}
