//! Tests of what an order accepts and refuses.

use super::*;
use wasmill_guest::testing::{cases, given};

fn item(quantity: i64, amount_cents: i64) -> Item {
    Item { product_id: "1095275".into(), quantity, amount_cents, discount_cents: 0 }
}

fn create(items: Vec<Item>) -> OrderCommand {
    OrderCommand::CreateOrder { household_id: "900".into(), store_id: "330".into(), placed_at: "today".into(), items }
}

fn created(items: Vec<Item>, amount_cents: i64) -> OrderEvent {
    let (household_id, store_id, placed_at) = ("900".into(), "330".into(), "today".into());
    OrderEvent::OrderCreated { household_id, store_id, placed_at, items, amount_cents }
}

#[test]
fn a_basket_makes_an_order_that_is_confirmed_once() {
    let items = vec![item(1, 50), item(3, 100)];
    given::<Order>([])
        .when(create(items.clone()))
        .then_events([created(items, 150)])
        .when(OrderCommand::ConfirmOrder)
        .then_events([OrderEvent::OrderConfirmed])
        .when(OrderCommand::ConfirmOrder)
        .then_rejected("only a pending order");
}

#[test]
fn a_pending_order_is_cancelled_once() {
    let cancel = || OrderCommand::CancelOrder { reason: "late".into() };
    let cancelled = || OrderEvent::OrderCancelled { reason: "late".into() };
    given::<Order>([created(vec![item(1, 50)], 50)])
        .when(cancel())
        .then_events([cancelled()])
        .when(cancel())
        .then_rejected("only a pending order can be cancelled")
        .when(OrderCommand::ConfirmOrder)
        .then_rejected("only a pending order can be confirmed");
    given::<Order>([]).when(cancel()).then_rejected("only a pending order can be cancelled");
}

#[test]
fn an_order_exists_once() {
    given::<Order>([created(vec![item(1, 50)], 50)]).when(create(vec![item(1, 50)])).then_rejected("the order exists");
}

#[test]
fn an_order_needs_items_and_each_at_least_once() {
    given::<Order>([]).when(create(vec![])).then_rejected("at least one item");
    given::<Order>([]).when(create(vec![item(1, 1), item(0, 1)])).then_rejected("product 1095275 has quantity 0");
    given::<Order>([]).when(create(vec![item(-1, 1)])).then_rejected("quantity -1");
}

#[test]
fn amounts_beyond_counting_are_refused() {
    given::<Order>([]).when(create(vec![item(1, i64::MAX), item(1, 1)])).then_rejected("more than an order can hold");
}

#[test]
fn nothing_confirms_an_absent_order() {
    given::<Order>([]).when(OrderCommand::ConfirmOrder).then_rejected("only a pending order");
}

#[test]
fn a_basket_as_it_comes_from_kafka_is_understood() {
    let basket = r#"{"basket_id":"31198570044","household_id":"900","store_id":"330","placed_at":"today",
        "items":[{"product_id":"1095275","quantity":1,"amount_cents":50,"discount_cents":0}]}"#;
    given::<Order>([]).when_json("CreateOrder", basket).then_events([created(vec![item(1, 50)], 50)]);
}

#[test]
fn a_basket_that_is_none_is_told_where() {
    let basket = r#"{"household_id":"900","store_id":"330","placed_at":"today","items":[{"product_id":7}]}"#;
    given::<Order>([])
        .when_json("CreateOrder", basket)
        .then_malformed("CreateOrder: items[0].product_id: invalid type: integer `7`, expected a string at line 1")
        .when_json("CreateOrder", "{}")
        .then_malformed("CreateOrder: missing field `household_id`")
        .when_json("ShipOrder", "")
        .then_malformed("unknown name `ShipOrder`: known are CreateOrder, ConfirmOrder, CancelOrder");
}

#[test]
fn the_cases_hold_natively() {
    cases::<Order>("cases/orders.toml");
}
