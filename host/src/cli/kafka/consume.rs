//! `wasmill kafka consume`: shows records, one per line, and follows new ones.

use super::matching::Matching;
use super::{At, Cluster, CommandFailure, line, output, place};
use crate::cli::table;
use crate::kafka::admin::consume::{TopicReader, Wanted};
use crate::model::Record;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

/// The longest wait for a record before the records that were found are shown.
const WAIT: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub(in crate::cli) struct Args {
    /// The topic.
    topic: String,
    /// Only this partition; may be given several times.
    #[arg(long, value_name = "N")]
    partition: Vec<i32>,
    /// Where to begin: beginning, end, an offset, or a time in UTC such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "PLACE", default_value = "beginning", value_parser = place)]
    from: At,
    /// Where to end, before this offset or time; `end` is the current end. By default it keeps reading.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: Option<At>,
    /// At most this many.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Which records to read: only those of committed transactions, or also those of open and aborted ones.
    #[arg(long, value_enum, default_value = "committed")]
    isolation: Isolation,
    #[command(flatten)]
    matching: Matching,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Isolation {
    Committed,
    Uncommitted,
}

pub(super) fn consume(cluster: &Cluster, args: Args, json: bool) -> Result<(), CommandFailure> {
    let Args { topic, partition, from, to, limit, isolation, matching } = args;
    let wanted = Wanted { topic, partitions: partition, from, to, committed: isolation == Isolation::Committed };
    let mut reading = TopicReader::new(&cluster.admin()?, &wanted)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 && !reading.is_done() {
        // Show the records that have arrived before waiting for more.
        let mut next = reading.next(Duration::ZERO)?;
        if next.is_none() {
            out.flush().map_err(output::failure)?;
            next = reading.next(WAIT)?;
        }
        if let Some(record) = next.filter(|record| matching.wants(record)) {
            let text = if json { line::print(&record) } else { human(&record) };
            writeln!(out, "{text}").map_err(output::failure)?;
            left -= 1;
        }
    }
    out.flush().map_err(output::failure)
}

fn human(record: &Record) -> String {
    let text = |bytes: Option<&[u8]>| {
        bytes.map_or("-".to_owned(), |bytes| {
            String::from_utf8_lossy(bytes).escape_debug().to_string().replace("\\\"", "\"")
        })
    };
    let headers = record
        .headers
        .iter()
        .map(|header| format!(" {}={}", header.name.escape_debug(), text(header.value.as_deref())));
    let place = format!("{}:{}", record.partition, record.offset);
    let (time, key, value) =
        (table::time(record.time_ms), text(record.key.as_deref()), text(record.payload.as_deref()));
    format!("{place:>12}  {time}  {key}  {value}{}", headers.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_shown_on_a_line() {
        let record = Record {
            topic: "baskets".into(),
            partition: 1,
            offset: 20,
            time_ms: 1_000,
            key: None,
            headers: vec![crate::model::Header { name: "till".into(), value: Some(b"7".to_vec()) }],
            payload: Some(b"{\"a\":\n1}".to_vec()),
        };
        assert_eq!(human(&record), "        1:20  1970-01-01T00:00:01Z  -  {\"a\":\\n1} till=7");
    }
}
