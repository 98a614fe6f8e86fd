//! What people see of a status.

use super::*;

fn partition(partition: i32, next: u64, end: u64, in_flight: u64) -> PartitionStatus {
    PartitionStatus { topic: "baskets".into(), partition, next, end, stable: end, in_flight, assigned: true }
}

fn example() -> Status {
    Status {
        host: HostStatus {
            version: "0.1.0".into(),
            pid: 42,
            uptime_ms: 65_400,
            data: "shop/data".into(),
            url: "http://127.0.0.1:7310".into(),
            file_watch: None,
        },
        manifest: ManifestStatus::default(),
        store: StoreStatus { position: 57_570, ..StoreStatus::default() },
        hosts: vec![
            SharedHostStatus {
                id: 7,
                name: "process 12 on one".into(),
                url: Some("http://one:7070".into()),
                parts: vec!["sink outbox".into(), "source baskets".into()],
                ..SharedHostStatus::default()
            },
            SharedHostStatus {
                id: 9,
                name: "process 13 on two".into(),
                this: true,
                differs: vec!["plugins.orders (code and settings)".into()],
                ..SharedHostStatus::default()
            },
        ],
        plugins: vec![
            PluginStatus {
                name: "orders".into(),
                file: "orders.wasm".into(),
                version: "0.1.0".into(),
                contract: "1.1.0".into(),
                digest: "sha256:0123456789abcdef".into(),
                roles: vec!["aggregate order".into()],
                loads: 2,
                error: Some("orders.wasm is not WebAssembly".into()),
                held_back: None,
                unwatched: None,
                unknown_events: 0,
                settings: serde_json::Map::from_iter([("cents_max".to_owned(), 500.into())]),
                secrets: vec!["api_key".to_owned()],
            },
            PluginStatus {
                name: "sales".into(),
                file: "sales.wasm".into(),
                version: "0.2.0".into(),
                contract: "1.0.0".into(),
                digest: "sha256:ffff".into(),
                roles: vec!["projection sales".into(), "subscriber".into()],
                loads: 1,
                error: None,
                held_back: None,
                unwatched: None,
                unknown_events: 1_200,
                settings: Default::default(),
                secrets: Vec::new(),
            },
        ],
        aggregates: vec![AggregateStatus {
            aggregate_type: "order".into(),
            plugin: "orders".into(),
            shards: 2,
            live: 1000,
            queued: 0,
            state: State::Running,
            error: None,
        }],
        commands: vec![CommandStatus {
            aggregate_type: "order".into(),
            command: "CreateOrder".into(),
            accepted: 19_190,
            rejected: 810,
            malformed: 1,
        }],
        kafka: Some(KafkaStatus {
            brokers: "kafka-1:9092".into(),
            topics: vec!["topic baskets has 2 partitions, the manifest says 6".into()],
        }),
        sources: vec![SourceStatus {
            name: "baskets".into(),
            topics: vec!["baskets".into()],
            group: None,
            subscriber: None,
            state: State::Running,
            error: None,
            handled: 20_000,
            in_flight: 3,
            rebalances: 0,
            partitions: vec![partition(0, 10_000, 10_002, 2), partition(1, 9_999, 10_000, 1)],
        }],
        schedules: vec![ScheduleStatus {
            name: "close-day".into(),
            command: "CloseDay to till/main".into(),
            state: State::Retrying,
            error: Some("the disk is full".into()),
            due_ms: Some(1_700_000_000_000),
            next_ms: Some(1_700_086_400_000),
            last_ms: None,
            runs: 1_000,
            failures: 2,
        }],
        subscriptions: vec![SubscriptionStatus {
            name: "warehouse".into(),
            plugin: "warehouse".into(),
            state: State::Retrying,
            error: Some("warehouse 0.1.0 failed on event 7".into()),
            checkpoint: 6,
            behind: 57_564,
            retried_keys: 1,
            waiting_keys: 2_000,
            ..SubscriptionStatus::default()
        }],
        projections: vec![ProjectionStatus {
            name: "sales".into(),
            plugin: "sales".into(),
            state: State::CatchingUp,
            error: None,
            checkpoint: 57_000,
            behind: 570,
            answers: Some("sha256:0123456789abcdef".into()),
            answers_plugin: Some("sales 0.1.0".into()),
            building: Some(BuildingStatus {
                plugin: "sales 0.2.0".into(),
                digest: "sha256:fedcba9876543210".into(),
                position: 1_234,
            }),
            set_aside: Some("it is of another store".into()),
            skipped: vec![SkippedEvent {
                position: 24,
                event: "OrderCreated of order/1 version 1".into(),
                reason: "too many units".into(),
                time_ms: 1_700_000_000_000,
            }],
        }],
        sinks: vec![SinkStatus {
            name: "outbox".into(),
            topic: None,
            state: State::Running,
            error: None,
            published: 19_502,
            reached: 0,
            pending: 0,
        }],
        endpoints: vec![EndpointStatus {
            name: "checkout/payments".into(),
            url: Some("https://api.example.com/v1".into()),
            state: State::Retrying,
            error: Some("the server answered with status 503".into()),
            pending: 3,
            in_flight: 1,
            attempts: 1_234,
            responses: 1_200,
            failed: 2,
            refused: 1,
            interrupted: 1,
        }],
        api: ApiStatus {
            commands: [("accepted".into(), 0), ("id_reused".into(), 3)].into(),
            connections: 2,
            turned_away: 1_000,
            ..ApiStatus::default()
        },
        dead_letters: DeadLetterStatus {
            total: 2,
            total_max: 1_000,
            bytes: 2_345,
            bytes_max: 4 << 30,
            dropped: 17,
            newest: vec![DeadLetterItem {
                number: 9,
                consumer: "baskets".into(),
                place: "topic baskets partition 0 offset 17".into(),
                key: Some("a\nb".into()),
                reason: "not JSON: expected value at line 1 column 1".into(),
                time_ms: Some(5),
                dead_lettered_ms: 1_700_000_000_000,
                waiting: 3,
            }],
        },
    }
}

