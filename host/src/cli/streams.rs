//! `wasmill streams`: shows, archives and restores a stream.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::output;
use super::table::number;
use crate::status::StreamStatus;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show a stream's version and whether it is archived.
    Show(Stream),
    /// Archive a stream: it accepts no more events. Its events stay and are read as before.
    Archive(Stream),
    /// Restore an archived stream: it accepts events again.
    Restore(Stream),
}

#[derive(clap::Args)]
pub(super) struct Stream {
    /// The type of the aggregate.
    aggregate: String,
    /// The aggregate's id.
    id: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn streams(command: Command, json: bool) -> Result<(), CommandFailure> {
    let (Command::Show(stream) | Command::Archive(stream) | Command::Restore(stream)) = &command;
    let client = Client::new(&stream.target)?;
    let path = format!("/v1/streams/{}/{}", segment(&stream.aggregate), segment(&stream.id));
    let reply = match &command {
        Command::Show(_) => client.get(&path)?,
        Command::Archive(_) => client.post(&format!("{path}/archive"), &[], b"")?,
        Command::Restore(_) => client.post(&format!("{path}/restore"), &[], b"")?,
    };
    let reply = reply.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let StreamStatus { stream, version, archived, .. } = reply.decoded()?;
    let state = if archived { "archived: it takes no more events" } else { "open" };
    output::line(&format!("{stream} is at version {}, {state}", number(version)))
}
