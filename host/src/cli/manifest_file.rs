//! Changing the file of a manifest for a person: `wasmill plugins load` and `wasmill plugins unload`. Comments and the order of
//! sections stay.

use super::client::{Client, Target};
use super::failure::CommandFailure;
use super::reload;
use crate::manifest::Manifest;
use crate::paths;
use crate::status::{ManifestChange, Status};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Table, value};

/// The manifest of a running host, with the text that it had before.
struct ManifestFile {
    path: PathBuf,
    /// The folder from which the host resolves relative paths. It is not that of `path`, if the host's path is a link.
    folder: PathBuf,
    text: String,
    document: DocumentMut,
    /// The folder of the file, locked so that commands like this one take turns.
    _turn: fs::File,
}

pub(super) fn load(file: &Path, name: Option<&str>, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let client = Client::new(target)?;
    let (mut manifest, _) = ManifestFile::of_host(&client)?;
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let name = name.or(stem).ok_or_else(|| CommandFailure::usage(format!("{} names no file", file.display())))?;
    let file = file.canonicalize().map_err(|cause| CommandFailure::failed(format!("{}: {cause}", file.display())))?;
    let path = manifest.relative(&file);
    let path = path.to_str().ok_or_else(|| CommandFailure::failed(format!("{} is not UTF-8", file.display())))?;
    let plugins = manifest.document.entry("plugins").or_insert_with(group);
    let Some(plugins) = plugins.as_table_like_mut() else { return Err(manifest.no_table("plugins")) };
    if plugins.contains_key(name) {
        return Err(CommandFailure::failed(format!(
            "{} already has a plugin {name}: choose another name with --name, or put the new file in the place of the old one",
            manifest.path.display()
        )));
    }
    let mut section = Table::new();
    section.insert("file", value(path));
    plugins.insert(name, Item::Table(section));
    manifest.apply(&client, json)
}

pub(super) fn unload(name: &str, target: &Target, json: bool) -> Result<(), CommandFailure> {
    let client = Client::new(target)?;
    let (mut manifest, status) = ManifestFile::of_host(&client)?;
    let Some(plugin) = status.plugins.iter().find(|plugin| plugin.name == name) else {
        let known: Vec<&str> = status.plugins.iter().map(|plugin| plugin.name.as_str()).collect();
        return Err(CommandFailure::failed(format!("no plugin is named {name}; this host has {}", known.join(", "))));
    };
    manifest.remove("plugins", name);
    manifest.remove("subscriptions", name);
    for projection in plugin.roles.iter().filter_map(|role| role.strip_prefix("projection ")) {
        manifest.remove("projections", projection);
    }
    manifest.apply(&client, json)
}

/// Makes a table whose keys are sections.
fn group() -> Item {
    let mut group = Table::new();
    group.set_implicit(true);
    Item::Table(group)
}

impl ManifestFile {
    /// Reads the manifest of a host, which must be applied as it is.
    fn of_host(client: &Client) -> Result<(Self, Status), CommandFailure> {
        let status: Status = client.get("/v1/status")?.successful()?.decoded()?;
        // A link to the manifest stays a link.
        let path = Path::new(&status.manifest.path);
        let failed = |cause: &dyn std::fmt::Display| CommandFailure::failed(format!("{}: {cause}", path.display()));
        let folder = path.parent().unwrap_or(path).canonicalize().map_err(|cause| failed(&cause))?;
        let path = path.canonicalize().map_err(|cause| failed(&cause))?;
        let turn = fs::File::open(path.parent().unwrap_or(&folder)).and_then(|folder| folder.lock().map(|()| folder));
        let turn = turn.map_err(|cause| failed(&cause))?;
        paths::require_file(&path).map_err(|cause| failed(&cause))?;
        let text = fs::read_to_string(&path).map_err(|cause| failed(&cause))?;
        Manifest::parse(&text, &path)?;
        // The status may be a moment old.
        let applies = client.post("/v1/manifest/reload?dry_run=true", &[], b"")?;
        let differs = applies.status != 200 || !applies.decoded::<ManifestChange>()?.keys.is_empty();
        if differs {
            return Err(CommandFailure::failed(format!(
                "{} differs from the manifest that the host applies: run `wasmill reload` first, or undo the change",
                path.display()
            )));
        }
        let document = text.parse().map_err(|cause| failed(&cause))?;
        Ok((Self { path, folder, text, document, _turn: turn }, status))
    }

    /// Returns a path as the manifest names it: relative to its folder, if the file is in it.
    fn relative(&self, file: &Path) -> PathBuf {
        file.strip_prefix(&self.folder).unwrap_or(file).to_owned()
    }

    fn no_table(&self, key: &str) -> CommandFailure {
        CommandFailure::failed(format!("{}: `{key}` is no table: write it as sections", self.path.display()))
    }

    /// Removes a section, and its group if that is empty then.
    fn remove(&mut self, group: &str, name: &str) {
        let Some(sections) = self.document.get_mut(group).and_then(Item::as_table_like_mut) else { return };
        sections.remove(name);
        if sections.is_empty() {
            self.document.remove(group);
        }
    }

    /// Writes the manifest and has the host apply it. If the host refuses it, the text before is restored.
    fn apply(&self, client: &Client, json: bool) -> Result<(), CommandFailure> {
        let text = self.document.to_string();
        // What the host would refuse is not written.
        Manifest::parse(&text, &self.path)?;
        self.write(&text)?;
        reload::apply(client, false, json).map_err(|refused| {
            // Somebody may have changed it meanwhile.
            if fs::read_to_string(&self.path).is_ok_and(|now| now != text) {
                return refused;
            }
            self.write(&self.text).err().unwrap_or(refused)
        })
    }

    /// Writes the file completely or not at all.
    fn write(&self, text: &str) -> Result<(), CommandFailure> {
        let unfinished = self.path.with_extension(format!("{}.tmp", std::process::id()));
        let write = || {
            let mut file = fs::File::create(&unfinished)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::set_permissions(&unfinished, fs::metadata(&self.path)?.permissions())?;
            fs::rename(&unfinished, &self.path)
        };
        write().map_err(|cause| {
            let _ = fs::remove_file(&unfinished);
            CommandFailure::failed(format!("{} can't be written: {cause}", self.path.display()))
        })
    }
}
