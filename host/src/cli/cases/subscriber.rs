//! Cases of subscribers: the delivery is handled.

use super::delivery::{self, Input};
use super::{effects, refusal};
use crate::plugin::{Error, Plugin, SubscriberGuest};
use wasmill_cases::delivery::Delivery;
use wasmill_cases::subscriber::{Answer, Case, Handled};

pub(super) fn handle(plugin: &Plugin, Case { when, .. }: &Case) -> Result<Answer, Error> {
    if let Delivery::Event(event) = when
        && !plugin.subscriber_filter().matches(&event.on.aggregate_type, &event.name)
    {
        return Ok(Answer::Failed(event.not_selected()));
    }
    let skipped_before = plugin.unknown_events();
    let mut guest = SubscriberGuest::new(plugin)?;
    let handled = match delivery::of(when, None) {
        Input::Event(event) => guest.handle(std::slice::from_ref(&event))?,
        Input::Record(source, record) => guest.handle_records(&source, &[&record])?,
        Input::Callback(callback) => guest.handle_callbacks(std::slice::from_ref(&callback))?,
    };
    Ok(match handled {
        Ok(_) if plugin.unknown_events() > skipped_before => Answer::Decided(Handled::Skipped),
        Ok(effects) => Answer::Decided(Handled::Effects(effects::of(effects))),
        Err(failure) => Answer::Refused(refusal(failure.refusal)),
    })
}
