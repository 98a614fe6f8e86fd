//! The failures of PostgreSQL, in words: the place, the cause and the remedy.

use super::address::{Address, chain};
use crate::store::Error;
use tokio_postgres::error::{Severity, SqlState};

/// Turns an error of the client into an error of the store.
pub(super) fn failed(address: &Address, doing: &str, error: &tokio_postgres::Error) -> Error {
    Error::Failed(format!("{doing}: {}", told(address, error)))
}

/// Turns a missing answer into an error of the store.
pub(super) fn unanswered(address: &Address, doing: &str) -> Error {
    Error::Failed(format!(
        "{doing}: PostgreSQL at {address} does not answer; check the network and whether the server is overloaded"
    ))
}

/// Returns whether an error is about the values or the number of a statement, so that another statement may succeed.
pub(super) fn is_about_values(error: &tokio_postgres::Error) -> bool {
    // Classes 22 (data), 23 (constraints), 54 (limits of a program), and those that the client finds before it sends.
    error.code().is_none_or(|code| ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)))
        && !error.is_closed()
        && error.code().is_some()
}

/// Returns whether an error ends a statement alone, and not the session or the server.
pub(super) fn is_of_statement(error: &tokio_postgres::Error) -> bool {
    let severity = error.as_db_error().and_then(tokio_postgres::error::DbError::parsed_severity);
    severity.is_none_or(|severity| severity == Severity::Error)
}

fn told(address: &Address, error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(cause) => {
            let remedy = remedy(cause.code()).map_or(String::new(), |remedy| format!("; {remedy}"));
            let detail = cause.detail().map_or(String::new(), |detail| format!(" ({detail})"));
            format!("PostgreSQL at {address}: {}{detail}{remedy}", cause.message())
        }
        None => {
            let text = chain(error);
            let is_ours = text.starts_with("error serializing") || text.starts_with("error deserializing");
            let remedy = if is_ours { String::new() } else { format!("; {}", remedy_of_connection(&text)) };
            format!("PostgreSQL at {address}: {text}{remedy}")
        }
    }
}

/// Returns what helps if the connection can't be made, or is lost.
fn remedy_of_connection(text: &str) -> &'static str {
    const CERTIFICATE: &str =
        "the server's certificate is not the expected one: check sslrootcert and the host name in the URL";
    const ENCRYPTION: &str =
        "the server takes no encrypted connections: turn on `ssl` there, or set sslmode in the URL";
    match text {
        text if text.contains("ertificate") || text.contains("UnknownIssuer") => CERTIFICATE,
        text if text.contains("does not support TLS") => ENCRYPTION,
        text if text.contains("password") => "check the password in the URL",
        _ => "check that the server runs and that this machine can reach it; the connection is tried again",
    }
}

fn remedy(code: &SqlState) -> Option<&'static str> {
    Some(match code {
        code if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user and the password in the URL, and the server's pg_hba.conf"
        }
        code if *code == SqlState::INVALID_CATALOG_NAME => {
            "create the database with `createdb`, or correct its name in the URL"
        }
        code if *code == SqlState::TOO_MANY_CONNECTIONS => {
            "raise max_connections of the server, or end clients that need no connection"
        }
        code if *code == SqlState::DISK_FULL => "the disk of the server is full: free some space, then send again",
        code if *code == SqlState::OUT_OF_MEMORY => "the server has no memory left: give it more, then send again",
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            "the server takes no writes, as a standby does not: name the primary in the URL, or all servers and \
             target_session_attrs=read-write"
        }
        code if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::T_R_DEADLOCK_DETECTED => {
            "another session has locked the store's tables: find it with `SELECT pid, query FROM pg_stat_activity WHERE pid = \
             ANY (SELECT pid FROM pg_locks)`, and end its transaction"
        }
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            "give the user of the URL the right to create a schema in the database, or make it the owner of the store's schema"
        }
        code if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_COLUMN => {
            "the store's schema lacks a part: restore the database from a backup"
        }
        code if *code == SqlState::CANNOT_CONNECT_NOW => "the server starts or stops: the connection is tried again",
        code if *code == SqlState::ADMIN_SHUTDOWN || *code == SqlState::CRASH_SHUTDOWN => {
            "the server was stopped: the connection is tried again"
        }
        code if *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
            "this host stood still in the middle of a transaction, which has no effect: check whether the machine is overloaded"
        }
        _ => return None,
    })
}
