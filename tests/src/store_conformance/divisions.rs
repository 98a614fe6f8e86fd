//! Subscriptions that are divided into segments, and get another number of them.

use super::Place;
use super::http_requests::{self, ENDPOINT};
use super::requests::*;
use std::collections::{BTreeSet, HashSet};
use wasmill::model::*;
use wasmill::store::*;

const PLUGIN: &str = "checkout";
/// Where a segment begins that takes over nothing.
const START: Position = Position(2);
const KEYS: [&str; 8] = ["1", "2", "3", "4", "5", "6", "7", "8"];

/// Far in the future, and still a number that a store can keep.
const LATER: u64 = 4_000_000_000_000;

/// Returns the names of the segments, if there are this many.
fn names(count: u32) -> Vec<String> {
    Segment::all(count).map(|segment| SubscriptionName::Plugin(PLUGIN, segment).to_string()).collect()
}

fn divide(store: &dyn EventStore, segments: u32) -> Result<(), Error> {
    ask(|done| store.divide(&PLUGIN.into(), segments, START, done)).answer()
}

fn timer(name: &str, key: &str) -> CallbackChange {
    let content = CallbackContent::Wake { name: name.into(), payload: name.into() };
    CallbackChange::Set { name: Some(name.into()), due: Due::At(LATER), callback: callback(key, content) }
}

fn request(key: Option<&str>) -> HttpRequest {
    HttpRequest { response: None, ..http_requests::request(&format!("request of {key:?}"), key) }
}

/// Gives the subscription, which is not divided, a timer, a held key and a request for each key, a request without one, and two
/// commands that are not settled.
fn fill(store: &dyn EventStore) -> Position {
    let positions = KEYS.map(|key| record(store, &order(key), 1).position);
    for (from, (key, to)) in [Position(0)].iter().chain(&positions).zip(KEYS.iter().zip(&positions)) {
        let held = KeyChange { stream: order(key), from: None, to: KeyState::Retried(Version(1)) };
        let filled = Step {
            callbacks: vec![timer(&format!("timer of {key}"), key)],
            requests: vec![request(Some(key))],
            key: Some(held),
            ..step(PLUGIN, *from, *to)
        };
        advance(store, filled).unwrap();
    }
    let end = *positions.last().expect("a position");
    let commands = vec![command(&order("a"), "first"), command(&order("b"), "second")];
    advance(store, Step { commands, requests: vec![request(None)], ..step(PLUGIN, end, end) }).unwrap();
    ask(|done| store.set_fact("subscription/checkout/paused", Some("7".into()), done)).answer().unwrap();
    end
}

/// Settles the commands of a subscription.
fn settle(store: &dyn EventStore, subscription: &str) {
    for pending in reader(store).pending_commands(subscription).unwrap() {
        append(store, pending, ExpectedVersion::Any, happened(1)).unwrap();
    }
}

/// Checks that each segment has what has its keys, and nothing else has anything.
fn are_divided(store: &dyn EventStore, segments: u32) {
    let mut reader = reader(store);
    let checkpoints = reader.checkpoints().unwrap().into_iter().map(|(name, _)| name);
    assert_eq!(checkpoints.collect::<BTreeSet<_>>(), names(segments).into_iter().collect());
    for (segment, name) in Segment::all(segments).zip(names(segments)) {
        let own: BTreeSet<&str> = KEYS.into_iter().filter(|key| segment.has(key.as_bytes())).collect();
        let due = reader.due_callbacks(&name, LATER, &HashSet::new(), usize::MAX).unwrap();
        let timers: BTreeSet<String> = due.iter().map(|kept| kept.key_text().into_owned()).collect();
        let held = reader.held_keys(&name).unwrap();
        let held: BTreeSet<String> = held.iter().map(|held| held.stream.aggregate_id.to_string()).collect();
        let queue = RequestQueue { subscription: &name, endpoint: ENDPOINT };
        let requests = reader.due_requests(queue, LATER, usize::MAX).unwrap();
        let requests: BTreeSet<Vec<u8>> = requests.into_iter().filter_map(|kept| kept.request.key).collect();
        let own = |to: fn(&str) -> String| own.iter().copied().map(to).collect::<BTreeSet<_>>();
        assert_eq!((&timers, &held), (&own(str::to_owned), &own(str::to_owned)), "{name}");
        assert_eq!(requests, own(str::to_owned).into_iter().map(String::into_bytes).collect(), "{name}");
        assert_eq!(reader.fact(&format!("subscription/{name}/paused")).unwrap().as_deref(), Some("7"), "{name}");
    }
    let names = names(segments);
    let count = |name: &String| {
        let queue = RequestQueue { subscription: name, endpoint: ENDPOINT };
        self::reader(store).count_requests(queue).unwrap()
    };
    assert_eq!(names.iter().map(count).sum::<u64>(), KEYS.len() as u64 + 1);
    assert_eq!(
        reader.facts("subscription/").unwrap().iter().filter(|(name, _)| name.ends_with("/paused")).count(),
        names.len()
    );
}

