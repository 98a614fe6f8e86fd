//! The role that reacts to recorded events, Kafka records, outcomes, timers and responses with commands, messages, timers and
//! HTTP requests.

mod callback;
mod delivery;
pub mod http;
mod outbox;
mod record;

pub use callback::{Ending, Outcome, Timer};
pub use delivery::Delivery;
pub(crate) use http::check_endpoints;
pub use http::{HttpAnswer, HttpResponse, Request, Response};
pub(crate) use outbox::Effect;
use outbox::attachment;
pub use outbox::{Due, Message, Outbox, OutgoingCommand};
pub use record::Record;

use crate::Failure;
use crate::bindings::types;
use crate::reading::{Reading, Reads, Shape, UnknownEvents, named_event};

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
/// deliver::<Readings>(record("readings", Some(b"s1"), None))
///     .then_command("sensor", "s1", &Sensor::Retire)
///     .then_nothing();
/// deliver::<Readings>(record("readings", Some(b"\xff"), None).from_place(2, 17))
///     .then_malformed("topic readings partition 2 offset 17: the key is not text");
/// ```
///
/// A subscriber can ask for the outcome of a command and set timers. Both come back as deliveries of their own, exactly
/// once, also after a restart. If it asks about several commands, [`Outcome::command`] and the attachment tell them apart;
/// several events are told apart by [`Delivery::name`], or decoded as an enum with [`Delivery::decode`].
///
/// ```
/// use std::time::Duration;
/// use wasmill_guest::prelude::*;
///
/// #[derive(Serialize)]
/// enum Payment { Charge { cents: i64 } }
///
/// #[derive(Serialize)]
/// enum Order { Confirm, Cancel { reason: String } }
///
/// #[derive(Deserialize)]
/// struct OrderPlaced { cents: i64 }
///
/// struct Checkout;
///
/// impl Subscriber for Checkout {
///     const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderPlaced"];
///
///     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
///         let (order, OrderPlaced { cents }) = (delivery.aggregate_id()?, delivery.json()?);
///         let charge = OutgoingCommand::new("payment", order, &Payment::Charge { cents })?;
///         outbox.send_command(charge.asking_outcome(&order)?);
///         outbox.wake(format!("unpaid:{order}"), Duration::from_secs(3_600), &order)?;
///         Ok(())
///     }
///
///     fn outcome(outcome: &Outcome<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
///         let order: String = outcome.attachment()?;
///         outbox.cancel(format!("unpaid:{order}"));
///         let command = match outcome.ending() {
///             Ending::Accepted { .. } => Order::Confirm,
///             other => Order::Cancel { reason: other.to_string() },
///         };
///         Ok(outbox.send("order", order, &command)?)
///     }
///
///     fn timer(timer: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
///         let order: String = timer.json()?;
///         Ok(outbox.send("order", order, &Order::Cancel { reason: "not paid in time".into() })?)
///     }
/// }
/// export_subscriber!(Checkout);
///
/// use wasmill_guest::testing::{deliver, event_json, outcome, timer};
/// let charge = OutgoingCommand::new("payment", "7", &Payment::Charge { cents: 500 })?.asking_outcome(&"7")?;
/// deliver::<Checkout>(event_json("order", "7", "OrderPlaced", r#"{"cents":500}"#))
///     .then_sent(charge)
///     .then_wake("unpaid:7", Duration::from_secs(3_600), &"7")
///     .then_nothing();
/// deliver::<Checkout>(outcome("payment", "7", "Charge", Ending::Rejected("no funds"), &"7"))
///     .then_cancel("unpaid:7")
///     .then_command("order", "7", &Order::Cancel { reason: "rejected: no funds".into() })
///     .then_nothing();
/// deliver::<Checkout>(timer("unpaid:7", &"7"))
///     .then_command("order", "7", &Order::Cancel { reason: "not paid in time".into() })
///     .then_nothing();
/// # Ok::<(), wasmill_guest::codec::Error>(())
/// ```
///
/// It can also send HTTP requests: see [`http`].
pub trait Subscriber: 'static {
    /// The events that the subscriber receives: patterns over `aggregate-type.EventName`. In a pattern, `*` stands for
    /// one segment between dots and `**` for any number of segments.
    const SUBSCRIPTIONS: &'static [&'static str];

    /// The upcasts of the events that it reads, by aggregate type: those events arrive in the newest shape that this code knows.
    /// See [`reading`](crate::reading).
    const READS: &'static [Reads] = &[];

    /// The shape in which the host delivers events, if it is not the one in which they were recorded. It takes the place of
    /// [`READS`](Self::READS).
    const SHAPE: Shape = Shape::Recorded;

    /// What becomes of an event that only a wildcard selects, and for whose name the code has no variant. By default it is
    /// skipped and counted.
    const UNKNOWN_EVENTS: UnknownEvents = UnknownEvents::Skip;

    /// The names of the endpoints that its HTTP requests go to: 1 to 64 characters of `a-z`, `0-9` and `-`. The manifest has
    /// their URLs. A delivery with a request to any other endpoint is malformed.
    const ENDPOINTS: &'static [&'static str] = &[];

    /// Handles one event or record. Deliveries with the same [key](Delivery::key) arrive in order. On failure the outbox is
    /// discarded; the variant of [`Failure`] says what the host does next. A panic counts as a failure that is retried.
    fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure>;

    /// Handles the outcome of a command that this subscriber sent with
    /// [`asking_outcome`](OutgoingCommand::asking_outcome). Outcomes with the same key arrive in the order in which they
    /// were recorded, and timers with the same key in the order of their times. There is no order between outcomes, timers,
    /// responses and events. By default an outcome is malformed, because nobody handles it.
    fn outcome(outcome: &Outcome<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let _ = outbox;
        let command = outcome.command();
        Err(Failure::malformed(format_args!(
            "the outcome of {command} arrived, and `Subscriber::outcome` is not implemented"
        )))
    }

    /// Handles a timer that this subscriber set with [`wake`](Outbox::wake). By default a timer is malformed, because
    /// nobody handles it.
    fn timer(timer: &Timer<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let _ = outbox;
        let name = timer.name();
        Err(Failure::malformed(format_args!("the timer {name} is due, and `Subscriber::timer` is not implemented")))
    }

    /// Handles the answer to a request that this subscriber sent with [`asking_response`](Request::asking_response). Answers
    /// with the same key arrive in the order in which they were recorded. By default an answer is malformed, because nobody
    /// handles it.
    fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
        let _ = outbox;
        Err(Failure::malformed(format_args!(
            "the response to {response} arrived, and `Subscriber::response` is not implemented"
        )))
    }
}

/// Passes a delivery to the function that handles its kind. Returns false if it is an event that is skipped.
pub(crate) fn dispatch<S: Subscriber>(delivery: &mut Delivery, outbox: &mut Outbox) -> Result<bool, Failure> {
    let reading = Reading { reads: S::READS, subscriptions: [S::SUBSCRIPTIONS, &[]], unknown: S::UNKNOWN_EVENTS };
    reading.migrate_delivery(&mut delivery.0)?;
    let handled = match &delivery.0.origin {
        types::Origin::Event(_) | types::Origin::Kafka(_) => S::handle(delivery, outbox),
        types::Origin::Outcome(origin) => S::outcome(&Outcome { delivery, origin }, outbox),
        types::Origin::Timer => S::timer(&Timer { delivery }, outbox),
        types::Origin::Response(origin) => S::response(&Response { delivery, origin }, outbox),
    };
    let handled = handled.and_then(|()| check_endpoints(&outbox.effects, S::ENDPOINTS));
    let is_handled = reading.judge(named_event(&delivery.0), handled, false)?;
    if !is_handled {
        outbox.effects.clear();
    }
    Ok(is_handled)
}
