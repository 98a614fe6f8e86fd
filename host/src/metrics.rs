//! The metrics that a host shows to Prometheus, built on each request.
//!
//! These types are plain data. The numbers come from the status and from what the parts measured: nothing here counts
//! while a command or an event is handled. `api/metrics.rs` writes the families, and `docs/operations.md` lists them.

use crate::kafka::{Statistics, sink, source};
use crate::meter::HistogramReading;
use crate::plugin::PluginUse;
use crate::status::{EndpointStatus, State, Status};
use crate::store;

/// One metric with all its labels.
#[derive(Clone, Debug)]
pub struct Family {
    /// The name, without the prefix `wasmill_` and without the unit.
    pub name: &'static str,
    /// What it counts, as a sentence without a full stop.
    pub help: &'static str,
    /// The unit, with which the name ends.
    pub unit: Option<Unit>,
    /// Its values by labels, all of the same kind.
    pub samples: Vec<Sample>,
}

/// The unit of a metric that does not count items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// A value with its labels.
pub type Sample = (Labels, Value);

/// The names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// The value of a metric.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number that only grows, until the host restarts or its store is recreated.
    Counter(f64),
    /// A number that goes up and down.
    Gauge(f64),
    /// How many values fell between bounds.
    Histogram(HistogramReading),
}

/// What the parts of a host measured, in addition to the status.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The store's writer.
    pub store: store::Measures,
    /// Sources by name.
    pub sources: Vec<(String, source::Measures)>,
    /// Sinks by name.
    pub sinks: Vec<(String, sink::Measures)>,
    /// Dead letters by the part that dead-lettered them.
    pub dead_letters: Vec<(String, u64)>,
    /// Plugins by name.
    pub plugins: Vec<(String, PluginUse)>,
}

/// Builds all families that have a value.
pub fn families(status: &Status, measured: &Measured) -> Vec<Family> {
    let mut families = host(status, measured);
    families.extend(plugins(measured));
    families.extend(commands(status));
    families.extend(api(status));
    families.extend(sources(status, measured));
    families.extend(schedules(status));
    families.extend(followers(status));
    families.extend(endpoints(status));
    families.extend(sinks(status, measured));
    families.extend(clients(measured));
    families.retain(|family| !family.samples.is_empty());
    families
}

fn host(status: &Status, measured: &Measured) -> Vec<Family> {
    let store = &measured.store;
    let letters = measured.dead_letters.iter().map(|(name, count)| (label("consumer", name), gauge(*count)));
    vec![
        seconds("uptime", "Time since the host started", [(vec![], Value::Gauge(status.host.uptime_ms as f64 / 1e3))]),
        plain("store_position", "Position of the newest event", [(vec![], gauge(status.store.position))]),
        plain("store_queued_requests", "Requests that wait for the store's writer", [(vec![], gauge(store.queued))]),
        seconds(
            "store_commit",
            "Time that a commit of the store took, most of it the disk's",
            [(vec![], Value::Histogram(store.commit_time.clone()))],
        ),
        plain(
            "store_batch_requests",
            "Requests that shared a transaction of the store",
            [(vec![], Value::Histogram(store.batch_size.clone()))],
        ),
        plain("dead_letters", "Dead letters in the store, by consumer", letters),
        plain("dead_letters_max", "Limit of dead letters in all", [(vec![], gauge(status.dead_letters.total_max))]),
        bytes("dead_letters_size", "Size of all of them", [(vec![], gauge(status.dead_letters.bytes))]),
        bytes("dead_letters_size_max", "Limit of the size", [(vec![], gauge(status.dead_letters.bytes_max))]),
        plain(
            "dead_letters_dropped",
            "Dead letters dropped to keep to a limit",
            [(vec![], Value::Counter(store.dead_letters_dropped as f64))],
        ),
        plain(
            "clock_jumps",
            "Times that the wall clock was seen to jump",
            [(vec![], Value::Counter(store.clock_jumps as f64))],
        ),
        plain(
            "plugin_unknown_events",
            "Events that the code of a plugin does not know and has skipped since it was loaded",
            status.plugins.iter().map(|plugin| (label("plugin", &plugin.name), counter(plugin.unknown_events))),
        ),
        plain("part_working", "Whether a part does its work: 1, or 0 if it retries or has stopped", parts(status)),
    ]
}

