//! Random histories, with requests in flight together and reopenings of the store, compared with a model.
//!
//! The model is what the trait promises, in the simplest form: sets and lists. A store takes requests in the order in
//! which they are sent, so the model knows each answer before the store gives it.

mod model;

use super::Place;
use super::requests::*;
use model::{Content, Model};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use wasmill::ack::Ack;
use wasmill::model::*;
use wasmill::store::*;

const CASES: u32 = 60;
/// Largest number of attempts to shrink a failing history.
const SHRINKS: u32 = 300;
const STREAMS: u8 = 3;
const LEDGERS: [&str; 2] = ["kafka/baskets/baskets/0", "elsewhere/0"];
const SUBSCRIPTIONS: [&str; 2] = ["warehouse", "notifier"];

/// A request to a store, or another event in its history.
#[derive(Clone, Debug)]
enum Act {
    Append {
        stream: u8,
        expects: Expects,
        decides: Decides,
        unique: Unique,
    },
    Advance {
        subscription: usize,
        stale: bool,
        by: u64,
        commands: u8,
        messages: u8,
        letters: u8,
    },
    /// Processes a command that a subscription has sent, and that may be settled already.
    Settle {
        subscription: usize,
        nth: usize,
        decides: Decides,
    },
    DeadLetter {
        number: Option<(usize, u64)>,
    },
    /// Retries a dead letter, which may be gone or may never have existed.
    Replay {
        nth: u64,
        decides: Decides,
    },
    Discard {
        nth: u64,
    },
    Archive {
        stream: u8,
        archived: bool,
    },
    Publish {
        stale: bool,
        by: u64,
    },
    StartLedger {
        ledger: usize,
        next: u64,
    },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Expects {
    Right,
    Wrong,
    NoStream,
    StreamExists,
    Any,
}

#[derive(Clone, Copy, Debug)]
enum Decides {
    Events(usize),
    Rejected,
    Malformed,
}

/// The means by which repeating a command is harmless.
#[derive(Clone, Copy, Debug)]
enum Unique {
    Nothing,
    Id { id: u8, payload: u8 },
    Origin { ledger: usize, number: u64, gap: u64 },
}

fn act() -> impl Strategy<Value = Act> {
    let numbers = || 0..14u64;
    let expects = prop_oneof![
        4 => Just(Expects::Right), 1 => Just(Expects::Wrong), 1 => Just(Expects::NoStream),
        1 => Just(Expects::StreamExists), 2 => Just(Expects::Any)
    ];
    let unique = prop_oneof![
        2 => Just(Unique::Nothing),
        2 => (0..6u8, 0..8u8).prop_map(|(id, other)| Unique::Id { id, payload: u8::from(other == 0) }),
        3 => (0..2usize, numbers(), 0..3u64).prop_map(|(ledger, number, gap)| Unique::Origin { ledger, number, gap }),
    ];
    let append = (0..STREAMS, expects, decides(), unique).prop_map(|(stream, expects, decides, unique)| Act::Append {
        stream,
        expects,
        decides,
        unique,
    });
    let advance = (0..2usize, prop::bool::weighted(0.2), 0..4u64, 0..4u8, 0..4u8, 0..2u8).prop_map(
        |(subscription, stale, by, commands, messages, letters)| Act::Advance {
            subscription,
            stale,
            by,
            commands,
            messages,
            letters,
        },
    );
    prop_oneof![
        10 => append,
        4 => advance,
        4 => (0..2usize, any::<usize>(), decides())
            .prop_map(|(subscription, nth, decides)| Act::Settle { subscription, nth, decides }),
        1 => prop::option::of((0..2usize, numbers())).prop_map(|number| Act::DeadLetter { number }),
        2 => (any::<u64>(), decides()).prop_map(|(nth, decides)| Act::Replay { nth, decides }),
        1 => any::<u64>().prop_map(|nth| Act::Discard { nth }),
        1 => (0..STREAMS, prop::bool::weighted(0.4)).prop_map(|(stream, archived)| Act::Archive { stream, archived }),
        2 => (prop::bool::weighted(0.2), 0..4u64).prop_map(|(stale, by)| Act::Publish { stale, by }),
        1 => (0..2usize, numbers()).prop_map(|(ledger, next)| Act::StartLedger { ledger, next }),
        1 => Just(Act::Reopen),
    ]
}

fn decides() -> impl Strategy<Value = Decides> {
    prop_oneof![6 => (0..4usize).prop_map(Decides::Events), 1 => Just(Decides::Rejected), 1 => Just(Decides::Malformed)]
}

/// Checks that every answer and every view is that of the model.
pub fn any_history_ends_as_the_model_says<P: Place>() {
    let config = Config { cases: CASES, failure_persistence: None, max_shrink_iters: SHRINKS, ..Config::default() };
    let histories = prop::collection::vec(act(), 1..80);
    let run = |history: Vec<Act>| {
        let place = P::new();
        let mut play = Play { store: place.open(), model: Model::default(), answers: Vec::new(), known: Position(0) };
        for act in history {
            if let Act::Reopen = act {
                play.settle();
                play.store.close();
                play.store = place.open();
                play.model.compare(&*play.store);
            } else {
                play.act(act);
            }
        }
        play.settle();
        play.model.compare(&*play.store);
        play.store.close();
        Ok(())
    };
    if let Err(failure) = TestRunner::new(config).run(&histories, run) {
        panic!("{failure}");
    }
}

struct Play {
    store: Arc<dyn EventStore>,
    model: Model,
    /// Comparisons of the answers that are still to come.
    answers: Vec<Box<dyn FnOnce()>>,
    /// The newest position of an answer.
    known: Position,
}

impl Play {
    /// Waits for all answers and compares them.
    fn settle(&mut self) {
        self.answers.drain(..).for_each(|compare| compare());
        self.known = *self.store.head().borrow();
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Append { stream, expects, decides, unique } => self.append(stream, expects, decides, unique),
            Act::Advance { subscription, stale, by, commands, messages, letters } => {
                self.advance(SUBSCRIPTIONS[subscription], stale, by, [commands, messages, letters]);
            }
            Act::Settle { subscription, nth, decides } => {
                let sent = &self.model.checkpoint(SUBSCRIPTIONS[subscription]).commands;
                if !sent.is_empty() {
                    let command = sent[nth % sent.len()].clone();
                    self.send(command, ExpectedVersion::Any, decides);
                }
            }
            Act::DeadLetter { number } => {
                let origin = number.map(|(ledger, number)| origin(LEDGERS[ledger], number, number));
                self.model.dead_letter(letter("dead-lettered"), origin.as_ref());
                self.expect(|store, done| store.dead_letter(letter("dead-lettered"), origin, done), Ok(()));
            }
            Act::Replay { nth, decides } => {
                let origin = dead_letter_origin(self.letter(nth));
                let command = Command { origin: Some(origin), ..command(&order(nth % 2), "again") };
                self.send(command, ExpectedVersion::Any, decides);
            }
            Act::Discard { nth } => {
                let number = self.letter(nth);
                let answer = self.model.discard(number);
                self.expect(|store, done| store.discard_dead_letter(number, done), answer);
            }
            Act::Archive { stream, archived } => {
                let stream = order(stream);
                let answer = self.model.archive(&stream, archived);
                let request = |store: &dyn EventStore, done| match archived {
                    true => store.archive(stream, done),
                    false => store.restore(stream, done),
                };
                self.expect(request, answer);
            }
            Act::Publish { stale, by } => {
                let actual = self.model.published;
                let (from, to) = (actual + u64::from(stale), (actual + by).min(self.model.messages.len() as u64));
                let answer = if stale { Err(model::Refusal::Moved { actual, expected: from }) } else { Ok(()) };
                self.model.published = if stale { actual } else { to };
                self.expect(|store, done| store.published("kafka", from, to, Vec::new(), done), answer);
            }
            Act::StartLedger { ledger, next } => {
                self.model.ledgers.entry(LEDGERS[ledger].to_owned()).or_default().extend(0..next);
                self.expect(|store, done| store.start_ledger(LEDGERS[ledger], next, done), Ok(()));
            }
            Act::Reopen => unreachable!("the history's owner has the place"),
        }
    }

