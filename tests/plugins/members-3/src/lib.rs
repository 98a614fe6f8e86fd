//! Aggregate `member` in its third shape. It reads what `members` and `members-2` recorded, and records new events.

mod contract;

pub use contract::{Command, Event, FullName, Member};
use wasmill_guest::prelude::*;

/// A member's state.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    name: FullName,
}

impl Aggregate for State {
    const TYPE: &'static str = Member::TYPE;
    const UPCASTS: &'static [Upcasts] = Member::UPCASTS;
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<Event>, String> {
        Ok(vec![match command {
            Command::Register { name } => Event::Registered { name },
            Command::Greet => Event::Greeted { words: format!("Hello {} {}", self.name.first, self.name.last) },
            Command::Leave => Event::Left,
        }])
    }

    fn apply(&mut self, event: Event) {
        if let Event::Registered { name } = event {
            self.name = name;
        }
    }
}
export_aggregate!(State);
