//! Reading a manifest: the keys, their defaults and their ranges.

mod api;
mod configuration;
mod endpoint;
mod place;
mod property;
mod schedule;
mod sink;
mod source;

use super::section::{Document, Entry, Section, nearest};
use super::*;
use crate::names::{self, Rule};
pub(super) use api::listen;
use place::{refuse_wrong_was, start, was};
use property::properties;
#[cfg(test)]
pub(crate) use source::IN_FLIGHT_MIB;
use std::ops::RangeInclusive;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

const MANY: u64 = 1_000_000;
const TIME_MS: RangeInclusive<u64> = 1..=3_600_000;

pub(super) fn manifest(text: &str, path: &Path) -> Result<Manifest, Error> {
    let document = Document::new(path, text);
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            document.problem(error.span().unwrap_or(0..0), error.message().replace('\n', ", "));
        }
        return Err(Error::Invalid(document.into_problems()));
    }
    let manifest = Manifest { text: text.into(), ..root(Section::root(&document, table.get_ref()), path) };
    let problems = document.into_problems();
    if problems.is_empty() { Ok(manifest) } else { Err(Error::Invalid(problems)) }
}

fn root(mut root: Section<'_>, path: &Path) -> Manifest {
    let folder = path.parent().unwrap_or(Path::new(""));
    let data = root.get("data").and_then(|entry| entry.text("the path of a folder")).unwrap_or("data");
    let reload = root.choice("reload", &[("manual", Reload::Manual), ("auto", Reload::Auto)]);
    let clock = root.choice("clock", &[("system", ClockKind::System), ("manual", ClockKind::Manual)]);
    let bounds = bounds(&mut root);
    let host = root.section("host").map(host).unwrap_or_default();
    let api = root.section("api").map(|section| api::api(section, folder)).unwrap_or_default();
    let store = root.section("store").map(|section| store(section, folder)).unwrap_or_default();
    let kafka = root.section("kafka").map(kafka);
    let plugins = named(root.get("plugins"), name, |section| plugin(section, folder));
    let has_kafka = kafka.is_some();
    let of_sources = root.get("sources");
    let sources = named(of_sources.clone(), name, |section| source::source(section, has_kafka));
    source::refuse_circles(of_sources.clone(), &sources);
    refuse_wrong_was(of_sources);
    let schedules = named(root.get("schedules"), name, schedule::schedule);
    let is_plugin = |entry: &Entry<'_>, text: &str| known_plugin(entry, text, &plugins);
    let of_subscriptions = root.get("subscriptions");
    let subscriptions = named(of_subscriptions.clone(), is_plugin, |section| Some(subscription(section)));
    refuse_wrong_was(of_subscriptions);
    let projections = named(root.get("projections"), name, |section| Some(projection(section)));
    let sink = root.section("sink").map(|section| sink::sink(section, has_kafka)).unwrap_or_default();
    let of_sinks = root.get("sinks");
    let sinks = named(of_sinks.clone(), sink::sink_name, |section| sink::event_sink(section, has_kafka));
    sink::refuse_shared_ids(of_sinks.clone(), &sinks, &sink);
    refuse_wrong_was(of_sinks);
    root.finish();
    Manifest {
        path: path.to_owned(),
        text: "".into(),
        overrides: Overrides::default(),
        reload,
        data: folder.join(data),
        clock,
        bounds,
        host,
        api,
        store,
        kafka,
        plugins: complete(plugins),
        sources: complete(sources),
        schedules: complete(schedules),
        subscriptions: complete(subscriptions),
        projections: complete(projections),
        sink,
        sinks: complete(sinks),
    }
}

/// Reads the sections whose keys are names. A name stays in the result if its section has errors, so that other
/// sections can refer to it.
fn named<'a, T>(
    entry: Option<Entry<'a>>,
    name_is_valid: impl Fn(&Entry<'a>, &str) -> bool,
    read: impl Fn(Section<'a>) -> Option<T>,
) -> BTreeMap<String, Option<T>> {
    let Some(section) = entry.and_then(|entry| entry.section()) else { return BTreeMap::new() };
    let entries = section.entries().filter(|(name, entry)| name_is_valid(entry, name));
    entries.map(|(name, entry)| (name.to_owned(), entry.section().and_then(&read))).collect()
}

fn complete<T>(sections: BTreeMap<String, Option<T>>) -> BTreeMap<String, T> {
    sections.into_iter().filter_map(|(name, section)| Some((name, section?))).collect()
}

fn name(entry: &Entry<'_>, name: &str) -> bool {
    let cause = names::checked(name, Rule::Part).err();
    if let Some(cause) = &cause {
        entry.document.problem(entry.key_span.clone(), format!("the name in `{}` {cause}", entry.path));
    }
    cause.is_none()
}

/// Returns the text of an entry if it follows a rule for names.
fn named_by<'a>(entry: &Entry<'a>, expected: &str, rule: Rule) -> Option<&'a str> {
    let text = entry.text(expected)?;
    names::checked(text, rule).map_err(|cause| entry.note(&cause.to_string())).ok()
}

