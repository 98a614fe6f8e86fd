//! Cases of projections.

use super::{check_all, given, read, refusal};
use crate::Projection;
use crate::bindings::types;
use crate::projection::QueryError;
use crate::testing::plugins::code::{Given, guarded};
use crate::testing::plugins::patterns;
use crate::testing::{ReadModel, envelope};
use std::path::Path;
use wasmill_cases::projection::{Answer, Case};
use wasmill_cases::{Cases, RecordedEvent, versions};

/// Runs the cases of a file against a projection, each with a read model of its own. `wasmill test PLUGIN.wasm FILE` runs the
/// same file against the compiled plugin. The rules for the file are those of [`cases`](super::cases()):
///
/// ```toml
/// projection = "stores"                                    # its name; `settings` are optional
///
/// [[case]]
/// name = "the sales of a store are added up"
/// given = [                                                # also: version, time_ms, headers
///     { on = "order/1", name = "OrderCreated", payload = { store_id = "a", amount_cents = 5 } },
///     { on = "order/2", name = "OrderCreated", payload = { store_id = "a", amount_cents = 7 } },
/// ]
/// when = { query = "sales-of", params = { store_id = "a" } }
/// then.answer = 12                                         # or: malformed = "…", failed = "…"
/// ```
///
/// An event that the projection refuses, does not know or does not subscribe to fails the case.
///
/// ```
/// # use wasmill_guest::prelude::*;
/// # #[derive(Serialize, Deserialize)] enum Query { Count }
/// # struct Orders;
/// # impl Projection for Orders {
/// #     const NAME: &'static str = "orders";
/// #     const SUBSCRIPTIONS: &'static [&'static str] = &["order.Placed"];
/// #     const SCHEMA: &'static str = "CREATE TABLE orders (id TEXT PRIMARY KEY)";
/// #     type Query = Query;
/// #     fn project(event: &Event, sql: &Sql) -> Result<(), Failure> {
/// #         sql.execute("INSERT INTO orders VALUES (?1)", params![event.aggregate_id()])?;
/// #         Ok(())
/// #     }
/// #     fn query(Query::Count: Query, sql: &Sql) -> Result<Answer, QueryError> {
/// #         let count: Option<i64> = sql.row("SELECT count(*) FROM orders", params![])?;
/// #         Answer::json(&count)
/// #     }
/// # }
/// # let file = std::env::temp_dir().join(format!("wasmill-orders-{}.toml", std::process::id()));
/// # std::fs::write(&file, r#"
/// # projection = "orders"
/// # [[case]]
/// # name = "orders are counted"
/// # given = [{ on = "order/1", name = "Placed" }, { on = "order/2", name = "Placed" }]
/// # when.query = "Count"
/// # then.answer = 2
/// # "#).unwrap();
/// wasmill_guest::testing::projection_cases::<Orders>(&file);
/// # std::fs::remove_file(file).unwrap();
/// ```
///
/// # Panics
/// If the file can't be read, if it is about something else, or if a case fails. The message lists all failed cases.
#[track_caller]
pub fn projection_cases<P: Projection>(file: impl AsRef<Path>) {
    let suite = read(file);
    let given = given(&suite);
    let cases = match &suite.cases {
        Cases::Projection(cases) if suite.name == P::NAME => cases,
        _ => panic!("{}", suite.is_not_for(format_args!("projection {}", P::NAME))),
    };
    let selected = patterns::checked(P::NAME, P::SUBSCRIPTIONS);
    check_all(&suite, cases, |case| &case.name, |case| case.check(&answer::<P>(&given, &selected, case)));
}

/// Runs a case. A panic is a failure of the case, as a trap is in a host.
fn answer<P: Projection>(given: &Given, selected: &[&str], case: &Case) -> Answer {
    let folded = guarded(given, || folded::<P>(selected, case));
    let read_model = match folded.unwrap_or_else(|panicked| Err(Answer::Broken(panicked))) {
        Ok(read_model) => read_model,
        Err(answer) => return answer,
    };
    let answered = guarded(given, || read_model.try_query(&case.when.query, case.when.bytes()));
    match answered.unwrap_or_else(|panicked| Err(QueryError::Failed(panicked))) {
        Ok(answer) => Answer::Answer(answer),
        Err(QueryError::Unknown(known)) => Answer::Unknown(known),
        Err(QueryError::Malformed(reason)) => Answer::Malformed(reason),
        Err(QueryError::Failed(reason)) => Answer::Failed(reason),
    }
}

/// Folds the events of a case into a new read model. The error is the answer if one of them is not folded.
fn folded<P: Projection>(selected: &[&str], Case { given, .. }: &Case) -> Result<ReadModel<P>, Answer> {
    let mut read_model = ReadModel::new();
    for ((event, version), place) in given.iter().zip(versions(given)).zip(1..) {
        if !patterns::select(selected, &event.on.aggregate_type, &event.name) {
            return Err(Answer::not_folded(place, event, &event.not_selected()));
        }
        match read_model.fold(recorded(event, place as u64, version)) {
            Ok(true) => {}
            Ok(false) => return Err(Answer::skipped(place, event)),
            Err(failure) => return Err(Answer::not_folded(place, event, &refusal(failure.into()).to_string())),
        }
    }
    Ok(read_model)
}

fn recorded(event: &RecordedEvent, position: u64, version: u64) -> types::RecordedEvent {
    let RecordedEvent { on, name, time_ms, headers, .. } = event;
    let mut recorded = envelope::recorded((&on.aggregate_type, &on.aggregate_id), position, name, event.bytes());
    recorded.version = version;
    (recorded.metadata.time, recorded.recorded_time, recorded.first_time) = (*time_ms, *time_ms, *time_ms);
    for (name, value) in headers {
        envelope::add_header(&mut recorded.metadata, name, Some(value.as_bytes()));
    }
    recorded
}
