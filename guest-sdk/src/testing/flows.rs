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
///
/// [[flow]]
/// name = "a charge that fails cancels the order"
/// # The first answer that fits a request answers it. `method`, `path` and `times` are optional.
/// answers = [
///     { endpoint = "payments", method = "POST", path = "charges", times = 1, status = 402, json = { error = "no funds" } },
///     { endpoint = "mail", failed = "no route to the server" },   # `status` has `headers`, and `json` or `text`, beside it
/// ]
/// steps = [
///     { send = "Place", to = "order/7", payload = { cents = 500 }, then.requests = [
///         { endpoint = "payments", method = "POST", path = "charges", json = { cents = 500 } },
///     ] },
/// ]
/// ```
///
/// No request leaves the process. If neither an answer of the flow nor [`Plugins::answering`] answers a request, the flow fails.
///
/// What a step may expect in `then` is described at [`Then`](wasmill_cases::flows::Then).
///
/// # Panics
/// If the file can't be read, or if a flow fails. The message lists all failed flows, each with its step and the difference.
#[track_caller]
pub fn flows(file: impl AsRef<Path>, plugins: impl Fn() -> Plugins) {
    let FlowFile { file, flows } = FlowFile::read(file).unwrap_or_else(|error| panic!("{error}"));
    let run = |flow: &wasmill_cases::flows::Flow| flow.run(&mut plugins().of_flow(flow)).err();
    let failed: Vec<String> = flows
        .iter()
        .filter_map(|flow| run(flow).map(|cause| format!("{}: {}\n{cause}", file.display(), flow.name)))
        .collect();
    assert!(failed.is_empty(), "{} of {} flows failed\n\n{}", failed.len(), flows.len(), failed.join("\n\n"));
}
