//! Cases of sagas: given its own events, when an input arrives, then these events and effects, and whether it ends.

use crate::answer::{self, Described, Then};
use crate::delivery::{self, Delivery};
use crate::difference::count;
use crate::effect::{self, Effect, ExpectedEffect};
use crate::event::{Event, NewEvent, RecordedEvent, same_events};
use crate::subscriber::{SKIPPED, is_said};
use crate::suite::{CaseOfFile, Table};
use serde::Deserialize;

/// The key of a saga in a case that does not say it, if the input is no event.
pub const KEY: &str = "test";

/// What came of an input.
pub type Answer = crate::Answer<Handled>;

/// A case of a saga.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name, which says what the case shows.
    pub name: String,
    /// The key of the saga. If it is given, an event must be for this saga.
    pub key: Option<String>,
    /// The events of the saga's own stream. Without events there is no saga yet.
    pub given: Vec<Event>,
    /// The input to decide on.
    pub when: Delivery,
    /// The expected result.
    pub then: Then<Expected>,
}

/// What a saga must do with an input.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// It decides on exactly these events and effects, in this order.
    Decision {
        /// The events of its own stream.
        events: Vec<Event>,
        /// The effects.
        effects: Vec<ExpectedEffect>,
        /// How it ends. Without it the saga goes on.
        end: Option<End>,
    },
    /// It skips the event, because it does not know it.
    Skipped,
    /// The event is for no saga.
    NoSaga,
}

/// What a saga did with an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It decided on these events and effects, in this order.
    Decision {
        /// The events of its own stream.
        events: Vec<NewEvent>,
        /// The effects.
        effects: Vec<Effect>,
        /// How it ends, if it does.
        end: Option<End>,
    },
    /// It skipped the event, because it does not know it.
    Skipped,
    /// The event is for no saga.
    NoSaga,
}

/// How a saga ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It has reached its goal.
    Completed,
    /// What it had done is undone.
    Compensated,
}

impl Case {
    /// Compares the actual result with the expected one. The error is a text that shows missing lines with `-` and
    /// unexpected lines with `+`.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        if let Answer::Decided(Handled::Decision { events, effects, end }) = answer {
            self.check_decision(events, effects, *end)?;
        }
        answer::check(&self.then, answer, |expected, actual| match (expected, actual) {
            (
                Expected::Decision { events, effects, end },
                Handled::Decision { events: e, effects: f, end: actual_end },
            ) => same_decision((events, effects, *end), (e, f, *actual_end)),
            (Expected::Skipped, Handled::Skipped) | (Expected::NoSaga, Handled::NoSaga) => Ok(()),
            _ => Err(format!("expected {}, got {}", expected.described(), actual.described())),
        })
    }

    /// Fails if a host would not take a decision.
    fn check_decision(&self, events: &[NewEvent], effects: &[Effect], end: Option<End>) -> Result<(), String> {
        if self.given.is_empty() && events.is_empty() && (!effects.is_empty() || end.is_some()) {
            return Err("the first step of a saga has no event, which is malformed in a host: record one".to_owned());
        }
        match effects.iter().filter_map(Effect::timer).find(|timer| timer.contains('/')) {
            Some(timer) => Err(format!("it names a timer {timer:?}, and the name of a saga's timer has no `/`")),
            None => Ok(()),
        }
    }

    /// Returns the key of the saga of a case, if the event is for the saga that the case says. `key` is the key of the saga
    /// that the event is for.
    pub fn key_of_event(&self, key: String) -> Result<String, String> {
        match &self.key {
            Some(expected) if *expected != key => Err(format!("the event is for saga {key}, and not for {expected}")),
            _ => Ok(key),
        }
    }

    /// Returns the key of the saga of a case whose input is no event.
    pub fn key_of_callback(&self) -> String {
        self.key.clone().unwrap_or_else(|| KEY.to_owned())
    }

    /// Returns why a host would ignore an event: there is no saga yet, and only other events start one.
    pub fn not_starting(event: &RecordedEvent) -> String {
        format!(
            "there is no saga yet, and {} does not start one, so a host ignores it: add its own events to `given`",
            event.path()
        )
    }
}

