//! Everything native: the host, the example, tests and benchmarks, all with the release profile.
//!
//! Every task but the demo selects the whole workspace, because cargo chooses the features of shared dependencies by
//! what is selected. Another selection may compile the heavy ones a second time. The demo selects only what it runs. A
//! test here ensures that the other tasks can use what it has compiled.

use crate::workspace::Workspace;
use crate::{kafka, postgres, process};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Selection of all tasks but the demo.
const EVERYTHING: [&str; 1] = ["--workspace"];
/// Selection of the demo: the host, and the program of the example.
const DEMO: [&str; 4] = ["--package", "wasmill", "--package", "grocery-demo"];

/// Builds the programs of the workspace.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    process::run(cargo(workspace, "build").args(EVERYTHING).arg("--bins"))
}

/// Builds the programs of the demo.
pub(crate) fn build_demo(workspace: &Workspace) -> Result<()> {
    process::run(cargo(workspace, "build").args(DEMO).arg("--bins"))
}

/// Replaces this process by the grocery example.
pub(crate) fn demo(workspace: &Workspace, args: &[String]) -> Result<()> {
    let program = workspace.program("grocery-demo");
    Err(Command::new(&program).args(args).exec()).with_context(|| format!("start {}", program.display()))
}

/// Runs all tests. They find the host and the plugins by `WASMILL_BIN` and `WASMILL_PLUGINS`.
pub(crate) fn test(workspace: &Workspace, repeat: u32, args: &[String]) -> Result<()> {
    let of_kafka = kafka::missing().map(|reason| {
        format!("left out: the tests of the programs `kafka` and `chaos`, which need a real broker. {reason}")
    });
    let of_postgres =
        postgres::missing().map(|reason| format!("left out: the tests of the store in PostgreSQL. {reason}"));
    for left_out in of_kafka.into_iter().chain(of_postgres) {
        match std::env::var("CI") {
            Ok(ci) if ci == "true" => bail!("{left_out}"),
            _ => eprintln!("{left_out}"),
        }
    }
    for run in 1..=repeat {
        if repeat > 1 {
            eprintln!("run {run} of {repeat}");
        }
        let mut cargo = cargo(workspace, "test");
        cargo.args(EVERYTHING);
        cargo.env("WASMILL_BIN", workspace.program("wasmill")).env("WASMILL_PLUGINS", workspace.plugins_folder());
        match cargo.args(args).status().context("start cargo test")?.success() {
            true => {}
            false if repeat > 1 => bail!("tests failed in run {run} of {repeat}"),
            false => bail!("tests failed"),
        }
    }
    Ok(())
}

/// Replaces this process by the torture of a host on the embedded store, or of several on one in PostgreSQL.
pub(crate) fn torture(
    workspace: &Workspace,
    kills: usize,
    seconds: u64,
    hosts: Option<u32>,
    seed: Option<u64>,
) -> Result<()> {
    let program = workspace.program("torture");
    let mut torture = Command::new(&program);
    torture
        .args([kills.to_string(), seconds.to_string(), hosts.unwrap_or(0).to_string()])
        .args(seed.map(|seed| seed.to_string()));
    torture.env("WASMILL_BIN", workspace.program("wasmill")).env("WASMILL_PLUGINS", workspace.plugins_folder());
    Err(torture.exec()).with_context(|| format!("start {}", program.display()))
}

/// Returns the benchmarks of these groups, or all if there are none. An unknown group is an error.
pub(crate) fn benches(workspace: &Workspace, groups: &[String]) -> Result<Vec<String>> {
    let all: Vec<String> = workspace.benches().into_iter().map(|(_, name)| name).collect();
    match groups.iter().find(|group| !all.contains(group)) {
        Some(unknown) => bail!("there is no benchmark {unknown}; there are: {}", all.join(", ")),
        None if groups.is_empty() => Ok(all),
        None => Ok(groups.to_vec()),
    }
}

/// Runs benchmarks. Each replaces its own rows of the results. If all run, no earlier rows are left.
pub(crate) fn bench(workspace: &Workspace, benches: &[String]) -> Result<()> {
    let results = workspace.root.join("target/bench.json");
    if benches.len() == workspace.benches().len() {
        fs::write(&results, "[]\n")?;
    }
    let mut cargo = cargo(workspace, "bench");
    cargo.args(EVERYTHING);
    cargo.env("WASMILL_BENCH_RESULTS", &results);
    cargo.env("WASMILL_BIN", workspace.program("wasmill")).env("WASMILL_PLUGINS", workspace.plugins_folder());
    benches.iter().for_each(|name| _ = cargo.args(["--bench", name]));
    process::run(&mut cargo)
}

fn cargo(workspace: &Workspace, task: &str) -> Command {
    let mut cargo = process::cargo();
    cargo.args([task, "--profile", "release"]).current_dir(&workspace.root);
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Returns each crate with its enabled features, over these kinds of dependencies.
    fn compiled(workspace: &Workspace, selection: &[&str], edges: &str) -> BTreeSet<String> {
        let mut cargo = process::cargo();
        cargo.args(["tree", "--offline", "--edges", edges, "--prefix", "none", "--format", "{p} {f}"]);
        let text = process::output(cargo.args(selection).current_dir(&workspace.root)).unwrap();
        let lines = String::from_utf8(text).unwrap();
        // Cargo marks a crate with `(*)` if its dependencies were listed before.
        lines.lines().map(|line| line.trim_end_matches("(*)").trim().to_owned()).collect()
    }

    #[test]
    fn the_demo_compiles_nothing_that_the_tests_would_compile_again() {
        let workspace = Workspace::load().unwrap();
        let [demo, everything] =
            [&DEMO[..], &EVERYTHING[..]].map(|selection| compiled(&workspace, selection, "normal,build"));
        let alone: Vec<_> = demo.difference(&everything).collect();
        assert!(alone.is_empty(), "compiled with other features for the demo: {alone:?}");
        assert!(demo.len() < everything.len());
    }
    #[test]
    fn the_tests_compile_the_host_with_the_features_that_it_has_without_them() {
        let workspace = Workspace::load().unwrap();
        let host = compiled(&workspace, &["--package", "wasmill"], "normal,build");
        let tests = compiled(&workspace, &EVERYTHING, "normal,build,dev");
        let twice: Vec<_> = host.difference(&tests).collect();
        assert!(twice.is_empty(), "compiled again for the tests, because a test needs other features: {twice:?}");
    }
}
