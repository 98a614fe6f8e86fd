//! A native aggregate that counts and does what a test tells it. With it tests provoke races that a plugin can't.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use wasmill::ack::Ack;
use wasmill::aggregates::{Aggregates, Guest, GuestError, Handlers, Inbox, Options, Service, Unaccepted};
use wasmill::clock::Clock;
use wasmill::model::{Command, NewEvent, Origin, Outcome, RecordedEvent, StreamId, Version};
use wasmill::model::{Failure, Refusal};
use wasmill::store::EventStore;

/// The type of the aggregates.
pub const TYPE: &str = "counter";

/// Code of a test that runs while the aggregate decides on a command. It refuses the command or lets it count.
pub type Script = Arc<dyn Fn(&Command) -> Result<(), Refusal> + Send + Sync>;

/// The handlers of counters. Each accepted command records an event with the count as its payload.
pub struct Counters {
    script: Script,
}

/// The counters of a shard.
pub struct Shard {
    script: Script,
}

/// One counter.
pub struct Counter {
    /// The count, and the last decision: one or nothing.
    count: Mutex<(u64, u64)>,
}

impl Counters {
    /// Serves counters on one shard.
    pub fn serve(store: &Arc<dyn EventStore>, options: Options, script: Script) -> Aggregates {
        Aggregates::start([Service::new(TYPE, Self { script }, 1, options)], store).expect("a shard")
    }
}

/// Returns the stream of a counter.
pub fn counter(id: &str) -> StreamId {
    StreamId::new(TYPE, id)
}

/// Makes a command to a counter, without origin.
pub fn count(id: &str, name: &str) -> Command {
    let command_id: Arc<str> = uuid::Uuid::now_v7().to_string().into();
    Command {
        stream: counter(id),
        name: name.into(),
        payload: Vec::new(),
        correlation_id: command_id.clone(),
        causation_id: command_id.clone(),
        id: command_id,
        time_ms: Clock::system().now_ms(),
        headers: Vec::new(),
        origin: None,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    }
}

/// Makes a command whose origin is this number of a ledger.
pub fn numbered(id: &str, name: &str, number: u64) -> Command {
    let origin = Origin { ledger: "kafka/counts/counts/0".into(), first: number, last: number };
    Command { origin: Some(origin), ..count(id, name) }
}

/// Outcomes in the order of their arrival.
#[derive(Clone)]
pub struct Outcomes {
    /// The store, for checking what is durable when an outcome arrives.
    store: Arc<dyn EventStore>,
    sender: crossbeam_channel::Sender<Arrived>,
    receiver: crossbeam_channel::Receiver<Arrived>,
}

/// An outcome that has arrived.
struct Arrived {
    /// The name of the command.
    name: String,
    outcome: Outcome,
    /// Whether the store had its events then.
    is_durable: bool,
}

impl Outcomes {
    /// Creates a queue of outcomes of aggregates with this store.
    pub fn new(store: &Arc<dyn EventStore>) -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self { store: store.clone(), sender, receiver }
    }

    /// Sends a command whose outcome will arrive here.
    pub fn of(&self, aggregates: &Aggregates, command: Command) {
        let ack = self.ack(&command);
        assert!(aggregates.send(command.into(), ack).is_ok(), "counters are served");
    }

    /// Offers a command whose outcome will arrive here. Returns false if there was no room for it.
    pub fn offer(&self, aggregates: &Aggregates, command: Command) -> bool {
        let ack = self.ack(&command);
        match aggregates.offer(command.into(), ack) {
            Ok(()) => true,
            Err(Unaccepted::Full(_, ack)) => {
                ack.cancel();
                false
            }
            Err(Unaccepted::NoSuchAggregate { .. } | Unaccepted::InvalidId { .. }) => panic!("counters are served"),
        }
    }

    fn ack(&self, command: &Command) -> Ack<Outcome> {
        let (Self { store, sender, .. }, command) = (self.clone(), command.clone());
        Ack::new(move |outcome| {
            let is_durable = match &outcome {
                Outcome::Accepted { version, .. } => store
                    .reader()
                    .and_then(|mut reader| reader.stream_version(&command.stream))
                    .is_ok_and(|is| is >= *version),
                _ => true,
            };
            let arrived = Arrived { name: command.name.to_string(), outcome, is_durable };
            sender.send(arrived).expect("the test holds the receiver");
        })
    }

    /// Waits for the next outcome, with the name of its command. Panics if it came before its events were durable.
    pub fn next(&self) -> (String, Outcome) {
        let arrived = self.receiver.recv_timeout(Duration::from_secs(60)).expect("an outcome");
        assert!(arrived.is_durable, "{} was answered before it was durable: {:?}", arrived.name, arrived.outcome);
        (arrived.name, arrived.outcome)
    }
}

impl Handlers for Counters {
    type Guest = Shard;

    fn name(&self) -> Arc<str> {
        "counters".into()
    }

    fn guest(&self) -> Result<Shard, GuestError> {
        Ok(Shard { script: self.script.clone() })
    }

    fn is_current(&self, _: &Shard) -> bool {
        true
    }
}

impl Guest for Shard {
    type Live = Counter;

    fn label(&self) -> Arc<str> {
        "counters 1".into()
    }

    fn code(&self) -> Arc<str> {
        "counters 1".into()
    }

    fn instances_max(&self) -> usize {
        100
    }

    fn memory_bytes(&self) -> usize {
        0
    }

    fn live_bytes_max(&self) -> usize {
        usize::MAX
    }

    fn is_worn(&self) -> bool {
        false
    }

    fn create(&mut self, _: &str) -> Result<Counter, GuestError> {
        Ok(Counter { count: Mutex::default() })
    }

    fn apply(&mut self, live: &Counter, events: &[RecordedEvent]) -> Result<Result<(), Failure>, GuestError> {
        live.count.lock().expect("one thread").0 += events.len() as u64;
        Ok(Ok(()))
    }

    fn handle(&mut self, live: &Counter, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, GuestError> {
        let mut counter = live.count.lock().expect("one thread");
        let (count, decided) = &mut *counter;
        *count += std::mem::take(decided);
        Ok((self.script)(command).map(|()| {
            *decided = 1;
            vec![NewEvent { name: "Counted".into(), payload: (*count + 1).to_string().into_bytes() }]
        }))
    }

    fn snapshot(&mut self, live: &Counter) -> Result<Option<Vec<u8>>, GuestError> {
        let mut counter = live.count.lock().expect("one thread");
        let (count, decided) = &mut *counter;
        *count += std::mem::take(decided);
        Ok(Some(count.to_string().into_bytes()))
    }

    fn restore(&mut self, live: &Counter, state: &[u8], _: Version) -> Result<Result<(), String>, GuestError> {
        let count = std::str::from_utf8(state).ok().and_then(|state| state.parse().ok());
        Ok(count.map(|count| live.count.lock().expect("one thread").0 = count).ok_or_else(|| "no count".into()))
    }

    fn discard(&mut self, _: Counter) -> Result<(), GuestError> {
        Ok(())
    }
}
