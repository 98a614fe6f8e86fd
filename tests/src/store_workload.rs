//! Work for a store that is going to be killed, made so that the result can be checked without knowing when.
//!
//! A source numbers items, and the outcome of an item follows from its number alone. A subscription copies each of
//! their events, with a command and with a message that a sink publishes, counts its steps in sagas, and makes an HTTP request
//! in each. Senders choose the ids of further commands.
//! Dead letters are retried or discarded, and streams are archived. So the marks of the store (ledgers, checkpoint,
//! sink's position) tell exactly which effects must be there.

use crate::store_conformance::requests::*;
use fastrand::Rng;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::thread;
use tokio::runtime::Builder;
use wasmill::ack::Ack;
use wasmill::filter::Filter;
use wasmill::model::*;
use wasmill::store::*;

const SOURCE: &str = "kafka/items/items/0";
const SUBSCRIPTION: &str = "copier";
/// A subscription that is divided into segments.
const DIVIDED: &str = "divided";
const SINK: &str = "kafka";

/// The fact with the numbers of outcomes and of responses that the subscription has handled.
const HANDLED: &str = "handled";

/// The requests of the subscription.
const REQUESTS: RequestQueue<'static> = RequestQueue { subscription: SUBSCRIPTION, endpoint: "server" };

/// The aggregate type of the sagas that count the steps of the subscription.
const SAGA: &str = "tally";

/// The number of events with which such a saga ends.
const SAGA_EVENTS: u64 = 3;

/// Number of consecutive items whose order is shuffled.
const WINDOW: u64 = 100;

/// The outcome of an item of the source.
enum Fate {
    Events(usize),
    Rejected,
    Malformed,
    DeadLettered,
}

fn fate(number: u64) -> Fate {
    match (number % 17, number % 10) {
        (5, _) => Fate::DeadLettered,
        (_, 3) => Fate::Malformed,
        (_, 7) => Fate::Rejected,
        _ => Fate::Events(1 + number as usize % 3),
    }
}

fn item(number: u64) -> Command {
    Command {
        name: "Item".into(),
        id: format!("item-{number}").into(),
        ..numbered(&order(number % 40), SOURCE, number)
    }
}

/// Works until it is killed, with many requests in flight, and prints a line for each that is acknowledged.
pub fn work(store: Arc<dyn EventStore>, seed: u64) {
    let copying = store.clone();
    thread::spawn(move || copy(&*copying));
    let tended = store.clone();
    thread::spawn(move || tend(&*tended));
    let served = store.clone();
    thread::spawn(move || serve(&*served));
    let mut rng = Rng::with_seed(seed);
    let mut first = reader(&*store).ledger(SOURCE).expect("a ledger is read").next;
    for round in 0.. {
        let mut window: Vec<u64> = (first..first + WINDOW).collect();
        rng.shuffle(&mut window);
        window.into_iter().for_each(|number| handle(&*store, number));
        let id = format!("id-{seed}-{round}");
        for _ in 0..2 {
            let command = durable(&StreamId::new("chosen", (round % 5).to_string()), &id);
            let append =
                Append { command: command.into(), expected: ExpectedVersion::Any, decision: happened(1), chain: None };
            store.append(append, acknowledge(id.clone()));
        }
        close(&*store, &id);
        first += WINDOW;
    }
}

fn handle(store: &dyn EventStore, number: u64) {
    let decision = match fate(number) {
        Fate::Events(count) => happened(count),
        Fate::Rejected => Decision::Rejected("no".to_owned()),
        Fate::Malformed => Decision::Malformed("what?".to_owned()),
        Fate::DeadLettered => {
            let command = item(number);
            let letter = letter(&command.origin.as_ref().expect("items have origins").place());
            return store.dead_letter(letter, command.origin, acknowledge(format!("item-{number}")));
        }
    };
    let append = Append { command: item(number).into(), expected: ExpectedVersion::Any, decision, chain: None };
    store.append(append, acknowledge(format!("item-{number}")));
}

