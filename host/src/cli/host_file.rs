//! `host.json` in the data folder: which process serves it, and where.

use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The running host of a data folder. The file stays behind where a host is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// Of the operating system.
    pub pid: u32,
    /// Where its API serves.
    pub url: String,
}

impl HostFile {
    /// Where the file of a data folder is.
    pub fn path(data: &Path) -> PathBuf {
        data.join("host.json")
    }

    /// Reads the file of a data folder.
    pub fn read(data: &Path) -> io::Result<Self> {
        let text = std::fs::read(Self::path(data))?;
        serde_json::from_slice(&text).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))
    }

    /// Writes the file of a data folder. A reader sees the old file or the new one, never half of it.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let path = Self::path(data);
        let aside = path.with_extension("json.new");
        std::fs::write(&aside, serde_json::to_vec(self)?)?;
        std::fs::rename(aside, path)
    }

    /// Removes the file of a data folder, if this host wrote it.
    pub fn remove(&self, data: &Path) -> io::Result<()> {
        if Self::read(data)? == *self { std::fs::remove_file(Self::path(data)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_removes_only_its_own_file() {
        let data = tempfile::tempdir().unwrap();
        let old = HostFile { pid: 1, url: "http://127.0.0.1:1".into() };
        let new = HostFile { pid: 2, url: "http://127.0.0.1:2".into() };
        old.write(data.path()).unwrap();
        new.write(data.path()).unwrap();
        old.remove(data.path()).unwrap();
        assert_eq!(HostFile::read(data.path()).unwrap(), new);
        new.remove(data.path()).unwrap();
        assert_eq!(HostFile::read(data.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
