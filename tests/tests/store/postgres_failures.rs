//! A store whose database is killed, cut off or locked loses nothing and doubles nothing, and resumes by itself.

use crate::kills::{TURN, Worker};
use fastrand::Rng;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use wasmill::model::ExpectedVersion::Any;
use wasmill::model::{Command, NewEvent, StreamId, Undecided};
use wasmill::store::postgres::PostgresStore;
use wasmill::store::sqlite::{FaultPoint, KILL_AT};
use wasmill::store::*;
use wasmill_tests::postgres::{Postgres, Session, address, sql};
use wasmill_tests::raised::Raised;
use wasmill_tests::store_conformance::requests::*;
use wasmill_tests::store_workload;

const PATIENCE: Duration = Duration::from_secs(60);

fn open(url: &str) -> PostgresStore {
    PostgresStore::open(&address(url), Options { lease_ms: 60_000, ..Options::default() }).expect("open the store")
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// What is refused takes no room in the queue, so the store works when the database is there again.
#[test]
fn refusals_while_the_database_is_away_leave_the_queue_as_it_was() {
    let Some(server) = Postgres::shared() else { return };
    let (proxy, url) = server.through_a_cut(&server.database());
    let options = Options { lease_ms: 60_000, queue_bytes_max: 4_096, ..Options::default() };
    let store = PostgresStore::open(&address(&url), options).expect("open the store");
    record(&store, &order(1), 1);
    let large = || {
        let event = NewEvent { name: "Happened".into(), payload: vec![b' '; 1_024] };
        append(&store, command(&order(1), "large"), Any, Decision::Events(vec![event]))
    };
    proxy.apart(|| {
        // A request that is being committed at the cut has its answer only when the database is there again.
        until("the store says why", || store.trouble().is_some());
        (0..20).for_each(|_| assert!(large().is_err()));
    });
    until("the store can be written again", || store.trouble().is_none());
    large().expect("there is room");
    store.close();
}

/// A guest may send a command to a type of any name, which nobody serves.
#[test]
fn a_name_that_the_database_can_not_store_harms_no_other_request() {
    let Some(server) = Postgres::shared() else { return };
    let store = open(&server.database());
    let odd = || Command { stream: StreamId::new("a\0b", "1"), ..command(&order(1), "odd") };
    let unserved = Decision::Undecided(Undecided::Unserved("nobody serves it".into()));
    let (asked, other) =
        (ask_append(&store, odd(), Any, unserved), ask_append(&store, command(&order(1), "c"), Any, happened(1)));
    asked.answer().expect("it is settled");
    other.answer().expect("it is recorded");
    let refused = append(&store, odd(), Any, happened(1));
    assert!(matches!(&refused, Err(Error::Invalid(reason)) if reason.contains("NUL")), "{refused:?}");
    store.close();
}

/// Several senders append for as long as `meanwhile` runs. What was accepted must be there once, and what was refused must not
/// be there: an answer is never a guess.
pub(crate) fn under_writes(store: &PostgresStore, meanwhile: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let answers: Vec<(String, bool)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let (store, over) = (&store, &over);
                scope.spawn(move || {
                    let mut answers = Vec::new();
                    for n in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                        let id = format!("{sender}-{n}");
                        match append(*store, command(&order(n % 20), &id), Any, happened(1)) {
                            Ok(_) => answers.push((id, true)),
                            Err(Error::Failed(_)) => {
                                answers.push((id, false));
                                std::thread::park_timeout(Duration::from_millis(1));
                            }
                            Err(other) => panic!("{other}"),
                        }
                    }
                    answers
                })
            })
            .collect();
        let over = Raised(&over);
        meanwhile();
        drop(over);
        senders.into_iter().flat_map(|sender| sender.join().expect("a sender ends")).collect()
    });
    let mut there: HashMap<String, usize> = HashMap::new();
    for event in all_events(store) {
        *there.entry(event.causation_id.to_string()).or_default() += 1;
    }
    for (id, is_accepted) in &answers {
        assert_eq!(there.get(id).copied().unwrap_or(0), usize::from(*is_accepted), "command {id}");
    }
    assert!(answers.iter().any(|(_, is_accepted)| *is_accepted));
    let positions: Vec<u64> = all_events(store).iter().map(|event| event.position.0).collect();
    assert!(positions.iter().copied().eq(1..=positions.len() as u64), "positions have no gaps");
}

#[test]
fn a_server_that_crashes_under_writes_loses_and_doubles_nothing() {
    let Some(server) = Postgres::own(&["fsync = on"]) else { return };
    let url = server.database();
    let store = open(&url);
    under_writes(&store, || {
        for _ in 0..3 {
            let before = store.head().borrow().0;
            until("writes", || store.head().borrow().0 > before + 50);
            server.restart(|| until("the store says why", || store.trouble().is_some()));
            until("the store can be written again", || store.trouble().is_none());
        }
    });
    assert!(store.loss().borrow().is_none());
    store.close();
}

#[test]
fn connections_that_are_cut_under_writes_lose_and_double_nothing() {
    let Some(server) = Postgres::shared() else { return };
    let (proxy, url) = server.through_a_cut(&server.database());
    let store = open(&url);
    let mut rng = Rng::new();
    under_writes(&store, || {
        for n in 0..40 {
            let before = store.head().borrow().0;
            until("writes", || store.head().borrow().0 > before + rng.u64(1..30));
            if n % 8 == 7 {
                proxy.apart(|| until("the store says why", || store.trouble().is_some()));
                until("the store can be written again", || store.trouble().is_none());
            } else {
                proxy.cut();
            }
        }
    });
    store.close();
}

