//! The verification of a store in PostgreSQL finds what does not fit together, as that of a file does.

use super::moves::{Places, fill, is_sound, opened};
use wasmill::model::*;
use wasmill::store::*;
use wasmill_tests::postgres::sql;
use wasmill_tests::store_conformance::requests::*;

#[test]
fn verify_finds_what_does_not_fit_together_in_postgresql() {
    let Some(places) = Places::new() else { return };
    let location = places.postgres();
    let store = opened(&location);
    for n in 0..40 {
        record(&*store, &order(n % 7), 3);
    }
    append(&*store, durable(&order(2), "remembered"), ExpectedVersion::Any, happened(0)).expect("it is new");
    for number in [0, 1, 5, 9] {
        append(&*store, numbered(&order(3), "kafka/a/a/0", number), ExpectedVersion::Any, happened(1))
            .expect("it is new");
    }
    let end = *store.head().borrow();
    for (from, to) in [(Position(0), Position(9)), (Position(9), end)] {
        let commands = (0..3).map(|n| command(&order(n), "sent")).collect();
        let messages = (0..3).map(|n| message(&n.to_string())).collect();
        advance(&*store, Step { commands, messages, ..step("warehouse", from, to) }).expect("nobody else moves it");
    }
    ask(|done| store.published("kafka", 0, 2, Vec::new(), done)).answer().expect("nobody else publishes");
    fill(&*store);
    // A host may be there.
    let sound = is_sound(&location);
    store.close();
    drop(store);
    assert_eq!((sound.events, sound.indexed, sound.position), (128, 128, 128));
    assert_eq!(statistics_of(&location, true).expect("it is counted").counted.map(|counted| counted.events), Some(128));
    let tables = "events, ledgers, checkpoints, held_keys, outbox, callbacks, http_requests, sinks, outcomes, tallies, dead_letters,
                  archived_streams, head";
    let each =
        |statement: &dyn Fn(&str) -> String| tables.split(',').map(|table| statement(table.trim())).collect::<String>();
    let keep = each(&|table| format!("CREATE TABLE kept.{table} AS TABLE wasmill.{table};"));
    let restore =
        each(&|table| format!("DELETE FROM wasmill.{table}; INSERT INTO wasmill.{table} TABLE kept.{table};"));
    sql(&places.url, &format!("CREATE SCHEMA kept; {keep}"));
    let mut wrong = Vec::new();
    for (damage, said) in [
        ("DELETE FROM events WHERE position = 30", "after version"),
        ("UPDATE events SET version = 400 WHERE position = 30", "is version 400"),
        ("UPDATE events SET headers = '\\xff' WHERE position = 30", "position 30: headers"),
        ("UPDATE events SET type = 77 WHERE position = 30", "the event at position 30: its `event` is missing"),
        ("UPDATE events SET aggregate_type = 77 WHERE position = 30", "the event at position 30"),
        ("UPDATE events SET id = '\\x00' WHERE position = 30", "its `id` is no id"),
        ("UPDATE events SET aggregate_id = '\\xff' WHERE position = 30", "its `aggregate_id` is not UTF-8"),
        ("UPDATE events SET id = (SELECT id FROM events WHERE position = 7) WHERE position = 9", "was assigned twice"),
        ("UPDATE events SET position = -1 WHERE position = 1", "position -1 comes after 0"),
        ("UPDATE head SET position = 500", "its newest position is 500, and it is 128"),
        ("UPDATE head SET newest_id = '\\x00'", "another id than that of its newest event"),
        ("UPDATE head SET message = 3", "the newest messages, up to 3, are missing"),
        ("UPDATE head SET dead_letter = 0", "past the newest number that was assigned, 0"),
        ("UPDATE head SET dead_letters = 7", "counts 7 dead letters"),
        ("UPDATE head SET callback = 0", "callback 1 is past the newest number"),
        ("UPDATE head SET http_request = 0", "HTTP request 1 is past the newest number"),
        ("UPDATE ledgers SET next = 7 WHERE name LIKE 'kafka/a%'", "settled ahead"),
        ("UPDATE ledgers SET ahead = '\\xffff' WHERE name LIKE 'kafka/a%'", "ledger kafka/a/a/0 does not decode"),
        ("INSERT INTO ledgers VALUES ('subscription/warehouse', 7, '\\x00')", "has settled 7 commands of 6"),
        ("UPDATE checkpoints SET position = 1125", "past the newest event, 128"),
        ("UPDATE checkpoints SET position = -1", "its `position` is -1"),
        ("UPDATE checkpoints SET commands = 7", "the newest commands of subscription warehouse are missing"),
        ("DELETE FROM checkpoints", "no checkpoint"),
        ("DELETE FROM outbox WHERE kind = 'commands' AND first = 3", "the newest commands"),
        ("UPDATE outbox SET body = '\\xff' WHERE kind = 'commands'", "does not decode"),
        ("DELETE FROM outbox WHERE kind = 'messages' AND first = 1", "some are missing"),
        ("UPDATE sinks SET position = 70", "past the newest message"),
        ("UPDATE dead_letters SET content = '\\xff'", "the content of dead letter 1 does not decode"),
        ("DELETE FROM dead_letters", "which does not exist"),
        ("UPDATE held_keys SET version = 99", "its stream ends at version 3"),
        ("UPDATE callbacks SET due_ms = 7", "is due at another time than it should"),
        ("UPDATE callbacks SET body = '\\xff'", "callback 1 does not decode"),
        ("UPDATE http_requests SET due_ms = 5", "is due at another time than it should"),
        ("UPDATE outcomes SET outcome = '{}'", "the outcome of command "),
        ("UPDATE outcomes SET fingerprint = '\\x00'", "has no fingerprint"),
        ("UPDATE tallies SET accepted = -1", "its `accepted` is -1"),
        ("INSERT INTO archived_streams VALUES (1, 'nobody', 0)", "nobody is archived and has no events"),
    ] {
        sql(&places.url, &format!("SET search_path = wasmill; {damage}"));
        let report = verify(&location).expect("it can be verified");
        if !report.problems.iter().any(|problem| problem.contains(said)) {
            wrong.push(format!("{damage}: {said:?} is not in {:#?}", report.problems));
        }
        sql(&places.url, &restore);
        assert_eq!(is_sound(&location), sound, "{damage}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