/// Archives a stream, restores it, and archives it again.
fn close(store: &dyn EventStore, id: &str) {
    let stream = closed(id);
    let append = Append {
        command: command(&stream, "Close").into(),
        expected: ExpectedVersion::NoStream,
        decision: happened(1),
        chain: None,
    };
    store.append(
        append,
        Ack::new(|recorded: Result<Appended, Error>| assert!(recorded.is_ok(), "it is new: {recorded:?}")),
    );
    store.archive(stream.clone(), Ack::new(|archived: Result<(), Error>| archived.expect("it has an event")));
    store.restore(stream.clone(), Ack::new(|restored: Result<(), Error>| restored.expect("it has an event")));
    store.archive(stream, acknowledge(format!("archived {id}")));
}

fn closed(id: &str) -> StreamId {
    StreamId::new("closed", id)
}

/// Retries dead-lettered commands: some fail again first, then there is an event. Discards the rest.
fn tend(store: &dyn EventStore) {
    let (mut reader, mut after) = (reader(store), 0);
    let (mut head, runtime) = (store.dead_letters_head(), Builder::new_current_thread().build().expect("a runtime"));
    loop {
        let newest = *runtime.block_on(head.wait_for(|newest| *newest > after)).expect("the store is open");
        for KeptDeadLetter { number, letter, .. } in
            reader.dead_letters_after(after, usize::MAX).expect("letters are read")
        {
            after = number;
            let DeadLetterContent::Command(command) = letter.content else {
                ask(|done| store.discard_dead_letter(number, done)).answer().expect("nobody else discards");
                ask(|done| store.set_fact("discarded", Some(number.to_string()), done))
                    .answer()
                    .expect("a fact is kept");
                println(&format!("discarded {}", letter.place));
                continue;
            };
            let again = Command { name: "Again".into(), origin: Some(dead_letter_origin(number)), ..command };
            let id = again.id.clone();
            if number % 2 == 0 {
                let malformed = Decision::Malformed("still".to_owned());
                append(store, again.clone(), ExpectedVersion::Any, malformed).expect("it is dead-lettered again");
            }
            append(store, again, ExpectedVersion::Any, happened(1)).expect("nobody else tries it");
            println(&format!("replayed {id}"));
        }
        // Earlier dead letters may be gone.
        after = after.max(newest);
    }
}

/// Sends pending commands first, then follows the store from the checkpoint on, and publishes.
fn copy(store: &dyn EventStore) {
    let (mut reader, filter) = (reader(store), Filter::parse(["order.*"]).expect("a filter"));
    reader.pending_commands(SUBSCRIPTION).expect("pending commands are read").into_iter().for_each(|c| send(store, c));
    let mut from = reader.checkpoint(SUBSCRIPTION).expect("a checkpoint is read").unwrap_or_default();
    let mut counted = sagas(&mut *reader).len() as u64;
    loop {
        let Page { events, reached } = reader.read_all(from, &filter, 50).expect("events are read");
        let held = reader.held_keys(SUBSCRIPTION).expect("held keys are read");
        let step = Step {
            key: toggled(&held, events.first()),
            commands: events.iter().map(|event| copying(event.position)).collect(),
            messages: events.iter().map(|event| message(&format!("message-{}", event.position))).collect(),
            sagas: events.last().map(|_| counting(counted, reached)).into_iter().collect(),
            requests: events.last().map(|_| request(counted)).into_iter().collect(),
            callbacks: vec![CallbackChange::Set {
                name: Some("turn".into()),
                due: Due::After(0),
                callback: Box::new(turn()),
            }],
            ..step(SUBSCRIPTION, from, reached)
        };
        let advanced = advance(store, step).expect("nobody else moves the checkpoint");
        println(&format!("checkpoint {reached}"));
        counted += u64::from(!events.is_empty());
        from = reached;
        divide(store, counted);
        advanced.commands.into_iter().for_each(|command| send(store, command));
        call_back(store, &mut *reader);
        let published = reader.sink_position(SINK).expect("a sink's position is read").unwrap_or_default();
        if let Some((last, _)) = reader.messages(published, 70).expect("messages are read").last() {
            ask(|done| store.published(SINK, published, *last, Vec::new(), done))
                .answer()
                .expect("nobody else publishes");
            println(&format!("published {last}"));
        }
    }
}

