//! A store in PostgreSQL that takes part in a move.
//!
//! This process is the only one of its hosts, by a lease, which is renewed in the background while other things take long. Each
//! transaction locks the head row and checks that nobody has removed this process, as that of a host does.

use super::address::Address;
use super::connection::{Change, Connection, Network, Repeated, value};
use super::membership::{self, Company};
use super::{content, schema};
use crate::store::content::{Content, Head, Row, Table, Value};
use crate::store::move_mark::{self, Mark};
use crate::store::verify::{self, Report};
use crate::store::{Error, Options, Statistics, moving};
use std::sync::LazyLock;
use std::time::Duration;
use uuid::Uuid;

/// The part of a lease after which it is renewed.
const RENEWALS_PER_LEASE: u64 = 3;

/// Deletes everything but the events.
static TRUNCATE: LazyLock<String> = LazyLock::new(|| {
    let tables: Vec<_> = Table::but_events().map(|table| table.layout().name).collect();
    format!("TRUNCATE {}", tables.join(", "))
});

/// A store that this process owns.
pub(in crate::store) struct End {
    connection: Connection,
    /// The id of this process among the hosts.
    host: i64,
    _renewal: Repeated,
}

impl End {
    /// Takes over the store of an address, if there is one.
    pub(in crate::store) fn own(address: &Address) -> Result<Option<Self>, Error> {
        let connection = connect(address)?;
        match schema::find(&connection)? {
            schema::Found::Nothing => Ok(None),
            found => {
                super::require_current(address, found)?;
                Self::take(connection).map(Some)
            }
        }
    }

    /// Makes a store without events.
    pub(in crate::store) fn make(address: &Address, identity: Uuid, mark: &Mark) -> Result<Self, Error> {
        let connection = connect(address)?;
        let text = mark.text()?;
        // The store has both from its first moment on, so that no host takes it for a new one.
        schema::migrate_with(&connection, address, |connection| {
            let changes = [content::change_of_identity(identity), content::change_of_mark(Some(&text))];
            connection.run(&changes, false).map_err(Error::from)
        })?;
        let there = schema::identity(&connection)?;
        if there != identity {
            return Err(Error::Invalid(format!(
                "{address} was made meanwhile by a host: choose another schema or database"
            )));
        }
        Self::take(connection)
    }

    fn take(connection: Connection) -> Result<Self, Error> {
        let lease_ms = Options::default().lease_ms;
        let host = membership::join(&connection, lease_ms, Company::Alone)?;
        let renewal = connection.network.connect()?.repeat(
            format!(
                "UPDATE hosts SET lease_until = clock_timestamp() + {lease_ms} * interval '1 millisecond' WHERE id = {host}"
            ),
            Duration::from_millis(lease_ms / RENEWALS_PER_LEASE),
        );
        Ok(Self { connection, host, _renewal: renewal })
    }

    /// Makes changes in a transaction, which fails if a host has taken the store over.
    fn transaction(&self, changes: &[Change]) -> Result<(), Error> {
        const DOING: &str = "locking the head of the store";
        let connection = &self.connection;
        connection.batch(DOING, "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")?;
        let is_there =
            membership::lock_head(connection).and_then(|()| membership::count_if_there(connection, self.host));
        let done = is_there.and_then(|found| match found {
            Some(_) => connection.run(changes, true).map_err(Error::from),
            None => Err(membership::lost(connection)),
        });
        if done.is_err() && !connection.is_lost() {
            // The error that is returned says more than that of a rollback could.
            let _ = connection.batch(DOING, "ROLLBACK");
        }
        done
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // If the connection is lost, the lease ends by itself.
        if !self.connection.is_lost() {
            let _ = membership::leave(&self.connection, self.host);
        }
    }
}

impl Content for End {
    fn may_be_damaged(&self) -> bool {
        self.connection.may_be_damaged()
    }

    fn head(&mut self) -> Result<Head, Error> {
        self.connection.head()
    }

