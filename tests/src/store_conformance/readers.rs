//! Readers: what they see while others write, and while the store does deferred work.

use super::Place;
use super::requests::*;
use crate::raised::Raised;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::timeout;
use wasmill::ack::Ack;
use wasmill::filter::Filter;
use wasmill::model::*;
use wasmill::store::*;

/// Checks reading after and before any version, with any limit.
pub fn a_stream_is_read_from_a_version_in_both_directions<P: Place>() {
    let place = P::new();
    let store = place.open();
    for n in 0..120 {
        record(&*store, &order(n % 2), 1);
    }
    let mut reader = reader(&*store);
    for version in [0, 1, 2, 30, 58, 59, 60, 61, 1 << 40, i64::MAX as u64, u64::MAX - 1, u64::MAX] {
        for limit in [0, 1, 7, 59, 60, 61, usize::MAX] {
            let versions = |events: Vec<RecordedEvent>| events.iter().map(|event| event.version.0).collect::<Vec<_>>();
            let after = versions(reader.read_stream(&order(1), Version(version), limit).unwrap());
            let expected: Vec<u64> = (1..=60).filter(|n| *n > version).take(limit).collect();
            assert_eq!(after, expected, "after {version}, {limit}");
            let before = versions(reader.read_stream_backwards(&order(1), Version(version), limit).unwrap());
            let expected: Vec<u64> = (1..=60).rev().filter(|n| *n < version).take(limit).collect();
            assert_eq!(before, expected, "before {version}, {limit}");
        }
    }
    assert_eq!(reader.stream_version(&order("absent")).unwrap(), Version(0));
    assert_eq!(reader.stream_version(&StreamId::new("absent", "1")).unwrap(), Version(0));
    assert!(reader.read_stream(&order("absent"), Version(0), 10).unwrap().is_empty());
}

/// Checks that each page starts at the end of the one before, even if nothing passes the filter for long.
pub fn everything_is_read_page_by_page_through_a_filter<P: Place>() {
    let place = P::new();
    let store = place.open();
    for n in 0..300u64 {
        let name = if n % 100 == 99 { "Rare" } else { "Frequent" };
        let events = Decision::Events(vec![event(name, n)]);
        ask_append(&*store, command(&order(n % 3), "c"), ExpectedVersion::Any, events).answer().unwrap();
    }
    record(&*store, &StreamId::new("household", "1"), 1);
    let all = all_events(&*store);
    assert_eq!(all.len(), 301);
    let mut reader = reader(&*store);
    for pattern in ["**", "order.*", "order.Rare", "*.Happened", "order.Absent"] {
        let filter = Filter::parse([pattern]).unwrap();
        let expected: Vec<_> =
            all.iter().filter(|event| filter.matches(&event.stream.aggregate_type, &event.name)).cloned().collect();
        for limit in [1, 2, 50, 301, usize::MAX] {
            let (mut found, mut reached) = (Vec::new(), Position(0));
            while reached < all[300].position {
                let page = reader.read_all(reached, &filter, limit).unwrap();
                assert!(page.reached > reached && page.events.len() <= limit, "{pattern} {limit}: {reached}");
                assert!(page.events.iter().all(|event| reached < event.position && event.position <= page.reached));
                reached = page.reached;
                found.extend(page.events);
            }
            assert_eq!(found, expected, "{pattern} {limit}");
        }
    }
    for end in [all[300].position, Position(1 << 40), Position(u64::MAX)] {
        let page = reader.read_all(end, &Filter::all(), 10).unwrap();
        assert_eq!((page.events.len(), page.reached), (0, end));
    }
}

