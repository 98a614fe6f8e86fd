//! `wasmill plugins`: lists, describes and reloads the loaded plugins, and adds plugins to the manifest or removes them.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::{manifest_file, output, render};
use crate::status::{AllReloaded, Rebuilding, Reloaded, Status};
use std::path::PathBuf;

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
        /// Take the code of the files even if it is held back after a revert, and without a replay of histories.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        target: Target,
    },
    /// Show which code of a plugin served, from when to when, and why it does not serve any more.
    History {
        /// The plugin's name in the manifest.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Put older code of a plugin into service again. The code of its file is held back until the file changes.
    ///
    /// It is refused if the older code can't read what newer code has recorded.
    Revert {
        /// The plugin's name in the manifest.
        name: String,
        /// The beginning of the digest. The default is the newest kept code that was not reverted.
        digest: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Add a plugin to the manifest of a running host, and have the host apply the manifest.
    ///
    /// If the host refuses it, the manifest stays as it was.
    Load {
        /// The plugin's .wasm file.
        file: PathBuf,
        /// The plugin's name in the manifest. The default is the name of the file without its ending.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Remove a plugin, its subscription's section and its projections' sections from the manifest of a running host, and have the
    /// host apply the manifest.
    ///
    /// What the plugin has recorded stays. If the host refuses it, the manifest stays as it was.
    Unload {
        /// The plugin's name in the manifest.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn plugins(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Describe { name, target } => describe(&name, &target, json),
        Command::Load { file, name, target } => manifest_file::load(&file, name.as_deref(), &target, json),
        Command::Unload { name, target } => manifest_file::unload(&name, &target, json),
        Command::Reload { names, timeout_ms, force, target } => reload(&names, timeout_ms, force, &target, json),
        Command::History { name, target } => history(&Client::new(&target)?, &name, json),
        Command::Revert { name, digest, target } => revert(&name, digest.as_deref(), &target, json),
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

fn history(client: &Client, name: &str, json: bool) -> Result<(), CommandFailure> {
    let reply = client.get(&format!("/v1/plugins/{}/history", segment(name)))?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&render::history(&reply.decoded()?)) }
}

fn revert(name: &str, digest: Option<&str>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let digest = digest.map_or(String::new(), |digest| format!("?digest={}", segment(digest)));
    let path = format!("/v1/plugins/{}/revert{digest}", segment(name));
    let reply = Client::new(target)?.post(&path, &[], b"")?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&render::history(&reply.decoded()?)) }
}

fn reload(
    names: &[String],
    timeout_ms: Option<u64>,
    force: bool,
    target: &Target,
    json: bool,
) -> Result<(), CommandFailure> {
    let wait = timeout_ms.map_or(String::new(), |timeout| format!("&timeout_ms={timeout}"));
    let body = serde_json::json!({ "plugins": names }).to_string();
    let path = format!("/v1/plugins/reload?force={force}{wait}");
    let reply = Client::new(target)?.post(&path, &[], body.as_bytes())?;
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
