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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExpectedVersion, Position};

    fn decisions(count: usize) -> Decisions<()> {
        let mut decisions = Decisions::new(StreamId::new("order", "1"), Some(()), Version(3));
        for number in 0..count {
            let added = decisions.add(PendingCommand::example(&number.to_string()), SenderAnswer::Accepted(1));
            assert_eq!(added, number as u64);
        }
        assert_eq!(decisions.open().map(|(_, version)| version), Some(Version(3 + count as u64)));
        decisions
    }

    fn durable(version: u64) -> Result<Appended, store::Error> {
        Ok(Appended { version: Version(version), position: Position(version) })
    }

    fn conflict() -> Result<Appended, store::Error> {
        let (stream, expected) = (StreamId::new("order", "1"), ExpectedVersion::Any);
        Err(store::Error::Conflict { stream, actual: Version(9), expected })
    }

    fn settled(decisions: &mut Decisions<()>) -> Vec<String> {
        std::iter::from_fn(|| decisions.settle()).map(|(command, _)| command.command.name.to_string()).collect()
    }

    #[test]
    fn results_in_any_order_settle_in_the_order_of_the_decisions() {
        let mut decisions = decisions(4);
        decisions.take_result(3, conflict());
        assert!(decisions.open().is_none(), "nothing more is decided on it");
        decisions.take_result(1, durable(5));
        assert!(settled(&mut decisions).is_empty() && !decisions.are_settled());
        decisions.take_result(0, durable(4));
        assert_eq!(settled(&mut decisions), ["0", "1"]);
        decisions.take_result(2, durable(6));
        assert_eq!(settled(&mut decisions), ["2"]);
        assert!(decisions.are_settled());
        let SettledDecisions { recorded, failed, undone, .. } = decisions.end();
        assert_eq!(recorded, Some(Version(6)));
        assert_eq!(&*failed.expect("the last one").command.command.name, "3");
        assert!(undone.is_empty());
    }

    #[test]
    fn what_was_decided_after_a_failed_one_is_undone() {
        let mut decisions = decisions(4);
        for number in [3, 2, 1] {
            decisions.take_result(number, conflict());
        }
        decisions.take_result(0, durable(4));
        assert_eq!(settled(&mut decisions), ["0"]);
        let SettledDecisions { recorded, failed, undone, .. } = decisions.end();
        assert_eq!(recorded, Some(Version(4)));
        assert_eq!(&*failed.expect("one failed").command.command.name, "1");
        assert_eq!(undone.iter().map(|command| &*command.command.name).collect::<Vec<_>>(), ["2", "3"]);
    }
}
