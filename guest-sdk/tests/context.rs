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

/// An aggregate that knows who changed it last, from the context of its events.
#[derive(Default, Serialize, Deserialize)]
struct Visited {
    last: String,
}

impl Aggregate for Visited {
    const TYPE: &'static str = "visited";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, Command::Enter: Command) -> Result<Vec<Event>, String> {
        if self.last.ends_with("3") { Err(self.last.clone()) } else { Ok(vec![event(), event()]) }
    }

    fn apply(&mut self, _: Event) {
        unreachable!("`apply_with` does not call it");
    }

    fn apply_with(&mut self, _: Event, context: &Applied<'_>) {
        let user = context.header("user").map(|user| String::from_utf8_lossy(user).into_owned());
        let (command, time, id) = (context.command_id(), context.time_ms(), context.aggregate_id());
        let correlation = context.correlation_id();
        self.last = format!("{user:?} by {command} of {correlation} at {time} to {id} is {}", context.version());
    }
}

fn event() -> Event {
    Event::Entered { at_ms: 0, by: String::new() }
}

#[test]
fn an_event_is_applied_with_its_command_and_version_live_as_on_replay() {
    // After each decision the kit compares the state with that of an aggregate that is rebuilt from its events.
    given::<Visited>([event()])
        .at(7)
        .with_header("user", b"ada")
        .when(Command::Enter)
        .then_events([event(), event()])
        .through_a_snapshot()
        .when(Command::Enter)
        .then_rejected("Some(\"ada\") by command-1 of test at 7 to test is 3");
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

/// An aggregate that has only the functions with a context.
#[derive(Default)]
struct Stays {
    versions: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
enum Stayed {
    Stayed { place: String },
}

impl Aggregate for Stays {
    const TYPE: &'static str = "stays";
    type Command = Stayed;
    type Event = Stayed;
    type Error = String;

    fn handle_with(&self, stayed: Stayed, context: &Context<'_>) -> Result<Vec<Stayed>, String> {
        if context.aggregate_id().is_empty() { Err("nobody stays".to_owned()) } else { Ok(vec![stayed]) }
    }

    fn apply_with(&mut self, _: Stayed, context: &Applied<'_>) {
        self.versions.push(context.version());
    }
}

#[test]
fn an_aggregate_needs_only_the_functions_with_a_context() {
    let stayed = || Stayed::Stayed { place: "x".into() };
    let given = given::<Stays>([stayed()]).when(stayed()).then_events([stayed()]);
    assert_eq!(given.state().versions, [1, 2]);
}
