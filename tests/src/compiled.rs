//! Compiled code of plugins, which the hosts of all tests share. To compile the plugins takes longer than most tests.
//!
//! The first host that needs a plugin compiles it, as any host does. Its file goes into a folder of the build, and from
//! there into the data folders of later hosts, which load it as after a restart.

use crate::built;
use std::fs;
use std::path::{Path, PathBuf};

/// Puts what is compiled already into a data folder, before its host starts.
pub(crate) fn provide(data: &Path) {
    let folder = data.join("compiled");
    if !folder.exists() && fs::create_dir(&folder).is_ok() {
        share(&shared(), &folder);
    }
}

/// Keeps what the host of a data folder has compiled, for the hosts of other tests.
pub(crate) fn keep(data: &Path) {
    let shared = shared();
    if fs::create_dir_all(&shared).is_ok() {
        share(&data.join("compiled"), &shared);
    }
}

fn shared() -> PathBuf {
    built::workspace().join("target/compiled-for-tests")
}

/// Makes the finished files of a folder appear in another one. A file that can't be shared is compiled again.
fn share(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (file, wanted) = (entry.path(), to.join(entry.file_name()));
        if file.extension().is_none_or(|extension| extension != "cwasm") || wanted.exists() {
            continue;
        }
        // A copy across file systems gets its name when it is whole.
        if fs::hard_link(&file, &wanted).is_err() {
            let unfinished = wanted.with_extension(format!("{}.copy", std::process::id()));
            let _ = fs::copy(&file, &unfinished).and_then(|_| fs::rename(&unfinished, &wanted));
        }
    }
}
