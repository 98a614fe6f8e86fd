//! `POST /v1/commands/…?wait=flow`: what followed from the command.

use super::Server;
use super::answer::HttpError;
use super::event_lines::line;
use super::histories::{Waiting, of_correlation};
use super::problem::ProblemType;
use crate::flows::EndedCommand;
use crate::host::{Followed, Following};
use crate::model::Outcome;
use crate::status::{Flow, FlowCommand};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// The most requests that wait for a flow at the same time.
pub(super) const FLOWS_MAX: usize = 64;

/// Waits for room to wait for a flow. Returns it with the time that is left.
pub(super) async fn room(server: &Server, timeout: Duration) -> Result<(OwnedSemaphorePermit, Duration), HttpError> {
    let deadline = Instant::now() + timeout;
    let room = tokio::time::timeout_at(deadline.into(), server.flows.clone().acquire_owned());
    match server.unless_closing(room).await? {
        Ok(permit) => {
            let left = deadline.saturating_duration_since(Instant::now());
            Ok((permit.expect("no semaphore of the API is closed"), left))
        }
        Err(_) => {
            let text = format!(
                "{FLOWS_MAX} requests wait for their flows, so the command was not sent: send it again later, or without \
                 `wait=flow`"
            );
            Err(HttpError::new(ProblemType::NoRoom, text))
        }
    }
}

/// Waits for a flow whose command has this outcome, and lists what came of it.
pub(super) async fn flow(
    server: &Server,
    mut following: Following,
    outcome: &Outcome,
    timeout: Duration,
) -> Result<Flow, HttpError> {
    if let Outcome::Accepted { position, events, .. } = outcome.what() {
        following.begins_at(*position, *events);
    }
    let followed = server.unless_closing(following.rest(timeout)).await??;
    let correlation_id = followed.correlation_id.to_string();
    let waiting = server.host.read(move |reader| of_correlation(reader, &correlation_id)).await?;
    let Waiting { timers, requests, dead_letters } = waiting;
    let Followed { correlation_id, waiting_for, position, events, commands, more, held_keys, paused } = followed;
    let held_key = |(subscription, stream)| format!("{stream} of subscription {subscription}");
    Ok(Flow {
        correlation_id: correlation_id.to_string(),
        at_rest: waiting_for.is_none(),
        waiting_for,
        position: position.0,
        events: events.iter().map(|event| serde_json::to_value(line(event)).expect("an event is JSON")).collect(),
        commands: commands.into_iter().map(command).collect(),
        more,
        timers,
        requests,
        held_keys: held_keys.into_iter().map(held_key).collect(),
        dead_letters,
        paused,
    })
}

fn command(ended: EndedCommand) -> FlowCommand {
    let (outcome, reason) = match ended.outcome {
        Outcome::Accepted { .. } => ("accepted", None),
        Outcome::Rejected { reason } => ("rejected", Some(reason)),
        Outcome::Malformed { reason } => ("malformed", Some(reason)),
        Outcome::Conflict { actual, expected } => {
            ("conflict", Some(format!("the stream is at version {actual}, expected {expected}")))
        }
        Outcome::IdReused { reason } => ("id_reused", Some(reason)),
        Outcome::Archived { reason } => ("archived", Some(reason)),
        Outcome::Failed { reason } => ("failed", Some(reason)),
        Outcome::Busy { .. } => ("busy", None),
        Outcome::Remembered(remembered) => {
            return command(EndedCommand { outcome: *remembered.outcome, ..ended });
        }
    };
    FlowCommand {
        id: ended.id.to_string(),
        to: ended.stream.to_string(),
        name: ended.name.to_string(),
        outcome: outcome.to_owned(),
        reason,
    }
}
