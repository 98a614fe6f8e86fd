//! Building and testing a plugin's crate with cargo.

use super::Sdk;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The target that plugins are compiled for.
const TARGET: &str = "wasm32-unknown-unknown";

/// The most bytes of what cargo says that are kept: its end, in which the errors are.
const SAID_BYTES_MAX: u64 = 64 << 10;

/// How a plugin is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For the fastest code.
    Fast,
    /// For the shortest time from a change to running code.
    Quick,
}

impl Profile {
    /// Returns the name of the profile for cargo.
    fn name(self) -> &'static str {
        match self {
            Self::Fast => "wasmill",
            Self::Quick => "wasmill-dev",
        }
    }

    /// Returns the settings of the profile. Cargo gets them from here, so no crate needs them. What the crate's workspace says
    /// about `release` or `dev` holds for everything else.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Fast => &[
                "inherits=\"release\"",
                "opt-level=3",
                "lto=\"fat\"",
                "codegen-units=1",
                "panic=\"abort\"",
                "debug=0",
                "strip=\"debuginfo\"",
                "incremental=false",
            ],
            Self::Quick => &[
                "inherits=\"dev\"",
                "opt-level=1",
                "panic=\"abort\"",
                "debug=0",
                "strip=\"debuginfo\"",
                "incremental=true",
                "package.\"*\".opt-level=2",
            ],
        }
    }
}

/// A crate to build, and where to.
#[derive(Clone, Debug)]
pub struct Build {
    /// The folder of the crate.
    pub folder: PathBuf,
    /// The folder that cargo keeps its results in. Crates that share it compile the SDK once.
    pub target: PathBuf,
}

/// What was built.
#[derive(Debug)]
pub struct Built {
    /// The WebAssembly module.
    pub module: PathBuf,
    /// The number of warnings of the compiler.
    pub warnings: usize,
}

/// Why a crate was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something is missing on this machine or in the crate. The text has the remedy.
    #[error("{0}")]
    Missing(String),
    /// The compiler refuses the code. The text is what it said.
    #[error("{0}")]
    Refused(String),
    /// A signal has ended the build.
    #[error("it was interrupted")]
    Interrupted,
}

/// Checks that a plugin can be compiled on this machine, with the toolchain of a crate's folder.
pub fn check_toolchain(folder: &Path) -> Result<(), BuildError> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(folder);
    let output = rustc.output().map_err(|error| unstarted("rustc", folder, &error))?;
    let library = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && library.is_dir() {
        return Ok(());
    }
    Err(BuildError::Missing(format!(
        "the Rust target {TARGET} is missing, which plugins are compiled for: install it with `rustup target add {TARGET}`"
    )))
}

/// Says why a program of Rust was not started.
fn unstarted(program: &str, folder: &Path, error: &io::Error) -> BuildError {
    BuildError::Missing(match error.kind() {
        io::ErrorKind::NotFound if folder.is_dir() => {
            format!("there is no `{program}` on the PATH, which builds plugins: install Rust as https://rustup.rs says")
        }
        io::ErrorKind::NotFound => format!("there is no folder {}: correct `source` in the manifest", folder.display()),
        _ => format!("`{program}` can't be started in {}: {error}", folder.display()),
    })
}

impl Build {
    /// Compiles the crate. With `is_shown`, cargo itself shows its progress and its errors.
    pub fn build(&self, profile: Profile, is_shown: bool) -> Result<Built, BuildError> {
        self.check()?;
        self.unpack_sdk()?;
        let mut command = Command::new("cargo");
        command.args(["rustc", "--lib", "--crate-type", "cdylib", "--target", TARGET, "--profile", profile.name()]);
        for setting in profile.settings() {
            command.args(["--config", &format!("profile.{}.{setting}", profile.name())]);
        }
        command.args(["--message-format", "json-render-diagnostics"]).arg("--manifest-path").arg(self.manifest());
        command.arg("--target-dir").arg(&self.target).stdin(Stdio::null());
        // Flags for the machine itself would not do for WebAssembly.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if is_shown {
            command.stderr(Stdio::inherit());
        } else {
            command.args(["--quiet", "--color", if is_colourful() { "always" } else { "never" }]);
        }
        let output = command.output().map_err(|error| unstarted("cargo", &self.folder, &error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code().is_none() {
            return Err(BuildError::Interrupted);
        }
        if !output.status.success() {
            let said = if is_shown { "cargo says above what is wrong".to_owned() } else { said.trim_end().to_owned() };
            return Err(BuildError::Refused(said));
        }
        let module = module(&String::from_utf8_lossy(&output.stdout)).ok_or_else(|| {
            BuildError::Missing(format!("cargo built no module of {}: is it a library?", self.manifest().display()))
        })?;
        Ok(Built { module, warnings: warnings(&said) })
    }

    /// Starts the crate's native tests.
    pub fn test(&self) -> io::Result<Tests> {
        let said = tempfile::tempfile()?;
        let mut command = Command::new("cargo");
        command.args(["test", "--quiet", "--config", "profile.test.debug=0", "--color", "never"]);
        command.arg("--manifest-path").arg(self.manifest()).arg("--target-dir").arg(&self.target);
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said.try_clone()?);
        Ok(Tests { child: command.spawn()?, said, started: Instant::now() })
    }

