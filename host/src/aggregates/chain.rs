//! The decisions of one live aggregate whose appends are under way.
//!
//! Each is decided on the state after the one before, which is not durable yet. So they stand or fall together: if an append
//! fails, those after it fail too, and their commands are decided again.

use super::pending_command::PendingCommand;
use crate::model::{Outcome, StreamId, Version};
use crate::store::{self, Appended, Chain};
use std::collections::VecDeque;

/// The largest number of decisions of one aggregate that are not durable.
const CHAIN_MAX: usize = 512;

/// What the sender is told once the decision is durable.
pub(super) enum SenderAnswer {
    /// The command was accepted, with this number of events.
    Accepted(u32),
    /// The command was refused, with this outcome.
    Refused(Outcome),
}

/// The decisions of a live aggregate whose appends are under way.
pub(super) struct Decisions<I> {
    stream: StreamId,
    chain: Chain,
    /// The live aggregate, which has decided on all of them; `None` if none could decide, or an append failed.
    instance: Option<I>,
    /// The version after all of them.
    version: Version,
    /// The version after those that are durable, if there is one with events.
    recorded: Option<Version>,
    /// The number of those that are settled.
    settled: u64,
    /// The others.
    unsettled: VecDeque<Unsettled>,
    /// The number of unsettled decisions at which the aggregate waits.
    length_max: usize,
    /// Whether the aggregate decides on nothing more until they are settled.
    is_closed: bool,
    failed: Option<Box<Unappended>>,
    /// The commands of the decisions after the one that failed.
    undone: VecDeque<PendingCommand>,
}

/// A decision whose append is under way, or the append of one before it is.
struct Unsettled {
    command: PendingCommand,
    answer: SenderAnswer,
    result: Option<Result<Appended, store::Error>>,
}

/// A decision whose append failed.
pub(super) struct Unappended {
    pub(super) command: PendingCommand,
    pub(super) answer: SenderAnswer,
    pub(super) error: store::Error,
}

/// What is left of decisions that are all settled.
pub(super) struct SettledDecisions<I> {
    /// The stream of the aggregate.
    pub(super) stream: StreamId,
    /// The live aggregate.
    pub(super) instance: Option<I>,
    /// The version of the last event that they recorded.
    pub(super) recorded: Option<Version>,
    /// The first one that was not appended.
    pub(super) failed: Option<Box<Unappended>>,
    /// The commands after it, in their order.
    pub(super) undone: VecDeque<PendingCommand>,
}

impl<I> Decisions<I> {
    /// Begins with no decision of a live aggregate, which is at this version.
    pub(super) fn new(stream: StreamId, instance: Option<I>, version: Version) -> Self {
        Self {
            stream,
            chain: Chain::default(),
            instance,
            version,
            recorded: None,
            settled: 0,
            unsettled: VecDeque::with_capacity(1),
            length_max: CHAIN_MAX,
            is_closed: false,
            failed: None,
            undone: VecDeque::new(),
        }
    }

    /// Returns the stream of the aggregate.
    pub(super) fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Returns the chain of their appends.
    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Returns the number of their commands.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len() + self.undone.len() + usize::from(self.failed.is_some())
    }

    /// Returns the live aggregate and the version of its state, if it may decide on another command.
    pub(super) fn open(&self) -> Option<(&I, Version)> {
        let is_open = !self.is_closed && self.failed.is_none() && self.unsettled.len() < self.length_max;
        self.instance.as_ref().filter(|_| is_open).map(|instance| (instance, self.version))
    }

    /// Keeps the aggregate from deciding on more until all are settled.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Lets the aggregate wait for each append, because the last ones failed. With each one that does not fail, it may decide on twice
    /// as many.
    pub(super) fn begin_short(&mut self) {
        self.length_max = 1;
    }

    /// Adds a decision. Returns its number.
    pub(super) fn add(&mut self, command: PendingCommand, answer: SenderAnswer) -> u64 {
        if let SenderAnswer::Accepted(events) = answer {
            self.version.0 += u64::from(events);
        }
        self.unsettled.push_back(Unsettled { command, answer, result: None });
        self.settled + self.unsettled.len() as u64 - 1
    }

    /// Takes the result of the append of a decision. A store may refuse an append while it does not know yet what became of those
    /// before it.
    pub(super) fn take_result(&mut self, number: u64, result: Result<Appended, store::Error>) {
        self.is_closed |= result.is_err();
        if let Some(unsettled) = self.unsettled.get_mut((number - self.settled) as usize) {
            unsettled.result = Some(result);
        }
    }

    /// Settles decisions in their order, until one is durable. Returns its command with the outcome.
    pub(super) fn settle(&mut self) -> Option<(PendingCommand, Outcome)> {
        while let Some(Unsettled { command, answer, result }) =
            self.unsettled.pop_front_if(|first| first.result.is_some())
        {
            self.settled += 1;
            match result? {
                _ if self.failed.is_some() => self.undone.push_back(command),
                Err(error) => self.failed = Some(Unappended { command, answer, error }.into()),
                Ok(Appended { version, position }) => {
                    self.length_max = (2 * self.length_max).min(CHAIN_MAX);
                    let outcome = match answer {
                        SenderAnswer::Accepted(events) => {
                            self.recorded = Some(version);
                            Outcome::Accepted { version, position, events }
                        }
                        SenderAnswer::Refused(outcome) => outcome,
                    };
                    return Some((command, outcome));
                }
            }
        }
        None
    }

    /// Whether all are settled.
    pub(super) fn are_settled(&self) -> bool {
        self.unsettled.is_empty()
    }

    /// Ends them, once all are settled.
    pub(super) fn end(self) -> SettledDecisions<I> {
        let Self { stream, instance, recorded, failed, undone, .. } = self;
        SettledDecisions { stream, instance, recorded, failed, undone }
    }
}
