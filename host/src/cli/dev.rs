//! `wasmill dev`: runs a host, and builds, swaps and tests its plugins whenever their sources change.
//!
//! A change is built with a quick profile and served at once. The native tests run after that, and a further change ends them.
//! If a build fails, the code that served before continues to serve.

use super::build::{self, PluginCrate};
use super::failure::CommandFailure;
use super::{output, render, run};
use crate::crates::{self, BuildError, Changed, Profile, Tested, Tests, Watch};
use crate::escape::escape;
use crate::file_watch::FileIdentity;
use crate::host::Host;
use crate::manifest::Manifest;
use crate::status::Reloaded;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The interval at which running tests are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The interval at which the manifest is looked at.
const LOOK_AT_MANIFEST: Duration = Duration::from_millis(500);

/// The longest wait for a projection that builds its read model with new code.
const REBUILD_MAX: Duration = Duration::from_secs(2);

/// The most files that a line about a change names.
const FILES_SHOWN: usize = 3;

// Its group would have the same name as that of the arguments of `run`.
#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    run: run::Args,
    /// Do not run the native tests of the plugins.
    #[arg(long)]
    no_tests: bool,
}

pub(super) fn dev(args: Args, json: bool) -> Result<(), CommandFailure> {
    let manifest = args.run.manifest(true)?;
    let mut author = Author::new(manifest.clone(), !args.no_tests, json)?;
    author.first_builds()?;
    run::host(manifest, json, move |host| {
        let runtime = Handle::current();
        // It ends with the process: a host that stops waits for no build.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(failure) = author.follow(&host, &runtime) {
                tracing::error!("changes are not followed any more: {}", failure.text());
            }
        }));
    })
}

/// Watches the sources of crates. The second value says why the system does not report changes, if it does not.
fn watch(crates: &[PluginCrate]) -> (Watch, Option<String>) {
    Watch::new(crates.iter().map(|one| one.build.folder.clone()))
}

/// What happens to the crates of the plugins.
struct Author {
    manifest: Manifest,
    /// What the file of the manifest was when it was read last.
    read: Option<FileIdentity>,
    crates: Vec<PluginCrate>,
    watch: Watch,
    /// The crates whose tests are to be run, by index.
    untested: VecDeque<usize>,
    tests: bool,
    json: bool,
}

impl Author {
    fn new(manifest: Manifest, tests: bool, json: bool) -> Result<Self, CommandFailure> {
        let (read, crates) = (FileIdentity::of(&manifest.path).ok(), build::of(&manifest)?);
        for one in &crates {
            crates::check_toolchain(&one.build.folder)
                .map_err(|error| CommandFailure::failed(format!("{}: {error}", one.plugin)))?;
        }
        let (watch, unreported) = watch(&crates);
        let author = Self { manifest, read, crates, watch, untested: VecDeque::new(), tests, json };
        if let Some(cause) = unreported {
            author.say(
                "",
                "watching",
                &format!("the system does not report changes ({cause}), so files are looked at every second"),
                json!({}),
            )?;
        }
        Ok(author)
    }

    /// Builds everything for the first time. What does not build is built again once it has changed.
    fn first_builds(&mut self) -> Result<(), CommandFailure> {
        let mut left: BTreeSet<usize> = (0..self.crates.len()).collect();
        loop {
            let mut failed = BTreeSet::new();
            for index in left {
                if !self.build(index)? {
                    failed.insert(index);
                }
            }
            left = failed;
            if left.is_empty() {
                self.untested.extend(0..self.crates.len());
                return Ok(());
            }
            self.say("", "waiting", "waiting for a change: the host starts once everything is built", json!({}))?;
            left.extend(self.wait(Duration::MAX)?);
        }
    }

    /// Follows changes until the process ends.
    fn follow(&mut self, host: &Arc<Host>, runtime: &Handle) -> Result<(), CommandFailure> {
        let mut running: Option<(usize, Tests)> = None;
        loop {
            if running.is_none() {
                running = self.start_tests()?;
            }
            let changed = self.wait(if running.is_some() { LOOK_EVERY } else { LOOK_AT_MANIFEST })?;
            if self.has_other_manifest() {
                // The tests belong to a crate by its index.
                running = None;
                self.apply_manifest(host, runtime)?;
                continue;
            }
            if !changed.is_empty() {
                // Tests of code that has changed, or that take the processor from the build, are started again.
                if let Some((index, _)) = running.take() {
                    self.untested.push_front(index);
                }
                self.serve(&changed, host, runtime)?;
                continue;
            }
            if let Some((index, tests)) = &mut running {
                let ended = tests.ended().map_err(|error| CommandFailure::failed(error.to_string()))?;
                if let Some(tested) = ended {
                    self.say_tested(*index, &tested)?;
                    running = None;
                }
            }
        }
    }

