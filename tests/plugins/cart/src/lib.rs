//! Aggregate `cart`: takes items without end, so that one cart can be sent any number of commands.

use wasmill_guest::prelude::*;

/// How much is in a cart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cart {
    units: i64,
    amount_cents: i64,
}

/// A line of a cart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Item {
    pub product_id: String,
    pub quantity: i64,
    pub amount_cents: i64,
}

/// What a cart can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CartCommand {
    AddItems { items: Vec<Item> },
}

/// What can have happened to a cart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CartEvent {
    ItemsAdded { items: Vec<Item>, amount_cents: i64 },
}

/// Why a cart says no.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum CartError {
    #[error("nothing to add")]
    NoItems,
}

impl Aggregate for Cart {
    const TYPE: &'static str = "cart";
    type Command = CartCommand;
    type Event = CartEvent;
    type Error = CartError;
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();

    fn handle(&self, CartCommand::AddItems { items }: CartCommand) -> Result<Vec<CartEvent>, CartError> {
        if items.is_empty() {
            return Err(CartError::NoItems);
        }
        let amount_cents = items.iter().map(|item| item.amount_cents).sum();
        Ok(vec![CartEvent::ItemsAdded { items, amount_cents }])
    }

    fn apply(&mut self, CartEvent::ItemsAdded { items, amount_cents }: CartEvent) {
        self.units += items.iter().map(|item| item.quantity).sum::<i64>();
        self.amount_cents += amount_cents;
    }
}
export_aggregate!(Cart);