fn plugins(measured: &Measured) -> Vec<Family> {
    let each = |value: fn(&PluginUse) -> Value| {
        measured.plugins.iter().map(move |(name, used)| (label("plugin", name), value(used)))
    };
    vec![
        plain("plugin_calls", "Calls to functions of a plugin", each(|used| counter(used.calls))),
        seconds(
            "plugin_calls_time",
            "Time that these calls took, estimated from every sixteenth",
            each(|used| Value::Counter(used.seconds)),
        ),
        plain(
            "plugin_call_failures",
            "Calls that trapped, took too long or broke the contract",
            each(|used| counter(used.failures)),
        ),
        plain("plugin_guests", "Present guests of a plugin", each(|used| gauge(used.guests))),
        bytes("plugin_memory", "Linear memory of these guests", each(|used| gauge(used.memory_bytes))),
    ]
}

/// Lists the parts that can stop working, each with whether it works.
fn parts(status: &Status) -> Vec<Sample> {
    let aggregates = status.aggregates.iter().map(|part| ("aggregate", &part.aggregate_type, part.state));
    let sources = status.sources.iter().map(|part| ("source", &part.name, part.state));
    let schedules = status.schedules.iter().map(|part| ("schedule", &part.name, part.state));
    let subscriptions = status.subscriptions.iter().map(|part| ("subscription", &part.name, part.state));
    let projections = status.projections.iter().map(|part| ("projection", &part.name, part.state));
    let endpoints = status.endpoints.iter().map(|part| ("endpoint", &part.name, part.state));
    let sinks = status.sinks.iter().map(|part| ("sink", &part.name, part.state));
    let sample = |(kind, name, state): (&str, &String, State)| {
        let works = matches!(state, State::Running | State::CatchingUp | State::Following);
        (vec![("part", kind.to_owned()), ("name", name.clone())], gauge(u64::from(works)))
    };
    let followers = subscriptions.chain(projections);
    aggregates.chain(sources).chain(schedules).chain(followers).chain(endpoints).chain(sinks).map(sample).collect()
}

fn commands(status: &Status) -> Vec<Family> {
    let outcomes = status.commands.iter().flat_map(|command| {
        let counts = [("accepted", command.accepted), ("rejected", command.rejected), ("malformed", command.malformed)];
        counts.map(|(outcome, count)| {
            let (kind, name) = (command.aggregate_type.clone(), command.command.clone());
            (vec![("type", kind), ("command", name), ("outcome", outcome.to_owned())], counter(count))
        })
    });
    let of_api = status.api.commands.iter().map(|(outcome, count)| (label("outcome", outcome), counter(*count)));
    let of_types = |value: fn(&crate::status::AggregateStatus) -> u64| {
        status.aggregates.iter().map(move |found| (label("type", &found.aggregate_type), gauge(value(found))))
    };
    vec![
        plain("commands", "Commands by outcome, since the store was created", outcomes),
        plain("api_commands", "Commands that came over the API, by outcome", of_api),
        plain("aggregates_live", "Live aggregates in all shards", of_types(|found| found.live)),
        plain("aggregates_queued", "Commands that are pending", of_types(|found| found.queued)),
        plain("aggregates_shards", "Shards that serve the type", of_types(|found| found.shards as u64)),
    ]
}

