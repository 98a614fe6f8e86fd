//! The host as a child process, which is started, killed, restarted and stopped.
//!
//! A [`Host`] outlives its processes: [`Host::call`] repeats a call if the process was killed and restarted meanwhile.
//! Whatever happens, no process that it started stays behind.

use crate::{api, process};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt as _;

/// The name of the host's log in its data folder.
pub const LOG: &str = "host.log";
/// The longest time for a start. The first start compiles the plugins.
const START_WAIT: Duration = Duration::from_secs(120);
/// The longest time for a stop, in which the host finishes its work.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// The longest time from the loss of a host's connections to the end of its process.
const END_WAIT: Duration = Duration::from_secs(2);
/// The interval at which a starting host is checked.
const LOOK: Duration = Duration::from_millis(5);
/// The number of log lines that an error shows.
const LOG_LINES_SHOWN: usize = 15;

/// The program of a host, with all that it is started with.
pub struct Program {
    /// The program.
    pub wasmill: PathBuf,
    /// The manifest.
    pub manifest: PathBuf,
    /// The data folder.
    pub data: PathBuf,
    /// The Kafka brokers, if they are not those of the manifest.
    pub brokers: Option<String>,
    /// More arguments of `wasmill run`.
    pub args: Vec<String>,
    /// More environment variables, besides those of this program.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// The leash that can end its processes.
    pub leash: Arc<Leash>,
}

/// A handle that can end a host and its development broker at once, from any thread. After that it does not start
/// again.
pub struct Leash {
    held: Mutex<Held>,
    data: PathBuf,
}

enum Held {
    /// No process is running.
    Nothing,
    /// This process is running.
    Process(u32),
    /// No process may run any more.
    Ended,
}

impl Leash {
    /// Makes the leash of a host on this data folder.
    pub fn new(data: &Path) -> Self {
        Self { held: Mutex::new(Held::Nothing), data: data.to_path_buf() }
    }

    /// Ends all running processes. No new ones are started.
    pub fn end(&self) {
        if let Held::Process(pid) = std::mem::replace(&mut *self.lock(), Held::Ended) {
            process::end(pid, libc::SIGKILL);
        }
        process::end_dev_broker(&self.data);
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let mut held = self.lock();
        if matches!(*held, Held::Ended) {
            bail!("the run is over");
        }
        let child = command.spawn()?;
        *held = Held::Process(child.id());
        Ok(child)
    }

