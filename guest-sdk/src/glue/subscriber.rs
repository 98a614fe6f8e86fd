//! The exports of a subscriber.

use crate::bindings::subscriber::exports::wasmill::plugin::subscriber as wit;
use crate::bindings::{bus, types};
use crate::declared::{Crate, identity, owned};
use crate::log::install_panic_hook;
use crate::reading::skipped_delivery;
use crate::subscriber::{Delivery, Effect, Outbox, Subscriber, dispatch};
use std::marker::PhantomData;

/// The exports of the subscriber `S`, in the crate `C`.
pub struct SubscriberRole<S, C>(PhantomData<(S, C)>);

impl<S: Subscriber, C: Crate> wit::Guest for SubscriberRole<S, C> {
    fn describe() -> Result<wit::Description, String> {
        install_panic_hook();
        Ok(wit::Description {
            plugin: identity::<C>(),
            subscriptions: owned(S::SUBSCRIPTIONS),
            shape: S::SHAPE.into(),
            endpoints: owned(S::ENDPOINTS),
        })
    }

    fn handle(deliveries: Vec<types::Delivery>) -> Result<(), types::Failure> {
        install_panic_hook();
        let mut outbox = Outbox::default();
        super::each(deliveries, |index, delivery| {
            bus::begin(index);
            let mut delivery = Delivery(delivery);
            if !dispatch::<S>(&mut delivery, &mut outbox)? {
                skipped_delivery(&delivery.0);
            }
            outbox.effects.drain(..).for_each(|effect| hand_over(index, effect));
            Ok(())
        })
    }
}

/// Passes an effect to the host, with the index of the delivery that caused it. It is called only for deliveries that
/// succeeded.
pub(super) fn hand_over(cause: u32, effect: Effect) {
    match effect {
        Effect::Send(command) => bus::send_command(cause, &command.0),
        Effect::Publish(message) => bus::publish(cause, &message.0),
        Effect::Later(timer, due, command) => bus::send_later(cause, timer.as_deref(), due.into(), &command.0),
        Effect::Wake(timer, due, payload) => bus::wake(cause, &timer, due.into(), &payload),
        Effect::Cancel(timer) => bus::cancel(cause, &timer),
        Effect::Http(request) => bus::http(cause, &request.0),
    }
}