fn api(status: &Status) -> Vec<Family> {
    let api = &status.api;
    let closed = [("stalled", api.stalled), ("idle", api.idle)];
    let closed = closed.map(|(cause, count)| (label("cause", cause), counter(count)));
    let ends = api.certificate_ends_ms.map(|ms| (vec![], gauge(ms / 1000)));
    vec![
        plain(
            "api_unauthorized",
            "Requests whose sender was not recognised, or may not do what it asked for",
            [(vec![], counter(api.unauthorized))],
        ),
        plain(
            "api_failed_handshakes",
            "Connections that could not be secured by TLS",
            [(vec![], counter(api.handshakes_failed))],
        ),
        plain("api_certificate_end_timestamp", "When the certificate of the API ends, in seconds since 1970", ends),
        plain("api_connections", "Open connections of the API", [(vec![], gauge(api.connections))]),
        plain("api_streams", "Open event streams of the API", [(vec![], gauge(api.streams))]),
        plain("api_turned_away", "Requests that found no room", [(vec![], counter(api.turned_away))]),
        plain("api_closed_connections", "Connections that were closed because their client did nothing", closed),
    ]
}

fn sources(status: &Status, measured: &Measured) -> Vec<Family> {
    let of_partitions = |value: fn(&crate::status::PartitionStatus) -> u64| {
        status.sources.iter().flat_map(move |source| {
            source.partitions.iter().filter(|partition| partition.assigned).map(move |partition| {
                let (topic, number) = (partition.topic.clone(), partition.partition.to_string());
                let labels = vec![("source", source.name.clone()), ("topic", topic), ("partition", number)];
                (labels, gauge(value(partition)))
            })
        })
    };
    let of_sources = |value: fn(&crate::status::SourceStatus) -> u64| {
        status.sources.iter().map(move |source| (label("source", &source.name), counter(value(source))))
    };
    let held = measured
        .sources
        .iter()
        .map(|(name, measures)| (label("source", name), Value::Counter(measures.back_pressure.as_secs_f64())));
    let lag = of_partitions(|partition| partition.end.saturating_sub(partition.next));
    vec![
        plain("source_lag", "Records of a partition that are not settled yet", lag),
        plain("source_in_flight", "Records handed on and not settled", of_partitions(|partition| partition.in_flight)),
        plain("source_next_offset", "Every record below it is settled", of_partitions(|partition| partition.next)),
        plain("source_handled", "Records settled: the sum of the next offsets", of_sources(|source| source.handled)),
        plain("source_rebalances", "Times the group gave or took partitions", of_sources(|source| source.rebalances)),
        seconds("source_back_pressure", "Time that some partition waited for room downstream", held),
    ]
}

fn schedules(status: &Status) -> Vec<Family> {
    let each = |value: fn(&crate::status::ScheduleStatus) -> u64| {
        status.schedules.iter().map(move |found| (label("schedule", &found.name), counter(value(found))))
    };
    vec![
        plain("schedule_runs", "Due times whose command got an outcome", each(|found| found.runs)),
        plain("schedule_failures", "Attempts after which a due time was not settled", each(|found| found.failures)),
    ]
}