    /// Returns a number that a dead letter had once, or that the next one will have.
    fn letter(&self, nth: u64) -> u64 {
        1 + nth % (self.model.newest_dead_letter + 1)
    }

    fn append(&mut self, stream: u8, expects: Expects, decides: Decides, unique: Unique) {
        let stream = order(stream);
        let version = self.model.version(&stream);
        let expected = match expects {
            Expects::Right => ExpectedVersion::Exact(Version(version)),
            Expects::Wrong => ExpectedVersion::Exact(Version(version + 1)),
            Expects::NoStream => ExpectedVersion::NoStream,
            Expects::StreamExists => ExpectedVersion::StreamExists,
            Expects::Any => ExpectedVersion::Any,
        };
        let command = match unique {
            Unique::Nothing => command(&stream, "free"),
            Unique::Id { id, payload } => Command { payload: vec![payload], ..durable(&stream, &format!("id-{id}")) },
            Unique::Origin { ledger, number, gap } => Command {
                origin: Some(origin(LEDGERS[ledger], number.saturating_sub(gap), number)),
                ..command(&stream, "numbered")
            },
        };
        self.send(command, expected, decides);
    }

    fn send(&mut self, command: Command, expected: ExpectedVersion, decides: Decides) {
        let reason = || "because".to_owned();
        let decision = match decides {
            Decides::Events(count) => happened(count),
            Decides::Rejected => Decision::Rejected(reason()),
            Decides::Malformed => Decision::Malformed(reason()),
        };
        let content = Content::of(&command);
        let predicted = self.model.append(&command, expected, &decision);
        let outcomes = self.model.outcomes.clone();
        let durable = command.durable_id;
        let pending = ask_append(&*self.store, command, expected, decision);
        self.answers.push(Box::new(move || {
            let answer = pending.answer();
            if let (true, Ok(appended)) = (durable, &answer) {
                remember(&outcomes, &content, appended.position);
            }
            predicted.compare(answer, &outcomes.borrow());
        }));
    }

