//! Tests that an order is confirmed and its purchase recorded.

use super::*;
use wasmill_guest::testing::{deliver, event_json, subscriber_cases};

#[test]
fn a_created_order_is_confirmed_and_recorded_with_its_household() {
    let created = r#"{"household_id":"900","store_id":"330","placed_at":"today","items":[],"amount_cents":150}"#;
    deliver::<Warehouse>(event_json("order", "7", "OrderCreated", created))
        .then_command("order", "7", &OrderCommand::ConfirmOrder)
        .then_command("household", "900", &HouseholdCommand::RecordPurchase { order_id: "7", amount_cents: 150 })
        .then_nothing();
}

#[test]
fn an_order_without_a_household_is_malformed() {
    deliver::<Warehouse>(event_json("order", "7", "OrderCreated", r#"{"amount_cents":150}"#))
        .then_malformed("OrderCreated: missing field `household_id`");
}

#[test]
fn the_cases_hold_natively() {
    subscriber_cases::<Warehouse>("cases/warehouse.toml");
}
