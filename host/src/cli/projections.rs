//! `wasmill projections`: who answers, and passing over an event that a projection can't take.

use super::client::{Client, Target, segment};
use super::failure::Failure;
use super::{output, render};
use crate::status::{SkippedEvent, Status};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the projections: which code answers, what is being built, and what is in the way.
    List(Target),
    /// Have a projection pass over the event that it has stopped at, now and each time that it is built again.
    ///
    /// The read model then misses that event. The decision is kept in the store and shown by `list`.
    Skip {
        /// The projection, such as sales.
        name: String,
        /// The event's position, as the projection's error says it.
        position: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn projections(command: Command, json: bool) -> Result<(), Failure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Skip { name, position, target } => skip(&name, position, &target, json),
    }
}

fn list(target: &Target, json: bool) -> Result<(), Failure> {
    let status: Status = Client::new(target)?.get("/v1/status")?.successful()?.decoded()?;
    if json {
        output::line(&serde_json::to_string(&status.projections).map_err(|cause| Failure::failed(cause.to_string()))?)
    } else {
        output::text(&render::projections(&status.projections).to_string())
    }
}

fn skip(name: &str, position: u64, target: &Target, json: bool) -> Result<(), Failure> {
    let path = format!("/v1/projections/{}/skip?position={position}", segment(name));
    let reply = Client::new(target)?.post(&path, &[], b"")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let SkippedEvent { position, event, .. } = reply.decoded()?;
    output::line(&format!("projection {name} passes over {event} ({position})"))
}
