//! Several hosts share a store in PostgreSQL: nothing is lost or doubled, no reader skips, each learns what the others write, and a
//! host that was removed has no effect.

use crate::postgres_failures::under_writes;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use wasmill::aggregates::Options as AggregateOptions;
use wasmill::filter::Filter;
use wasmill::model::ExpectedVersion::{Any, Exact};
use wasmill::model::{Outcome, Position, Version};
use wasmill::store::postgres::PostgresStore;
use wasmill::store::*;
use wasmill_tests::postgres::{Postgres, Session, address, sql};
use wasmill_tests::raised::Raised;
use wasmill_tests::scripted::{Counters, Outcomes, count, counter};
use wasmill_tests::store_conformance::requests::*;
use wasmill_tests::waiting::until;

fn shared(url: &str) -> PostgresStore {
    let options = Options { batch_max: 64, heads_max: 8, ..Options::default() };
    PostgresStore::open_shared(&address(url), options).expect("open the store beside others")
}

fn pair(url: &str) -> [PostgresStore; 2] {
    [shared(url), shared(url)]
}

fn sharing(store: &PostgresStore) -> &dyn Sharing {
    store.sharing().expect("it is shared")
}

fn named(parts: &[&str]) -> Vec<String> {
    parts.iter().map(ToString::to_string).collect()
}

/// Takes leases, after the removal of all hosts that are not there.
fn take(store: &PostgresStore, parts: &[&str]) {
    let gone = this(store).entries.into_iter().filter(|entry| !entry.is_there).map(|entry| entry.id).collect();
    ask(|done| sharing(store).change(SharingChange::Take(gone, named(parts)), done))
        .answer()
        .expect("leases are taken");
}

fn this(store: &PostgresStore) -> Hosts {
    sharing(store).hosts().expect("hosts are read")
}

fn give_up(store: &PostgresStore, parts: &[&str]) {
    ask(|done| sharing(store).change(SharingChange::GiveUp(named(parts)), done)).answer().expect("leases are given up");
}

/// Returns the parts of which a host has the lease.
fn leases(store: &PostgresStore) -> Vec<String> {
    let hosts = this(store);
    hosts.leases.iter().filter(|(_, lease)| lease.host == hosts.this).map(|(part, _)| part.clone()).collect()
}

/// Lets the lease of a host expire, as if it had not been heard of for long.
fn expire(url: &str, store: &PostgresStore) {
    let id = this(store).this;
    sql(
        url,
        &format!("UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 second' WHERE id = {id}"),
    );
}

#[test]
fn of_twenty_appends_on_one_version_from_two_hosts_one_succeeds() {
    let Some(server) = Postgres::shared() else { return };
    let stores = pair(&server.database());
    for round in 0..20 {
        let asked: Vec<_> = (0..20)
            .map(|n| {
                let id = format!("{round}-{n}");
                ask_append(&stores[n % 2], command(&order(1), &id), Exact(Version(round)), happened(1))
            })
            .collect();
        let answers: Vec<_> = asked.into_iter().map(Pending::answer).collect();
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
        let is_conflict = |answer: &Result<Appended, Error>| matches!(answer, Err(Error::Conflict { actual, .. }) if *actual == Version(round + 1));
        assert_eq!(answers.iter().filter(|answer| is_conflict(answer)).count(), 19, "{answers:?}");
    }
    stores.iter().for_each(|store| assert_eq!(whole_stream(&mut *reader(store), &order(1)).len(), 20));
}