fn known_plugin(entry: &Entry<'_>, text: &str, plugins: &BTreeMap<String, Option<Plugin>>) -> bool {
    if plugins.contains_key(text) {
        return true;
    }
    let names: Vec<&str> = plugins.keys().map(String::as_str).collect();
    let hint = nearest(text, &names).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
    let text = format!("`{}` names no plugin: there is no [plugins.{text}]{hint}", entry.path);
    entry.document.problem(entry.key_span.clone(), text);
    false
}

fn bounds(root: &mut Section<'_>) -> Bounds {
    let Bounds { hops_max, retry_after_max } = Bounds::default();
    let retry_after_max_ms = root.number("retry_after_max_ms", TIME_MS, retry_after_max.as_millis() as u64);
    Bounds {
        hops_max: root.number("hops_max", 1..=MANY, hops_max),
        retry_after_max: Duration::from_millis(retry_after_max_ms),
    }
}

fn host(mut section: Section<'_>) -> Host {
    let default = Host::default();
    let host = Host {
        stalled_after_ms: section.number("stalled_after_ms", 1_000..=3_600_000, default.stalled_after_ms),
        stop_max_ms: section.number("stop_max_ms", 1_000..=3_600_000, default.stop_max_ms),
        history_max: section.number("history_max", 1..=100, default.history_max),
    };
    section.finish();
    host
}

fn store(mut section: Section<'_>, folder: &Path) -> Store {
    let default = Store::default();
    let backups = section.get("backups").and_then(|entry| entry.text("the path of a folder"));
    let store = Store {
        url: section.get("url").and_then(|entry| store_url(&entry)),
        backups: backups.map(|path| folder.join(path)),
        queue_max: section.number("queue_max", 1..=MANY, default.queue_max),
        queue_mib: section.number("queue_mib", 1..=65_536, default.queue_mib),
        batch_max: section.number("batch_max", 1..=MANY, default.batch_max),
        transaction_mib: section.number("transaction_mib", 1..=1024, default.transaction_mib),
        log_mib: section.number("log_mib", 1..=65_536, default.log_mib),
        event_bytes_max: section.number("event_bytes_max", 1..=256 << 20, default.event_bytes_max),
        id_bytes_max: section.number("id_bytes_max", 16..=32_768, default.id_bytes_max),
        command_id_hours: section.number("command_id_hours", 1..=87_600, default.command_id_hours),
        refusals: section
            .choice("refusals", &[("remember", Refusals::Remember), ("decide-again", Refusals::DecideAgain)]),
        dead_letters_max: section.number("dead_letters_max", 1..=1_000_000_000, default.dead_letters_max),
        dead_letters_mib: section.number("dead_letters_mib", 1..=1_048_576, default.dead_letters_mib),
        dead_letters_days: section.number("dead_letters_days", 0..=36_500, default.dead_letters_days),
        dead_letters_full: section
            .choice("dead_letters_full", &[("stop", WhenFull::Stop), ("drop-oldest", WhenFull::DropOldest)]),
    };
    section.finish();
    store
}

/// Reads the URL of a database, or where it is. A text is not shown in an error, because it may have a password.
fn store_url(entry: &Entry<'_>) -> Option<Value> {
    const URL: &str = "a URL such as \"postgres://user@host/database\", { env = \"VARIABLE\" } or { file = \"PATH\" }";
    match entry.value.get_ref() {
        DeValue::Table(_) => property::from_elsewhere(entry).unwrap_or_else(|| {
            entry.expected(URL);
            None
        }),
        DeValue::String(text) if text.contains("://") && !text.starts_with("postgres") => {
            entry.note("must begin with `postgres://`: PostgreSQL is the only database that can have the store");
            None
        }
        DeValue::String(text) if !text.starts_with("postgres://") && !text.starts_with("postgresql://") => {
            entry.note(&format!("must be {URL}"));
            None
        }
        _ => entry.text(URL).map(|text| Value::Text(text.to_owned())),
    }
}

fn kafka(mut section: Section<'_>) -> Kafka {
    let found = section.need("brokers", BROKERS).and_then(|entry| entry.parse(BROKERS, brokers));
    let properties = section.get("properties").map(|entry| properties(&entry)).unwrap_or_default();
    let oauth = section.section("oauth").and_then(property::oauth);
    let cloud_events = section.section("cloud_events").map(cloud_events).unwrap_or_default();
    let topics = named(section.get("topics"), topic_name, |section| Some(topic(section)));
    section.finish();
    Kafka { brokers: found.unwrap_or(Brokers::Embedded), properties, oauth, cloud_events, topics: complete(topics) }
}

