//! The figures of a run, which are all read back from the read model, the store or the topic.

use crate::api::{Api, Status};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The number of stores that are listed.
const TOP_STORES: usize = 5;

/// The results of the baskets. The line of JSON has the fields in this order.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// The records that the source has processed, from the store's ledger.
    pub(crate) baskets: u64,
    /// The orders that were placed, from the read model.
    pub(crate) placed: u64,
    /// The orders that were refused, from the store.
    pub(crate) rejected: u64,
    /// The orders that were confirmed, from the read model.
    pub(crate) confirmed: u64,
    /// The number of units sold.
    pub(crate) units: i64,
    /// The sum that was paid.
    pub(crate) sales_cents: i64,
    /// The sum of the discounts.
    pub(crate) discount_cents: i64,
    /// The number of stores that sold something.
    pub(crate) stores: u64,
    /// The number of households that bought something.
    pub(crate) households: u64,
    /// The number of households that became loyal.
    pub(crate) loyal_households: u64,
    /// The number of different messages in the topic `notifications`.
    pub(crate) notifications: u64,
    /// The number of dead letters.
    pub(crate) dead_letters: u64,
    /// The stores with the highest sales, in cents.
    pub(crate) top_stores: Vec<(String, i64)>,
}

/// The answer of the query `totals`.
#[derive(Debug, Deserialize)]
struct Totals {
    placed: u64,
    confirmed: u64,
    units: i64,
    sales_cents: i64,
    discount_cents: i64,
    stores: u64,
    households: u64,
    loyal_households: u64,
}

impl Figures {
    /// Reads the figures from the host, which must be drained up to `position`.
    pub(crate) fn read(
        api: &Api<'_>,
        status: &Status,
        position: u64,
        baskets: u64,
        notifications: u64,
    ) -> Result<Self> {
        let totals: Totals = api.query("totals", &json!({}), position).context("read the totals back")?;
        let top_stores = api.query("store-sales", &json!({ "limit": TOP_STORES }), position);
        Ok(Self {
            baskets,
            placed: totals.placed,
            rejected: status
                .commands
                .iter()
                .filter(|tally| tally.command == "CreateOrder")
                .map(|tally| tally.rejected)
                .sum(),
            confirmed: totals.confirmed,
            units: totals.units,
            sales_cents: totals.sales_cents,
            discount_cents: totals.discount_cents,
            stores: totals.stores,
            households: totals.households,
            loyal_households: totals.loyal_households,
            notifications,
            dead_letters: status.dead_letters.total,
            top_stores: top_stores.context("read the sales of the stores back")?,
        })
    }

    /// Returns a sentence for everything that should be done and is not.
    pub(crate) fn left_undone(&self, status: &Status, produced: u64, handled: u64) -> Vec<String> {
        let mut left = Vec::new();
        if produced != handled {
            left.push(format!("the topic baskets got {produced} records, the source handled {handled}"));
        }
        if self.placed != self.confirmed {
            left.push(format!("{} orders are placed, {} are confirmed", self.placed, self.confirmed));
        }
        for sink in status.sinks.iter().filter(|sink| sink.pending > 0) {
            left.push(format!("{} messages wait in the sink {}", sink.pending, sink.name));
        }
        if self.dead_letters > 0 {
            let newest = status.dead_letters.newest.first();
            let newest =
                newest.map_or(String::new(), |item| format!("; the newest is {}: {}", item.place, item.reason));
            left.push(format!("{} dead-lettered{newest}", self.dead_letters));
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_json_has_its_keys_in_order() {
        let figures = Figures {
            baskets: 1,
            placed: 2,
            rejected: 3,
            confirmed: 4,
            units: 5,
            sales_cents: 6,
            discount_cents: 7,
            stores: 8,
            households: 9,
            loyal_households: 10,
            notifications: 11,
            dead_letters: 12,
            top_stores: vec![("367".into(), 1_815_929)],
        };
        let line = concat!(
            r#"{"baskets":1,"placed":2,"rejected":3,"confirmed":4,"units":5,"sales_cents":6,"discount_cents":7,"stores":8,"#,
            r#""households":9,"loyal_households":10,"notifications":11,"dead_letters":12,"top_stores":[["367",1815929]]}"#
        );
        assert_eq!(serde_json::to_string(&figures).unwrap(), line);
    }
}
