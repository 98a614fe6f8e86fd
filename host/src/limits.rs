//! Invariant 9: `docs/limits.md` has every limit, with the value that the code has.

use crate::manifest::{
    Api, Deliveries, Endpoint, EventSink, Limits, Plugin, Projection, Schedule, Sink, Store, Subscription, Topic,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The cells of a row.
type Row = Vec<String>;

/// The folder of the host's package, in the checkout that is tested.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests").into()
}

fn page() -> [Vec<Row>; 2] {
    let file = package().join("../docs/limits.md");
    let text = fs::read_to_string(file).expect("read docs/limits.md");
    let (keys, constants) = text.split_once("## Limits without a key").expect("it has two parts");
    [keys, constants].map(|part| {
        let rows = part.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| limit |"));
        let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
        rows.filter(|line| !line.starts_with("| key |")).map(cells).collect()
    })
}

/// Returns the limits of the manifest with their defaults. A new field of a section does not compile until it is listed
/// here, or is named as one that is not a limit.
fn keys() -> BTreeMap<String, String> {
    let mut keys = Keys(BTreeMap::new());
    let crate::bounds::Bounds { hops_max, retry_after_max } = Default::default();
    keys.add("", &[("hops_max", hops_max.into()), ("retry_after_max_ms", retry_after_max.as_millis() as u64)]);
    let crate::manifest::Host { stalled_after_ms, stop_max_ms, history_max } = Default::default();
    let of_host =
        [("stalled_after_ms", stalled_after_ms), ("stop_max_ms", stop_max_ms), ("history_max", history_max as u64)];
    keys.add("host.", &of_host);
    let Api {
        listen: _,
        probes_listen: _,
        hosts: _,
        allow_plain: _,
        tls: _,
        clients: _,
        name_clients: _,
        body_mib,
        in_flight_mib,
        connections_max,
        streams_max,
        header_seconds,
        idle_seconds,
        stall_seconds,
    } = Api::default();
    let of_api = [
        ("body_mib", body_mib as u64),
        ("in_flight_mib", in_flight_mib as u64),
        ("connections_max", connections_max as u64),
        ("streams_max", streams_max as u64),
        ("header_seconds", header_seconds),
        ("idle_seconds", idle_seconds),
        ("stall_seconds", stall_seconds),
    ];
    keys.add("api.", &of_api);
    let Store {
        url: _,
        backups: _,
        queue_max,
        queue_mib,
        batch_max,
        transaction_mib,
        log_mib,
        event_bytes_max,
        id_bytes_max,
        command_id_hours,
        refusals: _,
        dead_letters_max,
        dead_letters_mib,
        dead_letters_days,
        dead_letters_full: _,
    } = Store::default();
    let of_store = [
        ("queue_max", queue_max as u64),
        ("queue_mib", queue_mib as u64),
        ("batch_max", batch_max as u64),
        ("transaction_mib", transaction_mib as u64),
        ("log_mib", log_mib),
        ("event_bytes_max", event_bytes_max as u64),
        ("id_bytes_max", id_bytes_max as u64),
        ("command_id_hours", command_id_hours),
        ("dead_letters_max", dead_letters_max),
        ("dead_letters_mib", dead_letters_mib),
        ("dead_letters_days", dead_letters_days),
    ];
    keys.add("store.", &of_store);
    let Plugin {
        file: _,
        sha256: _,
        source: _,
        shards,
        queue_max,
        queue_mib,
        in_flight_max,
        attempts_max,
        snapshot_every,
        changed_state: _,
        watch_ms,
        watch_percent,
        limits,
        settings: _,
        secrets: _,
        http: _,
    } = Plugin::new("");
    assert_eq!(shards, None);
    keys.say("plugins.NAME.shards", "a core each");
    let of_plugin = [
        ("queue_max", queue_max as u64),
        ("queue_mib", queue_mib as u64),
        ("in_flight_max", in_flight_max as u64),
        ("attempts_max", attempts_max.into()),
        ("snapshot_every", snapshot_every),
        ("watch_ms", watch_ms),
        ("watch_percent", watch_percent),
    ];
    keys.add("plugins.NAME.", &of_plugin);
    keys.add_limits(limits);
    let Endpoint {
        url: _,
        networks: _,
        ca_file: _,
        secrets: _,
        timeout_ms,
        response_kib,
        in_flight_max,
        per_second,
        attempts_max,
        backoff_ms,
        backoff_max_ms,
    } = Endpoint::new("https://endpoint.invalid/".parse().expect("a URL"));
    assert_eq!(per_second, None);
    keys.say("plugins.NAME.http.ENDPOINT.per_second", "any number");
    let of_endpoint = [
        ("timeout_ms", timeout_ms),
        ("response_kib", response_kib as u64),
        ("in_flight_max", in_flight_max as u64),
        ("attempts_max", attempts_max.into()),
        ("backoff_ms", backoff_ms),
        ("backoff_max_ms", backoff_max_ms),
    ];
    keys.add("plugins.NAME.http.ENDPOINT.", &of_endpoint);
    let Topic { partitions, replication, config: _ } = Topic::default();
    let of_topic = [("partitions", partitions as u64), ("replication", replication as u64)];
    keys.add("kafka.topics.TOPIC.", &of_topic);
    // The default depends on the destination; see `manifest/read/source.rs`.
    keys.say("sources.NAME.in_flight_max", "256; 1,024 to a subscriber");
    keys.add("sources.NAME.", &[("in_flight_mib", crate::manifest::IN_FLIGHT_MIB as u64)]);
    let Deliveries {
        subscriber: _,
        batch_max,
        attempts_max,
        backoff_ms,
        backoff_max_ms,
        on_failure: _,
        transaction: _,
    } = Deliveries::to("");
    keys.add("sources.NAME.", &tries(batch_max, attempts_max, [backoff_ms, backoff_max_ms]));
    let Subscription {
        start: _,
        is_start_written: _,
        was: _,
        batch_max,
        attempts_max,
        backoff_ms,
        backoff_max_ms,
        on_failure: _,
        held_keys_max,
        segments,
    } = Subscription::default();
    keys.add("subscriptions.PLUGIN.", &[("held_keys_max", held_keys_max as u64), ("segments", segments.into())]);
    keys.add("subscriptions.PLUGIN.", &tries(batch_max, attempts_max, [backoff_ms, backoff_max_ms]));
    let Projection { batch_max } = Projection::default();
    keys.add("projections.PROJECTION.", &[("batch_max", batch_max as u64)]);
    let Sink { batch_max, batch_wait_ms, mode: _, transactional_id: _, properties: _ } = Sink::default();
    keys.add("sink.", &[("batch_max", batch_max as u64), ("batch_wait_ms", batch_wait_ms)]);
    // These sections have no limits of their own.
    let _ = |Schedule { due: _, stream: _, command: _, payload: _, missed: _ }: Schedule| {};
    let _ = |EventSink {
                 filter: _,
                 topic: _,
                 key: _,
                 shape: _,
                 start: _,
                 is_start_written: _,
                 was: _,
                 settings: _,
             }: EventSink| {};
    keys.0
}

