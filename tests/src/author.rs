//! `wasmill` as the author of a plugin uses it, in a folder of its own.

use crate::built;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// The longest wait for a step: a first build compiles the SDK.
pub const STEP_MAX: Duration = Duration::from_secs(600);

/// Returns the program in a folder, as an author has it. What it needs was fetched for the workspace.
fn program(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(built::program("wasmill"));
    command.args(args).current_dir(folder).env("CARGO_NET_OFFLINE", "true").env("NO_COLOR", "1");
    command.env_remove("CARGO_TARGET_DIR").env_remove("WASMILL_URL");
    command
}

/// Runs the program to its end.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    program(folder, args).output().expect("run wasmill")
}

/// Runs the program, which must succeed, and returns its output.
pub fn succeeds(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

/// Runs the program, which must fail, and returns its errors.
pub fn refused(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

/// `wasmill dev`, and the steps that it prints.
pub struct Dev {
    process: Child,
    steps: Receiver<Value>,
}

impl Dev {
    /// Starts it in a folder with a manifest.
    pub fn start(folder: &Path) -> Self {
        let mut command = program(folder, &["dev", "--listen", "127.0.0.1:0", "--json"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("run wasmill dev");
        let lines = BufReader::new(process.stdout.take().expect("its output")).lines();
        let (send, steps) = sync_channel(1_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let step = serde_json::from_str(&line).expect("a step is JSON");
                if send.send(step).is_err() {
                    return;
                }
            }
        });
        Self { process, steps }
    }

    /// Returns the next step of this kind, and skips others.
    pub fn until(&self, step: &str) -> Value {
        let until = Instant::now() + STEP_MAX;
        let mut skipped = Vec::new();
        while let Ok(next) = self.steps.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if next["step"] == step {
                return next;
            }
            skipped.push(next);
        }
        panic!("no step {step:?} in {STEP_MAX:?}, but {skipped:#?}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until the plugins of a folder are built for the first time and their tests have run.
pub fn first_build(dev: &Dev) {
    let _ = dev.until("tests");
}
