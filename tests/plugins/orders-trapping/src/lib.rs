//! Aggregate `order` that traps when it is asked for thirteen of a product, and that notes something when it is asked for seven.
//!
//! Tests put it in the place of the plugin `orders` while a host runs. That plugin reads its events, except `OrderNoted`.

use wasmill_guest::prelude::*;

/// Whether an order is there, and confirmed.
#[derive(Debug, Default)]
pub struct Order {
    created: bool,
    confirmed: bool,
}

/// What an order can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OrderCommand {
    CreateOrder { household_id: String, store_id: String, placed_at: String, items: Vec<Item> },
    ConfirmOrder,
}

/// What has happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OrderEvent {
    OrderCreated { household_id: String, store_id: String, placed_at: String, items: Vec<Item>, amount_cents: i64 },
    OrderNoted,
    OrderConfirmed,
}

/// A line of a basket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Item {
    pub product_id: String,
    pub quantity: i64,
    pub amount_cents: i64,
    pub discount_cents: i64,
}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = String;

    fn handle(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, String> {
        match command {
            OrderCommand::CreateOrder { .. } if self.created => Err("the order exists".to_owned()),
            OrderCommand::CreateOrder { household_id, store_id, placed_at, items } => {
                assert!(!items.iter().any(|item| item.quantity == 13), "thirteen is an unlucky number");
                let is_noted = items.iter().any(|item| item.quantity == 7);
                let amount_cents = items.iter().map(|item| item.amount_cents).sum();
                let created = OrderEvent::OrderCreated { household_id, store_id, placed_at, items, amount_cents };
                Ok(if is_noted { vec![created, OrderEvent::OrderNoted] } else { vec![created] })
            }
            OrderCommand::ConfirmOrder if self.created && !self.confirmed => Ok(vec![OrderEvent::OrderConfirmed]),
            OrderCommand::ConfirmOrder => Err("only a pending order can be confirmed".to_owned()),
        }
    }

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::OrderCreated { .. } => self.created = true,
            OrderEvent::OrderNoted => {}
            OrderEvent::OrderConfirmed => self.confirmed = true,
        }
    }
}
export_aggregate!(Order);
