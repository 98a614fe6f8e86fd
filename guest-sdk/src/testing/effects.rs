//! Expected effects: what subscribers and sagas send, set and cancel, in the order of the calls.

use super::readable;
use crate::bindings::{bus, types};
use crate::subscriber::{Effect, Message, OutgoingCommand, Request};
use std::collections::VecDeque;

/// The methods that expect an effect. The type has a method `then` that checks the next one.
macro_rules! then_effects {
    () => {
        /// Expects this command as the next effect.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_command(self, aggregate_type: &str, aggregate_id: &str, command: &impl serde::Serialize) -> Self {
            let command = $crate::subscriber::OutgoingCommand::new(aggregate_type, aggregate_id, command);
            let command =
                command.unwrap_or_else(|error: $crate::codec::Error| panic!("the command does not encode: {error}"));
            self.then_sent(command)
        }

        /// Expects this command as the next effect, with its headers, the version that it expects and its attachment.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_sent(self, command: $crate::subscriber::OutgoingCommand) -> Self {
            self.then($crate::subscriber::Effect::Send(command))
        }

        /// Expects a timer as the next effect that sends this command.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_later(
            self,
            timer: Option<&str>,
            due: impl Into<$crate::subscriber::Due>,
            command: $crate::subscriber::OutgoingCommand,
        ) -> Self {
            self.then($crate::subscriber::Effect::Later(timer.map(str::to_owned), due.into(), command))
        }

        /// Expects a timer as the next effect that wakes the subscriber with this payload.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_wake(
            self,
            timer: &str,
            due: impl Into<$crate::subscriber::Due>,
            payload: &(impl serde::Serialize + ?Sized),
        ) -> Self {
            let payload =
                $crate::codec::to_json(payload).unwrap_or_else(|error| panic!("the payload does not encode: {error}"));
            self.then($crate::subscriber::Effect::Wake(timer.to_owned(), due.into(), payload))
        }

        /// Expects the cancellation of this timer as the next effect.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_cancel(self, timer: &str) -> Self {
            self.then($crate::subscriber::Effect::Cancel(timer.to_owned()))
        }

        /// Expects this message as the next effect.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_message(self, message: $crate::subscriber::Message) -> Self {
            self.then($crate::subscriber::Effect::Publish(message))
        }

        /// Expects this HTTP request as the next effect, with its headers, its body and its attachment. The order of headers
        /// counts only if they have the same name.
        ///
        /// # Panics
        /// If the next effect is anything else.
        #[track_caller]
        pub fn then_http(self, request: $crate::subscriber::Request) -> Self {
            self.then($crate::subscriber::Effect::Http(request))
        }
    };
}
pub(super) use then_effects;

/// Expects this as the next effect.
#[track_caller]
pub(super) fn expect_next(effects: &mut VecDeque<Effect>, expected: &Effect) {
    let actual = effects.pop_front();
    let actual = actual.as_ref().map(comparable);
    assert_eq!(actual, Some(comparable(expected)), "the effect (left) is not the expected one (right)");
}

/// Returns an effect as JSON, so that payloads compare by content and differences are easy to read.
pub(super) fn comparable(effect: &Effect) -> serde_json::Value {
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
        Effect::Http(request) => comparable_request(request),
    }
}

fn comparable_request(Request(request): &Request) -> serde_json::Value {
    let bus::Request { endpoint, method, path, headers, body, response } = request;
    let mut headers: Vec<_> =
        headers.iter().map(|header| (header.name.to_ascii_lowercase(), readable(&header.value))).collect();
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    serde_json::json!({
        "request": method, "endpoint": endpoint, "path": path, "headers": headers, "body": readable(body),
        "attachment": response.as_deref().map(readable),
    })
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
