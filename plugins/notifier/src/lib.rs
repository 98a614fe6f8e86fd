//! The subscriber `notifier`: publishes messages to customers to the Kafka topic `notifications`.
//!
//! The key of a message is the id of the order or the household. Its `type` header and its JSON say what it is about.

use wasmill_guest::prelude::*;

/// The subscriber, which reacts to confirmed orders and loyal households.
struct Notifier;

#[derive(Deserialize)]
enum Seen {
    OrderConfirmed,
    HouseholdBecameLoyal { total_cents: i64 },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notification<'a> {
    OrderConfirmed { order_id: &'a str, confirmed_at_ms: u64 },
    HouseholdBecameLoyal { household_id: &'a str, total_cents: i64 },
}

impl Subscriber for Notifier {
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderConfirmed", "household.HouseholdBecameLoyal"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let id = delivery.aggregate_id()?;
        let (kind, notification) = match delivery.decode()? {
            Seen::OrderConfirmed => {
                let confirmed_at_ms = delivery.metadata().time_ms();
                ("order_confirmed", Notification::OrderConfirmed { order_id: id, confirmed_at_ms })
            }
            Seen::HouseholdBecameLoyal { total_cents } => {
                ("household_became_loyal", Notification::HouseholdBecameLoyal { household_id: id, total_cents })
            }
        };
        outbox.publish(Message::to("notifications").key(id).header("type", kind).json(&notification)?);
        Ok(())
    }
}
export_subscriber!(Notifier);

#[cfg(test)]
mod tests;
