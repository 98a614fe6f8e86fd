//! The rows of a transaction that are not sent yet. They are collected over all requests of the transaction, and sent as one
//! statement for each table.

use super::connection::{Change, Value, int, value};
use crate::model::QuickMap;

/// Rows that wait to be sent. Each list is a column.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) events: Events,
    outbox: Outbox,
    callbacks: Callbacks,
    requests: Requests,
    letters: Letters,
    outcomes: Outcomes,
    /// The numbers of callbacks that are handled.
    handled: Vec<i64>,
    /// Named timers that are replaced or cancelled: their subscriptions and names.
    cancelled: (Vec<String>, Vec<Vec<u8>>),
    /// The least number that stays, of each kind and queue of the outbox.
    sent: QuickMap<(&'static str, String), u64>,
}

#[derive(Default)]
pub(super) struct Events {
    pub(super) position: Vec<i64>,
    pub(super) event_type: Vec<i32>,
    pub(super) aggregate_type: Vec<i32>,
    pub(super) aggregate_id: Vec<Vec<u8>>,
    pub(super) version: Vec<i64>,
    pub(super) id: Vec<Vec<u8>>,
    pub(super) time_ms: Vec<i64>,
    pub(super) correlation_id: Vec<Vec<u8>>,
    pub(super) causation_id: Vec<Vec<u8>>,
    pub(super) headers: Vec<Option<Vec<u8>>>,
    pub(super) payload: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Outbox {
    kind: Vec<&'static str>,
    queue: Vec<String>,
    first: Vec<i64>,
    last: Vec<i64>,
    body: Vec<Vec<u8>>,
}

/// A new callback.
pub(super) struct CallbackRow<'a> {
    pub(super) number: u64,
    pub(super) subscription: &'a str,
    pub(super) timer: Option<&'a str>,
    pub(super) key: Option<&'a [u8]>,
    pub(super) time_ms: u64,
    pub(super) due_ms: i64,
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
struct Callbacks {
    number: Vec<i64>,
    subscription: Vec<String>,
    timer: Vec<Option<Vec<u8>>>,
    key: Vec<Option<Vec<u8>>>,
    time_ms: Vec<i64>,
    due_ms: Vec<i64>,
    body: Vec<Vec<u8>>,
}

/// A new HTTP request.
pub(super) struct RequestRow<'a> {
    pub(super) number: u64,
    pub(super) subscription: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) correlation_id: &'a str,
    pub(super) due_ms: i64,
    pub(super) attempts: u32,
    pub(super) interrupted: u32,
    pub(super) body: Vec<u8>,
}

#[derive(Default)]
struct Requests {
    number: Vec<i64>,
    subscription: Vec<String>,
    endpoint: Vec<String>,
    key: Vec<Option<Vec<u8>>>,
    correlation_id: Vec<Vec<u8>>,
    due_ms: Vec<i64>,
    attempts: Vec<i64>,
    interrupted: Vec<i64>,
    body: Vec<Vec<u8>>,
}

/// A new dead letter.
pub(super) struct LetterRow<'a> {
    pub(super) number: u64,
    pub(super) consumer: &'a str,
    pub(super) place: &'a str,
    pub(super) key: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) time_ms: Option<u64>,
    pub(super) dead_lettered_ms: u64,
    pub(super) running_ms: u64,
    pub(super) bytes: u64,
    pub(super) content: Vec<u8>,
}

#[derive(Default)]
struct Letters {
    number: Vec<i64>,
    consumer: Vec<String>,
    place: Vec<Vec<u8>>,
    key: Vec<Option<Vec<u8>>>,
    reason: Vec<Vec<u8>>,
    time_ms: Vec<Option<i64>>,
    dead_lettered_ms: Vec<i64>,
    running_ms: Vec<i64>,
    bytes: Vec<i64>,
    content: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Outcomes {
    id: Vec<Vec<u8>>,
    fingerprint: Vec<Vec<u8>>,
    outcome: Vec<Vec<u8>>,
    time_ms: Vec<i64>,
    running_ms: Vec<i64>,
}

impl Pending {
    pub(super) fn add_to_outbox(&mut self, kind: &'static str, queue: &str, first: u64, last: u64, body: Vec<u8>) {
        let outbox = &mut self.outbox;
        outbox.kind.push(kind);
        outbox.queue.push(queue.to_owned());
        outbox.first.push(int(first));
        outbox.last.push(int(last));
        outbox.body.push(body);
    }

    /// Removes the rows of a queue whose effects all have a number below `next`, once the new rows are there.
    pub(super) fn remove_from_outbox(&mut self, kind: &'static str, queue: &str, next: u64) {
        let least = self.sent.entry((kind, queue.to_owned())).or_default();
        *least = next.max(*least);
    }

