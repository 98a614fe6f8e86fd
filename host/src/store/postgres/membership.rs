//! The membership of a store in PostgreSQL: which hosts have it open, by a lease each.
//!
//! Each host has a row in `hosts`. Whoever adds or removes a row raises the membership count in the head row. Each transaction of a writer
//! locks the head row and compares the count, so a host whose row was removed finds out before it has an effect, whatever it believes.
//! A row may be removed once its lease has expired. The lease is renewed with each commit, by the clock of the database, and at once
//! when a lost connection is made again. A host that stops removes its row. With the row go the leases of the parts that the host runs.
//!
//! A host that was killed can't remove its row. If it ran on this machine, others see that its process is gone, and need not wait.

use super::connection::{Change, Connection, int, uint, value};
use crate::store::{Error, HostEntry, Hosts, Lease, Loss};
use std::collections::BTreeMap;
use tokio_postgres::Row;

/// Whom a store is shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Company {
    /// Nobody.
    Alone,
    /// Other hosts.
    Hosts,
}

/// Adds this process to the hosts of the store, and removes those that are gone. Fails if somebody has the store open who can't share
/// it. Returns the id.
pub(super) fn join(connection: &Connection, lease_ms: u64, company: Company) -> Result<i64, Error> {
    const DOING: &str = "joining the hosts of the store";
    let address = &connection.network.address;
    connection.batch(DOING, "BEGIN")?;
    let joined = (|| {
        lock_head(connection)?;
        let others = connection.query(DOING, OTHERS, &[])?;
        // A host whose lease has expired may only have lost its connection a moment ago, as all others have. Whoever shares the store
        // with it waits before it counts as gone.
        let in_the_way = |row: &Row| row.get(2) || company == Company::Alone;
        let is_gone = |row: &&Row| is_of_ended(row.get(3)) || (!row.get::<_, bool>(4) && in_the_way(row));
        let gone: Vec<i64> = others.iter().filter(is_gone).map(|row| row.get(0)).collect();
        remove(connection, &gone)?;
        if let Some(other) = others.iter().find(|row| !is_gone(row) && in_the_way(row)) {
            let (name, seconds) = (other.get::<_, String>(1), other.get::<_, Option<i64>>(5).unwrap_or(0));
            return Err(Error::Failed(format!(
                "the store {address} is in use by another host or `wasmill store` command, {name}: stop that host, wait for the \
                 command to end, or choose another database or schema; if it is gone, its lease ends in {seconds} s"
            )));
        }
        let sql = "INSERT INTO hosts (name, process, is_alone, commits, lease_until)
                   VALUES ($1, $2, $3, 0, clock_timestamp() + $4 * interval '1 millisecond') RETURNING id";
        let (is_alone, lease_ms) = (company == Company::Alone, int(lease_ms) as f64);
        let row = connection.first(DOING, sql, &[&shown(), &this_process(), &is_alone, &lease_ms])?;
        connection.batch(DOING, COUNT)?;
        connection.batch(DOING, "COMMIT")?;
        Ok(row.map_or(0, |row| row.get(0)))
    })();
    if joined.is_err() && !connection.is_lost() {
        // The error that is returned says more than that of a rollback could.
        let _ = connection.batch(DOING, "ROLLBACK");
    }
    joined
}

/// Removes this process from the hosts of the store.
pub(super) fn leave(connection: &Connection, id: i64) -> Result<(), Error> {
    const DOING: &str = "leaving the hosts of the store";
    connection.batch(DOING, "BEGIN")?;
    lock_head(connection)?;
    if connection.execute(DOING, "DELETE FROM hosts WHERE id = $1", &[&id])? > 0 {
        connection.batch(DOING, COUNT)?;
    }
    connection.batch(DOING, "COMMIT")
}

/// Removes these hosts, unless they are there. The caller has locked the head row.
pub(super) fn remove(connection: &Connection, hosts: &[i64]) -> Result<(), Error> {
    const DOING: &str = "removing hosts that are gone";
    if hosts.is_empty() {
        return Ok(());
    }
    let sql = "SELECT id, process, lease_until > clock_timestamp(), name FROM hosts WHERE id = ANY($1)";
    let mut removed = 0;
    for row in connection.query(DOING, sql, &[&hosts])? {
        let (id, name): (i64, String) = (row.get(0), row.get(3));
        if row.get(2) && !is_of_ended(row.get(1)) {
            continue;
        }
        removed += connection.execute(DOING, "DELETE FROM hosts WHERE id = $1", &[&id])?;
        tracing::warn!(
            "{name} has ended or has not renewed its lease, so it is removed from the hosts of the store {}",
            connection.network.address
        );
    }
    if removed > 0 {
        connection.batch(DOING, COUNT)?;
    }
    Ok(())
}

/// Returns the number of hosts, this one included, or `None` if this one was removed.
pub(super) fn count_if_there(connection: &Connection, this: i64) -> Result<Option<u64>, Error> {
    let sql = "SELECT count(*), count(*) FILTER (WHERE id = $1) FROM hosts";
    let row = connection.first("looking for this host among the hosts of the store", sql, &[&this])?;
    Ok(row.filter(|row| uint(row, 1) == 1).map(|row| uint(&row, 0)))
}

