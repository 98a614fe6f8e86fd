//! The cache of compiled code on disk, which returns a file's content only if it is exactly what was written.
//!
//! A file is named by the digest of the plugin and the engine's compatibility hash. Its header has the SHA-256 of its
//! name and content. Compiled code is machine code: if a single byte of a file is wrong, the plugin is compiled again,
//! and the file is never handed to the engine. A file is written under another name, synced and renamed, so that a loss
//! of power leaves the old file, the new one, or none. At a start, files that no plugin has used for a long time are
//! deleted, and so are unfinished files of a host that was killed. This module does not know what the content means.

use crate::clock::machine_time;
use crate::paths;
use crate::supervise::Held as _;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

/// The first bytes of a file: its type and the version of this format.
const MAGIC: &[u8; 16] = b"wasmill-code-v2\n";

/// The size of the header before the content, in bytes.
const HEADER_BYTES: usize = MAGIC.len() + 32;

/// The extensions of finished and of unfinished files.
const ENDING: &str = "cwasm";
const UNFINISHED: &str = "tmp";

/// How long a file is kept that no plugin uses.
const UNUSED_FOR_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The total size of the files, in bytes. Beyond it, the least recently used files are deleted.
const BYTES_MAX: u64 = 1 << 30;

/// A folder with compiled code. It must belong to the operator.
pub(super) struct Cache {
    folder: PathBuf,
    /// Files that this host has used, which are never deleted.
    used: Mutex<HashSet<PathBuf>>,
}

impl Cache {
    /// Opens the cache in a folder, which is created if it does not exist.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        paths::make_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), used: Mutex::default() })
    }

    /// Returns the content that was kept under a name. If it is not what was written, returns `None` and logs a
    /// warning.
    pub(super) fn get(&self, name: &str, label: &str) -> Option<Vec<u8>> {
        let file = self.file(name);
        let found = match paths::require_file(&file).and_then(|()| fs::read(&file)) {
            Ok(bytes) => opened(name, bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(format!("it can't be read: {error}")),
        };
        match found {
            Ok(content) => {
                self.is_used(&file);
                Some(content)
            }
            Err(cause) => {
                tracing::warn!("plugin {label} is compiled again: its compiled code {} {cause}", file.display());
                None
            }
        }
    }

    /// Keeps content under a name.
    pub(super) fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let file = self.file(name);
        let unfinished = file.with_extension(format!("{}.{UNFINISHED}", std::process::id()));
        let written = write(&unfinished, name, content).and_then(|()| fs::rename(&unfinished, &file));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.is_used(&file);
        // The rename is durable once the folder is.
        File::open(&self.folder)?.sync_all()
    }

    /// Removes files that no plugin has used for a long time, files beyond the total size, and unfinished files. Only
    /// the host that owns the folder may call this, after its plugins are loaded.
    pub(super) fn clean(&self, now: SystemTime) {
        self.clean_to(now, BYTES_MAX);
    }

    fn clean_to(&self, now: SystemTime, bytes_max: u64) {
        let used = self.used.held();
        let mut files = Vec::new();
        let mut bytes = 0;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let (path, Ok(about)) = (entry.path(), entry.metadata()) else { continue };
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending {
                _ if !about.is_file() => {}
                Some(UNFINISHED) => remove(&path, "was never finished"),
                Some(ENDING) => {
                    bytes += about.len();
                    if !used.contains(&path) {
                        files.push((about.modified().unwrap_or(now), about.len(), path));
                    }
                }
                // The file does not belong to the cache.
                _ => {}
            }
        }
        files.sort();
        for (modified, length, path) in files {
            let is_old = now.duration_since(modified).is_ok_and(|unused| unused > UNUSED_FOR_MAX);
            if is_old || bytes > bytes_max {
                remove(&path, "is used by no plugin");
                bytes -= length;
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension(ENDING)
    }

    /// Marks a file as used: its modification time says when it was last used.
    fn is_used(&self, file: &Path) {
        let now = machine_time();
        // Code in a folder that can't be written to may still be run.
        let _ = File::options().append(true).open(file).and_then(|file| file.set_modified(now));
        self.used.held().insert(file.to_owned());
    }
}

/// Returns the digest of the content and its name. The name is part of it so that intact code of another plugin is
/// refused.
fn digest(name: &str, content: &[u8]) -> [u8; 32] {
    let named = Sha256::new_with_prefix((name.len() as u64).to_le_bytes()).chain_update(name);
    named.chain_update(content).finalize().into()
}

