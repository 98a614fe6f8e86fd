//! The simplest possible store: nothing is durable, nothing is fast.

use crate::store_conformance::requests::*;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use wasmill::model::*;
use wasmill::store::*;

/// Outcomes of the commands whose senders chose the id. A position is filled in when the store has answered it.
pub(super) type Outcomes = HashMap<String, (Content, Outcome)>;

#[derive(Default)]
pub(super) struct Model {
    events: Vec<(StreamId, Vec<u8>)>,
    pub(super) ledgers: BTreeMap<String, BTreeSet<u64>>,
    checkpoints: HashMap<String, Checkpoint>,
    pub(super) messages: Vec<Message>,
    pub(super) published: u64,
    /// The numbers of the present dead letters, and the newest number that was given.
    letters: BTreeSet<u64>,
    pub(super) newest_dead_letter: u64,
    archived: BTreeSet<StreamId>,
    /// Numbers of accepted, rejected and malformed commands, by aggregate type and command.
    tallies: BTreeMap<(String, String), [u64; 3]>,
    pub(super) outcomes: Rc<RefCell<Outcomes>>,
}

#[derive(Default)]
pub(super) struct Checkpoint {
    /// The checkpoint, which is `None` until the first step.
    pub(super) position: Option<Position>,
    /// All commands that were ever sent, settled or not.
    pub(super) commands: Vec<Command>,
}

/// The content of a command. Two commands with one id are the same if it is equal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Content {
    pub(super) id: String,
    stream: StreamId,
    payload: Vec<u8>,
}

impl Content {
    pub(super) fn of(command: &Command) -> Self {
        Self { id: command.id.to_string(), stream: command.stream.clone(), payload: command.payload.clone() }
    }
}

/// An error, as far as the model predicts it.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    Conflict { actual: Version },
    Settled,
    Repeated { id: String },
    IdReused,
    Moved { actual: u64, expected: u64 },
    Archived,
    NotFound,
    Unforeseen(String),
}

impl Refusal {
    pub(super) fn of(error: Error) -> Self {
        match error {
            Error::Conflict { actual, .. } => Self::Conflict { actual },
            Error::Duplicate { outcome: None, .. } => Self::Settled,
            Error::Duplicate { id, .. } => Self::Repeated { id: id.to_string() },
            Error::IdReused { .. } => Self::IdReused,
            Error::CheckpointMoved { actual, expected, .. } => Self::Moved { actual, expected },
            Error::Archived { .. } => Self::Archived,
            Error::NotFound(_) => Self::NotFound,
            other => Self::Unforeseen(other.to_string()),
        }
    }
}

/// The answer to an append, as far as the model predicts it: the version, if the append had events.
pub(super) struct Predicted(Result<Option<Version>, Refusal>);

impl Predicted {
    pub(super) fn compare(self, answer: Result<Appended, Error>, outcomes: &Outcomes) {
        if let Err(Error::Duplicate { id, outcome: Some(remembered) }) = &answer {
            assert_eq!(*remembered.outcome, outcomes[&**id].1);
        }
        match (answer, self.0) {
            (Ok(appended), Ok(version)) => assert!(version.is_none_or(|version| version == appended.version)),
            (answer, predicted) => assert_eq!(answer.map(drop).map_err(Refusal::of), predicted.map(drop)),
        }
    }
}

impl Model {
    pub(super) fn version(&self, stream: &StreamId) -> u64 {
        self.events.iter().filter(|(of, _)| of == stream).count() as u64
    }

    pub(super) fn checkpoint(&mut self, subscription: &str) -> &mut Checkpoint {
        self.checkpoints.entry(subscription.to_owned()).or_default()
    }

    pub(super) fn append(&mut self, command: &Command, expected: ExpectedVersion, decision: &Decision) -> Predicted {
        Predicted(self.decide(command, expected, decision))
    }

    fn decide(
        &mut self,
        command: &Command,
        expected: ExpectedVersion,
        decision: &Decision,
    ) -> Result<Option<Version>, Refusal> {
        let content = Content::of(command);
        if command.origin.as_ref().is_some_and(|origin| self.is_settled(origin)) {
            return Err(Refusal::Settled);
        }
        if let Some((earlier, _)) = self.outcomes.borrow().get(&content.id).filter(|_| command.durable_id) {
            return Err(if *earlier == content { Refusal::Repeated { id: content.id } } else { Refusal::IdReused });
        }
        let actual = Version(self.version(&command.stream));
        let (ended, version, outcome) = match decision {
            Decision::Events(_) if self.archived.contains(&command.stream) => return Err(Refusal::Archived),
            _ if !expected.allows(actual) => return Err(Refusal::Conflict { actual }),
            Decision::Events(events) => {
                self.events.extend(events.iter().map(|event| (command.stream.clone(), event.payload.clone())));
                let version = Version(actual.0 + events.len() as u64);
                let events = events.len() as u32;
                (0, Some(version), Outcome::Accepted { version, position: Position(0), events })
            }
            Decision::Rejected(reason) => (1, None, Outcome::Rejected { reason: reason.clone() }),
            Decision::Undecided(undecided) => unreachable!("no history has {undecided:?}"),
            Decision::Malformed(reason) => {
                match &command.origin {
                    Some(origin) if !LedgerName::is_of_dead_letters(&origin.ledger) => self.add_dead_letters(1),
                    _ => {}
                }
                (2, None, Outcome::Malformed { reason: reason.clone() })
            }
        };
        self.tallies.entry((command.stream.aggregate_type.to_string(), command.name.to_string())).or_default()
            [ended] += 1;
        match &command.origin {
            Some(origin) if !LedgerName::is_of_dead_letters(&origin.ledger) => {
                self.ledgers.entry(origin.ledger.to_string()).or_default().extend(origin.first..=origin.last);
            }
            Some(origin) if ended != 2 => drop(self.letters.remove(&origin.last)),
            _ => {}
        }
        if command.durable_id {
            self.outcomes.borrow_mut().insert(content.id.clone(), (content, outcome));
        }
        Ok(version)
    }

