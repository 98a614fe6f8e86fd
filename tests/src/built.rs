//! The paths of the programs and plugins that `cargo xtask build` makes.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Returns the path of a program of the workspace, such as `wasmill`.
pub fn program(name: &str) -> PathBuf {
    let host =
        std::env::var_os("WASMILL_BIN").map_or_else(|| workspace().join("target/release/wasmill"), PathBuf::from);
    there(host.with_file_name(name))
}

/// Returns the file of a plugin.
pub fn plugin(name: &str) -> PathBuf {
    there(plugins().join(name).with_extension("wasm"))
}

/// Returns the folder of the plugins.
pub fn plugins() -> PathBuf {
    std::env::var_os("WASMILL_PLUGINS").map_or_else(|| workspace().join("target/plugins"), PathBuf::from)
}

/// Returns the example's folder.
pub fn grocery() -> PathBuf {
    workspace().join("examples/grocery")
}

/// Returns the folder of the bank example.
pub fn bank() -> PathBuf {
    workspace().join("examples/bank")
}

/// Returns the folder of the workspace.
pub fn workspace() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(xtask::root);
    &ROOT
}

/// Whether a test is left out because something is missing. CI must have everything; elsewhere a line says what is left out.
pub fn left_out(missing: Option<String>) -> bool {
    if let Some(reason) = &missing {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
        eprintln!("left out: {reason}");
    }
    missing.is_some()
}

fn there(file: PathBuf) -> PathBuf {
    assert!(file.is_file(), "{} is not there: run `cargo xtask build`", file.display());
    file
}
