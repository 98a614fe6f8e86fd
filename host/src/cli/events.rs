//! `wasmill events`: shows recorded events, one per line, and follows new ones. It also shows one stream, searches, and shows
//! the newest ones.

use super::client::{Client, Reply, Target, segment};
use super::clock::time_ms;
use super::failure::CommandFailure;
use super::{exports, output, table};
use crate::escape::escape;
use crate::filter::Filter;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<exports::Command>,
    /// The position to start from, or with --stream the version.
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Keep showing new events as they are recorded.
    #[arg(long, conflicts_with_all = ["stream", "correlation", "since", "until", "last"])]
    follow: bool,
    /// Only the events of this stream, such as `order/7`.
    #[arg(long, value_name = "TYPE/ID", value_parser = stream, conflicts_with_all = ["types", "correlation", "since", "until"])]
    stream: Option<(String, String)>,
    /// Only events with this correlation id. `wasmill trace` also shows what else followed.
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Only events that were recorded at this time or later, such as `2026-11-28T12:00:00Z`.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    since: Option<u64>,
    /// Only events that were recorded before this time.
    #[arg(long, value_name = "TIME", value_parser = time_ms)]
    until: Option<u64>,
    /// Only the newest N, the oldest of them first; at most 10,000.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "limit"], value_parser = clap::value_parser!(u64).range(1..=10_000))]
    last: Option<u64>,
    /// Only these events, such as `order.OrderCreated` or `order.*`; separate several with commas.
    #[arg(long = "type", value_name = "FILTER", value_parser = patterns)]
    types: Option<String>,
    /// At most this many.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show payloads as they were recorded, and not as the loaded code upcasts them.
    #[arg(long)]
    recorded: bool,
    #[command(flatten)]
    target: Target,
}

fn patterns(text: &str) -> Result<String, crate::filter::PatternError> {
    Filter::parse(text.split(',')).map(|_| text.to_owned())
}

fn stream(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((aggregate, id)) if !aggregate.is_empty() && !id.is_empty() => Ok((aggregate.to_owned(), id.to_owned())),
        _ => Err("expected the type and the id of an aggregate, such as order/7".to_owned()),
    }
}

/// The last line of a search that did not reach the end.
#[derive(Deserialize)]
struct Unsearched {
    searched_to: u64,
}

/// The fields of an event that a line for people shows.
#[derive(Deserialize)]
struct Event {
    position: u64,
    time_ms: u64,
    stream: String,
    version: u64,
    name: String,
    #[serde(default)]
    headers: Vec<Header>,
    payload: Box<RawValue>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: Option<Box<RawValue>>,
}

pub(super) fn events(mut args: Args, json: bool) -> Result<(), CommandFailure> {
    if let Some(command) = args.command.take() {
        return exports::exports(command, json);
    }
    let client = Client::new(&args.target)?;
    let (status, mut body) = client.open(&path(&args))?;
    if status != 200 {
        let mut text = Vec::new();
        body.read_to_end(&mut text).map_err(|cause| client.unreadable(cause))?;
        return Err(Reply { status, body: text }.refusal());
    }
    if args.last.is_some() {
        return newest(body, json, &client);
    }
    let (mut body, mut out) = (BufReader::with_capacity(1 << 16, body), BufWriter::new(io::stdout().lock()));
    let mut line = String::new();
    while body.read_line(&mut line).map_err(|cause| client.unreadable(cause))? > 0 {
        print(&line, json, &mut out)?;
        line.clear();
        // Show the events that have arrived before waiting for more.
        if body.buffer().is_empty() {
            out.flush().map_err(output::failure)?;
        }
    }
    out.flush().map_err(output::failure)
}

/// Shows events that arrive newest first in the order in which they were recorded.
fn newest(body: impl Read, json: bool, client: &Client) -> Result<(), CommandFailure> {
    let lines: Result<Vec<String>, _> = BufReader::new(body).lines().collect();
    let mut lines = lines.map_err(|cause| client.unreadable(cause))?;
    // The end of a search is said after its events.
    let end = lines.pop_if(|line| serde_json::from_str::<Unsearched>(line).is_ok());
    let mut out = BufWriter::new(io::stdout().lock());
    lines.iter().rev().chain(&end).try_for_each(|line| print(&format!("{line}\n"), json, &mut out))?;
    out.flush().map_err(output::failure)
}

