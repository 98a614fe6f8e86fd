//! The role that runs a process over several aggregates: a saga, also called a process manager.
//!
//! A saga is pure: the same history and input give the same events and effects. Its state comes from its own events, like
//! that of an aggregate. Its inputs are events of aggregates, the outcomes of its commands, its timers, and the responses to its
//! HTTP requests.

use crate::Failure;
use crate::bindings::types;
use crate::reading::{Reading, Reads, Shape, UnknownEvents, named_event};
use crate::schema::Schema;
use crate::subscriber::{Delivery, Outbox, Outcome, Response, Timer, check_endpoints};
use crate::upcast::Upcasts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::{Deref, DerefMut};

/// A process over several aggregates.
///
/// A saga has a key. Each input of a key is handled once, by the saga of that key. The host makes the events that the saga
/// records, its effects and the progress past the input durable in one transaction: all of them or none.
///
/// Only events in [`STARTS`](Self::STARTS) start a saga. Inputs for a saga that does not exist or has ended are counted and
/// ignored. Events of one key arrive in the order in which they were recorded. There is no order between events, outcomes,
/// timers and responses, so an event may arrive before the outcome of the command that led to it.
///
/// This saga ships an order once it is paid. If it is not paid within an hour, or can't be shipped, it undoes what was done.
///
/// ```
/// use std::time::Duration;
/// use wasmill_guest::prelude::*;
///
/// #[derive(Default)]
/// struct Checkout { payment: Option<String> }
///
/// /// Its own events, which are recorded in its own stream.
/// #[derive(Serialize, Deserialize)]
/// enum Event { Started, Paid { payment: String } }
///
/// #[derive(Serialize)]
/// enum Shipping { Ship }
/// #[derive(Serialize)]
/// enum Payment { Refund }
/// #[derive(Serialize)]
/// enum Order { Complete, Cancel { reason: String } }
///
/// #[derive(Deserialize)]
/// enum Input { OrderPlaced {}, OrderPaid { payment: String } }
///
/// impl Saga for Checkout {
///     const TYPE: &'static str = "checkout";
///     const STARTS: &'static [&'static str] = &["order.OrderPlaced"];
///     const SUBSCRIPTIONS: &'static [&'static str] = &["order.OrderPaid"];
///     type Event = Event;
///
///     fn handle(&self, event: &Delivery, step: &mut Step<Event>) -> Result<(), Failure> {
///         match event.decode()? {
///             Input::OrderPlaced {} => {
///                 step.record(Event::Started);
///                 step.wake("unpaid", Duration::from_secs(3_600), &event.aggregate_id()?)?;
///             }
///             Input::OrderPaid { payment } => {
///                 step.record(Event::Paid { payment });
///                 step.cancel("unpaid");
///                 let order = event.aggregate_id()?;
///                 step.send_command(OutgoingCommand::new("shipping", order, &Shipping::Ship)?.asking_outcome(&order)?);
///             }
///         }
///         Ok(())
///     }
///
///     fn outcome(&self, outcome: &Outcome<'_>, step: &mut Step<Event>) -> Result<(), Failure> {
///         let order: String = outcome.attachment()?;
///         if !outcome.ending().is_accepted() {
///             return self.undo(order, outcome.ending().to_string(), step);
///         }
///         step.send("order", order, &Order::Complete)?;
///         step.complete();
///         Ok(())
///     }
///
///     fn timer(&self, timer: &Timer<'_>, step: &mut Step<Event>) -> Result<(), Failure> {
///         self.undo(timer.json()?, "it was not paid in time".into(), step)
///     }
///
///     fn apply(&mut self, event: Event) {
///         if let Event::Paid { payment } = event {
///             self.payment = Some(payment);
///         }
///     }
/// }
/// export_saga!(Checkout);
///
/// impl Checkout {
///     fn undo(&self, order: String, reason: String, step: &mut Step<Event>) -> Result<(), Failure> {
///         if let Some(payment) = &self.payment {
///             step.send("payment", payment, &Payment::Refund)?;
///         }
///         step.send("order", order, &Order::Cancel { reason })?;
///         step.compensated();
///         Ok(())
///     }
/// }
///
/// use wasmill_guest::testing::{event_json, given_saga, outcome, timer};
/// let placed = || event_json("order", "7", "OrderPlaced", "{}");
/// let paid = || event_json("order", "7", "OrderPaid", r#"{"payment":"p1"}"#);
/// let ship = OutgoingCommand::new("shipping", "7", &Shipping::Ship)?.asking_outcome(&"7")?;
/// given_saga::<Checkout>([])
///     .when(placed())
///     .then_events([Event::Started])
///     .then_wake("unpaid", Duration::from_secs(3_600), &"7")
///     .then_goes_on()
///     .when(paid())
///     .then_events([Event::Paid { payment: "p1".into() }])
///     .then_cancel("unpaid")
///     .then_sent(ship)
///     .then_goes_on()
///     .when(outcome("shipping", "7", "Ship", Ending::Rejected("out of stock"), &"7"))
///     .then_command("payment", "p1", &Payment::Refund)
///     .then_command("order", "7", &Order::Cancel { reason: "rejected: out of stock".into() })
///     .then_compensated();
/// given_saga::<Checkout>([Event::Started])
///     .when(timer("unpaid", &"7"))
///     .then_command("order", "7", &Order::Cancel { reason: "it was not paid in time".into() })
///     .then_compensated();
/// # Ok::<(), wasmill_guest::codec::Error>(())
/// ```
pub trait Saga: Default + 'static {
    /// The aggregate type of the streams of its own events: 1 to 64 characters of `a-z`, `0-9` and `-`. It must be unique
    /// among the aggregates and sagas of a host. The aggregate id of a stream is the saga's key.
    const TYPE: &'static str;

    /// The events that start a saga: patterns over `aggregate-type.EventName`, as in
    /// [`Subscriber::SUBSCRIPTIONS`](crate::Subscriber::SUBSCRIPTIONS). A saga that exists gets them too.
    const STARTS: &'static [&'static str];

    /// The events that are further inputs of sagas that exist.
    const SUBSCRIPTIONS: &'static [&'static str] = &[];

    /// The upcasts of the events that it reads, by aggregate type: those events arrive in the newest shape that this code knows.
    /// See [`reading`](crate::reading).
    const READS: &'static [Reads] = &[];

    /// The shape in which the host delivers events, if it is not the one in which they were recorded. It takes the place of
    /// [`READS`](Self::READS).
    const SHAPE: Shape = Shape::Recorded;

    /// What becomes of an event that only a wildcard selects, and for whose name the code has no variant. By default it is
    /// skipped and counted.
    const UNKNOWN_EVENTS: UnknownEvents = UnknownEvents::Skip;

    /// The names of the endpoints that its HTTP requests go to, as in
    /// [`Subscriber::ENDPOINTS`](crate::Subscriber::ENDPOINTS). An input that leads to a request to any other endpoint is
    /// malformed.
    const ENDPOINTS: &'static [&'static str] = &[];

    /// The events of the saga itself: a plain serde enum, like those of an [`Aggregate`](crate::Aggregate). They are kept
    /// forever, so new code must be able to decode old ones.
    type Event: Serialize + DeserializeOwned;

    /// The upcasts of its own events. See [`upcast`](crate::upcast).
    const UPCASTS: &'static [Upcasts] = &[];

    /// The JSON Schema of its own events: `Schema::of::<Event>()`. By default there is none. See [`schema`](crate::schema).
    const EVENT_SCHEMA: Schema = Schema::none();

    /// The JSON Schema of the state.
    const STATE_SCHEMA: Schema = Schema::none();

    /// Returns the key of the saga that an event is for, or none if it is for no saga. It must depend on the event alone.
    /// By default it is the id of the event's aggregate.
    fn key(event: &Delivery) -> Result<Option<String>, Failure> {
        event.aggregate_id().map(|id| Some(id.to_owned()))
    }

    /// Decides on an event. On failure nothing is recorded and nothing is sent; the variant of [`Failure`] says what the
    /// host does next. A panic counts as a failure that is retried.
    fn handle(&self, event: &Delivery, step: &mut Step<Self::Event>) -> Result<(), Failure>;

    /// Decides on the outcome of a command that the saga sent with
    /// [`asking_outcome`](crate::subscriber::OutgoingCommand::asking_outcome). By default an accepted command changes
    /// nothing, and any other outcome leads to [`compensate`](Self::compensate).
    fn outcome(&self, outcome: &Outcome<'_>, step: &mut Step<Self::Event>) -> Result<(), Failure> {
        match outcome.ending() {
            ending if ending.is_accepted() => Ok(()),
            ending => self.compensate(&format!("{}: {ending}", outcome.command()), step),
        }
    }

    /// Decides on a timer that the saga set with [`wake`](crate::subscriber::Outbox::wake). By default it leads to
    /// [`compensate`](Self::compensate).
    fn timer(&self, timer: &Timer<'_>, step: &mut Step<Self::Event>) -> Result<(), Failure> {
        self.compensate(&format!("timer {} is due", timer.name()), step)
    }

    /// Decides on the answer to a request that the saga sent with
    /// [`asking_response`](crate::subscriber::Request::asking_response). By default a status from 200 to 299 changes nothing,
    /// and any other answer leads to [`compensate`](Self::compensate).
    fn response(&self, response: &Response<'_>, step: &mut Step<Self::Event>) -> Result<(), Failure> {
        match response.answer() {
            answer if answer.is_success() => Ok(()),
            answer => self.compensate(&format!("{response}: {answer}"), step),
        }
    }

    /// Undoes what the saga has done so far, because it can't reach its goal, for this reason. It sends the commands that
    /// undo it, and ends the saga with [`Step::compensated`], at once or when their outcomes arrive. By default the input
    /// that led here is malformed, because nobody handles it.
    fn compensate(&self, reason: &str, step: &mut Step<Self::Event>) -> Result<(), Failure> {
        let _ = step;
        Err(Failure::malformed(format_args!("{reason}, and `Saga::compensate` is not implemented")))
    }

    /// Updates the state with an event of its own. Events arrive in version order. This cannot fail, because the event has
    /// already happened.
    fn apply(&mut self, event: Self::Event);
}

