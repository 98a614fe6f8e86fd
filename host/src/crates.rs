//! The crates of plugins: made from a template, built with cargo, and watched for changes.
//!
//! It calls `cargo` and `rustc` as a person would, and installs nothing. It knows folders and files, but not what a plugin
//! does or who runs it.

mod cargo;
mod sdk;
mod template;
mod watch;

pub use cargo::{Build, BuildError, Built, Profile, Tested, Tests, check_toolchain};
pub use sdk::Sdk;
pub use template::{Kind, NewCrate, manifest_entry};
pub use watch::{Changed, Watch};

use std::fs;
use std::io;
use std::path::Path;

/// Puts a built module in the place that a host reads, in one step. Returns whether the content there has changed.
pub fn publish(module: &Path, file: &Path) -> io::Result<bool> {
    let said = |error: io::Error| io::Error::new(error.kind(), format!("can't write {}: {error}", file.display()));
    let content = fs::read(module)
        .map_err(|error| io::Error::new(error.kind(), format!("can't read {}: {error}", module.display())))?;
    if fs::read(file).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(said)?;
    let mut copy = file.as_os_str().to_owned();
    copy.push(format!(".{}", std::process::id()));
    fs::write(&copy, content).and_then(|()| fs::rename(&copy, file)).map_err(said)?;
    Ok(true)
}

/// Makes the folder that has what is built, with a file that keeps it out of version control.
pub fn make_build_folder(folder: &Path) -> io::Result<()> {
    let said = |error: io::Error| io::Error::new(error.kind(), format!("can't make {}: {error}", folder.display()));
    fs::create_dir_all(folder).map_err(said)?;
    let ignore = folder.join(".gitignore");
    if ignore.exists() { Ok(()) } else { fs::write(ignore, "*\n").map_err(said) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_put_in_place_whole_and_only_if_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let (module, file) = (folder.path().join("counter.wasm"), folder.path().join("plugins/counter.wasm"));
        fs::write(&module, "one").unwrap();
        assert!(publish(&module, &file).unwrap());
        assert!(!publish(&module, &file).unwrap());
        fs::write(&module, "two").unwrap();
        assert!(publish(&module, &file).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
        fs::remove_file(&module).unwrap();
        assert!(publish(&module, &file).unwrap_err().to_string().starts_with("can't read "));
    }
}
