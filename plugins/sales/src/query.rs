//! The queries of the read model.

use wasmill_guest::prelude::*;

/// The queries: their names in kebab-case, their fields as JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SalesQuery {
    /// The summary of one order, or null.
    GetOrder {
        /// The basket's id.
        order_id: String,
    },
    /// The stores with the highest sales, as pairs of store and cents.
    StoreSales {
        /// The number of stores. The default is 10.
        #[serde(default = "ten")]
        limit: u32,
    },
    /// The totals of all orders.
    Totals,
}

const fn ten() -> u32 {
    10
}

#[derive(Serialize, Deserialize)]
struct OrderSummary {
    order_id: String,
    household_id: String,
    store_id: String,
    placed_at: String,
    status: String,
    items: i64,
    units: i64,
    sales_cents: i64,
    discount_cents: i64,
    created_ms: u64,
    confirmed_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Totals {
    placed: i64,
    confirmed: i64,
    units: i64,
    sales_cents: i64,
    discount_cents: i64,
    stores: i64,
    households: i64,
    loyal_households: i64,
}

impl SalesQuery {
    pub(crate) fn answer(self, sql: &Sql) -> Result<Answer, QueryError> {
        match self {
            SalesQuery::GetOrder { order_id } => {
                let order: Option<OrderSummary> = sql.row(ORDER, params![order_id])?;
                Answer::json(&order)
            }
            SalesQuery::StoreSales { limit } => {
                let stores: Vec<(String, i64)> = sql.rows(TOP_STORES, params![limit])?;
                Answer::json(&stores)
            }
            SalesQuery::Totals => {
                let totals: Option<Totals> = sql.row(TOTALS, params![])?;
                Answer::json(&totals)
            }
        }
    }
}

const ORDER: &str = "SELECT * FROM orders WHERE order_id = ?1";
const TOP_STORES: &str = "SELECT store_id, sales_cents FROM store_sales ORDER BY sales_cents DESC, store_id LIMIT ?1";
const TOTALS: &str = "\
    SELECT coalesce(sum(orders), 0) AS placed, coalesce(sum(confirmed), 0) AS confirmed, \
           coalesce(sum(units), 0) AS units, coalesce(sum(sales_cents), 0) AS sales_cents, \
           coalesce(sum(discount_cents), 0) AS discount_cents, count(*) AS stores, \
           (SELECT count(*) FROM household_sales WHERE orders > 0) AS households, \
           (SELECT coalesce(sum(loyal), 0) FROM household_sales) AS loyal_households \
    FROM store_sales";
