//! The requests to the writer of a store, their answers, and the rules for them that need no database.

use super::fault::{self, FaultPoint};
use super::{
    Advanced, Append, Appended, AttemptEnd, CallbackChange, Chain, Decision, Discard, Error, InterruptedOf, Part,
    SagaAppend, SharingChange, Step,
};
use crate::ack::Ack;
use crate::bell;
use crate::model::{
    Callback, CallbackContent, Command, DeadLetter, Ending, ExpectedVersion, HttpRequest, KeptRequest, LedgerName,
    Message, Origin, OutcomeRequest, OutcomeUse, Position, RecordedEvent, StreamId, Version,
};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

/// A change that a person requests.
pub(super) enum AdminRequest {
    /// Discard a dead letter.
    Discard(u64),
    /// Publish the message of a dead letter again, or send its HTTP request again.
    Republish(u64),
    /// Replace the reason of a dead letter after a retry failed.
    Explain(u64, String),
    /// Archive a stream.
    Archive(StreamId),
    /// Restore an archived stream.
    Restore(StreamId),
    /// Move the places of parts to other names.
    CarryOver(Vec<(Part, String)>),
    /// Remove the place of a part.
    Forget(Part),
    /// Divide the subscription of a plugin into this many segments. Those that take over nothing begin at the position.
    Divide(Arc<str>, u32, Position),
    /// Begin a ledger at a number, unless there is one.
    BeginLedger(Arc<str>, u64),
    /// Let a ledger resume at a number.
    ResetLedger(Arc<str>, u64),
    /// Keep or remove a fact.
    SetFact(String, Option<String>),
    /// Keep a fact, unless there is one.
    KeepFirstFact(String, String),
    /// Cancel a timer.
    CancelTimer(u64),
    /// End an HTTP request that can't be sent.
    RefuseRequest(u64, String),
    /// Give up an HTTP request.
    GiveUpRequest(u64, String),
    /// Change what the store keeps of this host.
    Share(SharingChange),
}

/// A request to the writer.
pub(super) enum WriteRequest {
    Append { append: Box<Append>, fingerprint: Option<[u8; 16]>, bytes: usize, ack: Ack<Result<Appended, Error>> },
    Advance { step: Box<Step>, bytes: usize, ack: Ack<Result<Advanced, Error>> },
    Published { sink: String, from: u64, to: u64, refused: Vec<DeadLetter>, ack: Ack<Result<(), Error>> },
    DeadLetter(Box<DeadLetter>, Option<Origin>, Ack<Result<(), Error>>),
    StartLedger { ledger: Arc<str>, next: u64, ack: Ack<Result<(), Error>> },
    DiscardMany(Discard, Ack<Result<u64, Error>>),
    BeginAttempt(u64, Ack<Result<u32, Error>>),
    EndAttempt(u64, Box<AttemptEnd>, Ack<Result<(), Error>>),
    InterruptAttempts(InterruptedOf, Ack<Result<Vec<KeptRequest>, Error>>),
    Administer(AdminRequest, Ack<Result<(), Error>>),
}

impl WriteRequest {
    /// Makes an append. The command is hashed here, on the caller's thread.
    pub(super) fn append(append: Append, ack: Ack<Result<Appended, Error>>) -> Self {
        let fingerprint = append.command.durable_id.then(|| fingerprint(&append.command));
        let bytes = match &append.decision {
            Decision::Events(events) => events.iter().map(|event| event.payload.len()).sum(),
            Decision::Rejected(_) | Decision::Malformed(_) | Decision::Undecided(_) => 0,
        };
        Self::Append { append: Box::new(append), fingerprint, bytes, ack }
    }

    pub(super) fn advance(step: Step, ack: Ack<Result<Advanced, Error>>) -> Self {
        let commands: usize = step.commands.iter().map(Command::size).sum();
        let messages: usize = step.messages.iter().map(Message::size).sum();
        let sagas: usize = step.sagas.iter().map(SagaAppend::size).sum();
        let callbacks: usize = step.callbacks.iter().map(CallbackChange::size).sum();
        let requests: usize = step.requests.iter().map(HttpRequest::size).sum();
        Self::Advance { step: Box::new(step), bytes: commands + messages + sagas + callbacks + requests, ack }
    }

    /// Returns the bytes of the content that a sender does not limit by itself.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append { bytes, .. } | Self::Advance { bytes, .. } => *bytes,
            _ => 0,
        }
    }

    /// Answers a request with an error, without handling it.
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Append { append, ack, .. } => {
                break_off(append.chain.as_ref());
                ack.give(Err(error));
            }
            Self::Advance { ack, .. } => ack.give(Err(error)),
            Self::DiscardMany(_, ack) => ack.give(Err(error)),
            Self::BeginAttempt(_, ack) => ack.give(Err(error)),
            Self::InterruptAttempts(_, ack) => ack.give(Err(error)),
            Self::Published { ack, .. }
            | Self::DeadLetter(_, _, ack)
            | Self::StartLedger { ack, .. }
            | Self::EndAttempt(_, _, ack)
            | Self::Administer(_, ack) => {
                ack.give(Err(error));
            }
        }
    }
}

fn break_off(chain: Option<&Chain>) {
    if let Some(chain) = chain {
        chain.break_off();
    }
}

/// An answer that waits for the commit.
pub(super) enum PendingAnswer {
    Append(Ack<Result<Appended, Error>>, Option<Chain>, Result<Appended, Error>),
    Advance(Ack<Result<Advanced, Error>>, Result<Advanced, Error>),
    Count(Ack<Result<u64, Error>>, Result<u64, Error>),
    Attempts(Ack<Result<u32, Error>>, Result<u32, Error>),
    Requests(Ack<Result<Vec<KeptRequest>, Error>>, Result<Vec<KeptRequest>, Error>),
    Unit(Ack<Result<(), Error>>, Result<(), Error>),
}

