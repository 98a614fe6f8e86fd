//! Aggregate `order` with another rule than the example's: an order has at most three items.
//!
//! Tests put it in the place of the plugin `orders` while a host runs. It goes on from the events which that plugin
//! recorded, so it knows their names; of their content it needs nothing.

use wasmill_guest::prelude::*;

/// The most items of an order.
pub const ITEMS_MAX: usize = 3;

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
    CreateOrder(Details),
    ConfirmOrder,
}

/// What has happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OrderEvent {
    OrderCreated(Details),
    OrderConfirmed,
}

/// All that this rule looks at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Of any form.
    pub items: Vec<Item>,
}

/// An item of any form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = String;

    fn handle(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, String> {
        match command {
            OrderCommand::CreateOrder(_) if self.created => Err("the order exists".to_owned()),
            OrderCommand::CreateOrder(Details { items }) if items.len() > ITEMS_MAX => {
                Err(format!("an order has at most {ITEMS_MAX} items"))
            }
            OrderCommand::CreateOrder(details) => Ok(vec![OrderEvent::OrderCreated(details)]),
            OrderCommand::ConfirmOrder if self.created && !self.confirmed => Ok(vec![OrderEvent::OrderConfirmed]),
            OrderCommand::ConfirmOrder => Err("only a pending order can be confirmed".to_owned()),
        }
    }

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::OrderCreated(_) => self.created = true,
            OrderEvent::OrderConfirmed => self.confirmed = true,
        }
    }
}
export_aggregate!(Order);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_guest::testing::given;

    #[test]
    fn a_fourth_item_is_refused() {
        let order = |items| OrderCommand::CreateOrder(Details { items: vec![Item {}; items] });
        given::<Order>([]).when(order(3)).then_events([OrderEvent::OrderCreated(Details { items: vec![Item {}; 3] })]);
        given::<Order>([]).when(order(4)).then_rejected("at most 3 items");
    }
}
