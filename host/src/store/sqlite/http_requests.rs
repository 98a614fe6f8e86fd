//! The HTTP requests of subscriptions that have not ended. They are rows, in the order of the times at which they are due.
//!
//! A step inserts a row. Each attempt changes it twice: before the request is sent, and once it is known how the attempt ended.
//! So a row shows whether an attempt was under way when a host ended. The transaction that has the answer deletes it.
//!
//! Of the requests of one key to one endpoint only the first is ever due. The transaction that deletes it makes the next one
//! due.

use super::callbacks::Time;
use super::fault::{self, FaultPoint};
use super::reader::within_sqlite;
use super::writer::{WriteBatch, Writer};
use super::{Error, division, failed, rows};
use crate::model::{HttpAnswer, HttpRequest, KeptRequest};
use crate::store::http_requests::{INTERRUPTED, absent};
use crate::store::{AttemptEnd, InterruptedOf, ListedRequest, PAGE_BYTES_MAX, RequestQuery, RequestQueue, RequestWait};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::sync::Arc;

/// The columns of a request, in the order in which [`kept`] reads them.
const COLUMNS: &str = "number, subscription, attempts, interrupted, body";

/// The time at which a request is due that has an attempt under way or waits behind another one: never.
const WAITS: i64 = i64::MAX;

pub(super) fn due(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<KeptRequest>, Error> {
    let failed = failed("reading the HTTP requests of a subscription");
    let sql = format!(
        "SELECT {COLUMNS} FROM http_requests WHERE subscription = ?1 AND endpoint = ?2 AND due_ms <= ?3
         ORDER BY due_ms, number LIMIT ?4"
    );
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let bounds = params![subscription, endpoint, due_time(now_ms), within_sqlite(limit as u64)];
    let mut found = select.query(bounds).map_err(&failed)?;
    let (mut due, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES_MAX
        && let Some(row) = found.next().map_err(&failed)?
    {
        let kept = kept(row)?;
        bytes += kept.request.size();
        due.push(kept);
    }
    Ok(due)
}

/// Returns when the next request is due of those without an attempt under way.
pub(super) fn next(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
) -> Result<Option<u64>, Error> {
    let sql = "SELECT min(due_ms) FROM http_requests WHERE subscription = ?1 AND endpoint = ?2";
    let next: Result<Option<i64>, Error> = connection
        .prepare_cached(sql)
        .and_then(|mut select| select.query_row(params![subscription, endpoint], |row| row.get(0)))
        .map_err(failed("looking for the next HTTP request"));
    Ok(next?.filter(|due_ms| *due_ms != WAITS).map(i64::unsigned_abs))
}

pub(super) fn exist(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
) -> Result<bool, Error> {
    connection
        .prepare_cached("SELECT 1 FROM http_requests WHERE subscription = ?1 AND endpoint = ?2")
        .and_then(|mut select| select.exists(params![subscription, endpoint]))
        .map_err(failed("looking for HTTP requests"))
}

pub(super) fn count(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
) -> Result<u64, Error> {
    connection
        .prepare_cached("SELECT count(*) FROM http_requests WHERE subscription = ?1 AND endpoint = ?2")
        .and_then(|mut select| select.query_row(params![subscription, endpoint], |row| row.get(0)))
        .map_err(failed("counting the HTTP requests of a subscription"))
}

pub(super) fn endpoints(connection: &Connection, subscription: &str) -> Result<Vec<String>, Error> {
    connection
        .prepare_cached("SELECT DISTINCT endpoint FROM http_requests WHERE subscription = ?1 ORDER BY 1")
        .and_then(|mut select| select.query_map([subscription], |row| row.get(0))?.collect())
        .map_err(failed("listing the endpoints of HTTP requests"))
}

/// Returns requests in the order of their numbers, and the number of all.
pub(super) fn list(
    connection: &Connection,
    RequestQuery { subscription, after, limit }: RequestQuery<'_>,
) -> Result<(Vec<ListedRequest>, u64), Error> {
    let failed = failed("listing HTTP requests");
    // SQLite uses the index only if the condition has no alternative.
    let own = if subscription.is_some() { division::OF_SUBSCRIPTION } else { "?1 IS NULL" };
    let total = connection
        .query_row(&format!("SELECT count(*) FROM http_requests WHERE {own}"), [subscription], |row| row.get(0))
        .map_err(&failed)?;
    let sql = format!(
        "SELECT {COLUMNS}, due_ms, begun_ms, error FROM http_requests WHERE {own} AND number > ?2 ORDER BY number LIMIT ?3"
    );
    let mut select = connection.prepare_cached(&sql).map_err(&failed)?;
    let mut found =
        select.query(params![subscription, within_sqlite(after), within_sqlite(limit as u64)]).map_err(&failed)?;
    let (mut listed, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES_MAX
        && let Some(row) = found.next().map_err(&failed)?
    {
        let kept = kept(row)?;
        bytes += kept.request.size();
        let (due_ms, begun_ms): (i64, Option<u64>) =
            row.get(5).and_then(|due_ms| Ok((due_ms, row.get(6)?))).map_err(&failed)?;
        let waits = match (begun_ms, due_ms) {
            (Some(begun_ms), _) => RequestWait::Answer(begun_ms),
            (None, WAITS) => RequestWait::Earlier,
            (None, due_ms) => RequestWait::Due(due_ms.unsigned_abs()),
        };
        let error: Option<String> = row.get(7).map_err(&failed)?;
        listed.push(ListedRequest { kept, waits, error: error.map(Into::into) });
    }
    Ok((listed, total))
}

/// Returns the number of requests of a flow.
pub(super) fn of_flow(connection: &Connection, correlation_id: &str) -> Result<u64, Error> {
    connection
        .prepare_cached("SELECT count(*) FROM http_requests WHERE correlation_id = ?1")
        .and_then(|mut select| select.query_row([correlation_id], |row| row.get(0)))
        .map_err(failed("counting the HTTP requests of a flow"))
}

/// Returns the number of requests of each subscription.
pub(super) fn per_subscription(connection: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    connection
        .prepare("SELECT subscription, count(*) FROM http_requests GROUP BY subscription")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Returns the greatest number that was ever given.
pub(super) fn newest(connection: &Connection) -> Result<u64, Error> {
    connection
        .query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'http_requests'), 0)", [], |row| {
            row.get(0)
        })
        .map_err(failed("reading where the HTTP requests end"))
}

