//! `wasmill store`: the store's file itself, while no host has it open.

use super::failure::Failure;
use super::output;
use super::table::number;
use crate::store::sqlite::{self, Report};
use std::path::PathBuf;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check that everything in a store fits together. Changes nothing.
    Verify {
        /// The data folder, or the store's file.
        #[arg(value_name = "DATA|FILE")]
        place: PathBuf,
    },
}

pub(super) fn store(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::Verify { place } => verify(place, json),
    }
}

fn verify(place: PathBuf, json: bool) -> Result<(), Failure> {
    let file = if place.is_dir() { place.join(sqlite::FILE_NAME) } else { place };
    let report = sqlite::verify(&file).map_err(|cause| Failure::failed(cause.to_string()))?;
    if json {
        let mut line = serde_json::json!(report);
        line["ok"] = report.is_sound().into();
        output::line(&line.to_string())?;
    } else {
        output::text(&format!("{}\n{}", file.display(), text(&report)))?;
    }
    if report.is_sound() { Ok(()) } else { Err(Failure::told()) }
}

fn text(report: &Report) -> String {
    let Report {
        events,
        streams,
        position,
        indexed,
        ledgers,
        checkpoints,
        commands,
        messages,
        problems,
        more_problems,
    } = report;
    let [events, streams, position, indexed] = [events, streams, position, indexed].map(|value| number(*value));
    let [commands, messages, more] = [commands, messages, more_problems].map(|value| number(*value));
    let mut text = format!(
        "  {events} events in {streams} streams, the newest at position {position}, indexed up to {indexed}\n  \
         {ledgers} ledgers, {checkpoints} checkpoints; {commands} commands and {messages} messages in the outbox\n"
    );
    for problem in problems {
        text += &format!("problem: {problem}\n");
    }
    match more_problems {
        0 if problems.is_empty() => text += "sound\n",
        0 => text += "restore the store from a backup, or keep the file and report the problems\n",
        _ => {
            text +=
                &format!("and {more} more; restore the store from a backup, or keep the file and report the problems\n")
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_there_and_what_is_wrong() {
        let mut report = Report { events: 1_234, streams: 2, position: 1_234, indexed: 1_000, ..Report::default() };
        assert!(text(&report).ends_with("in the outbox\nsound\n"), "{}", text(&report));
        report.problems.push("position 3 comes after 3".to_owned());
        assert!(text(&report).contains("\nproblem: position 3 comes after 3\nrestore"), "{}", text(&report));
    }
}