    pub(super) fn add_callback(&mut self, row: CallbackRow<'_>) {
        let callbacks = &mut self.callbacks;
        callbacks.number.push(int(row.number));
        callbacks.subscription.push(row.subscription.to_owned());
        callbacks.timer.push(row.timer.map(|timer| timer.as_bytes().to_vec()));
        callbacks.key.push(row.key.map(<[u8]>::to_vec));
        callbacks.time_ms.push(row.time_ms.cast_signed());
        callbacks.due_ms.push(row.due_ms);
        callbacks.body.push(row.body);
    }

    /// Removes callbacks that a step has handled.
    pub(super) fn remove_callback(&mut self, number: u64) {
        self.handled.push(int(number));
    }

    /// Cancels the timer of a name, also if it waits to be sent.
    pub(super) fn cancel_timer(&mut self, subscription: &str, name: &str) {
        let is_it = |number: usize, callbacks: &Callbacks| {
            callbacks.timer[number].as_deref() == Some(name.as_bytes())
                && callbacks.subscription[number] == subscription
        };
        let waiting = (0..self.callbacks.number.len()).find(|number| is_it(*number, &self.callbacks));
        match waiting {
            // The name was cancelled when this one was added.
            Some(number) => self.callbacks.remove(number),
            None => {
                self.cancelled.0.push(subscription.to_owned());
                self.cancelled.1.push(name.as_bytes().to_vec());
            }
        }
    }

    pub(super) fn add_request(&mut self, row: RequestRow<'_>) {
        let requests = &mut self.requests;
        requests.number.push(int(row.number));
        requests.subscription.push(row.subscription.to_owned());
        requests.endpoint.push(row.endpoint.to_owned());
        requests.key.push(row.key.map(<[u8]>::to_vec));
        requests.correlation_id.push(row.correlation_id.as_bytes().to_vec());
        requests.due_ms.push(row.due_ms);
        requests.attempts.push(row.attempts.into());
        requests.interrupted.push(row.interrupted.into());
        requests.body.push(row.body);
    }

    pub(super) fn add_letter(&mut self, row: LetterRow<'_>) {
        let letters = &mut self.letters;
        letters.number.push(int(row.number));
        letters.consumer.push(row.consumer.to_owned());
        letters.place.push(row.place.as_bytes().to_vec());
        letters.key.push(row.key.map(|key| key.as_bytes().to_vec()));
        letters.reason.push(row.reason.as_bytes().to_vec());
        letters.time_ms.push(row.time_ms.map(u64::cast_signed));
        letters.dead_lettered_ms.push(row.dead_lettered_ms.cast_signed());
        letters.running_ms.push(int(row.running_ms));
        letters.bytes.push(int(row.bytes));
        letters.content.push(row.content);
    }

    pub(super) fn add_outcome(
        &mut self,
        id: &str,
        fingerprint: [u8; 16],
        outcome: Vec<u8>,
        time_ms: u64,
        running_ms: u64,
    ) {
        let outcomes = &mut self.outcomes;
        outcomes.id.push(id.as_bytes().to_vec());
        outcomes.fingerprint.push(fingerprint.to_vec());
        outcomes.outcome.push(outcome);
        outcomes.time_ms.push(time_ms.cast_signed());
        outcomes.running_ms.push(int(running_ms));
    }

