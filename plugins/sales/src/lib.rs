//! The projection `sales`: order summaries, and sales per store and household.

mod query;

use query::SalesQuery;
use wasmill_guest::prelude::*;

/// The read model of sales.
struct Sales;

#[derive(Deserialize)]
enum Seen {
    OrderCreated { household_id: String, store_id: String, placed_at: String, items: Vec<Item>, amount_cents: i64 },
    OrderConfirmed,
    OrderCancelled {},
    HouseholdBecameLoyal {},
}

#[derive(Deserialize)]
struct Item {
    quantity: i64,
    discount_cents: i64,
}

impl Projection for Sales {
    const NAME: &'static str = "sales";
    const SUBSCRIPTIONS: &'static [&'static str] =
        &["order.OrderCreated", "order.OrderConfirmed", "order.OrderCancelled", "household.HouseholdBecameLoyal"];
    const SCHEMA: &'static str = include_str!("schema.sql");
    type Query = SalesQuery;

    fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
        let (id, time_ms) = (event.aggregate_id(), event.metadata().time_ms());
        match event.decode()? {
            Seen::OrderCreated { household_id, store_id, placed_at, items, amount_cents } => {
                let units = sum("units", items.iter().map(|item| item.quantity))?;
                let discount_cents = sum("cents of discount", items.iter().map(|item| item.discount_cents))?;
                bounded("cents", amount_cents)?;
                let (lines, cents) = (items.len() as u64, amount_cents);
                sql.execute(
                    ADD_ORDER,
                    params![id, &household_id, &store_id, placed_at, lines, units, cents, discount_cents, time_ms],
                )?;
                sql.execute(ADD_TO_STORE, params![store_id, units, amount_cents, discount_cents])?;
                sql.execute(ADD_TO_HOUSEHOLD, params![household_id, amount_cents])?;
            }
            Seen::OrderConfirmed => {
                sql.execute(CONFIRM_ORDER, params![id, time_ms])?;
                sql.execute(CONFIRM_IN_STORE, params![id])?;
            }
            Seen::OrderCancelled {} => {
                sql.execute(CANCEL_ORDER, params![id])?;
                sql.execute(CANCEL_IN_STORE, params![id])?;
                sql.execute(CANCEL_OF_HOUSEHOLD, params![id])?;
            }
            Seen::HouseholdBecameLoyal {} => {
                sql.execute(BECOME_LOYAL, params![id])?;
            }
        }
        Ok(())
    }

    fn query(query: SalesQuery, sql: &Sql) -> Result<Answer, QueryError> {
        query.answer(sql)
    }
}
export_projection!(Sales);

const ADD_ORDER: &str = "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, 'pending', ?5, ?6, ?7, ?8, ?9, NULL)";
const ADD_TO_STORE: &str = "INSERT INTO store_sales VALUES (?1, 1, 0, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET \
    orders = orders + 1, units = units + ?2, sales_cents = sales_cents + ?3, discount_cents = discount_cents + ?4";
const ADD_TO_HOUSEHOLD: &str = "INSERT INTO household_sales VALUES (?1, 1, ?2, FALSE) ON CONFLICT DO UPDATE SET \
    orders = orders + 1, sales_cents = sales_cents + ?2";
const CONFIRM_ORDER: &str = "UPDATE orders SET status = 'confirmed', confirmed_ms = ?2 WHERE order_id = ?1";
const CONFIRM_IN_STORE: &str = "UPDATE store_sales SET confirmed = confirmed + 1 \
    WHERE store_id = (SELECT store_id FROM orders WHERE order_id = ?1)";
const CANCEL_ORDER: &str = "UPDATE orders SET status = 'cancelled' WHERE order_id = ?1";
const CANCEL_IN_STORE: &str = "UPDATE store_sales SET units = store_sales.units - cancelled.units, \
    sales_cents = store_sales.sales_cents - cancelled.sales_cents, \
    discount_cents = store_sales.discount_cents - cancelled.discount_cents \
    FROM (SELECT * FROM orders WHERE order_id = ?1) AS cancelled WHERE store_sales.store_id = cancelled.store_id";
const CANCEL_OF_HOUSEHOLD: &str = "UPDATE household_sales SET sales_cents = household_sales.sales_cents - \
    cancelled.sales_cents FROM (SELECT * FROM orders WHERE order_id = ?1) AS cancelled \
    WHERE household_sales.household_id = cancelled.household_id";
const BECOME_LOYAL: &str = "INSERT INTO household_sales VALUES (?1, 0, 0, TRUE) ON CONFLICT DO UPDATE SET loyal = TRUE";

/// The most that one order may add to a sum: ten billion euros. The aggregate has no such limit. With it, any sum of
/// nine million orders fits into a number, so no order can make a query fail that adds up orders.
const ORDER_MAX: i64 = 1_000_000_000_000;

fn sum(of: &str, mut numbers: impl Iterator<Item = i64>) -> Result<i64, Failure> {
    let sum = numbers.try_fold(0_i64, |sum, number| sum.checked_add(bounded(of, number).ok()?));
    sum.ok_or_else(|| Failure::malformed(format!("the items add up to too many {of}"))).and_then(|sum| bounded(of, sum))
}

fn bounded(of: &str, number: i64) -> Result<i64, Failure> {
    if (-ORDER_MAX..=ORDER_MAX).contains(&number) {
        return Ok(number);
    }
    Err(Failure::malformed(format!("the items add up to too many {of}: {number}, and one order may have {ORDER_MAX}")))
}

#[cfg(test)]
mod tests;
