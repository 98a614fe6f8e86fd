//! The code of plugins, called through the same glue as by the other kits. Settings are in force while it runs.

use crate::bindings::aggregate::exports::wasmill::plugin::aggregate::GuestInstance;
use crate::bindings::types;
use crate::configuration::{InForce, Kept};
use crate::glue::{Live, LiveSaga};
use crate::log::native;
use crate::readback;
use crate::saga::{self, Saga};
use crate::subscriber::{Delivery, Effect, Outbox, OutgoingCommand, Subscriber, dispatch};
use crate::testing::aggregate::comparable;
use crate::testing::readable;
use crate::testing::saga::{Decision, TIMER_NAME_BYTES_MAX, decided, readable_decided};
use crate::{Aggregate, Failure};
use std::any::{Any, type_name};
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use wasmill_cases::flows::Stream;
use wasmill_names::Rule;

/// The length of a history up to which each decision is made a second time, by a rebuilt instance. After that, one in this
/// many is.
const REBUILT: usize = 64;

/// The settings and the secrets of a plugin.
pub(in crate::testing) struct Given {
    pub(in crate::testing) settings: Kept,
    pub(in crate::testing) secrets: Kept,
}

impl Default for Given {
    /// What a plugin gets for which the manifest says nothing.
    fn default() -> Self {
        Self { settings: Kept::Json(b"{}".to_vec()), secrets: Kept::Json(b"{}".to_vec()) }
    }
}

/// Returns settings or secrets, which are JSON or a value of the plugin's type.
pub(super) fn kept<T: 'static>(given: T) -> Kept {
    let given: Rc<dyn Any> = Rc::new(given);
    match given.downcast::<serde_json::Value>() {
        Ok(json) => Kept::Json(json.to_string().into_bytes()),
        Err(value) => Kept::Value(value, type_name::<T>()),
    }
}

/// Runs code of a plugin. A panic is an error, as a trap is in a host.
pub(in crate::testing) fn guarded<T>(given: &Given, run: impl FnOnce() -> T) -> Result<T, String> {
    let _settings = InForce::settings(given.settings.clone());
    let _secrets = InForce::secrets(given.secrets.clone());
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        format!("it panicked: {}", text.unwrap_or("without a text"))
    })
}

/// Why an input was not handled, named by what a host does next.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::testing) enum Failed {
    Rejected(String),
    Malformed(String),
    /// It is tried again, for a limited number of attempts.
    Again(String),
}

impl From<types::Outcome> for Failed {
    fn from(outcome: types::Outcome) -> Self {
        match outcome {
            types::Outcome::Rejected(reason) => Self::Rejected(reason),
            types::Outcome::Malformed(reason) => Self::Malformed(reason),
            types::Outcome::Retry(retry) => Self::Again(retry.reason),
        }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        types::Outcome::from(failure).into()
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
            Self::Malformed(reason) => write!(f, "malformed: {reason}"),
            Self::Again(reason) => f.write_str(reason),
        }
    }
}

/// Why a test can't go on, because a plugin is broken in a way that no host would see at once.
pub(super) type Broken = String;

/// The code of an aggregate.
pub(super) trait AggregateCode {
    /// Decides on a command, twice: by the live aggregate, and by one that is rebuilt from the history.
    fn decide(
        &mut self,
        given: &Given,
        stream: &Stream,
        history: &[types::RecordedEvent],
        command: &types::Command,
    ) -> Result<Result<Vec<types::NewEvent>, Failed>, Broken>;

    /// Compares the state of the live aggregate with that of a rebuilt one, after its events were recorded.
    fn recorded(&mut self, given: &Given, stream: &Stream, history: &[types::RecordedEvent]) -> Result<(), Broken>;

    /// Drops a live aggregate whose events were not recorded.
    fn forget(&mut self, stream: &Stream);
}

/// The live aggregates of a type.
pub(super) struct Aggregates<A: Aggregate>(HashMap<String, Live<A>>);