/// Returns the hosts, and which parts they run.
pub(super) fn hosts(connection: &Connection, this: i64) -> Result<Hosts, Error> {
    const DOING: &str = "looking who has the store open";
    let sql =
        "SELECT id, name, process, lease_until > clock_timestamp(), url, settings, commits FROM hosts ORDER BY id";
    let mut hosts = Hosts { this: this.cast_unsigned(), ..Hosts::default() };
    for row in connection.query(DOING, sql, &[])? {
        let settings = row.get::<_, Option<&[u8]>>(5).map(serde_json::from_slice::<BTreeMap<String, String>>);
        let has_ended = is_of_ended(row.get(2));
        hosts.entries.push(HostEntry {
            id: uint(&row, 0),
            name: row.get(1),
            is_there: row.get(3) && !has_ended,
            has_ended,
            commits: uint(&row, 6),
            url: row.get(4),
            // What does not decode is of another wasmill, which this one does not agree with.
            settings: settings.and_then(Result::ok),
        });
    }
    let lease =
        |row: &Row| Lease { host: uint(row, 1), wanted_by: row.get::<_, Option<i64>>(2).map(i64::cast_unsigned) };
    let rows = connection.query(DOING, "SELECT part, host, wanted_by FROM leases", &[])?;
    hosts.leases = rows.iter().map(|row| (row.get(0), lease(row))).collect();
    Ok(hosts)
}

/// Returns whether a host has the store open now.
pub(super) fn is_open(connection: &Connection) -> Result<bool, Error> {
    let sql = "SELECT process, lease_until > clock_timestamp() FROM hosts";
    let rows = connection.query("looking who has the store open", sql, &[])?;
    Ok(rows.iter().any(|row| row.get(1) && !is_of_ended(row.get(0))))
}

/// Makes the change that notes a commit of a host, and renews its lease.
pub(super) fn renewed(this: i64, commits: u64, lease_ms: u64) -> Change {
    let sql =
        "UPDATE hosts SET commits = $2, lease_until = clock_timestamp() + $3 * interval '1 millisecond' WHERE id = $1";
    Change { doing: "renewing the lease", sql, values: vec![value(this), value(int(commits)), value(lease_ms as f64)] }
}

/// Renews the lease of a host, and returns the count of its last commit.
pub(super) const RENEW: &str =
    "UPDATE hosts SET lease_until = clock_timestamp() + $2 * interval '1 millisecond' WHERE id = $1
    RETURNING commits";

/// Makes the error of a host that has lost the store.
pub(super) fn lost(connection: &Connection) -> Error {
    Error::Lost { how: Loss::LeaseTaken, file: connection.network.address.to_string() }
}

const OTHERS: &str = "SELECT id, name, is_alone, process, lease_until > clock_timestamp(),
    ceil(extract(epoch FROM lease_until - clock_timestamp()))::bigint FROM hosts ORDER BY id";

/// Counts a change of the hosts. The caller has locked the head row.
const COUNT: &str = "UPDATE head SET membership = membership + 1";

/// Locks the head row until the end of the transaction.
pub(super) fn lock_head(connection: &Connection) -> Result<(), Error> {
    let sql = "SELECT 1 FROM head WHERE number = 1 FOR UPDATE";
    let row = connection.first("locking the head of the store", sql, &[])?;
    row.map(drop).ok_or_else(|| {
        let address = &connection.network.address;
        Error::Failed(format!("the store {address} has no head: restore the database from a backup"))
    })
}

/// Whether the process of a host was on this machine and has ended.
fn is_of_ended(process: Option<String>) -> bool {
    process.is_some_and(|process| has_ended(&process))
}

/// Returns the name of this host for people.
fn shown() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("process {} on {name}", std::process::id())
}

/// Returns what tells this process from all others on this machine and on others.
fn this_process() -> Option<String> {
    let pid = std::process::id();
    Some(format!("{} {pid} {}", machine()?, started(pid)?))
}

/// Returns what tells this machine, since it was started, and this set of processes from others.
fn machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    // A container sees other processes under the same numbers.
    let processes = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), processes.display()))
}

/// Whether there is no process of a number, or one that is only waited for by its parent.
fn is_no_process(pid: u32) -> bool {
    let found =
        i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).map(rustix::process::test_kill_process);
    let is_waited_for = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok();
    found.is_some_and(|found| found == Err(rustix::io::Errno::SRCH)) || is_waited_for()
}

/// Returns when a running process was started, in the clock of the kernel.
fn started(pid: u32) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program is in brackets and may have spaces. The start is the 22nd field, the 20th after the name.
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    // A process that is only waited for by its parent has ended.
    let is_running = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| is_running).map(str::to_owned)
}

/// Returns whether a process ran on this machine and has ended. If nobody knows, it has not.
fn has_ended(process: &str) -> bool {
    let Some(here) = machine() else { return false };
    let Some((pid, start)) = process.strip_prefix(&*here).and_then(|rest| rest.trim().split_once(' ')) else {
        return false;
    };
    pid.parse().is_ok_and(|pid| match started(pid) {
        Some(now) => now != start,
        // The system may hide the processes of other users.
        None => is_no_process(pid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_ended_only_if_it_was_on_this_machine_and_is_gone() {
        let this = this_process().expect("Linux tells it");
        assert!(!has_ended(&this));
        let here = machine().expect("Linux tells it");
        assert!(has_ended(&format!("{here} {} 1", std::process::id())), "another process had this number");
        assert!(has_ended(&format!("{here} 4194999 1")));
        assert!(!has_ended("another-boot pid:[1] 1 1"), "it may run there");
        assert!(!has_ended(""));
    }
}
