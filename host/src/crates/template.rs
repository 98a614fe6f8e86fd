//! The crate of a new plugin: its files, with a test and a file of cases, and its entry in a manifest.

use super::Sdk;
use crate::names::{Rule, checked};
use crate::paths;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use toml::{Table, Value};

/// The role that a new plugin has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Turns commands into events.
    Aggregate,
    /// Reacts to events with commands, messages and timers.
    Subscriber,
    /// Runs a process over several aggregates.
    Saga,
    /// Folds events into a read model and answers queries.
    Projection,
}

impl Kind {
    /// Returns the code and the cases.
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Aggregate => (include_str!("template/aggregate.rs.txt"), include_str!("template/aggregate.toml.txt")),
            Self::Subscriber => {
                (include_str!("template/subscriber.rs.txt"), include_str!("template/subscriber.toml.txt"))
            }
            Self::Saga => (include_str!("template/saga.rs.txt"), include_str!("template/saga.toml.txt")),
            Self::Projection => {
                (include_str!("template/projection.rs.txt"), include_str!("template/projection.toml.txt"))
            }
        }
    }
}

/// Words that can't be the name of a plugin's crate: those of Rust, and crates that the plugin has beside its own.
const TAKEN: [&str; 46] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "serde",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
];

/// More such words.
const TAKEN_TOO: [&str; 12] =
    ["true", "try", "type", "typeof", "union", "unsafe", "unsized", "use", "virtual", "where", "while", "yield"];

/// Names of types in the templates, and of types that every Rust file knows. The plugin's own type has another name.
const TYPES: [&str; 24] = [
    "Aggregate",
    "All",
    "Answer",
    "Box",
    "Command",
    "Counter",
    "Default",
    "Delivery",
    "Duration",
    "Event",
    "Failure",
    "Ok",
    "Option",
    "Outbox",
    "Outcome",
    "Progress",
    "Projection",
    "Query",
    "Result",
    "Saga",
    "Seen",
    "Sql",
    "String",
    "Vec",
];

/// A crate that is to be made.
#[derive(Debug)]
pub struct NewCrate<'n> {
    /// The role of the plugin.
    pub kind: Kind,
    /// The name of the plugin and of its crate.
    pub name: &'n str,
    /// The folder of the crate, which must not be there.
    pub folder: &'n Path,
}

impl NewCrate<'_> {
    /// Checks that the crate can be made, and that cargo will take it where it is. `sdk` is the folder that the SDK is unpacked
    /// to, if it is. The error says what to do.
    pub fn check(&self, sdk: Option<&Path>) -> Result<(), String> {
        let Self { name, folder, .. } = self;
        checked(name, Rule::Part).map_err(|cause| format!("the name of a plugin {cause}"))?;
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(format!("the name of a crate begins with a letter, and {name} does not: choose another name"));
        }
        if TAKEN.contains(name) || TAKEN_TOO.contains(name) || name.starts_with("wasmill") {
            return Err(format!(
                "no plugin's crate can be named {name}, which is a word of Rust or another crate: choose another name"
            ));
        }
        if fs::symlink_metadata(folder).is_ok() {
            return Err(format!(
                "{} is there already: choose another name, or another folder with --path",
                folder.display()
            ));
        }
        if let (Surrounding::Member { root }, Some(sdk)) = (surrounding(folder), sdk)
            && absolute(sdk).starts_with(&root)
            && !is_excluded(&root, &absolute(sdk))
        {
            return Err(format!(
                "{0} is a workspace that takes in the new crate, and cargo would take in the SDK too: add \
                 `exclude = [\".wasmill\"]` to [workspace] there, or name an SDK elsewhere with --sdk",
                root.join("Cargo.toml").display()
            ));
        }
        Ok(())
    }

    /// Makes the crate: all of its files, or nothing.
    pub fn make(&self, sdk: &Sdk) -> io::Result<()> {
        let Self { kind, name, folder } = self;
        let said = |error: io::Error| io::Error::new(error.kind(), format!("can't make {}: {error}", folder.display()));
        let (code, cases) = kind.texts();
        let typed = type_name(name);
        let filled = |text: &str| text.replace("{{name}}", name).replace("{{Type}}", &typed);
        let sdk_path = relative(&absolute(folder), &absolute(&sdk.guest)).display().to_string();
        let mut manifest = include_str!("template/Cargo.toml.txt").replace("{{name}}", name);
        manifest = manifest.replace("\"{{sdk}}\"", &Value::from(sdk_path.as_str()).to_string());
        if *kind == Kind::Projection {
            let sdk_path = Value::from(sdk_path);
            manifest += &format!(
                "\n# The test kit of projections has SQLite in it, which needs a C compiler.\n[dev-dependencies]\n\
                 wasmill-guest = {{ path = {sdk_path}, features = [\"testing-sql\"] }}\n"
            );
        }
        let surrounding = surrounding(folder);
        if matches!(surrounding, Surrounding::Stranger) {
            manifest += "\n# The workspace of a folder above does not have this crate.\n[workspace]\n";
        }
        let mut files = vec![
            ("Cargo.toml".to_owned(), manifest),
            ("src/lib.rs".to_owned(), filled(code)),
            (format!("cases/{name}.toml"), filled(cases)),
        ];
        if !matches!(surrounding, Surrounding::Member { .. }) {
            // Cargo removes what the crate does not need.
            files.push(("Cargo.lock".to_owned(), Sdk::lock_file().to_owned()));
            files.push((".gitignore".to_owned(), "/target\n".to_owned()));
        }
        fs::create_dir_all(paths::folder_of(folder)).map_err(said)?;
        fs::create_dir(folder).map_err(said)?;
        let written = files.into_iter().try_for_each(|(path, text)| {
            let file = folder.join(path);
            fs::create_dir_all(file.parent().unwrap_or(folder))?;
            fs::write(file, text)
        });
        written.map_err(|error| {
            // It was made here a moment ago, so nobody else has anything in it.
            let _ = fs::remove_dir_all(folder);
            said(error)
        })
    }
}

