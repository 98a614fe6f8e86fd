//! Tests of the published messages.

use super::*;
use serde_json::json;
use wasmill_guest::testing::{deliver, event_json, subscriber_cases};

#[test]
fn a_confirmed_order_is_published_under_its_id() {
    let expected = json!({"type": "order_confirmed", "order_id": "7", "confirmed_at_ms": 1_483_271_606_000_u64});
    let message = Message::to("notifications").key("7").header("type", "order_confirmed");
    deliver::<Notifier>(event_json("order", "7", "OrderConfirmed", "null").at(1_483_271_606_000))
        .then_message(message.json(&expected).unwrap())
        .then_nothing();
}

#[test]
fn a_loyal_household_is_published_under_its_id() {
    let expected = json!({"type": "household_became_loyal", "household_id": "900", "total_cents": 50_001});
    let message = Message::to("notifications").key("900").header("type", "household_became_loyal");
    deliver::<Notifier>(event_json("household", "900", "HouseholdBecameLoyal", r#"{"total_cents":50001}"#))
        .then_message(message.json(&expected).unwrap())
        .then_nothing();
}

#[test]
fn an_event_it_does_not_know_is_malformed() {
    deliver::<Notifier>(event_json("order", "7", "OrderCancelled", "null"))
        .then_malformed("known are OrderConfirmed, HouseholdBecameLoyal");
}

#[test]
fn the_cases_hold_natively() {
    subscriber_cases::<Notifier>("cases/notifier.toml");
}
