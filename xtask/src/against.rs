//! Benchmarks of this tree beside those of another commit: `cargo xtask bench GROUP … --against COMMIT`.
//!
//! The other commit is checked out into `target/against` and built there with its own `xtask`, once. The programs of
//! both trees then run in turn, and the tree that runs first changes with every round. So what else the machine does
//! affects both alike. A row is compared by its value, and by its ratio to the baseline of its own run.

use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A tree with built benchmarks.
struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// The program of each group.
    programs: BTreeMap<String, PathBuf>,
}

/// What both trees measured for a row, in each round: first the other commit, then this tree.
#[derive(Default)]
struct Row {
    unit: String,
    values: [Vec<f64>; 2],
    ratios: [Vec<f64>; 2],
}

/// Runs the benchmarks of both trees and prints a line for each row of both. The programs and plugins of this tree are built.
pub(crate) fn compare(workspace: &Workspace, groups: &[String], commit: &str, rounds: usize) -> Result<()> {
    let commit =
        process::output(git(workspace).args(["rev-parse", "--verify", "--quiet", &format!("{commit}^{{commit}}")]))
            .with_context(|| format!("there is no commit {commit} here; fetch it, or name one that `git log` shows"))?;
    let commit = String::from_utf8(commit)?.trim().to_owned();
    let root = workspace.root.join("target/against").join(&commit);
    check_out(workspace, &commit, &root)?;
    process::run(cargo(&root).env_remove("CARGO_TARGET_DIR").args(["xtask", "build"]))?;
    let trees = [
        Tree::build(root.clone(), root.join("target"))?,
        Tree::build(workspace.root.clone(), workspace.target.clone())?,
    ];
    let both: Vec<_> =
        groups.iter().filter(|group| trees.iter().all(|tree| tree.programs.contains_key(*group))).collect();
    for left_out in groups.iter().filter(|group| !both.contains(group)) {
        eprintln!("left out: {left_out}, which the other commit does not have");
    }
    let mut rows = BTreeMap::new();
    for round in 0..rounds {
        for group in &both {
            for turn in [round % 2, 1 - round % 2] {
                eprintln!("round {} of {rounds}: {group} of {}", round + 1, ["the other commit", "this tree"][turn]);
                add(&mut rows, turn, trees[turn].run(group)?);
            }
        }
    }
    print!("{}", table(&rows));
    Ok(())
}

/// Writes the files of a commit into a folder, unless it is there.
fn check_out(workspace: &Workspace, commit: &str, root: &Path) -> Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    let unfinished = root.with_extension("unfinished");
    fs::create_dir_all(&unfinished).with_context(|| format!("make the folder {}", unfinished.display()))?;
    let archive = unfinished.with_extension("tar");
    process::run(git(workspace).args(["archive", "--format=tar", "--output"]).arg(&archive).arg(commit))?;
    process::run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&unfinished))?;
    fs::remove_file(&archive)?;
    fs::rename(&unfinished, root)?;
    Ok(())
}

impl Tree {
    /// Builds the benchmarks of a tree whose plugins are built.
    fn build(root: PathBuf, target: PathBuf) -> Result<Self> {
        let mut cargo = cargo(&root);
        cargo.args(["bench", "--profile", "release", "--workspace", "--no-run", "--message-format=json"]);
        let messages = process::output(cargo.env("CARGO_TARGET_DIR", &target))?;
        let messages = String::from_utf8(messages)?;
        let programs = messages.lines().filter_map(|line| program(&serde_json::from_str(line).ok()?)).collect();
        Ok(Self { root, target, programs })
    }

    /// Runs a group and returns its rows.
    fn run(&self, group: &str) -> Result<Vec<Value>> {
        let results = self.root.join("target/against.json");
        fs::write(&results, "[]")?;
        let package = self.root.join("tests");
        let mut program = Command::new(&self.programs[group]);
        program.arg("--bench").current_dir(&package).env("CARGO_MANIFEST_DIR", &package);
        program.env("WASMILL_BIN", self.target.join("release/wasmill"));
        program.env("WASMILL_PLUGINS", self.root.join("target/plugins")).env("WASMILL_BENCH_RESULTS", &results);
        process::run(program.stdin(Stdio::null()))?;
        serde_json::from_slice(&fs::read(&results)?).context("read the rows of a benchmark")
    }
}

