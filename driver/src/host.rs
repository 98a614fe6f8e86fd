//! The host as a child process: started, found, killed, started again, stopped.
//!
//! A [`Host`] outlives its processes: [`Host::call`] calls again if the process was killed and restarted in between.
//! Whatever happens, nothing that it started stays behind.

use crate::{api, process};
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt as _;

/// The host's log in its data folder.
pub const LOG: &str = "host.log";
/// How long a host may take to start. It compiles the plugins the first time.
const START_WAIT: Duration = Duration::from_secs(120);
/// How long a host may take to finish its work and end.
const STOP_WAIT: Duration = Duration::from_secs(60);
/// How long a host that lost its connections may take to have ended.
const END_WAIT: Duration = Duration::from_secs(2);
/// How often a starting host is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How much of the log is shown when something went wrong.
const LOG_LINES_SHOWN: usize = 15;

/// What a host is started with.
pub struct Program {
    /// The program.
    pub wasmill: PathBuf,
    /// The manifest.
    pub manifest: PathBuf,
    /// The data folder.
    pub data: PathBuf,
    /// Kafka, where it is not the manifest's.
    pub brokers: Option<String>,
    /// More arguments of `wasmill run`.
    pub args: Vec<String>,
    /// Variables of its environment beside those of this program.
    pub environment: Vec<(&'static str, PathBuf)>,
    /// Ends what it starts.
    pub leash: Arc<Leash>,
}

/// What is needed to end a host and its development broker at once, whatever else goes on. What has ended by it
/// starts no more.
pub struct Leash {
    held: Mutex<Held>,
    data: PathBuf,
}

enum Held {
    /// No process runs.
    Nothing,
    /// The process that runs.
    Process(u32),
    /// Nothing may run any more.
    Ended,
}

impl Leash {
    /// Of a host on a data folder.
    pub fn new(data: &Path) -> Self {
        Self { held: Mutex::new(Held::Nothing), data: data.to_path_buf() }
    }

    /// Ends whatever runs, for good.
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

    /// The process has ended or is about to: its id may soon be another's.
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

/// Where a host serves now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of its HTTP API.
    pub url: String,
    /// Tells one process from the next.
    pub pid: u32,
}

impl Host {
    /// Starts a host and waits until it serves.
    pub fn start(program: Program) -> Result<Self> {
        let serving = start(&program).inspect_err(|_| program.leash.end())?;
        Ok(Self { program, serving: Mutex::new(serving) })
    }

    /// Where it serves; waits for the end of a restart.
    pub fn place(&self) -> Place {
        self.lock().place.clone()
    }

    /// Calls the API at a path, which may happen more than once: until a host answers that was not killed in the middle.
    pub fn call<T>(&self, path: &str, call: impl Fn(&str) -> Result<T, api::Error>) -> Result<T> {
        loop {
            // While the host is being restarted this waits.
            let place = self.place();
            match call(&format!("{}{path}", place.url)) {
                Ok(answer) => return Ok(answer),
                Err(error) => self.explain(&place, anyhow!(error).context(format!("ask the host for {path}")))?,
            }
        }
    }

    /// After a call to `place` failed: fine when the host was restarted since, or was killed by somebody and is
    /// restarted now; an error with the end of its log when it ended by itself.
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
                eprintln!("somebody killed the host: it was started again");
                Ok(())
            }
            Some(status) => Err(error.context(format!("the host ended: {status}\n{}", log_end(&self.program.data)))),
        }
    }

    /// Kills the host as a power cut would, starts it again, and tells how long it took until it served.
    pub fn crash(&self) -> Result<Duration> {
        let mut serving = self.lock();
        let killed = Instant::now();
        serving.child.kill()?;
        self.program.leash.release();
        serving.child.wait()?;
        *serving = start(&self.program)?;
        Ok(killed.elapsed())
    }

    /// Lets the host finish its work and end.
    pub fn stop(&self) -> Result<()> {
        let mut serving = self.lock();
        process::end(serving.child.id(), libc::SIGTERM);
        let status = serving.child.wait_timeout(STOP_WAIT)?;
        let log = || log_end(&self.program.data);
        match status {
            Some(status) if status.success() => self.program.leash.release(),
            Some(status) => bail!("the host did not end well: {status}\n{}", log()),
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

    /// The newest lines of its log.
    pub fn log_end(&self) -> String {
        log_end(&self.program.data)
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.program.data
    }

    /// The address of its development broker, if it has one.
    pub fn dev_broker(&self) -> Result<String> {
        let file = process::dev_broker_file(self.data())?;
        file["brokers"].as_str().map(str::to_owned).context("the development broker's file names no brokers")
    }

    /// Kilobytes of memory that the running process used at most, where the system tells.
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
        // Nothing can be done about a child that is gone already.
        _ = self.lock().child.wait();
    }
}

fn start(program: &Program) -> Result<Serving> {
    let mut command = Command::new(&program.wasmill);
    command.arg("run").arg(&program.manifest).arg("--data").arg(&program.data).args(["--listen", "127.0.0.1:0"]);
    command.envs(program.environment.iter().map(|(name, value)| (name, value)));
    if let Some(brokers) = &program.brokers {
        command.args(["--brokers", brokers]);
    }
    command.args(&program.args);
    let log = File::options().create(true).append(true).open(program.data.join(LOG)).context("open the host's log")?;
    // A group of its own: Ctrl-C reaches this program, which ends the host in its own way.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let failed = || format!("start {}: build it with `cargo xtask build`", program.wasmill.display());
    let mut child = program.leash.spawn(&mut command).with_context(failed)?;
    let url = wait_until_it_serves(&mut child, &program.data)?;
    Ok(Serving { place: Place { url, pid: child.id() }, child })
}

/// The host writes the file when it serves; a file of an earlier process names another pid.
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