#[test]
fn a_status_shows_everything_a_person_must_know() {
    let expected = r#"
wasmill 0.1.0 at http://127.0.0.1:7310, process 42, up 1m 5s
data in shop/data, newest position 57,570

HOST          PROCESS            API              RUNS ALONE
7             process 12 on one  http://one:7070  sink outbox, source baskets
9 (this one)  process 13 on two                   nothing
  differs from the first host, so it runs nothing alone: plugins.orders (code and settings)

PLUGIN  VERSION  LOADS  DIGEST        ROLES
orders  0.1.0        2  0123456789ab  aggregate order
  error: orders.wasm is not WebAssembly
  file: orders.wasm; version 0.1.0 keeps running
  settings: {"cents_max":500}
  secrets: api_key
sales   0.2.0        1  ffff          projection sales, subscriber
  events that its code does not know and has skipped since it was loaded: 1,200

AGGREGATE  PLUGIN  STATE    SHARDS   LIVE  QUEUED
order      orders  running       2  1,000       0

COMMAND            ACCEPTED  REJECTED  MALFORMED
order.CreateOrder    19,190       810          1

API                 COUNT
commands id reused      3
connections now         2
turned away         1,000

Kafka at kafka-1:9092
  topic baskets has 2 partitions, the manifest says 6

SOURCE   TOPIC    STATE    HANDLED  IN FLIGHT  BEHIND  NEXT OFFSETS
baskets  baskets  running   20,000          3       3  0:10000 1:9999

SCHEDULE   COMMAND                STATE     LAST  NEXT                   RUNS  FAILURES
close-day  CloseDay to till/main  retrying  none  2023-11-15T22:13:20Z  1,000         2
  its command of 2023-11-14T22:13:20Z has no outcome yet
  error: the disk is full

SUBSCRIPTION  PLUGIN     STATE     CHECKPOINT  BEHIND
warehouse     warehouse  retrying           6  57,564
  error: warehouse 0.1.0 failed on event 7
  keys that are retried: 1; all others go on
  keys that wait behind dead letters: 2,000; replay or discard these with `wasmill dead-letters`

PROJECTION  PLUGIN  STATE        CHECKPOINT  BEHIND  ANSWERS
sales       sales   catching up      57,000     570  sales 0.1.0 (0123456789ab)
  building: sales 0.2.0 (fedcba987654), at position 1,234
  rebuilt: it is of another store
  skips OrderCreated of order/1 version 1 (24) since 2023-11-14T22:13:20Z: too many units

ENDPOINT           URL                         STATE     PENDING  ATTEMPTS  RESPONSES  FAILED  REFUSED
checkout/payments  https://api.example.com/v1  retrying        3     1,234      1,200       2        1
  error: the server answered with status 503
  attempts that the end of a host interrupted: 1

SINK    TOPIC       STATE    PUBLISHED  PENDING
outbox  by message  running     19,502        0

dead letters: 2, the newest 1 first
  they have 2,345 bytes; at most 1,000 dead letters of 4,096 MiB are kept
  17 older ones were dropped because of `store.dead_letters_…`
  2023-11-14T22:13:20Z  9  baskets: topic baskets partition 0 offset 17, key "a\nb"
    not JSON: expected value at line 1 column 1
    3 later events of its aggregate wait behind it
"#;
    assert_eq!(status(&example()), expected.trim_start());
}

#[test]
fn a_fresh_host_shows_only_what_it_has() {
    let fresh = Status { host: example().host, ..Status::default() };
    let expected = "wasmill 0.1.0 at http://127.0.0.1:7310, process 42, up 1m 5s\ndata in shop/data, newest position 0\n\n\
                    no dead letters\n";
    assert_eq!(status(&fresh), expected);
}

#[test]
fn a_status_is_read_back_as_it_was_written() {
    let json = serde_json::to_string(&example()).unwrap();
    assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), example());
    assert!(json.contains(r#""state":"catching_up""#) && json.contains(r#""type":"order""#), "{json}");
}