    /// Whether the file of the manifest has changed.
    fn has_other_manifest(&mut self) -> bool {
        let found = FileIdentity::of(&self.manifest.path).ok();
        let has_changed = found != self.read;
        self.read = found;
        has_changed
    }

    /// Has the host apply a manifest that has changed, once the crates are built that are new in it.
    fn apply_manifest(&mut self, host: &Arc<Host>, runtime: &Handle) -> Result<(), CommandFailure> {
        let changed = match self.manifest.read_again() {
            Ok(changed) => changed,
            Err(error) => return self.say_unapplied(&error.to_string()),
        };
        self.manifest = changed;
        let crates = build::of(&self.manifest).unwrap_or_default();
        let is_same = |one: &PluginCrate, other: &PluginCrate| {
            one.plugin == other.plugin && one.build.folder == other.build.folder && one.file == other.file
        };
        let is_new = |index: &usize| !self.crates.iter().any(|known| is_same(known, &crates[*index]));
        let new: Vec<usize> = (0..crates.len()).filter(is_new).collect();
        if !new.is_empty() || crates.len() != self.crates.len() {
            self.watch = watch(&crates).0;
            self.crates = crates;
            self.untested.clear();
        }
        for index in new {
            if self.build(index)? {
                self.untested.push_back(index);
            }
        }
        match runtime.block_on(host.reload_manifest(false)) {
            Ok(change) if change.keys.is_empty() => Ok(()),
            Ok(change) => {
                let keys: Vec<String> = change.keys.iter().map(|key| format!("{} {}", key.key, key.change)).collect();
                let text = format!("the changed manifest is applied: {}", keys.join(", "));
                self.say("", "applied", &text, json!({ "keys": change.keys }))
            }
            Err(cause) => self.say_unapplied(&cause),
        }
    }

    fn say_unapplied(&self, cause: &str) -> Result<(), CommandFailure> {
        self.say("", "refused", &format!("the changed manifest is not applied: {cause}"), json!({ "error": cause }))
    }

    /// Waits for changes, says which there are, and returns the crates that have changed.
    fn wait(&mut self, timeout: Duration) -> Result<Vec<usize>, CommandFailure> {
        let changed = self.watch.wait(timeout);
        for Changed { index, files } in &changed {
            let one = &self.crates[*index];
            let named = |file: &Path| file.strip_prefix(&one.build.folder).unwrap_or(file).display().to_string();
            let shown: Vec<String> = files.iter().take(FILES_SHOWN).map(|file| named(file)).collect();
            let more = files.len().saturating_sub(FILES_SHOWN);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            self.say(
                &one.plugin,
                "changed",
                &format!("changed {}{more}", shown.join(", ")),
                json!({ "files": files }),
            )?;
        }
        Ok(changed.into_iter().map(|changed| changed.index).collect())
    }

