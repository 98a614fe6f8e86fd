//! A real PostgreSQL for tests: one server that the tests of a program share, with a database for each.
//!
//! The server starts with its first user and ends with the process. Without the programs of PostgreSQL the tests are left out with
//! a line that says so, and with `CI=true` that is an error.

use crate::built;
use crate::cut::Cut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tokio_postgres::{NoTls, SimpleQueryMessage};
use wasmill::store::postgres::Address;
use xtask::postgres::{Server, missing};

/// Settings of the servers of tests. A test kills processes and never the machine, so nothing is lost without `fsync`.
const QUICK: [&str; 4] =
    ["fsync = off", "max_connections = 300", "shared_buffers = '64MB'", "log_min_messages = warning"];

static SHARED: LazyLock<Arc<Postgres>> = LazyLock::new(|| Arc::new(Postgres::start(&[])));

/// A real PostgreSQL server.
pub struct Postgres {
    // Fields are dropped in this order, so the server ends before its folder is removed.
    server: Mutex<Server>,
    folder: tempfile::TempDir,
    databases: AtomicU64,
}

impl Postgres {
    /// Returns the server of this program, or `None` if there can be none.
    pub fn shared() -> Option<Arc<Self>> {
        if built::left_out(missing()) { None } else { Some(SHARED.clone()) }
    }

    /// Starts a server for one test, which may stop it. Returns `None` if none can be started.
    pub fn own(settings: &[&str]) -> Option<Self> {
        if built::left_out(missing()) { None } else { Some(Self::start(settings)) }
    }

    fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let settings: Vec<&str> = QUICK.iter().chain(settings).copied().collect();
        let server = Server::start(folder.path(), &settings).unwrap_or_else(|error| panic!("{error:?}"));
        Self { server: Mutex::new(server), folder, databases: AtomicU64::new(0) }
    }

    /// Starts a server with a copy of this one's data, and with more settings. A file of this name in it makes it a standby.
    pub fn copy(&self, settings: &[&str], signal: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let server = self.server();
        server.give(folder.path()).expect("give the folder to the server");
        let mut backup = server.program("pg_basebackup");
        backup.arg("-D").arg(folder.path().join("data")).args(["--no-sync", "--checkpoint=fast", "-X", "stream"]);
        backup.arg("-d").arg(server.url("postgres"));
        let output = backup.output().expect("start pg_basebackup");
        assert!(output.status.success(), "{output:?}");
        if let Some(signal) = signal {
            let file = folder.path().join("data").join(signal);
            std::fs::write(&file, "").expect("write the signal");
            server.give(&file).expect("give the signal to the server");
        }
        let source = format!("primary_conninfo = '{}'", server.url("postgres"));
        let settings: Vec<&str> = QUICK.iter().chain(settings).copied().chain([&*source]).collect();
        let server = Server::start_copy(folder.path(), &settings).unwrap_or_else(|error| panic!("{error:?}"));
        Self { server: Mutex::new(server), folder, databases: AtomicU64::new(0) }
    }

    /// Makes a database, and returns its URL with the password.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let server = self.server();
        sql(&server.url("postgres"), &format!("CREATE DATABASE {name}"));
        server.url(&name)
    }

    /// Returns a proxy in front of the server, and the URL of a database through it.
    pub fn through_a_cut(&self, url: &str) -> (Cut, String) {
        let address = self.server().address();
        let proxy = Cut::before(address);
        let url = url.replace(&address.to_string(), &proxy.address().to_string());
        (proxy, url)
    }

    /// Returns the URL of a database of this server by the URL that another server has for its copy.
    pub fn url_like(&self, other: &str) -> String {
        let name = other.rsplit('/').next().expect("a URL ends with the database");
        self.server().url(name)
    }

    /// Ends a server of the test's own as a crash would, and restarts it after `meanwhile`.
    pub fn restart<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        let mut server = self.server();
        server.kill().expect("end PostgreSQL");
        let result = meanwhile();
        server.start_again().expect("start PostgreSQL again");
        result
    }

    /// Returns the server.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a file beside its data, that it may read.
    pub fn file(&self, name: &str, content: &str) -> std::path::PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, content).expect("write the file");
        self.server().give(&file).expect("give the file to the server");
        file
    }
}

/// Returns the address of a URL.
pub fn address(url: &str) -> Address {
    url.parse().unwrap_or_else(|error| panic!("the URL {error}"))
}

/// Runs statements, and returns the first column of all rows.
pub fn sql(url: &str, statements: &str) -> Vec<String> {
    Session::start(url).run(statements)
}

/// A session of somebody else, as `psql` has one. What it has locked is free when it is dropped.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: tokio_postgres::Client,
}

impl Session {
    /// Connects.
    pub fn start(url: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect to PostgreSQL");
            tokio::spawn(async move { drop(connection.await) });
            client
        });
        Self { runtime, client }
    }

    /// Runs statements, and returns the first column of all rows.
    pub fn run(&self, statements: &str) -> Vec<String> {
        let found = self.runtime.block_on(self.client.simple_query(statements));
        let found = found.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
        let value = |message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        };
        found.into_iter().filter_map(value).collect()
    }
}
