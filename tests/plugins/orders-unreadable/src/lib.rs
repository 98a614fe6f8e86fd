//! Aggregate `order` whose author forgot that there are orders already: `OrderConfirmed` has a member that recorded ones have not.
//!
//! Tests put it in the place of the plugin `orders` while a host runs.

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
    CreateOrder(Anything),
    ConfirmOrder,
}

/// What has happened to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum OrderEvent {
    OrderCreated(Anything),
    OrderConfirmed { by: String },
}

/// Content of any form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anything {}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = OrderCommand;
    type Event = OrderEvent;
    type Error = String;

    fn handle(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, String> {
        match command {
            OrderCommand::CreateOrder(_) if self.created => Err("the order exists".to_owned()),
            OrderCommand::CreateOrder(content) => Ok(vec![OrderEvent::OrderCreated(content)]),
            OrderCommand::ConfirmOrder if self.confirmed => Err("it is confirmed".to_owned()),
            OrderCommand::ConfirmOrder => Ok(vec![OrderEvent::OrderConfirmed { by: "somebody".to_owned() }]),
        }
    }

    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::OrderCreated(_) => self.created = true,
            OrderEvent::OrderConfirmed { .. } => self.confirmed = true,
        }
    }
}
export_aggregate!(Order);
