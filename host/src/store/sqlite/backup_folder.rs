//! The folder of backups: a copy of the store under a name that a client of the API chose.
//!
//! Whatever a client says, and whatever another process does to the folder meanwhile, the host writes nowhere else. The
//! folder is opened once, and not through a symbolic link. Its files are created, named and deleted through this
//! descriptor. SQLite alone opens a file by its path. So the file exists before, under a name that was never used, and
//! SQLite follows no link and creates nothing, no log either. At the end the copy must be in the file of the descriptor. A file
//! gets its name when it is complete and on the disk, and only if nothing has the name.
//!
//! The folder is not the data folder and is not in a folder of the host there, so no name in it means anything to the host.

use super::Error;
use super::backup::{Target, exists, is_folder_of_the_host, pages};
use crate::clock;
use crate::paths;
use crate::store::{Backup, CopyName};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The number of copies that may have made names of the same second and position.
const SAME_NAMES: u32 = 100;

/// Copies the store that a connection sees into a new file of a folder. If `is_over` returns true meanwhile, nothing is left.
pub(super) fn copy(
    from: &Connection,
    folder: &Path,
    name: &CopyName,
    is_over: &dyn Fn() -> bool,
) -> Result<Backup, Error> {
    let started = Instant::now();
    let store = Path::new(from.path().unwrap_or_default());
    let folder = Folder::open(folder, paths::folder_of(store))?;
    // Nothing is copied for a name that is taken. That it is free until the end is not known.
    if let CopyName::Chosen(name) = name
        && rustix::fs::statat(&folder.descriptor, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    {
        return Err(exists(&folder.path.join(name)));
    }
    let doing = format!("copying the store into the folder {}", folder.path.display());
    let io_failed = |error: io::Error| Error::Failed(format!("{doing}: {error}"));
    // The copy gets the permissions of the store.
    let mode = fs::metadata(store).map_err(io_failed)?.permissions().mode();
    let unfinished = Unfinished::create(&folder, Mode::from_raw_mode(mode & 0o777)).map_err(io_failed)?;
    let path = folder.path.join(&unfinished.name);
    let into = Target { path: &path, file: &unfinished.file, flags: OpenFlags::SQLITE_OPEN_NOFOLLOW };
    let position = pages(from, &into, &doing, is_over)?;
    let bytes = unfinished.file.metadata().map_err(io_failed)?.len();
    unfinished.file.sync_all().map_err(io_failed)?;
    let name = unfinished.finish(name, position).map_err(|(name, error)| match error {
        Errno::EXIST => exists(&folder.path.join(name)),
        error => io_failed(error.into()),
    })?;
    rustix::fs::fsync(&folder.descriptor).map_err(|error| io_failed(error.into()))?;
    let file = folder.path.join(name).display().to_string();
    Ok(Backup { file, position, bytes, elapsed_ms: started.elapsed().as_millis() as u64 })
}

/// The folder of backups, open.
struct Folder {
    descriptor: rustix::fd::OwnedFd,
    /// Its path without symbolic links.
    path: PathBuf,
}

impl Folder {
    /// Opens the folder for the store of a data folder, and makes it if it is missing.
    fn open(folder: &Path, data: &Path) -> Result<Self, Error> {
        const LINK: &str = "it is a symbolic link; name the folder that it points to in `store.backups` of the manifest, or \
                            remove the link";
        const OWN: &str = "the host keeps its own files there; name another folder in `store.backups` of the manifest, such as \
                           \"backups\" in the data folder";
        let unfit =
            |how: &str| Error::Invalid(format!("can't copy into the folder of backups {}: {how}", folder.display()));
        // No folder is made among the files of the host.
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| unfit(&error.to_string()));
        if is_folder_of_the_host(&absolute(data)?, &absolute(folder)?) {
            return Err(unfit(OWN));
        }
        make(folder)?;
        let found = fs::symlink_metadata(folder).map_err(|error| unfit(&error.to_string()))?;
        if found.is_symlink() {
            return Err(unfit(LINK));
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let descriptor = rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|error| match error {
            Errno::LOOP => unfit(LINK),
            Errno::NOTDIR => unfit("it is no folder; remove what is there, or name another in `store.backups`"),
            error => unfit(&format!("{error}; allow the host to read it and to write in it")),
        })?;
        let [path, data] = [folder, data].map(|path| path.canonicalize().map_err(|error| unfit(&error.to_string())));
        let (path, data) = (path?, data?);
        if is_folder_of_the_host(&data, &path) {
            return Err(unfit(OWN));
        }
        let opened = rustix::fs::fstat(&descriptor).map_err(|error| unfit(&error.to_string()))?;
        let there = fs::symlink_metadata(&path).map_err(|error| unfit(&error.to_string()))?;
        if (there.dev(), there.ino()) != (opened.st_dev, opened.st_ino) {
            return Err(unfit("another process has replaced it meanwhile; copy again"));
        }
        Ok(Self { descriptor, path })
    }
}

