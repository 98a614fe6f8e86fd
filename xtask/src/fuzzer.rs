//! Schemathesis, which sends requests that it makes from an OpenAPI document, and a validator of such documents.
//!
//! Both are Python packages, which `tests/fuzz/requirements.txt` names. They are installed into an environment in
//! `target/tools/fuzzer`, once.

use crate::{once, process, root};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest time for pip, because a blocked network must not hold up the tests forever.
const PIP_WAIT: Duration = Duration::from_secs(300);

/// An environment of Python that has the packages.
pub struct Fuzzer {
    folder: PathBuf,
}

impl Fuzzer {
    /// Returns the environment. It is made first if it is not there, or has other versions than it should. The error says
    /// what is in the way.
    pub fn ensure() -> Result<Self> {
        let tools = root().join("target/tools");
        let fuzzer = Self { folder: tools.join("fuzzer") };
        let requirements = root().join("tests/fuzz/requirements.txt");
        let wanted = fs::read(&requirements).with_context(|| format!("read {}", requirements.display()))?;
        // The copy is written last, so it is there only if everything is.
        let installed = fuzzer.folder.join("requirements.txt");
        let is_there = || fs::read(&installed).is_ok_and(|found| found == wanted);
        once::fetched(&tools.join("fuzzer.lock"), is_there, || {
            fuzzer.install(&requirements)?;
            fs::write(&installed, &wanted).with_context(|| format!("write {}", installed.display()))
        })?;
        Ok(fuzzer)
    }

    fn install(&self, requirements: &Path) -> Result<()> {
        let Some(python) = process::find("python3") else { bail!("there is no python3: install Python 3.10 or newer") };
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder.display()))?;
        }
        process::run_within(Command::new(python).args(["-m", "venv"]).arg(&self.folder), PIP_WAIT)
            .context("make an environment of Python: its module venv is needed")?;
        let mut pip = self.python();
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
        process::run_within(&mut pip, PIP_WAIT).context("install schemathesis with pip")
    }

    /// Returns a command that runs the environment's Python.
    pub fn python(&self) -> Command {
        Command::new(self.folder.join("bin/python"))
    }
}