/// Follows a store by its watch, and returns the positions in the order in which it read them.
fn followed(store: &PostgresStore, events: usize) -> Vec<u64> {
    let (mut reader, mut head, mut reached) = (reader(store), store.head(), Position(0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut positions = Vec::new();
    while positions.len() < events {
        let page = reader.read_all(reached, &Filter::all(), 37).expect("events are read");
        positions.extend(page.events.iter().map(|event| event.position.0));
        if page.events.is_empty() {
            runtime.block_on(head.wait_for(|newest| *newest > reached)).expect("the store is open");
        }
        reached = page.reached;
    }
    positions
}

/// A host that has another number of segments runs some of them beside those of this one, so nothing of them may be moved.
#[test]
fn a_subscription_gets_other_segments_only_when_all_hosts_that_run_it_agree() {
    let Some(server) = Postgres::shared() else { return };
    let [one, two] = pair(&server.database());
    let introduce = |store: &PostgresStore, segments: &str| {
        let settings = [("segments".to_owned(), segments.to_owned())].into();
        let change = SharingChange::Introduce(format!("http://{segments}"), settings);
        ask(|done| sharing(store).change(change, done)).answer().expect("it is introduced");
    };
    introduce(&one, "3");
    introduce(&two, "2");
    let divide = || ask(|done| one.divide(&"checkout".into(), 3, Position(0), done)).answer();
    let position = record(&one, &order(1), 1).position;
    advance(&two, step("checkout:1of2", Position(0), position)).expect("a step");
    for lease in ["subscription checkout", "subscription checkout:2"] {
        take(&two, &[lease]);
        let refused = divide().expect_err("the other host may handle something");
        let text = refused.to_string();
        assert!(refused.is_passing() && text.contains(lease) && text.contains("http://2"), "{text}");
        give_up(&two, &[lease]);
    }
    take(&two, &["subscription checkouts", "subscription check:1", "sink checkout:1"]);
    take(&one, &["subscription checkout:1"]);
    take(&two, &["subscription checkout:2"]);
    assert!(divide().is_err());
    introduce(&two, "3");
    divide().expect("both agree");
    let names: Vec<String> =
        reader(&two).checkpoints().expect("checkpoints").into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["checkout:1of3", "checkout:2of3", "checkout:3of3"]);
    let late = advance(&two, step("checkout:1of2", position, position));
    assert!(matches!(late, Err(Error::CheckpointMoved { .. })), "{late:?}");
}

#[test]
fn a_reader_skips_nothing_while_transactions_of_two_hosts_are_slow() {
    const EACH: usize = 600;
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let stores = pair(&url);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody makes commits wait for a moment, at any time.
        scope.spawn(|| {
            let session = Session::start(&url);
            while !over.load(Ordering::Relaxed) {
                session.run("BEGIN; LOCK TABLE wasmill.events IN SHARE MODE; SELECT pg_sleep(0.02); ROLLBACK");
            }
        });
        let _over = Raised(&over);
        let readers: Vec<_> = stores.iter().map(|store| scope.spawn(|| followed(store, 2 * EACH))).collect();
        let writers: Vec<_> = stores
            .iter()
            .enumerate()
            .map(|(host, store)| {
                scope.spawn(move || {
                    for n in 0..EACH {
                        let id = format!("{host}-{n}");
                        append(store, command(&order(n % 9), &id), Any, happened(1)).expect("it is recorded");
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
        for reader in readers {
            let positions = reader.join().expect("a reader ends");
            assert!(positions.iter().copied().eq(1..=2 * EACH as u64), "every event once, in order");
        }
    });
}

#[test]
fn what_one_host_settled_is_settled_on_the_other() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let [one, other] = pair(&url);
    append(&one, numbered(&order(1), "kafka/a/a/0", 0), Any, happened(1)).expect("it is recorded");
    let again = append(&other, numbered(&order(1), "kafka/a/a/0", 0), Any, happened(1));
    assert!(matches!(again, Err(Error::Duplicate { .. })), "{again:?}");
    let first = append(&other, durable(&order(2), "chosen"), Any, happened(2)).expect("it is recorded");
    match append(&one, durable(&order(2), "chosen"), Any, happened(2)) {
        Err(Error::Duplicate { outcome: Some(remembered), .. }) => {
            let expected = Outcome::Accepted { version: first.version, position: first.position, events: 2 };
            assert_eq!(*remembered.outcome, expected);
        }
        answer => panic!("{answer:?}"),
    }
    advance(&one, step("s", Position(0), Position(1))).expect("it is the first step");
    let stale = advance(&other, step("s", Position(0), Position(2)));
    assert!(stale.is_err(), "the other one has moved it: {stale:?}");
    advance(&other, step("s", Position(1), Position(2))).expect("it goes on from there");
    ask(|done| one.archive(order(1), done)).answer().expect("it is archived");
    let archived = append(&other, command(&order(1), "late"), Any, happened(1));
    assert!(matches!(archived, Err(Error::Archived { .. })), "{archived:?}");
}

/// Whoever waits for something new need not ask all the time.
#[test]
fn each_host_learns_what_the_other_writes() {
    let Some(server) = Postgres::shared() else { return };
    let [one, other] = pair(&server.database());
    let (head, outbox, letters) = (other.head(), other.outbox_head(), other.dead_letters_head());
    let requests = other.requests_changed();
    let before = *requests.borrow();
    record(&one, &order(1), 3);
    let step = Step { messages: vec![message("m")], ..step("s", Position(0), Position(1)) };
    advance(&one, step).expect("it is the first step");
    ask(|done| one.dead_letter(letter("there"), None, done)).answer().expect("it is kept");
    until("all of it is known", || {
        (head.borrow().0, *outbox.borrow(), *letters.borrow()) == (3, 1, 1) && *requests.borrow() > before
    });
    assert_eq!(all_events(&other).len(), 3);
    // The first host has its own events in memory, with a gap where the other one wrote.
    record(&other, &order(2), 2);
    record(&one, &order(1), 1);
    until("the event after the gap is known", || head.borrow().0 == 6);
    for store in [&one, &other] {
        assert!(all_events(store).iter().map(|event| event.position.0).eq(1..=6));
    }
}

/// A connection that breaks during a commit leaves no doubt about it, although other hosts commit meanwhile.
#[test]
fn connections_that_are_cut_beside_another_writing_host_lose_and_double_nothing() {
    let Some(server) = Postgres::shared() else { return };
    let direct = server.database();
    let (proxy, url) = server.through_a_cut(&direct);
    let one = shared(&url);
    let other = shared(&direct);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (0..)
                .take_while(|_| !over.load(Ordering::Relaxed))
                .map(|n| append(&other, command(&order(n % 20), &format!("other-{n}")), Any, happened(1)))
                .filter(|answer| answer.as_ref().expect("its connection is whole").version.0 > 0)
                .count()
        });
        let raised = Raised(&over);
        under_writes(&one, || {
            for n in 0..30 {
                let before = one.head().borrow().0;
                until("writes", || one.head().borrow().0 > before + 20);
                if n % 8 == 7 {
                    proxy.apart(|| until("the store says why", || one.trouble().is_some()));
                    until("the store can be written again", || one.trouble().is_none());
                } else {
                    proxy.cut();
                }
            }
        });
        drop(raised);
        let by_other = writer.join().expect("it ends");
        let found = all_events(&other).iter().filter(|event| event.causation_id.starts_with("other-")).count();
        assert!(by_other > 0 && found == by_other, "{found} of {by_other}");
    });
    assert!(one.loss().borrow().is_none() && other.loss().borrow().is_none());
}

