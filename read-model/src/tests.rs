//! SQL of hostile guests, one line for each case.

use super::*;

const TIME: Duration = Duration::from_secs(20);

/// Makes a read model with a table of the owner and a table of the guest.
fn guarded(limits: Limits) -> Guarded {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch("CREATE TABLE _wasmill_checkpoint (position); INSERT INTO _wasmill_checkpoint VALUES (0)")
        .unwrap();
    let guarded = Guarded::new(connection, limits).unwrap();
    guarded.allow(TIME);
    guarded.create("CREATE TABLE t (n INTEGER, x)").unwrap();
    guarded
}

fn small() -> Limits {
    Limits { value_bytes_max: 1 << 20, file_bytes_max: 1 << 20, ..Limits::default() }
}

#[test]
fn a_guest_touches_its_own_tables_alone() {
    let guarded = guarded(small());
    for statement in [
        // The transaction is the owner's.
        "BEGIN",
        "begin immediate",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE part",
        "ROLLBACK TO part",
        // The file is the owner's.
        "ATTACH 'other' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM",
        "VACUUM INTO 'copy'",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA max_page_count = 1000000",
        "PRAGMA temp_store = FILE",
        "PRAGMA page_count",
        // Objects that are outside of the file and outlive a statement.
        "CREATE TEMP TABLE a (n)",
        "CREATE TABLE temp.a (n)",
        "CREATE TEMP VIEW a AS SELECT 1",
        "CREATE TEMP TRIGGER a AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE VIRTUAL TABLE a USING fts5(x)",
        "CREATE VIRTUAL TABLE a USING rtree(id, x, y)",
        // The owner's tables, in any quoting and case, and objects with the owner's prefix.
        "SELECT * FROM _wasmill_checkpoint",
        "SELECT position FROM \"_WASMILL_CHECKPOINT\"",
        "UPDATE _wasmill_checkpoint SET position = 9",
        "UPDATE [_Wasmill_Checkpoint] SET position = 9",
        "INSERT INTO `_wasmill_checkpoint` VALUES (9)",
        "REPLACE INTO main._wasmill_checkpoint VALUES (9)",
        "DELETE FROM _wasmill_checkpoint",
        "DROP TABLE _wasmill_checkpoint",
        "ALTER TABLE _wasmill_checkpoint RENAME TO mine",
        "ALTER TABLE t RENAME TO _wasmill_t",
        "ALTER TABLE t ADD COLUMN y",
        "CREATE INDEX i ON _wasmill_checkpoint (position)",
        "CREATE TRIGGER a AFTER UPDATE ON _wasmill_checkpoint BEGIN DELETE FROM t; END",
        "CREATE TRIGGER a AFTER UPDATE ON \"_WASMILL_checkpoint\" BEGIN DELETE FROM t; END",
        "CREATE TRIGGER _wasmill_a AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TABLE _wasmill_skipped (n)",
        "CREATE TABLE \"_WASMILL_x\" (n)",
        "CREATE TABLE [_wasmill]  (n)",
        "CREATE VIEW _wasmill_v AS SELECT 1",
        "CREATE INDEX _wasmill_i ON t (n)",
        "WITH c AS (SELECT position FROM _wasmill_checkpoint) SELECT * FROM c",
        "INSERT INTO t (n) SELECT position FROM _wasmill_checkpoint",
    ] {
        let error = guarded.execute(statement, []).expect_err(statement);
        assert_eq!(error, Refused::new(rules::NOT_ALLOWED), "{statement}");
    }
    for statement in [
        "SELECT load_extension('evil')",
        "CREATE TABLE sqlite_mine (n)",
        "CREATE TABLE \"SQLite_mine\" (n)",
        "INSERT INTO sqlite_schema VALUES ('table', 'a', 'a', 2, 'CREATE TABLE a (n)')",
        "UPDATE sqlite_master SET sql = ''",
        "DELETE FROM sqlite_schema",
        "DROP TABLE sqlite_schema",
    ] {
        guarded.execute(statement, []).expect_err(statement);
    }
    // Access through a view or a trigger of the guest.
    guarded.execute("CREATE VIEW v AS SELECT position FROM _wasmill_checkpoint", []).unwrap();
    guarded.query("SELECT * FROM v", [], |_| ()).expect_err("a view over the owner's table");
    let trigger = "CREATE TRIGGER a AFTER INSERT ON t BEGIN UPDATE _wasmill_checkpoint SET position = 9; END";
    guarded.execute(trigger, []).unwrap();
    guarded.execute("INSERT INTO t VALUES (1, 1)", []).expect_err("a trigger that writes to the owner's table");
    let position: i64 =
        guarded.owner().query_row("SELECT position FROM _wasmill_checkpoint", [], |row| row.get(0)).unwrap();
    assert_eq!(position, 0);
}

