//! Connections to PostgreSQL, used from threads that block.
//!
//! One runtime thread moves the bytes of all connections of a store. A thread that asks something waits for the answer
//! without a runtime, so it may be any thread, also one of tokio's. Statements are prepared once for each connection. Several
//! statements can be sent before the first answer is awaited ([`Connection::run`]).

use super::address::Address;
use super::failures::{self, failed, unanswered};
use super::tls::Tls;
use crate::store::Error;
use crate::supervise::Held as _;
use futures_util::future::join_all;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, Statement};

/// The longest wait for an answer. Then the connection counts as lost.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A value of a statement.
pub(super) type Value = Box<dyn ToSql + Sync + Send>;

/// The runtime that moves the bytes of a store's connections, and how they are made.
pub(super) struct Network {
    /// It is there until the network is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
    pub(super) address: Address,
    tls: Tls,
}

impl Network {
    /// Starts the runtime.
    pub(super) fn start(address: &Address) -> Result<Arc<Self>, Error> {
        let tls =
            Tls::new(&address.encryption).map_err(|cause| Error::Failed(format!("the store {address}: {cause}")))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("store-network")
            .enable_all()
            .build()
            .map_err(|error| Error::Failed(format!("can't start the network of the store {address}: {error}")))?;
        let handle = runtime.handle().clone();
        Ok(Arc::new(Self { runtime: Some(runtime), handle, address: address.clone(), tls }))
    }

    /// Makes a connection.
    pub(super) fn connect(self: &Arc<Self>) -> Result<Connection, Error> {
        const DOING: &str = "connecting to the store";
        let network = self.clone();
        let connecting = self.handle.spawn(async move { network.client(Arc::default()).await });
        let abort = connecting.abort_handle();
        let client = match wait(connecting, ANSWER_MAX) {
            Some(Ok(connected)) => connected.map_err(|error| failed(&self.address, DOING, &error))?,
            Some(Err(error)) => return Err(Error::Failed(format!("{DOING}: {error}"))),
            None => {
                abort.abort();
                return Err(unanswered(&self.address, DOING));
            }
        };
        let connection =
            Connection { client, statements: Mutex::default(), network: self.clone(), is_lost: false.into() };
        connection.batch("preparing a connection", &self.settings())?;
        Ok(connection)
    }

    /// Returns the statements that settle a connection in.
    pub(super) fn settings(&self) -> String {
        let schema = &self.address.schema;
        // The server ends what takes longer than this host waits for, and a transaction that this host has left alone.
        format!(
            "SET search_path = {schema}; SET lock_timeout = '5s'; SET statement_timeout = '29s';
             SET idle_in_transaction_session_timeout = '10s'"
        )
    }

    /// Makes a client. A task moves its bytes and hands on the notifications that come.
    pub(super) async fn client(&self, notified: Arc<Notified>) -> Result<Client, tokio_postgres::Error> {
        let config = &self.address.config;
        if config.get_ssl_mode() == tokio_postgres::config::SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await?;
            self.handle.spawn(moved(connection, notified));
            Ok(client)
        } else {
            let (client, connection) = config.connect(self.tls.clone()).await?;
            self.handle.spawn(moved(connection, notified));
            Ok(client)
        }
    }

    /// Runs a task until it ends, or until it is aborted.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.handle.spawn(task)
    }
}

/// Whoever waits for notifications that come over a connection.
#[derive(Default)]
pub(super) struct Notified {
    pub(super) come: Notify,
    /// The content of those that nobody waits for.
    pub(super) ignored: String,
}

