//! `wasmill store restore`: puts a backup in the place of a store that no host has open, and says which parts can't resume from
//! it by themselves.

use super::failure::CommandFailure;
use super::table::number;
use super::{kafka, output, store};
use crate::clock::{self, Clock};
use crate::kafka::admin::Admin;
use crate::kafka::admin::restored;
use crate::manifest::{Brokers, Manifest, Overrides};
use crate::paths;
use crate::projection;
use crate::store::sqlite::{self, Report, Restore};
use crate::store::{self as stores, Error, Inspection, Location};
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The backup: a file that `wasmill store backup` made.
    backup: PathBuf,
    #[command(flatten)]
    manifest: super::default_manifest::ManifestArg,
    /// The data folder, instead of the manifest's.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only check the backup and what it would mean, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What was restored, or would be.
#[derive(Serialize)]
struct Outcome {
    /// Whether the backup is in the place of the store.
    restored: bool,
    backup: String,
    file: String,
    events: u64,
    streams: u64,
    position: u64,
    /// The folder with the store that was there before.
    aside: Option<String>,
    findings: Vec<Finding>,
    /// Why Kafka was not asked.
    unasked: Option<String>,
}

/// Something that a person has to know, or to resolve with a command.
#[derive(Serialize)]
struct Finding {
    finding: String,
    command: String,
}

pub(super) fn restore(args: Args, json: bool) -> Result<(), CommandFailure> {
    let Args { backup, manifest, data, dry_run } = args;
    let overrides = Overrides { data: data.clone(), ..Overrides::default() };
    let manifest = manifest.if_there().map(|path| Manifest::load(path)?.with(overrides)).transpose()?;
    if manifest.as_ref().is_some_and(|manifest| manifest.store.url.is_some()) {
        return Err(CommandFailure::usage(
            "the store of this manifest is in PostgreSQL (`store.url`): restore the database with `pg_restore`, or as its backup was \
             made",
        ));
    }
    let data = match (&manifest, data) {
        (Some(manifest), _) => manifest.data.clone(),
        (None, Some(data)) => data,
        (None, None) => {
            return Err(CommandFailure::usage("which data folder? name a manifest, or the folder with --data DIR"));
        }
    };
    let place = data.join(sqlite::FILE_NAME);
    refuse_moved(&place)?;
    let mut outcome = Outcome {
        restored: false,
        backup: backup.display().to_string(),
        file: place.display().to_string(),
        events: 0,
        streams: 0,
        position: 0,
        aside: None,
        findings: Vec::new(),
        unasked: None,
    };
    if dry_run {
        let report = sqlite::verify(&backup).map_err(failed)?;
        outcome.check(&report, &backup, &data, manifest.as_ref())?;
        if sqlite::is_in_use(&place) {
            outcome.add("a host has the store open, so it can't be replaced".to_owned(), "wasmill status".to_owned());
        }
    } else {
        paths::make_folder(&data).map_err(|cause| CommandFailure::failed(cause.to_string()))?;
        let restore = Restore::prepare(&backup, &place).map_err(failed)?;
        outcome.check(&restore.report, &restore.file(), &data, manifest.as_ref())?;
        let restored = restore.finish(&clock::without_colons(Clock::system().now_ms())).map_err(failed)?;
        outcome.restored = true;
        outcome.aside = restored.aside.map(|aside| aside.display().to_string());
    }
    match json {
        true => output::line(&serde_json::json!(outcome).to_string()),
        false => output::text(&text(&outcome)),
    }
}

/// Fails if the store at a place was moved. With a backup there, a host would start on it again beside that of the other store.
fn refuse_moved(place: &Path) -> Result<(), CommandFailure> {
    // What else is wrong with a store that is to be replaced does not matter.
    match stores::moved_to(&Location::Sqlite(place.to_owned())) {
        Ok(Some(other)) => Err(CommandFailure::failed(format!(
            "the store {} was moved to {other}, where hosts use it now, and nothing was changed: restore that one; if it is lost, run \
             `wasmill store reopen {} --yes` first",
            place.display(),
            place.display()
        ))),
        _ => Ok(()),
    }
}

fn failed(error: Error) -> CommandFailure {
    CommandFailure::failed(error.to_string())
}