    fn advance(&mut self, subscription: &'static str, stale: bool, by: u64, [commands, messages, letters]: [u8; 3]) {
        let actual = self.model.checkpoint(subscription).position.unwrap_or_default().0;
        let progress = Step {
            commands: (0..commands).map(|n| command(&order(n), "sent")).collect(),
            messages: (0..messages).map(|n| message(&n.to_string())).collect(),
            dead_letters: (0..letters).map(|n| letter(&n.to_string())).collect(),
            ..step(subscription, Position(actual + u64::from(stale)), Position((actual + by).min(self.known.0)))
        };
        let predicted = self.model.advance(&progress);
        let pending = ask(|done| self.store.advance(progress, done));
        self.answers.push(Box::new(move || {
            let answer = pending.answer().map(|advanced| advanced.commands);
            assert_eq!(answer.map_err(model::Refusal::of), predicted);
        }));
    }

    fn expect(
        &mut self,
        request: impl FnOnce(&dyn EventStore, Ack<Result<(), Error>>),
        predicted: Result<(), model::Refusal>,
    ) {
        let pending = ask(|done| request(&*self.store, done));
        self.answers.push(Box::new(move || assert_eq!(pending.answer().map_err(model::Refusal::of), predicted)));
    }
}

/// Keeps the position of a store's first answer. The model does not know positions, but the store must always give the
/// same answer.
fn remember(outcomes: &Rc<RefCell<model::Outcomes>>, content: &Content, at: Position) {
    if let Some((_, Outcome::Accepted { position, .. })) = outcomes.borrow_mut().get_mut(&content.id) {
        *position = at;
    }
}
