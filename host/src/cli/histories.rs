//! `wasmill trace`: shows what followed from one first cause. `wasmill state`: shows the state of an aggregate.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::table::{Align, Table, number, time};
use super::{output, render};
use crate::status::{DeadLetterItem, Flow, FlowCommand, RequestItem, TimerItem, Trace};
use serde_json::Value;

#[derive(clap::Args)]
pub(super) struct TraceArgs {
    /// The id of a command or an event, or a correlation id.
    id: String,
    /// How many events to search, back from the newest one.
    #[arg(long, value_name = "N")]
    search: Option<u64>,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
pub(super) struct StateArgs {
    /// The type of the aggregate.
    aggregate: String,
    /// The aggregate's id.
    id: String,
    /// The state after this version, instead of the newest one.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    #[command(flatten)]
    target: Target,
}

pub(super) fn trace(TraceArgs { id, search, target }: &TraceArgs, json: bool) -> Result<(), CommandFailure> {
    let search = search.map_or(String::new(), |search| format!("?search_max={search}"));
    let reply = Client::new(target)?.get(&format!("/v1/trace/{}{search}", segment(id)))?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&text(&reply.decoded()?)) }
}

fn text(trace: &Trace) -> String {
    let Trace { correlation_id, events, timers, requests, dead_letters, searched_to, more } = trace;
    let field = |event: &Value, name: &str| match &event[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let recorded = |event: &Value| event["recorded_ms"].as_u64().unwrap_or_default();
    let first = events.first().map_or(0, recorded);
    let columns = [
        ("POSITION", Align::Right),
        ("AFTER", Align::Right),
        ("STREAM", Align::Left),
        ("VERSION", Align::Right),
        ("EVENT", Align::Left),
    ];
    let mut table = Table::new(columns);
    for event in events {
        let after = format!("{} ms", number(recorded(event).saturating_sub(first)));
        let [position, stream, version, name] =
            ["position", "stream", "version", "name"].map(|name| field(event, name));
        table.row([position, after, stream, version, name]);
        if !event["payload"].is_null() {
            table.note(&event["payload"].to_string());
        }
    }
    let began = if events.is_empty() { String::new() } else { format!(", from {}", time(first)) };
    let mut text = format!("correlation id {}{began}\n{table}", crate::escape::escape(correlation_id));
    if !timers.is_empty() {
        text += "timers that wait:\n";
    }
    for TimerItem { number, subscription, name, due_ms, does, .. } in timers {
        let name = name.as_deref().unwrap_or_default();
        let line = format!("timer {number} of {subscription} {name}: {does}");
        text += &format!("  {}  {}\n", time(*due_ms), crate::escape::escape(&line));
    }
    if !requests.is_empty() {
        text += "HTTP requests that have not ended:\n";
    }
    for RequestItem { number, subscription, endpoint, method, path, attempts, error, .. } in requests {
        let error = error.as_ref().map_or(String::new(), |error| format!(": {error}"));
        let line = format!("{number}  {subscription}: {method} {endpoint}/{path}, attempts: {attempts}{error}");
        text += &format!("  {}\n", crate::escape::escape(&line));
    }
    if !dead_letters.is_empty() {
        text += "dead letters:\n";
    }
    for DeadLetterItem { number, consumer, place, reason, waiting, .. } in dead_letters {
        let line = format!("{number}  {consumer}: {place}: {reason}");
        text += &format!("  {}\n", crate::escape::escape(&line));
        if *waiting > 0 {
            text += &format!("    {}\n", render::waiting(*waiting));
        }
    }
    if *more {
        text += &format!("events before position {searched_to} were not searched; search more of them with --search\n");
    }
    text
}

/// Shows what followed from a command.
pub(super) fn flow_text(flow: Flow) -> String {
    let Flow { correlation_id, at_rest, waiting_for, position, events, commands, more, .. } = flow;
    let Flow { timers, requests, held_keys, dead_letters, paused, .. } = flow;
    let trace = Trace { correlation_id, events, timers, requests, dead_letters, searched_to: 0, more: false };
    let mut text = text(&trace);
    let refused = commands.iter().filter(|command| command.outcome != "accepted");
    let refused: Vec<String> = refused
        .map(|FlowCommand { to, name, outcome, reason, .. }| {
            let reason = reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            format!("{name} to {to}: {outcome}{reason}")
        })
        .collect();
    for (title, lines) in [("refused commands", refused), ("keys behind a dead letter", held_keys), ("paused", paused)]
    {
        if !lines.is_empty() {
            text += &format!("{title}:\n");
        }
        lines.iter().for_each(|line| text += &format!("  {}\n", crate::escape::escape(line)));
    }
    if more {
        text += "there is more: `wasmill trace` shows its newest events\n";
    }
    let waiting_for = waiting_for.unwrap_or_default();
    text + &match at_rest {
        true => format!("all is at rest at position {position}\n"),
        false => format!("not all is at rest: it waits for {}\n", crate::escape::escape(&waiting_for)),
    }
}

pub(super) fn state(args: &StateArgs, json: bool) -> Result<(), CommandFailure> {
    let version = args.version.map_or(String::new(), |version| format!("?version={version}"));
    let path = format!("/v1/streams/{}/{}/state{version}", segment(&args.aggregate), segment(&args.id));
    let reply = Client::new(&args.target)?.get(&path)?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let answer: Value = reply.decoded()?;
    let state = serde_json::to_string_pretty(&answer["state"]).expect("it was JSON");
    let stream = answer["stream"].as_str().unwrap_or_default();
    output::text(&format!("{} at version {}\n{state}\n", crate::escape::escape(stream), answer["version"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_trace_shows_events_timers_and_dead_letters_escaped() {
        let event = |position: u64, recorded_ms: u64, stream: &str, name: &str| {
            json!({
                "position": position, "recorded_ms": recorded_ms, "stream": stream, "version": 1, "name": name,
                "payload": { "a": 1 },
            })
        };
        let trace = Trace {
            correlation_id: "c\u{1b}".into(),
            events: vec![event(7, 1_000, "order/1", "Created"), event(9, 1_250, "stock/\u{1b}", "Reserved")],
            timers: vec![TimerItem {
                number: 3,
                subscription: "checkout".into(),
                name: Some("1/unpaid".into()),
                key: None,
                due_ms: 60_000,
                does: "wakes the subscriber".into(),
            }],
            requests: Vec::new(),
            dead_letters: vec![DeadLetterItem {
                number: 5,
                consumer: "mail".into(),
                place: "event 9".into(),
                reason: "no\nanswer".into(),
                waiting: 2,
                ..DeadLetterItem::default()
            }],
            searched_to: 4,
            more: true,
        };
        assert_eq!(
            text(&trace),
            "correlation id c\\u{1b}, from 1970-01-01T00:00:01Z\n\
             POSITION   AFTER  STREAM        VERSION  EVENT\n\
             \x20      7    0 ms  order/1             1  Created\n  {\"a\":1}\n\
             \x20      9  250 ms  stock/\\u{1b}        1  Reserved\n  {\"a\":1}\n\
             timers that wait:\n  1970-01-01T00:01:00Z  timer 3 of checkout 1/unpaid: wakes the subscriber\n\
             dead letters:\n  5  mail: event 9: no\\nanswer\n    2 later events of its aggregate wait behind it\n\
             events before position 4 were not searched; search more of them with --search\n"
        );
    }
}
