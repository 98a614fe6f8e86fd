//! A real PostgreSQL: one server on a loopback port, as the tests and `cargo xtask postgres up` start it.
//!
//! The programs are those of the machine. The server refuses to run as root, so root starts it as another user. A [`Server`] has
//! a folder of its own. It ends when its value is dropped or when the process that holds it ends, however that ends.

pub(crate) mod background;

use crate::process;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The user of the database, who owns everything in it.
pub const USER: &str = "wasmill";
/// The password of that user, which connections over TCP need.
pub const PASSWORD: &str = "for-tests";

/// Longest time until a started server answers.
const START_WAIT: Duration = Duration::from_secs(60);
/// Interval at which a starting server is asked.
const LOOK: Duration = Duration::from_millis(20);
/// Folder of Debian's packages, with a folder for each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Users that root starts the server as, in the order of preference.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Shell script that becomes the given program and ends it at once when standard input ends, because the holder of the other end
/// has closed it or is gone. SIGQUIT ends the server's other processes too.
const GUARDED: &str = r#"exec 3<&0; (cat <&3 >/dev/null; kill -QUIT $$) & exec "$@" </dev/null 3<&-"#;

/// Returns what is in the way of starting a server on this machine, with the remedy, or `None`.
pub fn missing() -> Option<String> {
    match programs() {
        Some(_) if is_root() && other_user().is_none() => {
            Some(format!("PostgreSQL refuses to run as root: add a user named {}.", USERS.join(" or ")))
        }
        Some(_) => None,
        None => Some("There is no PostgreSQL server: install it (on Debian the package postgresql).".to_owned()),
    }
}

/// Returns the folder of the server's programs.
fn programs() -> Option<PathBuf> {
    let of_path = process::find("postgres").and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|version| version.path().join("bin"));
    let mut found: Vec<PathBuf> = of_path.into_iter().chain(versions).filter(|folder| is_whole(folder)).collect();
    found.sort();
    found.pop()
}

fn is_whole(folder: &Path) -> bool {
    ["postgres", "initdb"].iter().all(|program| folder.join(program).is_file())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Returns the ids of a user and its group that root can start the server as.
fn other_user() -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    USERS.iter().find_map(|name| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// A running server.
pub struct Server {
    prepared: Prepared,
    child: Child,
}

impl Server {
    /// Makes a folder, starts a server in it, and waits until it answers. The settings are lines of `postgresql.conf`.
    pub fn start(folder: &Path, settings: &[&str]) -> Result<Self> {
        let prepared = Prepared::new(folder, settings)?;
        Self::start_prepared(prepared)
    }

    /// Starts a server in a folder that another server's data was copied to.
    pub fn start_copy(folder: &Path, settings: &[&str]) -> Result<Self> {
        let prepared = Prepared { folder: folder.canonicalize()?, address: free_address()?, programs: found()? };
        prepared.set(settings)?;
        Self::start_prepared(prepared)
    }

    fn start_prepared(prepared: Prepared) -> Result<Self> {
        let mut server = Self { child: prepared.spawn_guarded()?, prepared };
        server.prepared.wait_until_it_answers(&mut server.child)?;
        Ok(server)
    }

    /// Ends the server at once, as a crash would. Its folder and address stay.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("wait for the end of PostgreSQL")?;
        Ok(())
    }

    /// Restarts the server after [`Self::kill`], with its data, and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = self.prepared.spawn_guarded()?;
        self.prepared.wait_until_it_answers(&mut self.child)
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.prepared.address
    }

    /// Returns the URL of one of its databases, with the password.
    pub fn url(&self, database: &str) -> String {
        self.prepared.url(database)
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) -> Result<()> {
        self.prepared.create_database(name)
    }

    /// Returns a command of one of the server's programs, as the user that the server runs as.
    pub fn program(&self, name: &str) -> Command {
        self.prepared.command(name)
    }

    /// Returns a file in the folder of its data.
    pub fn data(&self, file: &str) -> PathBuf {
        self.prepared.data().join(file)
    }

    /// Gives a file to the user that the server runs as.
    pub fn give(&self, file: &Path) -> Result<()> {
        give(file)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing can be done about a process that is gone already.
        _ = self.child.wait();
    }
}