impl PendingAnswer {
    /// Makes the answer to an append. If it failed, its chain is broken at once: the next append may be of the same chain.
    pub(super) fn append(
        ack: Ack<Result<Appended, Error>>,
        chain: Option<Chain>,
        result: Result<Appended, Error>,
    ) -> Self {
        if result.is_err() {
            break_off(chain.as_ref());
        }
        Self::Append(ack, chain, result)
    }

    pub(super) fn deliver(self) {
        match self {
            Self::Append(ack, _, result) => ack.give(result),
            Self::Advance(ack, result) => ack.give(result),
            Self::Count(ack, result) => ack.give(result),
            Self::Attempts(ack, result) => ack.give(result),
            Self::Requests(ack, result) => ack.give(result),
            Self::Unit(ack, result) => ack.give(result),
        }
    }

    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Append(ack, chain, _) => {
                break_off(chain.as_ref());
                ack.give(Err(error));
            }
            Self::Advance(ack, _) => ack.give(Err(error)),
            Self::Count(ack, _) => ack.give(Err(error)),
            Self::Attempts(ack, _) => ack.give(Err(error)),
            Self::Requests(ack, _) => ack.give(Err(error)),
            Self::Unit(ack, _) => ack.give(Err(error)),
        }
    }
}

/// Delivers the answers of a committed transaction, and then wakes those who wait for them.
pub(super) fn deliver_all(answers: Vec<PendingAnswer>) {
    bell::together(|| {
        for answer in answers {
            answer.deliver();
            fault::at(FaultPoint::Answered);
        }
    });
    fault::at(FaultPoint::AllAnswered);
}

/// Hashes a command. The hash tells different commands with the same id apart.
pub(super) fn fingerprint(command: &Command) -> [u8; 16] {
    let mut hash = Sha256::new();
    for part in [
        command.stream.aggregate_type.as_bytes(),
        command.stream.aggregate_id.as_bytes(),
        command.name.as_bytes(),
        &command.payload,
    ] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&hash.finalize()[..16]);
    fingerprint
}

/// Returns the version of the stream, or fails if the decision was made on another version.
pub(super) fn refuse_unexpected(command: &Command, expected: ExpectedVersion, actual: u64) -> Result<Version, Error> {
    let actual = Version(actual);
    if expected.allows(actual) {
        Ok(actual)
    } else {
        Err(Error::Conflict { stream: command.stream.clone(), actual, expected })
    }
}

/// Makes the event in the form that readers get.
pub(super) fn recorded(
    command: &Command,
    position: u64,
    version: u64,
    id: uuid::Uuid,
    name: Arc<str>,
    payload: Vec<u8>,
) -> RecordedEvent {
    RecordedEvent {
        id,
        position: Position(position),
        stream: command.stream.clone(),
        version: Version(version),
        name,
        payload,
        time_ms: command.time_ms,
        first_ms: command.first_ms,
        correlation_id: command.correlation_id.clone(),
        causation_id: command.id.clone(),
        hops: command.hops,
        headers: command.headers.clone(),
    }
}

/// Makes the dead letter of a command with an origin. Its place comes from the name of the ledger.
pub(super) fn dead_letter_of(command: &Command, reason: &str) -> DeadLetter {
    let (consumer, place) = match &command.origin {
        Some(origin) => (origin.consumer().to_owned(), origin.place()),
        None => (String::new(), String::new()),
    };
    let reason = format!("command {} to {}: {reason}", command.name, command.stream);
    DeadLetter::of_command(consumer, place, reason, command.clone())
}

/// Refuses a position past the end, because its owner would skip what comes next.
pub(super) fn refuse_beyond(what: &str, to: u64, end: u64) -> Result<(), Error> {
    if to <= end { Ok(()) } else { Err(Error::Invalid(format!("{what} can't move to {to}: the store ends at {end}"))) }
}

/// Separates refusals, which affect one request, from failures of the database, which affect the transaction.
pub(super) fn split<T>(result: Result<T, Error>) -> (Result<T, Error>, Option<Error>) {
    match result {
        Err(error @ (Error::Failed(_) | Error::Lost { .. } | Error::Closed)) => (Err(error.clone()), Some(error)),
        other => (other, None),
    }
}

/// Makes the callback that tells a subscription how its command ended, if it asked for that.
pub(super) fn outcome_callback(command: &Command, ending: Ending) -> Option<(String, Callback)> {
    let (subscription, request) = asker(command)?;
    let callback = Callback {
        key: request.key.clone(),
        correlation_id: command.correlation_id.clone(),
        causation_id: command.id.clone(),
        hops: command.hops,
        first_ms: command.first_ms.unwrap_or(command.time_ms),
        headers: crate::trace::context(&command.headers),
        content: CallbackContent::Outcome {
            stream: command.stream.clone(),
            name: command.name.clone(),
            ending,
            attachment: request.attachment.clone(),
        },
    };
    Some((subscription, callback))
}

/// Returns the subscription that asked for the outcome of a command, with its request.
fn asker(command: &Command) -> Option<(String, &OutcomeRequest)> {
    let OutcomeUse::Delivered(request) = &command.outcome_use else { return None };
    let Origin { ledger, .. } = command.origin.as_ref()?;
    match LedgerName::parse(ledger)? {
        LedgerName::Commands(subscription) => Some((subscription.to_string(), request)),
        _ => None,
    }
}
