//! The writer: a thread that turns queued requests into transactions.
//!
//! A transaction takes the queued requests, up to its limits, and needs two round trips. The first one begins it, reads what the
//! hints lack, and locks the head row. Then every request is decided in memory. The second one sends all rows, one statement for
//! each table, and commits. Requests of rare kinds need more round trips in between.
//!
//! If the database refuses a statement, the transaction is rolled back and all of its requests fail. If the connection is lost
//! during the commit, nobody knows whether it was committed. Then the answers wait until the row of this host tells, which has the
//! count of its last commit. All other requests are refused until the database is there again.

use super::connection::{Change, Connection, Network, Unmade, int, uint, value};
use super::hints::{Head, Hints, LOCK_HEAD, READ_HEAD};
use super::listening;
use super::membership;
use super::pending::Pending;

use crate::model::{Command, Position, QuickMap};
use crate::store::age::{Age, Moment};
use crate::store::fault::{self, FaultPoint};
use crate::store::front::Meters;
use crate::store::ids::Ids;
use crate::store::recording::Recording as _;
use crate::store::room::Room;
use crate::store::tail::{Recorded, Tail};
use crate::store::watches::{Announcer, NewestNumbers};
use crate::store::write_request::{PendingAnswer, WriteRequest, deliver_all, split};
use crate::store::{Error, Options};
use crate::supervise::{self, Held as _};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// The interval at which an idle writer checks that the database is there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The first and the longest pause between two attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The interval at which dead letters that are too old are dropped, in milliseconds.
const SWEEP_EVERY_MS: u64 = 60_000;

/// The part of a lease after which an idle writer renews it.
const RENEWALS_PER_LEASE: u64 = 3;

/// The content of one transaction so far.
#[derive(Default)]
pub(super) struct WriteBatch {
    answers: Vec<PendingAnswer>,
    /// The new events, which readers see after the commit.
    pub(super) recorded: Recorded,
    /// The number of commands that were accepted, rejected and malformed.
    tallies: QuickMap<(Arc<str>, Arc<str>), [u64; 3]>,
}

impl WriteBatch {
    /// Returns the counts of this kind of command.
    pub(super) fn tally(&mut self, command: &Command) -> &mut [u64; 3] {
        self.tallies.entry((command.stream.aggregate_type.clone(), command.name.clone())).or_default()
    }

    fn fail(self, error: &Error) {
        self.answers.into_iter().for_each(|answer| answer.fail(error.clone()));
    }
}

/// A transaction of which nobody knows whether it was committed.
struct Unresolved {
    batch: WriteBatch,
    /// The head after it.
    head: Head,
    reason: Error,
}

/// The thread's state.
pub(super) struct Writer {
    network: Arc<Network>,
    /// `None` while the database can't be reached.
    connection: Option<Connection>,
    /// The id of this host.
    pub(super) host: i64,
    /// The membership count at which this host was among the hosts, and their number then.
    membership: Option<i64>,
    hosts: u64,
    pub(super) options: Options,
    pub(super) hints: Hints,
    /// The head after this writer's last commit. The hints are right as long as the database has the same number of commits.
    known: Head,
    /// Whether others had written before the last transaction. Then the next one expects that again, and reads all that it needs with
    /// the lock, in one round trip.
    expects_others: bool,
    /// The head in this transaction.
    pub(super) head: Head,
    pub(super) pending: Pending,
    /// The number of the next step in the row of each subscription to records.
    pub(super) rows: QuickMap<Arc<str>, u64>,
    /// The number of outcomes stored since the last clean-up.
    pub(super) outcomes_stored: u32,
    pub(super) requests_changed: u64,
    pub(super) ids: Ids,
    pub(super) age: Age,
    tail: Arc<Tail>,
    pub(super) announcer: Arc<Announcer>,
    pub(super) meters: Arc<Meters>,
    room: Arc<Room>,
    unresolved: Option<Unresolved>,
    /// The number of requests that are still written one by one, because a transaction failed for the values of one of them.
    singly: usize,
    /// The running time at which dead letters were last looked at for their age.
    swept_ms: Option<u64>,
    renewed: Instant,
    retry_at: Instant,
    retry_pause: Duration,
}