/// Checks searches by id in both directions, over more events than one search reads.
pub fn a_search_finds_the_same_in_both_directions_and_resumes_where_it_ended<P: Place>() {
    const APPENDS: u64 = 1_300;
    const EVENTS: u64 = 50;
    let place = P::new();
    let store = place.open();
    for n in 0..APPENDS {
        let events = happened(EVENTS as usize);
        let correlation = if n % 500 == 7 { "rare" } else { "frequent" };
        let command = Command { correlation_id: correlation.into(), ..command(&order(n % 3), &format!("c{n}")) };
        ask_append(&*store, command, ExpectedVersion::Any, events).answer().unwrap();
    }
    let all = all_events(&*store);
    let newest = Position(APPENDS * EVENTS);
    assert_eq!(all.last().map(|event| event.position), Some(newest));
    let mut reader = reader(&*store);
    let mut found = |search: &EventSearch, from: u64, to: u64, limit: usize| {
        let (mut found, mut next) = (Vec::new(), from);
        loop {
            let page = reader.search(search, Position(next), Position(to), limit).unwrap();
            let searched = if from <= to { next..=page.reached.0 } else { page.reached.0..=next };
            assert!(!searched.is_empty() && page.events.len() <= limit, "{next} to {to}: {}", page.reached);
            assert!(page.events.iter().all(|event| searched.contains(&event.position.0)));
            found.extend(page.events);
            if page.reached.0 == to {
                return found;
            }
            next = if from <= to { page.reached.0 + 1 } else { page.reached.0 - 1 };
        }
    };
    let some = &all[60_007];
    let is_wanted = |id: &Option<SearchedId>, event: &RecordedEvent| match id {
        None => true,
        Some(SearchedId::Correlation(id)) => *event.correlation_id == **id,
        Some(SearchedId::Any(id)) => event.id.to_string() == *id || *event.causation_id == **id,
    };
    let searches = [
        Some(SearchedId::Correlation("rare".into())),
        Some(SearchedId::Correlation("absent".into())),
        Some(SearchedId::Any(some.id.to_string())),
        Some(SearchedId::Any("c1200".into())),
        None,
    ];
    for id in &searches {
        let search = EventSearch { filter: Filter::all(), id: id.clone() };
        for (from, to) in [(1, newest.0), (59_990, 60_003), (400, 400)] {
            let within = |event: &&RecordedEvent| (from..=to).contains(&event.position.0) && is_wanted(id, event);
            let expected: Vec<_> = all.iter().filter(within).cloned().collect();
            assert_eq!(found(&search, from, to, 7_000), expected, "{id:?} from {from} to {to}");
            let backwards: Vec<_> = expected.into_iter().rev().collect();
            assert_eq!(found(&search, to, from, 7_000), backwards, "{id:?} from {to} to {from}");
        }
    }
    let search = EventSearch { filter: Filter::parse(["household.*"]).unwrap(), id: None };
    assert!(found(&search, 1, newest.0, 10).is_empty());
    // Nothing is after the newest event, and positions are no larger than a store can have.
    let search = EventSearch { filter: Filter::all(), id: None };
    assert_eq!(found(&search, newest.0, newest.0 + 10, 10), all[all.len() - 1..]);
    assert!(reader.search(&search, Position(u64::MAX), Position(u64::MAX), 10).unwrap().events.is_empty());
}

/// Checks that times lead to the events that were recorded then or later.
pub fn the_first_event_of_a_time_is_found<P: Place>() {
    let place = P::new();
    let store = place.open();
    let mut reader = reader(&*store);
    assert_eq!(reader.position_at(0).unwrap(), Position(1));
    for n in 0..40 {
        record(&*store, &order(n), 5);
    }
    let all = all_events(&*store);
    let (first, last) = (all[0].recorded_ms(), all[199].recorded_ms());
    for ms in [0, first - 1, last + 1, u64::MAX].into_iter().chain(first..=last) {
        let expected = all.iter().find(|event| event.recorded_ms() >= ms).map_or(Position(201), |event| event.position);
        assert_eq!(reader.position_at(ms).unwrap(), expected, "{ms}");
    }
}

/// Checks that a page has a bound in bytes, whatever the limit.
pub fn a_page_of_large_events_ends_before_its_limit_and_the_next_goes_on<P: Place>() {
    const EVENTS: u64 = 25;
    const BYTES: usize = 900_000;
    let place = P::new();
    let mut store = place.open();
    for _ in 0..EVENTS {
        let large = Decision::Events(vec![NewEvent { name: "Large".to_owned(), payload: vec![b'1'; BYTES] }]);
        append(&*store, command(&order(1), "c"), ExpectedVersion::Any, large).unwrap();
    }
    // The store is read as it was written, and again after it was reopened.
    for _ in 0..2 {
        let mut reader = reader(&*store);
        let most = PAGE_BYTES_MAX / BYTES + 1;
        let (mut pages, mut version) = (0, Version(0));
        while version.0 < EVENTS {
            let page = reader.read_stream(&order(1), version, usize::MAX).unwrap();
            let rest = (EVENTS - version.0) as usize;
            assert_eq!(page.len(), rest.min(most));
            assert_eq!(is_full(&page, usize::MAX), rest >= most);
            assert!(page.iter().map(|event| event.version.0).eq(version.0 + 1..=version.0 + page.len() as u64));
            version = page.last().unwrap().version;
            pages += 1;
        }
        assert_eq!(pages, (EVENTS as usize).div_ceil(most));
        let backwards = reader.read_stream_backwards(&order(1), Version(u64::MAX), usize::MAX).unwrap();
        assert_eq!((backwards.len(), backwards[0].version.0), (most, EVENTS));
        let (mut positions, mut reached) = (Vec::new(), Position(0));
        loop {
            let page = reader.read_all(reached, &Filter::all(), usize::MAX).unwrap();
            if page.events.is_empty() {
                break;
            }
            assert!(page.events.len() <= most, "{}", page.events.len());
            assert_eq!(page.events.last().unwrap().position, page.reached);
            positions.extend(page.events.iter().map(|event| event.position.0));
            reached = page.reached;
        }
        assert!(positions.into_iter().eq(1..=EVENTS), "each once, in order");
        store.close();
        store = place.open();
    }
}

