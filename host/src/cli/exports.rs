//! `wasmill events export` and `wasmill events import`: all events of a store as a file, and a new store from such a file.
//!
//! An export comes from the host that has the store open, or from the data folder if no host has it open. The file is
//! written here, and gets its name when it is complete. An import needs a store that is empty and that no host has open.

use super::client::{Client, Reply, Target};
use super::default_manifest::ManifestArg;
use super::failure::CommandFailure;
use super::output;
use super::progress::{Progress, say};
use super::store::at_rest;
use super::table::number;
use crate::export::{Broken, Check, End, Export, Head, Item, Lines, Reading, Rules};
use crate::manifest::{Brokers, Manifest, Overrides, Start};
use crate::model::{IdRule, Position, RecordedEvent, StreamId};
use crate::paths;
use crate::store::sqlite::{self, Begins, Imported, Importer};
use crate::store::{self, Inspection, Location, postgres};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The file that stands for standard output or standard input.
const STANDARD: &str = "-";

/// The most bytes of a line on its way from a host, which the host decides.
const LINE_BYTES_MAX: usize = 2 << 30;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write all events to a new file, from which another store can be made.
    Export {
        /// The new file; - writes to standard output.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        /// Read the store of this manifest, instead of asking a host. A store in PostgreSQL may be open in a host.
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
        #[command(flatten)]
        target: Target,
    },
    /// Make a store from the events of a file, with their ids, times, versions and positions. The store must be empty, and
    /// no host may have it open.
    Import {
        /// The file that was exported; - reads standard input.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        manifest: ManifestArg,
        /// The data folder, instead of the manifest's.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Where subscriptions begin, whatever the manifest says; without this, after the events unless it has a `start`.
        #[arg(long, value_name = "after|beginning", hide_possible_values = true)]
        subscriptions: Option<Begin>,
        /// Where sinks of events begin, whatever the manifest says; without this, after the events unless it has a `start`.
        #[arg(long, value_name = "after|beginning", hide_possible_values = true)]
        sinks: Option<Begin>,
    },
}

/// The place where a part begins in an imported store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Begin {
    /// After the imported events.
    After,
    /// At the first event.
    Beginning,
}

pub(super) fn exports(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::Export { file, manifest, target } => export(&file, (manifest.as_deref(), &target), json),
        Command::Import { file, manifest, data, subscriptions, sinks } => {
            let overrides = Overrides { data, ..Overrides::default() };
            let manifest = Manifest::load(manifest.path()?)?.with(overrides)?;
            import(&file, &manifest, [subscriptions, sinks], json)
        }
    }
}

/// What was exported.
#[derive(Serialize)]
struct Exported<'e> {
    file: &'e str,
    store: &'e str,
    #[serde(flatten)]
    end: &'e End,
    bytes: u64,
    elapsed_ms: u64,
}

fn export(file: &Path, from: (Option<&Path>, &Target), json: bool) -> Result<(), CommandFailure> {
    let started = Instant::now();
    let is_standard = file == Path::new(STANDARD);
    let (head, end, bytes) = if is_standard {
        let mut out = Counting::new(BufWriter::with_capacity(1 << 16, io::stdout().lock()));
        let (head, end) = write_lines(from, &mut out, output::failure)?;
        out.to.flush().map_err(output::failure)?;
        (head, end, out.bytes)
    } else {
        export_to(file, from)?
    };
    let elapsed_ms = started.elapsed().as_millis() as u64;
    let shown = file.display().to_string();
    let exported = Exported { file: &shown, store: &head.store, end: &end, bytes, elapsed_ms };
    let text = if json {
        serde_json::json!(exported).to_string()
    } else {
        let [events, position, archived, bytes, elapsed_ms] =
            [end.events, end.position, end.archived_streams, bytes, elapsed_ms].map(number);
        format!(
            "{shown}: {events} events up to position {position}, {archived} archived streams, {bytes} bytes, in {elapsed_ms} ms"
        )
    };
    match is_standard {
        // Standard output has the events.
        true => say(&text),
        false => output::line(&text)?,
    }
    Ok(())
}

