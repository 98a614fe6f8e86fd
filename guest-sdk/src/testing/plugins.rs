//! Tests of several plugins together, in one process and with a clock that the test moves.

pub(super) mod code;
mod command;
pub(super) mod patterns;
mod projections;
mod running;
pub(super) mod servers;
mod settled;
mod store;
mod subscription;

pub use settled::Settled;

use super::readable;
use crate::bindings::types;
use crate::contract::Contract;
use crate::projection::QueryError;
use crate::saga::Saga;
use crate::subscriber::Subscriber;
use crate::upcast::{self, Upcasts};
use crate::{Aggregate, codec, readback};
use code::{AggregateCode, Aggregates, Broken, Given, Sagas};
use command::Command;
use projections::ProjectionPart;
use running::Count;
use serde::Serialize;
use serde_json::Value as Json;
use servers::Servers;
use settled::Happened;
use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use store::Store;
use subscription::{SagaPart, Subscription, SubscriptionCode};
use wasmill_cases::flows::http::{Answers, SentRequest, ServerAnswer};
use wasmill_cases::flows::{self, Ended, Flow, FlowCommand, Stream, World};
use wasmill_names::Rule;

/// The time at which the clock begins by default: 2026-01-01T00:00:00Z.
const START_MS: u64 = 1_767_225_600_000;

/// Plugins that work together, as in a host: commands lead to events, events go to subscribers, sagas and projections, and
/// what these ask for comes back to them. A step of a test is done when everything is at rest.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Default)] struct Door { is_open: bool }
/// # #[derive(Serialize, Deserialize)] enum DoorCommand { Open, Close }
/// # #[derive(Serialize, Deserialize)] enum DoorEvent { Opened, Closed }
/// # impl Aggregate for Door {
/// #     const TYPE: &'static str = "door";
/// #     type Command = DoorCommand;
/// #     type Event = DoorEvent;
/// #     type Error = &'static str;
/// #     fn handle(&self, command: DoorCommand) -> Result<Vec<DoorEvent>, &'static str> {
/// #         match command {
/// #             DoorCommand::Open if self.is_open => Err("the door is open"),
/// #             DoorCommand::Open => Ok(vec![DoorEvent::Opened]),
/// #             DoorCommand::Close => Ok(vec![DoorEvent::Closed]),
/// #         }
/// #     }
/// #     fn apply(&mut self, event: DoorEvent) { self.is_open = matches!(event, DoorEvent::Opened); }
/// # }
/// # #[derive(Deserialize)] struct Rules { seconds: u64 }
/// # struct Closer;
/// # impl Subscriber for Closer {
/// #     const SUBSCRIPTIONS: &'static [&'static str] = &["door.Opened"];
/// #     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
/// #         let close = OutgoingCommand::new("door", delivery.aggregate_id()?, &DoorCommand::Close)?;
/// #         outbox.send_later(Duration::from_secs(settings::<Rules>().seconds), close);
/// #         Ok(())
/// #     }
/// # }
/// use std::time::Duration;
/// use wasmill_guest::testing::Plugins;
///
/// // `Door` is an aggregate, and `Closer` a subscriber that closes it after some time.
/// let mut house = Plugins::new()
///     .aggregate::<Door>()
///     .subscriber::<Closer>("closer")
///     .with_settings(json!({ "seconds": 60 }));
/// house.send("door", "front", &DoorCommand::Open).then_accepted();
/// house.send("door", "front", &DoorCommand::Open).then_rejected("the door is open");
/// house.advance(Duration::from_secs(59)).then_nothing();
/// house.advance(Duration::from_secs(1)).then_events("door", "front", [DoorEvent::Closed]).then_nothing();
/// ```
///
/// The rules are those of a host with the manifest's defaults. In particular:
///
/// - A subscription gets each event once, in the order of their positions, and waits behind a dead letter of the same key.
/// - Timers fire at their time: what follows from one sees that time.
/// - An input that fails with `retry`, or panics, is tried five times, and then it is a dead letter.
/// - A chain of causes through more than 100 subscribers ends with a dead letter.
/// - The HTTP requests of one key to one endpoint are sent in the order of the calls. If a request did not ask for its response
///   and does not end with a status from 200 to 299, it is a dead letter.
/// - A request whose method, path or headers break the host's rules is refused.
/// - Aggregates and sagas decide twice, live and rebuilt from their encoded events. If the two differ the test fails.
///
/// It differs from a host in a few points. [`advance`](Plugins::advance) stops at each due time, while a person who moves the clock of
/// a host lets it jump. There is no Kafka: published messages are kept for the test, and no records come in.
/// There is one order of deliveries, while a host has many; the order between subscriptions, and between events and outcomes, is
/// not promised. Failed inputs are tried again at once, and dead letters are not replayed. No HTTP request leaves the process: the
/// test says with [`answering`](Plugins::answering) how a server answers. There is one attempt, so this answer is the final one,
/// also if a host would retry after such a status. It comes back at once. Secrets of endpoints stay placeholders. Settings are
/// decoded when code reads them, and not before. The limits of time, memory and output do not hold.
pub struct Plugins {
    store: Store,
    aggregates: BTreeMap<&'static str, AggregatePart>,
    subscriptions: Vec<Subscription>,
    projections: Vec<ProjectionPart>,
    servers: Servers,
    /// The events that each type of aggregates and sagas can record.
    recorded: BTreeMap<&'static str, Vec<String>>,
    /// The upcasts of each type of aggregates and sagas.
    upcasts: BTreeMap<&'static str, &'static [Upcasts]>,
    /// The plugin that was added last.
    last: Option<Last>,
    happened: Happened,
    count: Count,
    /// The number of commands that the test has sent.
    commands: u64,
    /// The number of outcomes, timers and responses so far.
    callbacks: u64,
}

