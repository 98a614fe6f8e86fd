//! The folder of a projection's read models: the names of files, and which files may be deleted.
//!
//! A read model's file is named by its own number and by the beginning of its code's digest, so that no name is ever
//! used twice, even if the same code is loaded again. The code is kept in the same folder, because an old read model
//! answers with the code that built it. Only files with such names are ever deleted. A file that can't be used is set
//! aside, not deleted, and the newest few of these are kept.

use crate::paths;
use crate::plugin::Plugin;
use crate::supervise::Held as _;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The number of the digest's characters in a file's name.
const DIGEST_CHARACTERS: usize = 16;

/// The number of read models that are kept after they were set aside.
const ASIDE_MAX: usize = 2;

/// The prefix of the name of a file that was set aside.
const ASIDE: &str = "unusable-";

/// The suffixes of a database file and of the files that SQLite keeps with it.
const ENDINGS: [&str; 3] = ["", "-wal", "-shm"];

/// The folder of a projection's read models.
pub(super) struct Shelf {
    folder: PathBuf,
    /// The greatest number that was ever used.
    newest: AtomicU64,
    /// The numbers of files that are open.
    open: Mutex<BTreeSet<u64>>,
    /// The numbers of files that nothing opens any more.
    gone: Mutex<BTreeSet<u64>>,
}

/// The name of a read model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Title {
    pub(super) number: u64,
    code: String,
}

/// The files of an open read model. When this is dropped after its last use, it deletes the files if they are retired.
pub(super) struct Files {
    shelf: Arc<Shelf>,
    pub(super) title: Title,
    is_retired: AtomicBool,
}

impl Title {
    /// Whether, by its name, code of this digest built it.
    pub(super) fn is_of(&self, digest: &str) -> bool {
        digest.starts_with(&self.code)
    }

    fn parse(name: &str) -> Option<Self> {
        let (number, code) = name.strip_suffix(".sqlite")?.split_once('-')?;
        let is_number = (1..=12).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        let is_code = code.len() == DIGEST_CHARACTERS && code.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_number && is_code).then(|| Self { number: number.parse().unwrap_or_default(), code: code.to_owned() })
    }

    fn file_name(&self) -> String {
        format!("{:06}-{}.sqlite", self.number, self.code)
    }
}

impl Shelf {
    pub(super) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, newest: AtomicU64::new(0), open: Mutex::default(), gone: Mutex::default() })
    }

    /// Lists the read models that may be opened, the newest first. Creates the folder if it is missing.
    pub(super) fn titles(&self) -> std::io::Result<Vec<Title>> {
        paths::make_folder(&self.folder)?;
        let mut titles = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let aside = name.strip_prefix(ASIDE);
            if let Some(title) = Title::parse(aside.unwrap_or(&name)) {
                self.newest.fetch_max(title.number, Ordering::Relaxed);
                titles.extend(aside.is_none().then_some(title));
            }
        }
        let gone = self.gone.held();
        titles.retain(|title| !gone.contains(&title.number));
        titles.sort_by(|one, other| other.cmp(one));
        Ok(titles)
    }

    /// Returns a title that was never used.
    pub(super) fn next_title(&self, digest: &str) -> Title {
        let number = self.newest.fetch_add(1, Ordering::Relaxed) + 1;
        Title { number, code: digest[..DIGEST_CHARACTERS].to_owned() }
    }

    /// Returns the files of a title, which count as open from now on.
    pub(super) fn files(self: &Arc<Self>, title: Title) -> Files {
        self.open.held().insert(title.number);
        Files { shelf: self.clone(), title, is_retired: false.into() }
    }

    /// Lists the read models that are not open.
    pub(super) fn leftovers(&self) -> Vec<Title> {
        let mut titles = self.titles().unwrap_or_default();
        let open = self.open.held();
        titles.retain(|title| !open.contains(&title.number));
        titles
    }

    /// Returns the path of a title's file.
    pub(super) fn file(&self, title: &Title) -> PathBuf {
        self.folder.join(title.file_name())
    }

    /// Copies the code of a plugin into the folder, where it stays as long as its read model.
    pub(super) fn keep_code(&self, plugin: &Plugin) -> Result<(), String> {
        let file = self.folder.join(format!("{}.wasm", &plugin.digest[..DIGEST_CHARACTERS]));
        if file.is_file() { Ok(()) } else { plugin.copy_code(&file) }
    }

    /// Returns the path of a title's code, if the file exists.
    pub(super) fn code(&self, title: &Title) -> Option<PathBuf> {
        Some(self.folder.join(format!("{}.wasm", title.code))).filter(|file| file.is_file())
    }

    /// Deletes the read model of a title, which must not be in use.
    pub(super) fn delete(&self, title: &Title) {
        delete(&self.file(title));
        self.delete_stray_code();
    }

    /// Renames the read model of a title, so that it is not opened any more, and deletes the oldest ones that were set
    /// aside. Connections that have it open can still use it.
    fn set_aside(&self, title: &Title) {
        self.gone.held().insert(title.number);
        let file = self.file(title);
        let aside = self.folder.join(format!("{ASIDE}{}", title.file_name()));
        match fs::rename(&file, &aside) {
            Ok(()) => tracing::warn!(
                "a read model that can't be used is set aside as {}; you may delete it; the newest {ASIDE_MAX} stay",
                aside.display()
            ),
            Err(error) => tracing::warn!("{} can't be set aside: {error}", file.display()),
        }
        for ending in &ENDINGS[1..] {
            let _ = fs::rename(with_ending(&file, ending), with_ending(&aside, ending));
        }
        let mut asides = self.asides();
        asides.sort_by(|one, other| other.cmp(one));
        for old in asides.iter().skip(ASIDE_MAX) {
            delete(&self.folder.join(format!("{ASIDE}{}", old.file_name())));
        }
    }

    fn asides(&self) -> Vec<Title> {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter_map(|name| Title::parse(name.strip_prefix(ASIDE)?)).collect()
    }

    /// Deletes code whose read models are gone.
    fn delete_stray_code(&self) {
        let Ok(titles) = self.titles() else { return };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(code) = name.strip_suffix(".wasm") else { continue };
            let is_code = code.len() == DIGEST_CHARACTERS && code.bytes().all(|byte| byte.is_ascii_hexdigit());
            if is_code && !titles.iter().any(|title| title.code == code) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Files {
    pub(super) fn path(&self) -> PathBuf {
        self.shelf.file(&self.title)
    }

    /// Has the files deleted once they are no longer used.
    pub(super) fn retire(&self) {
        self.shelf.gone.held().insert(self.title.number);
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Sets the files aside at once.
    pub(super) fn set_aside(&self) {
        self.shelf.set_aside(&self.title);
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.shelf.open.held().remove(&self.title.number);
        if self.is_retired.load(Ordering::Relaxed) {
            self.shelf.delete(&self.title);
        }
    }
}

fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn delete(file: &Path) {
    for ending in ENDINGS {
        let file = with_ending(file, ending);
        let gone = if file.is_dir() { fs::remove_dir_all(&file) } else { fs::remove_file(&file) };
        if let Err(error) = gone
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("the old read model {} can't be deleted: {error}", file.display());
        }
    }
}
