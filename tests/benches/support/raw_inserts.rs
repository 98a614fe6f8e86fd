//! The baseline of everything that writes events: inserts of the same rows into an ordinary event table of SQLite.

use wasmill_tests::command_path::PAYLOAD;

/// Returns the rows per second into a table with an integer key and a unique index on stream and version, 1,000 rows in
/// a transaction. The pragmas are the store's, with a larger cache. The log is checkpointed at 32 MiB, as the store's.
pub(crate) fn raw_inserts(rows: u64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("raw.sqlite")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
             PRAGMA wal_autocheckpoint = 8192; PRAGMA cache_size = -65536;
             CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL,
                type TEXT NOT NULL, id BLOB NOT NULL, time_ms INTEGER NOT NULL, correlation_id TEXT NOT NULL,
                causation_id TEXT NOT NULL, headers BLOB, payload BLOB NOT NULL, UNIQUE (stream, version));",
        )
        .unwrap();
    let streams: Vec<String> = (0..1_000).map(|n| format!("cart-{n}")).collect();
    let started = std::time::Instant::now();
    let mut insert = connection.prepare("INSERT INTO events VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10)").unwrap();
    for row in 0..rows {
        if row % 1_000 == 0 {
            connection.execute_batch("BEGIN").unwrap();
        }
        let id = uuid::Uuid::now_v7();
        let text = id.to_string();
        insert
            .execute(rusqlite::params![
                row + 1,
                streams[(row % 1_000) as usize],
                row / 1_000 + 1,
                "ItemsAdded",
                id.as_bytes(),
                wasmill::clock::Clock::system().now_ms(),
                text,
                text,
                None::<Vec<u8>>,
                PAYLOAD.as_bytes()
            ])
            .unwrap();
        if row % 1_000 == 999 || row + 1 == rows {
            connection.execute_batch("COMMIT").unwrap();
        }
    }
    rows as f64 / started.elapsed().as_secs_f64()
}
