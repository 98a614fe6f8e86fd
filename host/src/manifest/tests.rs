//! Manifests that are accepted, and manifests that are refused, with the place and the remedy.

use super::*;
use crate::due_times::{DueTimes, Zone};
use crate::filter::Filter;
use crate::model::StreamId;
use crate::upcasts::Shape;

const PATH: &str = "shop/wasmill.toml";

fn parse(text: &str) -> Result<Manifest, String> {
    Manifest::parse(text, Path::new(PATH)).map_err(|error| error.to_string())
}

#[test]
fn an_empty_manifest_has_the_defaults() {
    let manifest = parse("").unwrap();
    assert_eq!(manifest.data, Path::new("shop/data"));
    assert_eq!((manifest.api, manifest.store, manifest.sink), (Api::default(), Store::default(), Sink::default()));
    assert_eq!((manifest.kafka, manifest.plugins.len(), manifest.sources.len()), (None, 0, 0));
}

#[test]
fn a_full_manifest_is_read_as_written() {
    let manifest = parse(
        r#"
        data = "/var/lib/shop"
        reload = "auto"
        clock = "manual"
        hops_max = 18
        retry_after_max_ms = 19
        [host]
        stalled_after_ms = 5000
        stop_max_ms = 6000
        history_max = 7
        [api]
        listen = "0.0.0.0:80"
        probes_listen = "localhost:81"
        hosts = ["Shop.example", "10.1.2.3:80"]
        name_clients = true
        body_mib = 2
        in_flight_mib = 9
        connections_max = 4
        streams_max = 3
        header_seconds = 7
        idle_seconds = 5
        stall_seconds = 6
        [api.tls]
        certificate_file = "tls/host.pem"
        key_file = "/run/host.key"
        client_ca_file = "tls/ca.pem"
        [api.clients.till]
        tokens = [{ file = "tokens/till" }, { env = "TILL" }]
        certificate_names = ["Till.shop.example"]
        scopes = ["commands", "operate"]
        aggregates = ["order"]
        projections = ["sales"]
        [store]
        backups = "copies"
        queue_max = 10
        queue_mib = 25
        batch_max = 20
        transaction_mib = 21
        log_mib = 22
        event_bytes_max = 23
        id_bytes_max = 25
        command_id_hours = 24
        refusals = "decide-again"
        dead_letters_max = 25
        dead_letters_mib = 26
        dead_letters_days = 27
        dead_letters_full = "drop-oldest"
        [kafka]
        brokers = "kafka-1:9092, kafka-2:9092"
        [kafka.properties]
        "linger.ms" = "5"
        socket.keepalive.enable = true
        [kafka.topics."Baskets.v1"]
        partitions = 6
        replication = 3
        config = { "retention.ms" = 1000 }
        [plugins.orders]
        file = "../orders.wasm"
        shards = 2
        queue_max = 3
        queue_mib = 21
        in_flight_max = 4
        attempts_max = 5
        snapshot_every = 6
        sha256 = "sha256:ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB"
        changed_state = "refuse"
        watch_ms = 7
        watch_percent = 8
        limits = { event_time_ms = 1, memory_mib = 2, live_mib = 1, table_elements = 3, instances = 4, output_mib = 5, effects_max = 6, sql_value_mib = 7, sql_memory_mib = 8, read_model_mib = 9 }
        [plugins.warehouse]
        file = "/plugins/warehouse.wasm"
        [sources.baskets]
        topics = ["Baskets.v1", "^shop\\..*"]
        aggregate = { field = "kind" }
        command = { header = "command" }
        key = "hex"
        tombstone = "DeleteOrder"
        rejected = "dead_letter"
        from = { time = "2026-01-01T00:00:00Z" }
        was = "tills"
        lost = "stop"
        recreated = "beginning"
        membership = "group"
        group = "shop"
        properties = { group.instance.id = "till-1" }
        dead_letter_topic = "baskets.dead"
        drop_headers = ["Cookie"]
        in_flight_max = 7
        in_flight_mib = 20
        [schedules.close-day]
        cron = "0 3 * * *"
        time_zone = "Europe/Berlin"
        aggregate = "till"
        id = "main"
        command = "CloseDay"
        payload = { reason = "night", sums = [1, 0x1f, -2.5, true], on = 2026-01-01 }
        missed = "all"
        [subscriptions.warehouse]
        start = { position = 8 }
        was = "depot"
        batch_max = 9
        attempts_max = 10
        backoff_ms = 11
        backoff_max_ms = 12
        on_failure = "stop"
        held_keys_max = 20
        segments = 4
        [projections.sales]
        batch_max = 12
        [sink]
        batch_max = 13
        transactional_id = "shop"
        [sinks.orders]
        events = ["order.*", "**.Closed"]
        topic = "orders"
        key = { field = "household.id" }
        shape = "newest"
        was = "feed"
        start = "now"
        batch_wait_ms = 14
        mode = "idempotent"
        properties = { compression.type = "zstd" }
        "#,
    )
    .unwrap();
    let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    let limits = Limits {
        event_time_ms: 1,
        memory_mib: 2,
        live_mib: Some(1),
        table_elements: 3,
        instances: 4,
        output_mib: 5,
        effects_max: 6,
        sql_value_mib: 7,
        sql_memory_mib: 8,
        read_model_mib: 9,
    };
    let orders = Plugin {
        shards: Some(2),
        queue_max: 3,
        queue_mib: 21,
        in_flight_max: 4,
        attempts_max: 5,
        snapshot_every: 6,
        sha256: Some("ab".repeat(32)),
        changed_state: ChangedState::Refuse,
        watch_ms: 7,
        watch_percent: 8,
        limits,
        ..Plugin::new("shop/../orders.wasm")
    };
    let expected = Manifest {
        path: PATH.into(),
        text: manifest.text.clone(),
        overrides: Overrides::default(),
        reload: Reload::Auto,
        data: "/var/lib/shop".into(),
        clock: ClockKind::Manual,
        bounds: Bounds { hops_max: 18, retry_after_max: std::time::Duration::from_millis(19) },
        host: Host { stalled_after_ms: 5_000, stop_max_ms: 6_000, history_max: 7 },
        api: Api {
            listen: "0.0.0.0:80".parse().unwrap(),
            probes_listen: Some("127.0.0.1:81".parse().unwrap()),
            hosts: vec!["shop.example".into(), "10.1.2.3:80".into()],
            allow_plain: false,
            tls: Some(Tls {
                certificate_file: "shop/tls/host.pem".into(),
                key_file: "/run/host.key".into(),
                client_ca_file: Some("shop/tls/ca.pem".into()),
            }),
            clients: BTreeMap::from([(
                "till".to_owned(),
                ApiClient {
                    tokens: vec![Value::File("shop/tokens/till".into()), Value::Env("TILL".into())],
                    certificate_names: vec!["till.shop.example".into()],
                    scopes: Scopes::default().with(Scope::Commands).with(Scope::Operate),
                    aggregates: Some(vec!["order".into()]),
                    projections: Some(vec!["sales".into()]),
                },
            )]),
            name_clients: true,
            body_mib: 2,
            in_flight_mib: 9,
            connections_max: 4,
            streams_max: 3,
            header_seconds: 7,
            idle_seconds: 5,
            stall_seconds: 6,
        },
        store: Store {
            url: None,
            backups: Some("shop/copies".into()),
            queue_max: 10,
            queue_mib: 25,
            batch_max: 20,
            transaction_mib: 21,
            log_mib: 22,
            event_bytes_max: 23,
            id_bytes_max: 25,
            command_id_hours: 24,
            refusals: Refusals::DecideAgain,
            dead_letters_max: 25,
            dead_letters_mib: 26,
            dead_letters_days: 27,
            dead_letters_full: WhenFull::DropOldest,
        },
        kafka: Some(Kafka {
            brokers: Brokers::Addresses("kafka-1:9092,kafka-2:9092".into()),
            properties: text(&[("linger.ms", "5"), ("socket.keepalive.enable", "true")]).into(),
            oauth: None,
            cloud_events: CloudEvents::default(),
            topics: [(
                "Baskets.v1".into(),
                Topic { partitions: 6, replication: 3, config: text(&[("retention.ms", "1000")]) },
            )]
            .into(),
        }),
        plugins: [("orders".into(), orders), ("warehouse".into(), Plugin::new("/plugins/warehouse.wasm"))].into(),
        sources: [(
            "baskets".into(),
            Source {
                topics: vec!["Baskets.v1".into(), "^shop\\..*".into()],
                target: Target::Commands(Commands {
                    aggregate: Name::Field("kind".into()),
                    command: Name::Header("command".into()),
                    key: Key::Hex,
                    tombstone: Some("DeleteOrder".into()),
                    rejected: Rejected::DeadLetter,
                }),
                from: From::Time(1_767_225_600_000),
                is_from_written: true,
                was: Some("tills".into()),
                lost: Lost::Stop,
                recreated: Recreated::Beginning,
                membership: Membership::Group,
                group: Some("shop".into()),
                properties: text(&[("group.instance.id", "till-1")]).into(),
                dead_letter_topic: Some("baskets.dead".into()),
                drop_headers: vec!["Cookie".into()],
                in_flight_max: 7,
                in_flight_mib: 20,
            },
        )]
        .into(),
        schedules: [(
            "close-day".into(),
            Schedule {
                due: DueTimes::parse("0 3 * * *", Zone::find("Europe/Berlin").unwrap()).unwrap(),
                stream: StreamId::new("till", "main"),
                command: "CloseDay".into(),
                payload: br#"{"on":"2026-01-01","reason":"night","sums":[1,31,-2.5,true]}"#.to_vec(),
                missed: Missed::All,
            },
        )]
        .into(),
        subscriptions: [(
            "warehouse".into(),
            Subscription {
                start: Start::At(Position(8)),
                is_start_written: true,
                was: Some("depot".into()),
                batch_max: 9,
                attempts_max: 10,
                backoff_ms: 11,
                backoff_max_ms: 12,
                on_failure: OnFailure::Stop,
                held_keys_max: 20,
                segments: 4,
            },
        )]
        .into(),
        projections: [("sales".into(), Projection { batch_max: 12 })].into(),
        sink: Sink { batch_max: 13, transactional_id: Some("shop".into()), ..Sink::default() },
        sinks: [(
            "orders".into(),
            EventSink {
                filter: Filter::parse(["order.*", "**.Closed"]).unwrap(),
                topic: "orders".into(),
                key: SinkKey::Field("household.id".into()),
                shape: Shape::Newest,
                start: Start::Now,
                is_start_written: true,
                was: Some("feed".into()),
                settings: Sink {
                    batch_wait_ms: 14,
                    mode: SinkMode::Idempotent,
                    properties: text(&[("compression.type", "zstd")]).into(),
                    ..Sink::default()
                },
            },
        )]
        .into(),
    };
    assert_eq!(manifest, expected);
}