impl<A: Aggregate> Default for Aggregates<A> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<A: Aggregate> AggregateCode for Aggregates<A> {
    fn decide(
        &mut self,
        given: &Given,
        stream: &Stream,
        history: &[types::RecordedEvent],
        command: &types::Command,
    ) -> Result<Result<Vec<types::NewEvent>, Failed>, Broken> {
        let live = match self.0.remove(&stream.aggregate_id) {
            Some(live) => live,
            None => rebuilt::<A>(given, stream, history)?,
        };
        let decided = match guarded(given, || live.handle(command.clone())) {
            Ok(decided) => decided,
            // The live aggregate is lost, as after a trap.
            Err(reason) => return Ok(Err(Failed::Again(reason))),
        };
        if is_sample(history) {
            let again = rebuilt::<A>(given, stream, history)?;
            let (again, _) = native::logs(|| guarded(given, || again.handle(command.clone())));
            let (one, other) = (comparable(&decided), again.as_ref().map(comparable));
            if other != Ok(one.clone()) {
                return Err(differs(stream, &format!("decides on {}", command.name), &one, &other));
            }
        }
        self.0.insert(stream.aggregate_id.clone(), live);
        Ok(decided.map_err(Failed::from))
    }

    fn recorded(&mut self, given: &Given, stream: &Stream, history: &[types::RecordedEvent]) -> Result<(), Broken> {
        let Some(live) = self.0.get(&stream.aggregate_id).filter(|_| is_sample(history)) else { return Ok(()) };
        let state = |live: &Live<A>| guarded(given, || live.try_snapshot().ok().flatten());
        let Some(of_live) = state(live)? else { return Ok(()) };
        let of_rebuilt = state(&rebuilt::<A>(given, stream, history)?)?;
        match of_rebuilt {
            Some(of_rebuilt) if !readback::is_same(&of_live, &of_rebuilt) => {
                Err(differs(stream, "has a state", &readable(&of_live), &readable(&of_rebuilt)))
            }
            _ => Ok(()),
        }
    }

    fn forget(&mut self, stream: &Stream) {
        self.0.remove(&stream.aggregate_id);
    }
}

fn is_sample(history: &[types::RecordedEvent]) -> bool {
    history.len() <= REBUILT || history.len().is_multiple_of(REBUILT)
}

fn differs(stream: &Stream, what: &str, live: &impl fmt::Debug, rebuilt: &impl fmt::Debug) -> Broken {
    format!(
        "{stream} {what} in another way once it is rebuilt from its events, so a restart of a host would change it\n\
         live:    {live:?}\nrebuilt: {rebuilt:?}"
    )
}

fn rebuilt<A: Aggregate>(given: &Given, stream: &Stream, history: &[types::RecordedEvent]) -> Result<Live<A>, Broken> {
    let live = Live::empty(stream.aggregate_id.clone());
    let applied = guarded(given, || live.apply(history.to_vec()));
    let applied = applied.map_err(|cause| format!("{stream} can't be rebuilt from its events: {cause}"))?;
    applied.map_err(|failure| not_applied(stream, &failure)).map(|()| live)
}

fn not_applied(stream: &Stream, failure: &types::Failure) -> Broken {
    let cause = Failed::from(failure.outcome.clone());
    format!("{stream} can't be rebuilt: the event at version {} is not applied: {cause}", failure.index + 1)
}

/// The code of sagas.
pub(super) trait SagaCode {
    /// Returns the key of the saga that an event is for, if there is one.
    fn key(&self, given: &Given, event: &types::Delivery) -> Result<Option<String>, Failed>;

    /// Decides on an input, twice: by the live saga, and by one that is rebuilt from its events. The result is none if the
    /// saga does not know the event.
    fn decide(
        &mut self,
        given: &Given,
        saga: &Stream,
        history: &[types::RecordedEvent],
        input: &types::Delivery,
    ) -> Result<Result<Option<Decision>, Failed>, Broken>;

    /// Drops a live saga that has ended, or whose decision was not recorded.
    fn forget(&mut self, saga: &Stream);
}

/// The live sagas of a type.
pub(super) struct Sagas<S: Saga>(HashMap<String, LiveSaga<S>>);

