//! `wasmill reload`: has a running host apply its manifest as it is on disk now.

use super::client::{Client, Target};
use super::failure::CommandFailure;
use super::{output, render};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only show what would change.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) fn reload(args: &Args, json: bool) -> Result<(), CommandFailure> {
    apply(&Client::new(&args.target)?, args.dry_run, json)
}

/// Has a host apply its manifest, and prints what that changes.
pub(super) fn apply(client: &Client, dry_run: bool, json: bool) -> Result<(), CommandFailure> {
    let reply = client.post(&format!("/v1/manifest/reload?dry_run={dry_run}"), &[], b"")?.successful()?;
    if json { output::line(&reply.text()) } else { output::text(&render::manifest_change(&reply.decoded()?)) }
}
