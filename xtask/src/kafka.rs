//! A real Kafka: one node of Apache Kafka on loopback ports, as the tests and `cargo xtask kafka up` start it.
//!
//! Maven fetches the jars that `tests/kafka/pom.xml` names into `target/kafka`, once. A [`Node`] is formatted in a
//! folder of its own. It ends when its value is dropped or when the process that holds it ends, however that ends. If
//! `WASMILL_TEST_KAFKA` names a cluster, none of this is needed.

pub(crate) mod background;
mod jars;
pub mod secured;
pub mod streams;

use crate::{process, root};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Environment variable that names an existing cluster, as `host:port`.
pub const GIVEN: &str = "WASMILL_TEST_KAFKA";

/// Longest time until a started node answers.
const START_WAIT: Duration = Duration::from_secs(180);
/// Interval at which a starting node is asked.
const LOOK: Duration = Duration::from_millis(50);
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Any 16 bytes, as Kafka writes them.
const CLUSTER_ID: &str = "d2FzbWlsbC10ZXN0LW9uZQ";
/// A Metadata request, version 4, preceded by its length. It asks for all topics and creates none.
const METADATA: &[u8] = b"\0\0\0\x16\0\x03\0\x04\0\0\0\x01\0\x07wasmill\xff\xff\xff\xff\0";
/// Shell script that becomes the given program and kills it when standard input ends, because the holder of the other
/// end has closed it or is gone.
const GUARDED: &str = r#"exec 3<&0; (cat <&3 >/dev/null; kill -KILL $$) & exec "$@" </dev/null 3<&-"#;

/// Returns what is in the way of using a Kafka on this machine, with the remedy, or `None`.
pub fn missing() -> Option<String> {
    if std::env::var_os(GIVEN).is_some() {
        return None;
    }
    missing_for_node()
}

/// Returns what is in the way of starting a node on this machine, with the remedy, or `None`.
pub fn missing_for_node() -> Option<String> {
    if process::find("java").is_none() {
        return Some(format!("There is no java: install a Java runtime (17 or newer), or name a cluster in {GIVEN}."));
    }
    (!jars::are_there() && process::find("mvn").is_none())
        .then(|| format!("There is no mvn, which fetches Apache Kafka: install Maven, or name a cluster in {GIVEN}."))
}

/// A running node.
pub struct Node {
    prepared: Prepared,
    brokers: String,
    child: Child,
}

impl Node {
    /// Makes a folder, starts an empty node in it, and waits until it answers.
    pub fn start(folder: &Path) -> Result<Self> {
        Self::start_prepared(Prepared::new(folder)?)
    }

    fn start_prepared(prepared: Prepared) -> Result<Self> {
        let mut node = Self { brokers: prepared.brokers(), child: prepared.spawn_guarded()?, prepared };
        node.prepared.wait_until_it_answers(&mut node.child)?;
        Ok(node)
    }

    /// Ends the node as a power cut would. Its folder and address stay.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.child.stdin.take());
        self.child.wait().context("wait for the end of Kafka")?;
        Ok(())
    }

    /// Restarts the node after [`Self::kill`], with its data, and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        self.child = self.prepared.spawn_guarded()?;
        self.prepared.wait_until_it_answers(&mut self.child)
    }

    /// Returns its address.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Returns the id of its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Nothing can be done about a process that is gone already.
        _ = self.child.wait();
    }
}

/// Returns one of Kafka's own command-line tools by its class, such as
/// `org.apache.kafka.tools.consumer.ConsoleConsumer`.
pub fn tool(class: &str) -> Result<Command> {
    let mut java = Command::new("java");
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]).arg(log_config()).arg("-cp").arg(jars::class_path()?);
    java.arg(class);
    Ok(java)
}

/// A formatted folder in which a node can start.
struct Prepared {
    folder: PathBuf,
    address: SocketAddr,
    class_path: PathBuf,
}

impl Prepared {
    fn new(folder: &Path) -> Result<Self> {
        Self::with(folder, free_addresses()?, "", [])
    }

    /// Formats a folder for a node at these addresses, its own and its controller's. The properties are added to those
    /// of the template, and the arguments to those of the formatting.
    fn with(
        folder: &Path,
        [address, controller]: [SocketAddr; 2],
        more: &str,
        format_args: impl IntoIterator<Item = String>,
    ) -> Result<Self> {
        let class_path = jars::class_path()?;
        fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let template = fs::read_to_string(ours("server.properties")).context("read the template server.properties")?;
        let properties = (template + more)
            .replace("CONTROLLER_PORT", &controller.port().to_string())
            .replace("127.0.0.1:PORT", &address.to_string())
            .replace("FOLDER", &folder.to_string_lossy());
        fs::write(folder.join("server.properties"), properties)?;
        let prepared = Self { folder, address, class_path };
        let mut format = tool("kafka.tools.StorageTool")?;
        format.args(["format", "--standalone", "-t", CLUSTER_ID, "-c"]).arg(prepared.folder.join("server.properties"));
        format.args(format_args);
        let output = format.stdin(Stdio::null()).output().context("start java")?;
        match output.status.success() {
            true => Ok(prepared),
            false => bail!("Kafka's folder was not formatted: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn brokers(&self) -> String {
        self.address.to_string()
    }

    fn broker(&self) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xms256m", "-Xmx512m"]).arg(log_config()).arg("-cp").arg(&self.class_path);
        java.arg("kafka.Kafka").arg(self.folder.join("server.properties"));
        java
    }

    /// Starts the node as a process that ends with this one.
    fn spawn_guarded(&self) -> Result<Child> {
        let (mut guarded, java) = (Command::new("sh"), self.broker());
        guarded.args(["-c", GUARDED, "kafka"]).arg(java.get_program()).args(java.get_args()).stdin(Stdio::piped());
        self.spawn(&mut guarded)
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        let log = File::create(self.log())?;
        command.stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(command, 0).spawn().context("start Kafka")
    }

    fn wait_until_it_answers(&self, child: &mut Child) -> Result<()> {
        let deadline = Instant::now() + START_WAIT;
        while !answers(self.address) {
            let log = || fs::read_to_string(self.log()).unwrap_or_default();
            if let Some(status) = child.try_wait()? {
                bail!("Kafka did not start: {status}\n{}", log());
            }
            if Instant::now() > deadline {
                bail!("Kafka did not answer within {} s\n{}", START_WAIT.as_secs(), log());
            }
            std::thread::park_timeout(LOOK);
        }
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }
}

/// Returns whether a broker answers with metadata that names a ready broker. An open port is not enough.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<i32> {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(METADATA)?;
        // The answer begins with length, correlation id, throttle time and number of brokers.
        let mut answer = [0; 16];
        stream.read_exact(&mut answer)?;
        Ok(i32::from_be_bytes(answer[12..].try_into().expect("four bytes")))
    };
    ask().is_ok_and(|brokers| brokers > 0)
}

/// Returns as many free addresses as a node needs. They are taken at once, because an address that was released may be
/// given again.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners: Vec<_> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
    let addresses: Vec<_> = listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>()?;
    Ok(addresses.try_into().expect("as many as listeners"))
}

fn log_config() -> String {
    format!("-Dlog4j2.configurationFile={}", ours("log4j2.xml").display())
}

/// Returns the path of a file in `tests/kafka`.
fn ours(name: &str) -> PathBuf {
    root().join("tests/kafka").join(name)
}

/// Returns the folder of jars and nodes.
fn kept() -> PathBuf {
    root().join("target/kafka")
}
