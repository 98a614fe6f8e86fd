//! `wasmill subscriptions`: lists, pauses and resumes subscriptions.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::{output, render};
use crate::status::{Paused, SubscriptionStatus};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the subscriptions. A subscription to the records of a source is named source/NAME.
    List(Target),
    /// Pause a subscription until it is resumed, even after a restart of the host.
    Pause(Subscription),
    /// Resume a paused subscription.
    Resume(Subscription),
}

#[derive(clap::Args)]
pub(super) struct Subscription {
    /// The name of the subscriber's plugin in the manifest, or source/NAME.
    name: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn subscriptions(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Pause(subscription) => set(&subscription, "pause", json),
        Command::Resume(subscription) => set(&subscription, "resume", json),
    }
}

fn list(target: &Target, json: bool) -> Result<(), CommandFailure> {
    let reply = Client::new(target)?.get("/v1/subscriptions")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let found: Vec<SubscriptionStatus> = reply.decoded()?;
    output::text(&render::subscriptions(&found).to_string())
}

fn set(Subscription { name, target }: &Subscription, what: &str, json: bool) -> Result<(), CommandFailure> {
    let path = format!("/v1/subscriptions/{}/{what}", segment(name));
    let reply = Client::new(target)?.post(&path, &[], b"")?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let Paused { name, paused } = reply.decoded()?;
    output::line(&if paused { format!("{name} is paused") } else { format!("{name} is resumed") })
}
