//! Subscriptions: how far each one is, the keys that it holds, and the outcomes, timers and responses that come back to it.

use super::code::{Failed, Given, SagaCode};
use super::command::{Cause, Command};
use super::patterns;
use super::store::{Recorded, Store};
use crate::bindings::types;
use crate::reading::Shape;
use crate::subscriber::Effect;
use std::collections::BTreeSet;
use wasmill_cases::flows::Stream;

/// The subscription of a subscriber or of sagas.
pub(super) struct Subscription {
    /// The name of the plugin.
    pub(super) name: String,
    /// The type that an author wrote.
    pub(super) type_name: &'static str,
    pub(super) given: Given,
    pub(super) code: SubscriptionCode,
    /// The patterns of the events that it gets.
    pub(super) patterns: Vec<&'static str>,
    /// The shape in which it gets them.
    pub(super) shape: Shape,
    /// The endpoints of its HTTP requests.
    pub(super) endpoints: &'static [&'static str],
    /// The place of the next event.
    pub(super) next: usize,
    /// The keys of which an event is dead-lettered. Later events of theirs wait.
    pub(super) held: BTreeSet<String>,
    callbacks: Vec<Callback>,
}

/// The code of a subscription.
pub(super) enum SubscriptionCode {
    Subscriber(fn(&Given, &types::Delivery) -> Result<Vec<Effect>, Failed>),
    Sagas(SagaPart),
}

/// The sagas of a plugin.
pub(super) struct SagaPart {
    pub(super) saga_type: &'static str,
    /// The patterns of the events that start a saga.
    pub(super) starts: Vec<&'static str>,
    pub(super) code: Box<dyn SagaCode>,
}

/// An outcome, a timer or a response, on its way back to the subscription that asked for it.
#[derive(Clone)]
pub(super) struct Callback {
    pub(super) number: u64,
    /// The name of the timer. For a saga it begins with the key of the saga.
    pub(super) timer: Option<String>,
    /// The time when the outcome or the response was recorded, or when the timer is due.
    pub(super) time_ms: u64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) correlation_id: String,
    pub(super) causation_id: String,
    pub(super) hops: u32,
    pub(super) first_ms: u64,
    pub(super) content: Content,
}

/// What a callback is.
#[derive(Clone)]
pub(super) enum Content {
    Outcome { stream: Stream, name: String, ending: types::Ending, attachment: Vec<u8> },
    Wake { name: String, payload: Vec<u8> },
    Send(Box<Command>),
    Response { endpoint: String, origin: types::ResponseOrigin, attachment: Vec<u8> },
}

impl Subscription {
    pub(super) fn new(
        name: String,
        type_name: &'static str,
        code: SubscriptionCode,
        (patterns, shape): (Vec<&'static str>, Shape),
        endpoints: &'static [&'static str],
    ) -> Self {
        let (given, held) = (Given::default(), BTreeSet::new());
        Self { name, type_name, given, code, patterns, shape, endpoints, next: 0, held, callbacks: Vec::new() }
    }

    /// Takes the next event that it gets. Events that it does not get are passed.
    pub(super) fn next_event(&mut self, store: &Store) -> Option<Recorded> {
        while let Some(recorded) = store.event(self.next) {
            self.next += 1;
            if patterns::select(&self.patterns, &recorded.event.aggregate_type, &recorded.event.name) {
                return Some(recorded.clone());
            }
        }
        None
    }

    /// Takes the first outcome or response, or else the first timer that is due.
    pub(super) fn next_callback(&mut self, now_ms: u64) -> Option<Callback> {
        let due = self.callbacks.iter().enumerate().filter(|(_, callback)| callback.time_ms <= now_ms);
        let (index, _) = due.min_by_key(|(_, callback)| callback.order())?;
        Some(self.callbacks.remove(index))
    }