/// Writes the export to a new file, which gets its name when it is complete and on the disk.
fn export_to(file: &Path, from: (Option<&Path>, &Target)) -> Result<(Head, End, u64), CommandFailure> {
    let unwritten = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AlreadyExists => {
            CommandFailure::failed(format!("{} exists: choose another name", file.display()))
        }
        _ => CommandFailure::failed(format!("can't write {}: {cause}", file.display())),
    };
    if std::fs::symlink_metadata(file).is_ok() {
        return Err(unwritten(io::ErrorKind::AlreadyExists.into()));
    }
    let Some(name) = file.file_name() else {
        return Err(CommandFailure::usage(format!("{} names no file", file.display())));
    };
    let unfinished = tempfile::Builder::new().prefix(name).suffix(".part").tempfile_in(paths::folder_of(file));
    let unfinished = unfinished.map_err(unwritten)?;
    let mut out = Counting::new(BufWriter::with_capacity(1 << 20, unfinished.as_file()));
    let (head, end) = write_lines(from, &mut out, unwritten)?;
    out.to.flush().map_err(unwritten)?;
    let bytes = out.bytes;
    drop(out);
    unfinished.as_file().sync_all().map_err(unwritten)?;
    unfinished.persist_noclobber(file).map_err(|refused| unwritten(refused.error))?;
    paths::sync_folder_of(file).map_err(unwritten)?;
    Ok((head, end, bytes))
}

/// Writes the lines of an export, and returns the first and the last one.
fn write_lines(
    (manifest, target): (Option<&Path>, &Target),
    out: &mut impl Write,
    unwritten: impl Fn(io::Error) -> CommandFailure,
) -> Result<(Head, End), CommandFailure> {
    if let Some(manifest) = manifest {
        let manifest = Manifest::load(manifest)?;
        let location = crate::host::store_location(&manifest).map_err(CommandFailure::failed)?;
        let inspection = store::inspect(&location).map_err(|error| CommandFailure::failed(error.to_string()))?;
        return from_inspection(inspection, out, unwritten);
    }
    match at_rest(target) {
        Some(file) => {
            let inspection = sqlite::inspect(&file).map_err(|error| CommandFailure::failed(error.to_string()))?;
            from_inspection(inspection, out, unwritten)
        }
        None => from_host(&Client::new(target)?, out, unwritten),
    }
}

fn from_inspection(
    mut inspection: Inspection,
    out: &mut impl Write,
    unwritten: impl Fn(io::Error) -> CommandFailure,
) -> Result<(Head, End), CommandFailure> {
    let failed = |error: store::Error| CommandFailure::failed(error.to_string());
    let Inspection { identity, ref mut reader, newest, .. } = inspection;
    let mut progress = Progress::of_events("exported", newest.event);
    let mut export = Export::new(identity, Position(newest.event));
    while let Some(page) = export.page(&mut **reader).map_err(failed)? {
        out.write_all(&page).map_err(&unwritten)?;
        progress.at(export.end.events);
    }
    Ok((export.head, export.end))
}

fn from_host(
    client: &Client,
    out: &mut impl Write,
    unwritten: impl Fn(io::Error) -> CommandFailure,
) -> Result<(Head, End), CommandFailure> {
    let (status, mut body) = client.open("/v1/store/export")?;
    if status != 200 {
        let mut text = Vec::new();
        body.read_to_end(&mut text).map_err(|cause| client.unreadable(cause))?;
        return Err(Reply { status, body: text }.refusal());
    }
    let incomplete =
        |cause: String| CommandFailure::failed(format!("the answer of the host is no whole export: {cause}"));
    let mut lines = Lines::new(BufReader::with_capacity(1 << 16, body), LINE_BYTES_MAX);
    let (mut check, mut progress) = (Check::default(), Progress::of_events("exported", 0));
    while let Some(line) = lines.read().map_err(|broken| incomplete(broken.to_string()))? {
        check.line(line).map_err(incomplete)?;
        out.write_all(line).map_err(&unwritten)?;
        progress.at(lines.count);
    }
    check.end().map_err(incomplete)
}

