//! Signals to processes by their id, and the end of a development broker. Use this only for processes that this
//! program, or a host for it, has started.

use anyhow::{Context as _, Result};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The interval at which a process that must end is checked.
const LOOK: Duration = Duration::from_millis(5);

/// Sends a signal. Fails if the process no longer exists.
pub fn signal(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 0).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: kill takes two numbers and touches no memory of ours; a positive pid names one process, not a group.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal that ends a process. It is no error if the process has already ended.
pub(crate) fn end(pid: u32, by: libc::c_int) {
    _ = signal(pid, by);
}

/// Ends the development broker of a data folder, if one is running. A killed host leaves it behind.
pub(crate) fn end_dev_broker(data: &Path) {
    let Some(pid) = dev_broker(data) else { return };
    end(pid, libc::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(5);
    while is_dev_broker(pid) && Instant::now() < deadline {
        std::thread::park_timeout(LOOK);
    }
    if is_dev_broker(pid) {
        end(pid, libc::SIGKILL);
    }
}

/// Reads the file of a data folder's development broker.
pub(crate) fn dev_broker_file(data: &Path) -> Result<serde_json::Value> {
    let file = data.join("dev-broker.json");
    let failed = || format!("read {}, which names the development broker", file.display());
    serde_json::from_slice(&std::fs::read(&file).with_context(failed)?).with_context(failed)
}

fn dev_broker(data: &Path) -> Option<u32> {
    let pid = u32::try_from(dev_broker_file(data).ok()?["pid"].as_u64()?).ok()?;
    is_dev_broker(pid).then_some(pid)
}

/// Returns whether a process is a development broker. The file may outlive its process, and another process may have
/// its id by now.
fn is_dev_broker(pid: u32) -> bool {
    let words = std::process::Command::new("ps").args(["-o", "args=", "-p", &pid.to_string()]).output();
    words.is_ok_and(|words| String::from_utf8_lossy(&words.stdout).contains("dev-broker"))
}