/// Divides another subscription in a way that changes, with a timer that moves.
fn divide(store: &dyn EventStore, counted: u64) {
    let segments = 1 + (counted % 3) as u32;
    ask(|done| store.divide(&DIVIDED.into(), segments, Position(0), done))
        .answer()
        .expect("all its commands are settled");
    let turn = Box::new(turn());
    let name = SubscriptionName::Plugin(DIVIDED, Segment::of(turn.key.as_deref(), segments)).to_string();
    let later =
        CallbackChange::Set { name: Some("turn".into()), due: Due::At(u64::from(u32::MAX) * 1_000), callback: turn };
    let at = Position(0);
    advance(store, Step { callbacks: vec![later], ..step(&name, at, at) }).expect("nobody else divides it");
}

/// Makes the HTTP request of a step.
fn request(counted: u64) -> HttpRequest {
    HttpRequest {
        id: format!("request-{counted}").into(),
        endpoint: REQUESTS.endpoint.into(),
        method: "POST".to_owned(),
        path: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        response: Some(Vec::new()),
        key: Some((counted % 3).to_string().into_bytes()),
        correlation_id: "correlation".into(),
        causation_id: "cause".into(),
        hops: 1,
        time_ms: 1,
        first_ms: 1,
        trace: Vec::new(),
    }
}

/// Makes attempts at the requests that are due: two at every third request, one at all others.
fn serve(store: &dyn EventStore) {
    let mut reader = reader(store);
    loop {
        ask(|done| store.interrupt_attempts(InterruptedOf::Others(Vec::new()), done))
            .answer()
            .expect("attempts are ended");
        for kept in reader.due_requests(REQUESTS, u64::MAX, 5).expect("requests are read") {
            let attempt = ask(|done| store.begin_attempt(kept.number, done)).answer().expect("nobody else attempts it");
            let end = match kept.number.is_multiple_of(3) && attempt == 1 {
                true => AttemptEnd::Again { due_ms: 0, error: "again".to_owned() },
                false => AttemptEnd::Ended(HttpAnswer::Response { status: 200, headers: Vec::new(), body: Vec::new() }),
            };
            ask(|done| store.end_attempt(kept.number, end, done)).answer().expect("an attempt is under way");
        }
    }
}

/// Counts one more step in its saga, which ends when it is full.
fn counting(counted: u64, reached: Position) -> SagaAppend {
    let stream = StreamId::new(SAGA, (counted / SAGA_EVENTS).to_string());
    let expected = Version(counted % SAGA_EVENTS);
    SagaAppend {
        input: command(&stream, &format!("step-{reached}")),
        expected,
        events: vec![NewEvent { name: "Counted".into(), payload: reached.to_string().into_bytes() }],
        ends: expected.0 + 1 == SAGA_EVENTS,
    }
}

/// Returns the events of the sagas.
fn sagas(reader: &mut dyn Reader) -> Vec<RecordedEvent> {
    let filter = Filter::parse([&*format!("{SAGA}.*")]).expect("a filter");
    reader.read_all(Position(0), &filter, usize::MAX).expect("events are read").events
}

fn turn() -> Callback {
    Callback {
        key: Some(b"turn".to_vec()),
        correlation_id: "correlation".into(),
        causation_id: "cause".into(),
        hops: 0,
        first_ms: 1,
        headers: Vec::new(),
        content: CallbackContent::Wake { name: "turn".into(), payload: Vec::new() },
    }
}

/// Returns how many outcomes and how many responses the subscription has handled.
fn handled(reader: &mut dyn Reader) -> [u64; 2] {
    reader.fact(HANDLED).expect("a fact is read").map_or([0; 2], |fact| of_counts(&fact))
}

fn of_counts(text: &str) -> [u64; 2] {
    let (outcomes, responses) = text.split_once(' ').expect("two counts");
    [outcomes, responses].map(|count| count.parse().expect("a count"))
}

