//! Does wrong on command, in two roles of one component; and tells what it is told of its command.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;
use wasmill_guest::prelude::*;

/// Counts, and misbehaves.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Misbehaving {
    count: u64,
}

/// What it can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Command {
    /// The one thing that succeeds: records what the subscriber shall do with the event.
    Count {
        then: Then,
    },
    /// Records what the subscriber has handled.
    Note {
        count: u64,
    },
    /// Records nothing: it says no, with what the command follows from.
    Tell,
    Panic,
    Loop,
    TakeAllMemory,
}

/// What the subscriber does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Then {
    Nothing,
    CannotDecode,
    Panic,
    /// Sends the same command again, so that it never ends.
    Again,
    /// Asks for another try after a day, and says which delivery it was.
    Retry,
    /// Sends a command that notes the event, to the aggregate `notes-ID`.
    Note,
    /// Asks for another try twice, and then does as `Note`.
    NoteAtThird,
    /// Works for long, for seconds on most machines, and then does as `Note`.
    NoteSlowly,
    /// Never ends.
    Loop,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Event {
    Counted { count: u64, then: Then },
    Noted { count: u64 },
}

/// What it says instead of anything else.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Told(String);

impl Aggregate for Misbehaving {
    const TYPE: &'static str = "misbehaving";
    type Command = Command;
    type Event = Event;
    type Error = Told;
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();

    fn handle_with(&self, command: Command, context: &Context<'_>) -> Result<Vec<Event>, Told> {
        let Command::Tell = command else { return self.handle(command) };
        let told = context.metadata();
        Err(Told(format!("{} of {} by {:?}", told.id(), told.correlation_id(), told.causation_id())))
    }

    fn handle(&self, command: Command) -> Result<Vec<Event>, Told> {
        match command {
            Command::Count { then } => Ok(vec![Event::Counted { count: self.count + 1, then }]),
            Command::Note { count } => Ok(vec![Event::Noted { count }]),
            Command::Tell => Err(Told("nothing is told without a context".to_owned())),
            Command::Panic => panic!("told to panic at {}", self.count),
            Command::Loop => loop {
                std::hint::black_box(self.count);
            },
            Command::TakeAllMemory => {
                let mut taken = Vec::new();
                loop {
                    taken.push(std::hint::black_box(vec![1_u8; 1 << 20]));
                }
            }
        }
    }

    fn apply(&mut self, event: Event) {
        if let Event::Counted { .. } = event {
            self.count += 1;
        }
    }
}
export_aggregate!(Misbehaving);

thread_local! {
    /// Deliveries that were to be tried again.
    static DELIVERIES: Cell<u32> = const { Cell::new(0) };

    /// How often each event was to be tried again: the events by the id of their aggregate and their count.
    static TRIES: RefCell<BTreeMap<(String, u64), u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// Misbehaves with the events that say so.
pub struct Grumbler;

#[derive(Deserialize)]
struct Counted {
    count: u64,
    then: Then,
}

impl Subscriber for Grumbler {
    const SUBSCRIPTIONS: &'static [&'static str] = &["misbehaving.Counted"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        let Counted { count, then } = delivery.json()?;
        let id = delivery.aggregate_id()?;
        match then {
            Then::Nothing => Ok(()),
            Then::CannotDecode => {
                // An effect of a delivery that fails must not be kept.
                outbox.send("misbehaving", id, &Command::Count { then: Then::Nothing })?;
                Err(Failure::malformed("it makes no sense"))
            }
            Then::Panic => panic!("told to panic by an event"),
            Then::Again => Ok(outbox.send("misbehaving", id, &Command::Count { then: Then::Again })?),
            Then::Retry => {
                let delivery = DELIVERIES.get() + 1;
                DELIVERIES.set(delivery);
                Err(Failure::retry(Duration::from_secs(86_400), format!("delivery {delivery}")))
            }
            Then::NoteAtThird if tries(id, count) < 3 => Err(Failure::retry(Duration::ZERO, "not yet")),
            Then::Note | Then::NoteAtThird | Then::NoteSlowly => {
                if then == Then::NoteSlowly {
                    // Each round needs the one before, so that the compiler can leave none out.
                    std::hint::black_box(
                        (0..1_000_000_000_u64).fold(0, |sum, round| std::hint::black_box(sum ^ round)),
                    );
                }
                Ok(outbox.send("misbehaving", format!("notes-{id}"), &Command::Note { count })?)
            }
            Then::Loop => loop {
                std::hint::black_box(count);
            },
        }
    }
}
export_subscriber!(Grumbler);

/// Counts a try of an event.
fn tries(id: &str, count: u64) -> u32 {
    TRIES.with_borrow_mut(|tries| {
        let tried = tries.entry((id.to_owned(), count)).or_default();
        *tried += 1;
        *tried
    })
}
