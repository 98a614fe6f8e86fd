//! The keys of `[sources.NAME]`.

use super::*;
use regex::Regex;
use std::collections::BTreeSet;

const AGGREGATE: &str = "the type of the aggregate that gets the commands";
const COMMAND: &str = "the name of the command that each record becomes";
const TOPIC: &str = "the topic whose records become commands";
/// The default of `in_flight_mib`.
pub(crate) const IN_FLIGHT_MIB: usize = 64;

const TOPICS: &str = "a list of topics and of patterns, such as [\"orders\", \"^shop\\\\..*\"]";

pub(super) fn source(mut section: Section<'_>, has_kafka: bool) -> Option<Source> {
    if !has_kafka {
        section.problem("reads from Kafka, but the manifest has no [kafka] section; add one with `brokers`");
    }
    let topics = topics(&mut section);
    let target = target(&mut section);
    let from = section.get("from").and_then(|entry| from(&entry));
    let was = was(&mut section);
    let lost = section.choice("lost", &[("continue", Lost::Continue), ("stop", Lost::Stop)]);
    let recreated = section.choice("recreated", &[("stop", Recreated::Stop), ("beginning", Recreated::Beginning)]);
    let memberships = [("assigned", Membership::Assigned), ("group", Membership::Group)];
    let membership = section.choice("membership", &memberships);
    let group = section.get("group").and_then(|entry| entry.text("the name of a consumer group")).map(str::to_owned);
    let properties = section.get("properties").map(|entry| properties(&entry)).unwrap_or_default();
    let dead_letter_topic = sink::dead_letter_topic(&mut section);
    let drop_headers = drop_headers(&mut section);
    let in_flight_max = section.number("in_flight_max", 1..=MANY, in_flight_max(target.as_ref()));
    let in_flight_mib = section.number("in_flight_mib", 1..=65_536, IN_FLIGHT_MIB);
    if let Some(Target::Deliveries(Deliveries { transaction: Transaction::Kafka, .. })) = target {
        if dead_letter_topic.is_none() {
            section.missing(
                "dead_letter_topic",
                "with `transaction = \"kafka\"` records that fail are dead-lettered there",
            );
        }
        refuse_idle_in_kafka_transactions(&section);
    }
    section.finish();
    Some(Source {
        topics: topics?,
        target: target?,
        from: from.unwrap_or_default(),
        is_from_written: from.is_some(),
        was,
        lost,
        recreated,
        membership,
        group,
        properties,
        dead_letter_topic,
        drop_headers: drop_headers?,
        in_flight_max,
        in_flight_mib,
    })
}

/// Refuses keys that have no effect for a source whose batches are Kafka transactions.
fn refuse_idle_in_kafka_transactions(section: &Section<'_>) {
    for (key, why) in [
        ("membership", "the source is a member of its `group` in any case; remove the key"),
        ("in_flight_max", "`batch_max` says how many records are handled at a time; remove the key"),
        ("in_flight_mib", "`batch_max` says how many records are handled at a time; remove the key"),
        (
            "was",
            "the progress of the source is that of its consumer group; write `group = \"wasmill-OLD\"` in its place",
        ),
    ] {
        if let Some(entry) = section.again(key) {
            entry.note(&format!("has no effect with `transaction = \"kafka\"`: {why}"));
        }
    }
}

fn drop_headers(section: &mut Section<'_>) -> Option<Vec<String>> {
    const NAMES: &str = "a list of names of headers, such as [\"authorization\", \"cookie\"]";
    let Some(entry) = section.get("drop_headers") else {
        return Some(DROP_HEADERS.iter().map(|name| (*name).to_owned()).collect());
    };
    let DeValue::Array(items) = entry.value.get_ref() else {
        entry.expected(NAMES);
        return None;
    };
    let name = |item| Entry { value: item, ..entry.clone() }.text(NAMES).map(str::to_owned);
    items.iter().map(name).collect()
}

