//! `wasmill kafka sinks`: shows and resets the positions that the sinks of a stopped host keep in Kafka.
//!
//! After a restore of the store, a sink may have published more than the store has. It stops then, because the numbers of what
//! the store records next were published before. A reset makes it continue with them.

use super::offsets::{lasting, open_for_reading};
use super::{Cluster, CommandFailure, confirmed, json_line, output};
use crate::cli::table::Align::{Left, Right};
use crate::cli::table::{Table, number};
use crate::kafka::admin::Admin;
use crate::kafka::admin::positions::SinkPosition;

#[derive(clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// Show what each sink with transactions has published, beside what the store has.
    Show,
    /// Make a sink that has published more than the store has continue after the newest in the store.
    Reset {
        /// The sink: its name in [sinks], outbox, or dead-letters-SOURCE.
        sink: String,
        /// Confirm the change.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn sinks(cluster: &Cluster, command: Command, json: bool) -> Result<(), CommandFailure> {
    let manifest = cluster.manifest()?;
    let inspection = open_for_reading(&manifest)?;
    let admin = Admin::connect(&lasting(&manifest)?)?;
    let positions = admin.sink_positions(&manifest, inspection.identity, inspection.newest)?;
    match command {
        Command::Show if json => positions.iter().try_for_each(json_line),
        Command::Show => output::text(&table(&positions)),
        Command::Reset { sink, yes } => {
            let Some(position) = positions.iter().find(|position| position.sink == sink) else {
                let known: Vec<&str> = positions.iter().map(|position| position.sink.as_str()).collect();
                return Err(CommandFailure::usage(format!(
                    "{} has no sink {sink} with transactions; it has {}",
                    manifest.path.display(),
                    known.join(", ")
                )));
            };
            if !position.is_ahead() {
                return Err(CommandFailure::failed(format!(
                    "sink {sink} has published nothing that the store does not have: there is nothing to reset"
                )));
            }
            let text = consequence(position);
            confirmed(yes, text.trim_end())?;
            admin.set_sink_position(&sink, inspection.identity, position.newest)?;
            match json {
                true => json_line(&serde_json::json!({ "ok": true, "sink": sink, "position": position.newest })),
                false => output::text(&format!("{text}done\n")),
            }
        }
    }
}

fn table(positions: &[SinkPosition]) -> String {
    let columns = [("SINK", Left), ("COUNTS", Left), ("PUBLISHED", Right), ("NEWEST", Right)];
    let mut table = Table::new(columns);
    for position in positions {
        let SinkPosition { sink, counts, published, newest } = position;
        let published = published.map_or("-".to_owned(), number);
        table.row([sink.clone(), (*counts).to_owned(), published, number(*newest)]);
        if position.is_ahead() {
            table.note("it has published more than the store has, and would stop");
        }
    }
    table.to_string()
}

fn consequence(SinkPosition { sink, counts, published, newest }: &SinkPosition) -> String {
    let (published, first, newest) = (number(published.unwrap_or(0)), number(newest + 1), number(*newest));
    format!(
        "sink {sink} continues after number {newest}, the newest of the store\nits {counts} {first} to {published} stay in Kafka, \
         and the store does not have them; others with these numbers will be published\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_ahead_is_marked_and_a_reset_says_what_it_does() {
        let ahead = SinkPosition { sink: "feed".into(), counts: "events", published: Some(1_200), newest: 1_000 };
        let behind = SinkPosition { published: None, ..ahead.clone() };
        let shown = table(&[behind, ahead.clone()]);
        assert_eq!(shown.matches("would stop").count(), 1, "{shown}");
        let text = consequence(&ahead);
        assert!(text.contains("after number 1,000") && text.contains("events 1,001 to 1,200 stay"), "{text}");
    }
}
