//! `wasmill plugins`: lists the loaded plugins and reloads them.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::{output, render};
use crate::status::{Rebuilding, Reloaded, Status};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the plugins with their versions and roles.
    List(Target),
    /// Load a plugin's file again and switch to it. If that fails, the old code keeps running.
    ///
    /// New code of a projection starts to answer queries when its read model has caught up. The command waits for that.
    /// When the time is up, it prints the position of the read model and exits with 3.
    Reload {
        /// The plugin's name in the manifest.
        name: String,
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
        Command::Reload { name, timeout_ms, target } => reload(&name, timeout_ms, &target, json),
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

fn reload(name: &str, timeout_ms: Option<u64>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let wait = timeout_ms.map_or(String::new(), |timeout| format!("?timeout_ms={timeout}"));
    let reply = Client::new(target)?.post(&format!("/v1/plugins/{}/reload{wait}", segment(name)), &[], b"")?;
    let reply = if reply.status == 202 { reply } else { reply.successful()? };
    let Reloaded { plugin, version, digest, building } = reply.decoded()?;
    if json {
        output::line(&reply.text())?;
        return if building.is_some() { Err(CommandFailure::under_way("")) } else { Ok(()) };
    }
    let code = format!("{plugin} {version} ({})", render::short_digest(&digest));
    match building {
        None => output::line(&format!("reloaded {code}")),
        Some(Rebuilding { projection, position, of }) => Err(CommandFailure::under_way(format!(
            "{code} is loaded, and projection {projection} is building its read model, at position {position} of {of}: \
             until then the previous code answers, if there is any; `wasmill status` shows the progress"
        ))),
    }
}
