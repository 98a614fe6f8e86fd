//! `wasmill kafka produce`: writes the lines of a file or of standard input as records.

use super::{Cluster, CommandFailure, json_line, line, output};
use crate::cli::table::number;
use crate::framing;
use crate::kafka::admin::produce::{NewRecord, NotTaken, Producer};
use crate::model::Header;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;

/// The most bytes of a line. No cluster accepts larger records.
const LINE_BYTES_MAX: u64 = 1 << 30;

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The topic.
    topic: String,
    /// The file, with one record per line; standard input by default.
    file: Option<PathBuf>,
    /// The content of a line: a value, or a JSON object with key, headers, value, partition and time_ms, as `consume
    /// --json` prints it.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// The separator of key and value in a line of text; without it the record has no key.
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    /// The partition of records that name none; by default the key decides.
    #[arg(long, value_name = "N")]
    partition: Option<i32>,
    /// A header of every record; may be given several times.
    #[arg(long, value_name = "NAME=VALUE", value_parser = header)]
    header: Vec<Header>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

fn header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once('=').ok_or("not NAME=VALUE")?;
    Ok(Header { name: name.to_owned(), value: Some(value.into()) })
}

pub(super) fn produce(cluster: &Cluster, args: Args, json: bool) -> Result<(), CommandFailure> {
    let input: Box<dyn BufRead> = match &args.file {
        Some(path) => {
            let file =
                File::open(path).map_err(|cause| CommandFailure::usage(format!("{}: {cause}", path.display())))?;
            Box::new(BufReader::with_capacity(1 << 16, file))
        }
        None => Box::new(io::stdin().lock()),
    };
    let producer = Producer::new(&cluster.admin()?, &args.topic)?;
    let sent = send(&producer, &args, input);
    let (acknowledged, not_taken) = producer.finish();
    let place = args.file.as_ref().map_or("line".to_owned(), |path| format!("{}: line", path.display()));
    // A record that Kafka refused comes before the line that could not be read.
    let error = match (not_taken, sent) {
        (Some(NotTaken { number, error }), _) | (None, Err((number, error))) => {
            Some(format!("{place} {number}: {error}"))
        }
        (None, Ok(())) => None,
    };
    report(&args.topic, acknowledged, error, json)
}

/// Sends the lines up to the first one that can't be sent. The error has the number of that line.
fn send(producer: &Producer, args: &Args, mut input: Box<dyn BufRead>) -> Result<(), (u64, String)> {
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let failed = |error: io::Error| (number, error.to_string());
        if io::Read::take(&mut input, LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            return Ok(());
        }
        let line = content(&bytes, number, args.format);
        if line.is_empty() && matches!(args.format, Format::Json) {
            continue;
        }
        let record = record(args, line).map_err(|error| (number, error))?;
        if !producer.send(number, &record) {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the content of a line without the line end of Unix or Windows, and without the byte order mark of the first
/// line. White space around JSON is removed.
fn content(line: &[u8], number: u64, format: Format) -> &[u8] {
    let line = if number == 1 { line.strip_prefix(framing::BOM).unwrap_or(line) } else { line };
    let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    match format {
        Format::Json => line.trim_ascii(),
        Format::Text => line,
    }
}

fn record(args: &Args, line: &[u8]) -> Result<NewRecord, String> {
    let mut record = match args.format {
        Format::Json => line::parse(std::str::from_utf8(line).map_err(|error| error.to_string())?)?,
        Format::Text => {
            let (key, value) = match &args.separator {
                Some(separator) => split(line, separator.as_bytes())
                    .map(|(key, value)| (Some(key.to_vec()), value))
                    .ok_or_else(|| format!("there is no {separator:?} between key and value"))?,
                None => (None, line),
            };
            NewRecord { key, value: Some(value.to_vec()), ..NewRecord::default() }
        }
    };
    record.partition = record.partition.or(args.partition);
    record.headers.extend(args.header.iter().cloned());
    Ok(record)
}

fn split<'a>(line: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((&line[..at], &line[at + separator.len()..]))
}

fn report(topic: &str, acknowledged: u64, error: Option<String>, json: bool) -> Result<(), CommandFailure> {
    let records = if acknowledged == 1 { "record" } else { "records" };
    let count = format!("{} {records} produced to {topic}", number(acknowledged));
    match (error, json) {
        (None, true) => json_line(&serde_json::json!({ "ok": true, "topic": topic, "produced": acknowledged })),
        (None, false) => output::line(&count),
        (Some(error), true) => {
            json_line(&serde_json::json!({ "error": error, "topic": topic, "produced": acknowledged }))?;
            Err(CommandFailure::told())
        }
        (Some(error), false) => Err(CommandFailure::failed(format!("{error}\nstopped at this line; {count}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_as_on_any_system_and_a_byte_order_mark_is_no_content() {
        for (line, number, text, json) in [
            (&b"\xef\xbb\xbfa\r\n"[..], 1, &b"a"[..], &b"a"[..]),
            (b"\xef\xbb\xbfa\n", 2, b"\xef\xbb\xbfa", b"\xef\xbb\xbfa"),
            (b" {}\t\r\n", 1, b" {}\t", b"{}"),
            (b"a\r", 1, b"a\r", b"a"),
            (b"\r\n", 3, b"", b""),
            (b"\xef\xbb\xbf", 1, b"", b""),
        ] {
            assert_eq!((content(line, number, Format::Text), content(line, number, Format::Json)), (text, json));
        }
    }

    #[test]
    fn the_first_separator_ends_the_key() {
        assert_eq!(split(b"a::b::c", b"::"), Some((&b"a"[..], &b"b::c"[..])));
        assert_eq!(split(b"::b", b"::"), Some((&b""[..], &b"b"[..])));
        assert_eq!(split(b"ab", b"::"), None);
    }
}