/// Moves the bytes of a connection until it is closed.
async fn moved<S, T>(mut connection: tokio_postgres::Connection<S, T>, notified: Arc<Notified>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message
            && notification.payload() != notified.ignored
        {
            notified.come.notify_one();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The last owner may be on a thread of another runtime, which must not wait.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// A connection. It is used by one thread at a time.
pub(super) struct Connection {
    client: Client,
    statements: Mutex<HashMap<&'static str, Statement>>,
    pub(super) network: Arc<Network>,
    /// Whether an answer did not come in time, so that nobody knows what the server does.
    is_lost: std::sync::atomic::AtomicBool,
}

/// A statement that changes something, with its values.
pub(super) struct Change {
    pub(super) doing: &'static str,
    pub(super) sql: &'static str,
    pub(super) values: Vec<Value>,
}

/// Why a group of changes was not made.
pub(super) enum Unmade {
    /// The server refused one. The transaction is rolled back.
    Refused {
        error: Error,
        /// Whether it is about the values, so that other changes may succeed.
        is_about_values: bool,
    },
    /// The connection is lost, and nobody knows what the server did.
    Unknown(Error),
}

impl From<Unmade> for Error {
    fn from(unmade: Unmade) -> Self {
        match unmade {
            Unmade::Refused { error, .. } | Unmade::Unknown(error) => error,
        }
    }
}

impl Connection {
    /// Returns whether the connection is lost.
    pub(super) fn is_lost(&self) -> bool {
        self.client.is_closed() || self.is_lost.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Runs statements without values, and ignores what they return.
    pub(super) fn batch(&self, doing: &str, sql: &str) -> Result<(), Error> {
        self.answered(doing, self.client.batch_execute(sql))
    }

    /// Reads rows.
    pub(super) fn query(
        &self,
        doing: &str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(doing, sql)?;
        self.answered(doing, self.client.query(&statement, values))
    }

    /// Reads the first row, if there is one.
    pub(super) fn first(
        &self,
        doing: &str,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(doing, sql, values)?.into_iter().next())
    }

    /// Changes something, and returns the number of rows.
    pub(super) fn execute(&self, doing: &str, sql: &'static str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        let statement = self.prepare(doing, sql)?;
        self.answered(doing, self.client.execute(&statement, values))
    }

    /// Begins a transaction, and reads the rows of several statements in it, in one round trip.
    pub(super) fn begin_and_query(&self, reads: &[Change]) -> Result<Vec<Vec<Row>>, Error> {
        let statements = reads.iter().map(|read| self.prepare(read.doing, read.sql)).collect::<Result<Vec<_>, _>>()?;
        let all = async {
            let begun = self.client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
            let rows = join_all(statements.iter().zip(reads).map(|(statement, read)| async {
                let values: Vec<&(dyn ToSql + Sync)> = read.values.iter().map(|value| &**value as _).collect();
                self.client.query(statement, &values).await.map_err(|error| (read.doing, error))
            }));
            let (begun, rows) = futures_util::future::join(begun, rows).await;
            begun.map_err(|error| ("beginning a transaction", error))?;
            rows.into_iter().collect::<Result<Vec<_>, _>>()
        };
        match wait(all, ANSWER_MAX) {
            Some(Ok(rows)) => Ok(rows),
            Some(Err((doing, error))) => Err(failed(&self.network.address, doing, &error)),
            None => Err(self.lost("beginning a transaction")),
        }
    }

    /// Makes changes in their order, and then commits if that is asked for, in one round trip.
    pub(super) fn run(&self, changes: &[Change], commits: bool) -> Result<(), Unmade> {
        let unknown = |error| if self.is_lost() { Unmade::Unknown(error) } else { refused(error) };
        let statements =
            changes.iter().map(|change| self.prepare(change.doing, change.sql)).collect::<Result<Vec<_>, _>>();
        // Nothing is sent yet that could have an effect.
        let statements = statements.map_err(refused)?;
        let is_unsent = std::cell::Cell::new(false);
        let all = async {
            let made = join_all(statements.iter().zip(changes).map(|(statement, change)| async {
                let values: Vec<&(dyn ToSql + Sync)> = change.values.iter().map(|value| &**value as _).collect();
                let made = self.client.execute(statement, &values).await;
                made.map_err(|error| {
                    is_unsent.set(is_unsent.get() || error.as_db_error().is_none());
                    (change.doing, error)
                })
            }));
            // The client sends in the order in which the futures are polled first, which is this one. A change that it can't encode
            // fails then, and is not sent, so the others must not be committed.
            if commits {
                let end =
                    async { self.client.batch_execute(if is_unsent.get() { "ROLLBACK" } else { "COMMIT" }).await };
                let (made, committed) = futures_util::future::join(made, end).await;
                // After a refused change the server rolls back in place of the commit.
                made.into_iter().collect::<Result<Vec<_>, _>>()?;
                committed.map_err(|error| ("committing", error))
            } else {
                made.await.into_iter().collect::<Result<Vec<_>, _>>().map(drop)
            }
        };
        match wait(all, ANSWER_MAX) {
            Some(Ok(())) => Ok(()),
            Some(Err((doing, error))) => {
                let is_about_values = failures::is_about_values(&error);
                // After an error that ends the session or the server, the commit may have been made.
                if !failures::is_of_statement(&error) {
                    self.is_lost.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                let error = failed(&self.network.address, doing, &error);
                if self.is_lost() { Err(unknown(error)) } else { Err(Unmade::Refused { error, is_about_values }) }
            }
            None => Err(Unmade::Unknown(self.lost("committing"))),
        }
    }

    /// Runs a statement again and again in the background, until the result is dropped or the connection is lost.
    pub(super) fn repeat(self, sql: String, every: Duration) -> Repeated {
        let handle = self.network.handle.clone();
        Repeated(handle.spawn(async move {
            let mut ticks = tokio::time::interval(every);
            while !self.client.is_closed() {
                ticks.tick().await;
                // If it fails, the next one may succeed. Whoever relies on it finds out.
                let _ = self.client.batch_execute(&sql).await;
            }
        }))
    }

    fn prepare(&self, doing: &str, sql: &'static str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.held().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.answered(doing, self.client.prepare(sql))?;
        self.statements.held().insert(sql, statement.clone());
        Ok(statement)
    }

    fn answered<T>(
        &self,
        doing: &str,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match wait(asked, ANSWER_MAX) {
            Some(answer) => answer.map_err(|error| failed(&self.network.address, doing, &error)),
            None => Err(self.lost(doing)),
        }
    }

    fn lost(&self, doing: &str) -> Error {
        self.is_lost.store(true, std::sync::atomic::Ordering::Relaxed);
        unanswered(&self.network.address, doing)
    }
}

/// A statement that runs again and again. It ends when this is dropped.
pub(super) struct Repeated(JoinHandle<()>);

impl Drop for Repeated {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refused(error: Error) -> Unmade {
    Unmade::Refused { error, is_about_values: false }
}

/// Wakes a thread that waits for a future.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread for a future that another thread drives. Returns `None` if it takes too long.
fn wait<F: Future>(future: F, time_max: Duration) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let end = Instant::now() + time_max;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// Makes a value of a statement.
pub(super) fn value(value: impl ToSql + Sync + Send + 'static) -> Value {
    Box::new(value)
}

/// Limits a number to PostgreSQL's range, which ends at `i64::MAX`. No position, version or number of the store is beyond it.
pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads a number from a column.
pub(super) fn uint(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).cast_unsigned()
}

/// Reads a text from a column of bytes. Texts that may have any character are kept as bytes, because PostgreSQL takes no NUL
/// in a text.
pub(super) fn text(row: &Row, column: usize) -> Result<String, Error> {
    optional_text(row, column).map(Option::unwrap_or_default)
}

/// Reads a text from a column of bytes that may be NULL.
pub(super) fn optional_text(row: &Row, column: usize) -> Result<Option<String>, Error> {
    let bytes: Option<&[u8]> = row.get(column);
    let text = bytes.map(|bytes| std::str::from_utf8(bytes).map(str::to_owned)).transpose();
    text.map_err(|error| {
        Error::Failed(format!("a text of the store is not UTF-8 ({error}): restore the database from a backup"))
    })
}
