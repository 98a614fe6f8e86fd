//! `wasmill streams`: one stream, and whether it takes events.

use super::client::{Client, Target, segment};
use super::failure::Failure;
use super::output;
use super::table::number;
use crate::status::StreamStatus;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Show a stream's version, and whether it is archived.
    Show(Stream),
    /// Let a stream take no more events. What is in it stays, and is read as before.
    Archive(Stream),
    /// Let an archived stream take events again.
    Restore(Stream),
}

#[derive(clap::Args)]
pub(super) struct Stream {
    /// The type of the aggregate.
    aggregate: String,
    /// Its id.
    id: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn streams(command: Command, json: bool) -> Result<(), Failure> {
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
