//! Requests to a store, and the commands for them.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use wasmill::ack::Ack;
use wasmill::clock::Clock;
use wasmill::filter::Filter;
use wasmill::model::*;
use wasmill::store::*;

/// Longest wait for an answer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A request without an answer yet.
pub struct Pending<T>(Receiver<Result<T, Error>>);

impl<T> Pending<T> {
    /// Waits for the answer.
    pub fn answer(self) -> Result<T, Error> {
        self.0.recv_timeout(PATIENCE).expect("a store answers every request")
    }
}

/// Sends a request without waiting for the answer. The request is queued when this returns.
pub fn ask<T: Send + 'static>(request: impl FnOnce(Ack<Result<T, Error>>)) -> Pending<T> {
    let (answer, answered) = sync_channel(1);
    // If a test has failed, nobody waits for the answer.
    request(Ack::new(move |result| drop(answer.send(result))));
    Pending(answered)
}

/// Requests an append without waiting for the answer.
pub fn ask_append(
    store: &dyn EventStore,
    command: Command,
    expected: ExpectedVersion,
    decision: Decision,
) -> Pending<Appended> {
    ask(|done| store.append(Append { command: command.into(), expected, decision, chain: None }, done))
}

/// Appends and waits for the answer.
pub fn append(
    store: &dyn EventStore,
    command: Command,
    expected: ExpectedVersion,
    decision: Decision,
) -> Result<Appended, Error> {
    ask_append(store, command, expected, decision).answer()
}

/// Appends this many events to a stream, whatever its version is.
pub fn record(store: &dyn EventStore, stream: &StreamId, count: usize) -> Appended {
    append(store, command(stream, "recorded"), ExpectedVersion::Any, happened(count)).expect("an append succeeds")
}

/// A callback of this key, as a delivery of it asks for one.
pub fn callback(key: &str, content: CallbackContent) -> Box<Callback> {
    Box::new(Callback {
        key: Some(key.into()),
        correlation_id: "correlation".into(),
        causation_id: "cause".into(),
        hops: 0,
        first_ms: 1,
        headers: Vec::new(),
        content,
    })
}

/// Requests a step and waits for the answer.
pub fn advance(store: &dyn EventStore, progress: Step) -> Result<Advanced, Error> {
    ask(|done| store.advance(progress, done)).answer()
}

/// Returns the statistics of a store that offers maintenance.
pub fn statistics(store: &dyn EventStore, count: bool) -> Statistics {
    store.maintenance().expect("a store with maintenance").statistics(count).expect("it is counted")
}

/// Returns a stream of the aggregates `order`.
pub fn order(id: impl ToString) -> StreamId {
    StreamId::new("order", id.to_string())
}

/// Makes a command without origin whose id is not remembered.
pub fn command(stream: &StreamId, id: &str) -> Command {
    Command {
        stream: stream.clone(),
        name: "Do".into(),
        payload: b"{}".to_vec(),
        id: id.into(),
        time_ms: Clock::system().now_ms(),
        correlation_id: "correlation".into(),
        causation_id: id.into(),
        headers: Vec::new(),
        origin: None,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    }
}

/// Makes a command whose sender chose its id.
pub fn durable(stream: &StreamId, id: &str) -> Command {
    Command { durable_id: true, ..command(stream, id) }
}

/// Makes a command whose origin is this number of a ledger, without a gap before it.
pub fn numbered(stream: &StreamId, ledger: &str, number: u64) -> Command {
    Command { origin: Some(origin(ledger, number, number)), ..command(stream, &format!("{ledger}:{number}")) }
}

/// Makes the origin of an item of a ledger.
pub fn origin(ledger: &str, first: u64, last: u64) -> Origin {
    Origin { ledger: ledger.into(), first, last }
}

/// Makes a decision with this many events.
pub fn happened(count: usize) -> Decision {
    Decision::Events((0..count).map(|n| event("Happened", n)).collect())
}

/// Makes an event with this payload.
pub fn event(name: &str, payload: impl ToString) -> NewEvent {
    NewEvent { name: name.to_owned(), payload: payload.to_string().into_bytes() }
}

/// Makes a step of a subscription without effects.
pub fn step(subscription: &str, from: Position, to: Position) -> Step {
    Step::new(subscription.into(), Reached::Events { from, to })
}

/// Makes a message of the outbox.
pub fn message(id: &str) -> Message {
    Message {
        id: id.into(),
        topic: "notifications".to_owned(),
        key: Some(vec![0, 255]),
        partition: None,
        headers: vec![Header { name: "empty".to_owned(), value: None }],
        payload: Some(id.into()),
        time_ms: 1,
        correlation_id: "correlation".into(),
        causation_id: "cause".into(),
        hops: 0,
        source: "notifier".into(),
    }
}

/// Makes a dead letter.
pub fn letter(place: &str) -> DeadLetter {
    DeadLetter {
        consumer: "warehouse".to_owned(),
        place: place.to_owned(),
        key: None,
        reason: "it does not decode".to_owned(),
        time_ms: Some(1),
        content: DeadLetterContent::Gone,
    }
}

/// Returns the newest dead letters, without their numbers, and how many there are in all.
pub fn letters(store: &dyn EventStore, limit: usize) -> (Vec<DeadLetter>, u64) {
    let (letters, total) = reader(store).dead_letters(&DeadLetterQuery::newest(limit)).expect("dead letters are read");
    (letters.into_iter().map(|kept| kept.letter).collect(), total)
}

/// Returns a reader of the store.
pub fn reader(store: &dyn EventStore) -> Box<dyn Reader> {
    store.reader().expect("a store can be read")
}

/// Returns all events, in order.
pub fn all_events(store: &dyn EventStore) -> Vec<RecordedEvent> {
    let (mut reader, mut events, mut reached) = (reader(store), Vec::new(), Position(0));
    loop {
        let page = reader.read_all(reached, &Filter::all(), 1_000).expect("events are read");
        if page.reached == reached {
            return events;
        }
        reached = page.reached;
        events.extend(page.events);
    }
}

/// Returns the events of a stream, which must be whole in both directions.
pub fn whole_stream(reader: &mut dyn Reader, stream: &StreamId) -> Vec<RecordedEvent> {
    let events = reader.read_stream(stream, Version(0), usize::MAX).expect("a stream is read");
    let before = Version(events.len() as u64 + 1);
    let mut backwards = reader.read_stream_backwards(stream, before, usize::MAX).expect("a stream is read backwards");
    backwards.reverse();
    assert_eq!(events, backwards, "{stream} reads the same in both directions");
    for (event, version) in events.iter().zip(1..) {
        assert_eq!((event.version, &event.stream), (Version(version), stream), "{stream} has no gaps");
    }
    assert!(events.is_sorted_by(|one, next| one.position < next.position), "{stream} is in the order of positions");
    events
}