/// Handles the callbacks that are due, and counts the outcomes and responses among them.
fn call_back(store: &dyn EventStore, reader: &mut dyn Reader) {
    let due = reader.due_callbacks(SUBSCRIPTION, u64::MAX, &HashSet::new(), 40).expect("callbacks are read");
    let [outcomes, responses] = handled(reader);
    let outcomes = outcomes + due.iter().filter(|kept| is_outcome(kept)).count() as u64;
    let responses = responses + due.iter().filter(|kept| is_response(kept)).count() as u64;
    let step = Step {
        reached: Reached::Callbacks(due.iter().map(|kept| kept.number).collect()),
        fact: Some((HANDLED.to_owned(), format!("{outcomes} {responses}"))),
        ..step(SUBSCRIPTION, Position(0), Position(0))
    };
    advance(store, step).expect("nobody else handles callbacks");
    println(&format!("{HANDLED} {outcomes} {responses}"));
}

fn is_outcome(kept: &KeptCallback) -> bool {
    matches!(kept.callback.content, CallbackContent::Outcome { .. })
}

fn is_response(kept: &KeptCallback) -> bool {
    matches!(kept.callback.content, CallbackContent::Response(_))
}

/// Frees the held key, if there is one, or holds that of an event.
fn toggled(held: &[HeldKey], event: Option<&RecordedEvent>) -> Option<KeyChange> {
    match (held, event) {
        ([HeldKey { stream, next, .. }, ..], _) => {
            Some(KeyChange { stream: stream.clone(), from: Some(*next), to: KeyState::Free })
        }
        ([], Some(event)) => {
            Some(KeyChange { stream: event.stream.clone(), from: None, to: KeyState::Retried(event.version) })
        }
        ([], None) => None,
    }
}

fn copying(position: Position) -> Command {
    let stream = StreamId::new("copy", (position.0 % 10).to_string());
    let request = OutcomeRequest { key: Some(position.to_string().into_bytes()), attachment: Vec::new() };
    let outcome_use = OutcomeUse::Delivered(request);
    Command { name: "Copy".into(), outcome_use, ..command(&stream, &format!("copy-{position}")) }
}

fn send(store: &dyn EventStore, command: Command) {
    let id = command.id.to_string();
    store.append(
        Append { command: command.into(), expected: ExpectedVersion::Any, decision: happened(1), chain: None },
        acknowledge(id),
    );
}

fn acknowledge<T>(what: String) -> Ack<Result<T, Error>> {
    Ack::new(move |result| match result {
        Ok(_) | Err(Error::Duplicate { .. }) => println(&what),
        Err(error) => panic!("{what}: {error}"),
    })
}

