//! Two ways to number the rows of several writers so that no reader skips one, side by side.
//!
//! *By a head row*, as the store does: a transaction locks one row, numbers its rows from it, and holds the lock until its commit.
//! Commits are one after the other, and a reader may use every row that it sees. *By transaction ids*: every row has the id of its
//! transaction, nobody locks anything, and commits run beside each other. A reader may use only rows whose id is below that of the
//! oldest transaction that still runs (`pg_snapshot_xmin`), because a slower one may still commit rows before them. So anybody's long
//! transaction on the server holds all readers up. There are no positions without gaps.

use std::time::Instant;
use tokio::runtime::Runtime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement};
use wasmill_tests::command_path::PAYLOAD;

/// Number of writers, each with a connection.
const WRITERS: u64 = 3;
/// Number of rows in a transaction.
const ROWS: u64 = 100;

/// How rows are numbered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbering {
    HeadRow,
    TransactionIds,
}

const TABLES: &str = "
    CREATE TABLE head (number INTEGER PRIMARY KEY, position BIGINT NOT NULL);
    INSERT INTO head VALUES (1, 0);
    CREATE TABLE by_head_row (position BIGINT PRIMARY KEY, stream BIGINT NOT NULL, version BIGINT NOT NULL,
        payload BYTEA NOT NULL, UNIQUE (stream, version));
    CREATE TABLE by_transaction (number BIGSERIAL, transaction XID8 NOT NULL DEFAULT pg_current_xact_id(),
        stream BIGINT NOT NULL, version BIGINT NOT NULL, payload BYTEA NOT NULL, PRIMARY KEY (transaction, number),
        UNIQUE (stream, version));";

/// Returns the rows per second of all writers together, into new tables.
pub(crate) fn rows_per_second(url: &str, numbering: Numbering, rows: u64) -> f64 {
    let runtime = Runtime::new().expect("start a runtime");
    runtime.block_on(async {
        connect(url).await.batch_execute(TABLES).await.expect("make the tables");
        let mut writers = Vec::new();
        for stream in 0..WRITERS {
            writers.push(Writer::new(connect(url).await, numbering, stream).await);
        }
        let started = Instant::now();
        let running = writers.into_iter().map(|writer| tokio::spawn(writer.write(rows / WRITERS)));
        for writer in running.collect::<Vec<_>>() {
            writer.await.expect("a writer ends");
        }
        rows as f64 / started.elapsed().as_secs_f64()
    })
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(async move { drop(connection.await) });
    client
}

struct Writer {
    client: Client,
    numbering: Numbering,
    stream: i64,
    lock: Statement,
    insert: Statement,
    update: Statement,
}

impl Writer {
    async fn new(client: Client, numbering: Numbering, stream: u64) -> Self {
        let insert = match numbering {
            Numbering::HeadRow => {
                "INSERT INTO by_head_row SELECT $1 + v - $3, $2, v, $5 FROM generate_series($3::bigint, $4::bigint) AS v"
            }
            Numbering::TransactionIds => {
                "INSERT INTO by_transaction (stream, version, payload)
                 SELECT $2, v, $5 FROM generate_series($3::bigint, $4::bigint) AS v WHERE $1::bigint IS NOT NULL"
            }
        };
        let prepare = |sql| client.prepare(sql);
        Self {
            lock: prepare("SELECT position FROM head WHERE number = 1 FOR UPDATE").await.expect("prepare"),
            insert: prepare(insert).await.expect("prepare"),
            update: prepare("UPDATE head SET position = $1 WHERE number = 1").await.expect("prepare"),
            stream: stream.cast_signed(),
            numbering,
            client,
        }
    }

    /// Writes rows, in as many round trips for a transaction as the store needs.
    async fn write(self, rows: u64) {
        for first in (1..=rows).step_by(ROWS as usize) {
            let last = (first + ROWS - 1).min(rows);
            let (first, last) = (first.cast_signed(), last.cast_signed());
            match self.numbering {
                Numbering::HeadRow => {
                    let (begun, row) = tokio::join!(biased; self.client.batch_execute("BEGIN"), self.client.query_one(&self.lock, &[]));
                    begun.expect("begin");
                    let position: i64 = row.expect("the head").get(0);
                    let newest = position + last - first + 1;
                    let values: [&(dyn ToSql + Sync); 1] = [&newest];
                    let (inserted, updated, committed) = tokio::join!(
                        biased;
                        self.insert(position + 1, first, last),
                        self.client.execute(&self.update, &values),
                        self.client.batch_execute("COMMIT")
                    );
                    assert_eq!((inserted, updated.expect("move the head")), ((last - first + 1).cast_unsigned(), 1));
                    committed.expect("commit");
                }
                Numbering::TransactionIds => _ = self.insert(0, first, last).await,
            }
        }
    }

    async fn insert(&self, position: i64, first: i64, last: i64) -> u64 {
        let payload = PAYLOAD.as_bytes();
        let values: [&(dyn ToSql + Sync); 5] = [&position, &self.stream, &first, &last, &payload];
        self.client.execute(&self.insert, &values).await.expect("insert")
    }
}
