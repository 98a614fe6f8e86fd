//! `host.json` in the data folder: which process serves it, and where.

use crate::exhaustion;
use crate::host::Host;
use crate::manifest::Api;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More than any such file has.
const BYTES_MAX: u64 = 65_536;

/// The running host of a data folder. The file stays behind where a host is killed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// Of the operating system.
    pub pid: u32,
    /// Where its API serves.
    pub url: String,
    /// What tells this process from every other: its answers carry it, and it refuses requests that name another.
    pub instance: String,
    /// The identity of its store.
    pub store: String,
    /// What tells the folder from a copy of it.
    pub folder: u64,
}

impl HostFile {
    /// What the file says of a host of this process.
    pub fn of(host: &Host, data: &Path, settings: &Api) -> io::Result<Self> {
        Ok(Self {
            pid: std::process::id(),
            url: format!("http://{}", settings.listen),
            instance: host.instance().to_owned(),
            store: host.store().identity().to_string(),
            folder: Self::place_of(data)?,
        })
    }

    /// Where the file of a data folder is.
    pub fn path(data: &Path) -> PathBuf {
        data.join("host.json")
    }

    /// What tells a folder from a copy of it: its number in the file system.
    pub fn place_of(data: &Path) -> io::Result<u64> {
        let found = std::fs::metadata(data).map_err(|error| {
            io::Error::new(error.kind(), format!("can't look at the data folder {}: {error}", data.display()))
        })?;
        Ok(found.ino())
    }

    /// Reads the file of a data folder.
    pub fn read(data: &Path) -> io::Result<Self> {
        let path = Self::path(data);
        paths::require_file(&path)?;
        let mut text = Vec::new();
        File::open(path)?.take(BYTES_MAX).read_to_end(&mut text)?;
        serde_json::from_slice(&text).map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))
    }

    /// Writes the file of a data folder. A reader sees the old file or the new one, never half of it.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let path = Self::path(data);
        let aside = path.with_extension("json.new");
        // It may be anything that somebody put there.
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritten(&aside, &error)),
            _ => {}
        }
        std::fs::write(&aside, serde_json::to_vec(self)?).map_err(|error| unwritten(&aside, &error))?;
        std::fs::rename(&aside, &path).map_err(|error| unwritten(&path, &error))
    }

    /// Removes the file of a data folder, if this host wrote it.
    pub fn remove(&self, data: &Path) -> io::Result<()> {
        if Self::read(data)? == *self { std::fs::remove_file(Self::path(data)) } else { Ok(()) }
    }
}

/// Why a file was not written, with its path and the remedy.
fn unwritten(path: &Path, error: &io::Error) -> io::Error {
    let remedy = match error.kind() {
        _ if path.is_dir() => "a folder is in its place: remove it".to_owned(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full: free some space".to_owned(),
        _ => exhaustion::remedy(error).unwrap_or_else(|| "allow writing to it and to its folder".to_owned()),
    };
    io::Error::new(error.kind(), format!("can't write {}: {error}; {remedy}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_the_place_of_the_file_is_named_with_the_remedy() {
        for name in ["host.json", "host.json.new"] {
            let data = tempfile::tempdir().unwrap();
            let folder = data.path().join(name);
            std::fs::create_dir_all(folder.join("more")).unwrap();
            let file = HostFile {
                pid: 1,
                url: "http://127.0.0.1:1".into(),
                instance: "one".into(),
                store: "one".into(),
                folder: HostFile::place_of(data.path()).unwrap(),
            };
            let said = file.write(data.path()).unwrap_err().to_string();
            assert!(said.contains(&format!("can't write {}: ", folder.display())), "{said}");
            assert!(said.contains("a folder is in its place: remove it"), "{said}");
        }
    }

    #[test]
    fn a_host_removes_only_its_own_file() {
        let data = tempfile::tempdir().unwrap();
        let of = |pid: u32| HostFile {
            pid,
            url: format!("http://127.0.0.1:{pid}"),
            instance: pid.to_string(),
            store: "one".into(),
            folder: HostFile::place_of(data.path()).unwrap(),
        };
        let (old, new) = (of(1), of(2));
        old.write(data.path()).unwrap();
        new.write(data.path()).unwrap();
        old.remove(data.path()).unwrap();
        assert_eq!(HostFile::read(data.path()).unwrap(), new);
        new.remove(data.path()).unwrap();
        assert_eq!(HostFile::read(data.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
