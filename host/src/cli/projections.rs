//! `wasmill projections`: lists the projections, rebuilds one, and lets one skip an event that it can't handle.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::{output, render};
use crate::status::{SkippedEvent, Status};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the projections: which code answers queries, which read models are being built, and what is blocked.
    List(Target),
    /// Build the read model of a projection again from the store, with the code that answers.
    ///
    /// The old read model answers until the new one has caught up. `list` shows the progress. If the host is restarted
    /// meanwhile, the rebuild is forgotten.
    Rebuild {
        /// The projection, such as sales.
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Make a projection skip the event that it stopped at, now and each time that it is rebuilt.
    ///
    /// The read model then lacks that event. The store keeps this decision, and `list` shows it.
    Skip {
        /// The projection, such as sales.
        name: String,
        /// The position of the event, which the projection's error shows.
        position: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn projections(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Rebuild { name, target } => rebuild(&name, &target, json),
        Command::Skip { name, position, target } => skip(&name, position, &target, json),
    }
}

fn list(target: &Target, json: bool) -> Result<(), CommandFailure> {
    let status: Status = Client::new(target)?.get("/v1/status")?.successful()?.decoded()?;
    if json {
        output::line(
            &serde_json::to_string(&status.projections).map_err(|cause| CommandFailure::failed(cause.to_string()))?,
        )
    } else {
        output::text(&render::projections(&status.projections).to_string())
    }
}

fn rebuild(name: &str, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let path = format!("/v1/projections/{}/rebuild", segment(name));
    let reply = Client::new(target)?.post(&path, &[], b"")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    output::line(&format!(
        "projection {name} is being rebuilt; until it has caught up, its old read model answers (`wasmill projections list`)"
    ))
}

fn skip(name: &str, position: u64, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let path = format!("/v1/projections/{}/skip?position={position}", segment(name));
    let reply = Client::new(target)?.post(&path, &[], b"")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let SkippedEvent { position, event, .. } = reply.decoded()?;
    output::line(&format!("projection {name} skips {event} ({position})"))
}
