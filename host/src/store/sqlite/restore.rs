//! Restoring: a copy takes the place of a store, which is kept aside.
//!
//! The copy is made beside the store and verified there, so what is verified is what will be opened. The store's file, its
//! log and the log's index are several files, which no file system moves in one step. So the restore writes a marker, which
//! names the folder for the old files. Until the marker is on the disk, the store is as it was. After that, the restore takes
//! place even if its process ends: the next process that locks the store finishes the moves. The marker is removed last.

use super::backup::{REPLACED, Target, pages};
use super::fault::{self, FaultPoint};
use super::verify::verify;
use super::{Error, files, schema};
use crate::exhaustion;
use crate::paths;
use crate::store::{CopyName, Report};
use rusqlite::OpenFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The number of restores of one second that find a folder for the old files.
const SAME_NAMES: u32 = 100;

/// The content of the marker.
#[derive(Serialize, Deserialize)]
struct Marker {
    /// The name of the folder for the old files, beside the store.
    aside: String,
}

/// A copy beside a store that is ready to take its place. If it is dropped before, nothing is left of it.
pub struct Restore {
    place: PathBuf,
    /// The result of its verification. A copy with problems must not take the place.
    pub report: Report,
    /// What keeps hosts away from the place.
    _lock: schema::Lock,
}

/// The result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The folder with the files of the store that was there, if there was one.
    pub aside: Option<PathBuf>,
}

impl Restore {
    /// Copies a backup beside the place of a store, and verifies the copy. Fails if a host has the store open.
    pub fn prepare(backup: &Path, place: &Path) -> Result<Self, Error> {
        let _source = lock_backup(backup, place)?;
        let lock = schema::lock(place)?;
        let from = schema::open_for_inspection(backup)?;
        let copy = copy_of(place);
        files::remove(&copy)?;
        let doing = format!("copying {} to {}", backup.display(), copy.display());
        let io_failed = |error: io::Error| Error::Failed(format!("{doing}: {}", exhaustion::told(&error)));
        // The copy gets the permissions of the store that it replaces.
        let model = if place.exists() { place } else { backup };
        let mode = fs::metadata(model).map_err(io_failed)?.permissions().mode() & 0o777;
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&copy).map_err(io_failed)?;
        let mut restore = Self { place: place.to_owned(), report: Report::default(), _lock: lock };
        let into = Target { path: &copy, file: &file, flags: OpenFlags::empty() };
        pages(&from, &into, &doing, &|| false)?;
        file.sync_all().map_err(io_failed)?;
        drop(file);
        restore.report = verify(&copy)?;
        Ok(restore)
    }

    /// Returns the file of the copy, until it is in its place.
    pub fn file(&self) -> PathBuf {
        copy_of(&self.place)
    }

    /// Puts the copy in its place, and what was there into a new folder beside it, whose name has the time.
    pub fn finish(self, now: &str) -> Result<Restored, Error> {
        let io_failed = |error: io::Error| Error::Failed(format!("restoring {}: {error}", self.place.display()));
        if !files::files_of(&self.place).iter().any(|file| is_there(file)) {
            fs::rename(copy_of(&self.place), &self.place).map_err(io_failed)?;
            paths::sync_folder_of(&self.place).map_err(io_failed)?;
            return Ok(Restored { aside: None });
        }
        let aside = self.make_aside(now).map_err(io_failed)?;
        let marker = Marker { aside: aside.clone() };
        let text = serde_json::to_vec(&marker).map_err(|error| io_failed(error.into()))?;
        paths::sync_folder_of(&self.place).map_err(io_failed)?;
        fault::at(FaultPoint::RestorePrepared);
        paths::replace(&marker_of(&self.place), &text).map_err(io_failed)?;
        paths::sync_folder_of(&self.place).map_err(io_failed)?;
        fault::at(FaultPoint::RestoreDecided);
        complete(&self.place)?;
        Ok(Restored { aside: Some(self.place.with_file_name(aside)) })
    }

    /// Makes the folder for the old files, and returns its name.
    fn make_aside(&self, now: &str) -> io::Result<String> {
        let name = |count: u32| match count {
            1 => format!("{REPLACED}{now}"),
            count => format!("{REPLACED}{now}-{count}"),
        };
        for name in (1..SAME_NAMES).map(name) {
            match fs::create_dir(self.place.with_file_name(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| name),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("every name for the old files is taken: remove some of replaced-{now}"),
        ))
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // If the restore is decided, the copy is not this value's any more.
        if !is_interrupted(&self.place) {
            let _ = files::remove(&copy_of(&self.place));
        }
    }
}

/// Returns whether a restore was decided and has not ended.
pub(super) fn is_interrupted(place: &Path) -> bool {
    marker_of(place).is_file()
}

/// Ends a restore that was decided. The caller holds the lock of the place.
pub(super) fn complete(place: &Path) -> Result<(), Error> {
    let marker = marker_of(place);
    if !is_interrupted(place) {
        return Ok(());
    }
    let failed = |error: io::Error| {
        Error::Failed(format!(
            "a restore of {} is under way and can't be completed: {error}; make the folder writable, and try again",
            place.display()
        ))
    };
    let text = fs::read(&marker).map_err(failed)?;
    let Marker { aside } = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    CopyName::parse(&aside)
        .map_err(|cause| failed(io::Error::other(format!("{}: `aside` {cause}", marker.display()))))?;
    let (copy, aside) = (copy_of(place), place.with_file_name(aside));
    // Once the copy is in its place, the file there is the new one.
    if is_there(&copy) {
        // Somebody may have removed the folder since. Without it, nothing could open the store any more.
        match fs::create_dir(&aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        for file in files::files_of(place) {
            if is_there(&file) {
                fs::rename(&file, aside.join(file.file_name().unwrap_or_default())).map_err(failed)?;
                fault::at(FaultPoint::StoreMovedAside);
            }
        }
        File::open(&aside).and_then(|aside| aside.sync_all()).map_err(failed)?;
        paths::sync_folder_of(place).map_err(failed)?;
        fs::rename(&copy, place).map_err(failed)?;
        fault::at(FaultPoint::CopyInPlace);
        paths::sync_folder_of(place).map_err(failed)?;
    }
    fs::remove_file(&marker).map_err(failed)?;
    fault::at(FaultPoint::RestoreEnded);
    paths::sync_folder_of(place).map_err(failed)
}

/// Keeps hosts away from a backup that is the store of another data folder. Fails if it is the store that is replaced, or is at
/// the place of the copy, where it would be removed.
fn lock_backup(backup: &Path, place: &Path) -> Result<Option<schema::Lock>, Error> {
    let place_of = |file: &Path| fs::metadata(file).ok().map(|found| (found.dev(), found.ino()));
    if place_of(backup).is_some() && place_of(backup) == place_of(place) {
        return Err(Error::Invalid(format!("{} is the store itself: name a copy of it", backup.display())));
    }
    if place_of(backup).is_some() && place_of(backup) == place_of(&copy_of(place)) {
        return Err(Error::Invalid(format!(
            "{} is at the place where a restore makes its copy: give it another name, such as copy.sqlite, and restore that",
            backup.display()
        )));
    }
    schema::lock_existing(backup)
}

fn marker_of(place: &Path) -> PathBuf {
    place.with_extension("restore")
}

/// Returns the place of the copy. The lock of a store with this name is another one.
fn copy_of(place: &Path) -> PathBuf {
    let stem = place.file_stem().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!("{stem}-restoring.sqlite"))
}

fn is_there(file: &Path) -> bool {
    fs::symlink_metadata(file).is_ok()
}