/// Returns the content of a file if it is what was written. The error says what is wrong with the file.
fn opened(name: &str, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let Some((header, content)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(format!("has {} bytes, which is less than its header", bytes.len()));
    };
    let (magic, found) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("was written by another version of wasmill, or is something else".to_owned());
    }
    if found != digest(name, content) {
        return Err("is damaged, or of another plugin: it does not have the digest in its header".to_owned());
    }
    bytes.drain(..HEADER_BYTES);
    Ok(bytes)
}

fn write(file: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(file)?;
    file.write_all(MAGIC)?;
    file.write_all(&digest(name, content))?;
    file.write_all(content)?;
    file.sync_all()
}

fn remove(file: &Path, why: &str) {
    match fs::remove_file(file) {
        Ok(()) => tracing::info!("removed compiled code that {why}: {}", file.display()),
        Err(error) => tracing::warn!("compiled code that {why} can't be removed, {}: {error}", file.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("compiled")).unwrap();
        (folder, cache)
    }

    fn files(cache: &Cache) -> Vec<String> {
        let entries = fs::read_dir(&cache.folder).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Files that a disk or a person has damaged are not handed out, and writing repairs each of them.
    #[test]
    fn a_damaged_file_is_not_handed_out() {
        let (_folder, cache) = cache();
        cache.put("code", b"machine code").unwrap();
        assert_eq!(cache.get("code", "p").as_deref(), Some(b"machine code".as_slice()));
        let file = cache.file("code");
        let whole = fs::read(&file).unwrap();
        let mut other_version = whole.clone();
        other_version[14] = b'1';
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut longer = whole.clone();
        longer.push(0);
        for damaged in [&b""[..], &whole[..10], &whole[..HEADER_BYTES], &whole[..whole.len() - 1], &flipped, &longer]
            .into_iter()
            .chain([other_version.as_slice(), b"\x7fELF of another program, as long as any header is, and longer"])
        {
            fs::write(&file, damaged).unwrap();
            assert_eq!(cache.get("code", "p"), None, "{damaged:?}");
            cache.put("code", b"machine code").unwrap();
            assert!(cache.get("code", "p").is_some());
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(cache.get("code", "p"), None, "a folder");
        assert!(cache.put("code", b"machine code").is_err(), "a folder in its place is said");
        assert_eq!(files(&cache), ["code.cwasm"], "nothing unfinished stays");
        assert_eq!(cache.get("none", "p"), None);
    }

    #[test]
    fn whole_code_of_another_plugin_is_not_handed_out() {
        let (_folder, cache) = cache();
        cache.put("one", b"machine code").unwrap();
        cache.put("other", b"machine code of another").unwrap();
        fs::copy(cache.file("other"), cache.file("one")).unwrap();
        assert_eq!(cache.get("one", "p"), None);
        assert!(cache.get("other", "p").is_some());
    }

    proptest! {
        /// This holds for any changed byte and any truncation.
        #[test]
        fn no_other_bytes_pass_for_what_was_written(
            content in prop::collection::vec(any::<u8>(), 0..200),
            place in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let mut written = [MAGIC.as_slice(), &digest("name", &content), &content].concat();
            prop_assert_eq!(opened("name", written.clone()), Ok(content));
            let cut = place.index(written.len());
            prop_assert!(opened("name", written[..cut].to_vec()).is_err());
            written[cut] ^= 1 << bit;
            prop_assert!(opened("name", written).is_err());
        }

        #[test]
        fn any_bytes_are_looked_at_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(opened("name", bytes).is_err());
        }
    }

    #[test]
    fn what_nobody_uses_goes_and_what_is_used_stays() {
        let (_folder, cache) = cache();
        let now = SystemTime::now();
        let days = |days: u64| Duration::from_secs(days * 24 * 60 * 60);
        for (name, unused) in [("old.cwasm", 31), ("recent.cwasm", 29), ("killed.77.tmp", 0), ("note.txt", 99)] {
            let file = File::create(cache.folder.join(name)).unwrap();
            file.set_modified(now - days(unused)).unwrap();
        }
        cache.put("used", b"machine code").unwrap();
        cache.clean(now + days(400));
        assert_eq!(files(&cache), ["note.txt", "used.cwasm"]);
    }

    #[test]
    fn the_folder_is_bounded_and_the_longest_unused_go_first() {
        let (_folder, cache) = cache();
        let now = SystemTime::now();
        for (name, unused) in [("a", 3), ("b", 2), ("c", 1)] {
            let file = File::create(cache.file(name)).unwrap();
            file.set_len(1_000).unwrap();
            file.set_modified(now - Duration::from_secs(unused)).unwrap();
        }
        cache.clean_to(now, 2_500);
        assert_eq!(files(&cache), ["b.cwasm", "c.cwasm"]);
    }
}
