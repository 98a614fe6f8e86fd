//! Asks for outcomes, sets timers and cancels them, as its events say. What comes back is noted in an aggregate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
use wasmill_guest::prelude::*;

/// Records what the subscriber shall do, and what came back to it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Clerk {
    notes: u64,
}

/// What it can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Records tasks for the subscriber.
    Do {
        /// The tasks, in order.
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
    /// Panics.
    Panic,
}

/// Something that the subscriber does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// Sends a command and asks for its outcome.
    Ask {
        /// The aggregate, as `TYPE/ID`.
        to: String,
        /// The command.
        command: Sent,
        /// The version that the stream must have.
        #[serde(default)]
        expected: Option<u64>,
        /// What comes back with the outcome.
        text: String,
    },
    /// Sets a timer that wakes the subscriber.
    Wake {
        /// Its name.
        timer: String,
        /// When it is due.
        due: When,
        /// Its payload.
        text: String,
    },
    /// Sets so many timers for one time, named by number.
    WakeMany {
        /// The beginning of their names.
        timer: String,
        /// When they are due.
        due: When,
        /// How many.
        count: u32,
    },
    /// Sets a timer that notes a text.
    NoteLater {
        /// Its name, if it has one.
        timer: Option<String>,
        /// When it is due.
        due: When,
        /// The text.
        text: String,
    },
    /// Cancels a timer.
    Cancel {
        /// Its name.
        timer: String,
    },
}

/// When a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum When {
    /// This many milliseconds after the commit.
    After(u64),
    /// At this time.
    At(u64),
}

impl From<When> for Due {
    fn from(when: When) -> Self {
        match when {
            When::After(ms) => Due::After(Duration::from_millis(ms)),
            When::At(ms) => Due::At(ms),
        }
    }
}

/// A command that the subscriber sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Sent {
    /// Is accepted.
    Note {
        /// The text.
        text: String,
    },
    /// Is refused.
    Refuse {
        /// The reason.
        reason: String,
    },
    /// Panics in all attempts.
    Panic,
    /// Is unknown.
    Nonsense,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The subscriber has tasks.
    Told {
        /// The tasks.
        tasks: Vec<Task>,
    },
    /// A text was noted.
    Noted {
        /// The text.
        text: String,
    },
}

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

impl Aggregate for Clerk {
    const TYPE: &'static str = "clerk";
    type Command = Command;
    type Event = Event;
    type Error = Refused;

    fn handle(&self, command: Command) -> Result<Vec<Event>, Refused> {
        match command {
            Command::Do { tasks } => Ok(vec![Event::Told { tasks }]),
            Command::Note { text } => Ok(vec![Event::Noted { text }]),
            Command::Refuse { reason } => Err(Refused(reason)),
            Command::Panic => panic!("told to panic after {} notes", self.notes),
        }
    }

    fn apply(&mut self, event: Event) {
        if let Event::Noted { .. } = event {
            self.notes += 1;
        }
    }
}
export_aggregate!(Clerk);

thread_local! {
    /// How often a callback with this text has failed.
    static FAILURES: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// Does what the events say.
pub struct Errands;

#[derive(Deserialize)]
struct Told {
    tasks: Vec<Task>,
}

impl Subscriber for Errands {
    const SUBSCRIPTIONS: &'static [&'static str] = &["clerk.Told"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let Told { tasks } = delivery.json()?;
        tasks.into_iter().try_for_each(|task| work_on(task, outbox))
    }

    fn outcome(outcome: &Outcome<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let text: String = outcome.attachment()?;
        obey(&text)?;
        let (to, ending) = (outcome.aggregate_id(), outcome.ending());
        note(outbox, format!("{text}: {} to {to} was {ending}", outcome.command()))
    }

    fn timer(timer: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let text: String = timer.json()?;
        if timer.name().starts_with("into-") {
            return Ok(outbox.send("clerk", timer.name(), &Command::Note { text })?);
        }
        obey(&text)?;
        if let Some(other) = text.strip_prefix("cancel ") {
            outbox.cancel(other);
        }
        note(outbox, format!("timer {}: {text}", timer.name()))
    }
}
export_subscriber!(Errands);

fn work_on(task: Task, outbox: &mut Outbox) -> Result<(), Failure> {
    match task {
        Task::Ask { to, command, expected, text } => {
            let (aggregate_type, id) = to.split_once('/').ok_or_else(|| Failure::malformed("no aggregate"))?;
            let mut command = OutgoingCommand::new(aggregate_type, id, &command)?;
            if let Some(version) = expected {
                command = command.expecting(version);
            }
            outbox.send_command(command.asking_outcome(&text)?);
        }
        Task::Wake { timer, due, text } => outbox.wake(timer, due, &text)?,
        Task::WakeMany { timer, due, count } => {
            for number in 0..count {
                outbox.wake(format!("{timer}{number}"), due, &number.to_string())?;
            }
        }
        Task::NoteLater { timer, due, text } => {
            let note = OutgoingCommand::new("clerk", "notes", &Command::Note { text })?;
            match timer {
                Some(timer) => outbox.send_at_timer(timer, due, note),
                None => outbox.send_later(due, note),
            }
        }
        Task::Cancel { timer } => outbox.cancel(timer),
    }
    Ok(())
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
        "loop" => loop {
            std::hint::black_box(failures);
        },
        _ => Ok(()),
    }
}

fn note(outbox: &mut Outbox, text: String) -> Result<(), Failure> {
    Ok(outbox.send("clerk", "notes", &Command::Note { text })?)
}