/// An aggregate's code.
struct AggregatePart {
    type_name: &'static str,
    given: Given,
    code: Box<dyn AggregateCode>,
}

/// The place of a plugin.
enum Last {
    Aggregate(&'static str),
    Subscription,
    #[cfg_attr(not(feature = "testing-sql"), allow(dead_code, reason = "there are no projections without the feature"))]
    Projection,
}

impl Default for Plugins {
    fn default() -> Self {
        Self::new()
    }
}

/// Which plugins there are.
impl Plugins {
    /// Makes a world without plugins, with nothing recorded. The clock is at 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        readback::check_all();
        Self {
            store: Store::new(START_MS),
            aggregates: BTreeMap::new(),
            subscriptions: Vec::new(),
            projections: Vec::new(),
            servers: Servers::default(),
            recorded: BTreeMap::new(),
            upcasts: BTreeMap::new(),
            last: None,
            happened: Happened::default(),
            count: Count::default(),
            commands: 0,
            callbacks: 0,
        }
    }

    /// Sets the clock to a time, in milliseconds since 1970-01-01T00:00:00Z.
    ///
    /// # Panics
    /// If events are recorded already, because the clock does not go back: use [`advance`](Self::advance).
    #[track_caller]
    pub fn at(mut self, time_ms: u64) -> Self {
        assert!(self.store.position() == 0, "the clock is set before anything is recorded; move it with `advance`");
        self.store.now_ms = time_ms;
        self
    }

    /// Adds an aggregate.
    ///
    /// # Panics
    /// If another plugin has the same aggregate type, or if a host would refuse it.
    #[track_caller]
    pub fn aggregate<A: Aggregate>(mut self) -> Self {
        let owner = type_name::<A>();
        self.check_type(A::TYPE, owner);
        let names = codec::variants::<A::Command>("commands").and_then(|_| upcast::names::<A::Event>(A::UPCASTS));
        self.recorded.insert(A::TYPE, names.unwrap_or_else(|cause| panic!("{owner}: {cause}")));
        self.upcasts.insert(A::TYPE, A::UPCASTS);
        let code = Box::new(Aggregates::<A>::default());
        let part = AggregatePart { type_name: owner, given: Given::default(), code };
        self.aggregates.insert(A::TYPE, part);
        self.last = Some(Last::Aggregate(A::TYPE));
        self
    }

