//! `wasmill check`: a manifest and its plugins, before anything is started.

use super::failure::Failure;
use super::output;
use crate::manifest::Manifest;
use std::path::Path;

pub(super) fn check(path: &Path, json: bool) -> Result<(), Failure> {
    let manifest = Manifest::load(path)?;
    let plugins = crate::host::check(&manifest).map_err(Failure::all_failed)?;
    let demand = crate::host::demand(&manifest);
    if json {
        let found =
            serde_json::json!({ "ok": true, "plugins": plugins, "address_space_bytes": demand.address_bytes() });
        return output::line(&found.to_string());
    }
    let found: String = plugins.iter().map(|plugin| format!("  {plugin}\n")).collect();
    output::text(&format!("{} is valid\n{found}  reserves {}\n", path.display(), demand.in_words()))
}
