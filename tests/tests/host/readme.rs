//! The chapter of the README about sagas, followed to the letter in an empty folder.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use wasmill_tests::built;
use wasmill_tests::host::TestHost;
use wasmill_tests::setting::Setting;

const CHAPTER: &str = "## Your first saga";

/// A part of the chapter that a reader does.
#[derive(Debug)]
enum Part {
    /// Writes a file, or adds to its end.
    File { path: String, text: String, is_added: bool },
    /// Runs a command and sees these lines.
    Command { line: String, shown: Vec<String> },
}

/// Returns what a reader of the chapter does.
fn parts() -> Vec<Part> {
    let readme = fs::read_to_string(built::workspace().join("README.md")).expect("the README");
    let (_, chapter) = readme.split_once(CHAPTER).expect("the chapter");
    let chapter = chapter.split("\n## ").next().expect("its text");
    let mut parts = Vec::new();
    let mut lines = chapter.lines();
    let mut said = String::new();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else {
            if !line.is_empty() {
                line.clone_into(&mut said);
            }
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if language == "console" {
            commands(&block, &mut parts);
        } else {
            let path = said.trim_end_matches("`:").rsplit('`').next().expect("a path").to_owned();
            let text = block.join("\n") + "\n";
            parts.push(Part::File { path, text, is_added: said.contains("Add this to the end") });
        }
    }
    parts
}

fn commands(block: &[&str], parts: &mut Vec<Part>) {
    for line in block {
        match (line.strip_prefix("$ "), parts.last_mut()) {
            (Some(line), _) => parts.push(Part::Command { line: line.to_owned(), shown: Vec::new() }),
            (None, Some(Part::Command { shown, .. })) => shown.push((*line).to_owned()),
            (None, _) => panic!("{line} is shown before any command"),
        }
    }
}

/// Splits a line of a shell into words.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_quoted = false;
    for character in line.chars() {
        match character {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            other => words.last_mut().expect("there is one").push(other),
        }
    }
    words
}

/// Replaces times, which differ from run to run.
fn without_times(line: &str) -> String {
    let is_time = |word: &str| word.len() == 20 && word.ends_with('Z') && word.as_bytes()[10] == b'T';
    line.split(' ').map(|word| if is_time(word) { "TIME" } else { word }).collect::<Vec<_>>().join(" ")
}

fn succeeded(what: &str, output: &Output) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {error}");
}

/// Runs a command of the reader that builds or tests the crate. What it needs was fetched for the workspace.
fn cargo(folder: &Path, mut command: Command, what: &str) {
    fs::copy(built::workspace().join("Cargo.lock"), folder.join("Cargo.lock")).expect("copy the lock file");
    let output = command.current_dir(folder).env("CARGO_NET_OFFLINE", "true").env_remove("CARGO_TARGET_DIR").output();
    succeeded(what, &output.expect("run cargo"));
}

#[test]
fn the_chapter_about_sagas_ends_with_a_transfer_that_was_late_and_compensated() {
    let setting = Setting::new("");
    let folder = setting.path("");
    let mut host: Option<TestHost> = None;
    let mut seen = String::new();
    for part in parts() {
        match part {
            Part::File { path, text, is_added: false } => {
                let sdk = built::workspace().join("guest-sdk").display().to_string();
                let text = text.replace("../wasmill/guest-sdk", &sdk);
                if path.ends_with("bank.toml") {
                    setting.manifest(&text);
                }
                setting.write(&path, text);
            }
            Part::File { path, text, is_added: true } => {
                let path = format!("src/{path}");
                let before = fs::read_to_string(setting.path(&path)).expect("the file was written before");
                setting.write(&path, before + "\n" + &text);
            }
            Part::Command { line, shown } => match words(&line).iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["mkdir" | "cd" | "alias", ..] => {}
                ["cargo", "build", ..] => {
                    cargo(&folder, xtask::guest_build("release").expect("a toolchain for guests"), &line);
                }
                ["cargo", ref args @ ..] => {
                    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
                    command.args(args);
                    cargo(&folder, command, &line);
                }
                ["wasmill", "run", ..] => host = Some(setting.start()),
                ["wasmill", ref args @ ..] => {
                    host.as_ref().expect("it runs").drained();
                    let output = setting.wasmill(&[args, &["--data", "data"]].concat());
                    let text = [output.stdout, output.stderr].concat();
                    let text = String::from_utf8_lossy(&text).into_owned();
                    let actual: Vec<_> = text.lines().map(without_times).collect();
                    let expected: Vec<_> = shown.iter().map(|line| without_times(line)).collect();
                    assert_eq!(actual, expected, "{line}");
                    seen += &text;
                }
                ref other => panic!("nobody knows what to do with {other:?}"),
            },
        }
    }
    assert!(seen.contains("Withdrawn") && seen.contains("Refunded") && seen.contains("archived"), "{seen}");
    host.expect("the chapter runs a host").stop();
}