/// Creates the folder durably if it is missing. Only its owner may look into it, because a copy has everything that the
/// store has.
fn make(folder: &Path) -> Result<(), Error> {
    if fs::symlink_metadata(folder).is_ok() {
        return Ok(());
    }
    let made = fs::create_dir_all(paths::folder_of(folder)).and_then(|()| {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => paths::sync_folder_of(folder),
        }
    });
    made.map_err(|error| {
        Error::Failed(format!(
            "can't make the folder of backups {}: {error}; make it, or name another in `store.backups` of the manifest",
            folder.display()
        ))
    })
}

/// A copy that is not complete. It is deleted unless it is finished.
struct Unfinished<'f> {
    folder: &'f Folder,
    name: String,
    file: File,
    is_finished: bool,
}

impl<'f> Unfinished<'f> {
    fn create(folder: &'f Folder, mode: Mode) -> io::Result<Self> {
        // `EXCL` refuses a name that is taken.
        let name = format!(".{}.part", uuid::Uuid::now_v7());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDWR;
        let file = File::from(rustix::fs::openat(&folder.descriptor, name.as_str(), flags, mode)?);
        Ok(Self { folder, name, file, is_finished: false })
    }

    /// Gives the copy its name, and returns the name. A name that is taken is an error, whatever has it. A made name gets a
    /// number then.
    fn finish(mut self, name: &CopyName, position: u64) -> Result<String, (String, Errno)> {
        let tries = match name {
            CopyName::Chosen(_) => 1,
            CopyName::Made { .. } => SAME_NAMES,
        };
        let mut count = 1;
        loop {
            let name = match name {
                CopyName::Chosen(name) => name.clone(),
                CopyName::Made { now_ms } => made_name(*now_ms, position, count),
            };
            match self.give(&name) {
                Ok(()) => {
                    self.is_finished = true;
                    return Ok(name);
                }
                Err(Errno::EXIST) if count < tries => count += 1,
                Err(error) => return Err((name, error)),
            }
        }
    }

