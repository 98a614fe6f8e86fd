//! The guest SDK that comes with the program: its sources, which are unpacked beside the plugins that use it.

use super::make_build_folder;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The files of the SDK: their paths in its folder, and their texts.
const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The crates of the SDK.
const MEMBERS: [&str; 5] = ["guest-sdk", "guest-sdk/macros", "names", "cases", "read-model"];

/// The file that says which files were unpacked.
const DIGEST: &str = ".digest";

/// The guest SDK in a folder, for crates to depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sdk {
    /// The folder of the crate `wasmill-guest`.
    pub guest: PathBuf,
}

impl Sdk {
    /// Takes the SDK in a folder: that of the crate `wasmill-guest`, or a repository with it. The error completes a sentence
    /// about the folder.
    pub fn at(folder: &Path) -> Result<Self, String> {
        let guest = [folder.to_owned(), folder.join("guest-sdk")];
        let is_it = |folder: &PathBuf| {
            let text = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
            let manifest: Table = text.parse().unwrap_or_default();
            manifest.get("package").and_then(|package| package.get("name")?.as_str()) == Some("wasmill-guest")
        };
        let found = guest.into_iter().find(is_it);
        let found = found.ok_or("has no crate wasmill-guest: name the folder guest-sdk of a wasmill repository")?;
        let guest = found.canonicalize().map_err(|error| format!("can't be read: {error}"))?;
        Ok(Self { guest })
    }

    /// Returns the folder of this program's SDK below a build folder.
    pub fn folder(build_folder: &Path) -> PathBuf {
        build_folder.join(concat!("sdk-", env!("CARGO_PKG_VERSION")))
    }

    /// Unpacks the SDK of this program below a build folder, unless it is there. Returns whether it was unpacked.
    pub fn unpack(build_folder: &Path) -> io::Result<(Self, bool)> {
        let folder = Self::folder(build_folder);
        let sdk = Self { guest: folder.join("guest-sdk") };
        let digest = digest();
        if fs::read_to_string(folder.join(DIGEST)).is_ok_and(|found| found == digest) {
            return Ok((sdk, false));
        }
        let unpacked = || {
            make_build_folder(build_folder)?;
            let aside = tempfile::Builder::new().prefix(".sdk-").tempdir_in(build_folder)?;
            for (path, text) in FILES {
                let file = aside.path().join(path);
                fs::create_dir_all(file.parent().unwrap_or(aside.path()))?;
                if *path == "Cargo.toml" { fs::write(file, workspace(text)?)? } else { fs::write(file, text)? }
            }
            fs::write(aside.path().join(DIGEST), digest)?;
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // What has its final name is not removed with the temporary folder.
            fs::rename(aside.keep(), &folder)
        };
        unpacked().map_err(|error| {
            io::Error::new(error.kind(), format!("can't unpack the SDK to {}: {error}", folder.display()))
        })?;
        Ok((sdk, true))
    }

    /// Returns the lock file with the versions that the SDK was tested with.
    pub fn lock_file() -> &'static str {
        FILES.iter().find(|(path, _)| *path == "Cargo.lock").map_or("", |(_, text)| text)
    }
}

/// Returns the digest of all files.
fn digest() -> String {
    let mut digest = Sha256::new();
    for (path, text) in FILES {
        digest.update((path.len() as u64).to_le_bytes());
        digest.update(path);
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    base16ct::lower::encode_string(&digest.finalize())
}

/// Returns the manifest of a workspace that has the SDK's crates alone.
fn workspace(text: &str) -> io::Result<String> {
    let wrong = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
    let mut manifest: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    manifest.retain(|key, _| key == "workspace");
    let workspace = manifest.get_mut("workspace").and_then(Value::as_table_mut);
    let workspace = workspace.ok_or_else(|| wrong("the manifest has no [workspace]".to_owned()))?;
    workspace.remove("default-members");
    workspace.insert("members".to_owned(), MEMBERS.map(Value::from).to_vec().into());
    if let Some(dependencies) = workspace.get_mut("dependencies").and_then(Value::as_table_mut) {
        dependencies.retain(|_, dependency| match dependency.get("path").and_then(Value::as_str) {
            Some(path) => MEMBERS.contains(&path),
            None => true,
        });
    }
    toml::to_string(&manifest).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_unpacked_once_and_again_if_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let build_folder = folder.path().join("one/.wasmill");
        let (sdk, is_new) = Sdk::unpack(&build_folder).unwrap();
        assert!(is_new);
        assert_eq!(Sdk::unpack(&build_folder).unwrap(), (sdk.clone(), false));
        assert_eq!(fs::read_to_string(build_folder.join(".gitignore")).unwrap(), "*\n");
        for file in ["src/lib.rs", "macros/src/lib.rs", "../wit/types.wit", "../names/Cargo.toml", "../Cargo.lock"] {
            assert!(sdk.guest.join(file).is_file(), "{file}");
        }
        let manifest: Table = fs::read_to_string(sdk.guest.join("../Cargo.toml")).unwrap().parse().unwrap();
        assert_eq!(manifest["workspace"]["members"].as_array().unwrap().len(), MEMBERS.len());
        assert!(manifest["workspace"]["dependencies"].get("wasmill").is_none());
        assert!(!manifest.contains_key("profile"));
        fs::write(Sdk::folder(&build_folder).join(DIGEST), "that of another program").unwrap();
        fs::write(sdk.guest.join("src/stray.rs"), "").unwrap();
        assert_eq!(Sdk::unpack(&build_folder).unwrap(), (sdk.clone(), true));
        assert!(!sdk.guest.join("src/stray.rs").exists());
        assert_eq!(fs::read_dir(&build_folder).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_named_sdk_is_that_crate_or_a_repository_with_it() {
        let repository = Path::new("..");
        assert_eq!(Sdk::at(repository).unwrap(), Sdk::at(&repository.join("guest-sdk")).unwrap());
        let refused = Sdk::at(&repository.join("names")).unwrap_err();
        assert_eq!(refused, "has no crate wasmill-guest: name the folder guest-sdk of a wasmill repository");
    }

    #[test]
    fn a_place_that_can_not_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".wasmill"), "a file").unwrap();
        let said = Sdk::unpack(&folder.path().join(".wasmill")).unwrap_err().to_string();
        assert!(said.starts_with("can't unpack the SDK to ") && said.contains(".wasmill"), "{said}");
    }
}
