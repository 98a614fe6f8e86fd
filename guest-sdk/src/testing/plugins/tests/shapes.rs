//! Readers that ask for the newest shape.

use super::*;
use crate::reading::Shape;
use crate::upcast::{Json, Upcasts, json};

/// An aggregate whose event has changed once.
#[derive(Default)]
struct Parcel;

#[derive(Serialize, Deserialize)]
enum ParcelEvent {
    Weighed { grams: u64 },
}

fn from_kilograms(event: Json) -> Result<Json, String> {
    Ok(json!({ "grams": event["kilograms"].as_u64().ok_or("it has no `kilograms`")? * 1_000 }))
}

impl Aggregate for Parcel {
    const TYPE: &'static str = "parcel";
    const UPCASTS: &'static [Upcasts] = &[Upcasts::of("Weighed", &[from_kilograms])];
    type Command = ParcelEvent;
    type Event = ParcelEvent;
    type Error = String;

    fn handle(&self, command: ParcelEvent) -> Result<Vec<ParcelEvent>, String> {
        Ok(vec![command])
    }

    fn apply(&mut self, _: ParcelEvent) {}
}

/// A subscriber that notes the payloads as they arrive.
struct Reader<const IS_NEWEST: bool>;

impl<const IS_NEWEST: bool> Subscriber for Reader<IS_NEWEST> {
    const SUBSCRIPTIONS: &'static [&'static str] = &["parcel.Weighed"];
    const SHAPE: Shape = if IS_NEWEST { Shape::Newest } else { Shape::Recorded };

    fn handle(delivery: &Delivery, _: &mut Outbox) -> Result<(), Failure> {
        SEEN.with_borrow_mut(|seen| {
            seen.push(String::from_utf8_lossy(delivery.bytes().unwrap_or_default()).into_owned())
        });
        Ok(())
    }
}

#[test]
fn a_reader_gets_events_in_the_shape_that_it_asks_for() {
    for (newest, expected) in [(true, r#"{"grams":500}"#), (false, r#"{"@schema":2,"grams":500}"#)] {
        let plugins = Plugins::new().aggregate::<Parcel>();
        let mut plugins = if newest {
            plugins.subscriber::<Reader<true>>("reader")
        } else {
            plugins.subscriber::<Reader<false>>("reader")
        };
        plugins.send("parcel", "1", &ParcelEvent::Weighed { grams: 500 });
        assert_eq!(seen(), [expected]);
    }
}