/// Manifests with their problems, each of which follows after `shop/wasmill.toml:`.
const REFUSED: &[(&str, &[&str])] = &[
    // Syntax
    ("data = ", &["1:8: string values must be quoted, expected literal string"]),
    ("[store]\n[store]", &["2:2: duplicate key"]),
    // Unknown keys
    (
        "[plugins.orders]\nfile = 'o.wasm'\nfil = 'o.wasm'",
        &[
            "3:1: unknown key `plugins.orders.fil`; did you mean `file`? valid keys: file, source, sha256, shards, queue_max, queue_mib, in_flight_max, attempts_max, snapshot_every, changed_state, watch_ms, watch_percent, limits, settings, secrets, http",
        ],
    ),
    (
        "colour = 1",
        &[
            "1:1: unknown key `colour`; valid keys: data, reload, clock, retry_after_max_ms, hops_max, host, api, store, kafka, plugins, sources, schedules, \
           subscriptions, projections, sink, sinks",
        ],
    ),
    (
        "[stor]\n",
        &[
            "1:2: unknown key `stor`; did you mean `store`? valid keys: data, reload, clock, retry_after_max_ms, hops_max, host, api, store, kafka, plugins, \
                    sources, schedules, subscriptions, projections, sink, sinks",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[kafka.topics.a]\npartition = 3",
        &["4:1: unknown key `kafka.topics.a.partition`; did you mean `partitions`? \
           valid keys: partitions, replication, config"],
    ),
    // Types and ranges
    ("data = 5", &["1:8: `data` must be the path of a folder, found 5"]),
    ("data = ''", &["1:8: `data` must be the path of a folder, found the string \"\""]),
    ("store = 'big'", &["1:9: `store` must be a section, found the string \"big\""]),
    ("clock = \"atomic\"", &["1:9: `clock` must be \"system\" or \"manual\", found the string \"atomic\""]),
    ("hops_max = 0", &["1:12: `hops_max` must be a whole number from 1 to 1000000, found 0"]),
    ("[store]\nqueue_max = 0", &["2:13: `store.queue_max` must be a whole number from 1 to 1000000, found 0"]),
    ("[store]\nqueue_max = -1", &["2:13: `store.queue_max` must be a whole number from 1 to 1000000, found -1"]),
    (
        "kafka = { brokers = 'embedded' }\n[sink]\nmode = 'once'",
        &["3:8: `sink.mode` must be \"transactional\" or \"idempotent\", found the string \"once\""],
    ),
    (
        "kafka = { brokers = 'embedded' }\n[sink]\nbatch_max = 1.5",
        &["3:13: `sink.batch_max` must be a whole number from 1 to 100000, found 1.5"],
    ),
    (
        "[projections.p]\nbatch_max = [1]",
        &["2:13: `projections.p.batch_max` must be a whole number from 1 to 100000, \
                                            found a list"],
    ),
    (
        "[plugins.o]\nfile = 'o'\nlimits.memory_mib = '1G'",
        &["3:21: `plugins.o.limits.memory_mib` must be a whole number from 1 to 4096, found the string \"1G\""],
    ),
    // Missing keys
    (
        "\n[plugins.orders]\nshards = 2",
        &[
            "2:10: `plugins.orders.file` is missing: the path of the plugin's .wasm file; or `source`, the folder of the \
           plugin's crate, which `wasmill build` builds",
        ],
    ),
    ("[kafka]", &["1:2: `kafka.brokers` is missing: \"embedded\" or a list such as \"kafka-1:9092,kafka-2:9092\""]),
    // Names
    (
        "[plugins.Orders]\nfile = 'o'",
        &["1:10: the name in `plugins.Orders` must be 1 to 64 characters of a-z, 0-9 and `-`, found \"Orders\""],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[kafka.topics.'a b']",
        &["3:15: the topic name in `kafka.topics.\"a b\"` must be a topic's name (1 to 249 characters of a-z, A-Z, \
           0-9, `.`, `_`, `-`), found \"a b\""],
    ),
    // Schedules
    (
        "[schedules.s]\ncron = '0 3 * *'\naggregate = 'till'\nid = 'i'\ncommand = 'Close'",
        &["2:8: `schedules.s.cron` must be a cron expression of five fields, minute, hour, day, month and weekday, \
           such as \"0 3 * * *\"; a sixth field in front of them has the seconds; found \"0 3 * *\": the number of \
           fields is 4"],
    ),
    (
        "[schedules.s]\ncron = '0 3 30 2 *'\naggregate = 'till'\nid = 'i'\ncommand = 'Close'",
        &["2:8: `schedules.s.cron` would never be due: no date fits \"0 3 30 2 *\"; change its day or its month"],
    ),
    (
        "[schedules.s]\ncron = '@daily'\ntime_zone = 'Mars'\nmissed = 'none'",
        &[
            "1:12: `schedules.s.aggregate` is missing: the type of the aggregate that the command is sent to",
            "1:12: `schedules.s.command` is missing: the name of the command",
            "1:12: `schedules.s.id` is missing: the id of the aggregate that the command is sent to",
            "3:13: `schedules.s.time_zone` must be the IANA name of a time zone, such as \"Europe/Berlin\" or \"UTC\"; \
             there is no \"Mars\"",
            "4:10: `schedules.s.missed` must be \"latest\", \"all\" or \"skip\", found the string \"none\"",
        ],
    ),
    (
        "[schedules.s]\ncron = '@daily'\naggregate = 'till'\nid = 'i'\ncommand = 'Close'\npayload = { a = [inf] }",
        &["6:11: `schedules.s.payload` has inf in it, which must be a finite number, since JSON has no other"],
    ),
    // Kafka
    (
        "kafka = { brokers = 'a:1,b' }",
        &["1:21: `kafka.brokers` must be \"embedded\" or a list such as \"kafka-1:9092,kafka-2:9092\", but \"b\" is \
           not host:port"],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[kafka.properties]\n'linger.ms' = [5]",
        &["4:15: `kafka.properties.\"linger.ms\"` must be a string, a number or true or false, found a list"],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\nproperties = { sasl.password = { env = 7 } }\noauth = { token = 'abc' }\n\
         [kafka.topics.b]\nconfig = { retention.ms = { file = 'x' } }",
        &[
            "3:40: `kafka.properties.sasl.password.env` must be the name of an environment variable, found 7",
            "4:19: `kafka.oauth.token` must be one of { file = \"PATH\" }, { env = \"VARIABLE\" }, { command = \
             [\"PROGRAM\", …] } and { unsecured = \"PRINCIPAL\" }, found the string \"abc\"",
            "6:10: `kafka.topics.b.config` takes `retention.ms` from elsewhere: write its value here",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[kafka.cloud_events]\nsource = 'a#b'\ncontent_type = 'json'",
        &[
            "4:10: `kafka.cloud_events.source` must be a URI without `#` that no other store publishes under, such as \
             \"https://shop.example/orders\", found \"a#b\"",
            "5:16: `kafka.cloud_events.content_type` must be a media type such as \"application/json\", found \"json\"",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.b]\ntopics = []\naggregate = 'order'\ncommand = 'C'\nattempts_max = 3",
        &[
            "4:10: `sources.b.topics` is empty: name a topic, or a pattern that begins with `^`",
            "7:16: `sources.b.attempts_max` is for records that go to a subscriber, and there is no `subscriber` here: add one, \
             or remove the key",
        ],
    ),
    (
        "[sources.baskets]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'",
        &["1:10: `sources.baskets` reads from Kafka, but the manifest has no [kafka] section; add one with `brokers`"],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.b]\ntopic = 'b/c'\naggregate = 'order'\nfrom = 'start'",
        &[
            "3:10: `sources.b.command` is missing: the name of the command that each record becomes",
            "4:9: `sources.b.topic` must be a topic's name (1 to 249 characters of a-z, A-Z, 0-9, `.`, `_`, `-`), \
             found \"b/c\"",
            "6:8: `sources.b.from` must be \"beginning\", \"end\", { offset = N } or \
             { time = \"2026-01-31T12:00:00Z\" }, found the string \"start\"",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.b]\naggregate = { field = 'a', header = 'b' }\ncommand = 'C'\n\
         topics = ['^shop\\.(']\nfrom = { time = 'noon' }\nlost = 'ignore'",
        &[
            "4:13: `sources.b.aggregate` must be a name, { header = \"NAME\" } or { field = \"NAME\" }, found a section",
            "6:11: `sources.b.topics` has the pattern \"^shop\\\\.(\", which is not a regular expression: unclosed group",
            "7:17: `sources.b.from.time` must be a time in UTC such as \"2026-01-31T12:00:00Z\", found \"noon\"",
            "8:8: `sources.b.lost` must be \"continue\" or \"stop\", found the string \"ignore\"",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.a]\naggregate = 'x'\ncommand = 'C'\ntopic = 't'\ndead_letter_topic = 't'",
        &[
            "3:10: `sources.a` reads topic t, to which its own dead letters go: a record that fails would be copied for \
           ever; give `sources.a.dead_letter_topic` a topic that nothing of this manifest reads",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.a]\naggregate = 'x'\ncommand = 'C'\ntopics = ['s', 't']\n\
         dead_letter_topic = 'u'\n[sources.b]\naggregate = 'x'\ncommand = 'C'\ntopic = 'u'\ndead_letter_topic = 't'\n\
         [sources.c]\naggregate = 'x'\ncommand = 'C'\ntopic = 't'\ndead_letter_topic = 'v'",
        &[
            "3:10: `sources.a` reads topic t, to which its own dead letters go: a record that fails would be copied for \
             ever; give `sources.a.dead_letter_topic` a topic that nothing of this manifest reads",
            "8:10: `sources.b` reads topic u, to which its own dead letters go: a record that fails would be copied for \
             ever; give `sources.b.dead_letter_topic` a topic that nothing of this manifest reads",
        ],
    ),
    // Sinks
    (
        "[kafka]\nbrokers = 'embedded'\n[sinks.outbox]\n[sinks.a]\nevents = ['order.Cr*']\nkey = 'id'",
        &[
            "3:8: the name \"outbox\" in `sinks.outbox` is that of another sink: choose another",
            "4:8: `sinks.a.topic` is missing: the topic that the events go to",
            "5:10: `sinks.a.events` is invalid: pattern `order.Cr*` has a `*` inside a segment; write for example \
             `order.OrderCreated`, `order.*` or `**`",
            "6:7: `sinks.a.key` must be \"aggregate-id\", \"none\" or { field = \"NAME\" }, found the string \"id\"",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sink]\ntransactional_id = 'x'\n[sinks.a]\nevents = ['**']\ntopic = 't'\n\
         transactional_id = 'x'",
        &[
            "5:8: `sinks.a` and `sink` have the same `transactional_id` \"x\" and would fence each other: give each its \
           own, or leave it out",
        ],
    ),
    // Subscriptions
    (
        "[plugins.warehouse]\nfile = 'w'\n[subscriptions.warehause]",
        &["3:16: `subscriptions.warehause` names no plugin: there is no [plugins.warehause]; did you mean \
           `warehouse`?"],
    ),
    (
        "[plugins.w]\nfile = 'w'\n[subscriptions.w]\nstart = 'later'",
        &[
            "4:9: `subscriptions.w.start` must be \"beginning\", \"now\" or { position = N }, found the string \"later\"",
        ],
    ),
    (
        "[plugins.w]\nfile = 'w'\n[subscriptions.w]\nbackoff_ms = 50\nbackoff_max_ms = 49\non_failure = 'skip'",
        &[
            "5:18: `subscriptions.w.backoff_max_ms` is less than `backoff_ms`, which is 50: raise it, or lower that one",
            "6:14: `subscriptions.w.on_failure` must be \"hold_key\", \"pass\" or \"stop\", found the string \"skip\"",
        ],
    ),
    (
        "[plugins.w]\nfile = 'w'\n[subscriptions.w]\nstart = { posit = 1 }",
        &[
            "4:1: `subscriptions.w.start.position` is missing: the position of the first event",
            "4:11: unknown key `subscriptions.w.start.posit`; did you mean `position`? valid keys: position",
        ],
    ),
    // Keys without effect
    (
        "[kafka]\nbrokers = 'k:9'\n[plugins.p]\nfile = 'p'\nlimits = { live_mib = 300 }\n[sources.b]\ntopic = 'b'\n\
         subscriber = 'p'\ntransaction = 'kafka'\ndead_letter_topic = 'd'\nmembership = 'group'\nin_flight_max = 1\n\
         in_flight_mib = 1\nwas = 'a'\n[sink]\nmode = 'idempotent'\ntransactional_id = 'x'",
        &[
            "5:23: `plugins.p.limits.live_mib` has no effect above `memory_mib`, which is 256: lower it, or raise that one",
            "11:14: `sources.b.membership` has no effect with `transaction = \"kafka\"`: the source is a member of its `group` \
             in any case; remove the key",
            "12:17: `sources.b.in_flight_max` has no effect with `transaction = \"kafka\"`: `batch_max` says how many records \
             are handled at a time; remove the key",
            "13:17: `sources.b.in_flight_mib` has no effect with `transaction = \"kafka\"`: `batch_max` says how many records \
             are handled at a time; remove the key",
            "14:7: `sources.b.was` has no effect with `transaction = \"kafka\"`: the progress of the source is that of its \
             consumer group; write `group = \"wasmill-OLD\"` in its place",
            "17:20: `sink.transactional_id` has no effect with `mode = \"idempotent\"`: remove one of them",
        ],
    ),
    // Names that parts had before
    (
        "[plugins.w]\nfile = 'w'\n[plugins.x]\nfile = 'x'\n[subscriptions.w]\nwas = 'w'\n[subscriptions.x]\nwas = 'w'",
        &[
            "6:7: `subscriptions.w.was` is the name that the part has now: write the name that it had before, or remove \
             the key",
        ],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.a]\ntopic = 't'\naggregate = 'x'\ncommand = 'C'\nwas = 'old'\n\
         [sources.b]\ntopics = ['t', 'u', 't']\naggregate = 'x'\ncommand = 'C'\nwas = 'old'\n\
         [sinks.a]\nevents = ['**']\ntopic = 'v'\nwas = 'old'\n[sinks.b]\nevents = ['**']\ntopic = 'v'\nwas = 'old'",
        &[
            "9:21: `sources.b.topics` lists \"t\" twice: remove one of them",
            "12:7: `sources.b.was` is \"old\", as `sources.a.was` is, and progress is carried over to one part: remove one of \
             them",
            "20:7: `sinks.b.was` is \"old\", as `sinks.a.was` is, and progress is carried over to one part: remove one of \
             them",
        ],
    ),
    // Control characters
    (
        "data = \"a\\u0000b\"\n[plugins.w]\nfile = \"w\\u001b[2J.wasm\"\n[kafka]\nbrokers = 'embedded'\n\
         [kafka.properties]\n'ssl.ca.location' = \"ca\\n.pem\"\n'ssl.ca.pem' = \"a\\u0000\"\n\
         'ssl.key.pem' = \"two\\nlines\"\n'sasl.password' = { file = \"pass\\tword\" }\n\
         [kafka.oauth]\ntoken = { command = [\"get\\u0000\"] }",
        &[
            "1:8: `data` has the control character '\\0' in it: remove it",
            "3:8: `plugins.w.file` has the control character '\\u{1b}' in it: remove it",
            "7:21: `kafka.properties.\"ssl.ca.location\"` has the control character '\\n' in it: remove it",
            "8:16: `kafka.properties.\"ssl.ca.pem\"` has the control character '\\0' in it: remove it",
            "10:28: `kafka.properties.\"sasl.password\".file` has the control character '\\t' in it: remove it",
            "12:22: `kafka.oauth.token.command` has the control character '\\0' in it: remove it",
        ],
    ),
    // Columns count characters, and every problem is named, in the order of the text
    (
        "# é\nsink = { 'ü' = 1, batch_max = 0 }\n[store]\nbatch_max = 0",
        &[
            "2:1: `sink` publishes to Kafka, but the manifest has no [kafka] section; add one with `brokers`",
            "2:10: unknown key `sink.\"ü\"`; valid keys: batch_max, batch_wait_ms, mode, \
             transactional_id, properties",
            "2:31: `sink.batch_max` must be a whole number from 1 to 100000, found 0",
            "4:13: `store.batch_max` must be a whole number from 1 to 1000000, found 0",
        ],
    ),
];

