//! Aggregate `member` as it is now: a member has a first and a last name. It reads what `members` recorded.

use wasmill_guest::prelude::*;

/// A member.
#[derive(Debug, Default)]
pub struct Member {
    first_name: String,
    last_name: String,
}

/// What a member can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    Register { first_name: String, last_name: String },
    Greet,
}

/// What can have happened to a member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Registered { first_name: String, last_name: String },
    Greeted { words: String },
}

/// Version 1 had one name.
fn split_name(event: Json) -> Result<Json, String> {
    let name = event["name"].as_str().ok_or("it has no `name`")?;
    let (first_name, last_name) = name.split_once(' ').unwrap_or((name, ""));
    Ok(json!({ "first_name": first_name, "last_name": last_name }))
}

impl Aggregate for Member {
    const TYPE: &'static str = "member";
    const UPCASTS: &'static [Upcasts] = &[Upcasts::of("Registered", &[split_name])];
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<Event>, String> {
        Ok(vec![match command {
            Command::Register { first_name, last_name } => Event::Registered { first_name, last_name },
            Command::Greet => Event::Greeted { words: format!("Dear {} of the {}s", self.first_name, self.last_name) },
        }])
    }

    fn apply(&mut self, event: Event) {
        if let Event::Registered { first_name, last_name } = event {
            *self = Self { first_name, last_name };
        }
    }
}
export_aggregate!(Member);
