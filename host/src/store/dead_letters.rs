//! Dead letters: what was dead-lettered, and why.

use super::Error;
use crate::ack::Ack;
use crate::model::*;
use tokio::sync::watch;

/// Keeping dead letters.
pub trait DeadLetters: Send + Sync + 'static {
    /// Dead-letters something and settles it in its ledger, if it has one.
    fn dead_letter(&self, letter: DeadLetter, origin: Option<Origin>, ack: Ack<Result<(), Error>>);

    /// Forgets a dead letter; [`Error::NotFound`] if there is none.
    fn discard_letter(&self, number: u64, ack: Ack<Result<(), Error>>);

    /// Forgets the oldest dead letters of those wanted, and tells how many it forgot.
    fn discard_letters(&self, which: Discard, ack: Ack<Result<u64, Error>>);

    /// Puts the message of a dead letter into the outbox again and forgets the letter, in one transaction.
    fn republish_letter(&self, number: u64, ack: Ack<Result<(), Error>>);

    /// Keeps why a dead letter could not be handled this time either, in place of the reason before.
    fn explain_letter(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>);

    /// Wakes its holder when there may be new dead letters: the number of the newest. No number is used twice.
    fn letters_head(&self) -> watch::Receiver<u64>;
}

/// Reading dead letters.
pub trait DeadLetterReader: Send {
    /// What was dead-lettered after a number, oldest first, at most `limit`.
    fn dead_letters_after(&mut self, after: u64, limit: usize) -> Result<Vec<KeptLetter>, Error>;

    /// What was dead-lettered, newest first, and how many there are of the consumer in all.
    ///
    /// The first number is 1, later letters have greater ones, and none is ever given twice.
    fn dead_letters(&mut self, wanted: &Letters<'_>) -> Result<(Vec<KeptLetter>, u64), Error>;

    /// One dead letter; `None` if it was tried again or discarded, or never was.
    fn dead_letter(&mut self, number: u64) -> Result<Option<KeptLetter>, Error>;
}

/// The origin of a command that tries a dead letter again. See [`LedgerName::DeadLetters`].
pub fn letter_origin(number: u64) -> Origin {
    Origin { ledger: LedgerName::DeadLetters.to_string().into(), first: number, last: number }
}

/// Which dead letters are discarded together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Of this source or subscription alone.
    pub consumer: Option<String>,
    /// Up to the letter of this number.
    pub last: u64,
    /// At most so many.
    pub limit: u64,
}

/// Which dead letters are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters<'a> {
    /// Of this source or subscription alone.
    pub consumer: Option<&'a str>,
    /// Only those dead-lettered before the letter of this number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: usize,
}

impl Letters<'_> {
    /// The newest of all consumers.
    pub fn newest(limit: usize) -> Self {
        Self { consumer: None, before: None, limit }
    }
}
