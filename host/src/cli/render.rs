//! The state of a host, formatted for people.

mod description;

pub(super) use description::description;

use super::table::Align::{Left, Right};
use super::table::{Table, duration, number, time, time_if_known};
use crate::escape::{escape, escape_lines};
use crate::status::*;

/// Formats everything in a [`Status`], with a table for each kind of part that the host has.
pub(super) fn status(status: &Status) -> String {
    let mut parts = vec![host(status)];
    let mut part = |there: bool, table: Table| parts.extend(there.then(|| table.to_string()));
    part(status.hosts.len() > 1, hosts(&status.hosts));
    part(!status.plugins.is_empty(), plugins(&status.plugins));
    part(!status.aggregates.is_empty(), aggregates(&status.aggregates));
    part(!status.commands.is_empty(), commands(&status.commands));
    part(status.api != ApiStatus::default(), api(&status.api));
    parts.extend(status.kafka.as_ref().filter(|kafka| !kafka.topics.is_empty()).map(kafka));
    let mut part = |there: bool, table: Table| parts.extend(there.then(|| table.to_string()));
    part(!status.sources.is_empty(), sources(&status.sources));
    part(!status.schedules.is_empty(), schedules(&status.schedules));
    part(!status.subscriptions.is_empty(), subscriptions(&status.subscriptions));
    part(!status.projections.is_empty(), projections(&status.projections));
    part(!status.endpoints.is_empty(), endpoints(&status.endpoints));
    part(!status.sinks.is_empty(), sinks(&status.sinks));
    parts.push(dead_letters(&status.dead_letters));
    parts.join("\n")
}

fn host(status: &Status) -> String {
    let HostStatus { version, pid, uptime_ms, data, url, file_watch } = &status.host;
    let (up, position) = (duration(*uptime_ms), number(status.store.position));
    let error = status.store.error.as_ref();
    let error = error.map_or(String::new(), |error| format!("error: the store can't be written: {}\n", escape(error)));
    let watch = file_watch.as_ref().map_or(String::new(), |trouble| format!("{}\n", escape(trouble)));
    format!(
        "wasmill {version} at {url}, process {pid}, up {up}\ndata in {}, newest position {position}\n{error}{watch}{}",
        escape(data),
        manifest(&status.manifest)
    )
}

fn manifest(manifest: &ManifestStatus) -> String {
    let ManifestStatus { path, differs, keys, error } = manifest;
    let path = escape(path);
    let keys: String = keys.iter().map(key_line).collect();
    let error = error.as_ref().map_or(String::new(), |error| format!("error: {}\n", escape_lines(error)));
    match differs {
        true if keys.is_empty() => {
            format!("{path} on disk can't be applied, and the host keeps the one before\n{error}")
        }
        true => format!("{path} on disk differs (`wasmill reload` applies it):\n{keys}{error}"),
        false => String::new(),
    }
}

fn key_line(KeyStatus { key, change }: &KeyStatus) -> String {
    format!("  {} {change}\n", escape(key))
}

/// Formats what applying a manifest changes.
pub(super) fn manifest_change(change: &ManifestChange) -> String {
    let ManifestChange { applied, keys, parts, notes } = change;
    let keys: String = keys.iter().map(key_line).collect();
    let mut table = Table::new([("PART", Left), ("CHANGE", Left)]);
    parts.iter().for_each(|PartChange { part, change }| table.row([part.clone(), change.clone()]));
    let notes: String = notes.iter().map(|note| format!("{}\n", escape(note))).collect();
    let (begin, verb) = if *applied { ("applied", "changed") } else { ("not applied", "would change") };
    match (keys.is_empty(), parts.is_empty()) {
        (true, true) => "nothing differs\n".to_owned(),
        (false, true) => format!("{begin}:\n{keys}no part {verb}\n{notes}"),
        (true, false) => format!("{begin}:\n{table}{notes}"),
        (false, false) => format!("{begin}:\n{keys}{table}{notes}"),
    }
}

fn kafka(kafka: &KafkaStatus) -> String {
    let notes: String = kafka.topics.iter().map(|note| format!("  {}\n", escape(note))).collect();
    format!("Kafka at {}\n{notes}", kafka.brokers)
}

