//! Progress: how far subscriptions, sources and sinks are, and what they still have to send.

use super::{Error, Ledger, Part, Place};
use crate::ack::Ack;
use crate::model::*;
use std::sync::Arc;
use tokio::sync::watch;

/// Recording progress.
pub trait Progress: Send + Sync + 'static {
    /// Moves a subscription's checkpoint together with its effects. Blocks while the queue is full.
    fn advance(&self, step: Step, ack: Ack<Result<Advanced, Error>>);

    /// Moves a sink's position, compare-and-set, keeps the dead letters of messages that were refused on the way, and
    /// forgets the messages of the outbox that all its sinks are past: all in one transaction. What a position counts is
    /// said by its name; see [`SinkName`].
    fn published(&self, sink: &str, from: u64, to: u64, refused: Vec<DeadLetter>, ack: Ack<Result<(), Error>>);

    /// Sets where a ledger starts: everything below `next` counts as settled. Does nothing if the ledger is already
    /// further.
    fn start_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>);

    /// Sets where a ledger resumes: everything below `next` counts as settled and nothing else does. What is settled
    /// again takes effect again: for a person to ask for, while nobody works with the ledger.
    fn reset_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>);

    /// Keeps a text under a name, or forgets it, in a transaction of its own. See [`ProgressReader::fact`].
    fn set_fact(&self, name: &str, value: Option<String>, ack: Ack<Result<(), Error>>);

    /// Gives the place that a part has in the store to another name, in one transaction: checkpoints, ledgers, the outbox,
    /// positions, dead letters and facts. Fails if the other name has a place. Before the part is at work.
    fn carry_over(&self, part: &Part, to: &str, ack: Ack<Result<(), Error>>);

    /// Forgets the place that a part has in the store, and what it never sent. Its dead letters stay.
    fn forget(&self, part: &Part, ack: Ack<Result<(), Error>>);

    /// Wakes its holder when there may be new messages in the outbox: the number of the newest.
    fn outbox_head(&self) -> watch::Receiver<u64>;
}

/// Reading progress.
pub trait ProgressReader: Send {
    /// The state of a ledger; a new one starts at 0.
    fn ledger(&mut self, name: &str) -> Result<Ledger, Error>;

    /// All ledgers whose name starts with `prefix`.
    fn ledgers(&mut self, prefix: &str) -> Result<Vec<(String, Ledger)>, Error>;

    /// The checkpoint of a subscription, if it ever had one.
    fn checkpoint(&mut self, subscription: &str) -> Result<Option<Position>, Error>;

    /// The parts that have a place in the store, by kind and name.
    fn places(&mut self) -> Result<Vec<Place>, Error>;

    /// The commands of a subscription that are not settled yet, in order.
    fn pending_commands(&mut self, subscription: &str) -> Result<Vec<Command>, Error>;

    /// Messages of the outbox after a number, in order, at most about `limit`.
    fn messages(&mut self, after: u64, limit: usize) -> Result<Vec<(u64, Message)>, Error>;

    /// The number of the last message that a sink has published; `None` if it never had a position.
    fn sink_position(&mut self, sink: &str) -> Result<Option<u64>, Error>;

    /// A text that was kept under a name. Facts are for checks of identity: what a part remembers of the world outside,
    /// to notice that it became another. [`FactName`] has their names.
    fn fact(&mut self, name: &str) -> Result<Option<String>, Error>;

    /// All facts whose name starts with `prefix`, by name.
    fn facts(&mut self, prefix: &str) -> Result<Vec<(String, String)>, Error>;
}

/// One step of a subscription: all of it or nothing.
#[derive(Debug)]
pub struct Step {
    /// The subscription.
    pub subscription: Arc<str>,
    /// What is done with it.
    pub reached: Reached,
    /// Commands to send; the store numbers them in the ledger `subscription/NAME` and sets their origin.
    pub commands: Vec<Command>,
    /// Messages for the outbox, in order.
    pub messages: Vec<Message>,
    /// What was dead-lettered.
    pub dead_letters: Vec<DeadLetter>,
}

/// What a step of a subscription has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Events up to a position.
    Events {
        /// Its checkpoint as the caller knows it. Another value in the store fails the step.
        from: Position,
        /// Its checkpoint after the step.
        to: Position,
    },
    /// Records, which the step settles in their ledgers. One that is settled already fails the step.
    Records {
        /// The step's number in a row of steps, which begins with 0. A step is only taken directly after the one before
        /// it: when one fails, all that follow it fail, so that no record of a key passes what failed. A new row may
        /// begin at any time.
        number: u64,
        /// The records.
        records: Vec<Origins>,
    },
    /// The dead letter of this number, which the step takes away. Where it is gone the step fails.
    Replayed(u64),
}

/// The answer to a step of a subscription.
#[derive(Debug)]
pub struct Advanced {
    /// The step's commands, now durable and with their origins: ready to be sent.
    pub commands: Vec<Command>,
}
