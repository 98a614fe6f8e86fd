//! Commands on their way to an aggregate, and what caused them.

use super::store::Recorded;
use crate::bindings::{bus, types};
use wasmill_cases::flows::Stream;

/// The most bytes of the id of an aggregate and of the name of a command: the default of `store.id_bytes_max`.
const ID_BYTES_MAX: usize = 512;

/// The most subscribers in a chain of causes: the default of `hops_max`.
const HOPS_MAX: u32 = 100;

/// A command.
#[derive(Clone)]
pub(super) struct Command {
    pub(super) stream: Stream,
    pub(super) name: String,
    pub(super) payload: Vec<u8>,
    pub(super) headers: Vec<types::Header>,
    /// The version that the stream must have, if the sender expects one.
    pub(super) expected: Option<u64>,
    pub(super) id: String,
    pub(super) time_ms: u64,
    /// The time of the first cause.
    pub(super) first_ms: u64,
    pub(super) correlation_id: String,
    /// The id of the cause. It is none if the command is the first cause.
    pub(super) causation_id: Option<String>,
    /// The number of subscribers in its chain of causes.
    pub(super) hops: u32,
    /// The subscription that sent it. It is none for a command of the test.
    pub(super) sender: Option<Sender>,
}

/// The sender of a command.
#[derive(Clone)]
pub(super) struct Sender {
    /// The index of the subscription.
    pub(super) subscription: usize,
    /// The key of the delivery that sent it.
    pub(super) key: Option<Vec<u8>>,
    /// The attachment, if the sender asked for the outcome.
    pub(super) attachment: Option<Vec<u8>>,
}

impl Command {
    /// Returns the command as an aggregate takes it.
    pub(super) fn lent(&self) -> types::Command {
        let cause = match &self.causation_id {
            None => types::Cause::First,
            Some(causation_id) => types::Cause::Known(types::Causation {
                correlation_id: self.correlation_id.clone(),
                causation_id: causation_id.clone(),
            }),
        };
        let metadata =
            types::Metadata { id: self.id.clone(), time: self.time_ms, cause, headers: self.headers_or_none() };
        types::Command { name: self.name.clone(), payload: self.payload.clone(), metadata }
    }

    /// Returns the headers as guests take them: none if there are none.
    pub(super) fn headers_or_none(&self) -> Option<Vec<types::Header>> {
        (!self.headers.is_empty()).then(|| self.headers.clone())
    }

    /// Fails if a host would not accept its aggregate id or its name.
    pub(super) fn check(&self) -> Result<(), String> {
        check_id("aggregate id", &self.stream.aggregate_id)?;
        check_id("command name", &self.name)
    }
}

/// Checks a text by the host's rule for ids. `what` names it in the error.
pub(super) fn check_id(what: &str, text: &str) -> Result<(), String> {
    let found = match text.chars().find(|char| char.is_control()) {
        _ if text.is_empty() => "is empty".to_owned(),
        _ if text.len() > ID_BYTES_MAX => format!("has {} bytes", text.len()),
        Some(char) => format!("has the control character {}", char.escape_unicode()),
        None => return Ok(()),
    };
    let shown: String = text.chars().take(40).collect();
    Err(format!(
        "the {what} {shown:?} {found}: it must be 1 to {ID_BYTES_MAX} bytes without control characters (store.id_bytes_max)"
    ))
}

/// What an effect follows from: an event, an outcome, a timer or a response.
#[derive(Clone)]
pub(super) struct Cause {
    pub(super) id: String,
    /// A text that identifies it among everything that its subscription handles.
    pub(super) place: String,
    pub(super) correlation_id: String,
    pub(super) hops: u32,
    pub(super) first_ms: u64,
    /// The key under which outcomes, timers and responses come back.
    pub(super) key: Option<Vec<u8>>,
}

impl Cause {
    pub(super) fn of_event(Recorded { event, hops }: &Recorded) -> Self {
        Self {
            id: event.metadata.id.clone(),
            place: event.position.to_string(),
            correlation_id: crate::Metadata(&event.metadata).correlation_id().to_owned(),
            hops: *hops,
            first_ms: event.first_time,
            key: Some(event.aggregate_id.clone().into_bytes()),
        }
    }

    /// Returns the number of hops of what follows.
    pub(super) fn next_hops(&self) -> u32 {
        self.hops + 1
    }

    /// Returns why the chain of causes must end here, if so.
    pub(super) fn refusal(&self) -> Option<String> {
        (self.next_hops() > HOPS_MAX).then(|| {
            format!(
                "the chain of causes has passed {HOPS_MAX} subscribers, so it is taken for a circle and ends here; find what \
                 it goes through by its correlation id {:?}",
                self.correlation_id
            )
        })
    }

    /// Returns the id of the command or request that a subscription sends. `number` counts the effects of the cause.
    pub(super) fn id_of_effect(&self, subscription: &str, number: usize) -> String {
        format!("{subscription}:{}:{number}", self.place)
    }

    /// Makes the command that a subscription sends. `number` counts the effects of the cause.
    pub(super) fn command(
        &self,
        (subscription, name): (usize, &str),
        number: usize,
        now_ms: u64,
        sent: bus::OutgoingCommand,
    ) -> Command {
        let sender = Sender { subscription, key: self.key.clone(), attachment: sent.outcome };
        Command {
            stream: Stream::new(sent.aggregate_type, sent.aggregate_id),
            name: sent.name,
            payload: sent.payload,
            headers: sent.headers,
            expected: sent.expected_version,
            id: self.id_of_effect(name, number),
            time_ms: now_ms,
            first_ms: self.first_ms,
            correlation_id: self.correlation_id.clone(),
            causation_id: Some(self.id.clone()),
            hops: self.next_hops(),
            sender: Some(sender),
        }
    }

    /// Makes the command whose events a saga records.
    pub(super) fn of_saga(&self, saga: &Stream, now_ms: u64) -> Command {
        Command {
            stream: saga.clone(),
            name: String::new(),
            payload: Vec::new(),
            headers: Vec::new(),
            expected: None,
            id: self.id.clone(),
            time_ms: now_ms,
            first_ms: self.first_ms,
            correlation_id: self.correlation_id.clone(),
            causation_id: Some(self.id.clone()),
            hops: self.next_hops(),
            sender: None,
        }
    }
}