pub(super) fn plugins(plugins: &[PluginStatus]) -> Table {
    let mut table =
        Table::new([("PLUGIN", Left), ("VERSION", Left), ("LOADS", Right), ("DIGEST", Left), ("ROLES", Left)]);
    for plugin in plugins {
        let PluginStatus {
            name,
            file,
            version,
            contract: _,
            digest,
            roles,
            loads,
            error,
            held_back,
            unwatched,
            unknown_events,
            settings,
            secrets,
        } = plugin;
        table.row([name.clone(), version.clone(), number(*loads), short_digest(digest), roles.join(", ")]);
        if let Some(error) = error {
            table.note(&format!("error: {error}"));
            table.note(&format!("file: {file}; version {version} keeps running"));
        }
        if let Some(reason) = held_back {
            table.note(&format!("held back: {reason}"));
        }
        if let Some(reason) = unwatched {
            table.note(&format!("file: {file} can't be watched, and version {version} keeps running: {reason}"));
        }
        if !settings.is_empty() {
            table.note(&format!("settings: {}", serde_json::Value::from(settings.clone())));
        }
        if !secrets.is_empty() {
            table.note(&format!("secrets: {}", secrets.join(", ")));
        }
        if *unknown_events > 0 {
            let events = number(*unknown_events);
            table.note(&format!("events that its code does not know and has skipped since it was loaded: {events}"));
        }
    }
    table
}

/// Formats which code of a plugin served.
pub(super) fn history(history: &PluginHistory) -> String {
    let mut table = Table::new([
        ("DIGEST", Left),
        ("VERSION", Left),
        ("SINCE", Left),
        ("UNTIL", Left),
        ("KEPT", Left),
        ("ENDED BECAUSE", Left),
    ]);
    for CodeStatus { digest, version, since_ms, until_ms, ended, kept } in &history.codes {
        table.row([
            short_digest(digest),
            version.clone(),
            time(*since_ms),
            until_ms.map_or("serves".to_owned(), time),
            if *kept { "yes" } else { "no" }.to_owned(),
            ended.clone().unwrap_or_default(),
        ]);
    }
    if let Some(reason) = &history.held_back {
        table.note(&format!("held back: {reason}"));
    }
    table.to_string()
}

