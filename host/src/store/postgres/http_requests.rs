//! The HTTP requests of subscriptions that have not ended. They are rows, in the order of the times at which they are due.
//!
//! A step inserts a row. Each attempt changes it twice: before the request is sent, and once it is known how the attempt ended.
//! The transaction that has the answer deletes it. Of the requests of one key to one endpoint only the first is ever due.

use super::callbacks::Time;
use super::connection::{Connection, int, optional_text, uint};
use super::division::of_subscription;
use super::pending::RequestRow;
use super::writer::Writer;
use crate::model::{HttpAnswer, HttpRequest, KeptRequest};
use crate::store::fault::{self, FaultPoint};
use crate::store::http_requests::{INTERRUPTED, absent};
use crate::store::recording::Recording as _;
use crate::store::{
    AttemptEnd, Error, InterruptedOf, ListedRequest, PAGE_BYTES_MAX, RequestQuery, RequestQueue, RequestWait, encoding,
};
use std::sync::Arc;
use tokio_postgres::Row;

/// The time at which a request is due that has an attempt under way or waits behind another one: never.
const WAITS: i64 = i64::MAX;

pub(super) fn due(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<KeptRequest>, Error> {
    let sql = "SELECT number, subscription, attempts, interrupted, body FROM http_requests
               WHERE subscription = $1 AND endpoint = $2 AND due_ms <= $3 ORDER BY due_ms, number LIMIT $4";
    let doing = "reading the HTTP requests of a subscription";
    let rows = connection.query(doing, sql, &[&subscription, &endpoint, &due_time(now_ms), &int(limit as u64)])?;
    let (mut due, mut bytes) = (Vec::new(), 0);
    for row in rows {
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
        let kept = kept(&row)?;
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
    let sql = "SELECT min(due_ms) FROM http_requests WHERE subscription = $1 AND endpoint = $2";
    let row = connection.first("looking for the next HTTP request", sql, &[&subscription, &endpoint])?;
    let next: Option<i64> = row.and_then(|row| row.get(0));
    Ok(next.filter(|due_ms| *due_ms != WAITS).map(i64::unsigned_abs))
}

pub(super) fn exist(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
) -> Result<bool, Error> {
    let sql = "SELECT 1 FROM http_requests WHERE subscription = $1 AND endpoint = $2 LIMIT 1";
    Ok(connection.first("looking for HTTP requests", sql, &[&subscription, &endpoint])?.is_some())
}

pub(super) fn count(
    connection: &Connection,
    RequestQueue { subscription, endpoint }: RequestQueue<'_>,
) -> Result<u64, Error> {
    let sql = "SELECT count(*) FROM http_requests WHERE subscription = $1 AND endpoint = $2";
    let row = connection.first("counting the HTTP requests of a subscription", sql, &[&subscription, &endpoint])?;
    Ok(row.map_or(0, |row| uint(&row, 0)))
}

pub(super) fn endpoints(connection: &Connection, subscription: &str) -> Result<Vec<String>, Error> {
    let sql = "SELECT DISTINCT endpoint FROM http_requests WHERE subscription = $1 ORDER BY 1";
    let rows = connection.query("listing the endpoints of HTTP requests", sql, &[&subscription])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Returns requests in the order of their numbers, and the number of all.
pub(super) fn list(
    connection: &Connection,
    RequestQuery { subscription, after, limit }: RequestQuery<'_>,
) -> Result<(Vec<ListedRequest>, u64), Error> {
    const DOING: &str = "listing HTTP requests";
    let sql = concat!("SELECT count(*) FROM http_requests WHERE ", of_subscription!());
    let total = connection.first(DOING, sql, &[&subscription])?.map_or(0, |row| uint(&row, 0));
    let sql = concat!(
        "SELECT number, subscription, attempts, interrupted, body, due_ms, begun_ms, error FROM http_requests WHERE ",
        of_subscription!(),
        " AND number > $2 ORDER BY number LIMIT $3"
    );
    let rows = connection.query(DOING, sql, &[&subscription, &int(after), &int(limit as u64)])?;
    let (mut listed, mut bytes) = (Vec::new(), 0);
    for row in rows {
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
        let kept = kept(&row)?;
        bytes += kept.request.size();
        let waits = match (row.get::<_, Option<i64>>(6), row.get::<_, i64>(5)) {
            (Some(begun_ms), _) => RequestWait::Answer(begun_ms.cast_unsigned()),
            (None, WAITS) => RequestWait::Earlier,
            (None, due_ms) => RequestWait::Due(due_ms.unsigned_abs()),
        };
        listed.push(ListedRequest { kept, waits, error: optional_text(&row, 7)?.map(Into::into) });
    }
    Ok((listed, total))
}

/// Returns the number of requests of a flow.
pub(super) fn of_flow(connection: &Connection, correlation_id: &str) -> Result<u64, Error> {
    let sql = "SELECT count(*) FROM http_requests WHERE correlation_id = $1";
    let row = connection.first("counting the HTTP requests of a flow", sql, &[&correlation_id.as_bytes()])?;
    Ok(row.map_or(0, |row| uint(&row, 0)))
}

/// Reads a request.
fn kept(row: &Row) -> Result<KeptRequest, Error> {
    let number = uint(row, 0);
    Ok(KeptRequest {
        number,
        subscription: row.get::<_, String>(1).into(),
        attempts: uint(row, 2) as u32,
        interrupted: uint(row, 3) as u32,
        request: encoding::decode(&format!("HTTP request {number}"), row.get(4))?,
    })
}

/// Returns a time at which something can be due.
fn due_time(ms: u64) -> i64 {
    int(ms).min(WAITS - 1)
}

impl Writer {
    pub(super) fn add_requests(&mut self, subscription: &Arc<str>, requests: Vec<HttpRequest>) -> Result<(), Error> {
        for request in requests {
            self.add_request(&KeptRequest::new(subscription.clone(), request))?;
        }
        Ok(())
    }

    /// Adds a request, which keeps the number of its attempts if a person sends it again.
    pub(super) fn add_request(&mut self, kept: &KeptRequest) -> Result<(), Error> {
        let KeptRequest { subscription, attempts, interrupted, request, .. } = kept;
        let HttpRequest { endpoint, key, correlation_id, .. } = request;
        let body = encoding::encode(request)?;
        let is_behind = match key {
            None => false,
            Some(key) => {
                let sql = "SELECT 1 FROM http_requests WHERE subscription = $1 AND endpoint = $2 AND key = $3 LIMIT 1";
                let doing = "storing an HTTP request";
                self.first(doing, sql, &[&&**subscription, &&**endpoint, &&key[..]])?.is_some()
            }
        };
        let due_ms = if is_behind { WAITS } else { due_time(self.options.clock.now_ms()) };
        self.head.http_request += 1;
        self.pending.add_request(RequestRow {
            number: self.head.http_request,
            subscription,
            endpoint,
            key: key.as_deref(),
            correlation_id,
            due_ms,
            attempts: *attempts,
            interrupted: *interrupted,
            body,
        });
        self.requests_changed += 1;
        fault::at(FaultPoint::HttpRequestKept);
        Ok(())
    }

    pub(super) fn begin_attempt(&mut self, number: u64) -> Result<u32, Error> {
        let now_ms = int(self.options.clock.now_ms());
        let sql = "UPDATE http_requests SET attempts = attempts + 1, begun_ms = $2, due_ms = $3
                   WHERE number = $1 AND due_ms < $3 RETURNING attempts";
        let doing = "beginning an attempt at an HTTP request";
        let begun = self.first(doing, sql, &[&int(number), &now_ms, &WAITS])?;
        fault::at(FaultPoint::AttemptBegun);
        begun.map(|row| uint(&row, 0) as u32).ok_or_else(|| absent(number))
    }

    pub(super) fn end_attempt(&mut self, number: u64, end: AttemptEnd) -> Result<(), Error> {
        match end {
            AttemptEnd::Again { due_ms, error } => {
                let sql = "UPDATE http_requests SET begun_ms = NULL, due_ms = $2, error = $3
                           WHERE number = $1 AND begun_ms IS NOT NULL";
                let doing = "ending an attempt at an HTTP request";
                let changed = self.execute(doing, sql, &[&int(number), &due_time(due_ms), &error.as_bytes()])?;
                if changed == 0 {
                    return Err(absent(number));
                }
                self.requests_changed += 1;
            }
            AttemptEnd::Ended(answer) => {
                let kept = self.request(number, true)?.ok_or_else(|| absent(number))?;
                self.end_request(kept, answer, true)?;
            }
        }
        fault::at(FaultPoint::AttemptEnded);
        Ok(())
    }

    /// Ends a request: its answer is delivered or dead-lettered, and the next request of its key is due.
    fn end_request(&mut self, kept: KeptRequest, answer: HttpAnswer, may_be_dead_lettered: bool) -> Result<(), Error> {
        let failure = answer.failure().filter(|_| may_be_dead_lettered && kept.request.response.is_none());
        if failure.is_some() {
            self.refuse_if_letters_are_full(1)?;
        }
        let sql = "DELETE FROM http_requests WHERE number = $1";
        self.execute("ending an HTTP request", sql, &[&int(kept.number)])?;
        self.free_next(&kept)?;
        if let Some(callback) = kept.request.answered(kept.attempts, answer) {
            let now_ms = self.options.clock.now_ms();
            self.add_callback(&kept.subscription, None, Time::Outcome(now_ms), &callback)?;
        }
        if let Some(reason) = failure {
            let reason = match kept.attempts {
                0 | 1 => reason,
                attempts => format!("{reason} (after {attempts} attempts)"),
            };
            self.keep_dead_letter(&kept.dead_letter(reason), None)?;
        }
        Ok(())
    }

    /// Makes the next request of the same key due, if it has waited for this one.
    fn free_next(&mut self, ended: &KeptRequest) -> Result<(), Error> {
        let Some(key) = &ended.request.key else { return Ok(()) };
        let now_ms = due_time(self.options.clock.now_ms());
        let sql = "UPDATE http_requests SET due_ms = $4 WHERE due_ms = $5 AND begun_ms IS NULL AND number =
                   (SELECT min(number) FROM http_requests WHERE subscription = $1 AND endpoint = $2 AND key = $3)";
        let (subscription, endpoint) = (&*ended.subscription, &*ended.request.endpoint);
        let doing = "freeing the next HTTP request of a key";
        self.requests_changed += self.execute(doing, sql, &[&subscription, &endpoint, &&key[..], &now_ms, &WAITS])?;
        Ok(())
    }

    pub(super) fn interrupt_attempts(&mut self, of: &InterruptedOf) -> Result<Vec<KeptRequest>, Error> {
        let (names, are_these) = of.names();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let now_ms = due_time(self.options.clock.now_ms());
        let sql = "UPDATE http_requests SET begun_ms = NULL, due_ms = $1, interrupted = interrupted + 1, error = $2
                   WHERE begun_ms IS NOT NULL AND (subscription = ANY($3)) = $4
                   RETURNING number, subscription, attempts, interrupted, body";
        let doing = "ending interrupted attempts at HTTP requests";
        let rows = self.query(doing, sql, &[&now_ms, &INTERRUPTED.as_bytes(), &names, &are_these])?;
        let mut interrupted = rows.iter().map(kept).collect::<Result<Vec<_>, _>>()?;
        interrupted.sort_by_key(|kept| kept.number);
        self.requests_changed += interrupted.len() as u64;
        fault::at(FaultPoint::AttemptsInterrupted);
        Ok(interrupted)
    }

    pub(super) fn refuse_request(&mut self, number: u64, reason: String) -> Result<(), Error> {
        let kept = self.request(number, false)?.ok_or_else(|| absent(number))?;
        self.end_request(kept, HttpAnswer::Refused(reason), true)
    }

    pub(super) fn give_up_request(&mut self, number: u64, reason: String) -> Result<(), Error> {
        match self.request(number, false)? {
            Some(kept) => self.end_request(kept, HttpAnswer::Failed(reason), false),
            None if self.request(number, true)?.is_some() => Err(Error::Invalid(format!(
                "an attempt at HTTP request {number} is under way, and nobody knows how it ends: wait for its end and try again"
            ))),
            None => Err(absent(number)),
        }
    }

    /// Returns the request of a number, if an attempt is under way or not.
    fn request(&mut self, number: u64, is_begun: bool) -> Result<Option<KeptRequest>, Error> {
        let sql = "SELECT number, subscription, attempts, interrupted, body FROM http_requests
                   WHERE number = $1 AND (begun_ms IS NOT NULL) = $2";
        self.first("reading an HTTP request", sql, &[&int(number), &is_begun])?.map(|row| kept(&row)).transpose()
    }
}