/// Returns the entry of a plugin in a manifest, whose crate is in this folder.
pub fn manifest_entry(name: &str, source: &Path) -> String {
    format!("[plugins.{name}]\nsource = {}\n", Value::from(source.display().to_string()))
}

/// The workspace around a crate.
enum Surrounding {
    /// There is none.
    None,
    /// One whose members match the crate.
    Member { root: PathBuf },
    /// One that does not have the crate.
    Stranger,
}

/// Finds the workspace around a folder that is not there yet.
fn surrounding(folder: &Path) -> Surrounding {
    let folder = absolute(folder);
    let found = folder.ancestors().skip(1).find_map(|root| Some((root, workspace_of(root)?)));
    match found {
        None => Surrounding::None,
        Some((root, workspace)) => {
            let path = folder.strip_prefix(root).unwrap_or(&folder);
            let is_member = texts(&workspace, "members").any(|pattern| matches_pattern(pattern, path));
            match is_member && !texts(&workspace, "exclude").any(|excluded| path.starts_with(excluded)) {
                true => Surrounding::Member { root: root.to_owned() },
                false => Surrounding::Stranger,
            }
        }
    }
}

/// Whether a workspace excludes a folder.
fn is_excluded(root: &Path, folder: &Path) -> bool {
    let Some(workspace) = workspace_of(root) else { return true };
    let path = folder.strip_prefix(root).unwrap_or(folder);
    texts(&workspace, "exclude").any(|excluded| path.starts_with(excluded))
}

/// Returns the section `[workspace]` of the crate in a folder.
fn workspace_of(folder: &Path) -> Option<Table> {
    let manifest: Table = fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()?;
    manifest.get("workspace")?.as_table().cloned()
}

fn texts<'t>(table: &'t Table, key: &str) -> impl Iterator<Item = &'t str> {
    table.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Whether a path matches a pattern of members, in which `*` stands for one name.
fn matches_pattern(pattern: &str, path: &Path) -> bool {
    let (pattern, mut names) = (Path::new(pattern), path.iter());
    pattern.iter().all(|part| names.next().is_some_and(|name| part == "*" || part == name)) && names.next().is_none()
}

/// Returns the absolute path of what may not be there yet, with the links of what is there resolved.
fn absolute(path: &Path) -> PathBuf {
    let path = paths::absolute(path);
    let mut left = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(found) = ancestor.canonicalize() {
            return left.iter().rev().fold(found, |path, name| path.join(name));
        }
        left.extend(ancestor.file_name().map(ToOwned::to_owned));
    }
    path
}

/// Returns the path that leads from a folder to another one. Both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let (mut from, mut to) = (from.components().peekable(), to.components().peekable());
    while from.peek().is_some() && from.peek() == to.peek() {
        (_, _) = (from.next(), to.next());
    }
    from.map(|_| Component::ParentDir).chain(to).collect()
}

