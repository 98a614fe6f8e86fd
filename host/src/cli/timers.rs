//! `wasmill timers`: lists and cancels timers.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::output;
use super::table::{Align, Table, number, time};
use crate::status::{TimerItem, Timers};
use serde_json::Value;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the timers that are due first.
    List {
        /// Only timers of this subscription: the name of a plugin, of a segment (NAME:2of4), or source/NAME.
        #[arg(long, value_name = "NAME")]
        subscription: Option<String>,
        /// At most this many, up to 1,000.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Cancel a timer, so that it never fires.
    Cancel {
        /// The number of the timer.
        number: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn timers(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List { subscription, limit, target } => list(&target, subscription.as_deref(), limit, json),
        Command::Cancel { number, target } => {
            let reply = Client::new(&target)?.post(&format!("/v1/timers/{number}/cancel"), &[], b"")?.successful()?;
            if json {
                return output::line(&reply.text());
            }
            let answer: Value = reply.decoded()?;
            output::line(&format!("{}: cancelled", answer["number"]))
        }
    }
}

fn list(target: &Target, subscription: Option<&str>, limit: usize, json: bool) -> Result<(), CommandFailure> {
    let of = subscription.map_or(String::new(), |name| format!("&subscription={}", segment(name)));
    let reply = Client::new(target)?.get(&format!("/v1/timers?limit={limit}{of}"))?.successful()?;
    if json {
        return output::line(&reply.text());
    }
    let found: Timers = reply.decoded()?;
    output::text(&text(&found))
}

fn text(Timers { total, timers }: &Timers) -> String {
    let mut table = Table::new([
        ("NUMBER", Align::Right),
        ("DUE", Align::Left),
        ("SUBSCRIPTION", Align::Left),
        ("TIMER", Align::Left),
        ("KEY", Align::Left),
        ("DOES", Align::Left),
    ]);
    for TimerItem { number: timer, subscription, name, key, due_ms, does } in timers {
        let [name, key] = [name, key].map(|text| text.clone().unwrap_or_default());
        table.row([timer.to_string(), time(*due_ms), subscription.clone(), name, key, does.clone()]);
    }
    format!("{table}{} of {} timers\n", number(timers.len() as u64), number(*total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_when_each_timer_is_due_and_what_it_does() {
        let timer = TimerItem {
            number: 7,
            subscription: "checkout".into(),
            name: Some("unpaid:1".into()),
            key: Some("1".into()),
            due_ms: 1_700_000_000_000,
            does: "wakes the subscriber".into(),
        };
        let shown = text(&Timers { total: 1_000_000, timers: vec![timer] });
        assert_eq!(
            shown,
            "NUMBER  DUE                   SUBSCRIPTION  TIMER     KEY  DOES\n     \
             7  2023-11-14T22:13:20Z  checkout      unpaid:1  1    wakes the subscriber\n\
             1 of 1,000,000 timers\n"
        );
    }
}
