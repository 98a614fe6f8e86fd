//! `cargo xtask postgres up | down`: a server that keeps running after the task.

use super::{Prepared, missing};
use crate::{process, root};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The database that `up` makes.
const DATABASE: &str = "wasmill";
/// Longest time for an orderly stop.
const STOP_WAIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Starts a server with an empty database, or finds the one that runs, and prints its URL.
pub(crate) fn up() -> Result<()> {
    if let Some(reason) = missing() {
        bail!("{reason}");
    }
    if let Some(running) = Running::find() {
        println!("{}", running.url);
        return Ok(());
    }
    if folder().exists() {
        fs::remove_dir_all(folder())?;
    }
    let prepared = Prepared::new(&folder(), &[])?;
    let mut child = prepared.spawn(prepared.command("postgres").arg("-D").arg(prepared.data()).stdin(Stdio::null()))?;
    let made = prepared.wait_until_it_answers(&mut child).and_then(|()| prepared.create_database(DATABASE));
    if let Err(error) = made {
        _ = child.kill();
        return Err(error);
    }
    let url = prepared.url(DATABASE);
    fs::write(note(), json!({ "pid": child.id(), "url": url }).to_string())?;
    eprintln!("PostgreSQL runs with its log in {}; stop it with `cargo xtask postgres down`", prepared.log().display());
    println!("{url}");
    Ok(())
}

/// Stops the server that `up` started. It is no error if none runs.
pub(crate) fn down() -> Result<()> {
    let Some(running) = Running::find() else {
        eprintln!("no PostgreSQL of `cargo xtask postgres up` runs");
        return Ok(());
    };
    // The server ends its sessions and stops in order.
    process::run(Command::new("kill").args(["-INT", &running.pid.to_string()]))?;
    let deadline = Instant::now() + STOP_WAIT;
    while is_postgres(running.pid) {
        if Instant::now() > deadline {
            bail!("PostgreSQL, process {}, does not stop", running.pid);
        }
        std::thread::park_timeout(LOOK);
    }
    fs::remove_file(note())?;
    Ok(())
}

struct Running {
    pid: u64,
    url: String,
}

impl Running {
    /// Returns the noted server if it still runs. The note may outlive its process, and another process may have its id.
    fn find() -> Option<Self> {
        let note: Value = serde_json::from_slice(&fs::read(note()).ok()?).ok()?;
        let running = Self { pid: note["pid"].as_u64()?, url: note["url"].as_str()?.to_owned() };
        is_postgres(running.pid).then_some(running)
    }
}

fn is_postgres(pid: u64) -> bool {
    // The server has its folder without symbolic links.
    let Ok(folder) = folder().canonicalize() else { return false };
    let words = process::ask("ps", &["-o", "args=", "-p", &pid.to_string()]);
    words.is_some_and(|words| words.contains("postgres") && words.contains(&folder.display().to_string()))
}

fn folder() -> PathBuf {
    root().join("target/postgres/server")
}

fn note() -> PathBuf {
    root().join("target/postgres/server.json")
}
