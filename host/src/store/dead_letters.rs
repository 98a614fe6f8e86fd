//! Dead letters: the items that could not be handled, with the reasons.

use super::Error;
use crate::ack::Ack;
use crate::model::*;
use tokio::sync::watch;

/// The writing side of dead letters.
pub trait DeadLetters: Send + Sync + 'static {
    /// Dead-letters an item and settles it in its ledger, if it has one.
    fn dead_letter(&self, letter: DeadLetter, origin: Option<Origin>, ack: Ack<Result<(), Error>>);

    /// Discards a dead letter. Fails with [`Error::NotFound`] if there is none with this number.
    fn discard_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>);

    /// Discards the oldest of the selected dead letters, and returns their number.
    fn discard_dead_letters(&self, which: Discard, ack: Ack<Result<u64, Error>>);

    /// Puts the message of a dead letter into the outbox again, or its HTTP request among those to send, and removes the letter, in
    /// one transaction. The request keeps its id and the number of its attempts.
    fn republish_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>);

    /// Replaces the reason of a dead letter after a retry failed.
    fn explain_dead_letter(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>);

    /// Watches the number of the newest dead letter, to wake those who wait for new ones. No number is used twice.
    fn dead_letters_head(&self) -> watch::Receiver<u64>;
}

/// The reading side of dead letters.
pub trait DeadLetterReader: Send {
    /// Returns at most `limit` dead letters after a number, oldest first.
    fn dead_letters_after(&mut self, after: u64, limit: usize) -> Result<Vec<KeptDeadLetter>, Error>;

    /// Returns dead letters, newest first, and the total number of the consumer's dead letters.
    ///
    /// The first letter has number 1, later letters have greater numbers, and no number is used twice.
    fn dead_letters(&mut self, wanted: &DeadLetterQuery<'_>) -> Result<(Vec<KeptDeadLetter>, u64), Error>;

    /// Returns one dead letter, or `None` if it was retried or discarded, or never existed.
    fn dead_letter(&mut self, number: u64) -> Result<Option<KeptDeadLetter>, Error>;
}

/// Makes the origin of a command that retries a dead letter. See [`LedgerName::DeadLetters`].
pub fn dead_letter_origin(number: u64) -> Origin {
    Origin { ledger: LedgerName::DeadLetters.to_string().into(), first: number, last: number }
}

/// A selection of dead letters to discard together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discard {
    /// The source or subscription whose letters are selected. `None` selects those of all.
    pub consumer: Option<String>,
    /// The greatest number.
    pub last: u64,
    /// The most letters.
    pub limit: u64,
}

/// A selection of dead letters to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterQuery<'a> {
    /// The source or subscription whose letters are selected. `None` selects those of all.
    pub consumer: Option<&'a str>,
    /// A number that all selected letters are below, if given.
    pub before: Option<u64>,
    /// The most letters.
    pub limit: usize,
}

impl DeadLetterQuery<'_> {
    /// Selects the newest letters of all consumers.
    pub fn newest(limit: usize) -> Self {
        Self { consumer: None, before: None, limit }
    }
}