    pub(super) fn dead_letter(&mut self, _letter: DeadLetter, origin: Option<&Origin>) {
        if let Some(origin) = origin {
            if self.is_settled(origin) {
                return;
            }
            self.ledgers.entry(origin.ledger.to_string()).or_default().extend(origin.first..=origin.last);
        }
        self.add_dead_letters(1);
    }

    fn add_dead_letters(&mut self, count: u64) {
        self.letters.extend(self.newest_dead_letter + 1..=self.newest_dead_letter + count);
        self.newest_dead_letter += count;
    }

    pub(super) fn discard(&mut self, number: u64) -> Result<(), Refusal> {
        if self.letters.remove(&number) { Ok(()) } else { Err(Refusal::NotFound) }
    }

    /// Archives or restores a stream.
    pub(super) fn archive(&mut self, stream: &StreamId, archived: bool) -> Result<(), Refusal> {
        match (self.version(stream), archived) {
            (0, _) => return Err(Refusal::NotFound),
            (_, true) => self.archived.insert(stream.clone()),
            (_, false) => self.archived.remove(stream),
        };
        Ok(())
    }

    pub(super) fn advance(&mut self, progress: &Step) -> Result<Vec<Command>, Refusal> {
        let checkpoint = self.checkpoint(&progress.subscription);
        let actual = checkpoint.position.unwrap_or_default();
        let Reached::Events { from, to } = progress.reached else { panic!("histories step over events alone") };
        if actual != from {
            return Err(Refusal::Moved { actual: actual.0, expected: from.0 });
        }
        checkpoint.position = Some(to);
        let ledger = format!("subscription/{}", progress.subscription);
        let sent = checkpoint.commands.len() as u64;
        let commands: Vec<Command> = (sent..)
            .zip(&progress.commands)
            .map(|(number, command)| Command { origin: Some(origin(&ledger, number, number)), ..command.clone() })
            .collect();
        checkpoint.commands.extend(commands.iter().cloned());
        self.messages.extend(progress.messages.iter().cloned());
        self.add_dead_letters(progress.dead_letters.len() as u64);
        Ok(commands)
    }

    fn is_settled(&self, origin: &Origin) -> bool {
        if LedgerName::is_of_dead_letters(&origin.ledger) {
            return !self.letters.contains(&origin.last);
        }
        self.ledgers.get(&*origin.ledger).is_some_and(|settled| settled.contains(&origin.last))
    }

    /// Checks that everything that a store shows is what the model has.
    pub(super) fn compare(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let events = all_events(store);
        assert!(events.iter().map(|event| (&event.stream, &event.payload)).eq(self.events.iter().map(|(s, p)| (s, p))));
        for stream in events.iter().map(|event| &event.stream).collect::<BTreeSet<_>>() {
            let expected: Vec<_> = events.iter().filter(|event| event.stream == *stream).cloned().collect();
            assert_eq!(whole_stream(&mut *reader, stream), expected);
        }
        for (name, settled) in &self.ledgers {
            let mut expected = Ledger::default();
            settled.iter().for_each(|number| expected.settle(*number, *number));
            assert_eq!(reader.ledger(name).unwrap(), expected, "{name}");
        }
        for (subscription, checkpoint) in &self.checkpoints {
            assert_eq!(reader.checkpoint(subscription).unwrap(), checkpoint.position, "{subscription}");
            let open = |command: &&Command| !self.is_settled(command.origin.as_ref().unwrap());
            let expected: Vec<_> = checkpoint.commands.iter().filter(open).cloned().collect();
            assert_eq!(reader.pending_commands(subscription).unwrap(), expected, "{subscription}");
        }
        let messages = (1..).zip(self.messages.iter().cloned()).skip(self.published as usize);
        assert_eq!(reader.messages(self.published, usize::MAX).unwrap(), messages.collect::<Vec<_>>());
        assert_eq!(*store.outbox_head().borrow(), self.messages.len() as u64);
        assert_eq!(reader.sink_position("kafka").unwrap().unwrap_or_default(), self.published);
        let (letters, total) = reader.dead_letters(&DeadLetterQuery::newest(usize::MAX)).unwrap();
        assert!(letters.iter().map(|kept| &kept.number).eq(self.letters.iter().rev()), "{letters:?}");
        assert_eq!(total, self.letters.len() as u64);
        assert_eq!(*store.dead_letters_head().borrow(), self.newest_dead_letter);
        for stream in events.iter().map(|event| &event.stream) {
            assert_eq!(reader.is_archived(stream).unwrap(), self.archived.contains(stream), "{stream}");
        }
        let tallies = self.tallies.iter().map(|((aggregate_type, command), [accepted, rejected, malformed])| Tally {
            aggregate_type: aggregate_type.clone(),
            command: command.clone(),
            accepted: *accepted,
            rejected: *rejected,
            malformed: *malformed,
        });
        assert_eq!(reader.tallies().unwrap(), tallies.collect::<Vec<_>>());
    }
}
