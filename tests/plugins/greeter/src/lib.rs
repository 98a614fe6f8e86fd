//! A saga that a registration starts and that ends with it. It knows nothing of older shapes: the host upcasts what it gets.

#[path = "../../roster/src/known.rs"]
mod known;

use known::Known;
use wasmill_guest::prelude::*;

/// The greeting of a member.
#[derive(Debug, Default)]
pub struct Greeting;

/// What happened to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Event {
    Begun { name: String },
}

impl Saga for Greeting {
    const TYPE: &'static str = "greeting";
    const STARTS: &'static [&'static str] = &["member.Registered"];
    const SHAPE: Shape = Shape::Newest;
    type Event = Event;

    /// The saga of the last name, which only the newest shape of an event has in this place.
    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        let Known::Registered { name } = event.decode()?;
        Ok(Some(name.last))
    }

    fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
        let Known::Registered { name } = event.decode()?;
        step.record(Event::Begun { name: format!("{} {}", name.first, name.last) });
        step.complete();
        Ok(())
    }

    fn apply(&mut self, _: Event) {}
}
export_saga!(Greeting);