impl Outcome {
    /// Fails if the copy in a file has problems. Otherwise notes what is in it, and what does not fit to it.
    fn check(
        &mut self,
        report: &Report,
        file: &Path,
        data: &Path,
        manifest: Option<&Manifest>,
    ) -> Result<(), CommandFailure> {
        if !report.is_sound() {
            let problems = store::problems(report);
            return Err(CommandFailure::failed(format!(
                "{problems}{} is damaged, and nothing was changed: take another backup",
                self.backup
            )));
        }
        (self.events, self.streams, self.position) = (report.events, report.streams, report.position);
        let mut inspection = sqlite::inspect(file).map_err(failed)?;
        let unfit = projection::unfit(&data.join("read-models"), inspection.identity, &mut *inspection.reader);
        for projection::Unfit { projection, cause } in unfit.map_err(failed)? {
            let text = format!("the read model of projection {projection} is rebuilt at the next start: {cause}");
            self.add(text, "wasmill projections list".to_owned());
        }
        match self.ask_kafka(manifest, &mut inspection) {
            Ok(findings) => findings.into_iter().for_each(|found| self.add(found.text, found.command)),
            Err(unasked) => self.unasked = Some(unasked),
        }
        Ok(())
    }

    /// Asks Kafka about the sinks and sources of the manifest. The error says why it was not asked.
    fn ask_kafka(
        &self,
        manifest: Option<&Manifest>,
        inspection: &mut Inspection,
    ) -> Result<Vec<restored::Finding>, String> {
        let Some(manifest) = manifest else {
            return Err("no manifest was named, so the positions of sinks and the offsets of sources were not checked"
                .to_owned());
        };
        match &manifest.kafka {
            None => return Ok(Vec::new()),
            // Its records and positions end with it.
            Some(kafka) if kafka.brokers == Brokers::Embedded => return Ok(Vec::new()),
            Some(_) => {}
        }
        let unasked =
            |cause: String| format!("the positions of sinks and the offsets of sources were not checked: {cause}");
        let connection = kafka::connection(manifest).map_err(|failure| unasked(failure.text()))?;
        let admin = Admin::connect(&connection).map_err(|error| unasked(error.to_string()))?;
        let Inspection { identity, ref mut reader, newest, .. } = *inspection;
        let mut findings =
            admin.compare(manifest, identity, newest, &mut **reader).map_err(|error| unasked(error.to_string()))?;
        let options = format!(" --manifest {} --data {}", manifest.path.display(), manifest.data.display());
        findings.iter_mut().for_each(|finding| finding.command += &options);
        Ok(findings)
    }

    fn add(&mut self, finding: String, command: String) {
        self.findings.push(Finding { finding, command });
    }
}

fn text(outcome: &Outcome) -> String {
    let Outcome { restored, backup, file, aside, findings, unasked, .. } = outcome;
    let [events, streams, position] = [outcome.events, outcome.streams, outcome.position].map(number);
    let what = format!("{events} events in {streams} streams, the newest at position {position}");
    let mut text = match restored {
        true => format!("{file} is now a copy of {backup}: {what}\n"),
        false => format!("{backup} is sound: {what}\nnothing was changed, because of --dry-run\n"),
    };
    if let Some(aside) = aside {
        text += &format!("the store that was there is in {aside}; delete it when you do not need it any more\n");
    }
    for Finding { finding, command } in findings {
        text += &format!("found: {finding}\n  {command}\n");
    }
    if let Some(unasked) = unasked {
        text += &format!("note: {unasked}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_has_its_command_and_what_was_there_is_named() {
        let mut outcome = Outcome {
            restored: true,
            backup: "copy.sqlite".into(),
            file: "data/events.sqlite".into(),
            events: 1_200,
            streams: 3,
            position: 1_200,
            aside: Some("data/replaced-2026-11-29T15-22-46Z".into()),
            findings: Vec::new(),
            unasked: Some("no broker answers".into()),
        };
        outcome.add("sink feed is ahead".into(), "wasmill kafka sinks reset feed --yes".into());
        assert_eq!(
            text(&outcome),
            "data/events.sqlite is now a copy of copy.sqlite: 1,200 events in 3 streams, the newest at position 1,200\n\
             the store that was there is in data/replaced-2026-11-29T15-22-46Z; delete it when you do not need it any more\n\
             found: sink feed is ahead\n  wasmill kafka sinks reset feed --yes\nnote: no broker answers\n"
        );
        outcome.restored = false;
        assert!(text(&outcome).starts_with("copy.sqlite is sound: 1,200 events"), "{}", text(&outcome));
    }
}
