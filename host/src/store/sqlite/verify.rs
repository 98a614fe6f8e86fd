//! The verification of a store: whether its content is consistent.
//!
//! It reads everything and changes nothing. It needs a store that no host has open, so that nothing changes meanwhile.

use super::dictionary::Dictionary;
use super::outbox::{self, Queue};
use super::reader::within_sqlite;
use super::stream_index::{CHUNK_COLUMNS, Chunk};
use super::{Error, callbacks, dead_letters, failed, held_keys, http_requests, rows, schema};
use crate::model::{Command, LedgerName, Message, Origin, Outcome, SinkName, StreamId, SubscriptionName};
use crate::store::{HeldKey, Ledger};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::Path;

/// The most problems that are reported one by one. Further ones are only counted.
const PROBLEMS_MAX: usize = 100;

/// The content of a store, and its problems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The number of recorded events.
    pub events: u64,
    /// The number of streams with events.
    pub streams: u64,
    /// The position of the newest event.
    pub position: u64,
    /// The position up to which the stream index is filled.
    pub indexed: u64,
    /// The number of ledgers: partitions of sources, and commands of subscriptions.
    pub ledgers: u64,
    /// The number of subscriptions' checkpoints.
    pub checkpoints: u64,
    /// The number of commands in the outbox, in steps that are not completely settled.
    pub commands: u64,
    /// The number of messages in the outbox, in steps that are not completely published.
    pub messages: u64,
    /// The number of outcomes, timers and responses that are not handled.
    pub callbacks: u64,
    /// The number of HTTP requests that have not ended.
    pub http_requests: u64,
    /// The number of dead letters.
    pub dead_letters: u64,
    /// The problems, with a sentence for each.
    pub problems: Vec<String>,
    /// The number of further problems.
    pub more_problems: u64,
}

impl Report {
    /// Returns whether there is no problem.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        } else {
            self.more_problems += 1;
        }
    }
}

/// Verifies a store. An error means that the verification was not possible; problems of the store are in the report.
pub fn verify(path: &Path) -> Result<Report, Error> {
    let _lock = schema::lock_existing(path)?;
    let connection = schema::open_for_inspection(path)?;
    let mut verifier = Verifier { connection: &connection, report: Report::default(), versions: HashMap::new() };
    let parts = [
        Verifier::file,
        Verifier::events,
        Verifier::stream_index,
        Verifier::ledgers,
        Verifier::subscriptions,
        Verifier::messages,
        Verifier::dead_letters,
        Verifier::held_keys,
        Verifier::callbacks,
        Verifier::http_requests,
        Verifier::archived,
        Verifier::outcomes,
        Verifier::tallies,
    ];
    for part in parts {
        // If a part can't be verified, that is one more problem, and the next part is verified nevertheless.
        let done = part(&mut verifier);
        verifier.or_told(done)?;
    }
    Ok(verifier.report)
}

struct Verifier<'c> {
    connection: &'c Connection,
    report: Report,
    /// The version of the newest event of each stream.
    versions: HashMap<StreamId, u64>,
}