    /// Forgets the process, which has ended or is about to: its id may soon belong to another process.
    fn release(&self) {
        let mut held = self.lock();
        if matches!(*held, Held::Process(_)) {
            *held = Held::Nothing;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A host on a data folder, through restarts.
pub struct Host {
    program: Program,
    serving: Mutex<Serving>,
}

struct Serving {
    child: Child,
    place: Place,
}

/// The current process of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The URL of its HTTP API.
    pub url: String,
    /// The process id.
    pub pid: u32,
}

impl Host {
    /// Starts a host and waits until it serves.
    pub fn start(program: Program) -> Result<Self> {
        let serving = start(&program).inspect_err(|_| program.leash.end())?;
        Ok(Self { program, serving: Mutex::new(serving) })
    }

    /// Returns the current process. If the host is restarting, this waits.
    pub fn place(&self) -> Place {
        self.lock().place.clone()
    }

    /// Calls the API at a path. If the host is killed during the call, the call is repeated.
    pub fn call<T>(&self, path: &str, call: impl Fn(&str) -> Result<T, api::Error>) -> Result<T> {
        loop {
            // This waits while the host is restarted.
            let place = self.place();
            match call(&format!("{}{path}", place.url)) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.explain(&place, anyhow!(error).context(format!("ask the host for {path}")))?,
            }
        }
    }

    /// Finds out why a call to `place` failed. It is no error if the host was restarted since, or if somebody killed
    /// it, in which case it is restarted now. If the host ended by itself, the error has the end of its log.
    fn explain(&self, place: &Place, error: anyhow::Error) -> Result<()> {
        let mut serving = self.lock();
        if serving.place != *place {
            return Ok(());
        }
        // A process that is being killed loses its connections before it has ended.
        match serving.child.wait_timeout(END_WAIT)? {
            None => Err(error),
            Some(status) if status.signal() == Some(libc::SIGKILL) => {
                self.program.leash.release();
                *serving = start(&self.program)?;
                eprintln!("somebody killed the host, and it was restarted");
                Ok(())
            }
            Some(status) => Err(error.context(format!("the host ended: {status}\n{}", log_end(&self.program.data)))),
        }
    }

    /// Kills the host without warning and restarts it. Returns the time until it served again.
    pub fn crash(&self) -> Result<Duration> {
        let mut serving = self.lock();
        let killed = Instant::now();
        serving.child.kill()?;
        self.program.leash.release();
        serving.child.wait()?;
        *serving = start(&self.program)?;
        Ok(killed.elapsed())
    }

    /// Kills the host without warning. [`revive`](Self::revive) or [`crash`](Self::crash) starts it again.
    pub fn kill(&self) -> Result<()> {
        let mut serving = self.lock();
        serving.child.kill()?;
        self.program.leash.release();
        serving.child.wait()?;
        Ok(())
    }

    /// Stops the host in order, unless it has ended, and starts it again.
    pub fn restart(&self) -> Result<()> {
        let mut serving = self.lock();
        process::end(serving.child.id(), libc::SIGTERM);
        serving.child.wait_timeout(STOP_WAIT)?.with_context(|| log_end(&self.program.data))?;
        self.program.leash.release();
        *serving = start(&self.program)?;
        Ok(())
    }

    /// Starts the host again if it has ended. Returns how it had ended.
    pub fn revive(&self) -> Result<Option<ExitStatus>> {
        let mut serving = self.lock();
        let ended = serving.child.try_wait()?;
        if ended.is_some() {
            self.program.leash.release();
            *serving = start(&self.program)?;
        }
        Ok(ended)
    }

    /// Stops the host, which finishes its work first.
    pub fn stop(&self) -> Result<()> {
        let mut serving = self.lock();
        process::end(serving.child.id(), libc::SIGTERM);
        let status = serving.child.wait_timeout(STOP_WAIT)?;
        let log = || log_end(&self.program.data);
        match status {
            Some(status) if status.success() => self.program.leash.release(),
            Some(status) => bail!("the host failed to stop: {status}\n{}", log()),
            None => bail!("the host did not end within {} s after SIGTERM\n{}", STOP_WAIT.as_secs(), log()),
        }
        Ok(())
    }

    /// Waits until the host has ended by itself.
    pub fn ended(&self) -> Result<ExitStatus> {
        let status = self.lock().child.wait_timeout(STOP_WAIT)?;
        let status = status.with_context(|| format!("the host does not end\n{}", log_end(&self.program.data)))?;
        self.program.leash.release();
        Ok(status)
    }

    /// Returns the newest lines of its log.
    pub fn log_end(&self) -> String {
        log_end(&self.program.data)
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.program.data
    }

    /// Returns the address of its development broker. It is an error if it has none.
    pub fn dev_broker(&self) -> Result<String> {
        let file = process::dev_broker_file(self.data())?;
        file["brokers"].as_str().map(str::to_owned).context("the development broker's file names no brokers")
    }

    /// Returns the peak memory of the running process in KiB, if the system reports it.
    pub fn memory_peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.place().pid)).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok())
    }

    fn lock(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.program.leash.end();
        // If the child has already ended, there is nothing to do.
        _ = self.lock().child.wait();
    }
}

fn start(program: &Program) -> Result<Serving> {
    let mut command = Command::new(&program.wasmill);
    command.arg("run").arg(&program.manifest).arg("--data").arg(&program.data);
    if !program.args.iter().any(|arg| arg == "--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    if let Some(brokers) = &program.brokers {
        command.args(["--brokers", brokers]);
    }
    command.args(&program.args);
    let log = File::options().create(true).append(true).open(program.data.join(LOG)).context("open the host's log")?;
    // The host has its own process group, so Ctrl-C reaches only this program, which then stops the host.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let failed = || format!("start {}: build it with `cargo xtask build`", program.wasmill.display());
    let mut child = program.leash.spawn(&mut command).with_context(failed)?;
    let url = wait_until_it_serves(&mut child, &program.data)?;
    Ok(Serving { place: Place { url, pid: child.id() }, child })
}

/// Waits until the host has written its file, which means that it serves. The file of an earlier process has another
/// pid.
fn wait_until_it_serves(child: &mut Child, data: &Path) -> Result<String> {
    let deadline = Instant::now() + START_WAIT;
    loop {
        if let Some(url) = url_of(child.id(), data) {
            return Ok(url);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the host did not start: {status}\n{}", log_end(data));
        }
        if Instant::now() > deadline {
            bail!("the host did not serve within {} s\n{}", START_WAIT.as_secs(), log_end(data));
        }
        std::thread::park_timeout(LOOK);
    }
}

fn url_of(pid: u32, data: &Path) -> Option<String> {
    let file: serde_json::Value = serde_json::from_slice(&fs::read(data.join("host.json")).ok()?).ok()?;
    (file["pid"].as_u64() == Some(pid.into())).then(|| file["url"].as_str().map(str::to_owned))?
}

fn log_end(data: &Path) -> String {
    let log = fs::read(data.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    format!("the end of its log:\n  {}", shown.join("\n  "))
}
