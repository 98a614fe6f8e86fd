//! Cases of sagas.

use super::{check_all, delivery, effects, given, not_applied, read, refusal};
use crate::bindings::types;
use crate::glue::LiveSaga;
use crate::log::native;
use crate::saga::{self, Saga};
use crate::subscriber::Delivery;
use crate::testing::envelope;
use crate::testing::plugins::code::{Given, check_effects, guarded};
use crate::testing::plugins::patterns;
use crate::testing::saga::{Decided, decided, readable_decided};
use std::path::Path;
use wasmill_cases::saga::{Answer, Case, End, Handled};
use wasmill_cases::{Cases, NewEvent, delivery as cases};

/// Runs the cases of a file against a saga. `wasmill test PLUGIN.wasm FILE` runs the same file against the compiled plugin. The
/// rules for the file are those of [`cases`](super::cases()), and what `when` and `effects` have is described at
/// [`subscriber_cases`](super::subscriber_cases); there are no Kafka records.
///
/// ```toml
/// saga = "checkout"                                        # its type; `settings` and `secrets` are optional
///
/// [[case]]
/// name = "a paid order is shipped"
/// key = "7"                                                # optional: the saga that the event must be for
/// given = [{ name = "Started" }]                           # its own events; without them there is no saga yet
/// when = { on = "order/7", name = "Paid", payload = { payment = "p1" } }
/// then.events = [{ name = "Paid", payload = { payment = "p1" } }]            # its own events
/// then.effects = [{ cancel = "unpaid" }, { send = "Ship", to = "shipping/7" }]
///
/// [[case]]
/// name = "a shipped order completes it"
/// given = [{ name = "Started" }, { name = "Paid", payload = { payment = "p1" } }]
/// when = { outcome = "Ship", to = "shipping/7", accepted = true, attachment = "7" }
/// then = { effects = [{ send = "Complete", to = "order/7" }], end = "completed" }    # or "compensated"
/// ```
///
/// If `events` or `effects` is absent, none is expected. If `end` is absent, the saga goes on. In place of the three, `then` has
/// `skipped = true` for an event that the code does not know, `no_saga = true` for an event that has no key, or `rejected`,
/// `malformed` or `retry` with a part of the reason.
///
/// Each input is decided twice, by two sagas that are built from the same events. If they differ, the case fails.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Serialize)] enum Order { Complete }
/// # #[derive(Serialize, Deserialize)] enum Event { Paid }
/// # #[derive(Default)] struct Checkout;
/// # impl Saga for Checkout {
/// #     const TYPE: &'static str = "checkout";
/// #     const STARTS: &'static [&'static str] = &["order.Paid"];
/// #     type Event = Event;
/// #     fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
/// #         step.record(Event::Paid);
/// #         step.complete();
/// #         Ok(step.send("order", event.aggregate_id()?, &Order::Complete)?)
/// #     }
/// #     fn apply(&mut self, _: Event) {}
/// # }
/// # let file = std::env::temp_dir().join(format!("wasmill-checkout-{}.toml", std::process::id()));
/// # std::fs::write(&file, r#"
/// # saga = "checkout"
/// # [[case]]
/// # name = "a paid order is complete"
/// # when = { on = "order/7", name = "Paid" }
/// # then = { events = [{ name = "Paid" }], effects = [{ send = "Complete", to = "order/7" }], end = "completed" }
/// # "#).unwrap();
/// wasmill_guest::testing::saga_cases::<Checkout>(&file);
/// # std::fs::remove_file(file).unwrap();
/// ```
///
/// # Panics
/// If the file can't be read, if it is about something else, or if a case fails. The message lists all failed cases.
#[track_caller]
pub fn saga_cases<S: Saga>(file: impl AsRef<Path>) {
    let suite = read(file);
    let given = given(&suite);
    let cases = match &suite.cases {
        Cases::Saga(cases) if suite.name == S::TYPE => cases,
        _ => panic!("{}", suite.is_not_for(format_args!("saga {}", S::TYPE))),
    };
    let starts = patterns::checked(S::TYPE, S::STARTS);
    let others = patterns::checked(S::TYPE, S::SUBSCRIPTIONS);
    let run = |case: &Case| match key::<S>(&given, case, &starts, &others) {
        Ok(key) => answer::<S>(&given, case, &key),
        Err(answer) => answer,
    };
    check_all(&suite, cases, |case| &case.name, |case| case.check(&run(case)));
}

/// Returns the key of the saga of a case. The error is the answer if no saga gets the input.
fn key<S: Saga>(given: &Given, case: &Case, starts: &[&str], others: &[&str]) -> Result<String, Answer> {
    let cases::Delivery::Event(event) = &case.when else { return Ok(case.key_of_callback()) };
    let is_selected = |patterns: &[&str]| patterns::select(patterns, &event.on.aggregate_type, &event.name);
    match (is_selected(starts), is_selected(others)) {
        (false, false) => return Err(Answer::Failed(event.not_selected())),
        (false, true) if case.given.is_empty() => return Err(Answer::Failed(Case::not_starting(event))),
        _ => {}
    }
    let mut input = delivery::of(&case.when, None);
    match guarded(given, || saga::key::<S>(&mut input).map_err(types::Outcome::from)).map_err(Answer::Failed)? {
        Ok(Some(key)) => case.key_of_event(key).map_err(Answer::Failed),
        Ok(None) => Err(Answer::Decided(Handled::NoSaga)),
        Err(outcome) => Err(Answer::Refused(refusal(outcome))),
    }
}

fn answer<S: Saga>(given: &Given, case: &Case, key: &str) -> Answer {
    let input = delivery::of(&case.when, Some(key));
    let decision = match decided_twice::<S>(given, case, key, &input) {
        Ok(Ok(Some(decision))) => decision,
        Ok(Ok(None)) => return Answer::Decided(Handled::Skipped),
        Ok(Err(outcome)) => return Answer::Refused(refusal(outcome)),
        Err(broken) => return Answer::Failed(broken),
    };
    let (events, effects, end) = decision;
    if let Err(failed) = check_effects(&effects) {
        return Answer::Failed(failed.to_string());
    }
    let events = events.into_iter().map(|types::NewEvent { name, payload }| NewEvent { name, payload });
    let end = end.map(|end| match end {
        saga::End::Completed => End::Completed,
        saga::End::Compensated => End::Compensated,
    });
    Answer::Decided(Handled::Decision { events: events.collect(), effects: effects::of(effects), end })
}

/// Decides on the input of a case, by two sagas that are built from the same events. The error says why there is no decision.
fn decided_twice<S: Saga>(given: &Given, case: &Case, key: &str, input: &Delivery) -> Result<Decided, String> {
    let decide = || {
        guarded(given, || {
            let live = LiveSaga::<S>::empty();
            let recorded = case.given.iter().zip(1..);
            let recorded =
                recorded.map(|(event, place)| envelope::recorded((S::TYPE, key), place, &event.name, event.bytes()));
            live.replay(recorded.collect()).map_err(not_applied)?;
            Ok::<Decided, String>(decided(&live, input.clone()))
        })?
    };
    let one = decide()?;
    // The second saga repeats the log lines of the first one, so they are dropped.
    let (other, _) = native::logs(decide);
    let (one_shown, other_shown) = (readable_decided(&one), readable_decided(&other?));
    if one_shown == other_shown {
        return Ok(one);
    }
    Err(format!("two sagas that are built from the same events decide differently:\n{one_shown:?}\n{other_shown:?}"))
}
