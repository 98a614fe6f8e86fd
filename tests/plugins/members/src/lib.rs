//! Aggregate `member` as it was first written: a member has one name. `members-2` is what became of it.

use wasmill_guest::prelude::*;

/// A member.
#[derive(Debug, Default)]
pub struct Member {
    name: String,
}

/// What a member can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    Register { name: String },
    Greet,
}

/// What can have happened to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Registered { name: String },
    Greeted { words: String },
}

impl Aggregate for Member {
    const TYPE: &'static str = "member";
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<Event>, String> {
        Ok(vec![match command {
            Command::Register { name } => Event::Registered { name },
            Command::Greet => Event::Greeted { words: format!("Dear {}", self.name) },
        }])
    }

    fn apply(&mut self, event: Event) {
        if let Event::Registered { name } = event {
            self.name = name;
        }
    }
}
export_aggregate!(Member);
