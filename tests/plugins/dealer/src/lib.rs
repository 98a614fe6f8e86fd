//! The saga `deal` of each dice, which asks WASI for time and randomness when it decides and when it applies.

use wasip2::{clocks, random};
use wasmill_guest::prelude::*;

/// The time in seconds and a random number.
type Seen = (u64, u64);

fn seen() -> Seen {
    (clocks::wall_clock::now().seconds, random::random::get_random_u64())
}

#[derive(Default)]
struct Deal {
    /// What was seen when each event was applied.
    applied: Vec<Seen>,
}

#[derive(Serialize, Deserialize)]
enum Event {
    /// What was seen when it was decided, and the state until then.
    Dealt { decided: Seen, state: Vec<Seen> },
}

impl Saga for Deal {
    const TYPE: &'static str = "deal";
    const STARTS: &'static [&'static str] = &["dice.Rolled"];
    type Event = Event;

    fn handle(&self, _: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        step.record(Event::Dealt { decided: seen(), state: self.applied.clone() });
        Ok(())
    }

    fn apply(&mut self, _: Event) {
        self.applied.push(seen());
    }
}
export_saga!(Deal);