/// What a saga decides on one input: events of its own, and effects in the [`Outbox`], to which this dereferences.
///
/// The first step of a saga must record an event, because without one there would be no saga: if it has effects or an end
/// and no event, the input is malformed. A step with nothing in it ignores the input. The names of timers belong to the
/// saga of this key: another saga may use the same name. A name has no `/`.
#[derive(Debug)]
pub struct Step<E> {
    pub(crate) events: Vec<E>,
    pub(crate) outbox: Outbox,
    pub(crate) end: Option<End>,
}

/// How a saga ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Compensated,
}

impl<E> Default for Step<E> {
    fn default() -> Self {
        Self { events: Vec::new(), outbox: Outbox::default(), end: None }
    }
}

impl<E> Step<E> {
    /// Records an event in the saga's own stream. The state changes after the step, when the event is applied.
    pub fn record(&mut self, event: E) {
        self.events.push(event);
    }

    /// Ends the saga: it has reached its goal. Its named timers are cancelled, its stream is archived, and later inputs are
    /// ignored. The effects of this step still take place. If a step ends the saga twice, the last call counts.
    pub fn complete(&mut self) {
        self.end = Some(End::Completed);
    }

    /// Ends the saga as [`complete`](Self::complete) does: it has not reached its goal, and what it had done is undone.
    pub fn compensated(&mut self) {
        self.end = Some(End::Compensated);
    }
}

