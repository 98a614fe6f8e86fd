//! `wasmill check`: checks a manifest and its plugins before anything is started.

use super::failure::CommandFailure;
use super::output;
use crate::host::{Checked, Inventory};
use crate::manifest::Manifest;
use std::path::Path;

pub(super) fn check(path: &Path, json: bool) -> Result<(), CommandFailure> {
    let manifest = Manifest::load(path)?;
    let Checked { plugins, idle_keys, unmatched, orphans, moves, unread } =
        crate::host::check(&manifest).map_err(CommandFailure::all_failed)?;
    let demand = crate::host::demand(&manifest);
    if json {
        let found = serde_json::json!({
            "ok": true, "plugins": plugins, "idle_keys": idle_keys, "unmatched": unmatched, "orphans": orphans, "moves": moves, "unread": unread,
            "address_space_bytes": demand.address_bytes()
        });
        return output::line(&found.to_string());
    }
    let found: String = plugins.iter().flat_map(Inventory::lines).map(|line| format!("  {line}\n")).collect();
    let warnings: String =
        idle_keys.iter().chain(&unmatched).map(|sentence| format!("  warning: {sentence}\n")).collect();
    let moves: String = moves.iter().map(|moved| format!("  at the next start: {moved}\n")).collect();
    let orphans: String = orphans.iter().map(|orphan| format!("  only in the store: {orphan}\n")).collect();
    let unread = unread.map_or(String::new(), |why| format!("  the store was not checked: {why}\n"));
    output::text(&format!(
        "{} is valid\n{found}  reserves {}\n{warnings}{moves}{orphans}{unread}",
        path.display(),
        demand.in_words()
    ))
}
