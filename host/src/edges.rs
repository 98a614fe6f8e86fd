//! Invariant 1: which modules may name which libraries and which modules of this crate. Code that is not named can't be
//! reached.

use std::fs;
use std::path::{Path, PathBuf};

/// Each library, with the folders and files in `src` where it may be named.
const EDGES: [(&str, &[&str]); 8] = [
    ("croner", &["due_times"]),
    ("jiff", &["due_times"]),
    ("rdkafka", &["kafka"]),
    ("reqwest", &["http"]),
    ("rusqlite", &["store/sqlite", "projection"]),
    ("rustls", &["http/network", "access", "api/connections", "certificates", "cli/client", "store/postgres/tls"]),
    ("tokio_postgres", &["store/postgres"]),
    ("wasmtime", &["plugin"]),
];

#[test]
fn a_library_is_named_in_its_modules_alone() {
    let src = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("src");
    let mut strays = Vec::new();
    for_each_file(&src, &mut |file| {
        let place = file.strip_prefix(&src).expect("it was found there").with_extension("");
        let code = fs::read_to_string(file).expect("read a source file");
        for (library, modules) in EDGES {
            if knows(&code, library) && !modules.iter().any(|module| place.starts_with(module)) {
                strays.push(format!("{} names {library}, which belongs to {}", place.display(), modules.join(", ")));
            }
        }
    });
    assert!(strays.is_empty(), "{strays:#?}");
}

/// The last column of the code map in `ARCHITECTURE.md` says what a module must not know. Names in code style there are
/// modules or libraries.
#[test]
fn no_module_knows_what_the_code_map_forbids() {
    let host = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).to_owned();
    let text = fs::read_to_string(host.with_file_name("ARCHITECTURE.md")).expect("read ARCHITECTURE.md");
    let map = text.split("## Code map").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the code map");
    let rules: Vec<(PathBuf, Vec<&str>)> = map.lines().filter_map(rule).flatten().collect();
    assert!(rules.len() > 20, "the table has a row for each module: {rules:?}");
    let src = host.join("src");
    let mut strays = Vec::new();
    for_each_file(&src, &mut |file| {
        let place = file.strip_prefix(&src).expect("it was found there").with_extension("");
        if is_of_tests(&place) {
            return;
        }
        let code = fs::read_to_string(file).expect("read a source file");
        let code = code.split("mod tests {").next().unwrap_or_default();
        for (_, forbidden) in rules.iter().filter(|(module, _)| place.starts_with(module)) {
            let known = forbidden.iter().filter(|name| knows(code, name));
            strays.extend(known.map(|name| format!("{} names {name}", place.display())));
        }
    });
    assert!(strays.is_empty(), "{strays:#?}");
}

/// Returns the modules of a row of the code map, each with the names that it must not know.
fn rule(row: &str) -> Option<Vec<(PathBuf, Vec<&str>)>> {
    let columns: Vec<&str> = row.trim_matches('|').split('|').collect();
    let [places, _, forbidden] = columns[..] else { return None };
    let mut folder = PathBuf::new();
    let modules = quoted(places).into_iter().map(|place| {
        let path = match place.strip_prefix("host/src/") {
            Some(path) => {
                folder = Path::new(path).parent().unwrap_or(Path::new("")).to_owned();
                PathBuf::from(path)
            }
            None => folder.join(place),
        };
        (path.with_extension(""), quoted(forbidden))
    });
    places.contains("`host/src/").then(|| modules.collect())
}

/// Returns the words in code style of a cell.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Returns whether code names a library, or a module of this crate.
fn knows(code: &str, name: &str) -> bool {
    let uses = match EDGES.iter().any(|(library, _)| *library == name) {
        true => [format!("{name}::"), format!("use {name};")],
        false => [format!("crate::{name}::"), format!("use crate::{name};")],
    };
    code.lines().any(|line| !line.trim_start().starts_with("//") && uses.iter().any(|used| line.contains(used)))
}

/// Returns whether a file is this one, has tests, or is used only by tests.
fn is_of_tests(place: &Path) -> bool {
    place.components().any(|part| ["edges", "tests", "testing"].iter().any(|name| part.as_os_str() == *name))
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
