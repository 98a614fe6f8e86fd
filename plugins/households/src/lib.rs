//! The aggregate `household`: its purchases, and when it becomes loyal.
//!
//! A purchase counts once, however often it is reported.

use std::collections::BTreeSet;
use wasmill_guest::prelude::*;

/// The settings.
#[derive(Deserialize)]
#[serde(default)]
struct Rules {
    /// The sum of purchases from which a household is loyal.
    loyal_from_cents: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { loyal_from_cents: 50_000 }
    }
}
export_settings!(Rules);

/// A household with its purchases so far.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Household {
    orders: BTreeSet<String>,
    total_cents: i64,
    loyal: bool,
}

/// The commands to a household.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum HouseholdCommand {
    RecordPurchase { order_id: String, amount_cents: i64 },
}

/// The events of a household.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum HouseholdEvent {
    PurchaseRecorded {
        order_id: String,
        amount_cents: i64,
    },
    /// The household became loyal, which happens only once.
    HouseholdBecameLoyal {
        total_cents: i64,
    },
}

/// The error if the sum of a household's purchases would overflow.
#[derive(Debug, thiserror::Error)]
#[error("the purchases add up to more than a household can hold")]
struct TooMuch;

impl Aggregate for Household {
    const TYPE: &'static str = "household";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = HouseholdCommand;
    type Event = HouseholdEvent;
    type Error = TooMuch;

    fn handle(&self, command: HouseholdCommand) -> Result<Vec<HouseholdEvent>, TooMuch> {
        let HouseholdCommand::RecordPurchase { order_id, amount_cents } = command;
        if self.orders.contains(&order_id) {
            return Ok(vec![]);
        }
        let total_cents = self.total_cents.checked_add(amount_cents).ok_or(TooMuch)?;
        let mut events = vec![HouseholdEvent::PurchaseRecorded { order_id, amount_cents }];
        if total_cents >= settings::<Rules>().loyal_from_cents && !self.loyal {
            events.push(HouseholdEvent::HouseholdBecameLoyal { total_cents });
        }
        Ok(events)
    }

    fn apply(&mut self, event: HouseholdEvent) {
        match event {
            HouseholdEvent::PurchaseRecorded { order_id, amount_cents } => {
                self.orders.insert(order_id);
                self.total_cents += amount_cents;
            }
            HouseholdEvent::HouseholdBecameLoyal { .. } => self.loyal = true,
        }
    }
}
export_aggregate!(Household);

#[cfg(test)]
mod tests;