#[test]
fn a_guest_has_all_that_a_read_model_needs() {
    let guarded = guarded(small());
    for statement in [
        "CREATE TABLE u (id TEXT PRIMARY KEY, n INTEGER CHECK (n > 0)) STRICT, WITHOUT ROWID",
        "CREATE UNIQUE INDEX i ON t (n) WHERE x IS NULL",
        "CREATE VIEW v AS SELECT n, count(*) AS c FROM t GROUP BY n",
        "CREATE TRIGGER a AFTER INSERT ON t BEGIN INSERT INTO u VALUES (new.n, 1) ON CONFLICT DO UPDATE SET n = n + 1; END",
        "INSERT INTO t VALUES (1, 'x'), (2, json('[1]')) RETURNING n",
        "UPDATE t SET x = upper(x) WHERE n IN (SELECT n FROM v)",
        "DELETE FROM t WHERE n = 2",
        "ANALYZE",
        "REINDEX",
        "DROP TRIGGER a",
        "DROP VIEW v",
        "DROP INDEX i",
        "DROP TABLE u",
    ] {
        guarded.query(statement, [], |_| ()).unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let rows = guarded.query("SELECT n, value FROM t, json_each('[7]')", [], |value| format!("{value:?}")).unwrap();
    assert_eq!(rows.rows, [["Integer(1)", "Integer(7)"]]);
}

#[test]
fn what_would_take_too_much_is_refused_with_the_name_of_the_limit() {
    let endless = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)";
    let deep = format!("SELECT {}1{}", "(1+".repeat(300), ")".repeat(300));
    let wide = format!("SELECT {}", vec!["1"; 400].join(","));
    let compound = vec!["SELECT 1"; 200].join(" UNION ALL ");
    let long = format!("SELECT '{}'", "x".repeat(400 << 10));
    let pattern = format!("SELECT 'a' LIKE '{}'", "%a".repeat(2_000));
    for (statement, expected) in [
        ("SELECT zeroblob(1000000000)", "limits.sql_value_mib"),
        ("SELECT length(zeroblob(1000000000))", "limits.sql_value_mib"),
        ("SELECT randomblob(1000000000)", "limits.sql_value_mib"),
        ("SELECT hex(zeroblob(1000000))", "limits.sql_value_mib"),
        ("SELECT printf('%*d', 100000000, 1)", "limits.sql_value_mib"),
        ("SELECT replace(hex(zeroblob(200000)), '0', 'xxxxxxxxxx')", "limits.sql_value_mib"),
        (&format!("{endless} SELECT group_concat(n) FROM (SELECT n FROM n LIMIT 300000)"), "limits.sql_value_mib"),
        (&format!("{endless} SELECT json_group_array(n) FROM (SELECT n FROM n LIMIT 300000)"), "limits.sql_value_mib"),
        ("INSERT INTO t VALUES (1, zeroblob(2000000))", "limits.sql_value_mib"),
        (&format!("{endless} INSERT INTO t SELECT n, randomblob(10000) FROM n"), "limits.read_model_mib"),
        (&format!("{endless} SELECT n, zeroblob(100000) FROM n"), "add a LIMIT"),
        (&format!("{endless} SELECT count(*) FROM n"), "limits.event_time_ms"),
        ("SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g", ""),
        (&deep, "depth"),
        (&wide, "too many columns"),
        (&compound, "too many terms"),
        (&long, "limits.sql_value_mib"),
        (&pattern, "too complex"),
    ] {
        let guarded = guarded(small());
        guarded.allow(Duration::from_millis(if expected.contains("time") { 50 } else { 20_000 }));
        let found = guarded.query(statement, [], |_| ());
        if expected.is_empty() {
            found.unwrap();
            continue;
        }
        let error = found.expect_err(statement);
        let start: String = statement.chars().take(80).collect();
        assert!(error.text.contains(expected), "{start}: {error}");
        assert_eq!(error.trouble, None, "{start}: it is the statement's own fault");
        guarded.allow(TIME);
        guarded.query("SELECT 1", [], |_| ()).unwrap_or_else(|error| panic!("after {start}: {error}"));
    }
}

#[test]
fn a_number_without_a_sign_that_does_not_fit_is_refused_with_a_remedy() {
    assert_eq!(unsigned(i64::MAX as u64).unwrap(), i64::MAX);
    let error = unsigned(1 << 63).unwrap_err().to_string();
    assert!(error.contains("9223372036854775808") && error.contains("as text") && error.contains("blob"), "{error}");
}