/// Returns name and path of the program that cargo says it has built, if it is a benchmark.
fn program(message: &Value) -> Option<(String, PathBuf)> {
    let is_bench = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "bench");
    let name = message["target"]["name"].as_str()?.to_owned();
    is_bench.then_some(())?;
    Some((name, message["executable"].as_str()?.into()))
}

fn add(rows: &mut BTreeMap<String, Row>, tree: usize, measured: Vec<Value>) {
    for measured in measured {
        let row = rows.entry(measured["name"].as_str().unwrap_or_default().to_owned()).or_default();
        measured["unit"].as_str().unwrap_or_default().clone_into(&mut row.unit);
        row.values[tree].extend(measured["value"].as_f64());
        row.ratios[tree].extend(measured["ratio"].as_f64());
    }
}

/// Returns a line for each row that both trees have. A factor is this tree's figure divided by the other commit's: the
/// median over the rounds, and the smallest and largest.
fn table(rows: &BTreeMap<String, Row>) -> String {
    let title = format!("{:<28} {:>12} {:>12} {:<6} {:<24} ratios\n", "row", "other", "this", "unit", "values");
    let lines = rows.iter().filter_map(|(name, row)| {
        let [other, this] = row.values.each_ref().map(|values| median(values.clone()));
        let (values, ratios) = (factors(&row.values)?, factors(&row.ratios).unwrap_or_default());
        Some(format!("{name:<28} {:>12.1} {:>12.1} {:<6} {values:<24} {ratios}\n", other?, this?, row.unit))
    });
    std::iter::once(title).chain(lines).collect()
}

/// Returns the factors of the rounds in words, or `None` if one of the trees has no figures.
fn factors([other, this]: &[Vec<f64>; 2]) -> Option<String> {
    let factors: Vec<f64> = this.iter().zip(other).map(|(this, other)| this / other).collect();
    let smallest = factors.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = factors.iter().copied().fold(0.0, f64::max);
    Some(format!("{:.2} ({smallest:.2} … {largest:.2})", median(factors)?))
}

/// Returns the median, the mean of the two in the middle if there are two.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    Some(f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]))
}

fn git(workspace: &Workspace) -> Command {
    let mut git = Command::new("git");
    git.arg("-C").arg(&workspace.root);
    git
}

fn cargo(root: &Path) -> Command {
    let mut cargo = process::cargo();
    cargo.current_dir(root);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_of_both_trees_is_compared_by_its_value_and_its_ratio() {
        let mut rows = BTreeMap::new();
        let row = |value: f64, ratio: f64| {
            vec![
                json!({"name": "commands/raw", "unit": "1/s", "value": value, "baseline": value / ratio, "ratio": ratio}),
            ]
        };
        for (other, this) in [((100.0, 2.0), (90.0, 1.8)), ((100.0, 2.0), (110.0, 2.2)), ((200.0, 2.0), (200.0, 1.0))] {
            add(&mut rows, 0, row(other.0, other.1));
            add(&mut rows, 1, row(this.0, this.1));
        }
        add(&mut rows, 1, vec![json!({"name": "commands/newer", "unit": "ms", "value": 1.0, "ratio": null})]);
        let table = table(&rows);
        let words: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        let wanted =
            ["commands/raw", "100.0", "110.0", "1/s", "1.00", "(0.90", "…", "1.10)", "0.90", "(0.50", "…", "1.10)"];
        assert_eq!(words, wanted);
        assert!(!table.contains("newer"), "{table}");
    }

    #[test]
    fn the_program_of_a_benchmark_is_known_from_what_cargo_says() {
        let message = |kind: &str| json!({"target": {"kind": [kind], "name": "guest"}, "executable": "/t/guest-1"});
        assert_eq!(program(&message("bench")), Some(("guest".to_owned(), "/t/guest-1".into())));
        assert_eq!(program(&message("bin")), None);
        assert_eq!(program(&json!({"reason": "build-finished"})), None);
    }
}