    /// Returns when the next timer is due.
    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.callbacks.iter().map(|callback| callback.time_ms).min()
    }

    /// Adds a callback. A timer replaces the one of the same name.
    pub(super) fn add(&mut self, callback: Callback) {
        if let Some(timer) = &callback.timer {
            self.cancel(timer);
        }
        self.callbacks.push(callback);
    }

    /// Cancels a timer, if there is one of this name.
    pub(super) fn cancel(&mut self, timer: &str) {
        self.callbacks.retain(|callback| callback.timer.as_deref() != Some(timer));
    }

    /// Cancels the named timers of a saga.
    pub(super) fn cancel_all_of(&mut self, saga: &str) {
        let is_of = |timer: &str| timer.rsplit_once('/').is_some_and(|(key, _)| key == saga);
        self.callbacks.retain(|callback| !callback.timer.as_deref().is_some_and(is_of));
    }

    /// Returns the name of a timer as it is kept. The names of a saga's timers are its own.
    pub(super) fn timer(&self, cause: &Cause, name: &str) -> String {
        match (&self.code, &cause.key) {
            (SubscriptionCode::Sagas(_), Some(key)) => format!("{}/{name}", String::from_utf8_lossy(key)),
            _ => name.to_owned(),
        }
    }
}

impl Callback {
    /// Outcomes and responses come before timers, and timers in the order of their times.
    fn order(&self) -> (bool, u64, u64) {
        match self.content {
            Content::Outcome { .. } | Content::Response { .. } => (false, 0, self.number),
            Content::Wake { .. } | Content::Send(_) => (true, self.time_ms, self.number),
        }
    }

    fn id(&self) -> String {
        match &self.content {
            Content::Outcome { .. } => format!("{}:outcome", self.causation_id),
            Content::Response { origin, .. } => format!("{}:response", origin.request_id),
            Content::Wake { .. } | Content::Send(_) => format!("timer:{}", self.number),
        }
    }

    /// Returns what it is, for a person.
    pub(super) fn describe(&self) -> String {
        match &self.content {
            Content::Outcome { stream, name, .. } => format!("the outcome of {name} to {stream}"),
            Content::Wake { name, .. } => format!("the timer {name}"),
            Content::Response { endpoint, origin, .. } => {
                format!("the response to {} {endpoint}/{}", origin.method, origin.path)
            }
            Content::Send(command) => format!("the timer that sends {} to {}", command.name, command.stream),
        }
    }

    pub(super) fn cause(&self) -> Cause {
        Cause {
            id: self.id(),
            place: format!("callback-{}", self.number),
            correlation_id: self.correlation_id.clone(),
            hops: self.hops,
            first_ms: self.first_ms,
            key: self.key.clone(),
        }
    }

    /// Returns the callback as a guest takes it.
    pub(super) fn delivery(&self) -> types::Delivery {
        let (name, payload, origin) = match &self.content {
            Content::Outcome { stream, name, ending, attachment } => {
                let origin = types::OutcomeOrigin {
                    command_id: self.causation_id.clone(),
                    aggregate_type: stream.aggregate_type.clone(),
                    aggregate_id: stream.aggregate_id.clone(),
                    ending: ending.clone(),
                };
                (name.clone(), attachment.clone(), types::Origin::Outcome(origin))
            }
            Content::Wake { name, payload } => (name.clone(), payload.clone(), types::Origin::Timer),
            Content::Response { endpoint, origin, attachment } => {
                (endpoint.clone(), attachment.clone(), types::Origin::Response(origin.clone()))
            }
            Content::Send(command) => (command.name.clone(), command.payload.clone(), types::Origin::Timer),
        };
        let cause =
            types::Causation { correlation_id: self.correlation_id.clone(), causation_id: self.causation_id.clone() };
        types::Delivery {
            name,
            key: self.key.clone(),
            payload: Some(payload),
            recorded_time: self.time_ms,
            first_time: self.first_ms,
            metadata: types::Metadata {
                id: self.id(),
                time: self.time_ms,
                cause: types::Cause::Known(cause),
                headers: None,
            },
            origin,
        }
    }
}

/// Returns an event as a subscriber or a saga takes it.
pub(super) fn delivery_of(event: &types::RecordedEvent) -> types::Delivery {
    types::Delivery {
        name: event.name.clone(),
        key: Some(event.aggregate_id.clone().into_bytes()),
        payload: Some(event.payload.clone()),
        recorded_time: event.recorded_time,
        first_time: event.first_time,
        metadata: event.metadata.clone(),
        origin: types::Origin::Event(types::EventOrigin {
            position: event.position,
            aggregate_type: event.aggregate_type.clone(),
            aggregate_id: event.aggregate_id.clone(),
            version: event.version,
        }),
    }
}