/// A folder with a database cluster in which a server can start.
struct Prepared {
    folder: PathBuf,
    address: SocketAddr,
    programs: PathBuf,
}

fn found() -> Result<PathBuf> {
    programs().context("there is no PostgreSQL server")
}

impl Prepared {
    fn new(folder: &Path, settings: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let prepared = Self { folder: folder.canonicalize()?, address: free_address()?, programs: found()? };
        give(&prepared.folder)?;
        let password = prepared.folder.join("password");
        fs::write(&password, PASSWORD)?;
        give(&password)?;
        let mut initdb = prepared.command("initdb");
        initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--username", USER]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        initdb.arg(format!("--pwfile={}", password.display())).arg("-D").arg(prepared.data());
        let output = initdb.stdin(Stdio::null()).output().context("start initdb")?;
        if !output.status.success() {
            bail!("PostgreSQL's folder was not made: {}", String::from_utf8_lossy(&output.stderr));
        }
        prepared.set(settings)?;
        Ok(prepared)
    }

    /// Writes the settings, after those that every server here has.
    fn set(&self, settings: &[&str]) -> Result<()> {
        let file = self.data().join("postgresql.auto.conf");
        let text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n{}\n",
            self.address.port(),
            self.folder.display(),
            settings.join("\n")
        );
        fs::write(&file, text)?;
        give(&file)
    }

    fn create_database(&self, name: &str) -> Result<()> {
        let mut createdb = self.command("createdb");
        createdb.args(["-U", USER, "-p", &self.address.port().to_string(), "-h"]).arg(&self.folder).arg(name);
        process::run(&mut createdb)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}/{database}", self.address)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        // The server's user may not enter the folder of this process.
        command.current_dir(&self.folder).env("LC_ALL", "C");
        if let (true, Some((user, group))) = (is_root(), other_user()) {
            command.uid(user).gid(group);
        }
        command
    }

    /// Starts the server as a process that ends with this one.
    fn spawn_guarded(&self) -> Result<Child> {
        let server = self.command("postgres");
        let mut guarded = self.command("postgres");
        guarded = Self::as_same_user(guarded, "sh");
        guarded.args(["-c", GUARDED, "postgres"]).arg(server.get_program()).arg("-D").arg(self.data());
        self.spawn(guarded.stdin(Stdio::piped()))
    }

    /// Returns a command of another program with the folder and the user of a command of the server.
    fn as_same_user(server: Command, program: &str) -> Command {
        let mut command = Command::new(program);
        server.get_current_dir().into_iter().for_each(|folder| _ = command.current_dir(folder));
        if let (true, Some((user, group))) = (is_root(), other_user()) {
            command.uid(user).gid(group);
        }
        command.env("LC_ALL", "C");
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = File::create(self.log())?;
        command.stdout(log.try_clone()?).stderr(log).process_group(0).spawn().context("start PostgreSQL")
    }

    fn wait_until_it_answers(&self, child: &mut Child) -> Result<()> {
        let deadline = Instant::now() + START_WAIT;
        while !self.is_ready() {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("PostgreSQL did not start: {status}\n{}", log());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL did not answer within {} s\n{}", START_WAIT.as_secs(), log());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    /// Returns whether the server says that it takes connections, which is later than its port is open.
    fn is_ready(&self) -> bool {
        let note = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let is_ready = note.lines().nth(7).is_some_and(|state| matches!(state.trim(), "ready" | "standby"));
        is_ready && TcpStream::connect_timeout(&self.address, START_WAIT).is_ok()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }
}

/// Gives a file or folder to the user that root starts the server as. Nobody else may enter it.
fn give(path: &Path) -> Result<()> {
    if let (true, Some((user, group))) = (is_root(), other_user()) {
        std::os::unix::fs::chown(path, Some(user), Some(group))
            .with_context(|| format!("give {} to the user of PostgreSQL", path.display()))?;
    }
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("close {}", path.display()))
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
