//! Effects of guests, as cases compare them.

use crate::model::{self, Header};
use crate::plugin::{Effect, Effects, OutgoingCommand, OutgoingMessage, OutgoingRequest};
use wasmill_cases::Stream;
use wasmill_cases::effect::{self as cases, Due, SentCommand, SentMessage};
use wasmill_cases::flows::http::SentRequest;

/// Makes the effects that a case compares.
pub(super) fn of(effects: Effects) -> Vec<cases::Effect> {
    effects.list.into_iter().map(|(_, effect)| of_one(effect)).collect()
}

fn of_one(effect: Effect) -> cases::Effect {
    match effect {
        Effect::Command(command) => cases::Effect::Command(of_command(command)),
        Effect::Message(OutgoingMessage { topic, key, partition, headers, payload }) => {
            let headers = of_headers(headers);
            cases::Effect::Message(SentMessage { topic, key, partition, headers, value: payload })
        }
        Effect::Later(timer, due, command) => {
            cases::Effect::Later { timer, due: of_due(due), command: of_command(command) }
        }
        Effect::Wake(timer, due, payload) => cases::Effect::Wake { timer, due: of_due(due), payload },
        Effect::Cancel(timer) => cases::Effect::Cancel(timer),
        Effect::Http(OutgoingRequest { endpoint, method, path, headers, body, response }) => {
            let headers = headers.into_iter().map(|Header { name, value }| (name, value.unwrap_or_default())).collect();
            cases::Effect::Request(SentRequest { endpoint, method, path, headers, body }, response)
        }
    }
}

fn of_command(command: OutgoingCommand) -> SentCommand {
    let OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers, expected_version, outcome } = command;
    SentCommand {
        to: Stream::new(aggregate_type, aggregate_id),
        name,
        payload,
        headers: of_headers(headers),
        expected_version,
        attachment: outcome,
    }
}

fn of_headers(headers: Vec<Header>) -> Vec<(String, Option<Vec<u8>>)> {
    headers.into_iter().map(|Header { name, value }| (name, value)).collect()
}

fn of_due(due: model::Due) -> Due {
    match due {
        model::Due::After(ms) => Due::After(ms),
        model::Due::At(ms) => Due::At(ms),
    }
}
