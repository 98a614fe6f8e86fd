use super::*;

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
        [api]
        listen = "[::1]:80"
        body_mib = 2
        streams_max = 3
        [store]
        queue_max = 10
        batch_max = 20
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
        limits = { event_time_ms = 1, memory_mib = 2, table_elements = 3, instances = 4, output_mib = 5, effects_max = 6 }
        [plugins.warehouse]
        file = "/plugins/warehouse.wasm"
        [sources.baskets]
        topic = "Baskets.v1"
        aggregate = "order"
        command = "CreateOrder"
        from = "end"
        in_flight_max = 7
        [subscriptions.warehouse]
        start = { position = 8 }
        batch_max = 9
        attempts_max = 10
        backoff_ms = 11
        [projections.sales]
        batch_max = 12
        [sink]
        batch_max = 13
        mode = "idempotent"
        transactional_id = "shop"
        "#,
    )
    .unwrap();
    let text = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let limits =
        Limits { event_time_ms: 1, memory_mib: 2, table_elements: 3, instances: 4, output_mib: 5, effects_max: 6 };
    let expected = Manifest {
        path: PATH.into(),
        data: "/var/lib/shop".into(),
        api: Api { listen: "[::1]:80".parse().unwrap(), body_mib: 2, streams_max: 3 },
        store: Store { queue_max: 10, batch_max: 20 },
        kafka: Some(Kafka {
            brokers: Brokers::Addresses("kafka-1:9092,kafka-2:9092".into()),
            properties: text(&[("linger.ms", "5"), ("socket.keepalive.enable", "true")]),
            topics: [(
                "Baskets.v1".into(),
                Topic { partitions: 6, replication: 3, config: text(&[("retention.ms", "1000")]) },
            )]
            .into(),
        }),
        plugins: [
            ("orders".into(), Plugin { file: "shop/../orders.wasm".into(), shards: Some(2), limits }),
            (
                "warehouse".into(),
                Plugin { file: "/plugins/warehouse.wasm".into(), shards: None, limits: Limits::default() },
            ),
        ]
        .into(),
        sources: [(
            "baskets".into(),
            Source {
                topic: "Baskets.v1".into(),
                aggregate: "order".into(),
                command: "CreateOrder".into(),
                from: From::End,
                in_flight_max: 7,
            },
        )]
        .into(),
        subscriptions: [(
            "warehouse".into(),
            Subscription { start: Start::At(Position(8)), batch_max: 9, attempts_max: 10, backoff_ms: 11 },
        )]
        .into(),
        projections: [("sales".into(), Projection { batch_max: 12 })].into(),
        sink: Sink { batch_max: 13, mode: SinkMode::Idempotent, transactional_id: Some("shop".into()) },
    };
    assert_eq!(manifest, expected);
}

/// A manifest and what is said about it, each line after `shop/wasmill.toml:`.
const REFUSED: &[(&str, &[&str])] = &[
    // Syntax
    ("data = ", &["1:8: string values must be quoted, expected literal string"]),
    ("[store]\n[store]", &["2:2: duplicate key"]),
    // Unknown keys
    (
        "[plugins.orders]\nfile = 'o.wasm'\nfil = 'o.wasm'",
        &["3:1: unknown key `plugins.orders.fil`; did you mean `file`? valid keys: file, shards, limits"],
    ),
    (
        "colour = 1",
        &["1:1: unknown key `colour`; valid keys: data, api, store, kafka, plugins, sources, subscriptions, \
           projections, sink"],
    ),
    (
        "[stor]\n",
        &["1:2: unknown key `stor`; did you mean `store`? valid keys: data, api, store, kafka, plugins, \
                    sources, subscriptions, projections, sink"],
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
    ("[store]\nqueue_max = 0", &["2:13: `store.queue_max` must be a whole number from 1 to 1000000, found 0"]),
    ("[store]\nqueue_max = -1", &["2:13: `store.queue_max` must be a whole number from 1 to 1000000, found -1"]),
    (
        "[sink]\nmode = 'once'",
        &["2:8: `sink.mode` must be \"transactional\" or \"idempotent\", found the string \"once\""],
    ),
    ("[sink]\nbatch_max = 1.5", &["2:13: `sink.batch_max` must be a whole number from 1 to 100000, found 1.5"]),
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
        &["2:10: `plugins.orders.file` is missing: the path of the plugin's .wasm file"],
    ),
    ("[kafka]", &["1:2: `kafka.brokers` is missing: \"embedded\" or a list such as \"kafka-1:9092,kafka-2:9092\""]),
    // Names
    (
        "[plugins.Orders]\nfile = 'o'",
        &["1:10: the name \"Orders\" in `plugins.Orders` must be 1 to 64 characters of a-z, 0-9 and `-`"],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[kafka.topics.'a b']",
        &["3:15: the topic name in `kafka.topics.\"a b\"` must be a topic's name (1 to 249 characters of a-z, A-Z, \
           0-9, `.`, `_`, `-`), found \"a b\""],
    ),
    // The API
    (
        "api = { listen = '0.0.0.0:7310' }",
        &["1:18: `api.listen` must be a loopback address, found \"0.0.0.0:7310\": the API asks nobody for a \
           password, so it serves this machine only; use \"127.0.0.1:7310\""],
    ),
    (
        "api = { listen = '7310' }",
        &["1:18: `api.listen` must be a loopback address with a port, such as \"127.0.0.1:7310\", found \"7310\""],
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
        "[sources.baskets]\ntopic = 'b'\naggregate = 'order'\ncommand = 'C'",
        &["1:10: `sources.baskets` reads from Kafka, but the manifest has no [kafka] section; add one with `brokers`"],
    ),
    (
        "[kafka]\nbrokers = 'embedded'\n[sources.b]\ntopic = 'b/c'\naggregate = 'order'\nfrom = 'start'",
        &[
            "3:10: `sources.b.command` is missing: the name of the command that each record becomes",
            "4:9: `sources.b.topic` must be a topic's name (1 to 249 characters of a-z, A-Z, 0-9, `.`, `_`, `-`), \
             found \"b/c\"",
            "6:8: `sources.b.from` must be \"beginning\" or \"end\", found the string \"start\"",
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
        "[plugins.w]\nfile = 'w'\n[subscriptions.w]\nstart = { posit = 1 }",
        &[
            "4:1: `subscriptions.w.start.position` is missing: the first position wanted",
            "4:11: unknown key `subscriptions.w.start.posit`; did you mean `position`? valid keys: position",
        ],
    ),
    // Columns count characters, and every problem is named, in the order of the text
    (
        "# é\nsink = { 'ü' = 1, batch_max = 0 }\n[store]\nbatch_max = 0",
        &[
            "2:10: unknown key `sink.\"ü\"`; valid keys: batch_max, mode, transactional_id",
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
fn a_missing_file_is_named() {
    let message = Manifest::load("no/such/wasmill.toml").unwrap_err().to_string();
    assert!(message.starts_with("cannot read the manifest no/such/wasmill.toml: "), "{message}");
}

#[test]
fn the_command_line_overrides_the_manifest() {
    let manifest = parse("[kafka]\nbrokers = 'embedded'").unwrap();
    let overrides = Overrides {
        data: Some("elsewhere".into()),
        brokers: Some("kafka:9092".into()),
        listen: Some("localhost:0".into()),
    };
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
        "--listen must be a loopback address, found \"10.0.0.1:80\": the API asks nobody for a password, so it \
         serves this machine only; use \"127.0.0.1:80\""
    );
}
