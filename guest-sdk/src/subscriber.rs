//! The role that reacts to recorded events and Kafka records with commands and messages.

mod delivery;
mod outbox;
mod record;

pub use delivery::Delivery;
pub(crate) use outbox::Effect;
pub use outbox::{Message, Outbox, OutgoingCommand};
pub use record::Record;

use crate::Failure;

/// A reaction to deliveries. The host makes the contents of the outbox durable in one transaction with the progress
/// past the delivery: all of them or none.
///
/// A subscriber must keep no state. A delivery may be redelivered after a crash, and the next one may go to another
/// instance.
///
/// ```
/// use wasmill_guest::prelude::*;
///
/// #[derive(Deserialize)]
/// struct OrderCreated { amount_cents: i64 }
///
/// #[derive(Serialize)]
/// enum Review { OpenCase { order_id: String } }
///
/// struct Audit;
///
/// impl Subscriber for Audit {
///     const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderCreated"];
///
///     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
///         let order: OrderCreated = delivery.json()?;
///         if order.amount_cents > 100_000 {
///             let order_id = delivery.aggregate_id()?.to_owned();
///             outbox.send("review", "today", &Review::OpenCase { order_id })?;
///         }
///         Ok(())
///     }
/// }
/// export_subscriber!(Audit);
///
/// use wasmill_guest::testing::{deliver, event_json};
/// deliver::<Audit>(event_json("order", "7", "OrderCreated", r#"{"amount_cents":100001}"#))
///     .then_command("review", "today", &Review::OpenCase { order_id: "7".into() })
///     .then_nothing();
/// deliver::<Audit>(event_json("order", "8", "OrderCreated", r#"{"amount_cents":1}"#)).then_nothing();
/// ```
///
/// A Kafka source delivers its records to the subscriber that the manifest names (`subscriber = "…"`). `SUBSCRIPTIONS`
/// select events only, not records. Leave them empty if the subscriber wants no events.
///
/// ```
/// use wasmill_guest::prelude::*;
///
/// #[derive(Serialize, Deserialize)]
/// struct Reading { celsius: f64 }
///
/// #[derive(Serialize)]
/// enum Sensor { Report { celsius: f64 }, Retire }
///
/// struct Readings;
///
/// impl Subscriber for Readings {
///     const SUBSCRIPTIONS: &'static [&'static str] = &[];
///
///     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
///         let record = delivery.record()?;
///         let sensor = record.key_text()?;
///         match record.value::<Reading>()? {
///             Some(Reading { celsius }) => outbox.send("sensor", sensor, &Sensor::Report { celsius })?,
///             // A tombstone: the sensor is gone.
///             None => outbox.send("sensor", sensor, &Sensor::Retire)?,
///         }
///         Ok(())
///     }
/// }
/// export_subscriber!(Readings);
///
/// use wasmill_guest::testing::{deliver, record, record_json};
/// deliver::<Readings>(record_json("readings", "s1", &Reading { celsius: 21.5 }))
///     .then_command("sensor", "s1", &Sensor::Report { celsius: 21.5 })
///     .then_nothing();
/// deliver::<Readings>(record("readings", Some(b"s1"), None)).then_command("sensor", "s1", &Sensor::Retire);
/// deliver::<Readings>(record("readings", Some(b"\xff"), None).from_place(2, 17))
///     .then_malformed("topic readings partition 2 offset 17: the key is not text");
/// ```
pub trait Subscriber: 'static {
    /// The events that the subscriber receives: patterns over `aggregate-type.EventName`. In a pattern, `*` stands for
    /// one segment between dots and `**` for any number of segments.
    const SUBSCRIPTIONS: &'static [&'static str];

    /// Handles one delivery. Deliveries with the same [key](Delivery::key) arrive in order. On failure the outbox is
    /// discarded; the variant of [`Failure`] says what the host does next. A panic counts as a failure that is retried.
    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure>;
}
