//! A native aggregate that counts, and does what a test tells it: for races that no plugin could be made to lose.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use wasmill::ack::Ack;
use wasmill::aggregates::{Aggregates, Guest, Handlers, Inbox, Options, Service, Unaccepted};
use wasmill::clock::Clock;
use wasmill::model::{Command, NewEvent, Origin, Outcome, RecordedEvent, StreamId, Version};
use wasmill::plugin::{Error, Failure, Refusal};
use wasmill::store::EventStore;

/// The type of the aggregates.
pub const TYPE: &str = "counter";

/// What a test does while the aggregate decides on a command. Refuses it, or lets it count.
pub type Script = Arc<dyn Fn(&Command) -> Result<(), Refusal> + Send + Sync>;

/// Counters: each accepted command records an event with the count as its payload.
pub struct Counters {
    script: Script,
    /// Looks at what is durable when events are applied.
    store: Arc<dyn EventStore>,
}

/// The counters of a shard.
pub struct Shard {
    script: Script,
    store: Arc<dyn EventStore>,
}

/// One counter.
pub struct Counter {
    stream: StreamId,
    /// What it has counted, and what it decided last: one or nothing.
    count: Mutex<(u64, u64)>,
}

impl Counters {
    /// Serves counters on one shard.
    pub fn serve(store: &Arc<dyn EventStore>, options: Options, script: Script) -> Aggregates {
        let counters = Self { script, store: store.clone() };
        Aggregates::start([Service::native(TYPE, counters, 1, options)], store).expect("a shard")
    }
}

/// The stream of a counter.
pub fn counter(id: &str) -> StreamId {
    StreamId::new(TYPE, id)
}

/// A command to a counter, for which nobody waits but its sender.
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
        hops: 0,
        expected: None,
    }
}

/// The command that a ledger has at a number.
pub fn numbered(id: &str, name: &str, number: u64) -> Command {
    let origin = Origin { ledger: "kafka/counts/counts/0".into(), first: number, last: number };
    Command { origin: Some(origin), ..count(id, name) }
}

/// Outcomes in the order in which they came, each with the name of its command.
#[derive(Clone)]
pub struct Outcomes {
    sender: crossbeam_channel::Sender<(String, Outcome)>,
    receiver: crossbeam_channel::Receiver<(String, Outcome)>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let (sender, receiver) = crossbeam_channel::unbounded();
        Self { sender, receiver }
    }
}

impl Outcomes {
    /// Sends a command whose outcome will be here.
    pub fn of(&self, aggregates: &Aggregates, command: Command) {
        let ack = self.ack(&command);
        assert!(aggregates.send(command.into(), ack).is_ok(), "counters are served");
    }

    /// Offers a command whose outcome will be here. False where there was no room for it.
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
        let (sender, name) = (self.sender.clone(), command.name.to_string());
        Ack::new(move |outcome| sender.send((name, outcome)).expect("the test holds the receiver"))
    }

    /// The next one.
    pub fn next(&self) -> (String, Outcome) {
        self.receiver.recv_timeout(Duration::from_secs(60)).expect("an outcome")
    }
}

impl Handlers for Counters {
    type Guest = Shard;

    fn name(&self) -> Arc<str> {
        "counters".into()
    }

    fn guest(&self) -> Result<Shard, Error> {
        Ok(Shard { script: self.script.clone(), store: self.store.clone() })
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

    fn create(&mut self, id: &str) -> Result<Counter, Error> {
        Ok(Counter { stream: counter(id), count: Mutex::default() })
    }

    fn apply(&mut self, live: &Counter, events: &[RecordedEvent]) -> Result<Result<(), Failure>, Error> {
        live.count.lock().expect("one thread").0 += events.len() as u64;
        Ok(Ok(()))
    }

    fn handle(&mut self, live: &Counter, command: &Command) -> Result<Result<Vec<NewEvent>, Refusal>, Error> {
        let mut counter = live.count.lock().expect("one thread");
        let (count, decided) = &mut *counter;
        *count += std::mem::take(decided);
        let durable = self.store.reader().and_then(|mut reader| reader.stream_version(&live.stream));
        assert!(durable.is_ok_and(|version| version >= Version(*count)), "applied before it was durable");
        Ok((self.script)(command).map(|()| {
            *decided = 1;
            vec![NewEvent { name: "Counted".into(), payload: (*count + 1).to_string().into_bytes() }]
        }))
    }

    fn snapshot(&mut self, _: &Counter) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn restore(&mut self, _: &Counter, _: &[u8]) -> Result<Result<(), String>, Error> {
        Ok(Err("counters keep no snapshots".into()))
    }

    fn discard(&mut self, _: Counter) -> Result<(), Error> {
        Ok(())
    }
}
