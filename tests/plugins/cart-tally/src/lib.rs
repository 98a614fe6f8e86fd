//! Saga `cart-tally`: counts what each cart got. It does the same work as the aggregate `cart`, so both can be compared.

use wasmill_guest::prelude::*;

/// How much a cart got.
#[derive(Debug, Default)]
pub struct CartTally {
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

#[derive(Deserialize)]
struct ItemsAdded {
    items: Vec<Item>,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TallyEvent {
    ItemsCounted { items: Vec<Item>, amount_cents: i64 },
}

impl Saga for CartTally {
    const TYPE: &'static str = "cart-tally";
    const STARTS: &'static [&'static str] = &["cart.ItemsAdded"];
    type Event = TallyEvent;

    fn handle(&self, event: &Delivery, step: &mut Step<TallyEvent>) -> Result<(), Failure> {
        let ItemsAdded { items } = event.json()?;
        let amount_cents = items.iter().map(|item| item.amount_cents).sum();
        step.record(TallyEvent::ItemsCounted { items, amount_cents });
        Ok(())
    }

    fn apply(&mut self, TallyEvent::ItemsCounted { items, amount_cents }: TallyEvent) {
        self.units += items.iter().map(|item| item.quantity).sum::<i64>();
        self.amount_cents += amount_cents;
    }
}
export_saga!(CartTally);