/// Everything that has a key moves to the segment that has the key, in one transaction, and the store stays sound.
pub fn what_a_subscription_has_moves_with_its_keys<P: Place>() {
    let place = P::new();
    let mut store = place.open();
    let end = fill(&*store);
    let unsettled = divide(&*store, 3);
    let is_of_it = |error: &Error| {
        error.is_passing()
            && matches!(error, Error::Unsettled { subscription, commands: 2 } if &**subscription == PLUGIN)
    };
    assert!(unsettled.as_ref().is_err_and(is_of_it), "{unsettled:?}");
    are_divided(&*store, 1);
    settle(&*store, PLUGIN);
    let queue = RequestQueue { subscription: PLUGIN, endpoint: ENDPOINT };
    let begun = reader(&*store).due_requests(queue, LATER, 1).unwrap().remove(0).number;
    ask(|done| store.begin_attempt(begun, done)).answer().unwrap();
    for segments in [3, 3, 2, 64, 1, 3] {
        divide(&*store, segments).unwrap();
        are_divided(&*store, segments);
        store.close();
        store = place.open();
        are_divided(&*store, segments);
        let checkpoints = reader(&*store).checkpoints().unwrap();
        assert!(checkpoints.iter().all(|(_, checkpoint)| *checkpoint == end), "{checkpoints:?}");
        assert_eq!(
            reader(&*store).facts("subscription/").unwrap().len(),
            segments as usize,
            "nothing was handled beyond"
        );
    }
    let (requests, _) = reader(&*store).requests(&RequestQuery { subscription: None, after: 0, limit: 99 }).unwrap();
    let interrupted = requests.iter().filter(|listed| listed.kept.interrupted > 0).map(|listed| listed.kept.number);
    assert_eq!(interrupted.collect::<Vec<_>>(), [begun], "its attempt ended with the first division");
    store.close();
}

/// A subscription begins with all of its segments at once, and one that is missing is made.
pub fn a_subscription_begins_with_all_its_segments<P: Place>() {
    let place = P::new();
    let store = place.open();
    record(&*store, &order(1), 3);
    let checkpoints = || reader(&*store).checkpoints().unwrap();
    for _ in 0..2 {
        divide(&*store, 2).unwrap();
        let expected: Vec<_> = names(2).into_iter().map(|name| (name, START)).collect();
        assert_eq!(checkpoints(), expected);
    }
    // Another number moves nothing, and a segment alone gets the others.
    divide(&*store, 1).unwrap();
    assert_eq!(checkpoints(), [(PLUGIN.to_owned(), START)]);
    assert_eq!(reader(&*store).facts("").unwrap(), []);
    advance(&*store, step("alone:2of3", Position(0), Position(1))).unwrap();
    ask(|done| store.divide(&"alone".into(), 3, START, done)).answer().unwrap();
    let alone: Vec<_> =
        checkpoints().into_iter().filter(|(name, _)| name.starts_with("alone")).map(|(_, at)| at).collect();
    assert_eq!(alone, [START, Position(1), START]);
    store.close();
}