fn same_decision(
    (events, effects, end): (&[Event], &[ExpectedEffect], Option<End>),
    (actual_events, actual_effects, actual_end): (&[NewEvent], &[Effect], Option<End>),
) -> Result<(), String> {
    let same_end = if end == actual_end {
        Ok(())
    } else {
        Err(format!("expected that it {}, and it {}", end_in_words(end), end_in_words(actual_end)))
    };
    let checks = [same_events(events, actual_events), effect::same_effects(effects, actual_effects), same_end];
    let differences: Vec<String> = checks.into_iter().filter_map(Result::err).collect();
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

fn end_in_words(end: Option<End>) -> &'static str {
    match end {
        Some(End::Completed) => "is completed",
        Some(End::Compensated) => "is compensated",
        None => "goes on",
    }
}

/// The text for an event that is for no saga.
const NO_SAGA: &str = "an event for no saga";

impl Described for Expected {
    fn described(&self) -> String {
        match self {
            Self::Decision { events, effects, end } => {
                let (events, effects) = (count(events.len(), "event"), count(effects.len(), "effect"));
                format!("{events} and {effects} of a saga that {}", end_in_words(*end))
            }
            Self::Skipped => SKIPPED.to_owned(),
            Self::NoSaga => NO_SAGA.to_owned(),
        }
    }
}

impl Described for Handled {
    fn described(&self) -> String {
        match self {
            Self::Decision { events, effects, end } => {
                let (events, effects) = (events.described(), effect::described(effects));
                format!("a saga that {}, with {events}\nand {effects}", end_in_words(*end))
            }
            Self::Skipped => SKIPPED.to_owned(),
            Self::NoSaga => NO_SAGA.to_owned(),
        }
    }
}

/// A case as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfFile {
    name: String,
    key: Option<String>,
    #[serde(default)]
    given: Vec<Event>,
    when: Table,
    then: ThenOfFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThenOfFile {
    events: Option<Vec<Event>>,
    effects: Option<Vec<Table>>,
    end: Option<End>,
    skipped: Option<bool>,
    no_saga: Option<bool>,
    rejected: Option<String>,
    malformed: Option<String>,
    retry: Option<String>,
}

impl CaseOfFile for OfFile {
    type Case = Case;

    fn name(&self) -> &str {
        &self.name
    }

    fn checked(self) -> Result<Case, String> {
        let Self { name, key, given, when, then } = self;
        let when = delivery::read(when)?;
        let is_event = matches!(when, Delivery::Event(_));
        if matches!(when, Delivery::Record(_)) {
            return Err("a saga gets no records of Kafka: `when` must be something else".to_owned());
        }
        if !is_event && given.is_empty() {
            return Err("there is no saga yet, and a host ignores an outcome, a timer or a response then: add `given`"
                .to_owned());
        }
        Ok(Case { name, key, given, when, then: then.checked(is_event)? })
    }
}

impl ThenOfFile {
    fn checked(self, is_event: bool) -> Result<Then<Expected>, String> {
        let Self { events, effects, end, skipped, no_saga, rejected, malformed, retry } = self;
        let has_decision = events.is_some() || effects.is_some() || end.is_some();
        let expected = match (has_decision, is_said("skipped", skipped)?, is_said("no_saga", no_saga)?) {
            (false, false, false) => None,
            (true, false, false) => Some(Expected::Decision {
                events: events.unwrap_or_default(),
                effects: effect::read(effects.unwrap_or_default())?,
                end,
            }),
            (false, true, false) if is_event => Some(Expected::Skipped),
            (false, false, true) if is_event => Some(Expected::NoSaga),
            (false, ..) if !is_event => {
                return Err("only an event is skipped or for no saga: remove `skipped` or `no_saga`".to_owned());
            }
            _ => {
                return Err("`then` has `events`, `effects` and `end`, or `skipped`, or `no_saga`: remove the others"
                    .to_owned());
            }
        };
        answer::then(expected, [rejected, malformed, retry], "`events`, `effects`, `end`, `skipped`, `no_saga`")
    }
}
