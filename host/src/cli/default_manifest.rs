//! The manifest of a command that names none: `wasmill.toml` in the working folder.

use super::failure::CommandFailure;
use std::path::{Path, PathBuf};

/// The name of the default manifest.
pub(super) const FILE_NAME: &str = "wasmill.toml";

/// The manifest that a command works on.
#[derive(clap::Args)]
pub(super) struct ManifestArg {
    /// The manifest; by default wasmill.toml in the working folder.
    manifest: Option<PathBuf>,
}

impl ManifestArg {
    /// Returns the manifest that is named, or the default one, which must be there.
    pub(super) fn path(self) -> Result<PathBuf, CommandFailure> {
        or_default(self.manifest)
    }

    /// Returns the manifest that is named, or the default one if it is there.
    pub(super) fn if_there(self) -> Option<PathBuf> {
        self.manifest.or_else(found)
    }
}

/// The manifest that a command with other arguments works on.
#[derive(clap::Args)]
pub(super) struct ManifestOption {
    /// The manifest; by default wasmill.toml in the working folder.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
}

impl ManifestOption {
    /// Returns the manifest that is named, or the default one, which must be there.
    pub(super) fn path(self) -> Result<PathBuf, CommandFailure> {
        or_default(self.manifest)
    }
}

fn or_default(named: Option<PathBuf>) -> Result<PathBuf, CommandFailure> {
    named.or_else(found).ok_or_else(|| {
        CommandFailure::usage(format!(
            "no manifest is named, and the working folder has no {FILE_NAME}: name one, or make one with \
             `wasmill new aggregate NAME`"
        ))
    })
}

/// Returns the default manifest if it is there.
pub(super) fn found() -> Option<PathBuf> {
    Path::new(FILE_NAME).is_file().then(|| PathBuf::from(FILE_NAME))
}