fn path(args: &Args) -> String {
    let mut path = match &args.stream {
        Some((aggregate, id)) => format!("/v1/streams/{}/{}/events?", segment(aggregate), segment(id)),
        None => "/v1/events?".to_owned(),
    };
    let mut add = |name: &str, value: String| path += &format!("{name}={value}&");
    let numbers =
        [("from", args.from), ("since_ms", args.since), ("until_ms", args.until), ("limit", args.limit.or(args.last))];
    numbers.into_iter().for_each(|(name, number)| number.iter().for_each(|number| add(name, number.to_string())));
    for (name, text) in [("type", &args.types), ("correlation_id", &args.correlation)] {
        text.iter().for_each(|text| add(name, segment(text)));
    }
    if args.last.is_some() {
        add("backwards", "true".to_owned());
    }
    if !args.recorded {
        add("shape", "newest".to_owned());
    }
    if args.follow {
        add("follow", "true".to_owned());
    }
    path
}

fn print(line: &str, json: bool, out: &mut impl Write) -> Result<(), CommandFailure> {
    let shown = match serde_json::from_str::<Event>(line) {
        Ok(_) if json => line.to_owned(),
        Ok(event) => human(&event),
        Err(_) if let Ok(Unsearched { searched_to }) = serde_json::from_str(line) => match json {
            true => line.to_owned(),
            false => format!("the search ended at position {searched_to}; search on with --from\n"),
        },
        Err(_) => return Err(Reply { status: 200, body: line.into() }.refusal()),
    };
    out.write_all(shown.as_bytes()).map_err(output::failure)
}

fn human(event: &Event) -> String {
    let Event { position, time_ms, stream, version, name, headers, payload } = event;
    // A value is JSON text, or an object with its base64.
    let header = |header: &Header| format!("  {}={}", header.name, header.value.as_deref().map_or("-", RawValue::get));
    let headers: String = headers.iter().map(header).collect();
    let what = format!("{stream} v{version}  {name}  {}{headers}", payload.get());
    format!("{position:>9}  {}  {}\n", table::time(*time_ms), escape(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"position\":12,\"id\":\"x\",\"stream\":\"order/7\",\"type\":\"order\",\"aggregate_id\":\"7\",\
        \"version\":1,\"name\":\"OrderCreated\",\"time_ms\":1000,\"correlation_id\":\"c\",\"causation_id\":\"d\",\
        \"payload\":{\"store\":\"3\"}}\n";

    #[test]
    fn an_event_is_shown_on_a_line() {
        let shown = |json| {
            let mut out = Vec::new();
            print(LINE, json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(true), LINE);
        assert_eq!(shown(false), "       12  1970-01-01T00:00:01Z  order/7 v1  OrderCreated  {\"store\":\"3\"}\n");
    }

    #[test]
    fn an_event_stays_on_its_line_for_people_and_is_unchanged_for_programs() {
        let hostile = LINE.replace("order/7", "order/\\u001b[2J\\nx\\u202e");
        let shown = |json| {
            let mut out = Vec::new();
            print(&hostile, json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(true), hostile);
        assert!(shown(false).contains("order/\\u{1b}[2J\\nx\\u{202e} v1"), "{}", shown(false));
    }

    #[test]
    fn headers_stand_at_the_end_escaped() {
        let line = LINE.replace(
            "\"payload\"",
            r#""headers":[{"name":"a\u001b","value":"b\n"},{"name":"c","value":null}],"payload""#,
        );
        let mut out = Vec::new();
        print(&line, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.ends_with("{\"store\":\"3\"}  a\\u{1b}=\"b\\n\"  c=-\n"), "{text}");
    }

    #[test]
    fn a_stream_that_breaks_off_ends_with_the_reason() {
        let failure = print("{\"error\":\"the disk is gone\"}\n", true, &mut Vec::new()).unwrap_err();
        assert!(format!("{failure:?}").contains("the disk is gone"), "{failure:?}");
    }
}
