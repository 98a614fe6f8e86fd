//! `wasmill subscriptions`: lists, pauses, resumes and resets subscriptions.

use super::client::{Client, Target, segment};
use super::failure::{CommandFailure, confirmed};
use super::{output, render};
use crate::status::{Paused, Reset, SubscriptionStatus};
use std::cmp::Ordering;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the subscriptions. A subscription to the records of a source is named source/NAME.
    List(Target),
    /// Pause a subscription until it is resumed, even after a restart of the host.
    Pause(Subscription),
    /// Resume a paused subscription.
    Resume(Subscription),
    /// Let a subscription to events resume from another place. What it sent for events after that place is sent again.
    Reset(ResetTo),
}

#[derive(clap::Args)]
pub(super) struct ResetTo {
    /// The name of the subscriber's plugin in the manifest, or of a segment (NAME:2of4).
    name: String,
    /// The place: the position of the first event, `beginning` or `now`.
    #[arg(long, value_name = "PLACE", value_parser = place)]
    to: Place,
    /// Confirm the reset.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    target: Target,
}

/// A place from which a subscription resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Word(&'static str),
    Position(u64),
}

fn place(text: &str) -> Result<Place, String> {
    match (text, text.parse()) {
        ("beginning", _) => Ok(Place::Word("beginning")),
        ("now", _) => Ok(Place::Word("now")),
        (_, Ok(position)) if position > 0 => Ok(Place::Position(position)),
        _ => Err("expected the position of an event (from 1), `beginning` or `now`".to_owned()),
    }
}

#[derive(clap::Args)]
pub(super) struct Subscription {
    /// The name of the subscriber's plugin in the manifest, of a segment (NAME:2of4), or source/NAME.
    name: String,
    #[command(flatten)]
    target: Target,
}

pub(super) fn subscriptions(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List(target) => list(&target, json),
        Command::Pause(subscription) => set(&subscription, "pause", json),
        Command::Resume(subscription) => set(&subscription, "resume", json),
        Command::Reset(reset_to) => reset(&reset_to, json),
    }
}

fn reset(ResetTo { name, to, yes, target }: &ResetTo, json: bool) -> Result<(), CommandFailure> {
    let client = Client::new(target)?;
    if !yes {
        let found: Vec<SubscriptionStatus> = client.get("/v1/subscriptions")?.successful()?.decoded()?;
        // The host explains the error if there is no subscription of this name, or if it reads records.
        if let Some(found) = found.iter().find(|found| found.name == *name && found.name == found.plugin) {
            confirmed(false, &consequence(found, to))?;
        }
    }
    let to = match to {
        Place::Word(word) => serde_json::Value::from(*word),
        Place::Position(position) => (*position).into(),
    };
    let body = serde_json::json!({ "to": to }).to_string();
    let reply =
        client.post(&format!("/v1/subscriptions/{}/reset", segment(name)), &[], body.as_bytes())?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let Reset { name, from, to } = reply.decoded()?;
    output::line(&format!("{name} resumes after position {to}; its checkpoint was {from}"))
}

/// Says what a reset does.
fn consequence(found: &SubscriptionStatus, to: &Place) -> String {
    let SubscriptionStatus { name, checkpoint, behind, .. } = found;
    let newest = checkpoint + behind;
    let to = match to {
        Place::Word("beginning") => 0,
        Place::Word(_) => newest,
        Place::Position(position) => position - 1,
    };
    let keys = match found.retried_keys + found.waiting_keys {
        0 => String::new(),
        1 => "; 1 held key is free, and its dead letter stays".to_owned(),
        keys => format!("; {keys} held keys are free, and their dead letters stay"),
    };
    let moves = match to.cmp(checkpoint) {
        Ordering::Less => format!(
            "handles the events from position {} to {checkpoint} again, and sends what follows from them again",
            to + 1
        ),
        Ordering::Equal => "stays at its position".to_owned(),
        Ordering::Greater => format!("never handles the events from position {} to {to}", checkpoint + 1),
    };
    format!("subscription {name} {moves}{keys}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_says_what_is_handled_again_or_never() {
        assert!(["0", "-1", "yesterday", ""].iter().all(|text| place(text).is_err()));
        let found = SubscriptionStatus { name: "depot".into(), checkpoint: 10, behind: 5, ..Default::default() };
        let says = |to: &str| consequence(&found, &place(to).unwrap());
        let again = "handles the events from position";
        assert_eq!(
            says("beginning"),
            format!("subscription depot {again} 1 to 10 again, and sends what follows from them again")
        );
        assert_eq!(
            says("8"),
            format!("subscription depot {again} 8 to 10 again, and sends what follows from them again")
        );
        assert_eq!(says("11"), "subscription depot stays at its position");
        assert_eq!(says("now"), "subscription depot never handles the events from position 11 to 15");
        let holds = SubscriptionStatus { waiting_keys: 1, retried_keys: 1, ..found.clone() };
        assert!(
            consequence(&holds, &Place::Position(11)).ends_with("; 2 held keys are free, and their dead letters stay")
        );
    }
}
