//! The jars of Apache Kafka. Maven fetches them once for each version of the pom.

use super::{kept, ours};
use crate::{once, process};
use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// Returns the class path of a node and of Kafka's tools, after it has fetched what is missing.
pub(super) fn class_path() -> Result<PathBuf> {
    once::fetched(&kept().join("lock"), are_there, fetch)
        .context("fetch Apache Kafka with Maven, which needs a network the first time")?;
    Ok(folder().join("*"))
}

/// Returns whether all jars are there. The pom is copied to the jars last, so its copy marks a complete fetch.
pub(super) fn are_there() -> bool {
    let copy = fs::read(folder().join("pom.xml"));
    copy.is_ok_and(|copy| fs::read(ours("pom.xml")).is_ok_and(|pom| pom == copy))
}

fn fetch() -> Result<()> {
    if folder().exists() {
        fs::remove_dir_all(folder())?;
    }
    eprintln!("fetching Apache Kafka into {}", folder().display());
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    maven.arg(format!("-DoutputDirectory={}", folder().display())).arg("-f").arg(ours("pom.xml"));
    process::run(&mut maven)?;
    fs::copy(ours("pom.xml"), folder().join("pom.xml"))?;
    Ok(())
}

fn folder() -> PathBuf {
    kept().join("libs")
}
