//! Flows through several plugins from a file, run natively.

use super::Plugins;
use std::path::Path;
use wasmill_cases::flows::FlowFile;

/// Runs the flows of a file, each with its own plugins and with the clock at the start of the flow. `wasmill test MANIFEST
/// FILE` runs the same file against the compiled plugins. A relative path starts from the crate's folder. The file is TOML, or
/// JSON if its name ends in `.json`:
///
/// ```toml
/// [[flow]]
/// name = "money moves from one account to another"
/// start = "2026-01-01T00:00:00Z"                              # the default
/// steps = [
///     { send = "Open", to = "account/ada", payload = { name = "Ada" } },
///     { send = "Debit", to = "account/ada", payload = { cents = 1 }, then.rejected = "the balance is 0" },
///     { advance = "1h", then.events = [] },
///     { query = "statements/totals", then.answer = { accounts = 1 } },
/// ]
/// ```
///
/// What a step may expect in `then` is described at [`Then`](wasmill_cases::flows::Then).
///
/// # Panics
/// If the file can't be read, or if a flow fails. The message lists all failed flows, each with its step and the difference.
#[track_caller]
pub fn flows(file: impl AsRef<Path>, plugins: impl Fn() -> Plugins) {
    let FlowFile { file, flows } = FlowFile::read(file).unwrap_or_else(|error| panic!("{error}"));
    let run = |flow: &wasmill_cases::flows::Flow| flow.run(&mut plugins().at(flow.start_ms)).err();
    let failed: Vec<String> = flows
        .iter()
        .filter_map(|flow| run(flow).map(|cause| format!("{}: {}\n{cause}", file.display(), flow.name)))
        .collect();
    assert!(failed.is_empty(), "{} of {} flows failed\n\n{}", failed.len(), flows.len(), failed.join("\n\n"));
}
