//! The verification of a store: whether its content is consistent.
//!
//! It reads everything and changes nothing, in any store whose [`Content`] can be read. What only one store has, such as the pages
//! of a file, is verified by that store. It needs about 50 bytes of memory for each stream, and nothing for an event.

use super::content::{Content, Head, Row, Rows, Table, Value};
use super::encoding::{decode, decode_headers};
use super::{Error, HeldKey, Ledger};
use crate::model::{
    Callback, Command, DeadLetterContent, HttpRequest, LedgerName, Message, Origin, Outcome, Position, QuickMap,
    SinkName, SubscriptionName, Version,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The most problems that are reported one by one. Further ones are only counted.
const PROBLEMS_MAX: usize = 100;

/// The time at which something is due that waits for something else: never.
const WAITS: i64 = i64::MAX;

/// The bytes of a fingerprint.
const FINGERPRINT_BYTES: usize = 16;

/// The content of a store, and its problems.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The number of recorded events.
    pub events: u64,
    /// The number of streams with events.
    pub streams: u64,
    /// The position of the newest event.
    pub position: u64,
    /// The position up to which the stream index is filled. In PostgreSQL every event is in it.
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

    pub(super) fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        } else {
            self.more_problems += 1;
        }
    }

    /// Returns a value, or reports why it can't be read. Only a failure that ends the verification is an error.
    pub(super) fn or_told<T>(&mut self, read: Result<T, Error>) -> Result<Option<T>, Error> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Error::Failed(text)) => {
                self.problem(text);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Verifies the content of a store. `watch` is told from time to time how many events were read. An error means that the verification
/// was not possible; problems of the store are in the report.
pub(super) fn content(
    content: &mut dyn Content,
    report: &mut Report,
    watch: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let head = match content.head() {
        Err(error) if !content.may_be_damaged() => return Err(error),
        read => report.or_told(read)?.unwrap_or_default(),
    };
    let mut verifier = Verifier { content, report, head, streams: QuickMap::default(), progress: Progress::default() };
    let read = verifier.events(watch);
    verifier.or_told(read)?;
    let parts = [
        Verifier::ledgers,
        Verifier::checkpoints,
        Verifier::outbox,
        Verifier::sinks,
        Verifier::messages,
        Verifier::dead_letters,
        Verifier::held_keys,
        Verifier::callbacks,
        Verifier::http_requests,
        Verifier::archived,
        Verifier::outcomes,
        Verifier::tallies,
        Verifier::facts,
    ];
    for part in parts {
        // If a part can't be verified, that is one more problem, and the next part is verified nevertheless.
        let done = part(&mut verifier);
        verifier.or_told(done)?;
    }
    Ok(())
}

/// Stands for a stream in memory, where a name would take more.
type StreamHash = [u8; 16];

struct Verifier<'c> {
    content: &'c mut dyn Content,
    report: &'c mut Report,
    head: Head,
    /// The version of the newest event of each stream.
    streams: QuickMap<StreamHash, u64>,
    progress: Progress,
}

/// How far the parts of a manifest are.
#[derive(Default)]
struct Progress {
    ledgers: BTreeMap<String, Ledger>,
    /// The position of each subscription, and the number of commands that it has sent.
    checkpoints: BTreeMap<String, (u64, u64)>,
    /// The number of the last message that all sinks of the outbox have published.
    published: u64,
    /// The numbers of the dead letters, in order.
    letters: Vec<u64>,
}