    fn give(&self, name: &str) -> Result<(), Errno> {
        let folder = &self.folder.descriptor;
        match rustix::fs::renameat_with(folder, self.name.as_str(), folder, name, RenameFlags::NOREPLACE) {
            // Some file systems can't rename in this way, and link instead. A link is refused too if the name is taken.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                rustix::fs::linkat(folder, self.name.as_str(), folder, name, AtFlags::empty())?;
                // The copy has its name. If its first name stays, that is one name too many and no failure of the copy.
                let _ = rustix::fs::unlinkat(folder, self.name.as_str(), AtFlags::empty());
                Ok(())
            }
            renamed => renamed,
        }
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = rustix::fs::unlinkat(&self.folder.descriptor, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// Makes a name of a time and a position, by which copies sort: `2026-11-29T15-22-46Z-0000000017.sqlite`.
fn made_name(now_ms: u64, position: u64, count: u32) -> String {
    let time = clock::without_colons(now_ms);
    let more = if count == 1 { String::new() } else { format!("-{count}") };
    format!("{time}-{position:010}{more}.sqlite")
}

#[cfg(test)]
mod tests {
    use super::super::{FILE_NAME, Options, SqliteStore, verify};
    use super::*;
    use crate::store::Maintenance as _;
    use std::os::unix::fs::symlink;

    struct Place {
        root: tempfile::TempDir,
        store: SqliteStore,
    }

    impl Place {
        fn new() -> Self {
            let root = tempfile::tempdir().expect("a folder");
            let store = SqliteStore::open(&root.path().join(FILE_NAME), Options::default()).expect("a store");
            Self { root, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn copy(&self, folder: &str, name: &str) -> Result<Backup, String> {
            let name = CopyName::parse(name).expect("a name");
            self.store.backup_in(&self.path(folder), &name, &|| false).map_err(|error| error.to_string())
        }

        fn names(&self, folder: &str) -> Vec<String> {
            let entries = fs::read_dir(self.path(folder)).expect("list the folder");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("an entry").file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_copy_is_in_the_folder_which_is_made() {
        let place = Place::new();
        let made = place.copy("deep/backups", "one.sqlite").expect("a copy");
        assert_eq!(Path::new(&made.file), place.path("deep/backups/one.sqlite").canonicalize().unwrap());
        assert!(verify(Path::new(&made.file)).expect("it is a store").is_sound());
        assert_eq!(fs::metadata(place.path("deep/backups")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(place.names("deep/backups"), ["one.sqlite"], "nothing else is left behind");
    }

    #[test]
    fn a_copy_is_one_file_from_the_beginning_to_the_end() {
        use rustix::fs::inotify;
        use std::mem::MaybeUninit;
        use std::os::unix::fs::FileExt as _;
        let place = Place::new();
        fs::create_dir(place.path("backups")).unwrap();
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).expect("watch files");
        inotify::add_watch(&watch, place.path("backups"), inotify::WatchFlags::CREATE).expect("watch the folder");
        let made = place.copy("backups", "one.sqlite").expect("a copy");
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut changes = inotify::Reader::new(&watch, &mut buffer);
        let mut created = Vec::new();
        while let Ok(change) = changes.next() {
            created.extend(change.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
        assert!(created.len() == 1 && created[0].ends_with(".part"), "SQLite creates nothing: {created:?}");
        let mut versions = [0; 2];
        File::open(&made.file).and_then(|file| file.read_exact_at(&mut versions, 18)).expect("read the header");
        assert_eq!(versions, [1, 1], "it says that it has no log");
        let other = tempfile::tempdir().expect("a folder");
        let file = other.path().join(FILE_NAME);
        fs::copy(&made.file, &file).expect("copy it");
        let opened = SqliteStore::open(&file, Options::default()).expect("a host opens it");
        drop(opened);
        assert!(verify(&file).expect("it is a store").is_sound());
    }

    #[test]
    fn nothing_is_left_of_a_copy_that_ends_early() {
        let place = Place::new();
        // A copy of a few pages is complete in one step.
        let connection = Connection::open(place.path(FILE_NAME)).expect("open the store");
        connection.execute_batch("CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(4000000))").unwrap();
        let name = CopyName::parse("one.sqlite").expect("a name");
        let ended = place.store.backup_in(&place.path("backups"), &name, &|| true);
        assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
        assert!(place.names("backups").is_empty(), "{:?}", place.names("backups"));
        place.copy("backups", "one.sqlite").expect("the next one is made");
    }

    #[test]
    fn a_made_name_has_the_time_and_the_position_and_is_never_taken() {
        let place = Place::new();
        for name in ["2026-11-29T15-22-46Z-0000000000.sqlite", "2026-11-29T15-22-46Z-0000000000-2.sqlite"] {
            let made = CopyName::Made { now_ms: 1_795_965_766_123 };
            let made = place.store.backup_in(&place.path("backups"), &made, &|| false).expect("a copy");
            assert_eq!(Path::new(&made.file).file_name().unwrap(), name);
        }
    }

    #[test]
    fn whatever_has_the_name_is_left_as_it_is() {
        let place = Place::new();
        fs::create_dir(place.path("backups")).unwrap();
        fs::write(place.path("precious"), "precious").unwrap();
        type Take<'t> = (&'t str, &'t dyn Fn(&Path));
        let takes: [Take<'_>; 6] = [
            ("a file", &|path| fs::write(path, "kept").unwrap()),
            ("a folder", &|path| fs::create_dir(path).unwrap()),
            ("a link", &|path| symlink(place.path("precious"), path).unwrap()),
            ("a link to nothing", &|path| symlink(place.path("absent"), path).unwrap()),
            ("a hard link", &|path| fs::hard_link(place.path("precious"), path).unwrap()),
            ("a pipe", &|path| rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap()),
        ];
        for (what, take) in takes {
            take(&place.path("backups").join(what));
            let refused = place.copy("backups", what).expect_err(what);
            assert!(refused.contains("exists: choose another name"), "{refused}");
        }
        assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "precious");
        assert_eq!(fs::read_to_string(place.path("backups/a file")).unwrap(), "kept");
        assert!(!place.path("absent").exists());
        assert_eq!(place.names("backups").len(), 6, "nothing else is left behind");
    }

    #[test]
    fn a_folder_that_is_a_link_or_no_folder_is_refused() {
        let place = Place::new();
        fs::create_dir(place.path("elsewhere")).unwrap();
        symlink(place.path("elsewhere"), place.path("link")).unwrap();
        symlink(place.path("absent"), place.path("dangling")).unwrap();
        fs::write(place.path("file"), "").unwrap();
        for (folder, why) in [("link", "symbolic link"), ("dangling", "symbolic link"), ("file", "no folder")] {
            let refused = place.copy(folder, "copy.sqlite").expect_err(folder);
            assert!(refused.contains(why) && refused.contains("store.backups"), "{refused}");
        }
        assert!(place.names("elsewhere").is_empty() && !place.path("absent").exists());
        // A link above the folder is where a person has put the data.
        symlink(place.path("elsewhere"), place.path("above")).unwrap();
        place.copy("above/backups", "copy.sqlite").expect("a copy");
        assert_eq!(place.names("elsewhere/backups"), ["copy.sqlite"]);
    }

    /// Another process swaps the folder for a link again and again, while copies are made.
    #[test]
    fn nothing_is_written_elsewhere_while_somebody_swaps_the_folder() {
        let place = Place::new();
        fs::create_dir(place.path("victim")).unwrap();
        fs::create_dir(place.path("backups")).unwrap();
        symlink(place.path("victim"), place.path("link")).unwrap();
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let copied = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    let (folder, link) = (place.path("backups"), place.path("link"));
                    rustix::fs::renameat_with(CWD, folder.as_path(), CWD, link.as_path(), RenameFlags::EXCHANGE)
                        .expect("swap them");
                }
            });
            let copied = (0..100).filter(|number| place.copy("backups", &format!("{number}.sqlite")).is_ok()).count();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            copied
        });
        assert!(place.names("victim").is_empty(), "{:?}", place.names("victim"));
        let real = if fs::symlink_metadata(place.path("backups")).unwrap().is_symlink() { "link" } else { "backups" };
        assert_eq!(place.names(real).len(), copied, "what is said to be there is there, and nothing else");
    }

    #[test]
    fn a_folder_with_files_of_the_host_is_refused() {
        let place = Place::new();
        fs::create_dir(place.path("compiled")).unwrap();
        let outside = tempfile::tempdir().expect("a folder");
        symlink(place.path(""), outside.path().join("link")).unwrap();
        for folder in [
            place.path(""),
            place.path("."),
            place.path("read-models"),
            place.path("Plugins/copies"),
            place.path("compiled"),
            place.path("replaced-2026-11-29T15-22-46Z"),
            outside.path().join("link/compiled/deep"),
        ] {
            let name = CopyName::parse("events-restoring.sqlite").expect("a name");
            let refused = place.store.backup_in(&folder, &name, &|| false).expect_err("it is the host's").to_string();
            assert!(refused.contains("its own files") && refused.contains("`store.backups`"), "{refused}");
        }
        assert!(!place.path("read-models").exists() && !place.path("Plugins").exists(), "no folder was made");
        // Any other folder has no names that the host uses.
        place.copy("backups", "events-restoring.sqlite").expect("a copy");
        place.copy("plugins-copies", "events.sqlite").expect("a copy");
    }
}
