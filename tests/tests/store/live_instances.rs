//! Live aggregates are bounded by number and by the memory of their guest. One that was dropped is rebuilt when it is
//! needed. Each is told where a command comes from.

use std::sync::Arc;
use wasmill::ack::Ack;
use wasmill::aggregates::{Aggregates, Options};
use wasmill::host::aggregate_services;
use wasmill::model::Refusal;
use wasmill::model::{Command, Outcome, StreamId, Version};
use wasmill::plugin::{AggregateGuest, Compiler, Demand, Limits, Slot, Wanted};
use wasmill::store::EventStore;
use wasmill::store::sqlite::{FILE_NAME, Options as StoreOptions, SqliteStore};
use wasmill_tests::built;
use wasmill_tests::command_path::PAYLOAD;
use wasmill_tests::scripted;

const CARTS: usize = 50_000;

/// Sends a command to each of many carts, then one more to the first; returns how many are alive at the end.
fn alive_after_many(limits: Limits) -> usize {
    let folder = tempfile::tempdir().expect("a folder");
    let store: Arc<dyn EventStore> =
        Arc::new(SqliteStore::open(&folder.path().join(FILE_NAME), StoreOptions::default()).expect("a store"));
    let compiler = Compiler::new(None, Demand::default()).expect("an engine");
    let slot = Slot::open(&compiler, "cart", Wanted { limits, ..Wanted::of(built::plugin("cart")) })
        .expect("the plugin `cart`");
    let services = aggregate_services(&Arc::new(slot), 1, &Options::default());
    let aggregates = Aggregates::start(services, &store).expect("a shard");
    let (answer, answered) = crossbeam_channel::unbounded();
    let send = |number: usize| {
        let answer = answer.clone();
        let ack = Ack::new(move |outcome| answer.send(outcome).expect("the test waits"));
        let mut command = scripted::count(&format!("cart-{number}"), "AddItems");
        command.stream = StreamId::new("cart", command.stream.aggregate_id);
        command.payload = PAYLOAD.into();
        assert!(aggregates.send(command.into(), ack).is_ok(), "carts are served");
    };
    (0..CARTS).for_each(send);
    for outcome in answered.iter().take(CARTS) {
        assert!(matches!(outcome, Outcome::Accepted { version: Version(1), .. }), "{outcome:?}");
    }
    send(0);
    let outcome = answered.recv().expect("an outcome");
    assert!(matches!(outcome, Outcome::Accepted { version: Version(2), .. }), "{outcome:?}");
    // The last answer comes before its aggregate is put back and counted.
    aggregates.stop();
    let alive = aggregates.status()[0].live;
    store.close();
    alive
}

#[test]
fn the_least_recently_used_leave_when_there_are_too_many_or_they_take_too_much() {
    let limits = Limits { instances_max: 1_000_000, ..Limits::default() };
    assert_eq!(alive_after_many(limits.clone()), CARTS);
    assert_eq!(alive_after_many(Limits { instances_max: 1_000, ..limits.clone() }), 1_000);
    let by_memory = alive_after_many(Limits { live_bytes_max: 4 << 20, ..limits });
    assert!((1_000..CARTS * 9 / 10).contains(&by_memory), "{by_memory}");
}

#[test]
fn an_aggregate_is_told_what_its_command_follows_from() {
    let compiler = Compiler::new(None, Demand::default()).expect("an engine");
    let slot = Slot::open(&compiler, "teller", Wanted::of(built::plugin("misbehaving"))).expect("the plugin");
    let mut guest = AggregateGuest::new(&slot.current(), "misbehaving").expect("a guest");
    let live = guest.create("a").expect("an aggregate");
    for (correlation, causation, told) in [
        ("c-1", "c-1", "c-1 of c-1 by None"),
        ("theirs", "c-1", "c-1 of theirs by None"),
        ("theirs", "event-1", "c-1 of theirs by Some(\"event-1\")"),
    ] {
        let command = Command {
            stream: StreamId::new("misbehaving", "a"),
            id: "c-1".into(),
            correlation_id: correlation.into(),
            causation_id: causation.into(),
            ..scripted::count("a", "Tell")
        };
        let refused = guest.handle(&live, &command).expect("no trap").expect_err("it says no");
        assert!(matches!(&refused, Refusal::Rejected(reason) if reason == told), "{refused:?}");
    }
}