impl Writer {
    pub(super) fn new(
        network: Arc<Network>,
        connection: Connection,
        host: i64,
        options: Options,
        tail: Arc<Tail>,
        room: Arc<Room>,
    ) -> Result<Self, Error> {
        let row = connection.first("reading where the store ends", READ_HEAD, &[])?;
        let row = row.ok_or_else(|| Error::Failed(format!("the store {} has no head", network.address)))?;
        let (known, noted) = (Head::read(&row), Moment { running_ms: uint(&row, 11), wall_ms: uint(&row, 12) });
        let meters = Arc::new(Meters::new());
        let mut writer = Self {
            network,
            connection: None,
            host,
            membership: None,
            hosts: 1,
            hints: Hints::new(options.heads_max),
            known,
            expects_others: false,
            head: known,
            pending: Pending::default(),
            rows: QuickMap::default(),
            // The first outcome triggers a clean-up, so that hosts that stop early also do it.
            outcomes_stored: super::appends::OUTCOMES_PER_CLEAN_UP,
            requests_changed: 0,
            ids: Ids::new(options.clock.clone()),
            age: Age::resume(noted, options.clock.clone(), &meters.clock_jumps),
            tail,
            announcer: Arc::new(Announcer::new()),
            meters,
            room,
            unresolved: None,
            singly: 0,
            swept_ms: None,
            renewed: Instant::now(),
            retry_at: Instant::now(),
            retry_pause: RETRY_FIRST,
            options,
        };
        writer.continue_ids(&row);
        writer.settle_in(&connection)?;
        writer.connection = Some(connection);
        writer.announce();
        Ok(writer)
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, requests: Receiver<WriteRequest>) {
        if let Err(lost @ Error::Lost { .. }) = self.work(&requests) {
            tracing::error!("{lost}");
            self.announcer.lost(lost.clone());
            if let Some(Unresolved { batch, .. }) = self.unresolved.take() {
                batch.fail(&lost);
            }
            return requests.into_iter().for_each(|request| self.refuse(request, &lost));
        }
        if self.unresolved.is_some() {
            // The last attempt to find out. If another host has taken over, it is as good as a failed one.
            self.retry_at = Instant::now();
            let _ = self.connect();
        }
        if let Some(Unresolved { batch, reason, .. }) = self.unresolved.take() {
            batch.fail(&reason);
        }
        if let Some(connection) = &self.connection
            && let Err(error) = membership::leave(connection, self.host)
        {
            tracing::warn!("other hosts can take over what this one did only after its lease has expired: {error}");
        }
    }

