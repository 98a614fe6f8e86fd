//! Cases of subscribers: when a delivery arrives, then these effects, in this order, or a refusal.

use crate::answer::{self, Described, Then};
use crate::delivery::{self, Delivery};
use crate::difference::count;
use crate::effect::{self, Effect, ExpectedEffect};
use crate::suite::{CaseOfFile, Table};
use serde::Deserialize;

/// What came of a delivery.
pub type Answer = crate::Answer<Handled>;

/// A case of a subscriber.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The name, which says what the case shows.
    pub name: String,
    /// What is delivered.
    pub when: Delivery,
    /// The expected result.
    pub then: Then<Expected>,
}

/// What a subscriber must do with a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// It asks for exactly these effects, in this order.
    Effects(Vec<ExpectedEffect>),
    /// It skips the event, because it does not know it.
    Skipped,
}

/// What a subscriber did with a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It asked for these effects, in this order.
    Effects(Vec<Effect>),
    /// It skipped the event, because it does not know it.
    Skipped,
}

impl Case {
    /// Compares the actual result with the expected one. The error is a text that shows missing lines with `-` and
    /// unexpected lines with `+`.
    pub fn check(&self, answer: &Answer) -> Result<(), String> {
        answer::check(&self.then, answer, |expected, actual| match (expected, actual) {
            (Expected::Effects(expected), Handled::Effects(actual)) => effect::same_effects(expected, actual),
            (Expected::Skipped, Handled::Skipped) => Ok(()),
            _ => Err(format!("expected {}, got {}", expected.described(), actual.described())),
        })
    }
}

/// The text for an event that the code does not know.
pub(crate) const SKIPPED: &str = "a skipped event, which the code does not know";

impl Described for Expected {
    fn described(&self) -> String {
        match self {
            Self::Effects(effects) => count(effects.len(), "effect"),
            Self::Skipped => SKIPPED.to_owned(),
        }
    }
}

impl Described for Handled {
    fn described(&self) -> String {
        match self {
            Self::Effects(effects) => effect::described(effects),
            Self::Skipped => SKIPPED.to_owned(),
        }
    }
}

/// A case as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfFile {
    name: String,
    when: Table,
    then: ThenOfFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ThenOfFile {
    effects: Option<Vec<Table>>,
    skipped: Option<bool>,
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
        let Self { name, when, then } = self;
        let ThenOfFile { effects, skipped, rejected, malformed, retry } = then;
        let when = delivery::read(when)?;
        let expected = match (effects, is_said("skipped", skipped)?) {
            (Some(_), true) => return Err("a skipped event has no effects: remove `effects` or `skipped`".to_owned()),
            (Some(effects), false) => Some(Expected::Effects(effect::read(effects)?)),
            (None, true) if !matches!(when, Delivery::Event(_)) => {
                return Err("only an event is skipped: remove `skipped`".to_owned());
            }
            (None, is_skipped) => is_skipped.then_some(Expected::Skipped),
        };
        let then = answer::then(expected, [rejected, malformed, retry], "`effects`, `skipped`")?;
        Ok(Case { name, when, then })
    }
}

/// Returns whether a key is there. Its only value is `true`.
pub(crate) fn is_said(key: &str, said: Option<bool>) -> Result<bool, String> {
    match said {
        Some(false) => Err(format!("`{key}` is `true` or absent: remove it")),
        said => Ok(said.is_some()),
    }
}