    /// Adds a saga. The name of its subscription is its type; [`named`](Self::named) gives it another one.
    ///
    /// # Panics
    /// If another plugin has the same aggregate type or name, or if a host would refuse it.
    #[track_caller]
    pub fn saga<S: Saga>(mut self) -> Self {
        let owner = type_name::<S>();
        self.check_type(S::TYPE, owner);
        let names = upcast::names::<S::Event>(S::UPCASTS);
        self.recorded.insert(S::TYPE, names.unwrap_or_else(|cause| panic!("{owner}: {cause}")));
        self.upcasts.insert(S::TYPE, S::UPCASTS);
        assert!(!S::STARTS.is_empty(), "{owner} has no STARTS: without an event that starts it there is never a saga");
        S::SHAPE.check(S::READS);
        let starts = patterns::checked(owner, S::STARTS);
        let patterns = starts.iter().copied().chain(patterns::checked(owner, S::SUBSCRIPTIONS)).collect();
        let code = SagaPart { saga_type: S::TYPE, starts, code: Box::new(Sagas::<S>::default()) };
        let code = SubscriptionCode::Sagas(code);
        self.subscription(Subscription::new(S::TYPE.to_owned(), owner, code, (patterns, S::SHAPE), S::ENDPOINTS))
    }

    /// Adds a subscriber. The name of its subscription is that of the plugin in a manifest.
    ///
    /// # Panics
    /// If another plugin has the same name, or if a host would refuse it.
    #[track_caller]
    pub fn subscriber<S: Subscriber>(self, name: &str) -> Self {
        S::SHAPE.check(S::READS);
        let owner = type_name::<S>();
        let patterns = patterns::checked(owner, S::SUBSCRIPTIONS);
        let code = SubscriptionCode::Subscriber(code::handle::<S>);
        self.subscription(Subscription::new(name.to_owned(), owner, code, (patterns, S::SHAPE), S::ENDPOINTS))
    }

    /// Adds a projection with an empty read model.
    ///
    /// # Panics
    /// If another plugin has a projection of the same name, or if a host would refuse it.
    #[cfg(feature = "testing-sql")]
    #[track_caller]
    pub fn projection<P: crate::Projection>(mut self) -> Self {
        P::SHAPE.check(P::READS);
        let owner = type_name::<P>();
        assert!(Rule::Part.allows(P::NAME), "the NAME of {owner} must be {}", Rule::Part.in_words());
        if let Some(other) = self.projections.iter().find(|other| other.name == P::NAME) {
            panic!("{} and {owner} are both the projection `{}`: name one of them otherwise", other.type_name, P::NAME);
        }
        self.projections.push(ProjectionPart {
            name: P::NAME,
            type_name: owner,
            given: Given::default(),
            patterns: patterns::checked(owner, P::SUBSCRIPTIONS),
            shape: P::SHAPE,
            next: 0,
            code: Box::new(super::ReadModel::<P>::new()),
        });
        self.last = Some(Last::Projection);
        self
    }

    /// Names the subscription of the saga or the subscriber that was added last. It is the name of the plugin in a manifest, which
    /// dead letters carry.
    ///
    /// # Panics
    /// If another plugin has the same name, or if neither a saga nor a subscriber was added last.
    #[track_caller]
    pub fn named(mut self, name: &str) -> Self {
        assert!(matches!(self.last, Some(Last::Subscription)), "`named` comes after `saga` or `subscriber`");
        let mut subscription = self.subscriptions.pop().expect("one was added last");
        name.clone_into(&mut subscription.name);
        self.subscription(subscription)
    }

