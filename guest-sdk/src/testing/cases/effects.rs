//! Effects, as cases compare them.

use crate::bindings::{bus, types};
use crate::subscriber::{Due, Effect, Message, OutgoingCommand, Request};
use crate::testing::plugins::servers;
use wasmill_cases::Stream;
use wasmill_cases::effect::{self as cases, SentCommand, SentMessage};

/// Makes the effects that a case compares.
pub(super) fn of(effects: impl IntoIterator<Item = Effect>) -> Vec<cases::Effect> {
    effects.into_iter().map(of_one).collect()
}

fn of_one(effect: Effect) -> cases::Effect {
    match effect {
        Effect::Send(command) => cases::Effect::Command(of_command(command)),
        Effect::Publish(Message(bus::Message { topic, key, partition, headers, payload })) => {
            cases::Effect::Message(SentMessage { topic, key, partition, headers: of_headers(headers), value: payload })
        }
        Effect::Later(timer, due, command) => {
            cases::Effect::Later { timer, due: of_due(due), command: of_command(command) }
        }
        Effect::Wake(timer, due, payload) => cases::Effect::Wake { timer, due: of_due(due), payload },
        Effect::Cancel(timer) => cases::Effect::Cancel(timer),
        Effect::Http(request) => cases::Effect::Request(servers::sent(&request), attached(request)),
    }
}

fn attached(Request(request): Request) -> Option<Vec<u8>> {
    request.response
}

fn of_command(OutgoingCommand(command): OutgoingCommand) -> SentCommand {
    let bus::OutgoingCommand { aggregate_type, aggregate_id, name, payload, headers, expected_version, outcome } =
        command;
    SentCommand {
        to: Stream::new(aggregate_type, aggregate_id),
        name,
        payload,
        headers: of_headers(headers),
        expected_version,
        attachment: outcome,
    }
}

fn of_headers(headers: Vec<types::Header>) -> Vec<(String, Option<Vec<u8>>)> {
    headers.into_iter().map(|types::Header { name, value }| (name, value)).collect()
}

fn of_due(due: Due) -> cases::Due {
    match due {
        Due::After(after) => cases::Due::after(after),
        Due::At(ms) => cases::Due::At(ms),
    }
}
