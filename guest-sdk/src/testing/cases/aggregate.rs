//! Cases of aggregates.

use super::{check_all, given, not_applied, read, refusal};
use crate::Aggregate;
use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::glue::Live;
use crate::testing::envelope;
use crate::testing::plugins::code::{Given, guarded};
use std::path::Path;
use wasmill_cases::aggregate::{Answer, Case, Command};
use wasmill_cases::{Cases, NewEvent};

/// Runs the cases of a file against an aggregate. `wasmill test PLUGIN.wasm FILE` runs the same file against the
/// compiled plugin. A relative path starts from the crate's folder. The file is TOML, or JSON if its name ends in
/// `.json`:
///
/// ```toml
/// aggregate = "door"
/// settings = { is_alarmed = true }                           # optional: those of the plugin
///
/// [[case]]
/// name = "an open door is not opened"
/// given = [{ name = "Opened", payload = { by = "Ada" } }]    # the history; empty by default
/// when = { name = "Open", payload = { by = "Bob" } }         # also: aggregate_id, time_ms, headers
/// then = { rejected = "is open" }                            # or: events = […], malformed = "…", retry = "…"
/// ```
///
/// Events are written as they are recorded. If the aggregate has upcasts of an event, its payload has the member `"@schema"` with the
/// version, in `then` as well.
///
/// The cases of other roles are for [`subscriber_cases`](super::subscriber_cases), [`saga_cases`](super::saga_cases) and
/// `projection_cases`.
///
/// # Panics
/// If the file can't be read, if it is about something else, or if a case fails. The message lists all failed cases.
#[track_caller]
pub fn cases<A: Aggregate>(file: impl AsRef<Path>) {
    let suite = read(file);
    let given = given(&suite);
    match &suite.cases {
        Cases::Aggregate(cases) if suite.name == A::TYPE => {
            check_all(&suite, cases, |case| &case.name, |case| case.check(&answer::<A>(&given, case)));
        }
        _ => panic!("{}", suite.is_not_for(format_args!("aggregate {}", A::TYPE))),
    }
}

/// Runs a case. A panic is a failure of the case, as a trap is in a host.
fn answer<A: Aggregate>(given: &Given, case: &Case) -> Answer {
    guarded(given, || decide::<A>(case)).unwrap_or_else(Answer::Failed)
}

fn decide<A: Aggregate>(Case { given, when, .. }: &Case) -> Answer {
    let live = Live::<A>::empty(when.aggregate_id.clone());
    let stream = (A::TYPE, when.aggregate_id.as_str());
    let history =
        given.iter().zip(1..).map(|(event, place)| envelope::recorded(stream, place, &event.name, event.bytes()));
    if let Err(failure) = live.apply(history.collect()) {
        return Answer::Failed(not_applied(failure));
    }
    match live.handle(command(when)) {
        Ok(events) => {
            let event = |types::NewEvent { name, payload }| NewEvent { name, payload };
            Answer::Decided(events.into_iter().map(event).collect())
        }
        Err(outcome) => Answer::Refused(refusal(outcome)),
    }
}

fn command(command: &Command) -> types::Command {
    let mut metadata = envelope::metadata("command-1", command.time_ms);
    for (name, value) in &command.headers {
        envelope::add_header(&mut metadata, name, Some(value.as_bytes()));
    }
    types::Command { name: command.name.clone(), payload: command.bytes(), metadata }
}