/// Shortens a digest to what is enough to tell two files apart.
pub(super) fn short_digest(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

fn aggregates(aggregates: &[AggregateStatus]) -> Table {
    let kinds = [("AGGREGATE", Left), ("PLUGIN", Left), ("STATE", Left)];
    let counts = [("SHARDS", Right), ("LIVE", Right), ("QUEUED", Right)];
    let mut table = Table::new(kinds.into_iter().chain(counts));
    for AggregateStatus { aggregate_type, plugin, shards, live, queued, state, error } in aggregates {
        let counts = [number(*shards as u64), number(*live), number(*queued)];
        table.row([aggregate_type.clone(), plugin.clone(), state.to_string()].into_iter().chain(counts));
        note_error(&mut table, error);
    }
    table
}

fn commands(commands: &[CommandStatus]) -> Table {
    let mut table = Table::new([("COMMAND", Left), ("ACCEPTED", Right), ("REJECTED", Right), ("MALFORMED", Right)]);
    for CommandStatus { aggregate_type, command, accepted, rejected, malformed } in commands {
        table.row([format!("{aggregate_type}.{command}"), number(*accepted), number(*rejected), number(*malformed)]);
    }
    table
}

fn api(api: &ApiStatus) -> Table {
    let mut table = Table::new([("API", Left), ("COUNT", Right)]);
    for (outcome, count) in api.commands.iter().filter(|(_, count)| **count > 0) {
        table.row([format!("commands {}", outcome.replace('_', " ")), number(*count)]);
    }
    table.row(["connections now".into(), number(api.connections)]);
    for (what, count) in [
        ("event streams now", api.streams),
        ("turned away", api.turned_away),
        ("stalled and closed", api.stalled),
        ("idle and closed", api.idle),
    ] {
        if count > 0 {
            table.row([what.to_owned(), number(count)]);
        }
    }
    table
}

fn sources(sources: &[SourceStatus]) -> Table {
    let mut table = Table::new([
        ("SOURCE", Left),
        ("TOPIC", Left),
        ("STATE", Left),
        ("HANDLED", Right),
        ("IN FLIGHT", Right),
        ("BEHIND", Right),
        ("NEXT OFFSETS", Left),
    ]);
    for source in sources {
        let SourceStatus {
            name,
            topics,
            group,
            subscriber: _,
            state,
            error,
            handled,
            in_flight,
            rebalances: _,
            partitions,
        } = source;
        // Only own partitions count: another member of the group reads the others.
        let own = || partitions.iter().filter(|partition| partition.assigned);
        let behind: u64 = own().map(|partition| partition.end.saturating_sub(partition.next)).sum();
        let several = own().any(|partition| partition.topic != partitions[0].topic);
        let offset = |PartitionStatus { topic, partition, next, .. }: &PartitionStatus| match several {
            true => format!("{topic}/{partition}:{next}"),
            false => format!("{partition}:{next}"),
        };
        let offsets: Vec<String> = own().map(offset).collect();
        let group = group.as_ref().map_or(String::new(), |group| format!(" (group {group})"));
        let topics = format!("{}{group}", topics.join(", "));
        let counts = [number(*handled), number(*in_flight), number(behind), offsets.join(" ")];
        table.row([name.clone(), topics, state.to_string()].into_iter().chain(counts));
        note_error(&mut table, error);
    }
    table
}

fn schedules(schedules: &[ScheduleStatus]) -> Table {
    let times = [("LAST", Left), ("NEXT", Left)];
    let counts = [("RUNS", Right), ("FAILURES", Right)];
    let kinds = [("SCHEDULE", Left), ("COMMAND", Left), ("STATE", Left)];
    let mut table = Table::new(kinds.into_iter().chain(times).chain(counts));
    for ScheduleStatus { name, command, state, error, due_ms, next_ms, last_ms, runs, failures } in schedules {
        let times = [last_ms, next_ms].map(|ms| ms.map_or_else(|| "none".to_owned(), time));
        let kinds = [name.clone(), command.clone(), state.to_string()];
        table.row(kinds.into_iter().chain(times).chain([number(*runs), number(*failures)]));
        if let Some(due_ms) = due_ms {
            table.note(&format!("its command of {} has no outcome yet", time(*due_ms)));
        }
        note_error(&mut table, error);
    }
    table
}

pub(super) fn subscriptions(subscriptions: &[SubscriptionStatus]) -> Table {
    let mut table = consumers("SUBSCRIPTION");
    for subscription in subscriptions {
        let SubscriptionStatus { name, plugin, state, error, checkpoint, behind, .. } = subscription;
        let SubscriptionStatus { retried_keys, waiting_keys, next_timer_ms, .. } = subscription;
        table.row([name.clone(), plugin.clone(), state.to_string(), number(*checkpoint), number(*behind)]);
        note_error(&mut table, error);
        if *retried_keys > 0 {
            table.note(&format!("keys that are retried: {}; all others go on", number(*retried_keys)));
        }
        if *waiting_keys > 0 {
            let remedy = "replay or discard these with `wasmill dead-letters`";
            table.note(&format!("keys that wait behind dead letters: {}; {remedy}", number(*waiting_keys)));
        }
        if let Some(ms) = next_timer_ms {
            table.note(&format!("its next timer is due at {}", time(*ms)));
        }
    }
    table
}

pub(super) fn projections(projections: &[ProjectionStatus]) -> Table {
    let mut table = Table::new([
        ("PROJECTION", Left),
        ("PLUGIN", Left),
        ("STATE", Left),
        ("CHECKPOINT", Right),
        ("BEHIND", Right),
        ("ANSWERS", Left),
    ]);
    for projection in projections {
        let ProjectionStatus { name, plugin, state, error, checkpoint, behind, answers, .. } = projection;
        let counts = [number(*checkpoint), number(*behind)];
        let answers = match (answers, &projection.answers_plugin) {
            (Some(digest), Some(plugin)) => format!("{plugin} ({})", short_digest(digest)),
            _ => "nothing yet".to_owned(),
        };
        table.row([name.clone(), plugin.clone(), state.to_string()].into_iter().chain(counts).chain([answers]));
        note_error(&mut table, error);
        if let Some(BuildingStatus { plugin, digest, position }) = &projection.building {
            let digest = short_digest(digest);
            table.note(&format!("building: {plugin} ({digest}), at position {}", number(*position)));
        }
        if let Some(reason) = &projection.set_aside {
            table.note(&format!("rebuilt: {reason}"));
        }
        for SkippedEvent { position, event, reason, time_ms } in &projection.skipped {
            table.note(&format!("skips {event} ({position}) since {}: {reason}", time(*time_ms)));
        }
    }
    table
}

fn consumers(kind: &'static str) -> Table {
    Table::new([(kind, Left), ("PLUGIN", Left), ("STATE", Left), ("CHECKPOINT", Right), ("BEHIND", Right)])
}

fn endpoints(endpoints: &[EndpointStatus]) -> Table {
    let mut table = Table::new([
        ("ENDPOINT", Left),
        ("URL", Left),
        ("STATE", Left),
        ("PENDING", Right),
        ("ATTEMPTS", Right),
        ("RESPONSES", Right),
        ("FAILED", Right),
        ("REFUSED", Right),
    ]);
    for endpoint in endpoints {
        let EndpointStatus { name, url, state, error, pending, in_flight: _, attempts, .. } = endpoint;
        let EndpointStatus { responses, failed, refused, interrupted, .. } = endpoint;
        let url = url.clone().unwrap_or_else(|| "not granted".to_owned());
        let [pending, attempts, responses, failed, refused] =
            [pending, attempts, responses, failed, refused].map(|count| number(*count));
        table.row([name.clone(), url, state.to_string(), pending, attempts, responses, failed, refused]);
        note_error(&mut table, error);
        if *interrupted > 0 {
            table.note(&format!("attempts that the end of a host interrupted: {}", number(*interrupted)));
        }
    }
    table
}

/// Shows the hosts of the store. One of them answers.
fn hosts(hosts: &[SharedHostStatus]) -> Table {
    let mut table = Table::new([("HOST", Left), ("PROCESS", Left), ("API", Left), ("RUNS ALONE", Left)]);
    for SharedHostStatus { id, name, url, this, differs, parts } in hosts {
        let id = if *this { format!("{id} (this one)") } else { id.to_string() };
        let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
        table.row([id, name.clone(), url.clone().unwrap_or_default(), parts]);
        if !differs.is_empty() {
            table.note(&format!("differs from the first host, so it runs nothing alone: {}", differs.join(", ")));
        }
    }
    table
}

fn sinks(sinks: &[SinkStatus]) -> Table {
    let columns = [("SINK", Left), ("TOPIC", Left), ("STATE", Left), ("PUBLISHED", Right), ("PENDING", Right)];
    let mut table = Table::new(columns);
    for SinkStatus { name, topic, state, error, published, reached: _, pending } in sinks {
        let topic = topic.clone().unwrap_or_else(|| "by message".to_owned());
        table.row([name.clone(), topic, state.to_string(), number(*published), number(*pending)]);
        note_error(&mut table, error);
    }
    table
}

fn note_error(table: &mut Table, error: &Option<String>) {
    if let Some(error) = error {
        table.note(&format!("error: {error}"));
    }
}

/// Says how many events wait behind a dead letter.
pub(super) fn waiting(count: u64) -> String {
    match count {
        1 => "1 later event of its aggregate waits behind it".to_owned(),
        count => format!("{} later events of its aggregate wait behind it", number(count)),
    }
}

/// Formats one dead letter with its content, from the answer to `GET /v1/dead-letters/NUMBER`.
pub(super) fn dead_letter(letter: &serde_json::Value) -> String {
    let shown = |value: &serde_json::Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        escape(&text).into_owned()
    };
    let mut text = String::new();
    for name in ["number", "consumer", "place", "reason"] {
        text += &format!("{name:<15}{}\n", shown(&letter[name]));
    }
    let of = time_if_known(letter["time_ms"].as_u64());
    text += &format!("{:<15}{of}\n", "time");
    text += &format!("{:<15}{}\n", "dead-lettered", time(letter["dead_lettered_ms"].as_u64().unwrap_or_default()));
    text += &match letter["waiting"].as_u64() {
        Some(count) if count > 0 => format!("{:<15}{}\n", "waiting", waiting(count)),
        _ => String::new(),
    };
    text += &format!("{:<15}{}\n", "holds", shown(&letter["kind"]));
    for (name, value) in letter["content"].as_object().into_iter().flatten() {
        text += &format!("  {name:<16}{}\n", shown(value));
    }
    text
}