#[test]
fn a_bad_manifest_is_refused_with_place_cause_and_remedy() {
    let mut wrong = Vec::new();
    for (text, problems) in REFUSED {
        let expected: Vec<String> = problems.iter().map(|problem| format!("{PATH}:{problem}")).collect();
        match parse(text) {
            Err(message) if message == expected.join("\n") => {}
            other => wrong.push(format!("{text}\n  expected {expected:#?}\n  got {other:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn secrets_are_found_elsewhere_and_paths_start_from_the_manifest() {
    let manifest = parse(
        "[kafka]\nbrokers = 'k:9'\n[kafka.properties]\nssl.ca.location = 'ca.pem'\nsasl.username = { env = 'USER' }\n\
         sasl.password = { file = 'password' }\n[kafka.oauth]\ntoken = { command = ['get-token', 'kafka'] }\n\
         [kafka.cloud_events]\nsource = 'https://shop.example'\ncontent_type = 'application/avro'",
    );
    let kafka = manifest.unwrap().kafka.unwrap();
    let events = CloudEvents { source: Some("https://shop.example".into()), content_type: "application/avro".into() };
    assert_eq!(kafka.cloud_events, events);
    let properties: BTreeMap<&str, &Value> = kafka.properties.iter().collect();
    assert_eq!(properties["ssl.ca.location"], &Value::Text("shop/ca.pem".into()));
    assert_eq!(properties["sasl.username"], &Value::Env("USER".into()));
    assert_eq!(properties["sasl.password"], &Value::File("shop/password".into()));
    let token = Token::Command(vec!["get-token".into(), "kafka".into()]);
    assert_eq!(kafka.oauth, Some(OAuth { token, lifetime_ms: 300_000 }));
}

#[test]
fn a_missing_file_is_named() {
    let message = Manifest::load("no/such/wasmill.toml").unwrap_err().to_string();
    assert!(message.starts_with("cannot read the manifest no/such/wasmill.toml: "), "{message}");
}

#[test]
fn the_command_line_overrides_the_manifest() {
    let manifest = parse("[kafka]\nbrokers = 'embedded'").unwrap();
    let (data, brokers) = (Some("elsewhere".into()), Some("kafka:9092".into()));
    let overrides = Overrides { data, brokers, listen: Some("localhost:0".into()), dev: false };
    let manifest = manifest.with(overrides).unwrap();
    assert_eq!(manifest.data, Path::new("elsewhere"));
    assert_eq!(manifest.kafka.unwrap().brokers, Brokers::Addresses("kafka:9092".into()));
    assert_eq!(manifest.api.listen, "127.0.0.1:0".parse().unwrap());
}

#[test]
fn an_override_is_checked_like_the_manifest() {
    let refused = |overrides| parse("").unwrap().with(overrides).unwrap_err().to_string();
    assert_eq!(
        refused(Overrides { brokers: Some("embedded".into()), ..Overrides::default() }),
        "--brokers needs a [kafka] section, which shop/wasmill.toml does not have"
    );
    assert_eq!(
        refused(Overrides { listen: Some("10.0.0.1:80".into()), ..Overrides::default() }),
        "--listen is 10.0.0.1:80, which other machines reach, so the manifest needs a client in `api.clients` and a certificate in \
         `api.tls` (or `api.allow_plain = true`, if a proxy in front of the host ends TLS); or use the loopback address \
         \"127.0.0.1:80\""
    );
}

#[test]
fn a_plugin_with_a_source_has_a_place_that_it_is_built_to() {
    let text = "[plugins.a]\nsource = '../a'\n[plugins.b]\nsource = 'b'\nfile = 'b.wasm'\n[plugins.c]\nfile = 'c.wasm'";
    let manifest = parse(text).unwrap();
    let places = |manifest: &Manifest| {
        let places = manifest.plugins.values().map(|plugin| (plugin.source.clone(), plugin.file.clone()));
        places
            .map(|(source, file)| (source.unwrap_or_default().display().to_string(), file.display().to_string()))
            .collect::<Vec<_>>()
    };
    let of = |places: [(&str, &str); 3]| places.map(|(source, file)| (source.to_owned(), file.to_owned())).to_vec();
    assert_eq!(
        places(&manifest),
        of([("shop/../a", "shop/.wasmill/plugins/a.wasm"), ("shop/b", "shop/b.wasm"), ("", "shop/c.wasm")])
    );
    let dev = manifest.with(Overrides { dev: true, ..Overrides::default() }).unwrap();
    assert_eq!(
        places(&dev),
        of([("shop/../a", "shop/.wasmill/dev/a.wasm"), ("shop/b", "shop/.wasmill/dev/b.wasm"), ("", "shop/c.wasm")])
    );
}