    /// Builds crates and puts what was built into service, all of it together.
    fn serve(&mut self, changed: &[usize], host: &Arc<Host>, runtime: &Handle) -> Result<(), CommandFailure> {
        let since = Instant::now();
        let mut names = BTreeSet::new();
        for index in changed {
            // What does not build has no tests that could run.
            self.untested.retain(|other| other != index);
            if self.build(*index)? {
                names.insert(self.crates[*index].plugin.clone());
                self.untested.push_back(*index);
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        // A plugin of a manifest that is not applied is built, and waits for that.
        names.retain(|name| host.unknown_plugin(name).is_none());
        let reloaded = match runtime.block_on(host.reload(names.clone(), false, REBUILD_MAX)) {
            Ok(reloaded) => reloaded,
            Err(cause) => {
                for name in &names {
                    self.say(
                        name,
                        "refused",
                        &format!("refused, and the code from before keeps serving: {cause}"),
                        json!({ "error": cause }),
                    )?;
                }
                return Ok(());
            }
        };
        for Reloaded { plugin, version, digest, building } in reloaded {
            let elapsed_ms = since.elapsed().as_millis() as u64;
            let mut text =
                format!("serving {version} ({}), {elapsed_ms} ms after the change", render::short_digest(&digest));
            if let Some(building) = building {
                text += &format!(
                    "; projection {} is building its read model, at position {} of {}, and the code from before answers",
                    building.projection, building.position, building.of
                );
            }
            self.say(
                &plugin,
                "serving",
                &text,
                json!({ "version": version, "digest": digest, "elapsed_ms": elapsed_ms }),
            )?;
        }
        Ok(())
    }

    /// Builds a crate, puts it in place and says so. Returns whether it is built.
    fn build(&mut self, index: usize) -> Result<bool, CommandFailure> {
        let one = &self.crates[index];
        self.say(&one.plugin, "building", "building", json!({}))?;
        let since = Instant::now();
        let built = one.build.build(Profile::Quick, false).and_then(|built| {
            let published = crates::publish(&built.module, &one.file);
            published.map_err(|error| BuildError::Missing(error.to_string())).map(|is_new| (built, is_new))
        });
        let elapsed_ms = since.elapsed().as_millis() as u64;
        match built {
            Ok((built, is_new)) => {
                let mut text = format!("built in {elapsed_ms} ms");
                if built.warnings > 0 {
                    let plural = if built.warnings == 1 { "" } else { "s" };
                    text += &format!(", with {} warning{plural}", built.warnings);
                }
                if !is_new {
                    text += "; the code is the same as before";
                }
                let more = json!({ "elapsed_ms": elapsed_ms, "warnings": built.warnings, "is_new": is_new });
                self.say(&one.plugin, "built", &text, more)?;
                self.watch.learn(index, &built.module);
                Ok(true)
            }
            Err(BuildError::Interrupted) => Err(CommandFailure::interrupted()),
            Err(error) => {
                self.say_long(
                    &one.plugin,
                    "not built",
                    &format!(
                        "not built, after {elapsed_ms} ms, so the code from before keeps serving; see what cargo says:"
                    ),
                    &error.to_string(),
                )?;
                Ok(false)
            }
        }
    }

    /// Starts the tests of the next crate whose tests are to be run.
    fn start_tests(&mut self) -> Result<Option<(usize, Tests)>, CommandFailure> {
        if !self.tests {
            self.untested.clear();
        }
        let Some(index) = self.untested.pop_front() else { return Ok(None) };
        let one = &self.crates[index];
        match one.build.test() {
            Ok(tests) => Ok(Some((index, tests))),
            Err(error) => {
                self.say(
                    &one.plugin,
                    "tests",
                    &format!("the tests can't be started: {error}"),
                    json!({ "error": error.to_string() }),
                )?;
                Ok(None)
            }
        }
    }

    fn say_tested(&self, index: usize, tested: &Tested) -> Result<(), CommandFailure> {
        let (plugin, elapsed_ms) = (&self.crates[index].plugin, tested.elapsed.as_millis() as u64);
        let text = format!("{tested} in {elapsed_ms} ms");
        match &tested.said {
            Some(said) => self.say_long(plugin, "tests", &text, said),
            None => self.say(plugin, "tests", &text, json!({ "passed": tested.passed, "elapsed_ms": elapsed_ms })),
        }
    }

    /// Prints a step with what a program of Rust said about it.
    fn say_long(&self, plugin: &str, step: &str, text: &str, said: &str) -> Result<(), CommandFailure> {
        self.say(plugin, step, text, json!({ "error": said }))?;
        if self.json || said.is_empty() { Ok(()) } else { output::line(said) }
    }

    /// Prints a step: a line for people, or a JSON object with more about it.
    fn say(&self, plugin: &str, step: &str, text: &str, mut more: Value) -> Result<(), CommandFailure> {
        if !self.json {
            let plugin = if plugin.is_empty() { String::new() } else { format!("{plugin}: ") };
            return output::line(&escape(&format!("{plugin}{text}")));
        }
        if let Value::Object(more) = &mut more {
            more.insert("plugin".to_owned(), plugin.into());
            more.insert("step".to_owned(), step.into());
        }
        output::line(&more.to_string())
    }
}