/// What was imported.
#[derive(Serialize)]
struct Report {
    file: String,
    data: String,
    store: String,
    from_store: String,
    events: u64,
    archived_streams: u64,
    position: u64,
    elapsed_ms: u64,
    /// The parts that begin after the events.
    subscriptions: Vec<String>,
    sinks: Vec<String>,
    /// What a person has to decide, with a command.
    notes: Vec<String>,
}

fn import(file: &Path, manifest: &Manifest, places: [Option<Begin>; 2], json: bool) -> Result<(), CommandFailure> {
    let shown = file.display().to_string();
    let nothing = |cause: &dyn std::fmt::Display| CommandFailure::failed(format!("{cause}; nothing was imported"));
    let data = &manifest.data;
    paths::make_folder(data).map_err(|cause| nothing(&cause))?;
    let input = input(file).map_err(|cause| nothing(&format!("can't read {shown}: {cause}")))?;
    let ids = IdRule { bytes_max: manifest.store.id_bytes_max };
    let rules = Rules { event_bytes_max: manifest.store.event_bytes_max, ids };
    let broken = |broken: Broken| nothing(&format!("{shown}, {broken}"));
    let mut reading = Reading::begin(BufReader::with_capacity(1 << 20, input), rules).map_err(broken)?;
    let location = crate::host::store_location(manifest).map_err(|cause| nothing(&cause))?;
    let mut importer = Importing::begin(&location).map_err(|cause| nothing(&cause))?;
    let subscribers = crate::host::subscribers(manifest).map_err(CommandFailure::all_failed)?;
    let begins = begins(manifest, &subscribers, places);
    let started = Instant::now();
    let (from_store, to) = (reading.head().store.clone(), reading.head().to);
    let (mut events, mut archived_streams, mut progress) = (0, 0, Progress::of_events("imported", to));
    while let Some(item) = reading.read().map_err(broken)? {
        match item {
            Item::Event(event) => {
                importer.event(&event).map_err(|cause| nothing(&cause))?;
                events += 1;
                progress.at(events);
            }
            Item::Archived(archived) => {
                importer.archive(&archived.stream, archived.time_ms).map_err(|cause| nothing(&cause))?;
                archived_streams += 1;
            }
        }
    }
    let imported = importer.finish(&begins).map_err(|cause| CommandFailure::failed(cause.to_string()))?;
    let report = Report {
        file: shown,
        data: match &location {
            Location::Sqlite(_) => data.display().to_string(),
            Location::Postgres(address) => address.to_string(),
        },
        store: imported.identity.to_string(),
        from_store,
        events,
        archived_streams,
        position: imported.position,
        elapsed_ms: started.elapsed().as_millis() as u64,
        notes: notes(manifest, &begins, &subscribers, &imported),
        subscriptions: begins.after.subscriptions,
        sinks: begins.after.sinks,
    };
    match json {
        true => output::line(&serde_json::json!(report).to_string()),
        false => output::text(&text(&report)),
    }
}

/// An import into one of the stores.
enum Importing {
    Sqlite(Box<Importer>),
    Postgres(Box<postgres::Importer>),
}

impl Importing {
    fn begin(location: &Location) -> Result<Self, store::Error> {
        Ok(match location {
            Location::Sqlite(place) => Self::Sqlite(Box::new(Importer::begin(place)?)),
            Location::Postgres(address) => Self::Postgres(Box::new(postgres::Importer::begin(address)?)),
        })
    }

    fn event(&mut self, event: &RecordedEvent) -> Result<(), store::Error> {
        match self {
            Self::Sqlite(importer) => importer.event(event),
            Self::Postgres(importer) => importer.event(event),
        }
    }

