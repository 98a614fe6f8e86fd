//! The hosts of a run: one, or several on the same store.

use crate::start::{self, Differences};
use crate::{Options, database::Database};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmill_driver::host::{Host, Leash, Program};

/// Hosts that run.
pub(crate) struct Hosts {
    hosts: Vec<Host>,
    // It ends after the hosts.
    _database: Option<Database>,
}

impl Hosts {
    /// Starts the hosts of a run, whose data is in a folder. `leashes` is told the leash of each.
    pub(crate) fn start(options: &Options, data: &Path, leashes: impl Fn(&Arc<Leash>)) -> Result<Self> {
        let differences =
            Differences { from_end: options.brokers.is_some(), postgres: options.postgres, hosts: options.hosts };
        let manifest = match differences {
            Differences { from_end: false, postgres: false, .. } => options.manifest.clone(),
            differences => start::manifest_with(differences, &options.manifest, data)?,
        };
        let database = options.postgres.then(Database::start).transpose()?;
        let store = database.as_ref().map(|database| (start::STORE_URL, PathBuf::from(&database.url)));
        let wasmill = wasmill(options)?;
        let mut hosts = Vec::new();
        for number in 1..=options.hosts {
            let data = if options.hosts == 1 { data.to_path_buf() } else { data.join(format!("host-{number}")) };
            fs::create_dir_all(&data).with_context(|| format!("make the folder {}", data.display()))?;
            let leash = Arc::new(Leash::new(&data));
            leashes(&leash);
            hosts.push(Host::start(Program {
                args: Vec::new(),
                wasmill: wasmill.clone(),
                manifest: manifest.clone(),
                brokers: options.brokers.clone(),
                environment: store.clone().into_iter().collect(),
                leash,
                data,
            })?);
        }
        Ok(Self { hosts, _database: database })
    }

    /// Returns the hosts.
    pub(crate) fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// Stops all hosts.
    pub(crate) fn stop(&self) -> Result<()> {
        self.hosts.iter().try_for_each(Host::stop)
    }
}

fn wasmill(options: &Options) -> Result<PathBuf> {
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("wasmill"));
    let program = options.wasmill.clone().map_or_else(beside, Ok)?;
    if !program.is_file() {
        bail!("the host's program {} is not there: build it with `cargo xtask build`", program.display());
    }
    Ok(program)
}