fn dead_letters(dead_letters: &DeadLetterStatus) -> String {
    let mut text = match (dead_letters.total, dead_letters.newest.len()) {
        (0, _) => "no dead letters\n".to_owned(),
        (total, shown) if shown as u64 == total => format!("dead letters: {}, newest first\n", number(total)),
        (total, shown) => format!("dead letters: {}, the newest {shown} first\n", number(total)),
    };
    let DeadLetterStatus { total, total_max, bytes, bytes_max, dropped, newest: _ } = dead_letters;
    // A host of an older version does not report its limits.
    if *total > 0 && *total_max > 0 {
        let [bytes, total_max, mib_max] = [*bytes, *total_max, bytes_max >> 20].map(number);
        text += &format!("  they have {bytes} bytes; at most {total_max} dead letters of {mib_max} MiB are kept\n");
    }
    if *dropped > 0 {
        text += &format!("  {} older ones were dropped because of `store.dead_letters_…`\n", number(*dropped));
    }
    for DeadLetterItem { number, consumer, place, key, reason, dead_lettered_ms, waiting: behind, .. } in
        &dead_letters.newest
    {
        let key = key.as_ref().map_or(String::new(), |key| format!(", key {key:?}"));
        let place = escape_lines(&format!("{consumer}: {place}{key}"));
        text += &format!("  {}  {number}  {place}\n", time(*dead_lettered_ms));
        reason.lines().for_each(|line| text += &format!("    {}\n", escape(line)));
        if *behind > 0 {
            text += &format!("    {}\n", waiting(*behind));
        }
    }
    text
}

#[cfg(test)]
mod tests;