impl<S: Saga> Default for Sagas<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S: Saga> Sagas<S> {
    fn rebuilt(given: &Given, saga: &Stream, history: &[types::RecordedEvent]) -> Result<LiveSaga<S>, Broken> {
        let live = LiveSaga::empty();
        let applied = guarded(given, || live.replay(history.to_vec()));
        let applied = applied.map_err(|cause| format!("{saga} can't be rebuilt from its events: {cause}"))?;
        applied.map_err(|failure| not_applied(saga, &failure)).map(|()| live)
    }
}

impl<S: Saga> SagaCode for Sagas<S> {
    fn key(&self, given: &Given, event: &types::Delivery) -> Result<Option<String>, Failed> {
        let key = guarded(given, || saga::key::<S>(&mut Delivery(event.clone())));
        Ok(key.map_err(Failed::Again)??)
    }

    fn decide(
        &mut self,
        given: &Given,
        saga: &Stream,
        history: &[types::RecordedEvent],
        input: &types::Delivery,
    ) -> Result<Result<Option<Decision>, Failed>, Broken> {
        let live = match self.0.remove(&saga.aggregate_id) {
            Some(live) => live,
            None => Self::rebuilt(given, saga, history)?,
        };
        let input = Delivery(input.clone());
        let by_live = match guarded(given, || decided(&live, input.clone())) {
            Ok(decided) => decided,
            Err(reason) => return Ok(Err(Failed::Again(reason))),
        };
        if is_sample(history) {
            let again = Self::rebuilt(given, saga, history)?;
            let what = format!("decides on {}", input.name());
            let (again, _) = native::logs(|| guarded(given, || decided(&again, input)));
            let (one, other) = (readable_decided(&by_live), again.as_ref().map(readable_decided));
            if other != Ok(one.clone()) {
                return Err(differs(saga, &what, &one, &other));
            }
        }
        self.0.insert(saga.aggregate_id.clone(), live);
        let decision = match by_live {
            Ok(decision) => decision,
            Err(outcome) => return Ok(Err(outcome.into())),
        };
        let effects = decision.iter().flat_map(|(_, effects, _)| effects);
        Ok(check_effects(effects).map(|()| decision))
    }

    fn forget(&mut self, saga: &Stream) {
        self.0.remove(&saga.aggregate_id);
    }
}

/// Has a subscriber handle a delivery.
pub(super) fn handle<S: Subscriber>(given: &Given, delivery: &types::Delivery) -> Result<Vec<Effect>, Failed> {
    let handled = guarded(given, || {
        let mut outbox = Outbox::default();
        dispatch::<S>(&mut Delivery(delivery.clone()), &mut outbox).map(|_| outbox.effects)
    });
    let effects = handled.map_err(Failed::Again)??;
    check_effects(&effects)?;
    Ok(effects)
}

/// Fails if an effect has a name that traps a guest in a host.
pub(in crate::testing) fn check_effects<'e>(effects: impl IntoIterator<Item = &'e Effect>) -> Result<(), Failed> {
    effects.into_iter().try_for_each(|effect| {
        let (timer, command) = match effect {
            Effect::Send(command) => (None, Some(command)),
            Effect::Later(timer, _, command) => (timer.as_deref(), Some(command)),
            Effect::Wake(timer, ..) | Effect::Cancel(timer) => (Some(timer.as_str()), None),
            // Its endpoint is checked when the delivery is handled.
            Effect::Publish(_) | Effect::Http(_) => (None, None),
        };
        timer.map_or(Ok(()), check_timer)?;
        command.map_or(Ok(()), |OutgoingCommand(command)| {
            check_name("an aggregate type", &command.aggregate_type, Rule::Part)?;
            check_name("a command", &command.name, Rule::Message)
        })
    })
}

fn check_timer(name: &str) -> Result<(), Failed> {
    if (1..=TIMER_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(Failed::Again(format!(
        "it names a timer with {} bytes: a name has 1 to {TIMER_NAME_BYTES_MAX} bytes and no control characters",
        name.len()
    )))
}

/// Checks a name by a rule. `what` says what it names.
pub(super) fn check_name(what: &str, name: &str, rule: Rule) -> Result<(), Failed> {
    if rule.allows(name) {
        return Ok(());
    }
    Err(Failed::Again(format!("the name of {what} must be {}, found {name:?}", rule.in_words())))
}
