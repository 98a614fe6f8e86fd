//! Invariant 1: which modules may name which library. What is not named can't be reached.

use std::fs;
use std::path::Path;

/// A library, and where in `src` it may be named: a folder, or a file.
const EDGES: [(&str, &[&str]); 3] =
    [("rdkafka", &["kafka"]), ("rusqlite", &["store/sqlite", "projection"]), ("wasmtime", &["plugin"])];

#[test]
fn a_library_is_named_in_its_modules_alone() {
    let src = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("src");
    let mut strays = Vec::new();
    for_each_file(&src, &mut |file| {
        let place = file.strip_prefix(&src).expect("it was found there").with_extension("");
        let code = fs::read_to_string(file).expect("read a source file");
        let names = |library: &str| {
            let uses = [format!("{library}::"), format!("use {library};")];
            code.lines().any(|line| !line.trim_start().starts_with("//") && uses.iter().any(|used| line.contains(used)))
        };
        for (library, modules) in EDGES {
            if names(library) && !modules.iter().any(|module| place.starts_with(module)) {
                strays.push(format!("{} names {library}, which belongs to {}", place.display(), modules.join(", ")));
            }
        }
    });
    assert!(strays.is_empty(), "{strays:#?}");
}

fn for_each_file(folder: &Path, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("list a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            for_each_file(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&path);
        }
    }
}
