//! An aggregate that reads its command's context.

use wasmill_guest::prelude::*;
use wasmill_guest::testing::given;

#[derive(Default)]
struct Visit;

#[derive(Serialize, Deserialize)]
enum Command {
    Enter,
}

#[derive(Serialize, Deserialize)]
enum Event {
    Entered { at_ms: u64, by: String },
}

impl Aggregate for Visit {
    const TYPE: &'static str = "visit";
    type Command = Command;
    type Event = Event;
    type Error = &'static str;

    fn handle(&self, Command::Enter: Command) -> Result<Vec<Event>, &'static str> {
        Err("nobody knows who enters")
    }

    fn handle_with(&self, command: Command, context: &Context<'_>) -> Result<Vec<Event>, &'static str> {
        match context.metadata().header("user") {
            Some(user) => {
                let by = String::from_utf8_lossy(user).into_owned();
                Ok(vec![Event::Entered { at_ms: context.metadata().time_ms(), by }])
            }
            None => self.handle(command),
        }
    }

    fn apply(&mut self, _: Event) {}
}

#[test]
fn a_decision_can_see_time_and_headers() {
    given::<Visit>([])
        .at(1_483_271_606_000)
        .with_header("user", b"ada")
        .when(Command::Enter)
        .then_events([Event::Entered { at_ms: 1_483_271_606_000, by: "ada".into() }])
        .when(Command::Enter)
        .then_rejected("nobody knows");
}