    /// Runs transactions until every sender is gone. The only error is that the store is lost.
    fn work(&mut self, requests: &Receiver<WriteRequest>) -> Result<(), Error> {
        loop {
            self.connect()?;
            let first = match requests.recv_timeout(self.patience()) {
                Ok(request) if self.connection.is_none() => {
                    let reason = Error::Failed(self.meters.trouble.held().clone().unwrap_or_default());
                    self.refuse(request, &reason);
                    continue;
                }
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if self.connection.is_none() || !self.is_renewal_due() => {
                    self.age.watch(&self.meters.clock_jumps);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => None,
            };
            supervise::round();
            self.transaction(first, requests)?;
        }
    }

    /// Returns how long to wait for a request.
    fn patience(&self) -> Duration {
        match self.connection {
            Some(_) => LOOK_EVERY.min(Duration::from_millis(self.options.lease_ms / RENEWALS_PER_LEASE)),
            None => self.retry_at.saturating_duration_since(Instant::now()),
        }
    }

    fn is_renewal_due(&self) -> bool {
        self.renewed.elapsed() >= Duration::from_millis(self.options.lease_ms / RENEWALS_PER_LEASE)
            || self.meters.trouble.held().is_some()
    }

    /// Makes a connection if there is none, or if it was lost, and if it is time for an attempt. The only error is that the
    /// store is lost.
    fn connect(&mut self) -> Result<(), Error> {
        if self.connection.as_ref().is_some_and(Connection::is_lost) {
            self.connection = None;
        }
        if self.connection.is_some() || Instant::now() < self.retry_at {
            return Ok(());
        }
        match self.network.connect().and_then(|connection| self.resolve(&connection).map(|()| connection)) {
            Ok(connection) => {
                self.connection = Some(connection);
                self.retry_pause = RETRY_FIRST;
                if self.meters.trouble.held().take().is_some() {
                    tracing::info!("the store {} can be written again", self.network.address);
                }
                Ok(())
            }
            Err(lost @ Error::Lost { .. }) => Err(lost),
            Err(error) => {
                self.note_trouble(&error);
                self.retry_at = Instant::now() + self.retry_pause;
                self.retry_pause = (2 * self.retry_pause).min(RETRY_MAX);
                Ok(())
            }
        }
    }

    /// Applies the settings of the writer's connection.
    fn settle_in(&self, connection: &Connection) -> Result<(), Error> {
        // A host that stands still in the middle of a transaction must not keep others from renewing their leases. And what the
        // database has acknowledged must survive its crash, whatever the settings of the role are.
        let sql = format!(
            "SET idle_in_transaction_session_timeout = {};
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
            (self.options.lease_ms / RENEWALS_PER_LEASE).max(1)
        );
        connection.batch("preparing the writer's connection", &sql)
    }

    /// Finds out over a new connection whether this host still owns the store, and whether the last transaction was committed.
    fn resolve(&mut self, connection: &Connection) -> Result<(), Error> {
        const DOING: &str = "looking for the last transaction";
        self.settle_in(connection)?;
        connection.batch(DOING, "BEGIN")?;
        // The lock waits until the server has ended the last transaction.
        membership::lock_head(connection)?;
        let row = connection.first(DOING, membership::RENEW, &[&self.host, &(self.options.lease_ms as f64)])?;
        connection.batch(DOING, "COMMIT")?;
        let Some(row) = row else { return Err(membership::lost(connection)) };
        if let Some(Unresolved { batch, head, reason }) = self.unresolved.take() {
            if uint(&row, 0) == head.commits {
                self.committed(batch, head);
            } else {
                batch.fail(&reason);
            }
        }
        Ok(())
    }

    /// Runs one transaction: begin, the queued requests, commit, answers. The only error is that the store is lost.
    fn transaction(&mut self, first: Option<WriteRequest>, requests: &Receiver<WriteRequest>) -> Result<(), Error> {
        let taken = self.take(first, requests);
        let begun = match self.begin(&taken) {
            // The server may have closed the connection long ago. Nothing is lost if the transaction begins again.
            Err(_) if self.connection.as_ref().is_none_or(Connection::is_lost) => {
                self.retry_at = Instant::now();
                self.connect().and_then(|()| self.begin(&taken))
            }
            begun => begun,
        };
        let count = taken.len();
        if let Err(error) = begun {
            if self.connection.as_ref().is_some_and(|connection| !connection.is_lost()) {
                self.singly = self.singly.max(count);
            }
            self.note_trouble(&error);
            taken.into_iter().for_each(|request| self.refuse(request, &error));
            return self.rolled_back(WriteBatch::default(), &error);
        }
        fault::at(FaultPoint::Begun);
        self.singly = self.singly.saturating_sub(1);
        let mut batch = WriteBatch::default();
        let mut requests = taken.into_iter();
        for request in requests.by_ref() {
            if let Err(error) = self.handle(&mut batch, request) {
                self.note_trouble(&error);
                requests.for_each(|request| self.refuse(request, &error));
                self.singly = self.singly.max(count);
                return self.rolled_back(batch, &error);
            }
            fault::at(FaultPoint::RequestDone);
        }
        match self.commit(&mut batch) {
            Ok(()) => {
                fault::at(FaultPoint::Committed);
                self.committed(batch, self.head);
                Ok(())
            }
            Err(Unmade::Refused { error, is_about_values }) => {
                if is_about_values {
                    self.singly = self.singly.max(count);
                }
                self.rolled_back(batch, &error)
            }
            Err(Unmade::Unknown(error)) => {
                self.unresolved = Some(Unresolved { batch, head: self.head, reason: error.clone() });
                self.rolled_back(WriteBatch::default(), &error)
            }
        }
    }

    /// Takes queued requests up to the limits of a transaction.
    fn take(&self, first: Option<WriteRequest>, requests: &Receiver<WriteRequest>) -> Vec<WriteRequest> {
        let requests_max = if self.singly > 0 { 1 } else { self.options.batch_max };
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut next = first;
        while let Some(request) = next {
            bytes += request.bytes();
            taken.push(request);
            let is_full = taken.len() >= requests_max || bytes >= self.options.batch_bytes_max;
            next = if is_full { None } else { requests.try_recv().ok() };
        }
        taken
    }

    /// Begins a transaction: locks the head row, which all writers do before they assign numbers, and reads what the hints lack.
    /// What is read after the lock is current until the commit.
    fn begin(&mut self, requests: &[WriteRequest]) -> Result<(), Error> {
        fault::at(FaultPoint::BeforeBegin);
        self.hints.end_transaction();
        let Some(connection) = &self.connection else {
            return Err(Error::Failed(self.meters.trouble.held().clone().unwrap_or_default()));
        };
        if self.expects_others {
            self.hints.forget_rows();
        }
        let lacking = self.hints.lacking(requests);
        let doing = "locking the head of the store";
        let mut reads = vec![Change { doing, sql: LOCK_HEAD, values: vec![value(self.host)] }];
        reads.extend(lacking.reads());
        let mut found = connection.begin_and_query(&reads)?.into_iter();
        let locked = found.next().unwrap_or_default();
        let Some(row) = locked.first() else {
            return Err(Error::Failed(format!("the store {} has no head", self.network.address)));
        };
        if !row.get::<_, bool>(13) {
            return Err(membership::lost(connection));
        }
        let membership = row.get::<_, i64>(9);
        if self.membership != Some(membership) {
            let found = membership::count_if_there(connection, self.host)?;
            self.hosts = found.ok_or_else(|| membership::lost(connection))?;
            self.membership = Some(membership);
        }
        self.head = Head::read(row);
        let have_others_written = self.head.commits != self.known.commits;
        let has_read_all = std::mem::replace(&mut self.expects_others, have_others_written);
        if have_others_written {
            self.continue_ids(row);
            self.age.follow(uint(row, 11));
        }
        if has_read_all || !have_others_written {
            return self.hints.learn(lacking, found);
        }
        // Only what is read under the lock counts. The rows of steps are of this host alone.
        self.hints.forget_rows();
        let lacking = self.hints.lacking(requests);
        let reads = lacking.reads();
        let mut found = Vec::new();
        for read in &reads {
            let values: Vec<&(dyn ToSql + Sync)> = read.values.iter().map(|value| &**value as _).collect();
            let connection = self.connection.as_ref().ok_or(Error::Closed)?;
            found.push(connection.query(read.doing, read.sql, &values)?);
        }
        self.hints.learn(lacking, found.into_iter())
    }

    fn continue_ids(&mut self, row: &Row) {
        let newest: Option<Vec<u8>> = row.get(10);
        let newest = newest.and_then(|id| uuid::Uuid::from_slice(&id).ok());
        newest.into_iter().for_each(|id| self.ids.continue_after(id));
    }

    /// Sends all rows and commits.
    fn commit(&mut self, batch: &mut WriteBatch) -> Result<(), Unmade> {
        let refused = |error| Unmade::Refused { error, is_about_values: false };
        self.keep_time().map_err(refused)?;
        let mut changes = self.changes_of_progress().map_err(refused)?;
        changes.extend(changes_of_tallies(std::mem::take(&mut batch.tallies)));
        self.head.commits += 1;
        changes.push(self.change_of_head(batch));
        changes.push(membership::renewed(self.host, self.head.commits, self.options.lease_ms));
        if self.hosts > 1 {
            changes.push(listening::notification(&self.network.address, self.host));
        }
        let Some(connection) = &self.connection else { return Err(refused(Error::Closed)) };
        fault::at(FaultPoint::BeforeCommit);
        let begun = Instant::now();
        connection.run(&changes, true)?;
        self.meters.commit_time.observe_time(begun.elapsed());
        self.meters.batch_size.observe(batch.answers.len() as f64);
        Ok(())
    }

    fn change_of_head(&mut self, batch: &WriteBatch) -> Change {
        let Head {
            commits,
            position,
            message,
            dead_letter,
            callback,
            http_request,
            letters,
            letter_bytes,
            letters_dropped,
        } = self.head;
        let now = self.age.now();
        self.age.noted(now);
        let newest_id = batch.recorded.last().map(|(_, event)| event.id.as_bytes().to_vec());
        let numbers =
            [commits, position, message, dead_letter, callback, http_request, letters, letter_bytes, letters_dropped];
        let mut values: Vec<_> = numbers.into_iter().map(|number| value(int(number))).collect();
        values.push(value(newest_id));
        values.push(value(int(now.running_ms)));
        values.push(value(now.wall_ms.cast_signed()));
        let sql = "UPDATE head SET commits = $1, position = $2, message = $3, dead_letter = $4, callback = $5,
                   http_request = $6, dead_letters = $7, dead_letter_bytes = $8, dead_letters_dropped = $9,
                   newest_id = coalesce($10, newest_id), running_ms = $11, wall_ms = $12 WHERE number = 1";
        Change { doing: "moving the head of the store", sql, values }
    }

    /// Publishes a committed transaction: readers see it, then watchers are woken, then the callers get their answers.
    fn committed(&mut self, batch: WriteBatch, head: Head) {
        (self.known, self.renewed) = (head, Instant::now());
        if let Some(reason) = self.meters.trouble.held().take() {
            tracing::info!("the store {} can be written again, after: {reason}", self.network.address);
        }
        self.tail.publish(batch.recorded);
        fault::at(FaultPoint::EntriesShown);
        self.announce();
        fault::at(FaultPoint::WatchersWoken);
        deliver_all(batch.answers);
    }

    fn announce(&self) {
        let Head { position, message, dead_letter, callback, letter_bytes, letters_dropped, .. } = self.known;
        let requests_changed = self.requests_changed;
        self.announcer.announce(NewestNumbers { position, message, dead_letter, callback, requests_changed });
        self.meters.dead_letter_bytes.store(letter_bytes, Ordering::Relaxed);
        self.meters.dead_letters_dropped.store(letters_dropped, Ordering::Relaxed);
    }

    /// Forgets a transaction that failed. The only error is that the store is lost.
    fn rolled_back(&mut self, batch: WriteBatch, error: &Error) -> Result<(), Error> {
        // Whoever gets the answer can see why.
        self.note_trouble(error);
        batch.fail(error);
        self.pending = Pending::default();
        self.hints.forget();
        self.rows.clear();
        // Also a host that has lost the store ends its transaction, which may hold the head row.
        let is_usable = self.connection.as_ref().is_some_and(|connection| {
            !connection.is_lost() && connection.batch("rolling a transaction back", "ROLLBACK").is_ok()
        });
        if !is_usable {
            self.connection = None;
            self.retry_at = Instant::now();
        }
        if matches!(error, Error::Lost { .. }) { Err(error.clone()) } else { Ok(()) }
    }

    fn note_trouble(&self, error: &Error) {
        if matches!(error, Error::Lost { .. }) {
            return;
        }
        let mut trouble = self.meters.trouble.held();
        let text = error.to_string();
        if trouble.as_ref() != Some(&text) {
            tracing::error!("the store {} can't be written: {text}", self.network.address);
        }
        *trouble = Some(text);
    }

    fn refuse(&self, request: WriteRequest, error: &Error) {
        self.room.free(request.bytes());
        request.fail(error.clone());
    }

    /// Handles one request. An error means that the database failed; a refusal is an answer.
    fn handle(&mut self, batch: &mut WriteBatch, request: WriteRequest) -> Result<(), Error> {
        self.room.free(request.bytes());
        let (answer, fatal) = match request {
            WriteRequest::Append { append, fingerprint, ack, .. } => {
                let chain = append.chain.clone();
                let (result, fatal) = split(self.append(batch, *append, fingerprint));
                (PendingAnswer::append(ack, chain, result), fatal)
            }
            WriteRequest::Advance { step, ack, .. } => {
                let (result, fatal) = split(self.advance(batch, *step));
                (PendingAnswer::Advance(ack, result), fatal)
            }
            WriteRequest::Published { sink, from, to, refused, ack } => {
                let (result, fatal) = split(self.published(&sink, from, to, &refused));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::DeadLetter(letter, origin, ack) => {
                let (result, fatal) = split(self.dead_letter(batch, &letter, origin.as_ref()));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::StartLedger { ledger, next, ack } => {
                let (result, fatal) = split(self.start_ledger(&ledger, next));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::DiscardMany(which, ack) => {
                let (result, fatal) = split(self.discard_many(&which));
                (PendingAnswer::Count(ack, result), fatal)
            }
            WriteRequest::BeginAttempt(number, ack) => {
                let (result, fatal) = split(self.begin_attempt(number));
                (PendingAnswer::Attempts(ack, result), fatal)
            }
            WriteRequest::EndAttempt(number, end, ack) => {
                let (result, fatal) = split(self.end_attempt(number, *end));
                (PendingAnswer::Unit(ack, result), fatal)
            }
            WriteRequest::InterruptAttempts(of, ack) => {
                let (result, fatal) = split(self.interrupt_attempts(&of));
                (PendingAnswer::Requests(ack, result), fatal)
            }
            WriteRequest::Administer(request, ack) => {
                let (result, fatal) = split(self.administer(request));
                (PendingAnswer::Unit(ack, result), fatal)
            }
        };
        batch.answers.push(answer);
        fatal.map_or(Ok(()), Err)
    }

    /// Sends the rows that wait, so that the next statement sees them.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let changes = self.pending.take();
        if changes.is_empty() {
            return Ok(());
        }
        self.connected()?.run(&changes, false).map_err(Error::from)
    }

    /// Reads rows in the transaction, with all that it has changed so far.
    pub(super) fn query(
        &mut self,
        doing: &str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        self.flush()?;
        self.connected()?.query(doing, sql, values)
    }

    /// Reads the first row, if there is one.
    pub(super) fn first(
        &mut self,
        doing: &str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(doing, sql, values)?.into_iter().next())
    }

    /// Changes something at once, and returns the number of rows.
    pub(super) fn execute(
        &mut self,
        doing: &str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Error> {
        self.flush()?;
        self.connected()?.execute(doing, sql, values)
    }

    pub(super) fn connected(&self) -> Result<&Connection, Error> {
        self.connection.as_ref().ok_or(Error::Closed)
    }

    /// Returns the position of the newest event, in this transaction.
    pub(super) fn newest(&self) -> Position {
        self.head.newest()
    }

    /// Drops old dead letters from time to time. The head row has the running time after each commit.
    fn keep_time(&mut self) -> Result<(), Error> {
        self.age.watch(&self.meters.clock_jumps);
        let now = self.age.now();
        match self.options.dead_letters.age_max_ms {
            Some(age_max_ms) if self.swept_ms.is_none_or(|swept_ms| now.running_ms >= swept_ms + SWEEP_EVERY_MS) => {
                self.swept_ms = Some(now.running_ms);
                self.drop_older_letters(now.before(age_max_ms))
            }
            _ => Ok(()),
        }
    }
}

fn changes_of_tallies(tallies: QuickMap<(Arc<str>, Arc<str>), [u64; 3]>) -> Option<Change> {
    if tallies.is_empty() {
        return None;
    }
    let (mut types, mut commands, mut counts) = (Vec::new(), Vec::new(), [const { Vec::new() }; 3]);
    for ((aggregate_type, command), counted) in tallies {
        types.push(aggregate_type.to_string());
        commands.push(command.as_bytes().to_vec());
        counts.iter_mut().zip(counted).for_each(|(column, count)| column.push(int(count)));
    }
    let [accepted, rejected, malformed] = counts;
    let sql = "INSERT INTO tallies AS t (aggregate_type, command, accepted, rejected, malformed)
               SELECT * FROM unnest($1::text[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[])
               ON CONFLICT (aggregate_type, command) DO UPDATE SET accepted = t.accepted + excluded.accepted,
               rejected = t.rejected + excluded.rejected, malformed = t.malformed + excluded.malformed";
    let values = vec![value(types), value(commands), value(accepted), value(rejected), value(malformed)];
    Some(Change { doing: "counting outcomes", sql, values })
}
