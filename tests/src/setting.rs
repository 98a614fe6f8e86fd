//! A folder with a manifest, removed after the test.

use crate::host::TestHost;
use crate::{built, compiled};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use wasmill_driver::host::{Host, Leash, Program};

/// Placeholder in a manifest for the folder of the built plugins.
pub const PLUGINS: &str = "PLUGINS";

/// A manifest with only the plugin `orders`.
pub const ORDERS: &str = "[plugins.orders]\nfile = \"PLUGINS/orders.wasm\"\n";

/// A folder with a manifest `wasmill.toml`.
pub struct Setting {
    folder: tempfile::TempDir,
}

impl Setting {
    /// Writes the manifest. The word `PLUGINS` in it stands for the folder of the built plugins.
    pub fn new(manifest: &str) -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        let setting = Self { folder };
        setting.manifest(manifest);
        setting
    }

    /// Writes another manifest, for the next start.
    pub fn manifest(&self, manifest: &str) {
        self.write("wasmill.toml", manifest.replace(PLUGINS, &built::plugins().to_string_lossy()));
    }

    /// Makes a folder with the example's own manifest.
    pub fn grocery() -> Self {
        Self::grocery_on("brokers = \"embedded\"\n")
    }

    /// Makes a folder with the example's manifest, with other keys of `[kafka]` in place of its brokers.
    pub fn grocery_on(kafka: &str) -> Self {
        let manifest = fs::read_to_string(built::grocery().join("wasmill.toml")).expect("read the example's manifest");
        let manifest = manifest.replace("brokers = \"embedded\"\n", kafka);
        Self::new(&manifest.replace("../../target/plugins", PLUGINS).replace("../../target/grocery", "data"))
    }

    /// Makes a folder with the bank's manifest.
    pub fn bank() -> Self {
        let manifest = fs::read_to_string(built::bank().join("wasmill.toml")).expect("read the example's manifest");
        Self::new(&manifest.replace("../../target/plugins", PLUGINS).replace("../../target/bank", "data"))
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a file in the folder in one step.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let file = self.path(name);
        let copy = file.with_extension("new");
        fs::create_dir_all(file.parent().expect("a file has a folder")).expect("make a folder");
        fs::write(&copy, content).and_then(|()| fs::rename(copy, file)).expect("write a file");
    }

    /// Starts a host that must serve.
    pub fn start(&self) -> TestHost {
        self.start_in(Vec::new())
    }

    /// Starts a host that must serve, with more variables in its environment.
    pub fn start_in(&self, environment: Vec<(&'static str, PathBuf)>) -> TestHost {
        self.start_with(&[], environment)
    }

    /// Starts a host that must serve, with more variables and more arguments of `wasmill run`.
    pub fn start_with(&self, args: &[&str], environment: Vec<(&'static str, PathBuf)>) -> TestHost {
        let args = args.iter().map(ToString::to_string).collect();
        self.serve(Program { args, environment, ..self.program() })
    }

    /// Starts a host that must serve, after a shell command that limits it.
    pub fn start_under(&self, limit: &str) -> TestHost {
        let mut program = self.program();
        let script = self.path("limited-wasmill");
        let text = format!("#!/bin/sh\n{limit}\nexec {:?} \"$@\"\n", program.wasmill);
        fs::write(&script, text).expect("write a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("make it a program");
        program.wasmill = script;
        self.serve(program)
    }

    /// Starts a host that must serve, and that compiles the plugins itself unless it has done so in this folder before.
    pub fn start_without_compiled(&self) -> TestHost {
        let data = self.path("data");
        fs::create_dir_all(&data).expect("make the data folder");
        let host = Host::start(self.program_in(data)).unwrap_or_else(|error| panic!("{error:?}"));
        TestHost::new(host)
    }

    fn serve(&self, program: Program) -> TestHost {
        let host = Host::start(program).unwrap_or_else(|error| panic!("{error:?}"));
        compiled::keep(&self.path("data"));
        TestHost::new(host)
    }

    /// Starts a host that must be refused, and returns its output.
    pub fn start_refused(&self) -> Output {
        self.wasmill(&["run", "wasmill.toml", "--data", "data", "--listen", "127.0.0.1:0"])
    }

    /// Runs `wasmill` in the folder to its end. Returns its exit code, its output and its errors.
    pub fn told(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.wasmill(args);
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// Runs `wasmill` in the folder to its end.
    pub fn wasmill(&self, args: &[&str]) -> Output {
        let mut command = Command::new(built::program("wasmill"));
        command.args(args).current_dir(self.folder.path()).output().expect("run wasmill")
    }

    fn program(&self) -> Program {
        let data = self.path("data");
        fs::create_dir_all(&data).expect("make the data folder");
        compiled::provide(&data);
        self.program_in(data)
    }

    fn program_in(&self, data: PathBuf) -> Program {
        Program {
            wasmill: built::program("wasmill"),
            manifest: self.path("wasmill.toml"),
            leash: Arc::new(Leash::new(&data)),
            data,
            brokers: None,
            args: Vec::new(),
            environment: Vec::new(),
        }
    }
}