    /// Returns the crate's manifest.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("Cargo.toml")
    }

    fn check(&self) -> Result<(), BuildError> {
        if self.manifest().is_file() {
            return Ok(());
        }
        Err(BuildError::Missing(format!(
            "there is no {}: correct `source` in the manifest, or make the crate with `wasmill new`",
            self.manifest().display()
        )))
    }

    /// Unpacks the SDK if the crate depends on the one that this program unpacks, and it is gone, as in a fresh checkout.
    fn unpack_sdk(&self) -> Result<(), BuildError> {
        let text = fs::read_to_string(self.manifest()).unwrap_or_default();
        let manifest: toml::Table = text.parse().unwrap_or_default();
        let path = manifest.get("dependencies").and_then(|all| all.get("wasmill-guest")?.get("path")?.as_str());
        let Some(guest) = path.map(|path| self.folder.join(path)).filter(|guest| !guest.exists()) else {
            return Ok(());
        };
        let build_folder = guest.parent().and_then(Path::parent);
        let Some(build_folder) = build_folder.filter(|folder| folder.ends_with(".wasmill")) else { return Ok(()) };
        if Sdk::folder(build_folder).join("guest-sdk") == guest {
            Sdk::unpack(build_folder).map_err(|error| BuildError::Missing(error.to_string()))?;
        }
        Ok(())
    }
}

fn is_colourful() -> bool {
    use std::io::IsTerminal as _;
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Returns the module that cargo reports. The crate itself comes last, after what it depends on.
fn module(messages: &str) -> Option<PathBuf> {
    messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let files = message.get("filenames")?.as_array()?;
        let mut files = files.iter().filter_map(|file| file.as_str().map(PathBuf::from));
        files.find(|file| file.extension().is_some_and(|ending| ending == "wasm"))
    })
}

/// Counts the warnings in what cargo said. Cargo sums them up in one more.
fn warnings(said: &str) -> usize {
    let is_warning = |line: &&str| {
        let text =
            line.trim_start_matches(|c: char| c == '\u{1b}' || c == '[' || c == ';' || c == 'm' || c.is_ascii_digit());
        text.starts_with("warning") && !text.contains(" generated ")
    };
    said.lines().filter(is_warning).count()
}

/// The native tests of a crate, while they run.
#[derive(Debug)]
pub struct Tests {
    child: Child,
    said: File,
    started: Instant,
}

/// How native tests ended.
#[derive(Debug)]
pub struct Tested {
    /// The number of tests that passed.
    pub passed: u64,
    /// The number of tests that failed.
    pub failed: u64,
    /// What cargo said, if a test failed or did not compile.
    pub said: Option<String>,
    /// The time that they took, with their build.
    pub elapsed: Duration,
}

impl Tests {
    /// Returns how the tests ended, if they have.
    pub fn ended(&mut self) -> io::Result<Option<Tested>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        let length = self.said.seek(io::SeekFrom::End(0))?;
        self.said.seek(io::SeekFrom::Start(length.saturating_sub(SAID_BYTES_MAX)))?;
        let mut bytes = Vec::new();
        self.said.read_to_end(&mut bytes)?;
        let said = String::from_utf8_lossy(&bytes).into_owned();
        let (passed, failed) = results(&said);
        let said = (!status.success()).then(|| said.trim_end().to_owned());
        Ok(Some(Tested { passed, failed, said, elapsed: self.started.elapsed() }))
    }
}

impl Drop for Tests {
    /// Ends the tests. If they have ended, this does nothing.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Adds up the results of all test programs.
fn results(said: &str) -> (u64, u64) {
    let results = said.lines().filter_map(|line| line.strip_prefix("test result: "));
    results.fold((0, 0), |(passed, failed), line| {
        let number = |word: &str| {
            let before = line.split(word).next().unwrap_or_default().trim_end();
            before.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
        };
        (passed + number("passed;"), failed + number("failed;"))
    })
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.said, self.failed) {
            (None, _) => write!(f, "{} tests passed", self.passed),
            (Some(_), 0) => write!(f, "the tests do not compile or can't be run"),
            (Some(_), failed) => write!(f, "{failed} of {} tests FAILED", self.passed + failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_of_the_crate_itself_is_the_last_one() {
        let messages = "{\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/liba.rlib\",\"/t/a.wasm\"]}\nnot json\n\
                        {\"reason\":\"compiler-artifact\",\"filenames\":[\"/t/b.wasm\"]}\n\
                        {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(module(messages), Some(PathBuf::from("/t/b.wasm")));
        assert_eq!(module("{\"reason\":\"build-finished\"}"), None);
    }

    #[test]
    fn warnings_are_counted_without_their_sum() {
        let said = "warning: unused variable: `a`\n --> src/lib.rs:1:2\n\u{1b}[1m\u{1b}[33mwarning\u{1b}[0m: unused\n\
                    warning: `counter` (lib) generated 2 warnings\n";
        assert_eq!(warnings(said), 2);
        assert_eq!(warnings(""), 0);
    }

    #[test]
    fn results_of_all_test_programs_are_added() {
        let said = "running 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(results(said), (4, 2));
        let tested = |passed, failed, said: Option<&str>| {
            let said = said.map(str::to_owned);
            Tested { passed, failed, said, elapsed: Duration::ZERO }.to_string()
        };
        assert_eq!(tested(4, 0, None), "4 tests passed");
        assert_eq!(tested(4, 2, Some("")), "2 of 6 tests FAILED");
        assert_eq!(tested(0, 0, Some("")), "the tests do not compile or can't be run");
    }

    #[test]
    fn a_crate_that_is_not_there_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let build = Build { folder: folder.path().join("counter"), target: folder.path().join("target") };
        let said = build.build(Profile::Quick, false).unwrap_err().to_string();
        assert!(said.starts_with("there is no ") && said.contains("correct `source` in the manifest"), "{said}");
        assert!(!build.target.exists());
        let said = check_toolchain(&build.folder).unwrap_err().to_string();
        assert!(said.contains("correct `source`"), "{said}");
    }
}