fn followers(status: &Status) -> Vec<Family> {
    let subscriptions = |value: fn(&crate::status::SubscriptionStatus) -> u64| {
        status.subscriptions.iter().map(move |found| (label("subscription", &found.name), gauge(value(found))))
    };
    let sagas = |value: fn(&crate::status::SagaStatus) -> u64, kind: fn(u64) -> Value| {
        let of_each = status.subscriptions.iter().filter_map(|found| Some((&found.name, found.saga.as_ref()?)));
        of_each.map(move |(name, saga)| (label("subscription", name), kind(value(saga))))
    };
    let projections = |value: fn(&crate::status::ProjectionStatus) -> u64| {
        status.projections.iter().map(move |found| (label("projection", &found.name), gauge(value(found))))
    };
    vec![
        plain(
            "subscription_checkpoint",
            "Everything up to this position is handled",
            subscriptions(|one| one.checkpoint),
        ),
        plain("subscription_behind", "Positions behind the newest event", subscriptions(|one| one.behind)),
        plain(
            "subscription_retried_keys",
            "Keys that are held because an event is being retried",
            subscriptions(|one| one.retried_keys),
        ),
        plain("subscription_waiting_keys", "Keys that wait behind dead letters", subscriptions(|one| one.waiting_keys)),
        plain("saga_live", "Sagas that are kept in memory", sagas(|one| one.live, gauge)),
        plain("saga_started", "Sagas that started", sagas(|one| one.started, counter)),
        plain("saga_completed", "Sagas that reached their goal", sagas(|one| one.completed, counter)),
        plain(
            "saga_compensated",
            "Sagas that ended because what they had done is undone",
            sagas(|one| one.compensated, counter),
        ),
        plain(
            "saga_ignored",
            "Inputs that were for no saga, for one that does not exist, or for one that has ended",
            sagas(|one| one.ignored, counter),
        ),
        plain(
            "projection_checkpoint",
            "Everything up to this position is in the read model",
            projections(|one| one.checkpoint),
        ),
        plain("projection_behind", "Positions behind the newest event", projections(|one| one.behind)),
    ]
}

fn endpoints(status: &Status) -> Vec<Family> {
    let each = |value: fn(&EndpointStatus) -> Value| {
        status.endpoints.iter().map(move |found| (label("endpoint", &found.name), value(found)))
    };
    let ended = status.endpoints.iter().flat_map(|found| {
        let counts = [("response", found.responses), ("failed", found.failed), ("refused", found.refused)];
        counts.map(|(answer, count)| {
            (vec![("endpoint", found.name.clone()), ("answer", answer.to_owned())], counter(count))
        })
    });
    vec![
        plain("http_requests", "HTTP requests that have ended, by their answer", ended),
        plain("http_pending", "HTTP requests that have not ended", each(|found| gauge(found.pending))),
        plain("http_in_flight", "Attempts at HTTP requests under way", each(|found| gauge(found.in_flight))),
        plain("http_attempts", "Attempts at HTTP requests that were begun", each(|found| counter(found.attempts))),
        plain(
            "http_interrupted",
            "Attempts at HTTP requests that the end of a host interrupted",
            each(|found| counter(found.interrupted)),
        ),
    ]
}

fn sinks(status: &Status, measured: &Measured) -> Vec<Family> {
    let published = status.sinks.iter().map(|sink| (label("sink", &sink.name), counter(sink.published)));
    let pending = status.sinks.iter().map(|sink| (label("sink", &sink.name), gauge(sink.pending)));
    let of_sinks = |value: fn(&sink::Measures) -> Value| {
        measured.sinks.iter().map(move |(name, measures)| (label("sink", name), value(measures)))
    };
    let time = of_sinks(|measures| Value::Histogram(measures.batch_time.clone()));
    let size = of_sinks(|measures| Value::Histogram(measures.batch_size.clone()));
    let aborted = of_sinks(|measures| counter(measures.aborted));
    vec![
        plain("sink_published", "Messages acknowledged since the host started", published),
        plain("sink_pending", "What is still to be published or skipped", pending),
        seconds("sink_batch", "Time of a batch, which is a transaction in the transactional mode", time),
        plain("sink_batch_messages", "Messages of a batch", size),
        plain("sink_aborted_transactions", "Transactions that were aborted and retried", aborted),
    ]
}

