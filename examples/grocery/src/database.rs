//! A PostgreSQL server for one run, with an empty database.

use anyhow::{Context, Result, bail};
use xtask::postgres::{Server, missing};

/// The name of the database.
const NAME: &str = "grocery";

/// A database that ends with the run.
pub(crate) struct Database {
    /// Its URL, with the password.
    pub(crate) url: String,
    // Fields are dropped in this order, so the server ends before its folder is removed.
    _server: Server,
    _folder: tempfile::TempDir,
}

impl Database {
    /// Starts the server.
    pub(crate) fn start() -> Result<Self> {
        if let Some(reason) = missing() {
            bail!("{reason}");
        }
        let folder = tempfile::tempdir().context("make a folder for PostgreSQL")?;
        let server = Server::start(folder.path(), &[])?;
        server.create_database(NAME)?;
        Ok(Self { url: server.url(NAME), _server: server, _folder: folder })
    }
}