    /// Gives settings to the plugin that was added last: JSON, as a manifest has them, or a value of the type that
    /// [`export_settings!`](crate::export_settings) names. Without this it gets the defaults.
    ///
    /// # Panics
    /// If no plugin was added.
    #[track_caller]
    pub fn with_settings<T: 'static>(mut self, settings: T) -> Self {
        self.given("with_settings").settings = code::kept(settings);
        self
    }

    /// Gives secrets to the saga or the subscriber that was added last: JSON, or a value of the type that
    /// [`export_settings!`](crate::export_settings) names.
    ///
    /// # Panics
    /// If neither a saga nor a subscriber was added last: a host gives secrets to no other role.
    #[track_caller]
    pub fn with_secrets<T: 'static>(mut self, secrets: T) -> Self {
        let gets_secrets = matches!(self.last, None | Some(Last::Subscription));
        assert!(gets_secrets, "only subscribers and sagas get secrets: add the secrets after one");
        self.given("with_secrets").secrets = code::kept(secrets);
        self
    }

    /// Says how the server of an endpoint answers all requests, of whatever plugin. The answer is the final one: there are no
    /// retries. A later call for the same endpoint replaces this one. In a flow from a file, the answers of the flow come first.
    /// A panic in `server`, such as that of an assertion about the request, ends the test.
    ///
    /// ```
    /// # use wasmill_guest::prelude::*;
    /// # #[derive(Default)] struct Order { is_paid: bool }
    /// # #[derive(Serialize, Deserialize)] enum OrderCommand { Place { cents: i64 }, Confirm }
    /// # #[derive(Serialize, Deserialize)] enum OrderEvent { Placed { cents: i64 }, Confirmed }
    /// # impl Aggregate for Order {
    /// #     const TYPE: &'static str = "order";
    /// #     type Command = OrderCommand;
    /// #     type Event = OrderEvent;
    /// #     type Error = &'static str;
    /// #     fn handle(&self, command: OrderCommand) -> Result<Vec<OrderEvent>, &'static str> {
    /// #         Ok(vec![match command {
    /// #             OrderCommand::Place { cents } => OrderEvent::Placed { cents },
    /// #             OrderCommand::Confirm => OrderEvent::Confirmed,
    /// #         }])
    /// #     }
    /// #     fn apply(&mut self, _: OrderEvent) {}
    /// # }
    /// # #[derive(Serialize, Deserialize)] struct Charge { cents: i64 }
    /// # struct Checkout;
    /// # impl Subscriber for Checkout {
    /// #     const SUBSCRIPTIONS: &'static [&'static str] = &["order.Placed"];
    /// #     const ENDPOINTS: &'static [&'static str] = &["payments"];
    /// #     fn handle(delivery: &Delivery, outbox: &mut Outbox) -> Result<(), Failure> {
    /// #         let charge: Charge = delivery.json()?;
    /// #         let order = delivery.aggregate_id()?;
    /// #         outbox.http(Request::post("payments", "charges").json(&charge)?.asking_response(&order)?);
    /// #         Ok(())
    /// #     }
    /// #     fn response(response: &Response<'_>, outbox: &mut Outbox) -> Result<(), Failure> {
    /// #         match response.answer().is_success() {
    /// #             true => Ok(outbox.send("order", response.attachment::<String>()?, &OrderCommand::Confirm)?),
    /// #             false => Err(Failure::rejected(response.answer())),
    /// #         }
    /// #     }
    /// # }
    /// use wasmill_guest::testing::{Plugins, ServerAnswer};
    ///
    /// // `Checkout` charges for each order, and confirms an order that is paid.
    /// let mut shop = Plugins::new()
    ///     .aggregate::<Order>()
    ///     .subscriber::<Checkout>("checkout")
    ///     .answering("payments", |request| match request.json::<Charge>() {
    ///         Ok(Charge { cents }) if cents <= 1_000 => ServerAnswer::json(201, &json!({ "id": "c1" })),
    ///         _ => ServerAnswer::failed("no route to the server"),
    ///     });
    /// let charge = |cents| Request::post("payments", "charges").json(&Charge { cents });
    /// shop.send("order", "7", &OrderCommand::Place { cents: 500 })
    ///     .then_http(charge(500)?.asking_response(&"7")?)
    ///     .then_events("order", "7", [OrderEvent::Placed { cents: 500 }, OrderEvent::Confirmed])
    ///     .then_nothing();
    /// shop.send("order", "8", &OrderCommand::Place { cents: 5_000 })
    ///     .then_dead_letter("checkout", "rejected: failed: no route to the server");
    /// # Ok::<(), wasmill_guest::codec::Error>(())
    /// ```
    pub fn answering(mut self, endpoint: &str, server: impl FnMut(&SentRequest) -> ServerAnswer + 'static) -> Self {
        self.answer_with(endpoint, server);
        self
    }

    /// Prepares the plugins for a flow: sets the clock, and how servers answer.
    #[track_caller]
    pub(super) fn of_flow(mut self, flow: &Flow) -> Self {
        self.servers.set_answers(Answers::new(&flow.answers));
        self.at(flow.start_ms)
    }

    #[track_caller]
    fn given(&mut self, method: &str) -> &mut Given {
        let Self { aggregates, subscriptions, projections, last, .. } = self;
        let given = match last {
            Some(Last::Aggregate(aggregate_type)) => aggregates.get_mut(aggregate_type).map(|part| &mut part.given),
            Some(Last::Subscription) => subscriptions.last_mut().map(|part| &mut part.given),
            Some(Last::Projection) => projections.last_mut().map(|part| &mut part.given),
            None => None,
        };
        given.unwrap_or_else(|| panic!("`{method}` comes after a plugin"))
    }

    #[track_caller]
    fn subscription(mut self, subscription: Subscription) -> Self {
        let Subscription { name, type_name, endpoints, .. } = &subscription;
        if let Some(endpoint) = endpoints.iter().find(|endpoint| !Rule::Part.allows(endpoint)) {
            panic!("an endpoint in ENDPOINTS of {type_name} must be {}, found {endpoint:?}", Rule::Part.in_words());
        }
        assert!(Rule::Part.allows(name), "the name of a plugin must be {}, found {name:?}", Rule::Part.in_words());
        if let Some(other) = self.subscriptions.iter().find(|other| other.name == *name) {
            panic!("{} and {type_name} are both named `{name}`: name one of them otherwise", other.type_name);
        }
        self.subscriptions.push(subscription);
        self.last = Some(Last::Subscription);
        self
    }

    #[track_caller]
    fn check_type(&self, aggregate_type: &str, owner: &str) {
        assert!(Rule::Part.allows(aggregate_type), "the TYPE of {owner} must be {}", Rule::Part.in_words());
        let of_saga = |subscription: &Subscription| match &subscription.code {
            SubscriptionCode::Sagas(part) if part.saga_type == aggregate_type => Some(subscription.type_name),
            SubscriptionCode::Sagas(_) | SubscriptionCode::Subscriber(_) => None,
        };
        let other = self.aggregates.get(aggregate_type).map(|part| part.type_name);
        if let Some(other) = other.or_else(|| self.subscriptions.iter().find_map(of_saga)) {
            panic!(
                "{other} and {owner} both have the aggregate type `{aggregate_type}`: give one of them another type"
            );
        }
    }
}

