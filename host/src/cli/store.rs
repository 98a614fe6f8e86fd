//! `wasmill store`: checks, copies, restores, moves and measures a store.
//!
//! `verify`, `restore` and `migrate` need a store that no host has open. The others ask the host that has it open. If no host has it open and
//! the data folder was given, they read the file themselves.

use super::client::{Client, Target};
use super::default_manifest::ManifestArg;
use super::failure::CommandFailure;
use super::store_place::{self, Existing};
use super::table::{Align, Table, number};
use super::{migrate, output, restore};
use crate::ack;
use crate::manifest::{Manifest, Overrides};
use crate::store::sqlite::{self, Report};
use crate::store::{self, Backup, CopyName, Counted, Error, Location, Part, Statistics, TypeCount};
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Check that a store is consistent. This changes nothing.
    Verify {
        /// The data folder, the store's file, the URL of a store in PostgreSQL (with its password in PGPASSWORD), or the manifest.
        #[arg(value_name = "DATA|FILE|URL|MANIFEST")]
        place: String,
    },
    /// Copy a store into a new file. A host may be writing to it meanwhile.
    Backup {
        /// The name of the new file in the host's folder of backups; by default the time and the newest position. With
        /// --data and no host there, the path of the new file.
        #[arg(value_name = "NAME|FILE")]
        file: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Put a backup in the place of a store that no host has open, which is kept aside.
    Restore(restore::Args),
    /// Move a store from a file into PostgreSQL or back, with everything that it has. If the command ends in between, run it again.
    Migrate(migrate::Args),
    /// Let a store that was moved start again, if the one to which it was moved is lost.
    Reopen(migrate::ReopenArgs),
    /// List parts that are in the store but not in the manifest, or forget some.
    Orphans {
        #[command(flatten)]
        manifest: ManifestArg,
        /// The data folder, instead of the manifest's.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Forget this part, named as in the list, with everything that it has not sent; it can't be carried over
        /// afterwards.
        #[arg(long, value_name = "PART")]
        forget: Vec<Part>,
    },
    /// Show the size of a store.
    Stats {
        /// Also count streams and events by type. This reads every event.
        #[arg(long)]
        count: bool,
        /// Read the store of this manifest, instead of asking a host. A store in PostgreSQL may be open in a host.
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn store(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::Verify { place } => verify(&place, json),
        Command::Backup { file, target } => backup(file.as_deref(), &target, json),
        Command::Restore(args) => restore::restore(args, json),
        Command::Orphans { manifest, data, forget } => orphans(&manifest.path()?, data, &forget, json),
        Command::Migrate(args) => migrate::migrate(&args, json),
        Command::Reopen(args) => migrate::reopen(&args, json),
        Command::Stats { count, manifest, target } => stats(count, manifest.as_deref(), &target, json),
    }
}

fn orphans(manifest: &Path, data: Option<PathBuf>, forget: &[Part], json: bool) -> Result<(), CommandFailure> {
    let manifest = Manifest::load(manifest)?.with(Overrides { data, ..Overrides::default() })?;
    let location = crate::host::store_location(&manifest).map_err(CommandFailure::failed)?;
    if let Some(part) = forget.iter().find(|part| crate::host::is_named(&manifest, part)) {
        return Err(CommandFailure::usage(format!("{part} is in the manifest: remove it there before you forget it")));
    }
    if !forget.is_empty() {
        // This checks that the store exists, because `open` would create one.
        store::places(&location).map_err(failure)?;
        let store = store::open(&location, store::Options::default()).map_err(failure)?;
        for part in forget {
            ack::wait(|ack| store.forget(part, ack)).map_err(failure)?;
        }
        store.close();
    }
    let left = crate::host::orphans(&manifest, &store::places(&location).map_err(failure)?);
    if json {
        return output::line(&serde_json::json!(left).to_string());
    }
    let forgotten = forget.iter().map(|part| format!("forgotten: {part}\n"));
    let left = left.iter().map(|orphan| format!("only in the store: {orphan}\n"));
    let text: String = forgotten.chain(left).collect();
    output::text(if text.is_empty() { "the manifest has every part that the store knows\n" } else { &text })
}

/// Returns the store's file if the data folder was given and no host has it open.
pub(super) fn at_rest(target: &Target) -> Option<PathBuf> {
    let file = target.folder()?.join(sqlite::FILE_NAME);
    (!sqlite::is_in_use(&file)).then_some(file)
}

fn failure(error: Error) -> CommandFailure {
    CommandFailure::failed(error.to_string())
}

fn backup(file: Option<&Path>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let backup = match at_rest(target) {
        Some(store) => {
            let file = file.ok_or_else(|| {
                CommandFailure::usage(format!("no host has {} open: name the file of the copy", store.display()))
            })?;
            let absolute = std::path::absolute(file)
                .map_err(|cause| CommandFailure::usage(format!("can't create {}: {cause}", file.display())))?;
            sqlite::backup(&store, &absolute).map_err(failure)?
        }
        None => through_host(file, target)?,
    };
    if json {
        return output::line(&serde_json::json!(backup).to_string());
    }
    let Backup { file, position, bytes, elapsed_ms } = backup;
    let (position, bytes, elapsed_ms) = (number(position), number(bytes), number(elapsed_ms));
    output::line(&format!("{file}: {bytes} bytes, up to position {position}, in {elapsed_ms} ms"))
}

/// Has a running host make the copy, in its own folder of backups.
fn through_host(file: Option<&Path>, target: &Target) -> Result<Backup, CommandFailure> {
    let name = file.map(|file| file.to_str().ok_or_else(|| format!("the name {} is not UTF-8", file.display())));
    let name = name.transpose().map_err(CommandFailure::usage)?;
    if let Some(name) = name {
        CopyName::parse(name).map_err(|cause| {
            CommandFailure::usage(format!(
                "a running host copies its store into its own folder of backups (`store.backups` of its manifest), so NAME {cause}"
            ))
        })?;
    }
    let body = name.map_or(serde_json::json!({}), |name| serde_json::json!({ "file": name })).to_string();
    Client::new(target)?.post("/v1/store/backup", &[], body.as_bytes())?.successful()?.decoded()
}

fn stats(count: bool, manifest: Option<&Path>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let location = match manifest {
        Some(manifest) => {
            let manifest = Manifest::load(manifest)?;
            Some(crate::host::store_location(&manifest).map_err(CommandFailure::failed)?)
        }
        None => at_rest(target).map(Location::Sqlite),
    };
    let statistics = match location {
        Some(location) => store::statistics_of(&location, count).map_err(failure)?,
        None => Client::new(target)?.get(&format!("/v1/store/stats?count={count}"))?.successful()?.decoded()?,
    };
    if json {
        output::line(&serde_json::json!(statistics).to_string())
    } else {
        output::text(&statistics_text(&statistics))
    }
}

fn statistics_text(statistics: &Statistics) -> String {
    let Statistics {
        position,
        file_bytes,
        free_bytes,
        log_bytes,
        archived_streams,
        subscriptions,
        ledgers,
        outbox_commands,
        outbox_messages,
        callbacks,
        http_requests,
        outcomes,
        dead_letters,
        counted,
    } = statistics;
    let mut table = Table::new([("STORE", Align::Left), ("", Align::Right)]);
    for (name, value) in [
        ("newest position", position),
        ("bytes of the file", file_bytes),
        ("  of them free", free_bytes),
        ("bytes of the log", log_bytes),
        ("archived streams", archived_streams),
        ("subscriptions", subscriptions),
        ("ledgers", ledgers),
        ("commands in the outbox", outbox_commands),
        ("messages in the outbox", outbox_messages),
        ("outcomes, timers and responses", callbacks),
        ("HTTP requests", http_requests),
        ("remembered outcomes", outcomes),
        ("dead letters", dead_letters),
    ] {
        table.row([name.to_owned(), number(*value)]);
    }
    let mut text = table.to_string();
    if let Some(Counted { streams, events, bytes, types }) = counted {
        let mut table = Table::new([("EVENT", Align::Left), ("COUNT", Align::Right), ("BYTES", Align::Right)]);
        for TypeCount { aggregate_type, name, events, bytes } in types {
            table.row([format!("{aggregate_type}.{name}"), number(*events), number(*bytes)]);
        }
        table.row([format!("all, in {} streams", number(*streams)), number(*events), number(*bytes)]);
        text += &format!("\n{table}");
    }
    text
}

fn verify(place: &str, json: bool) -> Result<(), CommandFailure> {
    let location = store_place::location(place, Existing::Yes)?;
    let report = store::verify(&location).map_err(failure)?;
    if json {
        let mut line = serde_json::json!(report);
        line["ok"] = report.is_sound().into();
        output::line(&line.to_string())?;
    } else {
        output::text(&format!("{location}\n{}", text(&report)))?;
    }
    if report.is_sound() { Ok(()) } else { Err(CommandFailure::told()) }
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
        callbacks,
        http_requests,
        dead_letters,
        problems,
        more_problems,
    } = report;
    let [events, streams, position, indexed] = [events, streams, position, indexed].map(|value| number(*value));
    let [commands, messages, callbacks, requests, letters, more] =
        [commands, messages, callbacks, http_requests, dead_letters, more_problems].map(|value| number(*value));
    let mut text = format!(
        "  {events} events in {streams} streams, the newest at position {position}, indexed up to {indexed}\n  \
         {ledgers} ledgers, {checkpoints} checkpoints; {commands} commands and {messages} messages in the outbox\n  \
         {letters} dead letters; {callbacks} outcomes, timers and responses; {requests} HTTP requests\n"
    );
    text += &listed(problems);
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

/// Returns the problems of a report, one on each line.
pub(super) fn problems(report: &Report) -> String {
    let more = match report.more_problems {
        0 => String::new(),
        more => format!("and {} more\n", number(more)),
    };
    listed(&report.problems) + &more
}

fn listed(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("problem: {problem}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_there_and_what_is_wrong() {
        let mut report = Report { events: 1_234, streams: 2, position: 1_234, indexed: 1_000, ..Report::default() };
        assert!(
            text(&report).ends_with(
                "in the outbox\n  0 dead letters; 0 outcomes, timers and responses; 0 HTTP requests\nsound\n"
            ),
            "{}",
            text(&report)
        );
        report.problems.push("position 3 comes after 3".to_owned());
        assert!(text(&report).contains("\nproblem: position 3 comes after 3\nrestore"), "{}", text(&report));
    }
}
