//! `wasmill test`: runs cases against a compiled plugin, or flows against the compiled plugins of a manifest, in the real
//! runtime.

use super::failure::CommandFailure;
use super::{cases, flows, output};
use crate::escape::escape;
use crate::model::{Command, Header, StreamId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The compiled plugin, for cases of its aggregate, subscriber, saga or projection; or a manifest (.toml), for flows
    /// through its plugins.
    tested: PathBuf,
    /// The files of cases or flows: TOML, or JSON if the name ends in .json.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

pub(super) fn test(args: &Args, json: bool) -> Result<(), CommandFailure> {
    let report = Report { json };
    let is_manifest = args.tested.extension().is_some_and(|ending| ending == "toml");
    let test = if is_manifest { flows::test } else { cases::test };
    let Tally { held, failed } = test(&args.tested, &args.files, &report)?;
    if !json {
        output::line(&format!("{held} held, {failed} failed"))?;
    }
    if failed == 0 { Ok(()) } else { Err(CommandFailure::told()) }
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