fn tries(batch_max: usize, attempts_max: u32, [backoff_ms, backoff_max_ms]: [u64; 2]) -> [(&'static str, u64); 4] {
    [
        ("batch_max", batch_max as u64),
        ("attempts_max", attempts_max.into()),
        ("backoff_ms", backoff_ms),
        ("backoff_max_ms", backoff_max_ms),
    ]
}

struct Keys(BTreeMap<String, String>);

impl Keys {
    fn say(&mut self, key: &str, default: &str) {
        self.0.insert(format!("`{key}`"), default.to_owned());
    }

    fn add(&mut self, section: &str, keys: &[(&str, u64)]) {
        for (key, default) in keys {
            self.say(&format!("{section}{key}"), &grouped(*default));
        }
    }

    fn add_limits(&mut self, limits: Limits) {
        let Limits {
            event_time_ms,
            memory_mib,
            live_mib,
            table_elements,
            instances,
            output_mib,
            effects_max,
            sql_value_mib,
            sql_memory_mib,
            read_model_mib,
        } = limits;
        assert_eq!(live_mib, None);
        self.say("plugins.NAME.limits.live_mib", "half of `memory_mib`");
        let of_guest = [
            ("event_time_ms", event_time_ms),
            ("memory_mib", memory_mib as u64),
            ("table_elements", table_elements as u64),
            ("instances", instances as u64),
            ("output_mib", output_mib as u64),
            ("effects_max", effects_max as u64),
            ("sql_value_mib", sql_value_mib as u64),
            ("sql_memory_mib", sql_memory_mib as u64),
            ("read_model_mib", read_model_mib),
        ];
        self.add("plugins.NAME.limits.", &of_guest);
    }
}

/// Formats a number with commas, as in the page.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Parses a value of the page, as bytes, milliseconds or a count.
fn value(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u64 = number.replace(',', "").parse().ok()?;
    let scale = match unit {
        "" | "ms" | "bytes" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "days" => 86_400_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    Some(number * scale)
}

/// Evaluates a constant's expression: sums, products and shifts of numbers, or a duration in milliseconds.
fn evaluate(expression: &str) -> Option<u64> {
    let expression = expression.trim();
    for (call, scale) in [("Duration::from_secs(", 1_000), ("Duration::from_millis(", 1)] {
        if let Some(inner) = expression.strip_prefix(call) {
            return Some(evaluate(inner.strip_suffix(')')?)? * scale);
        }
    }
    if let Some((one, other)) = expression.split_once('*') {
        return Some(evaluate(one)? * evaluate(other)?);
    }
    if let Some((one, other)) = expression.split_once("<<") {
        return Some(evaluate(one)? << evaluate(other)?);
    }
    expression.replace('_', "").parse().ok()
}

/// Returns the constants of the host's code, by `FILE::NAME`, with their values if they are numbers.
fn constants() -> BTreeMap<String, Option<u64>> {
    let root = package().join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let mut constants = BTreeMap::new();
    for file in files {
        let place = file.strip_prefix(&root).expect("it was found there").display().to_string();
        let code = fs::read_to_string(&file).expect("read a source file");
        for line in code.lines() {
            let Some((_, rest)) = line.split_once("const ").filter(|(before, _)| !before.contains("//")) else {
                continue;
            };
            let Some((name, rest)) = rest.split_once(": ") else { continue };
            let Some((_, expression)) = rest.split_once(" = ") else { continue };
            constants.insert(format!("`{place}::{name}`"), evaluate(expression.trim_end_matches(';')));
        }
    }
    constants
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("list a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("limits.rs") {
            files.push(path);
        }
    }
}

#[test]
fn the_page_of_limits_has_every_key_and_its_default() {
    let [rows, _] = page();
    let shown: BTreeMap<String, String> = rows.iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    assert_eq!(shown, keys());
    assert!(rows.iter().all(|row| row.len() == 4 && row[3].len() > 5), "each says what happens: {rows:#?}");
}

#[test]
fn the_page_of_limits_has_every_constant_and_its_value() {
    let [_, rows] = page();
    let constants = constants();
    let mut wrong = Vec::new();
    for row in &rows {
        match constants.get(&row[2]) {
            None => wrong.push(format!("{} is no constant", row[2])),
            Some(found) if found.is_none() || *found != value(&row[1]) => {
                wrong.push(format!("{} is {found:?}, and the page says {}", row[2], row[1]));
            }
            Some(_) => {}
        }
    }
    let listed = |constant: &String| rows.iter().any(|row| row[2] == *constant);
    let missing = constants.keys().filter(|name| name.ends_with("_MAX`") && !listed(name));
    wrong.extend(missing.map(|name| format!("{name} has no row in docs/limits.md")));
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(rows.len() > 40 && rows.iter().all(|row| row.len() == 4 && row[3].len() > 5), "each says what happens");
}
