//! `host.json` in the data folder: it names the process that serves the folder, and the URL of its API.

use crate::exhaustion;
use crate::host::Host;
use crate::manifest::Api;
use crate::paths;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The most bytes of such a file. Real ones are far smaller.
const BYTES_MAX: u64 = 65_536;

/// The running host of a data folder. If a host is killed, its file stays behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFile {
    /// The process id.
    pub pid: u32,
    /// The URL of its API.
    pub url: String,
    /// The unique id of this process. Its answers carry the id, and it refuses requests that name another one.
    pub instance: String,
    /// The identity of its store.
    pub store: String,
    /// The identity of the folder, which a copy of the folder does not share.
    pub folder: u64,
}

impl HostFile {
    /// Makes the content of the file for a host of this process.
    pub fn of(host: &Host, data: &Path, settings: &Api) -> io::Result<Self> {
        Ok(Self {
            pid: std::process::id(),
            url: url(settings),
            instance: host.instance().to_owned(),
            store: host.store().identity().to_string(),
            folder: Self::place_of(data)?,
        })
    }

    /// Returns the path of the file of a data folder.
    pub fn path(data: &Path) -> PathBuf {
        data.join("host.json")
    }

    /// Returns the inode number of a folder, which tells it from a copy.
    pub fn place_of(data: &Path) -> io::Result<u64> {
        let found = std::fs::metadata(data).map_err(|error| {
            io::Error::new(error.kind(), format!("can't read the data folder {}: {error}", data.display()))
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

    /// Writes the file of a data folder. A reader sees either the old file or the new one, never a part of it.
    pub fn write(&self, data: &Path) -> io::Result<()> {
        let path = Self::path(data);
        let aside = path.with_extension("json.new");
        // Somebody may have put anything in this place.
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

/// Returns the URL of an API, for programs on this machine.
fn url(settings: &Api) -> String {
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let mut address = settings.listen;
    if address.ip().is_unspecified() {
        let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    format!("{scheme}://{address}")
}

/// Makes the error for a file that can't be written, with its path and the remedy.
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
