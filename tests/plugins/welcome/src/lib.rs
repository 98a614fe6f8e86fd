//! A saga that a registration starts and that ends with it, and remembers the name.

#[path = "../../members-3/src/contract.rs"]
mod contract;

pub use contract::{Command, Event as MemberEvent, FullName, Member};
use wasmill_guest::prelude::*;

/// The welcome of a member.
#[derive(Debug, Default)]
pub struct Welcome;

/// What happened to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the name says it")]
pub enum Welcomed {
    Begun { name: String },
}

impl Saga for Welcome {
    const TYPE: &'static str = "welcome";
    const STARTS: &'static [&'static str] = &[Member::REGISTERED];
    const READS: &'static [Reads] = &[Reads::of::<Member>()];
    type Event = Welcomed;

    /// The saga of the last name, which only the newest shape of an event has in this place.
    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        match event.decode()? {
            MemberEvent::Registered { name } => Ok(Some(name.last)),
            _ => Ok(None),
        }
    }

    fn handle(&self, event: &Delivery, step: &mut Step<Welcomed>) -> Result<(), Failure> {
        let MemberEvent::Registered { name } = event.decode()? else { return Ok(()) };
        step.record(Welcomed::Begun { name: format!("{} {}", name.first, name.last) });
        step.complete();
        Ok(())
    }

    fn apply(&mut self, _: Welcomed) {}
}
export_saga!(Welcome);
