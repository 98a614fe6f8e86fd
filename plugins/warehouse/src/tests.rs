//! That an order is confirmed and its purchase recorded, with the real orders and households.

use super::*;
use wasmill_guest::testing::{deliver, event, event_json};

#[test]
fn a_created_order_is_confirmed_and_recorded_with_its_household() {
    let created = orders::OrderEvent::OrderCreated {
        household_id: "900".into(),
        store_id: "330".into(),
        placed_at: "today".into(),
        items: vec![],
        amount_cents: 150,
    };
    let purchase = households::HouseholdCommand::RecordPurchase { order_id: "7".into(), amount_cents: 150 };
    deliver::<Warehouse>(event("order", "7", &created))
        .then_command("order", "7", &orders::OrderCommand::ConfirmOrder)
        .then_command("household", "900", &purchase)
        .then_nothing();
}

#[test]
fn an_order_without_a_household_is_malformed() {
    deliver::<Warehouse>(event_json("order", "7", "OrderCreated", r#"{"amount_cents":150}"#))
        .then_malformed("missing field `household_id`");
}