/// A follower that waits for positions as the parts of a host do.
struct Follower {
    reader: Box<dyn Reader>,
    head: watch::Receiver<Position>,
    reached: watch::Sender<Position>,
    runtime: Runtime,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("make a runtime")
}

impl Follower {
    fn new(store: &dyn EventStore) -> Self {
        let reached = watch::Sender::new(Position(0));
        Self { reader: reader(store), head: store.head(), reached, runtime: runtime() }
    }

    /// Reads everything that passes the filter, until there is enough of it.
    fn follow(mut self, filter: &Filter, limit: usize, enough: usize) -> Vec<RecordedEvent> {
        let (mut events, mut reached) = (Vec::new(), Position(0));
        while events.len() < enough {
            let head = &mut self.head;
            let news = async { timeout(PATIENCE, head.wait_for(|head| *head > reached)).await.map(drop) };
            let woken = self.runtime.block_on(news);
            assert!(woken.is_ok(), "woken no more after {reached}, with {} of {enough} events", events.len());
            let page = self.reader.read_all(reached, filter, limit).expect("events are read");
            assert!(page.reached > reached, "the head is past {reached}, and there is nothing to read");
            reached = page.reached;
            self.reached.send_replace(reached);
            events.extend(page.events);
        }
        events
    }
}

/// Checks several followers with different filters and page sizes. None may miss or repeat anything.
pub fn followers_skip_nothing_while_writers_are_busy<P: Place>() {
    follow_writers::<P>(|_, _| {});
}

/// Checks the same while a write ends only after the followers have read all that was written before it.
pub fn followers_skip_nothing_while_writers_are_slow<P: Place>() {
    follow_writers::<P>(|place, Watched { mut head, mut reached, mut writing }| {
        let runtime = runtime();
        let mut is_over = false;
        while !is_over {
            let standstill = place.standstill();
            let at = *head.borrow_and_update();
            for reached in &mut reached {
                // A follower that has enough is gone.
                let caught_up = async { timeout(PATIENCE, reached.wait_for(|reached| *reached >= at)).await.map(drop) };
                assert!(runtime.block_on(caught_up).is_ok(), "a follower stands still before {at}");
            }
            drop(standstill);
            is_over = runtime.block_on(async {
                tokio::select! {
                    _ = head.wait_for(|head| *head > at) => false,
                    _ = writing.changed() => true,
                }
            });
        }
    });
}

/// The observable state of writers and followers at work.
struct Watched {
    head: watch::Receiver<Position>,
    /// The position of each follower. Its sender is dropped when the follower ends.
    reached: Vec<watch::Receiver<Position>>,
    /// A watch whose sender is dropped when the last writer ends.
    writing: watch::Receiver<()>,
}

