//! Tests of the read model's answers.

use super::*;
use serde_json::json;
use wasmill_guest::testing::ReadModel;

fn created(household: &str, store: &str, amount_cents: i64) -> String {
    json!({
        "household_id": household, "store_id": store, "placed_at": "2017-01-01T11:53:26Z",
        "items": [{"product_id": "1", "quantity": 2, "amount_cents": amount_cents, "discount_cents": 5}],
        "amount_cents": amount_cents,
    })
    .to_string()
}

/// Makes a read model with three orders of two households in two stores. One order is confirmed, and one household is
/// loyal.
fn sales() -> ReadModel<Sales> {
    let mut sales = ReadModel::new();
    sales.at(1000).project_json("order", "1", "OrderCreated", &created("900", "330", 100));
    sales.project_json("order", "2", "OrderCreated", &created("901", "330", 200));
    sales.project_json("order", "3", "OrderCreated", &created("900", "47", 300));
    sales.at(2000).project_json("order", "1", "OrderConfirmed", "null");
    sales.project_json("household", "900", "HouseholdBecameLoyal", r#"{"total_cents":50000}"#);
    sales
}

#[test]
fn an_order_is_summed_up() {
    let order = sales().query(&SalesQuery::GetOrder { order_id: "1".into() });
    let expected = json!({
        "order_id": "1", "household_id": "900", "store_id": "330", "placed_at": "2017-01-01T11:53:26Z",
        "status": "confirmed", "items": 1, "units": 2, "sales_cents": 100, "discount_cents": 5,
        "created_ms": 1000, "confirmed_ms": 2000,
    });
    assert_eq!(order, expected);
    assert_eq!(sales().query(&SalesQuery::GetOrder { order_id: "9".into() }), json!(null));
}

#[test]
fn stores_are_ranked_by_sales_and_then_by_id() {
    assert_eq!(sales().query(&SalesQuery::StoreSales { limit: 5 }), json!([["330", 300], ["47", 300]]));
    assert_eq!(sales().try_query("store-sales", r#"{"limit":1}"#), Ok(json!([["330", 300]])));
    assert_eq!(sales().try_query("store-sales", ""), Ok(json!([["330", 300], ["47", 300]])));
}

#[test]
fn a_cancelled_order_is_no_sale() {
    let mut sales = sales();
    sales.project_json("order", "2", "OrderCancelled", r#"{"reason":"late"}"#);
    assert_eq!(sales.query(&SalesQuery::GetOrder { order_id: "2".into() })["status"], "cancelled");
    assert_eq!(sales.query(&SalesQuery::StoreSales { limit: 5 }), json!([["47", 300], ["330", 100]]));
    let totals = sales.query(&SalesQuery::Totals);
    assert_eq!((&totals["placed"], &totals["sales_cents"], &totals["units"]), (&json!(3), &json!(400), &json!(4)));
}

#[test]
fn totals_add_everything_up() {
    let expected = json!({
        "placed": 3, "confirmed": 1, "units": 6, "sales_cents": 600, "discount_cents": 15, "stores": 2,
        "households": 2, "loyal_households": 1,
    });
    assert_eq!(sales().query(&SalesQuery::Totals), expected);
    assert_eq!(ReadModel::<Sales>::new().query(&SalesQuery::Totals)["placed"], 0);
}

#[test]
fn a_question_it_does_not_know_is_answered_with_those_it_knows() {
    let known = ["get-order", "store-sales", "totals"].map(str::to_owned).to_vec();
    assert_eq!(sales().try_query("total", ""), Err(QueryError::Unknown(known)));
    let error = sales().try_query("store-sales", r#"{"limit":-1}"#).unwrap_err();
    assert!(error.to_string().contains("limit: invalid value: integer `-1`"), "{error}");
}

#[test]
fn a_failed_event_leaves_nothing_behind() {
    let mut sales = sales();
    let before = sales.query(&SalesQuery::Totals);
    sales.try_project("order", "1", "OrderCreated", created("900", "330", 100)).expect_err("the order exists");
    assert_eq!(sales.query(&SalesQuery::Totals), before);
}

#[test]
fn an_order_that_is_too_large_is_refused_and_sums_stay_whole() {
    let mut sales = sales();
    let before = sales.query(&SalesQuery::Totals);
    for cents in [i64::MAX, i64::MIN, ORDER_MAX + 1] {
        let refused = sales.try_project("order", "9", "OrderCreated", created("900", "330", cents)).unwrap_err();
        assert!(refused.to_string().contains("too many cents"), "{refused}");
    }
    let items = json!([{"quantity": i64::MAX, "discount_cents": 0}, {"quantity": i64::MAX, "discount_cents": 0}]);
    let order = json!({
        "household_id": "1", "store_id": "1", "placed_at": "2017-01-01T11:53:26Z", "items": items, "amount_cents": 0,
    });
    let refused = sales.try_project("order", "9", "OrderCreated", order.to_string()).unwrap_err();
    assert!(refused.to_string().contains("too many units"), "{refused}");
    assert_eq!(sales.query(&SalesQuery::Totals), before);
    for id in 10..30 {
        sales.project_json("order", &id.to_string(), "OrderCreated", &created("900", &id.to_string(), ORDER_MAX));
    }
    assert_eq!(sales.query(&SalesQuery::Totals)["sales_cents"], ORDER_MAX * 20 + 600);
}

#[test]
fn a_household_that_has_not_ordered_counts_as_loyal_only() {
    let mut sales = ReadModel::<Sales>::new();
    sales.project_json("household", "900", "HouseholdBecameLoyal", r#"{"total_cents":50000}"#);
    let totals = sales.query(&SalesQuery::Totals);
    assert_eq!((&totals["households"], &totals["loyal_households"]), (&json!(0), &json!(1)));
}
