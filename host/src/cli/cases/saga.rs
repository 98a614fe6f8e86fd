//! Cases of sagas: the key of the event is asked for, the history is applied, and the saga decides on the input.

use super::delivery::{self, Input};
use super::{effects, history, not_applied, refusal};
use crate::model::StreamId;
use crate::plugin::{Error, Plugin, SagaDecision, SagaEnd, SagaGuest, SagaInput};
use wasmill_cases::NewEvent;
use wasmill_cases::delivery::Delivery;
use wasmill_cases::saga::{Answer, Case, End, Handled};

pub(super) fn decide(plugin: &Plugin, saga_type: &str, case: &Case) -> Result<Answer, Error> {
    let mut guest = SagaGuest::new(plugin)?;
    match key(plugin, &mut guest, case)? {
        Ok(key) => answer(plugin, &mut guest, StreamId::new(saga_type, key), case),
        Err(answer) => Ok(answer),
    }
}

/// Returns the key of the saga of a case. The inner error is the answer if no saga gets the input.
fn key(plugin: &Plugin, guest: &mut SagaGuest, case: &Case) -> Result<Result<String, Answer>, Error> {
    let Delivery::Event(event) = &case.when else { return Ok(Ok(case.key_of_callback())) };
    let (inputs, starts) = plugin.saga_filters();
    if !inputs.matches(&event.on.aggregate_type, &event.name) {
        return Ok(Err(Answer::Failed(event.not_selected())));
    }
    if case.given.is_empty() && !starts.matches(&event.on.aggregate_type, &event.name) {
        return Ok(Err(Answer::Failed(Case::not_starting(event))));
    }
    Ok(match guest.keys(&[delivery::event(event)])?.map(|mut keys| keys.pop().flatten()) {
        Ok(Some(key)) => case.key_of_event(key).map_err(Answer::Failed),
        Ok(None) => Err(Answer::Decided(Handled::NoSaga)),
        Err(failure) => Err(Answer::Refused(refusal(failure.refusal))),
    })
}

fn answer(plugin: &Plugin, guest: &mut SagaGuest, stream: StreamId, case: &Case) -> Result<Answer, Error> {
    let live = guest.create(&stream.aggregate_id)?;
    if let Err(failure) = guest.apply(&live, &history(&stream, &case.given))? {
        return Ok(Answer::Failed(not_applied(failure)));
    }
    let skipped_before = plugin.unknown_events();
    let handled = match delivery::of(&case.when, Some(&stream.aggregate_id)) {
        Input::Event(event) => guest.handle(&live, SagaInput::Event(&event))?,
        Input::Callback(callback) => guest.handle(&live, SagaInput::Callback(&callback))?,
        Input::Record(..) => unreachable!("a file with such a case is refused"),
    };
    Ok(match handled {
        Ok(_) if plugin.unknown_events() > skipped_before => Answer::Decided(Handled::Skipped),
        Ok(decision) => Answer::Decided(decided(decision)),
        Err(refused) => Answer::Refused(refusal(refused)),
    })
}

fn decided(SagaDecision { events, end, effects }: SagaDecision) -> Handled {
    let events = events.into_iter().map(|event| NewEvent { name: event.name, payload: event.payload });
    let end = end.map(|end| match end {
        SagaEnd::Completed => End::Completed,
        SagaEnd::Compensated => End::Compensated,
    });
    Handled::Decision { events: events.collect(), effects: effects::of(effects), end }
}