impl<E> Deref for Step<E> {
    type Target = Outbox;

    fn deref(&self) -> &Outbox {
        &self.outbox
    }
}

impl<E> DerefMut for Step<E> {
    fn deref_mut(&mut self) -> &mut Outbox {
        &mut self.outbox
    }
}

fn reading<S: Saga>() -> Reading {
    Reading { reads: S::READS, subscriptions: [S::STARTS, S::SUBSCRIPTIONS], unknown: S::UNKNOWN_EVENTS }
}

/// Passes an input to the function that decides on its kind. Returns false if it is an event that is skipped.
pub(crate) fn dispatch<S: Saga>(saga: &S, input: &mut Delivery, step: &mut Step<S::Event>) -> Result<bool, Failure> {
    reading::<S>().migrate_delivery(&mut input.0)?;
    let handled = match &input.0.origin {
        types::Origin::Event(_) | types::Origin::Kafka(_) => saga.handle(input, step),
        types::Origin::Outcome(origin) => saga.outcome(&Outcome { delivery: input, origin }, step),
        types::Origin::Timer => saga.timer(&Timer { delivery: input }, step),
        types::Origin::Response(origin) => saga.response(&Response { delivery: input, origin }, step),
    };
    let handled = handled.and_then(|()| check_endpoints(&step.outbox.effects, S::ENDPOINTS));
    reading::<S>().judge(named_event(&input.0), handled, false)
}

/// Returns the key of the saga that an event is for, if there is one.
pub(crate) fn key<S: Saga>(event: &mut Delivery) -> Result<Option<String>, Failure> {
    reading::<S>().migrate_delivery(&mut event.0)?;
    match S::key(event) {
        Ok(key) => Ok(key),
        // Without a key it is for no saga, which the host counts too.
        Err(failure) => reading::<S>().judge(named_event(&event.0), Err(failure), false).map(|_| None),
    }
}