#[test]
fn a_part_is_leased_to_one_host_until_that_host_gives_it_up_or_is_gone() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let [one, other] = pair(&url);
    take(&one, &["a", "b", "c"]);
    take(&other, &["b", "c", "d"]);
    assert_eq!((leases(&one), leases(&other)), (vec!["a".into(), "b".into(), "c".into()], vec!["d".into()]));
    give_up(&other, &["a", "d"]);
    give_up(&one, &["c"]);
    take(&other, &["a", "c"]);
    assert_eq!((leases(&one), leases(&other)), (vec!["a".into(), "b".into()], vec!["c".into()]));
    // What is wanted is handed over, and nothing else.
    ask(|done| sharing(&other).change(SharingChange::Want(named(&["a", "c", "e"])), done))
        .answer()
        .expect("it is asked for");
    ask(|done| sharing(&one).change(SharingChange::HandOver(named(&["a", "b"])), done))
        .answer()
        .expect("it is handed over");
    assert_eq!((leases(&one), leases(&other)), (vec!["b".into()], vec!["a".into(), "c".into()]));
    // A host that stops gives up all of them at once.
    one.close();
    take(&other, &["b"]);
    assert_eq!(leases(&other), ["a", "b", "c"]);
    assert!(other.loss().borrow().is_none());
}

#[test]
fn a_host_whose_lease_has_expired_is_removed_and_has_no_effect() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let [old, new] = pair(&url);
    take(&old, &["a"]);
    record(&old, &order(1), 2);
    // Nobody has removed it, so it goes on, and its lease is renewed.
    expire(&url, &old);
    record(&old, &order(1), 1);
    take(&new, &["a"]);
    assert_eq!((leases(&old), leases(&new)), (vec!["a".to_owned()], vec![]));
    until("it is removed", || {
        expire(&url, &old);
        take(&new, &["a"]);
        leases(&new) == ["a"]
    });
    let lost = [
        append(&old, command(&order(1), "c"), Any, happened(1)).map(drop),
        advance(&old, step("s", Position(0), Position(1))).map(drop),
        ask(|done| sharing(&old).change(SharingChange::Take(Vec::new(), named(&["b"])), done)).answer(),
    ];
    for result in lost {
        assert!(matches!(result, Err(Error::Lost { .. })), "{result:?}");
    }
    assert!(matches!(*old.loss().borrow(), Some(Error::Lost { .. })), "the watch shows the loss");
    assert_eq!(record(&new, &order(1), 1).position, Position(4), "the other host goes on without a gap");
    old.close();
    assert_eq!((leases(&new), all_events(&new).len()), (vec!["a".to_owned()], 4));
}