/// Runs writers and followers while `meanwhile` runs, and checks what the followers have read.
fn follow_writers<P: Place>(meanwhile: impl FnOnce(&P, Watched)) {
    const COMMANDS: usize = 500;
    /// Number of commands of a writer in flight.
    const AHEAD: usize = 50;
    let place = P::new();
    let store = place.open();
    let write = |writer: usize| {
        let mut asked = VecDeque::new();
        for n in 0..COMMANDS {
            let events = (0..1 + n % 5).map(|event_n| event(["Even", "Odd"][event_n % 2], n)).collect();
            let command = command(&order(n % 20), &format!("{writer}-{n}"));
            asked.push_back(ask_append(&*store, command, ExpectedVersion::Any, Decision::Events(events)));
            if asked.len() > AHEAD {
                asked.pop_front().expect("some are ahead").answer().expect("an append succeeds");
            }
        }
        for pending in asked {
            pending.answer().expect("an append succeeds");
        }
    };
    let (events, odd) = (2 * COMMANDS * 3, 2 * COMMANDS * 6 / 5);
    let followed: Vec<_> = thread::scope(|scope| {
        let (writes, writing) = watch::channel(());
        let mut watched = Watched { head: store.head(), reached: Vec::new(), writing };
        let followers =
            [("**", 1_000, events), ("**", 7, events), ("order.Odd", 3, odd)].map(|(pattern, limit, enough)| {
                let (filter, follower) = (Filter::parse([pattern]).unwrap(), Follower::new(&*store));
                watched.reached.push(follower.reached.subscribe());
                scope.spawn(move || follower.follow(&filter, limit, enough))
            });
        let write = &write;
        let writers = [0, 1].map(|writer| scope.spawn(move || write(writer)));
        scope.spawn(move || {
            let _writes = writes;
            writers.into_iter().for_each(|writer| writer.join().unwrap());
        });
        meanwhile(&place, watched);
        followers.into_iter().map(|follower| follower.join().unwrap()).collect()
    });
    let all = all_events(&*store);
    assert_eq!(all.len(), events);
    assert!(followed[0] == all && followed[1] == all, "every event once, in order");
    assert!(
        followed[2].iter().eq(all.iter().filter(|event| &*event.name == "Odd")),
        "what passes the filter, in order"
    );
}

/// Checks that a reader sees at least what was answered, and never a gap.
pub fn streams_are_whole_while_others_write<P: Place>() {
    const STREAMS: usize = 7;
    let place = P::new();
    let store = place.open();
    let answered: Arc<[AtomicU64; STREAMS]> = Default::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = reader(&*store);
                while !done.load(Ordering::Acquire) {
                    for (n, answered) in answered.iter().enumerate() {
                        let least = answered.load(Ordering::Acquire);
                        let events = reader.read_stream(&order(n), Version(0), usize::MAX).unwrap();
                        let versions = events.iter().map(|event| event.version.0);
                        assert!(versions.eq(1..=events.len() as u64), "a gap in stream {n}");
                        assert!(events.len() as u64 >= least, "version {least} of stream {n} was answered");
                        let newest = reader.stream_version(&order(n)).unwrap();
                        assert!(newest.0 >= least, "version {least} of stream {n} was answered, {newest} is read");
                        let last = reader.read_stream_backwards(&order(n), Version(least + 1), 3).unwrap();
                        let versions = last.iter().map(|event| event.version.0);
                        assert!(versions.eq((1..=least).rev().take(3)), "a gap in stream {n}, backwards");
                    }
                }
            });
        }
        let _finished = Raised(&done);
        let mut versions = [0; STREAMS];
        let mut asked = VecDeque::new();
        for n in 0..700 {
            let stream = n * 3 % STREAMS;
            let expected = ExpectedVersion::Exact(Version(versions[stream]));
            versions[stream] += 1 + n as u64 % 3;
            let append = Append {
                command: command(&order(stream), "c").into(),
                expected,
                decision: happened(1 + n % 3),
                chain: None,
            };
            let answered = answered.clone();
            asked.push_back(ask(|ack: Ack<Result<(), Error>>| {
                let appended = Ack::new(move |result: Result<Appended, Error>| {
                    ack.give(result.map(|appended| answered[stream].store(appended.version.0, Ordering::Release)));
                });
                store.append(append, appended);
            }));
            if asked.len() > 20 {
                asked.pop_front().unwrap().answer().unwrap();
            }
        }
        asked.into_iter().for_each(|pending| pending.answer().unwrap());
    });
}

/// Checks reopened stores that were closed in the middle of deferred work.
pub fn streams_are_whole_whenever_the_store_is_opened_again<P: Place>() {
    const STREAMS: u64 = 5;
    let place = P::new();
    let mut expected = [0; STREAMS as usize];
    for round in 0..25u64 {
        let store = place.open();
        let asked: Vec<_> = (0..13 + round)
            .map(|n| {
                let stream = (round + n) % STREAMS;
                let before = Version(expected[stream as usize]);
                expected[stream as usize] += 1 + n % 4;
                let command = command(&order(stream), "c");
                ask_append(&*store, command, ExpectedVersion::Exact(before), happened(1 + n as usize % 4))
            })
            .collect();
        for pending in asked {
            pending.answer().expect("a version is known after a new start");
        }
        let mut reader = reader(&*store);
        for (stream, expected) in expected.iter().enumerate() {
            assert_eq!(whole_stream(&mut *reader, &order(stream)).len() as u64, *expected, "round {round}");
        }
        store.close();
    }
}
