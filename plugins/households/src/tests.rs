//! Tests of when a household becomes loyal, and that a purchase counts once.

use super::*;
use wasmill_guest::testing::given;

fn record(order_id: &str, amount_cents: i64) -> HouseholdCommand {
    HouseholdCommand::RecordPurchase { order_id: order_id.into(), amount_cents }
}

fn recorded(order_id: &str, amount_cents: i64) -> HouseholdEvent {
    HouseholdEvent::PurchaseRecorded { order_id: order_id.into(), amount_cents }
}

fn became_loyal(total_cents: i64) -> HouseholdEvent {
    HouseholdEvent::HouseholdBecameLoyal { total_cents }
}

#[test]
fn a_household_becomes_loyal_exactly_once() {
    given::<Household>([recorded("1", 49_999)])
        .when(record("2", 1))
        .then_events([recorded("2", 1), became_loyal(50_000)])
        .when(record("3", 50_000))
        .then_events([recorded("3", 50_000)]);
}

#[test]
fn a_purchase_that_is_recorded_changes_nothing() {
    given::<Household>([recorded("1", 49_999)])
        .when(record("1", 49_999))
        .then_nothing()
        .when(record("2", 0))
        .then_events([recorded("2", 0)]);
}

#[test]
fn a_snapshot_keeps_what_counts() {
    given::<Household>([recorded("1", 60_000), became_loyal(60_000)])
        .through_a_snapshot()
        .when(record("1", 60_000))
        .then_nothing()
        .when(record("2", 1))
        .then_events([recorded("2", 1)]);
}

#[test]
fn purchases_beyond_counting_are_refused() {
    given::<Household>([recorded("1", i64::MAX)]).when(record("2", 1)).then_rejected("more than a household can hold");
}