#[test]
fn a_host_whose_row_somebody_has_deleted_has_no_effect() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let [one, other] = pair(&url);
    record(&one, &order(1), 1);
    sql(&url, &format!("DELETE FROM wasmill.hosts WHERE id = {}", this(&one).this));
    let lost = append(&one, command(&order(1), "c"), Any, happened(1));
    assert!(matches!(lost, Err(Error::Lost { .. })), "{lost:?}");
    assert_eq!(record(&other, &order(1), 1).version, Version(2));
}

#[test]
fn hosts_share_a_store_with_each_other_and_with_nobody_who_wants_it_alone() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let hosts = pair(&url);
    let refused = PostgresStore::open(&address(&url), Options::default()).err().expect("hosts are there").to_string();
    assert!(refused.contains("in use by another host"), "{refused}");
    hosts.iter().for_each(|host| host.close());
    let alone = PostgresStore::open(&address(&url), Options::default()).expect("nobody is there");
    assert!(alone.sharing().is_none());
    let refused =
        PostgresStore::open_shared(&address(&url), Options::default()).err().expect("it is in use").to_string();
    assert!(refused.contains("in use by another host or `wasmill store` command"), "{refused}");
    alone.close();
    shared(&url).close();
    assert_eq!(sql(&url, "SELECT count(*) FROM wasmill.hosts"), ["0"]);
}

/// Those who lost the database are all late, and none of them is gone. The lease is renewed before anything else.
#[test]
fn a_host_that_reaches_the_database_again_renews_its_lease_at_once() {
    let Some(server) = Postgres::shared() else { return };
    let direct = server.database();
    let (proxy, url) = server.through_a_cut(&direct);
    let one = shared(&url);
    let other = shared(&direct);
    proxy.apart(|| {
        until("the store says why", || one.trouble().is_some());
        let id = this(&other).entries[0].id;
        sql(
            &direct,
            &format!("UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 minute' WHERE id = {id}"),
        );
        assert!(!this(&other).entries[0].is_there);
    });
    until("the store can be written again", || one.trouble().is_none());
    assert!(
        this(&other).entries.iter().any(|entry| entry.id == this(&one).this && entry.is_there),
        "nothing was written"
    );
    take(&other, &["a"]);
    record(&one, &order(1), 1);
    assert!(one.loss().borrow().is_none());
}

/// The steps of a subscription that are under way do not fail because of what other hosts write.
#[test]
fn steps_under_way_go_on_when_other_hosts_write() {
    let Some(server) = Postgres::shared() else { return };
    let [one, other] = pair(&server.database());
    record(&one, &order(1), 30);
    let row = |number| Step { row: Some(number), ..step("s", Position(number), Position(number + 1)) };
    for number in 0..20 {
        advance(&one, row(number)).unwrap_or_else(|error| panic!("step {number}: {error}"));
        record(&other, &order(2), 1);
    }
}

/// A hot aggregate makes progress on both, and every command is counted once.
#[test]
fn two_hosts_that_write_to_one_aggregate_all_the_time_both_make_progress() {
    const EACH: usize = 300;
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let begin = Barrier::new(2);
    let accepted: Vec<usize> = std::thread::scope(|scope| {
        let hosts: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let store: Arc<dyn EventStore> = Arc::new(shared(&url));
                    let aggregates = Counters::serve(&store, AggregateOptions::default(), Arc::new(|_| Ok(())));
                    let outcomes = Outcomes::new(&store);
                    begin.wait();
                    let accepted = (0..EACH).filter(|_| {
                        outcomes.of(&aggregates, count("hot", "Count"));
                        matches!(outcomes.next().1, Outcome::Accepted { .. })
                    });
                    let accepted = accepted.count();
                    aggregates.stop();
                    store.close();
                    accepted
                })
            })
            .collect();
        hosts.into_iter().map(|host| host.join().expect("a host ends")).collect()
    });
    println!("accepted: {accepted:?} of {EACH} each");
    assert!(accepted.iter().all(|accepted| *accepted > EACH * 9 / 10), "{accepted:?}");
    let store = shared(&url);
    let events = whole_stream(&mut *reader(&store), &counter("hot"));
    assert_eq!(events.len(), accepted.iter().sum::<usize>());
    let counts: HashSet<_> = events.iter().map(|event| event.payload.clone()).collect();
    assert_eq!(counts.len(), events.len(), "each was decided on the events before it");
}