fn cloud_events(mut section: Section<'_>) -> CloudEvents {
    const SOURCE: &str =
        "a URI without `#` that no other store publishes under, such as \"https://shop.example/orders\"";
    const CONTENT_TYPE: &str = "a media type such as \"application/json\"";
    let uri = |text: &str| {
        let fits = |byte: u8| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte);
        let is_uri = !text.is_empty() && text.len() <= 1_000 && text.bytes().all(fits);
        if is_uri { Ok(text.to_owned()) } else { Err(format!("must be {SOURCE}, found {text:?}")) }
    };
    let media_type = |text: &str| {
        let fits = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let is_type = text.len() <= 200 && text.bytes().all(fits) && text.contains('/');
        if is_type { Ok(text.to_owned()) } else { Err(format!("must be {CONTENT_TYPE}, found {text:?}")) }
    };
    let default = CloudEvents::default();
    let source = section.get("source").and_then(|entry| entry.parse(SOURCE, uri));
    let content_type = section.get("content_type").and_then(|entry| entry.parse(CONTENT_TYPE, media_type));
    section.finish();
    CloudEvents { source, content_type: content_type.unwrap_or(default.content_type) }
}

const BROKERS: &str = "\"embedded\" or a list such as \"kafka-1:9092,kafka-2:9092\"";

/// Parses `embedded` or `host:port,…`. The error completes a sentence about the key or option.
pub(super) fn brokers(text: &str) -> Result<Brokers, String> {
    if text == "embedded" {
        return Ok(Brokers::Embedded);
    }
    let is_address = |address: &str| {
        address.trim().rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
    };
    match text.split(',').find(|address| !is_address(address)) {
        None => Ok(Brokers::Addresses(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))),
        Some(wrong) => Err(format!("must be {BROKERS}, but {wrong:?} is not host:port")),
    }
}

fn topic_name(entry: &Entry<'_>, name: &str) -> bool {
    let cause = check_topic_name(name).err();
    if let Some(cause) = &cause {
        entry.document.problem(entry.key_span.clone(), format!("the topic name in `{}` {cause}", entry.path));
    }
    cause.is_none()
}

fn check_topic_name(name: &str) -> Result<(), String> {
    let valid = (1..=249).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && name != "."
        && name != "..";
    let cause =
        || format!("must be a topic's name (1 to 249 characters of a-z, A-Z, 0-9, `.`, `_`, `-`), found {name:?}");
    if valid { Ok(()) } else { Err(cause()) }
}

fn topic(mut section: Section<'_>) -> Topic {
    let default = Topic::default();
    let topic = Topic {
        partitions: section.number("partitions", 1..=100_000, default.partitions),
        replication: section.number("replication", 1..=1000, default.replication),
        config: section.get("config").map(|entry| property::texts(&entry)).unwrap_or_default(),
    };
    section.finish();
    topic
}

fn plugin(mut section: Section<'_>, folder: &Path) -> Option<Plugin> {
    let (file, source) = code(&mut section, folder);
    let sha256 = section.get("sha256").and_then(|entry| entry.parse(SHA256, sha256));
    let shards = section.get("shards").and_then(|entry| entry.number(1..=256));
    let default = Plugin::new("");
    let plugin = Plugin {
        file: PathBuf::new(),
        source,
        sha256,
        shards: shards.map(|shards| shards as usize),
        queue_max: section.number("queue_max", 1..=MANY, default.queue_max),
        queue_mib: section.number("queue_mib", 1..=65_536, default.queue_mib),
        in_flight_max: section.number("in_flight_max", 1..=MANY, default.in_flight_max),
        attempts_max: section.number("attempts_max", 1..=1000, default.attempts_max),
        snapshot_every: section.number("snapshot_every", 0..=MANY, default.snapshot_every),
        changed_state: section
            .choice("changed_state", &[("report", ChangedState::Report), ("refuse", ChangedState::Refuse)]),
        watch_ms: section.number("watch_ms", 0..=3_600_000, default.watch_ms),
        watch_percent: section.number("watch_percent", 1..=100, default.watch_percent),
        limits: section.section("limits").map(limits).unwrap_or_default(),
        settings: section.section("settings").as_ref().map(configuration::settings).unwrap_or_default(),
        secrets: section.section("secrets").as_ref().map(configuration::secrets).unwrap_or_default(),
        http: complete(named(section.get("http"), name, |section| endpoint::endpoint(section, folder))),
    };
    section.finish();
    Some(Plugin { file: file?, ..plugin })
}

