//! `wasmill test`: runs cases against a compiled plugin, or flows against the compiled plugins of a manifest, in the real
//! runtime.

use super::failure::CommandFailure;
use super::{cases, default_manifest, flows, output};
use crate::escape::escape;
use crate::manifest::Manifest;
use crate::model::{Command, Header, StreamId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The compiled plugin (.wasm), or the name of a plugin in wasmill.toml of the working folder, for cases of its aggregate,
    /// subscriber, saga or projection; or a manifest (.toml), for flows through its plugins.
    ///
    /// If this is the only argument, it is a file of flows, and wasmill.toml is the manifest.
    tested: PathBuf,
    /// The files of cases or flows: TOML, or JSON if the name ends in .json.
    files: Vec<PathBuf>,
}

pub(super) fn test(args: Args, json: bool) -> Result<(), CommandFailure> {
    let report = Report { json };
    let Tally { held, failed } = match args.tested()? {
        (Tested::Manifest(manifest), files) => flows::test(&manifest, &files, &report)?,
        (Tested::Plugin(plugin), files) => cases::test(&plugin, &files, &report)?,
    };
    if !json {
        output::line(&format!("{held} held, {failed} failed"))?;
    }
    if failed == 0 { Ok(()) } else { Err(CommandFailure::told()) }
}

/// What is tested.
enum Tested {
    /// The plugins of this manifest, by flows.
    Manifest(PathBuf),
    /// The plugin in this file, by cases.
    Plugin(PathBuf),
}

impl Args {
    /// Returns what is tested, and by which files.
    fn tested(self) -> Result<(Tested, Vec<PathBuf>), CommandFailure> {
        let Self { tested, files } = self;
        if files.is_empty() {
            let manifest = default_manifest::found().ok_or_else(|| {
                CommandFailure::usage(format!(
                    "what does {} test? name the plugin or the manifest before it: the working folder has no {}",
                    tested.display(),
                    default_manifest::FILE_NAME
                ))
            })?;
            return Ok((Tested::Manifest(manifest), vec![tested]));
        }
        let plugin = match tested.extension() {
            Some(ending) if ending == "toml" => return Ok((Tested::Manifest(tested), files)),
            None if !tested.is_file() => file_of(&tested)?.unwrap_or(tested),
            _ => tested,
        };
        Ok((Tested::Plugin(plugin), files))
    }
}

/// Returns the file of the plugin that has this name in the default manifest, if there is one.
fn file_of(name: &Path) -> Result<Option<PathBuf>, CommandFailure> {
    let (Some(manifest), Some(name)) = (default_manifest::found(), name.to_str()) else { return Ok(None) };
    Ok(Manifest::load(manifest)?.plugins.remove(name).map(|plugin| plugin.file))
}

/// The numbers of cases or flows that held and that failed.
#[derive(Default)]
pub(super) struct Tally {
    held: u64,
    failed: u64,
}

impl Tally {
    pub(super) fn count(&mut self, result: &Result<(), String>) {
        *if result.is_ok() { &mut self.held } else { &mut self.failed } += 1;
    }
}

/// The form in which results are printed.
pub(super) struct Report {
    json: bool,
}

impl Report {
    /// Prints what is tested with a file, before its results.
    pub(super) fn title(&self, tested: &str, file: &Path) -> Result<(), CommandFailure> {
        if self.json { Ok(()) } else { output::line(&format!("{tested}, {}", file.display())) }
    }

    /// Prints the result of a case or a flow.
    pub(super) fn result(
        &self,
        file: &Path,
        kind: &str,
        name: &str,
        result: Result<(), String>,
    ) -> Result<(), CommandFailure> {
        if self.json {
            let line =
                serde_json::json!({ "file": file, kind: name, "held": result.is_ok(), "difference": result.err() });
            return output::line(&line.to_string());
        }
        match result {
            Ok(()) => output::line(&format!("  held    {}", escape(name))),
            Err(difference) => {
                let indented: String = difference.lines().map(|line| format!("          {}\n", escape(line))).collect();
                output::text(&format!("  FAILED  {}\n{indented}", escape(name)))
            }
        }
    }
}

/// Makes a command that a test sends. It is the first cause of what follows from it.
pub(super) fn command(
    id: Arc<str>,
    stream: StreamId,
    name: &str,
    payload: Vec<u8>,
    headers: &BTreeMap<String, String>,
    time_ms: u64,
) -> Command {
    let header =
        |(name, value): (&String, &String)| Header { name: name.clone(), value: Some(value.clone().into_bytes()) };
    Command {
        stream,
        name: name.into(),
        payload,
        time_ms,
        correlation_id: id.clone(),
        causation_id: id.clone(),
        id,
        headers: headers.iter().map(header).collect(),
        origin: None,
        durable_id: false,
        outcome_use: Default::default(),
        first_ms: None,
        hops: 0,
        expected: None,
    }
}
