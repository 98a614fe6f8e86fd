//! `wasmill plugins`: lists, describes and reloads the loaded plugins.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::{output, render};
use crate::status::{AllReloaded, Rebuilding, Reloaded, Status};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the plugins with their versions and roles.
    List(Target),
    /// Show what a plugin says about itself: its roles, and the names of its commands, events and queries.
    ///
    /// With `--json`, their JSON Schemas are shown too, as far as the plugin has them.
    Describe {
        /// The plugin's name in the manifest.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Load plugins' files again and switch to them, all or none. If one fails, the old code of all keeps running.
    ///
    /// Readers of events switch before those that record them. New code of a projection starts to answer queries when its read model has caught up. The command waits for that.
    /// When the time is up, it prints the position of the read model and exits with 3.
    Reload {
        /// The plugins' names in the manifest.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// The longest time to wait until the new code answers queries.
        #[arg(long, value_name = "MS")]
        timeout_ms: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn plugins(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Describe { name, target } => describe(&name, &target, json),
        Command::Reload { names, timeout_ms, target } => reload(&names, timeout_ms, &target, json),
    }
}

fn list(target: &Target, json: bool) -> Result<(), CommandFailure> {
    let status: Status = Client::new(target)?.get("/v1/status")?.successful()?.decoded()?;
    if json {
        output::line(
            &serde_json::to_string(&status.plugins).map_err(|cause| CommandFailure::failed(cause.to_string()))?,
        )
    } else {
        output::text(&render::plugins(&status.plugins).to_string())
    }
}

fn describe(name: &str, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let path = format!("/v1/plugins/{}", segment(name));
    let reply = Client::new(target)?.get(&path)?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    output::text(&render::description(&reply.decoded()?))
}

fn reload(names: &[String], timeout_ms: Option<u64>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let wait = timeout_ms.map_or(String::new(), |timeout| format!("?timeout_ms={timeout}"));
    let body = serde_json::json!({ "plugins": names }).to_string();
    let reply = Client::new(target)?.post(&format!("/v1/plugins/reload{wait}"), &[], body.as_bytes())?;
    let reply = if reply.status == 202 { reply } else { reply.successful()? };
    let AllReloaded { plugins } = reply.decoded()?;
    let is_building = plugins.iter().any(|plugin| plugin.building.is_some());
    if json {
        output::line(&reply.text())?;
        return if is_building { Err(CommandFailure::under_way("")) } else { Ok(()) };
    }
    let mut building = Vec::new();
    for Reloaded { plugin, version, digest, building: rebuilding } in plugins {
        let code = format!("{plugin} {version} ({})", render::short_digest(&digest));
        match rebuilding {
            None => output::line(&format!("reloaded {code}"))?,
            Some(Rebuilding { projection, position, of }) => building.push(format!(
                "{code} is loaded, and projection {projection} is building its read model, at position {position} of {of}: \
                 until then the previous code answers, if there is any; `wasmill status` shows the progress"
            )),
        }
    }
    if building.is_empty() { Ok(()) } else { Err(CommandFailure::under_way(building.join("\n"))) }
}
