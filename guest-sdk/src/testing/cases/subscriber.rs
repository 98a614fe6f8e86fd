//! Cases of subscribers.

use super::{check_all, delivery, effects, given, read, refusal};
use crate::bindings::types;
use crate::subscriber::{Outbox, Subscriber, dispatch};
use crate::testing::plugins::code::{Given, check_effects, guarded};
use crate::testing::plugins::patterns;
use std::path::Path;
use wasmill_cases::Cases;
use wasmill_cases::delivery::Delivery;
use wasmill_cases::subscriber::{Answer, Case, Handled};

/// Runs the cases of a file against a subscriber. `wasmill test PLUGIN.wasm FILE` runs the same file against the compiled
/// plugin. The rules for the file are those of [`cases`](super::cases()):
///
/// ```toml
/// subscriber = "checkout"                   # the name of the plugin's crate, which only `wasmill test` checks
/// secrets = { api_key = "test" }            # optional, like `settings`
///
/// [[case]]
/// name = "a placed order is charged"
/// when = { on = "order/7", name = "Placed", payload = { cents = 500 } }      # also: version, time_ms, headers
/// then.effects = [                          # all effects, in the order of the calls
///     { send = "Charge", to = "payment/7", payload = { cents = 500 }, attachment = "7" },
///     { wake = "unpaid:7", after = "1h", payload = "7" },
/// ]
///
/// [[case]]
/// name = "a refused charge cancels the order"
/// when = { outcome = "Charge", to = "payment/7", rejected = "no funds", attachment = "7" }
/// then.effects = [{ cancel = "unpaid:7" }, { send = "Cancel", to = "order/7" }]
/// ```
///
/// One key of `when` says what is delivered. All have `time_ms`, and the last three have `key`:
///
/// | key | what is delivered | other keys |
/// |---|---|---|
/// | `on` | an event | `name`, `payload`, `version`, `headers` |
/// | `source` | a Kafka record | `value`, which is JSON, or `text`, or `tombstone = true`; `key`, `topic`, `partition`, `offset`, `headers` |
/// | `outcome` | the outcome of a command of this name | `to`, `attachment`; `accepted = true` with `version` and `position`, `rejected`, `malformed`, `conflict`, `archived`, `unserved` or `exhausted` |
/// | `timer` | a timer of this name | `payload` |
/// | `endpoint` | the response to an HTTP request | `method` and `path`, which are required; `attachment`; `status` with `headers` and `json` or `text`, `failed` or `refused` |
///
/// One key of an effect says what it is. Keys that are absent are not compared, and of headers only those that are named:
///
/// | key | effect | other keys |
/// |---|---|---|
/// | `send` | a command of this name | `to`, `payload`, `headers`, `expected_version`, `attachment` |
/// | `topic` | a message | `key`, `value` or `tombstone = true`, `partition`, `headers` |
/// | `later` | a timer that sends a command of this name | those of `send`; `timer`, `after = "1h 30m"` or `at = "2026-01-01T00:00:00Z"` |
/// | `wake` | a timer of this name | `payload`, `after` or `at` |
/// | `cancel` | the cancellation of the timer of this name | |
/// | `endpoint` | an HTTP request | `method`, `path`, `json` or `text`, `headers`, `attachment` |
///
/// In place of `effects`, `then` has `skipped = true` for an event that the code does not know, or `rejected`, `malformed` or
/// `retry` with a part of the reason. An event must be one that the subscriber subscribes to.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Serialize)] enum Order { Confirm }
/// # struct Shop;
/// # impl Subscriber for Shop {
/// #     const SUBSCRIPTIONS: &'static [&'static str] = &["order.Placed"];
/// #     fn handle(event: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
/// #         Ok(outbox.send("order", event.aggregate_id()?, &Order::Confirm)?)
/// #     }
/// # }
/// # let file = std::env::temp_dir().join(format!("wasmill-shop-{}.toml", std::process::id()));
/// # std::fs::write(&file, r#"
/// # subscriber = "shop"
/// # [[case]]
/// # name = "a placed order is confirmed"
/// # when = { on = "order/7", name = "Placed" }
/// # then.effects = [{ send = "Confirm", to = "order/7" }]
/// # "#).unwrap();
/// wasmill_guest::testing::subscriber_cases::<Shop>(&file);
/// # std::fs::remove_file(file).unwrap();
/// ```
///
/// # Panics
/// If the file can't be read, if it is about something else, or if a case fails. The message lists all failed cases.
#[track_caller]
pub fn subscriber_cases<S: Subscriber>(file: impl AsRef<Path>) {
    let suite = read(file);
    let given = given(&suite);
    let Cases::Subscriber(cases) = &suite.cases else { panic!("{}", suite.is_not_for("a subscriber")) };
    let selected = patterns::checked(std::any::type_name::<S>(), S::SUBSCRIPTIONS);
    check_all(&suite, cases, |case| &case.name, |case| case.check(&answer::<S>(&given, &selected, case)));
}

fn answer<S: Subscriber>(given: &Given, selected: &[&str], Case { when, .. }: &Case) -> Answer {
    if let Delivery::Event(event) = when
        && !patterns::select(selected, &event.on.aggregate_type, &event.name)
    {
        return Answer::Failed(event.not_selected());
    }
    let mut delivery = delivery::of(when, None);
    let handled = guarded(given, || {
        let mut outbox = Outbox::default();
        dispatch::<S>(&mut delivery, &mut outbox).map(|is_handled| is_handled.then_some(outbox.effects))
    });
    let effects = match handled.map(|handled| handled.map_err(types::Outcome::from)) {
        Ok(Ok(Some(effects))) => effects,
        Ok(Ok(None)) => return Answer::Decided(Handled::Skipped),
        Ok(Err(outcome)) => return Answer::Refused(refusal(outcome)),
        Err(panicked) => return Answer::Failed(panicked),
    };
    match check_effects(&effects) {
        Ok(()) => Answer::Decided(Handled::Effects(effects::of(effects))),
        Err(failed) => Answer::Failed(failed.to_string()),
    }
}
