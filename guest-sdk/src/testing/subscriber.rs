//! Tests of subscribers: deliver an event or a record, then expect these commands, messages, timers and requests.

use super::effects::{self, comparable};
use super::expect_outcome;
use crate::bindings::types;
use crate::subscriber::{Delivery, Effect, Outbox, Subscriber, dispatch};
use std::collections::VecDeque;

/// Delivers an event, a record, an outcome, a timer or a response, which [`event`](super::event), [`record`](super::record),
/// [`outcome`](super::outcome), [`timer`](super::timer) or [`response`](super::response) makes.
pub fn deliver<S: Subscriber>(mut delivery: Delivery) -> Delivered {
    let mut outbox = Outbox::default();
    let handled = dispatch::<S>(&mut delivery, &mut outbox).map_err(types::Outcome::from);
    Delivered { is_skipped: matches!(handled, Ok(false)), result: handled.map(|_| outbox.effects.into()) }
}

/// The result of a delivery. Each `then_` method checks the next effect, in the order of the calls.
#[must_use = "end with `then_nothing`"]
pub struct Delivered {
    result: Result<VecDeque<Effect>, types::Outcome>,
    is_skipped: bool,
}

impl Delivered {
    super::effects::then_effects!();

    /// Expects no more effects.
    ///
    /// # Panics
    /// If there is another effect, or if the delivery failed or was skipped.
    #[track_caller]
    pub fn then_nothing(mut self) {
        assert!(!self.is_skipped, "the subscriber does not know the event, so it is skipped: expect `then_skipped`");
        if let Some(effect) = self.effects().pop_front() {
            panic!("expected nothing more, got: {:#?}", comparable(&effect));
        }
    }

    /// Expects the event to be skipped, because the subscriber does not know it. See [`reading`](crate::reading).
    ///
    /// # Panics
    /// If it is handled or fails.
    #[track_caller]
    pub fn then_skipped(mut self) {
        let effects = self.effects().len();
        assert!(self.is_skipped, "expected the event to be skipped, and it was handled with {effects} effects");
    }

    /// Expects the delivery to be rejected with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_rejected(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "rejected", part_of_the_reason);
    }

    /// Expects the delivery to be malformed, with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_malformed(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "malformed", part_of_the_reason);
    }

    /// Expects the delivery to ask for a retry with a reason that contains this text.
    ///
    /// # Panics
    /// If the result is anything else.
    #[track_caller]
    pub fn then_retry(self, part_of_the_reason: &str) {
        expect_outcome(&self.result, "retry", part_of_the_reason);
    }

    #[track_caller]
    fn then(mut self, expected: Effect) -> Self {
        effects::expect_next(self.effects(), &expected);
        self
    }

    #[track_caller]
    fn effects(&mut self) -> &mut VecDeque<Effect> {
        match &mut self.result {
            Ok(effects) => effects,
            Err(outcome) => panic!("the delivery failed: {outcome:?}"),
        }
    }
}
