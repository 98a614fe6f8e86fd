//! The ownership of a store in PostgreSQL: one host at a time, by a lease.
//!
//! Whoever takes a store over raises the owner epoch in the head row. Each transaction of a writer locks that row and checks
//! the epoch, so a host that lost the store has no effect, whatever it believes. The lease is there to keep a second host from
//! taking over a store whose owner is alive. It is renewed with each commit, by the clock of the database, and a host that stops
//! gives it up.
//!
//! A host that was killed can't give up its lease. If it ran on this machine, a new host sees that its process is gone, and need
//! not wait.

use super::connection::{Connection, int};
use crate::store::{Error, Loss};

/// Takes the store over, if its lease is free. Returns the owner epoch.
pub(super) fn take(connection: &Connection, lease_ms: u64) -> Result<i64, Error> {
    const DOING: &str = "taking the store over";
    let address = &connection.network.address;
    connection.batch(DOING, "BEGIN")?;
    let sql = "SELECT owner, owner_process, lease_until > clock_timestamp(),
               ceil(extract(epoch FROM lease_until - clock_timestamp()))::bigint FROM head WHERE number = 1 FOR UPDATE";
    let row = connection.first(DOING, sql, &[])?;
    let Some(row) = row else {
        return Err(Error::Failed(format!("the store {address} has no head: restore the database from a backup")));
    };
    let (owner, process): (Option<String>, Option<String>) = (row.get(0), row.get(1));
    let is_live = row.get::<_, Option<bool>>(2) == Some(true);
    if is_live && owner.is_some() && !process.is_some_and(|process| has_ended(&process)) {
        let (owner, seconds) = (owner.unwrap_or_default(), row.get::<_, Option<i64>>(3).unwrap_or(0));
        // Nothing was changed.
        connection.batch(DOING, "ROLLBACK")?;
        return Err(Error::Failed(format!(
            "the store {address} is in use by another host or `wasmill store` command, {owner}: stop that host, wait for the \
             command to end, or choose another database or schema; if it is gone, its lease ends in {seconds} s"
        )));
    }
    let sql = "UPDATE head SET owner_epoch = owner_epoch + 1, owner = $1, owner_process = $2,
               lease_until = clock_timestamp() + $3 * interval '1 millisecond' RETURNING owner_epoch";
    let (owner, process, lease_ms) = (shown(), this_process(), int(lease_ms) as f64);
    let row = connection.first(DOING, sql, &[&owner, &process, &lease_ms])?;
    let epoch = row.map_or(0, |row| row.get(0));
    connection.batch(DOING, "COMMIT")?;
    Ok(epoch)
}

/// Gives up the lease, if this host still owns the store.
pub(super) fn give_up(connection: &Connection, epoch: i64) -> Result<(), Error> {
    let sql = "UPDATE head SET owner = NULL, owner_process = NULL, lease_until = NULL WHERE owner_epoch = $1";
    connection.execute("giving up the store", sql, &[&epoch]).map(drop)
}

/// Returns whether a host owns the store now.
pub(super) fn is_owned(connection: &Connection) -> Result<bool, Error> {
    let sql = "SELECT owner_process FROM head WHERE owner IS NOT NULL AND lease_until > clock_timestamp()";
    let row = connection.first("looking whose the store is", sql, &[])?;
    Ok(row.is_some_and(|row| !row.get::<_, Option<String>>(0).is_some_and(|process| has_ended(&process))))
}

/// Makes the error of a host that has lost the store.
pub(super) fn lost(connection: &Connection) -> Error {
    Error::Lost { how: Loss::LeaseTaken, file: connection.network.address.to_string() }
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

/// Returns when a process was started, in the clock of the kernel.
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
    pid.parse().is_ok_and(|pid| started(pid).is_none_or(|now| now != start))
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