/// The new segments begin at the lowest checkpoint, know what was handled beyond it, and number their commands after those that they
/// have sent before.
pub fn segments_take_over_from_others_at_different_checkpoints<P: Place>() {
    let place = P::new();
    let store = place.open();
    let positions = KEYS.map(|key| record(&*store, &order(key), 1).position);
    let two = names(2);
    for (name, to) in two.iter().zip([positions[2], positions[5]]) {
        let commands = vec![command(&order("a"), &format!("of {name}"))];
        advance(&*store, Step { commands, ..step(name, Position(0), to) }).unwrap();
        settle(&*store, name);
    }
    divide(&*store, 1).unwrap();
    let fact = reader(&*store).fact("subscription/checkout/divisions").unwrap();
    let divisions = Divisions::parse(PLUGIN, fact.as_deref()).unwrap();
    for (key, position) in KEYS.iter().zip(positions) {
        let through = [positions[2], positions[5]][Segment::of(Some(key.as_bytes()), 2).index() as usize];
        assert_eq!(divisions.have_handled(key.as_bytes(), position), position <= through, "{key}");
    }
    assert_eq!(reader(&*store).checkpoint(PLUGIN).unwrap(), Some(positions[2]));
    // What a segment before does late has no effect.
    let late = advance(&*store, step(&two[1], positions[5], positions[6]));
    assert!(matches!(late, Err(Error::CheckpointMoved { .. })), "{late:?}");
    // A command that is sent twice is settled once, also after that.
    let again = numbered(&order("a"), &SubscriptionName::parse(&two[0]).ledger().to_string(), 0);
    assert!(matches!(append(&*store, again, ExpectedVersion::Any, happened(1)), Err(Error::Duplicate { .. })));
    divide(&*store, 2).unwrap();
    for name in &two {
        let commands = vec![command(&order("a"), "later")];
        let advanced = advance(&*store, Step { commands, ..step(name, positions[2], positions[6]) }).unwrap();
        let ledger = SubscriptionName::parse(name).ledger().to_string();
        assert_eq!(advanced.commands[0].origin, Some(origin(&ledger, 1, 1)), "number 0 is settled");
        assert_eq!(reader(&*store).pending_commands(name).unwrap().len(), 1);
    }
    store.close();
}

/// Two segments may have timers of one name, and one segment may not.
pub fn two_timers_of_one_name_stay_in_their_segments<P: Place>() {
    let place = P::new();
    let store = place.open();
    for (segment, name) in Segment::all(2).zip(names(2)) {
        let key = KEYS.into_iter().find(|key| segment.has(key.as_bytes())).expect("a key of the segment");
        advance(&*store, Step { callbacks: vec![timer("reminder", key)], ..step(&name, Position(0), Position(0)) })
            .unwrap();
    }
    let refused = divide(&*store, 1);
    assert!(matches!(&refused, Err(Error::NotYet(text)) if text.contains("\"reminder\"")), "{refused:?}");
    let selected = |name| reader(&*store).timers(&TimerQuery { subscription: Some(name), limit: 9 }).unwrap().1;
    assert_eq!(["checkout", "checkout:2of2", "check", "checkout:"].map(selected), [2, 1, 0, 0], "all segments, or one");
    let (timers, _) = reader(&*store).timers(&TimerQuery { subscription: None, limit: 9 }).unwrap();
    assert_eq!(
        timers.iter().map(|timer| timer.subscription.clone()).collect::<BTreeSet<_>>(),
        names(2).into_iter().collect()
    );
    ask(|done| store.cancel_timer(timers[0].callback.number, done)).answer().unwrap();
    divide(&*store, 1).unwrap();
    assert_eq!(reader(&*store).timers(&TimerQuery { subscription: Some(PLUGIN), limit: 9 }).unwrap().1, 1);
    store.close();
}