/// What a test does.
impl Plugins {
    /// Sends a command to an aggregate, and waits until everything that follows from it is at rest.
    ///
    /// # Panics
    /// If there is no such aggregate, or if a plugin is broken in a way that a host can't report.
    #[track_caller]
    pub fn send(&mut self, aggregate_type: &str, aggregate_id: &str, command: &impl Serialize) -> Settled {
        let (name, payload) =
            codec::encode(command).unwrap_or_else(|error| panic!("the command does not encode: {error}"));
        self.send_bytes(Stream::new(aggregate_type, aggregate_id), name, payload)
    }

    /// Sends a command to an aggregate of a contract, as [`send`](Self::send) does.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    #[track_caller]
    pub fn send_to<C: Contract>(&mut self, aggregate_id: &str, command: &C::Command) -> Settled {
        self.send(C::TYPE, aggregate_id, command)
    }

    /// Sends a command, given by its name and JSON, as a sender writes it.
    ///
    /// # Panics
    /// As [`send`](Self::send).
    #[track_caller]
    pub fn send_json(&mut self, aggregate_type: &str, aggregate_id: &str, name: &str, payload: &str) -> Settled {
        self.send_bytes(Stream::new(aggregate_type, aggregate_id), name, payload.as_bytes().to_vec())
    }