    fn archive(&mut self, stream: &StreamId, time_ms: u64) -> Result<(), store::Error> {
        match self {
            Self::Sqlite(importer) => importer.archive(stream, time_ms),
            Self::Postgres(importer) => importer.archive(stream, time_ms),
        }
    }

    fn finish(self, begins: &Begins) -> Result<Imported, store::Error> {
        match self {
            Self::Sqlite(importer) => importer.finish(begins),
            Self::Postgres(importer) => importer.finish(begins),
        }
    }
}

fn input(file: &Path) -> io::Result<Box<dyn Read>> {
    if file == Path::new(STANDARD) {
        return Ok(Box::new(io::stdin().lock()));
    }
    paths::require_file(file)?;
    Ok(Box::new(File::open(file)?))
}

/// Returns the parts with a place. What the command says decides, then a `start` in the manifest; otherwise a part begins after
/// the events.
fn begins(manifest: &Manifest, subscribers: &[String], [subscriptions, sinks]: [Option<Begin>; 2]) -> Begins {
    let is_written = |name: &String| manifest.subscriptions.get(name).is_some_and(|settings| settings.is_start_written);
    let mut begins = Begins::default();
    for name in subscribers {
        match subscriptions {
            Some(Begin::Beginning) => begins.at_first.subscriptions.push(name.clone()),
            None if is_written(name) => {}
            Some(Begin::After) | None => begins.after.subscriptions.push(name.clone()),
        }
    }
    for (name, sink) in &manifest.sinks {
        match sinks {
            Some(Begin::Beginning) => begins.at_first.sinks.push(name.clone()),
            None if sink.is_start_written => {}
            Some(Begin::After) | None => begins.after.sinks.push(name.clone()),
        }
    }
    begins
}

/// Says which parts do again what may have been done already: those whose `start` in the manifest is before the end of the events,
/// and sources.
fn notes(manifest: &Manifest, begins: &Begins, subscribers: &[String], imported: &Imported) -> Vec<String> {
    let Imported { position, sources: resumed, .. } = imported;
    let is_among = |start: Start| start.checkpoint(Position(*position)).0 < *position;
    let path = manifest.path.display();
    let is_embedded = manifest.kafka.as_ref().is_some_and(|kafka| kafka.brokers == Brokers::Embedded);
    // The development broker keeps no records from one host to the next.
    let starts = manifest.sources.iter().filter(|_| !is_embedded);
    let starts = starts.filter(|(name, source)| !source.is_from_written || resumed.contains(name));
    let sources = starts.map(|(name, _)| {
        let (how, or) = match resumed.contains(name) {
            true => ("resumes at the offsets of the empty store that was there", ""),
            false => ("has no offsets in this store and reads its topics from the beginning", ", or write its `from`"),
        };
        format!(
            "source {name} {how}, so records whose effects are among these events take effect again: set where it resumes with \
             `wasmill kafka offsets reset {name} --to PLACE --yes --manifest {path}`{or}"
        )
    });
    let handled = subscribers.iter().filter(|name| {
        let Begins { after, at_first } = begins;
        let is_open = !after.subscriptions.contains(name) && !at_first.subscriptions.contains(name);
        is_open && manifest.subscriptions.get(*name).is_some_and(|settings| is_among(settings.start))
    });
    let subscriptions = handled.map(|name| {
        format!(
            "subscription {name} begins where the manifest says in its `start` of [subscriptions.{name}], so it handles events again \
             that are among these: to prevent that, import into another folder with `--subscriptions after` before you start a host"
        )
    });
    let published = manifest.sinks.iter().filter(|(name, sink)| {
        let is_open = !begins.after.sinks.contains(name) && !begins.at_first.sinks.contains(name);
        is_open && is_among(sink.start)
    });
    let sinks = published.map(|(name, _)| {
        format!(
            "sink {name} begins where the manifest says in its `start` of [sinks.{name}], so it publishes events again that are among \
             these: to prevent that, import into another folder with `--sinks after` before you start a host"
        )
    });
    sources.chain(subscriptions).chain(sinks).collect()
}

