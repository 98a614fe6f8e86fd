//! `wasmill plugins`: what is loaded, and loading it anew.

use super::client::{Client, Target, segment};
use super::failure::Failure;
use super::{output, render};
use crate::status::{Reloaded, Status};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the plugins with their versions and roles.
    List(Target),
    /// Load a plugin's file anew and switch to it; where that fails, the old code goes on serving.
    Reload {
        /// The plugin's name in the manifest.
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn plugins(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Reload { name, target } => reload(&name, &target, json),
    }
}

fn list(target: &Target, json: bool) -> Result<(), Failure> {
    let status: Status = Client::new(target)?.get("/v1/status")?.successful()?.decoded()?;
    if json {
        output::line(&serde_json::to_string(&status.plugins).map_err(|cause| Failure::failed(cause.to_string()))?)
    } else {
        output::text(&render::plugins(&status.plugins).to_string())
    }
}

fn reload(name: &str, target: &Target, json: bool) -> Result<(), Failure> {
    let reply = Client::new(target)?.post(&format!("/v1/plugins/{}/reload", segment(name)), &[], b"")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let Reloaded { plugin, version, digest } = reply.decoded()?;
    output::line(&format!("reloaded {plugin} {version} ({})", render::short_digest(&digest)))
}
