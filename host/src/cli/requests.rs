//! `wasmill requests`: lists HTTP requests of plugins, and gives one up.

use super::client::{Client, Target, segment};
use super::failure::CommandFailure;
use super::output;
use super::table::{Align, Table, number, time};
use crate::status::{RequestItem, RequestWaits, Requests};
use serde_json::Value;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// List the HTTP requests of plugins that have not ended, the oldest first.
    List {
        /// Only requests of this subscription: the name of a plugin, of a segment (NAME:2of4), or source/NAME.
        #[arg(long, value_name = "NAME")]
        subscription: Option<String>,
        /// Only requests with a greater number.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        after: u64,
        /// At most this many, up to 1,000.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Give up a request: no more attempts are made, and its plugin gets the answer that it failed.
    GiveUp {
        /// The number of the request.
        number: u64,
        #[command(flatten)]
        target: Target,
    },
}

pub(super) fn requests(command: Command, json: bool) -> Result<(), CommandFailure> {
    match command {
        Command::List { subscription, after, limit, target } => {
            let of = subscription.map_or(String::new(), |name| format!("&subscription={}", segment(&name)));
            let reply = Client::new(&target)?.get(&format!("/v1/requests?after={after}&limit={limit}{of}"))?;
            let reply = reply.successful()?;
            if json {
                return output::line(&reply.text());
            }
            output::text(&text(&reply.decoded()?))
        }
        Command::GiveUp { number, target } => {
            let reply =
                Client::new(&target)?.post(&format!("/v1/requests/{number}/give-up"), &[], b"")?.successful()?;
            if json {
                return output::line(&reply.text());
            }
            let answer: Value = reply.decoded()?;
            output::line(&format!("{}: given up", answer["number"]))
        }
    }
}

fn text(Requests { total, requests }: &Requests) -> String {
    let mut table = Table::new([
        ("NUMBER", Align::Right),
        ("SUBSCRIPTION", Align::Left),
        ("REQUEST", Align::Left),
        ("KEY", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("WAITS FOR", Align::Left),
    ]);
    for request in requests {
        let RequestItem { number: of, subscription, endpoint, method, path, key, attempts, interrupted, .. } = request;
        let waits = match request.waits {
            RequestWaits::Answer { since_ms } => format!("an answer, since {}", time(since_ms)),
            RequestWaits::Due { due_ms } => format!("its next attempt, at {}", time(due_ms)),
            RequestWaits::Earlier => "an earlier request of its key".to_owned(),
        };
        let what = format!("{method} {endpoint}/{path}");
        let key = key.clone().unwrap_or_default();
        table.row([of.to_string(), subscription.clone(), what, key, number(u64::from(*attempts)), waits]);
        if let Some(error) = &request.error {
            table.note(&format!("error: {error}"));
        }
        if *interrupted > 0 {
            table.note(&format!("attempts that the end of a host interrupted: {interrupted}"));
        }
    }
    format!("{table}{} of {} requests\n", number(requests.len() as u64), number(*total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_each_request_waits_for_and_what_went_wrong() {
        let item = RequestItem {
            number: 7,
            subscription: "checkout".into(),
            endpoint: "payments".into(),
            method: "POST".into(),
            path: "charges".into(),
            id: "id-7".into(),
            key: Some("order-1".into()),
            correlation_id: "c".into(),
            attempts: 2,
            interrupted: 1,
            waits: RequestWaits::Due { due_ms: 1_700_000_000_000 },
            error: Some("the server answered with status 503".into()),
        };
        let behind = RequestItem { number: 8, attempts: 0, interrupted: 0, error: None, ..item.clone() };
        let requests = vec![item, RequestItem { waits: RequestWaits::Earlier, ..behind }];
        let shown = text(&Requests { total: 12_000, requests });
        let expected = [
            "NUMBER  SUBSCRIPTION  REQUEST                KEY      ATTEMPTS  WAITS FOR",
            "     7  checkout      POST payments/charges  order-1         2  its next attempt, at 2023-11-14T22:13:20Z",
            "  error: the server answered with status 503",
            "  attempts that the end of a host interrupted: 1",
            "     8  checkout      POST payments/charges  order-1         0  an earlier request of its key",
            "2 of 12,000 requests",
        ];
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
    }
}
