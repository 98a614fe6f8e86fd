//! Aggregate `order`: created from a basket, then confirmed.
//!
//! It decides whether a basket makes an order. It knows neither households nor stores beyond their ids.

use wasmill_guest::prelude::*;

/// What has become of an order.
#[derive(Debug, Default)]
struct Order {
    status: Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    Absent,
    Pending,
    Confirmed,
}

/// A line of a basket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    product_id: String,
    quantity: i64,
    /// What was paid for the whole line.
    amount_cents: i64,
    discount_cents: i64,
}

/// What an order can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum OrderCommand {
    CreateOrder { household_id: String, store_id: String, placed_at: String, items: Vec<Item> },
    ConfirmOrder,
}

/// What can have happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum OrderEvent {
    OrderCreated { household_id: String, store_id: String, placed_at: String, items: Vec<Item>, amount_cents: i64 },
    OrderConfirmed,
}

/// Why an order says no.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("the order exists")]
    Exists,
    #[error("an order needs at least one item")]
    NoItems,
    #[error("product {product_id} has quantity {quantity}; at least 1 is needed")]
    Quantity { product_id: String, quantity: i64 },
    #[error("the amounts add up to more than an order can hold")]
    TooLarge,
    #[error("only a pending order can be confirmed")]
    NotPending,
}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = OrderError;

    fn handle(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, OrderError> {
        match command {
            OrderCommand::CreateOrder { household_id, store_id, placed_at, items } => {
                if self.status != Status::Absent {
                    return Err(OrderError::Exists);
                }
                let amount_cents = amount(&items)?;
                Ok(vec![OrderEvent::OrderCreated { household_id, store_id, placed_at, items, amount_cents }])
            }
            OrderCommand::ConfirmOrder if self.status == Status::Pending => Ok(vec![OrderEvent::OrderConfirmed]),
            OrderCommand::ConfirmOrder => Err(OrderError::NotPending),
        }
    }

    fn apply(&mut self, event: OrderEvent) {
        self.status = match event {
            OrderEvent::OrderCreated { .. } => Status::Pending,
            OrderEvent::OrderConfirmed => Status::Confirmed,
        };
    }
}
export_aggregate!(Order);

/// The sum of a basket that can be ordered.
fn amount(items: &[Item]) -> Result<i64, OrderError> {
    if items.is_empty() {
        return Err(OrderError::NoItems);
    }
    if let Some(Item { product_id, quantity, .. }) = items.iter().find(|item| item.quantity < 1) {
        return Err(OrderError::Quantity { product_id: product_id.clone(), quantity: *quantity });
    }
    items.iter().try_fold(0_i64, |sum, item| sum.checked_add(item.amount_cents)).ok_or(OrderError::TooLarge)
}

#[cfg(test)]
mod tests;
