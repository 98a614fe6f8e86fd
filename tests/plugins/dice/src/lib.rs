//! The aggregate `dice`, a subscriber to it and a projection of it, which ask WASI for time and randomness wherever they can, and
//! which leak handles of WASI and use it wrongly on command.
//!
//! What they see is in the events, in the state, in the commands and in the answers, so that tests can compare it.

use std::time::Duration;
use wasip2::{clocks, random};
use wasmill_guest::prelude::*;

/// What WASI shows at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    wall_ms: u64,
    running_ns: u64,
    random: [u64; 2],
    insecure: u64,
    seed: (u64, u64),
}

impl Seen {
    fn now() -> Self {
        let wall = clocks::wall_clock::now();
        let wall = Duration::new(wall.seconds, wall.nanoseconds);
        #[cfg(target_os = "wasi")]
        assert_eq!(
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok(),
            Some(wall),
            "std shows the same time"
        );
        let bytes = random::random::get_random_bytes(8);
        let bytes = bytes.try_into().map_or(0, u64::from_le_bytes);
        Self {
            wall_ms: wall.as_millis() as u64,
            running_ns: clocks::monotonic_clock::now(),
            random: [random::random::get_random_u64(), bytes],
            insecure: random::insecure::get_insecure_random_u64(),
            seed: random::insecure_seed::insecure_seed(),
        }
    }
}

/// Everything that was seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Dice {
    /// For each event, what was seen when it was decided and when it was applied.
    rolls: Vec<(Seen, Seen)>,
    /// What the subscriber saw.
    seen_by_subscriber: Vec<Seen>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Command {
    /// Decides on this number of events.
    Roll(u32),
    /// Keeps what the subscriber saw.
    Keep(Seen),
    /// Is rejected with the state.
    Show,
    /// Is rejected with what a call beside all items sees.
    Sleep,
    /// Leaks this number of handles, and has the subscriber and the projection do so.
    Leak(u32),
    /// Asks for this many random bytes at once.
    Random(u64),
    /// Waits for nothing.
    Wait,
    /// Writes these lines to standard error and traps.
    Die(Vec<String>),
}

/// Takes handles and never drops them, as a runtime does that forgets a timer.
fn leak(count: u32) {
    for _ in 0..count {
        std::mem::forget(clocks::monotonic_clock::subscribe_duration(0));
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Rolled(Seen),
    Kept(Seen),
    Leaked(u32),
}

impl Aggregate for Dice {
    const TYPE: &'static str = "dice";
    const SNAPSHOTS: Snapshots<Self> = Snapshots::json();
    type Command = Command;
    type Event = Event;
    type Error = String;

    fn handle(&self, command: Command) -> Result<Vec<Event>, String> {
        match command {
            Command::Roll(count) => Ok((0..count).map(|_| Event::Rolled(Seen::now())).collect()),
            Command::Keep(seen) => Ok(vec![Event::Kept(seen)]),
            Command::Show => Err(serde_json::to_string(self).unwrap_or_default()),
            Command::Sleep => {
                #[cfg(target_os = "wasi")]
                {
                    let begun = std::time::Instant::now();
                    std::thread::sleep(Duration::from_secs(3_600));
                    println!("slept");
                    eprintln!("for {} s", begun.elapsed().as_secs());
                }
                Err("awake".to_owned())
            }
            Command::Leak(count) => {
                leak(count);
                Ok(vec![Event::Leaked(count)])
            }
            Command::Random(bytes) => Err(format!("{} bytes", random::random::get_random_bytes(bytes).len())),
            Command::Wait => Err(format!("{} are ready", wasip2::io::poll::poll(&[]).len())),
            Command::Die(lines) => {
                let errors = wasip2::cli::stderr::get_stderr();
                for line in lines {
                    let _ = errors.blocking_write_and_flush(format!("{line}\n").as_bytes());
                }
                #[cfg(target_arch = "wasm32")]
                std::arch::wasm32::unreachable();
                #[cfg(not(target_arch = "wasm32"))]
                Err("it dies as a component alone".to_owned())
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Rolled(decided) => self.rolls.push((decided, Seen::now())),
            Event::Kept(seen) => self.seen_by_subscriber.push(seen),
            Event::Leaked(_) => {}
        }
    }
}
export_aggregate!(Dice);

/// Sends what it sees to the aggregate.
struct Watcher;

impl Subscriber for Watcher {
    const SUBSCRIPTIONS: &'static [&'static str] = &["dice.Rolled", "dice.Leaked"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        if delivery.name() == "Leaked" {
            leak(delivery.json()?);
            return Ok(());
        }
        outbox.send("dice", delivery.aggregate_id()?, &Command::Keep(Seen::now()))?;
        Ok(())
    }
}
export_subscriber!(Watcher);

/// Answers with what it sees.
struct Table;

#[derive(Debug, Serialize, Deserialize)]
enum Query {
    /// Answers with the time in milliseconds.
    Now,
    /// Leaks this number of handles.
    Leak(u32),
}

impl Projection for Table {
    const NAME: &'static str = "table";
    const SUBSCRIPTIONS: &'static [&'static str] = &["dice.Leaked"];
    const SCHEMA: &'static str = "CREATE TABLE leaked (count INTEGER NOT NULL)";
    type Query = Query;

    fn project(event: &wasmill_guest::projection::Event, sql: &Sql) -> Result<(), Failure> {
        if let Event::Leaked(count) = event.decode()? {
            leak(count);
            sql.execute("INSERT INTO leaked VALUES (?1)", params![count])?;
        }
        Ok(())
    }

    fn query(query: Query, _: &Sql) -> Result<Answer, QueryError> {
        match query {
            Query::Now => Answer::json(&Seen::now().wall_ms),
            Query::Leak(count) => {
                leak(count);
                Answer::json(&count)
            }
        }
    }
}
export_projection!(Table);