impl Verifier<'_> {
    /// Reports why a part of a damaged store can't be read.
    fn or_told(&mut self, read: Result<(), Error>) -> Result<(), Error> {
        if self.content.may_be_damaged() { self.report.or_told(read).map(drop) } else { read }
    }

    /// Gives all rows of a table to a function, but for those with a value that their column can't have, which are problems.
    fn each(&mut self, table: Table, mut take: impl FnMut(&mut Self, Row) -> Result<(), Error>) -> Result<(), Error> {
        let mut rows = Rows::of(table);
        while let Some(row) = rows.next(self.content)? {
            match table.misfit(&row) {
                Some(misfit) => self.report.problem(misfit),
                None => take(self, row)?,
            }
        }
        Ok(())
    }

    /// Verifies that every event decodes and has a unique id, and that the versions of each stream increase one by one
    /// in the order of positions.
    fn events(&mut self, watch: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        let (mut before, mut ids, mut newest_id) = (0, Ids::default(), Vec::new());
        let mut rows = Rows::of(Table::Events);
        while let Some(row) = rows.next(self.content)? {
            self.report.events += 1;
            watch(self.report.events, self.head.position);
            let position = row[0].int();
            if position <= before {
                self.report.problem(format!("position {position} comes after {before}"));
            }
            before = position;
            self.event(&row, &mut ids);
            newest_id = row.into_iter().nth(5).map_or(Vec::new(), |id| id.bytes().to_vec());
        }
        self.report.streams = self.streams.len() as u64;
        self.report.position = before.max(0).unsigned_abs();
        if self.head.position != self.report.position {
            let (noted, newest) = (self.head.position, self.report.position);
            self.report.problem(format!("the store says that its newest position is {noted}, and it is {newest}"));
        }
        if self.head.newest_id.as_deref().unwrap_or_default() != newest_id {
            self.report.problem("the store has another id than that of its newest event".to_owned());
        }
        for id in ids.twice(self.content)? {
            self.report.problem(format!("the event id {id} was assigned twice"));
        }
        Ok(())
    }

    fn event(&mut self, row: &[Value], ids: &mut Ids) {
        let misfit = Table::Events.misfit(row);
        let headers = row[9].bytes();
        let told = match (misfit, <[u8; 16]>::try_from(row[5].bytes())) {
            (Some(misfit), _) => Some(misfit),
            (None, Err(_)) => Some(format!("{}: its `id` is no id", Table::Events.place(row))),
            (None, Ok(id)) => {
                ids.add(id);
                let decoded = decode_headers(Position(row[0].count()), headers);
                let decoded = if row[9].is_null() { Ok(()) } else { decoded.map(drop) };
                decoded.err().map(|error| format!("{}: {error}", Table::Events.place(row)))
            }
        };
        if let Some(told) = told {
            return self.report.problem(told);
        }
        let version = self.streams.entry(hash(&[&row[1], &row[3]])).or_default();
        let found = row[4].count();
        if found != *version + 1 {
            let stream = format!("{}/{}", row[1].text(), row[3].text());
            self.report.problem(format!(
                "{} is version {found} of {stream}, after version {version}",
                Table::Events.place(row)
            ));
        }
        *version = found;
    }

    /// Verifies that the settled ranges of each ledger are above its watermark, in order, and with gaps between them.
    fn ledgers(&mut self) -> Result<(), Error> {
        self.each(Table::Ledgers, |this, row| {
            this.report.ledgers += 1;
            let name = row[0].text().into_owned();
            let ahead = decode::<BTreeMap<u64, u64>>(&format!("ledger {name}"), row[2].bytes());
            let Some(ahead) = this.report.or_told(ahead)? else { return Ok(()) };
            let next = row[1].count();
            // A range that begins right at the watermark should have moved it.
            let mut end = next;
            for (&first, &last) in &ahead {
                if first <= end || last < first {
                    this.report.problem(format!("ledger {name}: {first} to {last} is settled ahead, after {end}"));
                }
                end = last.saturating_add(1);
            }
            this.progress.ledgers.insert(name, Ledger { next, ahead });
            Ok(())
        })
    }

    fn checkpoints(&mut self) -> Result<(), Error> {
        self.each(Table::Checkpoints, |this, row| {
            this.report.checkpoints += 1;
            let (subscription, position) = (row[0].text().into_owned(), row[1].count());
            if position > this.report.position {
                let newest = this.report.position;
                this.report.problem(format!(
                    "the checkpoint of subscription {subscription} is {position}, past the newest event, {newest}"
                ));
            }
            this.progress.checkpoints.insert(subscription, (position, row[2].count()));
            Ok(())
        })?;
        let whole = |name: &str| SubscriptionName::parse(name).whole().to_string();
        let known: HashSet<String> = self.progress.checkpoints.keys().map(|name| whole(name)).collect();
        for (name, Ledger { next, ahead }) in &self.progress.ledgers {
            // The ledger of a segment stays when the subscription gets another number of them.
            if let Some(LedgerName::Commands(subscription)) = LedgerName::parse(name)
                && (*next > 0 || !ahead.is_empty())
                && !known.contains(&subscription.whole().to_string())
            {
                // Its next commands would get numbers that are already settled, and would count as repetitions.
                self.report
                    .problem(format!("ledger {name} has settled commands of a subscription without a checkpoint"));
            }
        }
        Ok(())
    }

    /// Verifies that each command of a subscription that is not settled is in the outbox, under its number.
    fn outbox(&mut self) -> Result<(), Error> {
        let mut next = HashMap::<String, u64>::new();
        self.each(Table::Outbox, |this, row| {
            if row[0].bytes() != b"commands" {
                return Ok(());
            }
            let (subscription, first, last) = (row[1].text().into_owned(), row[2].count(), row[3].count());
            let place = Table::Outbox.place(&row);
            if !this.progress.checkpoints.contains_key(&subscription) && !next.contains_key(&subscription) {
                this.report
                    .problem(format!("subscription {subscription} has commands in the outbox and no checkpoint"));
            }
            let name = SubscriptionName::parse(&subscription).ledger().to_string();
            let settled = this.progress.ledgers.get(&name).map_or(0, |ledger| ledger.next);
            if last < settled {
                this.report.problem(format!("{place} are settled, and still in the outbox"));
            }
            if next.get(&subscription).copied().unwrap_or(first.min(settled)) != first {
                this.report.problem(format!("before {place}, some are missing from the outbox"));
            }
            next.insert(subscription, last.saturating_add(1));
            let commands = decode::<Vec<Command>>(&place, row[4].bytes());
            let Some(commands) = this.report.or_told(commands)? else { return Ok(()) };
            this.report.commands += commands.len() as u64;
            let numbered = |number| Some(Origin { ledger: name.as_str().into(), first: number, last: number });
            if !commands.into_iter().map(|command| command.origin).eq((first..=last).map(numbered)) {
                this.report.problem(format!("{place} have other numbers inside"));
            }
            Ok(())
        })?;
        for (subscription, &(_, sent)) in &self.progress.checkpoints {
            let name = SubscriptionName::parse(subscription).ledger().to_string();
            let none = Ledger::default();
            let ledger = self.progress.ledgers.get(&name).unwrap_or(&none);
            let settled = ledger.ahead.last_key_value().map_or(ledger.next, |(_, last)| last.saturating_add(1));
            if settled > sent {
                self.report.problem(format!("ledger {name} has settled {settled} commands of {sent} that were sent"));
            }
            if next.get(subscription).copied().unwrap_or(ledger.next.min(sent)) != sent {
                self.report
                    .problem(format!("the newest commands of subscription {subscription} are missing from the outbox"));
            }
        }
        Ok(())
    }

    /// Verifies that no sink is past the end of what it counts.
    fn sinks(&mut self) -> Result<(), Error> {
        let mut published = None;
        self.each(Table::Sinks, |this, row| {
            let (sink, position) = (row[0].text().into_owned(), row[1].count());
            let (newest, what) = match SinkName::parse(&sink) {
                SinkName::Events(_) => (this.report.position, "event"),
                SinkName::DeadLetters(_) => (this.head.dead_letter, "dead letter"),
                SinkName::Messages(_) => {
                    published = Some(published.unwrap_or(position).min(position));
                    (this.head.message, "message")
                }
            };
            if position > newest {
                let place = Table::Sinks.place(&row);
                this.report.problem(format!("{place} is {position}, past the newest {what}, {newest}"));
            }
            Ok(())
        })?;
        self.progress.published = published.unwrap_or(0);
        Ok(())
    }

    /// Verifies that each message that a sink has not published is in the outbox, and that their numbers have no gaps.
    fn messages(&mut self) -> Result<(), Error> {
        let (mut next, published, newest) = (None, self.progress.published, self.head.message);
        self.each(Table::Outbox, |this, row| {
            if row[0].bytes() == b"commands" {
                return Ok(());
            }
            let (first, last, place) = (row[2].count(), row[3].count(), Table::Outbox.place(&row));
            if next.unwrap_or(first.min(published + 1)) != first {
                this.report.problem(format!("before {place}, some are missing from the outbox"));
            }
            next = Some(last.saturating_add(1));
            let messages = decode::<Vec<Message>>(&place, row[4].bytes());
            let Some(messages) = this.report.or_told(messages)? else { return Ok(()) };
            this.report.messages += messages.len() as u64;
            if first.checked_add(messages.len() as u64) != next {
                this.report.problem(format!("{place} are {} messages", messages.len()));
            }
            Ok(())
        })?;
        if next.unwrap_or(published + 1).max(published + 1) != newest + 1 {
            self.report.problem(format!("the newest messages, up to {newest}, are missing from the outbox"));
        }
        Ok(())
    }

    /// Verifies that each dead letter decodes, and that its number was assigned.
    fn dead_letters(&mut self) -> Result<(), Error> {
        let mut bytes = 0;
        self.each(Table::DeadLetters, |this, row| {
            let (number, newest) = (row[0].count(), this.head.dead_letter);
            this.report.dead_letters += 1;
            this.progress.letters.push(number);
            bytes += row[8].count();
            if number > newest {
                this.report
                    .problem(format!("dead letter {number} is past the newest number that was assigned, {newest}"));
            }
            let content = decode::<DeadLetterContent>(&format!("the content of dead letter {number}"), row[9].bytes());
            this.report.or_told(content).map(drop)
        })?;
        let (there, noted) = ((self.report.dead_letters, bytes), (self.head.dead_letters, self.head.dead_letter_bytes));
        if there != noted {
            self.report.problem(format!(
                "the store counts {} dead letters of {} bytes, and there are {} of {} bytes",
                noted.0, noted.1, there.0, there.1
            ));
        }
        Ok(())
    }

    /// Verifies that each held key has its event and its subscription, and that the dead letter it waits behind exists.
    fn held_keys(&mut self) -> Result<(), Error> {
        let mut told = HashSet::new();
        self.each(Table::HeldKeys, |this, row| {
            let subscription = row[0].text().into_owned();
            let place = Table::HeldKeys.place(&row);
            if !this.progress.checkpoints.contains_key(&subscription) && told.insert(subscription.clone()) {
                this.report.problem(format!("subscription {subscription} has held keys and no checkpoint"));
            }
            let (next, behind) = (row[3].count(), (!row[4].is_null()).then(|| row[4].count()));
            // A saga or a record is held without a version.
            let newest = this.streams.get(&hash(&[&row[1], &row[2]])).copied().unwrap_or(0);
            let is_beyond = newest + 1 < next || (behind.is_some() && newest < next);
            if Version(next) != HeldKey::NO_VERSION && is_beyond {
                this.report.problem(format!("{place}: its stream ends at version {newest}"));
            }
            if let Some(number) = behind
                && this.progress.letters.binary_search(&number).is_err()
            {
                this.report.problem(format!("{place}: it waits behind dead letter {number}, which does not exist"));
            }
            Ok(())
        })
    }

    /// Verifies that each callback decodes, that its number was assigned, and that it is not due before its time.
    fn callbacks(&mut self) -> Result<(), Error> {
        self.each(Table::Callbacks, |this, row| {
            let (number, newest) = (row[0].count(), this.head.callback);
            this.report.callbacks += 1;
            if number > newest {
                this.report.problem(format!("callback {number} is past the newest number that was assigned, {newest}"));
            }
            if ![-1, 0, row[4].int(), WAITS].contains(&row[5].int()) {
                this.report.problem(format!("callback {number} is due at another time than it should"));
            }
            let callback = decode::<Callback>(&Table::Callbacks.place(&row), row[6].bytes());
            this.report.or_told(callback).map(drop)
        })
    }

    /// Verifies that each HTTP request decodes, that its number was assigned, and that it is due when it should be: not while an
    /// attempt is under way, nor behind another request of its key.
    fn http_requests(&mut self) -> Result<(), Error> {
        let mut keys = HashSet::new();
        self.each(Table::HttpRequests, |this, row| {
            let (number, newest) = (row[0].count(), this.head.http_request);
            this.report.http_requests += 1;
            if number > newest {
                let text = format!("HTTP request {number} is past the newest number that was assigned, {newest}");
                this.report.problem(text);
            }
            let is_behind = !row[3].is_null() && !keys.insert(hash(&[&row[1], &row[2], &row[3]]));
            let (waits, is_begun) = (row[5].int() == WAITS, !row[8].is_null());
            if waits != (is_begun || is_behind) || (is_begun && is_behind) {
                this.report.problem(format!("HTTP request {number} is due at another time than it should"));
            }
            let request = decode::<HttpRequest>(&Table::HttpRequests.place(&row), row[10].bytes());
            this.report.or_told(request).map(drop)
        })
    }

    /// Verifies that each archived stream has events.
    fn archived(&mut self) -> Result<(), Error> {
        self.each(Table::ArchivedStreams, |this, row| {
            if !this.streams.contains_key(&hash(&[&row[0], &row[1]])) {
                let id = row[1].text();
                this.report.problem(format!("the stream of an aggregate {id} is archived and has no events"));
            }
            Ok(())
        })
    }

    /// Verifies that each remembered outcome decodes.
    fn outcomes(&mut self) -> Result<(), Error> {
        self.each(Table::Outcomes, |this, row| {
            let place = Table::Outcomes.place(&row);
            if let Err(error) = serde_json::from_slice::<Outcome>(row[2].bytes()) {
                this.report.problem(format!("{place} does not decode: {error}"));
            }
            if row[1].bytes().len() != FINGERPRINT_BYTES {
                this.report.problem(format!("{place} has no fingerprint"));
            }
            Ok(())
        })
    }

    /// Verifies that no count of commands is negative.
    fn tallies(&mut self) -> Result<(), Error> {
        self.each(Table::Tallies, |_, _| Ok(()))
    }

    fn facts(&mut self) -> Result<(), Error> {
        self.each(Table::Facts, |_, _| Ok(()))
    }
}