/// Reads the file of a plugin and the folder of its crate, of which one must be there. The default of the file is the place
/// where the crate is built to.
fn code(section: &mut Section<'_>, folder: &Path) -> (Option<PathBuf>, Option<PathBuf>) {
    const FILE: &str = "the path of the plugin's .wasm file";
    const SOURCE: &str = "the folder of the plugin's crate";
    let (file, source) = (section.get("file"), section.get("source"));
    let crate_folder = source.as_ref().and_then(|entry| entry.text(SOURCE)).map(|path| folder.join(path));
    let file = match (file, source) {
        (Some(entry), _) => entry.text(FILE).map(|path| folder.join(path)),
        (None, Some(_)) => Some(folder.join(BUILD_FOLDER).join("plugins").join(section.name()).with_extension("wasm")),
        (None, None) => {
            section.missing("file", &format!("{FILE}; or `source`, {SOURCE}, which `wasmill build` builds"));
            None
        }
    };
    (file, crate_folder)
}

const SHA256: &str = "the SHA-256 of the plugin's file, 64 hexadecimal digits";

/// Parses a digest, with or without `sha256:` before it, as the status shows it.
fn sha256(text: &str) -> Result<String, String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text).to_ascii_lowercase();
    let is_digest = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest { Ok(digits) } else { Err(format!("must be {SHA256}, found {text:?}")) }
}

fn limits(mut section: Section<'_>) -> Limits {
    let default = Limits::default();
    let limits = Limits {
        event_time_ms: section.number("event_time_ms", TIME_MS, default.event_time_ms),
        memory_mib: section.number("memory_mib", 1..=4096, default.memory_mib),
        live_mib: section.get("live_mib").and_then(|entry| entry.number(1..=4096)).map(|mib| mib as usize),
        table_elements: section.number("table_elements", 1..=10_000_000, default.table_elements),
        instances: section.number("instances", 1..=10_000_000, default.instances),
        output_mib: section.number("output_mib", 1..=1024, default.output_mib),
        effects_max: section.number("effects_max", 1..=MANY, default.effects_max),
        sql_value_mib: section.number("sql_value_mib", 1..=1024, default.sql_value_mib),
        sql_memory_mib: section.number("sql_memory_mib", 1..=65_536, default.sql_memory_mib),
        read_model_mib: section.number("read_model_mib", 1..=1 << 20, default.read_model_mib),
    };
    if limits.live_mib.is_some_and(|live_mib| live_mib > limits.memory_mib)
        && let Some(entry) = section.again("live_mib")
    {
        let memory_mib = limits.memory_mib;
        entry.note(&format!("has no effect above `memory_mib`, which is {memory_mib}: lower it, or raise that one"));
    }
    section.finish();
    limits
}

/// The values of the key `on_failure`.
const ON_FAILURE: &[(&str, OnFailure)] =
    &[("hold_key", OnFailure::HoldKey), ("pass", OnFailure::Pass), ("stop", OnFailure::Stop)];

fn subscription(mut section: Section<'_>) -> Subscription {
    let default = Subscription::default();
    let begins = section.get("start").and_then(|entry| start(&entry));
    let (backoff_ms, backoff_max_ms) = backoff(&mut section, default.backoff_ms, default.backoff_max_ms);
    let subscription = Subscription {
        start: begins.unwrap_or_default(),
        is_start_written: begins.is_some(),
        was: was(&mut section),
        batch_max: section.number("batch_max", 1..=10_000, default.batch_max),
        attempts_max: section.number("attempts_max", 1..=1000, default.attempts_max),
        backoff_ms,
        backoff_max_ms,
        on_failure: section.choice("on_failure", ON_FAILURE),
        held_keys_max: section.number("held_keys_max", 1..=MANY, default.held_keys_max),
        segments: section.number("segments", 1..=SEGMENTS_MAX.into(), default.segments),
    };
    section.finish();
    subscription
}

/// Reads the shortest and the longest pause between attempts.
fn backoff(section: &mut Section<'_>, first: u64, max: u64) -> (u64, u64) {
    let first = section.number("backoff_ms", TIME_MS, first);
    let longest = section.number("backoff_max_ms", TIME_MS, max.max(first));
    if longest < first
        && let Some(entry) = section.again("backoff_max_ms")
    {
        entry.note(&format!("is less than `backoff_ms`, which is {first}: raise it, or lower that one"));
    }
    (first, longest)
}

fn projection(mut section: Section<'_>) -> Projection {
    let batch_max = section.number("batch_max", 1..=100_000, Projection::default().batch_max);
    section.finish();
    Projection { batch_max }
}