    /// Takes all rows, as the statements that send them. What removes rows by name comes before what adds them, and what
    /// removes rows by number comes after.
    pub(super) fn take(&mut self) -> Vec<Change> {
        let Self { events, outbox, callbacks, requests, letters, outcomes, handled, cancelled, sent } =
            std::mem::take(self);
        let mut changes = Vec::new();
        let mut change = |doing: &'static str, is_empty: bool, sql: &'static str, values: Vec<Value>| {
            if !is_empty {
                changes.push(Change { doing, sql, values });
            }
        };
        change("appending events", events.position.is_empty(), INSERT_EVENTS, events.values());
        change("storing effects in the outbox", outbox.kind.is_empty(), INSERT_OUTBOX, outbox.values());
        change(
            "cancelling timers",
            cancelled.0.is_empty(),
            "DELETE FROM callbacks c USING unnest($1::text[], $2::bytea[]) AS r(subscription, timer)
             WHERE c.subscription = r.subscription AND c.timer = r.timer",
            vec![value(cancelled.0), value(cancelled.1)],
        );
        change(
            "removing callbacks",
            handled.is_empty(),
            "DELETE FROM callbacks WHERE number = ANY($1)",
            vec![value(handled)],
        );
        change("storing callbacks", callbacks.number.is_empty(), INSERT_CALLBACKS, callbacks.values());
        change("storing HTTP requests", requests.number.is_empty(), INSERT_REQUESTS, requests.values());
        change("storing dead letters", letters.number.is_empty(), INSERT_LETTERS, letters.values());
        change("storing outcomes", outcomes.id.is_empty(), INSERT_OUTCOMES, outcomes.values());
        if !sent.is_empty() {
            let (mut kinds, mut queues, mut nexts) = (Vec::new(), Vec::new(), Vec::new());
            for ((kind, queue), next) in sent {
                kinds.push(kind);
                queues.push(queue);
                nexts.push(int(next));
            }
            // The bound on `first` follows from that on `last`. With it the index is enough to find the rows.
            let sql = "DELETE FROM outbox o USING unnest($1::text[], $2::text[], $3::bigint[]) AS r(kind, queue, next)
                       WHERE o.kind = r.kind AND o.queue = r.queue AND o.first < r.next AND o.last < r.next";
            let values = vec![value(kinds), value(queues), value(nexts)];
            changes.push(Change { doing: "removing what was sent from the outbox", sql, values });
        }
        changes
    }
}

impl Events {
    fn values(self) -> Vec<Value> {
        vec![
            value(self.position),
            value(self.event_type),
            value(self.aggregate_type),
            value(self.aggregate_id),
            value(self.version),
            value(self.id),
            value(self.time_ms),
            value(self.correlation_id),
            value(self.causation_id),
            value(self.headers),
            value(self.payload),
        ]
    }
}

impl Outbox {
    fn values(self) -> Vec<Value> {
        vec![value(self.kind), value(self.queue), value(self.first), value(self.last), value(self.body)]
    }
}

impl Callbacks {
    fn remove(&mut self, number: usize) {
        self.number.remove(number);
        self.subscription.remove(number);
        self.timer.remove(number);
        self.key.remove(number);
        self.time_ms.remove(number);
        self.due_ms.remove(number);
        self.body.remove(number);
    }

    fn values(self) -> Vec<Value> {
        vec![
            value(self.number),
            value(self.subscription),
            value(self.timer),
            value(self.key),
            value(self.time_ms),
            value(self.due_ms),
            value(self.body),
        ]
    }
}

impl Requests {
    fn values(self) -> Vec<Value> {
        vec![
            value(self.number),
            value(self.subscription),
            value(self.endpoint),
            value(self.key),
            value(self.correlation_id),
            value(self.due_ms),
            value(self.attempts),
            value(self.interrupted),
            value(self.body),
        ]
    }
}

impl Letters {
    fn values(self) -> Vec<Value> {
        vec![
            value(self.number),
            value(self.consumer),
            value(self.place),
            value(self.key),
            value(self.reason),
            value(self.time_ms),
            value(self.dead_lettered_ms),
            value(self.running_ms),
            value(self.bytes),
            value(self.content),
        ]
    }
}

impl Outcomes {
    fn values(self) -> Vec<Value> {
        vec![value(self.id), value(self.fingerprint), value(self.outcome), value(self.time_ms), value(self.running_ms)]
    }
}

const INSERT_EVENTS: &str = "INSERT INTO events (position, type, aggregate_type, aggregate_id, version, id, time_ms,
    correlation_id, causation_id, headers, payload)
    SELECT * FROM unnest($1::bigint[], $2::int[], $3::int[], $4::bytea[], $5::bigint[], $6::bytea[], $7::bigint[],
    $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[])";

const INSERT_OUTBOX: &str = "INSERT INTO outbox (kind, queue, first, last, body)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[])";

const INSERT_CALLBACKS: &str = "INSERT INTO callbacks (number, subscription, timer, key, time_ms, due_ms, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[], $7::bytea[])";

const INSERT_REQUESTS: &str = "INSERT INTO http_requests (number, subscription, endpoint, key, correlation_id, due_ms,
    attempts, interrupted, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bytea[])";

const INSERT_LETTERS: &str =
    "INSERT INTO dead_letters (number, consumer, place, key, reason, time_ms, dead_lettered_ms,
    running_ms, bytes, content)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::bytea[])";

/// This may replace an outcome that is no longer remembered.
const INSERT_OUTCOMES: &str = "INSERT INTO outcomes (id, fingerprint, outcome, time_ms, running_ms)
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[])
    ON CONFLICT (id) DO UPDATE SET (fingerprint, outcome, time_ms, running_ms) =
    (excluded.fingerprint, excluded.outcome, excluded.time_ms, excluded.running_ms)";