/// Returns the name of the plugin's type: `daily-sales` is `DailySales`.
fn type_name(name: &str) -> String {
    let capitalised = |part: &str| {
        let mut characters = part.chars();
        characters.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + characters.as_str())
    };
    let typed: String = name.split('-').map(capitalised).collect();
    if TYPES.contains(&&*typed) { typed + "Plugin" } else { typed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str, folder: &Path) -> String {
        NewCrate { kind: Kind::Aggregate, name, folder }.check(None).unwrap_err()
    }

    #[test]
    fn what_can_not_be_a_crate_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("new");
        for name in ["Counter", "../x", "", "a_b"] {
            assert!(
                refused(name, &place).starts_with("the name of a plugin must be 1 to 64 characters of a-z"),
                "{name}"
            );
        }
        assert!(refused("2nd", &place).contains("begins with a letter"));
        assert!(refused("-a", &place).contains("begins with a letter"));
        for name in ["type", "std", "serde", "wasmill-guest"] {
            assert!(refused(name, &place).contains("choose another name"), "{name}");
        }
        let said = refused("counter", folder.path());
        assert!(said.ends_with("is there already: choose another name, or another folder with --path"), "{said}");
        assert_eq!(NewCrate { kind: Kind::Saga, name: "counter", folder: &place }.check(None), Ok(()));
    }

    #[test]
    fn a_crate_is_made_whole_and_finds_its_sdk() {
        let folder = tempfile::tempdir().unwrap();
        let (sdk, _) = Sdk::unpack(&folder.path().join("app/.wasmill")).unwrap();
        for (kind, name) in [(Kind::Aggregate, "counter"), (Kind::Projection, "daily-totals"), (Kind::Saga, "event")] {
            let place = folder.path().join("crates").join(name);
            NewCrate { kind, name, folder: &place }.make(&sdk).unwrap();
            let manifest: Table = fs::read_to_string(place.join("Cargo.toml")).unwrap().parse().unwrap();
            let path = manifest["dependencies"]["wasmill-guest"]["path"].as_str().unwrap();
            assert!(path.starts_with("../../app/.wasmill/sdk-"), "{path}");
            assert!(place.join(path).join("Cargo.toml").is_file());
            assert_eq!(manifest.contains_key("dev-dependencies"), kind == Kind::Projection);
            for file in ["src/lib.rs".to_owned(), format!("cases/{name}.toml")] {
                let text = fs::read_to_string(place.join(file)).unwrap();
                assert!(text.contains(name) && !text.contains("{{"), "{text}");
            }
        }
        assert!(NewCrate { kind: Kind::Saga, name: "x", folder: folder.path() }.make(&sdk).is_err());
        assert!(folder.path().join("app").is_dir(), "what was there stays");
    }

    #[test]
    fn a_crate_in_a_workspace_is_its_member_or_its_own_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let workspace = |exclude: &str| {
            fs::write(root.join("Cargo.toml"), format!("[workspace]\nmembers = [\"plugins/*\"]\n{exclude}")).unwrap();
        };
        workspace("");
        let (build_folder, member) = (root.join(".wasmill"), root.join("plugins/a"));
        let said =
            NewCrate { kind: Kind::Aggregate, name: "a", folder: &member }.check(Some(&build_folder)).unwrap_err();
        assert!(said.contains("add `exclude = [\".wasmill\"]`"), "{said}");
        workspace("exclude = [\".wasmill\"]");
        NewCrate { kind: Kind::Aggregate, name: "a", folder: &member }.check(Some(&build_folder)).unwrap();
        let (sdk, _) = Sdk::unpack(&build_folder).unwrap();
        for (place, own_root) in [(member, false), (root.join("a"), true)] {
            NewCrate { kind: Kind::Aggregate, name: "a", folder: &place }.make(&sdk).unwrap();
            let manifest: Table = fs::read_to_string(place.join("Cargo.toml")).unwrap().parse().unwrap();
            assert_eq!((manifest.contains_key("workspace"), place.join("Cargo.lock").is_file()), (own_root, own_root));
        }
    }

    #[test]
    fn a_type_is_named_like_its_plugin() {
        assert_eq!(type_name("daily-sales-2"), "DailySales2");
        assert_eq!(type_name("event"), "EventPlugin");
    }
}