    /// Moves the clock. Each timer that is due until then fires at its time.
    ///
    /// # Panics
    /// If a plugin is broken in a way that a host can't report.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) -> Settled {
        let moved = self.move_clock(by);
        moved.unwrap_or_else(|broken| panic!("{broken}"));
        Settled::new(None, std::mem::take(&mut self.happened))
    }

    /// Changes how the server of an endpoint answers, from now on. See [`answering`](Self::answering).
    pub fn answer_with(&mut self, endpoint: &str, server: impl FnMut(&SentRequest) -> ServerAnswer + 'static) {
        self.servers.set(endpoint, Box::new(server));
    }

    /// Asks a projection, which has seen everything that has happened.
    ///
    /// # Panics
    /// If the projection was not added, or if the query fails.
    #[cfg(feature = "testing-sql")]
    #[track_caller]
    pub fn query<P: crate::Projection>(&mut self, query: &impl Serialize) -> Json {
        let (name, params) = codec::encode(query).unwrap_or_else(|error| panic!("the query does not encode: {error}"));
        let answered = self.answer(P::NAME, name, &params).unwrap_or_else(|broken| panic!("{broken}"));
        answered.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Returns the time of the clock, in milliseconds since 1970-01-01T00:00:00Z.
    pub fn now_ms(&self) -> u64 {
        self.store.now_ms
    }

    /// Returns all events of an aggregate or a saga: names and payloads, as they are recorded.
    pub fn events_of(&self, aggregate_type: &str, aggregate_id: &str) -> Vec<(String, Json)> {
        let history = self.store.history(&Stream::new(aggregate_type, aggregate_id));
        history.into_iter().map(|event| (event.name, readable(&event.payload))).collect()
    }

    #[track_caller]
    fn send_bytes(&mut self, to: Stream, name: &str, payload: Vec<u8>) -> Settled {
        let sent = self.command(to, name, payload, Vec::new());
        let settled = sent.and_then(|ended| self.come_to_rest().map(|()| ended));
        let ended = settled.unwrap_or_else(|broken| panic!("{broken}"));
        Settled::new(Some(ended), std::mem::take(&mut self.happened))
    }

    /// Has an aggregate decide on a command of the test.
    fn command(
        &mut self,
        stream: Stream,
        name: &str,
        payload: Vec<u8>,
        headers: Vec<types::Header>,
    ) -> Result<Ended, Broken> {
        if !self.aggregates.contains_key(stream.aggregate_type.as_str()) {
            return Err(self.no_aggregate(&stream.aggregate_type));
        }
        self.commands += 1;
        let (id, now_ms) = (format!("command-{}", self.commands), self.store.now_ms);
        let command = Command {
            stream,
            name: name.to_owned(),
            payload,
            headers,
            expected: None,
            correlation_id: id.clone(),
            id,
            time_ms: now_ms,
            first_ms: now_ms,
            causation_id: None,
            hops: 0,
            sender: None,
        };
        let ending = self.run(&command)?;
        Ok(match (running::refusal(&ending, None), ending) {
            (None, _) => Ended::Accepted,
            (Some(reason), types::Ending::Rejected(_)) => Ended::Rejected(reason),
            (Some(reason), types::Ending::Malformed(_)) => Ended::Malformed(reason),
            (Some(reason), _) => Ended::Otherwise(format!("it failed: {reason}")),
        })
    }

    fn no_aggregate(&self, aggregate_type: &str) -> Broken {
        let of_saga = |subscription: &Subscription| matches!(&subscription.code, SubscriptionCode::Sagas(part) if part.saga_type == aggregate_type);
        match self.subscriptions.iter().any(of_saga) {
            true => format!("`{aggregate_type}` is a saga, and commands go to aggregates only"),
            false => unknown("aggregate type", aggregate_type, self.aggregate_types()),
        }
    }

    fn aggregate_types(&self) -> Vec<&'static str> {
        self.aggregates.keys().copied().collect()
    }

    /// Returns the endpoints that the plugins declare.
    fn endpoints(&self) -> BTreeSet<&'static str> {
        self.subscriptions.iter().flat_map(|subscription| subscription.endpoints).copied().collect()
    }

    fn answer(&mut self, projection: &str, query: &str, params: &[u8]) -> Result<Result<Json, String>, Broken> {
        self.come_to_rest()?;
        match self.projections.iter().find(|part| part.name == projection) {
            Some(part) => match part.code.query(&part.given, query, params) {
                Ok(answer) => Ok(Ok(answer)),
                Err(QueryError::Unknown(known)) => {
                    Err(unknown(&format!("query of projection {projection}"), query, known.iter().map(String::as_str)))
                }
                Err(QueryError::Malformed(reason)) => Ok(Err(reason)),
                Err(failed) => Ok(Err(failed.to_string())),
            },
            None => Err(unknown("projection", projection, self.projections.iter().map(|part| part.name))),
        }
    }
}