/// Prints a line. An error means that the test is over.
fn println(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// Panics unless everything acknowledged is in the store, and the store's marks and its effects agree.
pub fn check(store: &dyn EventStore, acknowledged: &[String]) {
    let left = Left::read(store);
    left.streams(store);
    left.source(store);
    left.subscription(store);
    left.callbacks(store);
    left.sagas(store);
    are_divided_alike(store);
    let mut reader = reader(store);
    acknowledged.iter().for_each(|line| left.holds(&mut *reader, line));
}

/// Checks that the segments of a subscription are all of one division, with the timer in the segment of its key.
fn are_divided_alike(store: &dyn EventStore) {
    let checkpoints = reader(store).checkpoints().expect("checkpoints are read");
    let segments = checkpoints.iter().filter_map(|(name, _)| match SubscriptionName::parse(name) {
        SubscriptionName::Plugin(DIVIDED, segment) => Some(segment),
        _ => None,
    });
    let segments: Vec<Segment> = segments.collect();
    let Some(first) = segments.first() else { return };
    assert!(Segment::all(first.count()).eq(segments.iter().copied()), "{segments:?}");
    let (timers, _) = reader(store).timers(&TimerQuery { subscription: None, limit: 99 }).expect("timers are read");
    for timer in timers.iter().filter(|timer| timer.subscription.starts_with(DIVIDED)) {
        let own = Segment::of(timer.callback.callback.key.as_deref(), first.count());
        assert_eq!(timer.subscription, SubscriptionName::Plugin(DIVIDED, own).to_string());
    }
}

/// The state of the store after the kill.
struct Left {
    events: Vec<RecordedEvent>,
    /// Number of events by the id of their command.
    counts: HashMap<String, usize>,
    source: Ledger,
    checkpoint: Position,
    copies: Ledger,
    published: u64,
    /// The places of the dead letters.
    places: HashSet<String>,
}

impl Left {
    fn read(store: &dyn EventStore) -> Self {
        let mut reader = reader(store);
        let events = all_events(store);
        let mut counts = HashMap::new();
        events.iter().for_each(|event| *counts.entry(event.causation_id.to_string()).or_default() += 1);
        Self {
            events,
            counts,
            source: reader.ledger(SOURCE).unwrap(),
            checkpoint: reader.checkpoint(SUBSCRIPTION).unwrap().unwrap_or_default(),
            copies: reader
                .ledger(&SubscriptionName::Plugin(SUBSCRIPTION, Segment::WHOLE).ledger().to_string())
                .unwrap(),
            published: reader.sink_position(SINK).unwrap().unwrap_or_default(),
            places: letters(store, usize::MAX).0.into_iter().map(|letter| letter.place).collect(),
        }
    }

    fn count(&self, id: &str) -> usize {
        self.counts.get(id).copied().unwrap_or(0)
    }

    fn streams(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let streams: BTreeSet<_> = self.events.iter().map(|event| &event.stream).collect();
        let whole: usize = streams.into_iter().map(|stream| whole_stream(&mut *reader, stream).len()).sum();
        assert_eq!(whole, self.events.len(), "the streams together are all events");
    }

    /// Checks that an item has its effects if and only if it is settled. One that was dead-lettered still is, or has
    /// the event of the command that retried it, or was discarded.
    fn source(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let end = self.source.ahead.last_key_value().map_or(self.source.next, |(_, last)| last + 1) + 2 * WINDOW;
        let total = letters(store, 0).1;
        assert_eq!(self.places.len() as u64, total, "nothing is dead-lettered twice");
        let (mut ended, mut dead_lettered) = ([0; 3], 0);
        for number in 0..end {
            let (settled, command) = (self.source.has(number), item(number));
            let place = command.origin.expect("items have origins").place();
            let (events, aside) = (self.count(&command.id), usize::from(self.places.contains(&place)));
            dead_lettered += aside as u64;
            let holds = match fate(number) {
                _ if !settled => events + aside == 0,
                Fate::Events(count) => {
                    ended[0] += 1;
                    (events, aside) == (count, 0)
                }
                Fate::Rejected => {
                    ended[1] += 1;
                    events + aside == 0
                }
                Fate::Malformed => {
                    ended[2] += 1;
                    events + aside == 1
                }
                Fate::DeadLettered => events == 0,
            };
            assert!(holds, "item {number}, settled: {settled}, has {events} events and {aside} letters");
        }
        assert_eq!(dead_lettered, total);
        let tallies = reader.tallies().unwrap();
        let counted = tallies.iter().find(|tally| tally.command == "Item");
        assert_eq!(counted.map_or([0; 3], |tally| [tally.accepted, tally.rejected, tally.malformed]), ended);
    }

    /// Checks that each event up to the checkpoint has sent its command and its message, and none above it.
    fn subscription(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let handled =
            |event: &&RecordedEvent| &*event.stream.aggregate_type == "order" && event.position <= self.checkpoint;
        let handled: Vec<_> = self.events.iter().filter(handled).map(|event| event.position).collect();
        let mut pending = Vec::new();
        for (number, position) in (0..).zip(&handled) {
            let (settled, command) = (self.copies.has(number), copying(*position));
            assert_eq!(self.count(&command.id), usize::from(settled), "{}, settled: {settled}", command.id);
            if !settled {
                pending.push(command.id);
            }
        }
        assert!(self.copies.next <= handled.len() as u64, "commands are settled that were not sent");
        let found = reader.pending_commands(SUBSCRIPTION).unwrap();
        assert!(found.iter().map(|command| &command.id).eq(&pending), "{found:?}");
        let copies = self.events.iter().filter(|event| &*event.stream.aggregate_type == "copy").count();
        assert_eq!(copies, handled.len() - pending.len());

        assert_eq!(*store.outbox_head().borrow(), handled.len() as u64);
        let messages = reader.messages(self.published, usize::MAX).unwrap();
        let expected = (1..).zip(&handled).skip(self.published as usize);
        assert!(
            messages
                .iter()
                .map(|(number, message)| (*number, message.id.to_string()))
                .eq(expected.map(|(number, position)| (number, format!("message-{position}"))))
        );
    }

    /// Checks that each copy that is settled has its outcome, and each request that has ended its response: it was handled once, or
    /// it is still there.
    fn callbacks(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let left = reader.due_callbacks(SUBSCRIPTION, u64::MAX, &HashSet::new(), usize::MAX).unwrap();
        let (outcomes, others): (Vec<_>, Vec<_>) = left.iter().partition(|kept| is_outcome(kept));
        let (responses, timers): (Vec<_>, Vec<_>) = others.into_iter().partition(|kept| is_response(kept));
        let [handled, heard] = handled(&mut *reader);
        let ahead: u64 = self.copies.ahead.iter().map(|(first, last)| last - first + 1).sum();
        assert_eq!(handled + outcomes.len() as u64, self.copies.next + ahead, "one outcome for each settled copy");
        assert!(timers.len() <= 1, "{timers:?}");
        let steps = sagas(&mut *reader).len() as u64;
        let waiting = reader.count_requests(REQUESTS).unwrap();
        assert_eq!(heard + responses.len() as u64 + waiting, steps, "one request for each step with events");
    }

    /// Checks that each step with events is counted once, and that the sagas that are full have ended.
    fn sagas(&self, store: &dyn EventStore) {
        let mut reader = reader(store);
        let counted = sagas(&mut *reader);
        for (number, event) in (0..).zip(&counted) {
            let SagaAppend { input, expected, .. } = counting(number, Position(0));
            assert_eq!((&event.stream, event.version.0), (&input.stream, expected.0 + 1), "{event:?}");
            let is_full = counted.len() as u64 / SAGA_EVENTS > number / SAGA_EVENTS;
            assert_eq!(reader.is_archived(&event.stream).unwrap(), is_full, "{event:?}");
        }
        let last = counted.last().map_or(0, |event| String::from_utf8_lossy(&event.payload).parse().unwrap());
        let is_order = |event: &&RecordedEvent| &*event.stream.aggregate_type == "order";
        let later = self.events.iter().filter(is_order).find(|event| event.position.0 > last);
        assert!(last <= self.checkpoint.0, "step {last} is counted and not made");
        assert!(later.is_none_or(|event| event.position > self.checkpoint), "the step of {later:?} is not counted");
    }

    fn holds(&self, reader: &mut dyn Reader, acknowledged: &str) {
        let holds = match acknowledged.split_once(['-', ' ']) {
            Some(("item", number)) => self.source.has(number.parse().unwrap()),
            Some(("checkpoint", position)) => self.checkpoint.0 >= position.parse().unwrap(),
            Some(("published", number)) => self.published >= number.parse().unwrap(),
            Some((HANDLED, counts)) => {
                let (now, then) = (handled(reader), of_counts(counts));
                now[0] >= then[0] && now[1] >= then[1]
            }
            Some(("archived", id)) => reader.is_archived(&closed(id)).unwrap(),
            Some(("discarded", place)) => !self.places.contains(place),
            Some(("replayed", id)) => self.count(id) == 1,
            Some(("id" | "copy", _)) => self.count(acknowledged) == 1,
            _ => panic!("the worker says {acknowledged:?}"),
        };
        assert!(holds, "{acknowledged} was acknowledged and is lost");
    }
}
