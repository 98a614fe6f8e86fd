//! `cargo xtask kafka up | down`: a node that keeps running after the task.

use super::{Prepared, answers, kept};
use crate::process;
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time for an orderly stop of a node.
const STOP_WAIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);

/// Starts a node, or finds the one that runs, and prints its address.
pub(crate) fn up() -> Result<()> {
    if let Some(reason) = super::missing() {
        bail!("{reason}");
    }
    if let Some(running) = Running::find() {
        println!("{}", running.brokers);
        return Ok(());
    }
    if folder().exists() {
        fs::remove_dir_all(folder())?;
    }
    let prepared = Prepared::new(&folder())?;
    let mut child = prepared.spawn(prepared.broker().stdin(Stdio::null()))?;
    if let Err(error) = prepared.wait_until_it_answers(&mut child) {
        _ = child.kill();
        return Err(error);
    }
    fs::write(note(), json!({ "pid": child.id(), "brokers": prepared.brokers() }).to_string())?;
    eprintln!("Kafka runs with its log in {}; stop it with `cargo xtask kafka down`", prepared.log().display());
    println!("{}", prepared.brokers());
    Ok(())
}

/// Stops the node that `up` started. It is no error if none runs.
pub(crate) fn down() -> Result<()> {
    let Some(running) = Running::find() else {
        eprintln!("no Kafka of `cargo xtask kafka up` runs");
        return Ok(());
    };
    process::run(Command::new("kill").arg(running.pid.to_string()))?;
    let deadline = Instant::now() + STOP_WAIT;
    while is_kafka(running.pid) {
        if Instant::now() > deadline {
            process::run(Command::new("kill").args(["-KILL", &running.pid.to_string()]))?;
            break;
        }
        std::thread::park_timeout(LOOK);
    }
    fs::remove_file(note())?;
    Ok(())
}

struct Running {
    pid: u64,
    brokers: String,
}

impl Running {
    /// Returns the noted node if it still runs. The note may outlive its process, and another process may have its id.
    fn find() -> Option<Self> {
        let note: Value = serde_json::from_slice(&fs::read(note()).ok()?).ok()?;
        let running = Self { pid: note["pid"].as_u64()?, brokers: note["brokers"].as_str()?.to_owned() };
        (is_kafka(running.pid) && answers(running.brokers.parse().ok()?)).then_some(running)
    }
}

fn is_kafka(pid: u64) -> bool {
    process::ask("ps", &["-o", "args=", "-p", &pid.to_string()]).is_some_and(|words| words.contains("kafka.Kafka"))
}

fn folder() -> PathBuf {
    kept().join("node")
}

fn note() -> PathBuf {
    kept().join("node.json")
}