/// Returns the error for a name that nothing has, with those that there are.
fn unknown<'n>(what: &str, name: &str, known: impl IntoIterator<Item = &'n str>) -> Broken {
    let known: Vec<&str> = known.into_iter().collect();
    match known.is_empty() {
        true => format!("there is no {what} {name}, and no plugin has one"),
        false => format!("there is no {what} {name}; {}there are: {}", near(name, &known), known.join(", ")),
    }
}

/// Returns a question for the name that was probably meant, if one is close.
fn near(name: &str, known: &[&str]) -> String {
    let likeness = |other: &&&str| (strsim::jaro_winkler(name, other) * 1000.0) as u32;
    let nearest = known.iter().max_by_key(likeness).filter(|other| likeness(other) >= 750);
    nearest.map_or(String::new(), |near| format!("did you mean {near}? "))
}

impl World for Plugins {
    fn send(&mut self, FlowCommand { to, name, payload, headers }: &FlowCommand) -> Result<Ended, String> {
        let header = |(name, value): (&String, &String)| types::Header {
            name: name.clone(),
            value: Some(value.clone().into_bytes()),
        };
        let headers = headers.iter().map(header).collect();
        self.command(to.clone(), name, payload.to_string().into_bytes(), headers)
    }

    fn advance(&mut self, by: Duration) -> Result<(), String> {
        self.move_clock(by)
    }

    fn query(&mut self, projection: &str, query: &str, params: &Json) -> Result<flows::Answered, String> {
        self.answer(projection, query, params.to_string().as_bytes())
    }

    fn settle(&mut self) -> Result<flows::Happened, String> {
        self.come_to_rest()?;
        let Happened { events, messages, requests, refused, dead_letters } = std::mem::take(&mut self.happened);
        let messages =
            messages.into_iter().map(|message| (message.0.topic, message.0.key, message.0.payload)).collect();
        let requests = requests.iter().map(servers::sent).collect();
        Ok(flows::Happened { events, messages, requests, refused, dead_letters })
    }

    fn check_event(&self, on: &Stream, name: &str) -> Result<(), String> {
        match self.recorded.get(on.aggregate_type.as_str()) {
            None => Err(unknown("aggregate type", &on.aggregate_type, self.recorded.keys().copied())),
            Some(events) if events.iter().any(|event| event == name) => Ok(()),
            Some(events) => {
                let what = format!("event of aggregate type {}", on.aggregate_type);
                Err(unknown(&what, name, events.iter().map(String::as_str)))
            }
        }
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<(), String> {
        let declared = self.endpoints();
        if declared.contains(endpoint) { Ok(()) } else { Err(unknown("endpoint", endpoint, declared)) }
    }
}

#[cfg(test)]
mod tests;
