//! The aggregate `order`, which is created from a basket and then confirmed or cancelled.
//!
//! It decides whether a basket becomes an order. Of households and stores it knows only the ids.

use wasmill_guest::prelude::*;

/// An order with its state.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
struct Order {
    status: Status,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum Status {
    #[default]
    Absent,
    Pending,
    Confirmed,
    Cancelled,
}

/// A line of a basket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Item {
    product_id: String,
    quantity: i64,
    /// The price paid for the whole line.
    amount_cents: i64,
    discount_cents: i64,
}

/// The commands to an order.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::enum_variant_names, reason = "the names are those of the messages")]
enum OrderCommand {
    CreateOrder { household_id: String, store_id: String, placed_at: String, items: Vec<Item> },
    ConfirmOrder,
    CancelOrder { reason: String },
}

/// The events of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::enum_variant_names, reason = "the names are those of the messages")]
enum OrderEvent {
    OrderCreated { household_id: String, store_id: String, placed_at: String, items: Vec<Item>, amount_cents: i64 },
    OrderConfirmed,
    OrderCancelled { reason: String },
}

/// The reason why an order rejects a command.
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
    #[error("only a pending order can be cancelled")]
    NotCancellable,
}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    const COMMAND_SCHEMA: Schema = Schema::of::<OrderCommand>();
    const EVENT_SCHEMA: Schema = Schema::of::<OrderEvent>();
    const STATE_SCHEMA: Schema = Schema::of::<Self>();
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
            OrderCommand::CancelOrder { reason } if self.status == Status::Pending => {
                Ok(vec![OrderEvent::OrderCancelled { reason }])
            }
            OrderCommand::CancelOrder { .. } => Err(OrderError::NotCancellable),
        }
    }

    fn apply(&mut self, event: OrderEvent) {
        self.status = match event {
            OrderEvent::OrderCreated { .. } => Status::Pending,
            OrderEvent::OrderConfirmed => Status::Confirmed,
            OrderEvent::OrderCancelled { .. } => Status::Cancelled,
        };
    }
}
export_aggregate!(Order);

/// Returns the sum of a basket, or an error if it can't be ordered.
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