/// Builds the families of librdkafka's statistics for each client.
fn clients(measured: &Measured) -> Vec<Family> {
    let of_sources = measured.sources.iter().map(|(name, found)| (format!("source {name}"), &found.statistics));
    let of_sinks = measured.sinks.iter().map(|(name, found)| (format!("sink {name}"), &found.statistics));
    let clients: Vec<(String, &Statistics)> =
        of_sources.chain(of_sinks).filter_map(|(name, found)| Some((name, found.as_ref()?))).collect();
    let each = |value: fn(&Statistics) -> Value| {
        let sample = |(name, found): &(String, &Statistics)| (label("client", name), value(found));
        clients.iter().map(sample).collect::<Vec<_>>()
    };
    let rebalances = |(name, found): &(String, &Statistics)| {
        Some((label("client", name), counter(found.cgrp.as_ref()?.rebalance_cnt)))
    };
    let mut families = vec![
        plain("kafka_client_queued_messages", "Messages in librdkafka's queues", each(|found| gauge(found.queued))),
        plain("kafka_client_replies", "Operations that wait to be served", each(|found| gauge(found.replies))),
        plain("kafka_client_requests", "Requests sent to brokers", each(|found| counter(found.requests))),
        plain("kafka_client_rebalances", "Rebalances of a group's member", clients.iter().filter_map(rebalances)),
        bytes("kafka_client_queued", "Messages in librdkafka's queues", each(|found| gauge(found.queued_bytes))),
        bytes("kafka_client_sent", "To brokers", each(|found| counter(found.sent_bytes))),
        bytes("kafka_client_received", "From brokers", each(|found| counter(found.received_bytes))),
    ];
    families.extend(brokers(&clients));
    families
}

fn brokers(clients: &[(String, &Statistics)]) -> Vec<Family> {
    type Broker = crate::kafka::statistics::Broker;
    let each = |value: fn(&Broker) -> Value| {
        let samples = clients.iter().flat_map(move |(client, found)| {
            found.brokers.iter().map(move |(name, broker)| (broker_labels(client, name), value(broker)))
        });
        samples.collect::<Vec<_>>()
    };
    let rtt = |client: &str, name: &str, quantile: &str, us: i64| {
        let mut labels = broker_labels(client, name);
        labels.push(("quantile", quantile.to_owned()));
        (labels, Value::Gauge(us as f64 / 1e6))
    };
    let rtts = clients.iter().flat_map(|(client, found)| {
        let measured = found.brokers.iter().filter(|(_, broker)| broker.rtt.cnt > 0);
        measured.flat_map(move |(name, broker)| {
            [rtt(client, name, "0.5", broker.rtt.p50), rtt(client, name, "0.99", broker.rtt.p99)]
        })
    });
    vec![
        seconds("kafka_broker_rtt", "Time from request to answer over the last interval", rtts),
        plain("kafka_broker_up", "Whether the connection stands", each(|found| gauge(u64::from(found.state == "UP")))),
        plain(
            "kafka_broker_waiting",
            "Requests that wait to be sent",
            each(|found| Value::Gauge(found.waiting as f64)),
        ),
        plain(
            "kafka_broker_unanswered",
            "Requests without an answer yet",
            each(|found| Value::Gauge(found.unanswered as f64)),
        ),
        plain("kafka_broker_timeouts", "Requests that got no answer in time", each(|found| counter(found.timeouts))),
        plain("kafka_broker_disconnects", "Connections that ended", each(|found| counter(found.disconnects))),
    ]
}

fn broker_labels(client: &str, broker: &str) -> Labels {
    vec![("client", client.to_owned()), ("broker", broker.to_owned())]
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_owned())]
}

fn counter(value: u64) -> Value {
    Value::Counter(value as f64)
}

fn gauge(value: u64) -> Value {
    Value::Gauge(value as f64)
}

fn family(
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    samples: impl IntoIterator<Item = Sample>,
) -> Family {
    Family { name, help, unit, samples: samples.into_iter().collect() }
}

fn plain(name: &'static str, help: &'static str, samples: impl IntoIterator<Item = Sample>) -> Family {
    family(name, help, None, samples)
}

fn seconds(name: &'static str, help: &'static str, samples: impl IntoIterator<Item = Sample>) -> Family {
    family(name, help, Some(Unit::Seconds), samples)
}

fn bytes(name: &'static str, help: &'static str, samples: impl IntoIterator<Item = Sample>) -> Family {
    family(name, help, Some(Unit::Bytes), samples)
}