    fn page(&mut self, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
        self.connection.page(table, after)
    }
}

impl moving::End for End {
    fn mark(&mut self) -> Result<Option<Mark>, Error> {
        mark(&self.connection)
    }

    fn set_mark(&mut self, mark: Option<&Mark>) -> Result<(), Error> {
        let text = mark.map(Mark::text).transpose()?;
        self.transaction(&[content::change_of_mark(text.as_deref())])
    }

    fn begin(&mut self, mark: &Mark) -> Result<(), Error> {
        // The snapshots are of the same store, and are checked before they are used.
        let doing = "beginning a move";
        let change = Change { doing, sql: &TRUNCATE, values: Vec::new() };
        self.transaction(&[change, content::change_of_mark(Some(&mark.text()?))])
    }

    fn write(&mut self, table: Table, rows: &[Row]) -> Result<(), Error> {
        let mut changes = content::changes(table, rows)?;
        if table == Table::Events
            && let Some(newest) = rows.last()
        {
            let sql = "UPDATE head SET commits = commits + 1, position = $1, newest_id = $2 WHERE number = 1";
            let values = vec![value(newest[0].int()), value(newest[5].bytes().to_vec())];
            changes.push(Change { doing: "moving the head of the store", sql, values });
        }
        self.transaction(&changes)
    }

    fn set_head(&mut self, head: &Head) -> Result<(), Error> {
        self.transaction(&[content::change_of_head(head)])?;
        // Otherwise the first statements of a host would be planned for empty tables. The server does it by itself some time later.
        let counted = "ANALYZE events, outcomes, callbacks, http_requests, dead_letters, outbox";
        if let Err(error) = self.connection.batch("counting what was moved", counted) {
            tracing::warn!("{error}");
        }
        Ok(())
    }

    fn verify(&mut self, watch: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
        verified(self, watch)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}

/// The content of a store as a connection sees it.
impl Content for Connection {
    fn may_be_damaged(&self) -> bool {
        false
    }

    fn head(&mut self) -> Result<Head, Error> {
        content::head(self)
    }

    fn page(&mut self, table: Table, after: Option<&[Value]>) -> Result<Vec<Row>, Error> {
        content::read(self, table, after)
    }
}

/// Verifies a store as it is at this moment. A host may go on writing to it.
pub(in crate::store) fn verify(address: &Address) -> Result<Report, Error> {
    let mut connection = super::existing(address)?;
    // All pages are read in one transaction, so they are of one moment.
    connection.batch("verifying the store", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    move_mark::refuse_unfinished(address.url(), content::mark(&connection)?.as_deref())?;
    verified(&mut connection, &mut |_, _| ())
}

fn verified(content: &mut dyn Content, watch: &mut dyn FnMut(u64, u64)) -> Result<Report, Error> {
    let mut report = Report::default();
    verify::content(content, &mut report, watch)?;
    report.indexed = report.position;
    Ok(report)
}

/// Returns the statistics of a store as it is at this moment.
pub(in crate::store) fn statistics(address: &Address, count: bool) -> Result<Statistics, Error> {
    super::statistics::of(&super::existing(address)?, count)
}

/// Returns the identity and the mark of a store. Another process may own it.
pub(in crate::store) fn look(address: &Address) -> Result<Option<(Uuid, Option<Mark>)>, Error> {
    let connection = connect(address)?;
    match schema::find(&connection)? {
        schema::Found::Nothing => Ok(None),
        _ => Ok(Some((schema::identity(&connection)?, mark(&connection)?))),
    }
}

fn mark(connection: &Connection) -> Result<Option<Mark>, Error> {
    Mark::read(connection.network.address.url(), content::mark(connection)?.as_deref())
}

fn connect(address: &Address) -> Result<Connection, Error> {
    let connection = Network::start(address)?.connect()?;
    schema::check_server(&connection)?;
    schema::check_writable(&connection)?;
    Ok(connection)
}
