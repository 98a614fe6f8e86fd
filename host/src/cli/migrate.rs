//! `wasmill store migrate`: moves a store from a file into PostgreSQL or back. `wasmill store reopen`: lets a store that was moved
//! start again, if the one to which it was moved is lost.

use super::failure::{CommandFailure, confirmed};
use super::output;
use super::progress::Progress;
use super::store_place::{self, Existing};
use super::table::number;
use crate::paths;
use crate::store::{self, Location, MoveStep, Moved};
use serde::Serialize;
use std::time::Instant;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The store that is moved. No host may have it open.
    #[arg(long, value_name = "DATA|FILE|URL|MANIFEST")]
    from: String,
    /// The place of the new store, where there is none yet, or an unfinished move of the same store. A URL has no password:
    /// PGPASSWORD has it, or name a manifest whose `store.url` is in the environment or in a file.
    #[arg(long, value_name = "DATA|FILE|URL|MANIFEST")]
    to: String,
}

#[derive(clap::Args)]
pub(super) struct ReopenArgs {
    /// The store that was moved.
    #[arg(value_name = "DATA|FILE|URL|MANIFEST")]
    place: String,
    /// Do it.
    #[arg(long)]
    yes: bool,
}

/// What was moved.
#[derive(Serialize)]
struct Report {
    from: String,
    to: String,
    store: String,
    position: u64,
    events: u64,
    rows: u64,
    elapsed_ms: u64,
}

pub(super) fn migrate(args: &Args, json: bool) -> Result<(), CommandFailure> {
    let from = absolute(store_place::location(&args.from, Existing::Yes)?);
    let to = absolute(store_place::location(&args.to, Existing::No)?);
    let started = Instant::now();
    let (mut at, mut progress) = (MoveStep::VerifySource, Progress::new(words(MoveStep::VerifySource), "events", 0));
    let moved = store::migrate(&from, &to, &mut |step, done, of| {
        if step != at || done <= 1 {
            let items = if matches!(step, MoveStep::CopyRest | MoveStep::Compare) { "rows" } else { "events" };
            (at, progress) = (step, Progress::new(words(step), items, of));
        }
        progress.at(done);
    });
    let Moved { identity, position, rows, events } =
        moved.map_err(|error| CommandFailure::failed(error.to_string()))?;
    let report = Report {
        from: from.in_command(),
        to: to.in_command(),
        store: identity.to_string(),
        position,
        events,
        rows,
        elapsed_ms: started.elapsed().as_millis() as u64,
    };
    match json {
        true => output::line(&serde_json::json!(report).to_string()),
        false => output::text(&text(&report)),
    }
}

fn words(step: MoveStep) -> &'static str {
    match step {
        MoveStep::VerifySource => "verified in the source:",
        MoveStep::CopyEvents | MoveStep::CopyRest => "copied",
        MoveStep::VerifyTarget => "verified in the target:",
        MoveStep::Compare => "compared",
    }
}

fn text(report: &Report) -> String {
    let Report { from, to, store, .. } = report;
    let [position, events, rows, elapsed_ms] =
        [report.position, report.events, report.rows, report.elapsed_ms].map(number);
    format!(
        "the store {store} is in {to} now: up to position {position}, {rows} rows copied, {events} of them events, in {elapsed_ms} ms\n\
         both were verified and compared; no host starts on {from} any more, which was kept as it was\n"
    )
}

pub(super) fn reopen(args: &ReopenArgs, json: bool) -> Result<(), CommandFailure> {
    let place = absolute(store_place::location(&args.place, Existing::Yes)?);
    confirmed(
        args.yes,
        "the store starts again with what it had when it was moved, and everything since then is lost; if the other store starts too, \
         both do the same again and get in each other's way",
    )?;
    let other = store::reopen(&place).map_err(|error| CommandFailure::failed(error.to_string()))?;
    match json {
        true => output::line(&serde_json::json!({ "store": place.in_command(), "was_moved_to": other }).to_string()),
        false => output::line(&format!("a host starts on {} again; it was moved to {other}", place.in_command())),
    }
}

/// Returns the location with the whole path, by which two names of one file are the same.
fn absolute(location: Location) -> Location {
    match location {
        Location::Sqlite(file) => Location::Sqlite(paths::absolute(&file)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_where_the_store_is_now() {
        let report = Report {
            from: "/data/events.sqlite".into(),
            to: "postgres://shop@db/orders".into(),
            store: "0198".into(),
            position: 1_200,
            events: 200,
            rows: 1_300,
            elapsed_ms: 5,
        };
        assert_eq!(
            text(&report),
            "the store 0198 is in postgres://shop@db/orders now: up to position 1,200, 1,300 rows copied, 200 of them events, in 5 ms\n\
             both were verified and compared; no host starts on /data/events.sqlite any more, which was kept as it was\n"
        );
    }
}