fn text(report: &Report) -> String {
    let Report { file, data, store, from_store, subscriptions, sinks, notes, .. } = report;
    let [events, position, archived, elapsed_ms] =
        [report.events, report.position, report.archived_streams, report.elapsed_ms].map(number);
    let mut text = format!(
        "imported {events} events up to position {position} and {archived} archived streams from {file} into {data}, in \
         {elapsed_ms} ms\nthe store is {store}, and the events are from store {from_store}\n"
    );
    for (what, names) in [("subscriptions", subscriptions), ("sinks", sinks)] {
        if !names.is_empty() {
            text += &format!("{what} that begin after these events: {}\n", names.join(", "));
        }
    }
    notes.iter().for_each(|note| text += &format!("note: {note}\n"));
    text
}

/// A writer that counts bytes.
struct Counting<W> {
    to: W,
    bytes: u64,
}

impl<W: Write> Counting<W> {
    fn new(to: W) -> Self {
        Self { to, bytes: 0 }
    }
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::Parts;

    fn manifest(text: &str) -> Manifest {
        let text = format!("[kafka]\nbrokers = \"k:9092\"\n[plugins.p]\nfile = \"p.wasm\"\n{text}");
        Manifest::parse(&text, "m.toml".as_ref()).expect("a manifest")
    }

    /// Ten events, with the offsets of these sources.
    fn imported(sources: &[&str]) -> Imported {
        let sources = sources.iter().map(|&name| name.to_owned()).collect();
        Imported { identity: uuid::Uuid::nil(), position: 10, sources }
    }

    #[test]
    fn parts_begin_after_the_events_unless_told_otherwise() {
        let subscribers = ["p".to_owned()];
        for (written, told, after, at_first, is_noted) in [
            ("", None, true, false, false),
            ("", Some(Begin::After), true, false, false),
            ("", Some(Begin::Beginning), false, true, false),
            ("start = \"beginning\"", None, false, false, true),
            ("start = { position = 7 }", None, false, false, true),
            ("start = { position = 11 }", None, false, false, false),
            ("start = \"now\"", None, false, false, false),
            // The command wins over the manifest.
            ("start = \"beginning\"", Some(Begin::After), true, false, false),
            ("start = \"now\"", Some(Begin::Beginning), false, true, false),
        ] {
            let manifest = manifest(&format!(
                "[sinks.feed]\nevents = [\"**\"]\ntopic = \"t\"\n{written}\n[subscriptions.p]\n{written}\n"
            ));
            let begins = begins(&manifest, &subscribers, [told; 2]);
            let of = |parts: &Parts| (parts.subscriptions == ["p"], parts.sinks == ["feed"]);
            assert_eq!(
                (of(&begins.after), of(&begins.at_first)),
                ((after, after), (at_first, at_first)),
                "{written} {told:?}"
            );
            let notes = notes(&manifest, &begins, &subscribers, &imported(&[]));
            let flags = ["`--subscriptions after`", "`--sinks after`"];
            assert_eq!(notes.len(), if is_noted { 2 } else { 0 }, "{written} {told:?}: {notes:?}");
            assert!(notes.iter().zip(flags).all(|(note, flag)| note.contains(flag)), "{notes:?}");
        }
    }

    #[test]
    fn a_source_that_would_read_everything_again_is_named_with_a_command() {
        let source = |from: &str| {
            manifest(&format!("[sources.tills]\ntopic = \"t\"\naggregate = \"order\"\ncommand = \"Create\"\n{from}\n"))
        };
        let notes = |from: &str, resumed: &[&str]| notes(&source(from), &Begins::default(), &[], &imported(resumed));
        let command = "`wasmill kafka offsets reset tills --to PLACE --yes --manifest m.toml`";
        assert!(notes("", &[])[0].contains(command));
        assert!(notes("from = \"end\"", &[]).is_empty());
        let resumed = notes("from = \"end\"", &["tills"]);
        assert!(resumed[0].contains("resumes at the offsets") && resumed[0].contains(command), "{resumed:?}");
    }
}
