//! The subscriber `warehouse`: confirms every created order and records the purchase with its household.
//!
//! Of the other plugins' events and commands it defines only the fields that it needs. Its tests compare them with the
//! real ones.

use wasmill_guest::prelude::*;

/// The subscriber, which reacts to created orders.
struct Warehouse;

#[derive(Deserialize)]
struct OrderCreated {
    household_id: String,
    amount_cents: i64,
}

#[derive(Serialize)]
enum OrderCommand {
    ConfirmOrder,
}

#[derive(Serialize)]
enum HouseholdCommand<'a> {
    RecordPurchase { order_id: &'a str, amount_cents: i64 },
}

impl Subscriber for Warehouse {
    const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderCreated"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let order_id = delivery.aggregate_id()?;
        let OrderCreated { household_id, amount_cents } = delivery.json()?;
        outbox.send("order", order_id, &OrderCommand::ConfirmOrder)?;
        outbox.send("household", &household_id, &HouseholdCommand::RecordPurchase { order_id, amount_cents })?;
        debug!(order = order_id, household = household_id, "confirms the order and records the purchase");
        Ok(())
    }
}
export_subscriber!(Warehouse);

#[cfg(test)]
mod tests;