/// Reads a request.
pub(super) fn kept(row: &Row<'_>) -> Result<KeptRequest, Error> {
    let failed = failed("reading an HTTP request");
    let number: u64 = row.get(0).map_err(&failed)?;
    let subscription: String = row.get(1).map_err(&failed)?;
    let body = row.get_ref(4).and_then(|body| Ok(body.as_blob()?)).map_err(&failed)?;
    Ok(KeptRequest {
        number,
        subscription: subscription.into(),
        attempts: row.get(2).map_err(&failed)?,
        interrupted: row.get(3).map_err(&failed)?,
        request: rows::decode(&format!("HTTP request {number}"), body)?,
    })
}

/// Returns a time at which something can be due.
fn due_time(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(WAITS).min(WAITS - 1)
}

impl Writer {
    pub(super) fn add_requests(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &Arc<str>,
        requests: Vec<HttpRequest>,
    ) -> Result<(), Error> {
        for request in requests {
            self.add_request(batch, &KeptRequest::new(subscription.clone(), request))?;
        }
        Ok(())
    }

    /// Adds a request, which keeps the number of its attempts if a person sends it again.
    pub(super) fn add_request(&mut self, batch: &mut WriteBatch, kept: &KeptRequest) -> Result<(), Error> {
        let KeptRequest { subscription, attempts, interrupted, request, .. } = kept;
        let failed = failed("storing an HTTP request");
        let body = rows::encode(request)?;
        batch.bytes += body.len();
        let earlier = "SELECT 1 FROM http_requests WHERE subscription = ?1 AND endpoint = ?2 AND key = ?3";
        let is_behind = self
            .connection
            .prepare_cached(earlier)
            .and_then(|mut select| select.exists(params![subscription, request.endpoint, request.key]))
            .map_err(&failed)?;
        let due_ms = if is_behind { WAITS } else { due_time(self.options.clock.now_ms()) };
        self.connection
            .prepare_cached(
                "INSERT INTO http_requests (subscription, endpoint, key, correlation_id, due_ms, attempts, interrupted, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )
            .and_then(|mut insert| {
                let HttpRequest { endpoint, key, correlation_id, .. } = request;
                insert.execute(params![subscription, endpoint, key, correlation_id, due_ms, attempts, interrupted, body])
            })
            .map_err(&failed)?;
        self.requests_changed += 1;
        fault::at(FaultPoint::HttpRequestKept);
        Ok(())
    }

    pub(super) fn begin_attempt(&mut self, number: u64) -> Result<u32, Error> {
        let now_ms = self.options.clock.now_ms();
        let begun = self
            .connection
            .prepare_cached(
                "UPDATE http_requests SET attempts = attempts + 1, begun_ms = ?2, due_ms = ?3
                 WHERE number = ?1 AND due_ms < ?3 RETURNING attempts",
            )
            .and_then(|mut update| {
                update
                    .query_row(params![within_sqlite(number), within_sqlite(now_ms), WAITS], |row| row.get(0))
                    .optional()
            })
            .map_err(failed("beginning an attempt at an HTTP request"))?;
        fault::at(FaultPoint::AttemptBegun);
        begun.ok_or_else(|| absent(number))
    }

    pub(super) fn end_attempt(&mut self, batch: &mut WriteBatch, number: u64, end: AttemptEnd) -> Result<(), Error> {
        match end {
            AttemptEnd::Again { due_ms, error } => {
                let due_ms = due_time(due_ms);
                let changed = self
                    .connection
                    .prepare_cached(
                        "UPDATE http_requests SET begun_ms = NULL, due_ms = ?2, error = ?3
                         WHERE number = ?1 AND begun_ms IS NOT NULL",
                    )
                    .and_then(|mut update| update.execute(params![within_sqlite(number), due_ms, error]))
                    .map_err(failed("ending an attempt at an HTTP request"))?;
                if changed == 0 {
                    return Err(absent(number));
                }
                self.requests_changed += 1;
            }
            AttemptEnd::Ended(answer) => {
                let kept = self.request(number, "begun_ms IS NOT NULL")?.ok_or_else(|| absent(number))?;
                self.end_request(batch, kept, answer, true)?;
            }
        }
        fault::at(FaultPoint::AttemptEnded);
        Ok(())
    }

    /// Ends a request: its answer is delivered or dead-lettered, and the next request of its key is due.
    fn end_request(
        &mut self,
        batch: &mut WriteBatch,
        kept: KeptRequest,
        answer: HttpAnswer,
        may_be_dead_lettered: bool,
    ) -> Result<(), Error> {
        let number = kept.number;
        let failure = answer.failure().filter(|_| may_be_dead_lettered && kept.request.response.is_none());
        if failure.is_some() {
            self.dead_letter_room.refuse_if_full(1, &self.options.dead_letters)?;
        }
        let deleted = self
            .connection
            .prepare_cached("DELETE FROM http_requests WHERE number = ?1")
            .and_then(|mut delete| delete.execute([within_sqlite(number)]));
        deleted.map_err(failed("ending an HTTP request"))?;
        self.free_next(&kept)?;
        if let Some(callback) = kept.request.answered(kept.attempts, answer) {
            let now_ms = self.options.clock.now_ms();
            self.add_callback(batch, &kept.subscription, None, Time::Outcome(now_ms), &callback)?;
        }
        if let Some(reason) = failure {
            let reason = match kept.attempts {
                0 | 1 => reason,
                attempts => format!("{reason} (after {attempts} attempts)"),
            };
            self.keep_dead_letter(batch, &kept.dead_letter(reason), None)?;
        }
        Ok(())
    }

    /// Makes the next request of the same key due, if it has waited for this one.
    fn free_next(&mut self, ended: &KeptRequest) -> Result<(), Error> {
        let Some(key) = &ended.request.key else { return Ok(()) };
        let now_ms = due_time(self.options.clock.now_ms());
        let freed = self
            .connection
            .prepare_cached(
                "UPDATE http_requests SET due_ms = ?4 WHERE due_ms = ?5 AND begun_ms IS NULL AND number =
                 (SELECT min(number) FROM http_requests WHERE subscription = ?1 AND endpoint = ?2 AND key = ?3)",
            )
            .and_then(|mut update| {
                update.execute(params![ended.subscription, ended.request.endpoint, key, now_ms, WAITS])
            })
            .map_err(failed("freeing the next HTTP request of a key"))?;
        self.requests_changed += freed as u64;
        Ok(())
    }

    pub(super) fn interrupt_attempts(&mut self, of: &InterruptedOf) -> Result<Vec<KeptRequest>, Error> {
        let failed = failed("ending interrupted attempts at HTTP requests");
        let (names, are_these) = of.names();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let names = serde_json::to_string(&names).expect("names become JSON");
        let sql = format!(
            "UPDATE http_requests SET begun_ms = NULL, due_ms = ?1, interrupted = interrupted + 1, error = ?2
             WHERE begun_ms IS NOT NULL AND (subscription IN (SELECT value FROM json_each(?3))) = ?4 RETURNING {COLUMNS}"
        );
        let now_ms = due_time(self.options.clock.now_ms());
        let mut update = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let mut rows = update.query(params![now_ms, INTERRUPTED, names, are_these]).map_err(&failed)?;
        let mut interrupted = Vec::new();
        while let Some(row) = rows.next().map_err(&failed)? {
            interrupted.push(kept(row)?);
        }
        self.requests_changed += interrupted.len() as u64;
        fault::at(FaultPoint::AttemptsInterrupted);
        Ok(interrupted)
    }

    pub(super) fn refuse_request(&mut self, batch: &mut WriteBatch, number: u64, reason: String) -> Result<(), Error> {
        let kept = self.request(number, "begun_ms IS NULL")?.ok_or_else(|| absent(number))?;
        self.end_request(batch, kept, HttpAnswer::Refused(reason), true)
    }

    pub(super) fn give_up_request(&mut self, batch: &mut WriteBatch, number: u64, reason: String) -> Result<(), Error> {
        match self.request(number, "begun_ms IS NULL")? {
            Some(kept) => self.end_request(batch, kept, HttpAnswer::Failed(reason), false),
            None if self.request(number, "begun_ms IS NOT NULL")?.is_some() => Err(Error::Invalid(format!(
                "an attempt at HTTP request {number} is under way, and nobody knows how it ends: wait for its end and try again"
            ))),
            None => Err(absent(number)),
        }
    }

    /// Returns the request of a number, if a condition holds for its row.
    fn request(&self, number: u64, condition: &str) -> Result<Option<KeptRequest>, Error> {
        let failed = failed("reading an HTTP request");
        let sql = format!("SELECT {COLUMNS} FROM http_requests WHERE number = ?1 AND {condition}");
        let mut select = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let mut found = select.query([within_sqlite(number)]).map_err(&failed)?;
        found.next().map_err(&failed)?.map(kept).transpose()
    }
}
