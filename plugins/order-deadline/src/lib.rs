//! The saga `order-deadline`: cancels an order that is not confirmed in time.

use std::time::Duration;
use wasmill_guest::prelude::*;

/// The settings.
#[derive(Deserialize)]
#[serde(default)]
struct Times {
    /// The time in which an order must be confirmed.
    confirmation_minutes: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self { confirmation_minutes: 24 * 60 }
    }
}
export_settings!(Times);

/// The name of the timer.
const CONFIRMATION: &str = "confirmation";

/// An order that is not confirmed yet.
#[derive(Debug, Default)]
struct OrderDeadline {
    order_id: String,
}

/// The events of the deadline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum DeadlineEvent {
    Set { order_id: String },
}

/// What it needs of the events of orders.
#[derive(Deserialize)]
enum OrderEvent {
    OrderCreated {},
    OrderConfirmed,
}

#[derive(Serialize)]
enum OrderCommand<'a> {
    CancelOrder { reason: &'a str },
}

impl Saga for OrderDeadline {
    const TYPE: &'static str = "order-deadline";
    const STARTS: &'static [&'static str] = &["order.OrderCreated"];
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderConfirmed"];
    type Event = DeadlineEvent;

    fn handle(&self, event: &Delivery, step: &mut Step<DeadlineEvent>) -> Result<(), Failure> {
        match event.decode()? {
            OrderEvent::OrderCreated {} => {
                step.record(DeadlineEvent::Set { order_id: event.aggregate_id()?.to_owned() });
                let time = Duration::from_secs(60 * settings::<Times>().confirmation_minutes);
                step.wake(CONFIRMATION, time, &())?;
            }
            OrderEvent::OrderConfirmed => step.complete(),
        }
        Ok(())
    }

    fn timer(&self, _: &Timer<'_>, step: &mut Step<DeadlineEvent>) -> Result<(), Failure> {
        let cancel = OrderCommand::CancelOrder { reason: "it was not confirmed in time" };
        step.send_command(OutgoingCommand::new("order", &self.order_id, &cancel)?.asking_outcome(&())?);
        Ok(())
    }

    fn outcome(&self, outcome: &Outcome<'_>, step: &mut Step<DeadlineEvent>) -> Result<(), Failure> {
        // A refusal means that the order was confirmed at the last moment.
        if outcome.ending().is_accepted() {
            step.compensated();
        } else {
            step.complete();
        }
        Ok(())
    }

    fn apply(&mut self, DeadlineEvent::Set { order_id }: DeadlineEvent) {
        self.order_id = order_id;
    }
}
export_saga!(OrderDeadline);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_guest::testing::{event_json, given_saga, outcome, timer};

    fn set() -> DeadlineEvent {
        DeadlineEvent::Set { order_id: "7".into() }
    }

    fn cancelled(ending: Ending<'_>) -> Delivery {
        outcome("order", "7", "CancelOrder", ending, &())
    }

    #[test]
    fn an_order_that_is_confirmed_in_time_stays() {
        let _times = wasmill_guest::testing::settings(Times { confirmation_minutes: 2 });
        given_saga::<OrderDeadline>([])
            .when(event_json("order", "7", "OrderCreated", r#"{"amount_cents":150}"#))
            .then_events([set()])
            .then_wake(CONFIRMATION, Duration::from_secs(120), &())
            .then_goes_on()
            .when(event_json("order", "7", "OrderConfirmed", "null"))
            .then_completed();
    }

    #[test]
    fn an_order_that_is_not_confirmed_in_time_is_cancelled() {
        let cancel = OrderCommand::CancelOrder { reason: "it was not confirmed in time" };
        let cancel = OutgoingCommand::new("order", "7", &cancel).unwrap().asking_outcome(&()).unwrap();
        let asked = || given_saga::<OrderDeadline>([set()]).when(timer(CONFIRMATION, &())).then_sent(cancel.clone());
        asked().then_goes_on().when(cancelled(Ending::Accepted { version: 2, position: 9 })).then_compensated();
        asked().then_goes_on().when(cancelled(Ending::Rejected("it is confirmed"))).then_completed();
    }
}