/// Refuses sources whose dead letters come back to them, directly or through other sources. A record that can't be
/// handled would be copied forever.
pub(super) fn refuse_circles(entry: Option<Entry<'_>>, sources: &BTreeMap<String, Option<Source>>) {
    let Some(section) = entry.and_then(|entry| entry.section()) else { return };
    let next = |topic: &str| -> Vec<&str> {
        let readers = sources.values().flatten().filter(|source| source.topics.iter().any(|read| read == topic));
        readers.filter_map(|source| source.dead_letter_topic.as_deref()).collect()
    };
    for (name, entry) in section.entries() {
        let Some(source) = sources.get(name).and_then(Option::as_ref) else { continue };
        let Some(topic) = source.dead_letter_topic.as_deref() else { continue };
        let (mut reached, mut open) = (BTreeSet::new(), vec![topic]);
        while let Some(topic) = open.pop() {
            if reached.insert(topic) {
                open.extend(next(topic));
            }
        }
        if let Some(read) = source.topics.iter().find(|read| reached.contains(read.as_str())) {
            let path = &entry.path;
            let text = format!(
                "`{path}` reads topic {read}, to which its own dead letters go: a record that fails would be copied for \
                 ever; give `{path}.dead_letter_topic` a topic that nothing of this manifest reads"
            );
            entry.document.problem(entry.key_span.clone(), text);
        }
    }
}

/// Returns the default. It is larger for subscribers, whose calls take many records at once. More waiting commands
/// would only push others out of the processor's caches.
fn in_flight_max(target: Option<&Target>) -> usize {
    match target {
        Some(Target::Commands(_)) => 256,
        Some(Target::Deliveries(_)) | None => 1024,
    }
}

fn target(section: &mut Section<'_>) -> Option<Target> {
    match section.get("subscriber") {
        Some(subscriber) => deliveries(section, &subscriber).map(Target::Deliveries),
        None => commands(section).map(Target::Commands),
    }
}

fn deliveries(section: &mut Section<'_>, subscriber: &Entry<'_>) -> Option<Deliveries> {
    let of_commands = ["aggregate", "command", "key", "tombstone", "rejected"].map(|key| section.get(key));
    for entry in of_commands.into_iter().flatten() {
        entry.note("is for records that become commands, and stands beside `subscriber`: keep one of them");
    }
    let default = Deliveries::to("");
    let (backoff_ms, backoff_max_ms) = backoff(section, default.backoff_ms, default.backoff_max_ms);
    let transactions = [("store", Transaction::Store), ("kafka", Transaction::Kafka)];
    let transaction = section.choice("transaction", &transactions);
    if let Some(entry) = section.get("on_failure")
        && transaction == Transaction::Kafka
    {
        entry.note(
            "has no effect with `transaction = \"kafka\"`, where later records pass a dead letter: remove one of them",
        );
    }
    Some(Deliveries {
        subscriber: subscriber.text("the name of the plugin that gets the records")?.to_owned(),
        batch_max: section.number("batch_max", 1..=100_000, default.batch_max),
        attempts_max: section.number("attempts_max", 1..=1000, default.attempts_max),
        backoff_ms,
        backoff_max_ms,
        on_failure: section.choice("on_failure", ON_FAILURE),
        transaction,
    })
}

fn commands(section: &mut Section<'_>) -> Option<Commands> {
    let of_deliveries = ["batch_max", "attempts_max", "backoff_ms", "backoff_max_ms", "on_failure", "transaction"]
        .map(|key| section.get(key));
    for entry in of_deliveries.into_iter().flatten() {
        entry.note(
            "is for records that go to a subscriber, and there is no `subscriber` here: add one, or remove the key",
        );
    }
    let aggregate = section.need("aggregate", AGGREGATE).and_then(|entry| record_name(&entry, Rule::Part));
    let command = section.need("command", COMMAND).and_then(|entry| record_name(&entry, Rule::Message));
    let key = section.choice("key", &[("text", Key::Text), ("hex", Key::Hex), ("base64", Key::Base64)]);
    let tombstone = section.get("tombstone");
    let tombstone = tombstone.and_then(|entry| named_by(&entry, "the name of a command", Rule::Message));
    let rejected = section.choice("rejected", &[("count", Rejected::Count), ("dead_letter", Rejected::DeadLetter)]);
    let tombstone = tombstone.map(str::to_owned);
    Some(Commands { aggregate: aggregate?, command: command?, key, tombstone, rejected })
}

