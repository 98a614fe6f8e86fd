//! The requests to the writer, and their answers.

use super::administration::AdminRequest;
use super::{Error, appends};
use crate::ack::Ack;
use crate::model::{Command, DeadLetter, HttpRequest, KeptRequest, Message, Origin};
use crate::store::{
    Advanced, Append, Appended, AttemptEnd, CallbackChange, Chain, Decision, Discard, InterruptedOf, SagaAppend, Step,
};
use std::sync::Arc;

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
        let fingerprint = append.command.durable_id.then(|| appends::fingerprint(&append.command));
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