/// Looks for ids that were assigned twice. Ids rise with positions, so only those that do not rise have to be kept.
#[derive(Default)]
struct Ids {
    newest: [u8; 16],
    late: HashMap<[u8; 16], u32>,
}

impl Ids {
    fn add(&mut self, id: [u8; 16]) {
        if id > self.newest {
            self.newest = id;
        } else {
            self.late.insert(id, 0);
        }
    }

    /// Returns the ids that more than one event has. If all ids have risen, this reads nothing.
    fn twice(mut self, content: &mut dyn Content) -> Result<Vec<uuid::Uuid>, Error> {
        let mut rows = Rows::of(Table::Events);
        while !self.late.is_empty()
            && let Some(row) = rows.next(content)?
        {
            if let Some(count) = <[u8; 16]>::try_from(row[5].bytes()).ok().and_then(|id| self.late.get_mut(&id)) {
                *count += 1;
            }
        }
        let mut twice: Vec<_> = self.late.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id).collect();
        twice.sort_unstable();
        Ok(twice.into_iter().map(uuid::Uuid::from_bytes).collect())
    }
}

/// Makes a hash of values, which two different lists never share in practice.
fn hash(values: &[&Value]) -> StreamHash {
    let mut hash = Sha256::new();
    for value in values {
        hash.update((value.bytes().len() as u64).to_le_bytes());
        hash.update(value.bytes());
    }
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    first
}