fn topics(section: &mut Section<'_>) -> Option<Vec<String>> {
    let (one, several) = (section.get("topic"), section.get("topics"));
    match (one, several) {
        (Some(_), Some(several)) => {
            several.note("stands beside `topic`: keep one of them");
            None
        }
        (Some(one), None) => {
            let topic = one.parse(TOPIC, |name| check_topic_name(name).map(|()| name.to_owned()))?;
            Some(vec![topic])
        }
        (None, Some(several)) => topic_list(&several),
        (None, None) => {
            section.missing("topic", TOPIC);
            None
        }
    }
}

fn topic_list(entry: &Entry<'_>) -> Option<Vec<String>> {
    let DeValue::Array(items) = entry.value.get_ref() else {
        entry.expected(TOPICS);
        return None;
    };
    let mut topics: Vec<String> = Vec::new();
    for item in items.iter() {
        let item = Entry { value: item, ..entry.clone() };
        let topic = item.parse(TOPICS, |name| check_topic_or_pattern(name).map(|()| name.to_owned()))?;
        if topics.contains(&topic) {
            item.note(&format!("lists {topic:?} twice: remove one of them"));
        } else {
            topics.push(topic);
        }
    }
    if topics.is_empty() {
        entry.note("is empty: name a topic, or a pattern that begins with `^`");
        return None;
    }
    Some(topics)
}

fn check_topic_or_pattern(name: &str) -> Result<(), String> {
    if !name.starts_with('^') {
        return check_topic_name(name);
    }
    Regex::new(name).map(drop).map_err(|error| {
        let cause = error.to_string();
        let cause = cause.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("has the pattern {name:?}, which is not a regular expression: {cause}")
    })
}

/// Reads a name that is in the manifest, or in each record.
fn record_name(entry: &Entry<'_>, rule: Rule) -> Option<Name> {
    const EXPECTED: &str = "a name, { header = \"NAME\" } or { field = \"NAME\" }";
    if !matches!(entry.value.get_ref(), DeValue::Table(_)) {
        return named_by(entry, EXPECTED, rule).map(|name| Name::Fixed(name.to_owned()));
    }
    let mut section = entry.section()?;
    let (header, field) = (section.get("header"), section.get("field"));
    section.finish();
    match (header, field) {
        (Some(header), None) => header.text("a header's name").map(|name| Name::Header(name.to_owned())),
        (None, Some(field)) => field.text("a field's name").map(|name| Name::Field(name.to_owned())),
        _ => {
            entry.expected(EXPECTED);
            None
        }
    }
}

fn from(entry: &Entry<'_>) -> Option<From> {
    const EXPECTED: &str = "\"beginning\", \"end\", { offset = N } or { time = \"2026-01-31T12:00:00Z\" }";
    match entry.value.get_ref() {
        DeValue::String(text) if text == "beginning" => Some(From::Beginning),
        DeValue::String(text) if text == "end" => Some(From::End),
        DeValue::Table(_) => {
            let mut section = entry.section()?;
            let (offset, time) = (section.get("offset"), section.get("time"));
            section.finish();
            match (offset, time) {
                (Some(offset), None) => offset.number(0..=i64::MAX as u64).map(From::Offset),
                (None, Some(time)) => time.parse("a time in UTC", time_ms).map(From::Time),
                _ => {
                    entry.expected(EXPECTED);
                    None
                }
            }
        }
        _ => {
            entry.expected(EXPECTED);
            None
        }
    }
}

fn time_ms(text: &str) -> Result<u64, String> {
    let time = humantime::parse_rfc3339(text)
        .map_err(|_| format!("must be a time in UTC such as \"2026-01-31T12:00:00Z\", found {text:?}"))?;
    Ok(time.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}
