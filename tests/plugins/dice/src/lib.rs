//! The aggregate `dice` and a subscriber to it, which ask WASI for time and randomness wherever they can.
//!
//! What they see is in the events, in the state and in the commands, so that tests can compare it.

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
}

#[derive(Debug, Serialize, Deserialize)]
enum Event {
    Rolled(Seen),
    Kept(Seen),
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
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Rolled(decided) => self.rolls.push((decided, Seen::now())),
            Event::Kept(seen) => self.seen_by_subscriber.push(seen),
        }
    }
}
export_aggregate!(Dice);

/// Sends what it sees to the aggregate.
struct Watcher;

impl Subscriber for Watcher {
    const SUBSCRIPTIONS: &'static [&'static str] = &["dice.Rolled"];

    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
        outbox.send("dice", delivery.aggregate_id()?, &Command::Keep(Seen::now()))?;
        Ok(())
    }
}
export_subscriber!(Watcher);
