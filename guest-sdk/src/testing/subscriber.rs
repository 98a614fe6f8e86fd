//! Tests of subscribers: deliver an event or a record, then expect these commands and messages.

use super::{expect_outcome, readable};
use crate::bindings::{bus, types};
use crate::codec;
use crate::subscriber::{Delivery, Due, Effect, Message, Outbox, OutgoingCommand, Subscriber, dispatch};
use serde::Serialize;
use std::collections::VecDeque;

/// Delivers an event, a record, an outcome or a timer, which [`event`](super::event), [`record`](super::record),
/// [`outcome`](super::outcome) or [`timer`](super::timer) makes.
pub fn deliver<S: Subscriber>(delivery: Delivery) -> Delivered {
    let mut outbox = Outbox::default();
    let result = dispatch::<S>(&delivery, &mut outbox).map_err(types::Outcome::from);
    Delivered { result: result.map(|()| outbox.effects.into()) }
}

/// The result of a delivery. Each `then_` method checks the next effect, in the order of the calls.
#[must_use = "end with `then_nothing`"]
pub struct Delivered {
    result: Result<VecDeque<Effect>, types::Outcome>,
}

impl Delivered {
    /// Expects this command as the next effect.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_command(self, aggregate_type: &str, aggregate_id: &str, command: &impl Serialize) -> Self {
        let command = OutgoingCommand::new(aggregate_type, aggregate_id, command);
        let command = command.unwrap_or_else(|error: codec::Error| panic!("the command does not encode: {error}"));
        self.then_sent(command)
    }

    /// Expects this command as the next effect, with its headers, the version that it expects and its attachment.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_sent(self, command: OutgoingCommand) -> Self {
        self.then(Effect::Send(command))
    }

    /// Expects a timer as the next effect that sends this command.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_later(self, timer: Option<&str>, due: impl Into<Due>, command: OutgoingCommand) -> Self {
        self.then(Effect::Later(timer.map(str::to_owned), due.into(), command))
    }

    /// Expects a timer as the next effect that wakes the subscriber with this payload.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_wake(self, timer: &str, due: impl Into<Due>, payload: &(impl Serialize + ?Sized)) -> Self {
        let payload = codec::to_json(payload).unwrap_or_else(|error| panic!("the payload does not encode: {error}"));
        self.then(Effect::Wake(timer.to_owned(), due.into(), payload))
    }

    /// Expects the cancellation of this timer as the next effect.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_cancel(self, timer: &str) -> Self {
        self.then(Effect::Cancel(timer.to_owned()))
    }

    /// Expects this message as the next effect.
    ///
    /// # Panics
    /// If the next effect is anything else.
    #[track_caller]
    pub fn then_message(self, message: Message) -> Self {
        self.then(Effect::Publish(message))
    }

    /// Expects no more effects.
    ///
    /// # Panics
    /// If there is another effect, or if the delivery failed.
    #[track_caller]
    pub fn then_nothing(mut self) {
        if let Some(effect) = self.effects().pop_front() {
            panic!("expected nothing more, got: {:#?}", comparable(&effect));
        }
    }

    /// Expects the delivery to be rejected with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "rejected", part_of_the_reason);
    }

    /// Expects the delivery to be malformed, with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "malformed", part_of_the_reason);
    }

    /// Expects the delivery to ask for a retry with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_retry(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "retry", part_of_the_reason);
    }

    #[track_caller]
    fn then(mut self, expected: Effect) -> Self {
        let actual = self.effects().pop_front();
        let actual = actual.as_ref().map(comparable);
        assert_eq!(actual, Some(comparable(&expected)), "the effect (left) is not the expected one (right)");
        self
    }

    #[track_caller]
    fn effects(&mut self) -> &mut VecDeque<Effect> {
        match &mut self.result {
            Ok(effects) => effects,
            Err(outcome) => panic!("the delivery failed: {outcome:?}"),
        }
    }
}

/// Returns an effect as JSON, so that payloads compare by content and differences are easy to read.
fn comparable(effect: &Effect) -> serde_json::Value {
    match effect {
        Effect::Send(command) => comparable_command(command),
        Effect::Later(timer, due, command) => serde_json::json!({
            "timer": timer, "due": format!("{due:?}"), "sends": comparable_command(command),
        }),
        Effect::Wake(timer, due, payload) => serde_json::json!({
            "timer": timer, "due": format!("{due:?}"), "payload": readable(payload),
        }),
        Effect::Cancel(timer) => serde_json::json!({ "cancelled_timer": timer }),
        Effect::Publish(Message(bus::Message { topic, key, partition, headers, payload })) => serde_json::json!({
            "topic": topic, "key": key.as_deref().map(readable), "partition": partition,
            "payload": payload.as_deref().map(readable), "headers": comparable_headers(headers),
        }),
    }
}

fn comparable_command(OutgoingCommand(command): &OutgoingCommand) -> serde_json::Value {
    let bus::OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers, expected_version, outcome } =
        command;
    serde_json::json!({
        "command": name, "to": format!("{aggregate_type}/{aggregate_id}"), "payload": readable(payload),
        "headers": comparable_headers(headers), "expected_version": expected_version,
        "attachment": outcome.as_deref().map(readable),
    })
}

fn comparable_headers(headers: &[types::Header]) -> Vec<(&str, Option<serde_json::Value>)> {
    headers.iter().map(|header| (header.name.as_str(), header.value.as_deref().map(readable))).collect()
}
