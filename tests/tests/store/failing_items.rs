//! If a subscriber traps or takes too long in a batch, the host knows which event is at fault.

use std::sync::Arc;
use std::time::Duration;
use wasmill::model::{Position, RecordedEvent, StreamId, Version};
use wasmill::plugin::{Compiler, Demand, Error, Limits, Slot, SubscriberGuest, Wanted};
use wasmill_tests::built;

fn event(number: u64, then: &str) -> RecordedEvent {
    RecordedEvent {
        position: Position(number),
        stream: StreamId::new("misbehaving", number.to_string()),
        version: Version(1),
        name: "Counted".into(),
        payload: format!(r#"{{"count":1,"then":"{then}"}}"#).into_bytes(),
        id: Default::default(),
        time_ms: 1,
        first_ms: None,
        correlation_id: "c".into(),
        causation_id: "c".into(),
        headers: Vec::new(),
        hops: 0,
    }
}

#[test]
fn the_item_at_fault_of_a_batch_is_known() {
    let compiler = Compiler::new(None, Demand::default()).expect("an engine");
    let limits = Limits { event_time: Duration::from_millis(100), ..Limits::default() };
    let slot = Slot::open(&compiler, "misbehaving", Wanted { limits, ..Wanted::of(built::plugin("misbehaving")) })
        .expect("the plugin");
    let plugin = Arc::new(slot).current();
    for (then, index, cause) in
        [("Panic", 3, "told to panic by an event"), ("Loop", 0, "event_time_ms"), ("Loop", 4, "event_time_ms")]
    {
        let events: Vec<_> = (0..5).map(|number| event(number, if number == index { then } else { "Note" })).collect();
        let mut guest = SubscriberGuest::new(&plugin).expect("a guest");
        match guest.handle(&events) {
            Err(Error::Trap { item, cause: said, .. }) => {
                assert_eq!(item.map(u64::from), Some(index), "{then}");
                assert!(said.contains(cause), "{said}");
            }
            other => panic!("{then} at {index}: {:?}", other.map(|handled| handled.is_ok())),
        }
        let mut guest = SubscriberGuest::new(&plugin).expect("a guest");
        let before = guest.handle(&events[..index as usize]).expect("it does not trap").expect("all are handled");
        assert_eq!(before.list.len() as u64, index, "those before it are handled");
    }
}
