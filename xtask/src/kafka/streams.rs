//! The flow of the grocery example in Kafka Streams, as a program to measure a host beside. Maven fetches Kafka Streams and builds the
//! program into `target/kafka/streams`, once for each version of its source.

use super::{kept, ours};
use crate::{once, process};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files that the program is made of.
const SOURCES: [&str; 4] =
    ["pom.xml", "src/main/java/peer/App.java", "src/main/java/peer/Bench.java", "src/main/java/peer/Json.java"];

/// Returns what is in the way of running the program on this machine, with the remedy, or `None`.
pub fn missing() -> Option<String> {
    let missing =
        |program, remedy| process::find(program).is_none().then(|| format!("There is no {program}: {remedy}."));
    missing("java", "install Java (17 or newer)").or_else(|| {
        missing("mvn", "install Maven, which fetches Kafka Streams and builds the program").filter(|_| !is_there())
    })
}

/// Returns the program, without its arguments, after it has built what is missing.
pub fn program() -> Result<Command> {
    once::fetched(&kept().join("streams-lock"), is_there, build)
        .context("build the program for Kafka Streams with Maven, which needs a network the first time")?;
    let class_path = [folder().join("grocery-streams-1.jar"), folder().join("libs/*")];
    let class_path = class_path.map(|path| path.display().to_string()).join(":");
    let mut java = Command::new("java");
    java.args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &class_path, "peer.Bench"]);
    Ok(java)
}

/// Returns whether the program of the present source is there. The source is copied last, so its copy marks a complete build.
fn is_there() -> bool {
    fs::read_to_string(folder().join("source")).is_ok_and(|built| source().is_ok_and(|source| source == built))
}

fn build() -> Result<()> {
    let (folder, pom) = (folder(), ours("streams/pom.xml"));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    eprintln!("building the program for Kafka Streams into {}", folder.display());
    let mut maven = Command::new("mvn");
    maven.args(["-q", "-B", "package", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
    maven.arg(option("out", &folder)).arg(option("outputDirectory", &folder.join("libs"))).arg("-f").arg(pom);
    process::run(&mut maven)?;
    fs::write(folder.join("source"), source()?)?;
    Ok(())
}

fn option(name: &str, path: &Path) -> String {
    format!("-D{name}={}", path.display())
}

fn source() -> Result<String> {
    let read = |name: &&str| fs::read_to_string(ours("streams").join(name)).with_context(|| format!("read {name}"));
    SOURCES.iter().map(read).collect()
}

fn folder() -> PathBuf {
    kept().join("streams")
}