#[test]
fn a_lock_of_somebody_else_is_told_and_waited_for() {
    let Some(server) = Postgres::shared() else { return };
    let url = server.database();
    let store = open(&url);
    record(&store, &order(1), 1);
    let psql = Session::start(&url);
    psql.run("BEGIN; LOCK TABLE wasmill.events IN ACCESS EXCLUSIVE MODE");
    let refused = append(&store, command(&order(1), "c"), Any, happened(1)).unwrap_err().to_string();
    assert!(refused.contains("another session has locked the store's tables"), "{refused}");
    assert!(store.trouble().is_some_and(|trouble| trouble.contains("pg_locks")));
    psql.run("ROLLBACK");
    until("the store can be written again", || store.trouble().is_none());
    record(&store, &order(1), 1);
    assert_eq!(whole_stream(&mut *reader(&store), &order(1)).len(), 2);
}

/// As when its machine was suspended: the database ends its session, and another host takes over.
#[test]
fn a_host_that_stands_still_in_a_transaction_does_not_hold_the_others_up() {
    let Some(server) = Postgres::shared() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let url = server.database();
    let worker = Worker::start(&url, 7, None);
    let mut worker = worker;
    for _ in 0..200 {
        assert!(worker.next(), "the worker ended by itself");
    }
    worker.signal(libc::SIGSTOP);
    sql(&url, "UPDATE wasmill.hosts SET lease_until = clock_timestamp() - interval '1 second'");
    let store = open(&url);
    worker.signal(libc::SIGCONT);
    let events = || sql(&url, "SELECT count(*) FROM wasmill.events");
    let before = events();
    // It finds out and ends by itself, without an effect.
    let acknowledged = worker.lost();
    assert_eq!(events(), before);
    store_workload::check(&store, &acknowledged);
}

#[test]
fn a_killed_host_leaves_all_that_was_acknowledged_and_its_marks_are_true() {
    let Some(server) = Postgres::shared() else { return };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let url = server.database();
    let (mut rng, mut acknowledged) = (Rng::new(), Vec::new());
    let check = |acknowledged: &[String]| {
        // The process is gone, so its lease is free at once.
        let store: Arc<dyn EventStore> = Arc::new(open(&url));
        store_workload::check(&*store, acknowledged);
        store.close();
    };
    for kill in 0..6 {
        let (lines, seed) = (rng.usize(1..800), rng.u64(..));
        println!("kill {kill} after {lines} acknowledgements, seed {seed}");
        acknowledged.extend(Worker::start(&url, seed, None).killed_after(lines));
        check(&acknowledged);
    }
    for point in [
        FaultPoint::BeforeBegin,
        FaultPoint::Begun,
        FaultPoint::EventInserted,
        FaultPoint::RequestDone,
        FaultPoint::BeforeCommit,
        FaultPoint::Committed,
        FaultPoint::EntriesShown,
        FaultPoint::WatchersWoken,
        FaultPoint::Answered,
        FaultPoint::AllAnswered,
    ] {
        let (kill_at, seed) = (format!("{}:{}", point.name(), rng.u64(1..20)), rng.u64(..));
        println!("kill at {kill_at}, seed {seed} ({KILL_AT})");
        acknowledged.extend(Worker::start(&url, seed, Some(&kill_at)).killed(&kill_at));
        check(&acknowledged);
    }
}

/// With synchronous replication the standby has all that was acknowledged. The URL names both servers, so the hosts find it by themselves.
#[test]
fn hosts_go_on_where_a_promoted_standby_has_what_was_acknowledged() {
    let Some(primary) = Postgres::own(&["fsync = on"]) else { return };
    let url = primary.database();
    let standby = primary.copy(&[], Some("standby.signal"));
    let of_standby = standby.url_like(&url);
    sql(&url, "ALTER SYSTEM SET synchronous_standby_names = '*'");
    sql(&url, "SELECT pg_reload_conf()");
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby is synchronous", || sql(&url, synchronous) == ["1"]);
    let [first, second] = [&primary, &standby].map(|server| server.server().address().to_string());
    let both = format!("{}?target_session_attrs=read-write", url.replace(&first, &format!("{first},{second}")));
    let shared = || PostgresStore::open_shared(&address(&both), Options::default()).expect("open the store");
    let (store, other) = (shared(), shared());
    record(&other, &order(100), 1);
    under_writes(&store, || {
        until("writes", || store.head().borrow().0 > 200);
        let begun = Instant::now();
        primary.server().kill().expect("end the primary");
        until("the store says why", || store.trouble().is_some());
        sql(&of_standby, "SELECT pg_promote()");
        until("the store can be written again", || store.trouble().is_none() && other.trouble().is_none());
        println!("written again {} ms after the end of the primary", begun.elapsed().as_millis());
        let before = store.head().borrow().0;
        until("writes", || store.head().borrow().0 > before + 100);
    });
    record(&other, &order(100), 1);
    assert_eq!(whole_stream(&mut *reader(&other), &order(100)).len(), 2);
    assert!(store.loss().borrow().is_none() && other.loss().borrow().is_none());
}