impl Verifier<'_> {
    /// Verifies the pages and indexes, with SQLite's own check.
    fn file(&mut self) -> Result<(), Error> {
        let said: Vec<String> = self.list("PRAGMA integrity_check", |row| row.get(0))?;
        for line in said.into_iter().filter(|line| line != "ok") {
            self.report.problem(format!("the file: {line}"));
        }
        Ok(())
    }

    /// Verifies that every event decodes and has a unique id, and that the versions of each stream increase one by one
    /// in the order of positions.
    fn events(&mut self) -> Result<(), Error> {
        let failed = failed("reading events");
        let (mut versions, mut dictionary) = (HashMap::<StreamId, u64>::new(), Dictionary::default());
        let mut ids = Vec::new();
        let mut select = self
            .connection
            .prepare(&format!("SELECT {} FROM events ORDER BY position", rows::EVENT_COLUMNS))
            .map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        let mut before = 0;
        while let Some(row) = found.next().map_err(&failed)? {
            self.report.events += 1;
            let position: i64 = row.get(0).map_err(&failed)?;
            if position <= before {
                self.report.problem(format!("position {position} comes after {before}"));
            }
            before = position;
            match rows::event(self.connection, &mut dictionary, row) {
                Err(error) => self.report.problem(format!("the event at position {position}: {error}")),
                Ok(event) => {
                    ids.push(event.id);
                    let version = versions.entry(event.stream.clone()).or_default();
                    if event.version.0 != *version + 1 {
                        self.report.problem(format!(
                            "the event at position {position} is version {} of {}, after version {version}",
                            event.version, event.stream
                        ));
                    }
                    *version = event.version.0;
                }
            }
        }
        ids.sort_unstable();
        for twice in ids.windows(2).filter(|pair| pair[0] == pair[1]) {
            self.report.problem(format!("the event id {} was assigned twice", twice[0]));
        }
        self.report.streams = versions.len() as u64;
        self.versions = versions;
        self.report.position = before.max(0) as u64;
        Ok(())
    }

    /// Verifies that all events in the index exist, and that up to its mark no event is missing from it.
    fn stream_index(&mut self) -> Result<(), Error> {
        self.report.indexed = self.mark("indexed")?;
        let (indexed, newest) = (self.report.indexed, self.report.position);
        if indexed > newest {
            self.report.problem(format!("the stream index is filled up to {indexed}, past the newest event, {newest}"));
        }
        let entered = self.entered()?;
        let failed = failed("looking the store over");
        let mut select = self
            .connection
            .prepare("SELECT position, version, aggregate_id FROM events WHERE position <= ?1 ORDER BY position")
            .map_err(&failed)?;
        let mut events = select.query([within_sqlite(indexed)]).map_err(&failed)?;
        while let Some(event) = events.next().map_err(&failed)? {
            let position: u64 = event.get(0).map_err(&failed)?;
            if entered.binary_search(&position).is_err() {
                let (version, id): (u64, String) = (event.get(1).map_err(&failed)?, event.get(2).map_err(&failed)?);
                self.report.problem(format!(
                    "the stream index lacks version {version} of an aggregate {id}, which is at position {position}"
                ));
            }
        }
        Ok(())
    }

    /// Compares each entry of the index with its event. Returns the positions that are in the index, in order.
    fn entered(&mut self) -> Result<Vec<u64>, Error> {
        let failed = failed("looking the store over");
        let (connection, mut entered) = (self.connection, Vec::new());
        let mut event = connection
            .prepare(
                "SELECT t.aggregate_type, e.aggregate_id, e.version FROM events e JOIN event_types t ON t.id = e.type
                 WHERE e.position = ?1",
            )
            .map_err(&failed)?;
        let mut select = connection
            .prepare(&format!("SELECT aggregate_type, aggregate_id, {CHUNK_COLUMNS} FROM stream_index"))
            .map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        while let Some(row) = found.next().map_err(&failed)? {
            let (number, id): (i64, String) = (row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?);
            let Some(chunk) = self.or_told(Chunk::read(row, 2))? else { continue };
            for (version, position) in chunk.entries() {
                let of = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                let there = event.query_row([within_sqlite(position)], of).optional().map_err(&failed)?;
                if there == Some((number, id.clone(), version)) {
                    entered.push(position);
                } else {
                    self.report.problem(format!(
                        "the stream index has position {position} for version {version} of an aggregate {id}, which is not there"
                    ));
                }
            }
        }
        entered.sort_unstable();
        Ok(entered)
    }

    /// Verifies that the settled ranges of each ledger are above its watermark, in order, and with gaps between them.
    fn ledgers(&mut self) -> Result<(), Error> {
        for name in self.list("SELECT name FROM ledgers", |row| row.get::<_, String>(0))? {
            self.report.ledgers += 1;
            let Some(Ledger { next, ahead }) = self.ledger(&name)? else { continue };
            if let Some(LedgerName::Commands(subscription)) = LedgerName::parse(&name)
                && (next > 0 || !ahead.is_empty())
                && !self.has_checkpoint(&subscription.to_string())?
            {
                // Its next commands would get numbers that are already settled, and would count as repetitions.
                self.report
                    .problem(format!("ledger {name} has settled commands of a subscription without a checkpoint"));
            }
            // A range that begins right at the watermark should have moved it.
            let mut end = next;
            for (first, last) in ahead {
                if first <= end || last < first {
                    self.report.problem(format!("ledger {name}: {first} to {last} is settled ahead, after {end}"));
                }
                end = last.saturating_add(1);
            }
        }
        Ok(())
    }

    fn subscriptions(&mut self) -> Result<(), Error> {
        let checkpoints: Vec<(String, u64, u64)> = self
            .list("SELECT subscription, position, commands FROM checkpoints", |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        for (subscription, position, sent) in checkpoints {
            self.report.checkpoints += 1;
            if position > self.report.position {
                let newest = self.report.position;
                self.report.problem(format!(
                    "the checkpoint of subscription {subscription} is {position}, past the newest event, {newest}"
                ));
            }
            self.commands(&subscription, sent)?;
        }
        for subscription in outbox::subscriptions(self.connection).map_err(failed("reading the outbox"))? {
            if !self.has_checkpoint(&subscription)? {
                self.report
                    .problem(format!("subscription {subscription} has commands in the outbox and no checkpoint"));
            }
        }
        Ok(())
    }

    fn has_checkpoint(&self, subscription: &str) -> Result<bool, Error> {
        self.connection
            .prepare_cached("SELECT 1 FROM checkpoints WHERE subscription = ?1")
            .and_then(|mut select| select.exists([subscription]))
            .map_err(failed("looking for a checkpoint"))
    }

    /// Verifies that each command of a subscription that is not settled is in the outbox, under its number.
    fn commands(&mut self, subscription: &str, sent: u64) -> Result<(), Error> {
        let name = SubscriptionName::parse(subscription).ledger().to_string();
        let Some(ledger) = self.ledger(&name)? else { return Ok(()) };
        let settled = ledger.ahead.last_key_value().map_or(ledger.next, |(_, last)| last.saturating_add(1));
        if settled > sent {
            self.report.problem(format!("ledger {name} has settled {settled} commands of {sent} that were sent"));
        }
        let mut next = None;
        for step in self.steps(Queue::Commands(subscription))? {
            let place = format!("commands {} to {} of subscription {subscription}", step.first, step.last);
            if step.last < ledger.next {
                self.report.problem(format!("{place} are settled, and still in the outbox"));
            }
            if next.unwrap_or(step.first.min(ledger.next)) != step.first {
                self.report.problem(format!("before {place}, some are missing from the outbox"));
            }
            next = Some(step.last.saturating_add(1));
            let origins =
                |commands: Vec<Command>| commands.into_iter().map(|command| command.origin).collect::<Vec<_>>();
            if let Some(found) = self.body(&step, &place)?.map(origins) {
                self.report.commands += found.len() as u64;
                let numbered = |number| Some(Origin { ledger: name.as_str().into(), first: number, last: number });
                if !found.into_iter().eq((step.first..=step.last).map(numbered)) {
                    self.report.problem(format!("{place} have other numbers inside"));
                }
            }
        }
        if next.unwrap_or(ledger.next.min(sent)) != sent {
            self.report
                .problem(format!("the newest commands of subscription {subscription} are missing from the outbox"));
        }
        Ok(())
    }

    /// Verifies that each message that a sink has not published is in the outbox, and that their numbers have no gaps.
    fn messages(&mut self) -> Result<(), Error> {
        let newest = self.mark("messages")?;
        let published = self.sinks(newest)?;
        let mut next = None;
        for step in self.steps(Queue::Messages)? {
            let place = format!("messages {} to {}", step.first, step.last);
            if next.unwrap_or(step.first.min(published + 1)) != step.first {
                self.report.problem(format!("before {place}, some are missing from the outbox"));
            }
            next = Some(step.last.saturating_add(1));
            if let Some(found) = self.body::<Vec<Message>>(&step, &place)? {
                self.report.messages += found.len() as u64;
                if step.first.checked_add(found.len() as u64) != next {
                    self.report.problem(format!("{place} are {} messages", found.len()));
                }
            }
        }
        if next.unwrap_or(published + 1).max(published + 1) != newest + 1 {
            self.report.problem(format!("the newest messages, up to {newest}, are missing from the outbox"));
        }
        Ok(())
    }

    /// Verifies that no sink is past the end of what it counts. Returns the number of the last message that all sinks
    /// of the outbox have published.
    fn sinks(&mut self, messages: u64) -> Result<u64, Error> {
        let newest_dead_letter = dead_letters::newest(self.connection)?;
        let sinks: Vec<(String, u64)> =
            self.list("SELECT name, position FROM sinks", |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (sink, position) in &sinks {
            let (newest, what) = match SinkName::parse(sink) {
                SinkName::Events(_) => (self.report.position, "event"),
                SinkName::DeadLetters(_) => (newest_dead_letter, "dead letter"),
                SinkName::Messages(_) => (messages, "message"),
            };
            if *position > newest {
                let place = format!("the position of sink {sink} is {position}");
                self.report.problem(format!("{place}, past the newest {what}, {newest}"));
            }
        }
        let of_outbox = sinks.iter().filter(|(sink, _)| matches!(SinkName::parse(sink), SinkName::Messages(_)));
        Ok(of_outbox.map(|(_, position)| *position).min().unwrap_or(0))
    }

    /// Verifies that each dead letter decodes, and that its number was assigned.
    fn dead_letters(&mut self) -> Result<(), Error> {
        let newest = dead_letters::newest(self.connection)?;
        let there = "SELECT count(*), coalesce(sum(bytes), 0) FROM dead_letters";
        let there: Vec<(u64, u64)> = self.list(there, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let noted = (self.mark("dead_letters")?, self.mark("dead_letter_bytes")?);
        if there.first() != Some(&noted) {
            let (count, bytes) = noted;
            self.report
                .problem(format!("the store counts {count} dead letters of {bytes} bytes, and there are {there:?}"));
        }
        for number in self.list("SELECT number FROM dead_letters ORDER BY number", |row| row.get::<_, u64>(0))? {
            self.report.dead_letters += 1;
            if number > newest {
                self.report
                    .problem(format!("dead letter {number} is past the newest number that was assigned, {newest}"));
            }
            let letter = dead_letters::find(self.connection, number);
            self.or_told(letter)?;
        }
        Ok(())
    }

    /// Verifies that each held key has its event and its subscription, and that the dead letter it waits behind exists.
    fn held_keys(&mut self) -> Result<(), Error> {
        let subscriptions =
            self.list("SELECT DISTINCT subscription FROM held_keys ORDER BY 1", |row| row.get::<_, String>(0))?;
        for subscription in subscriptions {
            if !self.has_checkpoint(&subscription)? {
                self.report.problem(format!("subscription {subscription} has held keys and no checkpoint"));
            }
            for HeldKey { stream, next, behind } in held_keys::of(self.connection, &subscription)? {
                let place = format!("key {stream} of subscription {subscription}, held from version {next} on");
                let newest = self.versions.get(&stream).copied().unwrap_or(0);
                if newest + 1 < next.0 || (behind.is_some() && newest < next.0) {
                    self.report.problem(format!("{place}: its stream ends at version {newest}"));
                }
                if let Some(number) = behind
                    && !dead_letters::exists(self.connection, number)?
                {
                    self.report.problem(format!("{place}: it waits behind dead letter {number}, which does not exist"));
                }
            }
        }
        Ok(())
    }

    /// Verifies that each callback decodes, that its number was assigned, and that it is not due before its time.
    fn callbacks(&mut self) -> Result<(), Error> {
        let failed = failed("reading the callbacks");
        let newest = callbacks::newest(self.connection)?;
        let mut select = self
            .connection
            .prepare("SELECT number, timer, time_ms, body, key, due_ms IN (-1, 0, time_ms, 9223372036854775807) FROM callbacks ORDER BY number")
            .map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        while let Some(row) = found.next().map_err(&failed)? {
            self.report.callbacks += 1;
            let number: u64 = row.get(0).map_err(&failed)?;
            if number > newest {
                self.report.problem(format!("callback {number} is past the newest number that was assigned, {newest}"));
            }
            if !row.get::<_, bool>(5).map_err(&failed)? {
                self.report.problem(format!("callback {number} is due at another time than it should"));
            }
            self.or_told(callbacks::kept(row))?;
        }
        Ok(())
    }

    /// Verifies that each HTTP request decodes, that its number was assigned, and that it is due when it should be.
    fn http_requests(&mut self) -> Result<(), Error> {
        let failed = failed("reading the HTTP requests");
        let newest = http_requests::newest(self.connection)?;
        let mut select = self.connection.prepare(&http_requests::select_all()).map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        while let Some(row) = found.next().map_err(&failed)? {
            self.report.http_requests += 1;
            let number: u64 = row.get(0).map_err(&failed)?;
            if number > newest {
                let text = format!("HTTP request {number} is past the newest number that was assigned, {newest}");
                self.report.problem(text);
            }
            self.or_told(http_requests::kept(row))?;
        }
        http_requests::problems(self.connection)?.into_iter().for_each(|problem| self.report.problem(problem));
        Ok(())
    }

    /// Verifies that each archived stream has events, in the index or above its mark.
    fn archived(&mut self) -> Result<(), Error> {
        let without = self.list(
            "SELECT s.aggregate_id FROM archived_streams s WHERE NOT EXISTS (SELECT 1 FROM stream_index i
                 WHERE i.aggregate_type = s.aggregate_type AND i.aggregate_id = s.aggregate_id)
             AND NOT EXISTS (SELECT 1 FROM events e JOIN event_types t ON t.id = e.type
                 WHERE e.position > (SELECT coalesce(max(value), 0) FROM marks WHERE name = 'indexed')
                 AND t.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id)",
            |row| row.get::<_, String>(0),
        )?;
        for id in without {
            self.report.problem(format!("the stream of an aggregate {id} is archived and has no events"));
        }
        Ok(())
    }

    /// Verifies that each remembered outcome decodes.
    fn outcomes(&mut self) -> Result<(), Error> {
        let failed = failed("reading the outcomes");
        let sql = "SELECT id, outcome, length(fingerprint), time_ms FROM outcomes";
        let mut select = self.connection.prepare(sql).map_err(&failed)?;
        let mut found = select.query([]).map_err(&failed)?;
        while let Some(row) = found.next().map_err(&failed)? {
            let id: String = row.get(0).map_err(&failed)?;
            let outcome = row.get_ref(1).map_err(&failed)?.as_bytes().unwrap_or_default();
            if let Err(error) = serde_json::from_slice::<Outcome>(outcome) {
                self.report.problem(format!("the outcome of command {id} does not decode: {error}"));
            }
            if row.get::<_, i64>(2).ok() != Some(16) || row.get::<_, u64>(3).is_err() {
                self.report.problem(format!("the outcome of command {id} has no fingerprint or no time"));
            }
        }
        Ok(())
    }

    /// Verifies that no count of commands is negative.
    fn tallies(&mut self) -> Result<(), Error> {
        let wrong = self.list(
            "SELECT aggregate_type, command FROM tallies WHERE NOT (typeof(accepted + rejected + malformed) = 'integer'
             AND min(accepted, rejected, malformed) >= 0)",
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)),
        )?;
        for (aggregate_type, command) in wrong {
            self.report.problem(format!("the counts of {command} to {aggregate_type} are not valid"));
        }
        Ok(())
    }

    fn steps(&self, queue: Queue<'_>) -> Result<Vec<outbox::Row>, Error> {
        queue.rows(self.connection).map_err(failed("reading the outbox"))
    }

    /// Decodes it. If it does not decode, this is reported as a problem and the result is `None`.
    fn body<T: DeserializeOwned>(&mut self, step: &outbox::Row, place: &str) -> Result<Option<T>, Error> {
        self.or_told(rows::decode(place, &step.body))
    }

    /// Decodes it. If it does not decode, this is reported as a problem and the result is `None`.
    fn ledger(&mut self, name: &str) -> Result<Option<Ledger>, Error> {
        let ledger = rows::ledger(self.connection, name);
        self.or_told(ledger)
    }

    fn or_told<T>(&mut self, read: Result<T, Error>) -> Result<Option<T>, Error> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Error::Failed(text)) => {
                self.report.problem(text);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn mark(&self, name: &str) -> Result<u64, Error> {
        let found = self
            .connection
            .query_row("SELECT value FROM marks WHERE name = ?1", params![name], |row| row.get(0))
            .optional()
            .map_err(failed(&format!("reading the mark {name}")))?;
        Ok(found.unwrap_or(0))
    }

    fn list<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Result<Vec<T>, Error> {
        self.connection
            .prepare(sql)
            .and_then(|mut select| select.query_map([], read)?.collect())
            .map_err(failed("looking the store over"))
    }
}
