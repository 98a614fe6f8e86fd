//! An aggregate that hands out tasks, and a saga that does them. What the saga does shows in its stream and in notes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use wasmill_guest::prelude::*;

/// Hands out tasks and keeps notes.
#[derive(Debug, Default)]
pub struct Desk;

/// What it can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Starts an errand, or goes on with one.
    Ask {
        /// The errand.
        errand: Option<String>,
        /// What is to be done.
        tasks: Vec<Task>,
    },
    /// Goes on with an errand.
    Tell {
        /// The errand.
        errand: Option<String>,
        /// What is to be done.
        tasks: Vec<Task>,
    },
    /// Records a text.
    Note {
        /// The text.
        text: String,
    },
    /// Is refused with this reason.
    Refuse {
        /// The reason.
        reason: String,
    },
}

/// Something that an errand does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Records a text in its own stream.
    Record(String),
    /// Notes a text together with all that it has recorded.
    Say(String),
    /// Notes the second text if it has recorded the first.
    SayIf(String, String),
    /// Sends a note and asks for its outcome. The text comes back with it.
    Ask(String),
    /// Sends a command that is refused, and asks for its outcome.
    AskInVain(String),
    /// Sets a timer, by its name and milliseconds, with tasks.
    Wake(String, u64, Vec<Task>),
    /// Sets a timer that notes a text, by its name and milliseconds.
    NoteLater(String, u64, String),
    /// Cancels a timer.
    Cancel(String),
    /// Fails as the text says.
    Fail(String),
    /// Works so many million rounds, each of about a nanosecond.
    Work(u64),
    /// Records so many bytes.
    RecordLarge(usize),
    /// Ends.
    Complete,
    /// Ends with all undone.
    Compensated,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// An errand has tasks, and starts if it is new.
    Asked {
        /// The errand.
        errand: Option<String>,
        /// What is to be done.
        tasks: Vec<Task>,
    },
    /// An errand has further tasks.
    Told {
        /// The errand.
        errand: Option<String>,
        /// What is to be done.
        tasks: Vec<Task>,
    },
    /// A text was noted.
    Noted {
        /// The text.
        text: String,
    },
}

impl Aggregate for Desk {
    const TYPE: &'static str = "desk";
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<Event>, String> {
        Ok(vec![match command {
            Command::Ask { errand, tasks } => Event::Asked { errand, tasks },
            Command::Tell { errand, tasks } => Event::Told { errand, tasks },
            Command::Note { text } => Event::Noted { text },
            Command::Refuse { reason } => return Err(reason),
        }])
    }

    fn apply(&mut self, _: Event) {}
}
export_aggregate!(Desk);

thread_local! {
    /// How often an input with this text has failed.
    static FAILURES: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// An errand, which does its tasks.
#[derive(Debug, Default)]
pub struct Errand {
    recorded: Vec<String>,
}

/// What an errand has done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Done {
    /// It has recorded a text.
    Recorded(String),
}

#[derive(Deserialize)]
struct Tasks {
    errand: Option<String>,
    tasks: Vec<Task>,
}

impl Saga for Errand {
    const TYPE: &'static str = "errand";
    const STARTS: &'static [&'static str] = &["desk.Asked"];
    const SUBSCRIPTIONS: &'static [&'static str] = &["desk.Told"];
    type Event = Done;

    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        let Tasks { errand, .. } = event.json()?;
        match errand.as_deref() {
            Some("nobody knows") => Err(Failure::malformed("nobody knows the errand")),
            Some("panic") => panic!("told to panic"),
            _ => Ok(errand),
        }
    }

    fn handle(&self, event: &Delivery, step: &mut Step<Done>) -> Result<(), Failure> {
        let Tasks { tasks, .. } = event.json()?;
        self.work(tasks, step)
    }

    fn outcome(&self, outcome: &Outcome<'_>, step: &mut Step<Done>) -> Result<(), Failure> {
        let text: String = outcome.attachment()?;
        obey(&text)?;
        step.record(Done::Recorded(format!("{text}: {}", shortened(outcome.ending()))));
        Ok(())
    }

    fn timer(&self, timer: &Timer<'_>, step: &mut Step<Done>) -> Result<(), Failure> {
        self.work(timer.json()?, step)
    }

    fn apply(&mut self, Done::Recorded(text): Done) {
        self.recorded.push(text);
    }
}
export_saga!(Errand);

/// Leaves out the version and position, which depend on other errands.
fn shortened(ending: Ending<'_>) -> String {
    if ending.is_accepted() { "accepted".to_owned() } else { ending.to_string() }
}

impl Errand {
    fn work(&self, tasks: Vec<Task>, step: &mut Step<Done>) -> Result<(), Failure> {
        for task in tasks {
            match task {
                Task::Record(text) => step.record(Done::Recorded(text)),
                Task::Say(text) => {
                    let text = format!("{text}: {}", self.recorded.join(", "));
                    step.send("desk", "notes", &Command::Note { text })?;
                }
                Task::SayIf(recorded, text) if self.recorded.contains(&recorded) => {
                    step.send("desk", "notes", &Command::Note { text })?;
                }
                Task::SayIf(..) => {}
                Task::Ask(text) => {
                    let note = Command::Note { text: text.clone() };
                    step.send_command(OutgoingCommand::new("desk", "asked", &note)?.asking_outcome(&text)?);
                }
                Task::AskInVain(text) => {
                    let refuse = Command::Refuse { reason: "no".to_owned() };
                    step.send_command(OutgoingCommand::new("desk", "asked", &refuse)?.asking_outcome(&text)?);
                }
                Task::Wake(timer, ms, tasks) => step.wake(timer, Duration::from_millis(ms), &tasks)?,
                Task::NoteLater(timer, ms, text) => {
                    let note = OutgoingCommand::new("desk", "notes", &Command::Note { text })?;
                    step.send_at_timer(timer, Duration::from_millis(ms), note);
                }
                Task::Cancel(timer) => step.cancel(timer),
                Task::Fail(text) => obey(&text)?,
                Task::Work(millions) => {
                    // Each round needs the one before, so that the compiler can leave none out.
                    std::hint::black_box(
                        (0..millions * 1_000_000).fold(0, |sum, round| std::hint::black_box(sum ^ round)),
                    );
                }
                Task::RecordLarge(bytes) => step.record(Done::Recorded("x".repeat(bytes))),
                Task::Complete => step.complete(),
                Task::Compensated => step.compensated(),
            }
        }
        Ok(())
    }
}

/// Fails as a text says.
fn obey(text: &str) -> Result<(), Failure> {
    let failures = FAILURES.with_borrow_mut(|all| {
        let failures = all.entry(text.to_owned()).or_default();
        *failures += 1;
        *failures
    });
    match text.split_once(' ').map_or(text, |(first, _)| first) {
        "twice" if failures <= 2 => Err(Failure::retry(Duration::ZERO, format!("failure {failures} of {text}"))),
        "always" => Err(Failure::retry(Duration::ZERO, format!("failure {failures} of {text}"))),
        "refuse" => Err(Failure::rejected("as the text says")),
        "panic" => panic!("told to panic"),
        "loop" => loop {
            std::hint::black_box(failures);
        },
        _ => Ok(()),
    }
}
