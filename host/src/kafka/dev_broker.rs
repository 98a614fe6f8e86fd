//! The development broker: librdkafka's mock cluster in its own process, so that a host can be killed and restarted
//! while the broker keeps running.
//!
//! Hosts and broker share only two files in the data folder. The broker writes `dev-broker.json`, which is its lease:
//! the broker ends when the file is gone or names another broker. Hosts write `dev-broker-topics.json`, which lists the
//! topics that they need, and the broker creates the missing ones.
//!
//! It is not: durable (its data ends with it), transactional, or a proof of exactly-once. It keeps the newest 5 MiB of
//! a partition and drops the rest.

use super::context::{Context, Health};
use super::{Error, client_error};
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer, ProducerContext};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LEASE: &str = "dev-broker.json";
const TOPICS: &str = "dev-broker-topics.json";
const LOG: &str = "dev-broker.log";
/// The prefix of a topic that ends with the incarnation. It tells this broker from another one that got its port.
const IDENTITY_TOPIC: &str = "__wasmill-dev-broker.";
const CHECK_EVERY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const START_MAX: Duration = Duration::from_secs(15);

/// A development broker that is running.
#[derive(Debug)]
pub struct DevBroker {
    /// The address at which it listens.
    pub brokers: String,
    /// The id that tells it, and with it its data, from every other development broker.
    pub incarnation: String,
    /// The id of its process.
    pub pid: u32,
    lease: PathBuf,
    /// Its process, if this process started it.
    child: Option<Child>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    pid: u32,
    brokers: String,
    incarnation: String,
}

/// Finds the development broker of a data folder, or starts `program dev-broker --data …`, and waits until it answers
/// and has the topics (name and number of partitions). Existing topics keep their partitions.
pub fn ensure(program: &Path, data: &Path, topics: &BTreeMap<String, i32>) -> Result<DevBroker, Error> {
    write(&data.join(TOPICS), topics)?;
    let mut broker = match find(data) {
        Some(broker) => broker,
        None => start(program, data)?,
    };
    broker.await_topics(topics).inspect_err(|_| end(broker.child.take()))?;
    Ok(broker)
}

impl DevBroker {
    /// Creates the topics that are missing, and waits until they are there. Existing topics keep their partitions.
    pub fn make_topics(&self, topics: &BTreeMap<String, i32>) -> Result<(), Error> {
        write(&self.lease.with_file_name(TOPICS), topics)?;
        self.await_topics(topics)
    }

    fn await_topics(&self, topics: &BTreeMap<String, i32>) -> Result<(), Error> {
        let deadline = Instant::now() + START_MAX;
        while !topics.keys().all(|topic| self.topics().contains(topic)) {
            if Instant::now() > deadline {
                return Err(Error::DevBroker(format!("{} did not create its topics in time", self.brokers)));
            }
            look_again_later();
        }
        Ok(())
    }

    /// Ends the broker, and its data with it.
    pub fn stop(mut self) {
        let _ = std::fs::remove_file(&self.lease);
        let deadline = Instant::now() + Duration::from_secs(2);
        while connects(&self.brokers) && Instant::now() < deadline {
            look_again_later();
        }
        end(self.child.take());
    }

    fn topics(&self) -> Vec<String> {
        topics_of(&self.brokers)
    }
}

/// Runs a development broker until SIGINT, SIGTERM, or the end of its lease. It fails if there already is one.
pub fn run(data: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(data).map_err(|error| file_error("make", data, &error))?;
    if let Some(other) = find(data) {
        let (pid, brokers) = (other.pid, other.brokers);
        return Err(Error::DevBroker(format!("one already runs for {}: process {pid} at {brokers}", data.display())));
    }
    let mut config = ClientConfig::new();
    config.set("client.id", "wasmill-dev-broker").set("test.mock.num.brokers", "1");
    config.set_log_level(RDKafkaLogLevel::Notice);
    let context = BrokerContext(Context::new("dev-broker", Health::default()));
    let client: BaseProducer<BrokerContext> =
        config.create_with_context(context).map_err(|error| client_error("dev-broker", error))?;
    let cluster = client.client().mock_cluster().ok_or_else(|| Error::DevBroker("it has no cluster".into()))?;

    let incarnation = uuid::Uuid::now_v7().simple().to_string();
    cluster
        .create_topic(&format!("{IDENTITY_TOPIC}{incarnation}"), 1, 1)
        .map_err(|error| Error::DevBroker(error.to_string()))?;
    make_topics(&cluster, data);
    let lease = Lease { pid: std::process::id(), brokers: cluster.bootstrap_servers(), incarnation };
    write(&data.join(LEASE), &lease)?;
    tracing::info!(brokers = lease.brokers, "the development broker is running");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::DevBroker(error.to_string()))?;
    runtime.block_on(serve(data, &lease, || {
        client.poll(Duration::ZERO);
        make_topics(&cluster, data);
    }));
    if read(&data.join(LEASE)).as_ref() == Some(&lease) {
        let _ = std::fs::remove_file(data.join(LEASE));
    }
    Ok(())
}

async fn serve(data: &Path, lease: &Lease, mut tick: impl FnMut()) {
    let mut stop = std::pin::pin!(stop_signal());
    let mut interval = tokio::time::interval(CHECK_EVERY);
    loop {
        tokio::select! {
            () = &mut stop => return,
            _ = interval.tick() => {}
        }
        if read(&data.join(LEASE)).as_ref() != Some(lease) {
            return;
        }
        tick();
    }
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    let _ = tokio::signal::ctrl_c().await;
}

fn make_topics<C: ClientContext>(cluster: &MockCluster<'_, C>, data: &Path) {
    let topics: BTreeMap<String, i32> = read(&data.join(TOPICS)).unwrap_or_default();
    for (topic, partitions) in topics {
        // For an existing topic this returns an error, which is ignored.
        let _ = cluster.create_topic(&topic, partitions, 1);
    }
}

/// Finds the development broker of a data folder, if one is running and answers.
pub fn find(data: &Path) -> Option<DevBroker> {
    let lease: Lease = read(&data.join(LEASE))?;
    let identity = format!("{IDENTITY_TOPIC}{}", lease.incarnation);
    // This tries a connection first, because librdkafka would retry a dead broker until the time-out.
    let answers = connects(&lease.brokers) && topics_of(&lease.brokers).contains(&identity);
    answers.then(|| broker(data, lease, None))
}

fn broker(data: &Path, lease: Lease, child: Option<Child>) -> DevBroker {
    let Lease { pid, brokers, incarnation } = lease;
    DevBroker { brokers, incarnation, pid, lease: data.join(LEASE), child }
}

fn start(program: &Path, data: &Path) -> Result<DevBroker, Error> {
    // The process id in an old lease may now be that of the new broker.
    let _ = std::fs::remove_file(data.join(LEASE));
    let log_path = data.join(LOG);
    let log = std::fs::File::create(&log_path).map_err(|error| file_error("make", &log_path, &error))?;
    let mut command = Command::new(program);
    command.arg("dev-broker").arg("--data").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // The broker must outlive a host that is killed, and must not get the ctrl-c that the terminal sends to the host.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child =
        command.spawn().map_err(|error| Error::DevBroker(format!("can't start {}: {error}", program.display())))?;
    let deadline = Instant::now() + START_MAX;
    loop {
        let lease: Option<Lease> = read(&data.join(LEASE)).filter(|lease: &Lease| lease.pid == child.id());
        if let Some(lease) = lease {
            return Ok(broker(data, lease, Some(child)));
        }
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > deadline {
            end(Some(child));
            let how = ended.map_or("did not start in time".to_owned(), |status| format!("ended with {status}"));
            return Err(Error::DevBroker(format!("it {how}; see {}", log_path.display())));
        }
        look_again_later();
    }
}

/// Pauses between two checks of another process, which sends no signal.
#[expect(clippy::disallowed_methods, reason = "each wait has a deadline of its own, before a host runs or after it")]
fn look_again_later() {
    std::thread::sleep(LOOK_EVERY);
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn connects(brokers: &str) -> bool {
    let address: Option<SocketAddr> = brokers.split(',').next().and_then(|address| address.parse().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

fn topics_of(brokers: &str) -> Vec<String> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Emerg);
    let client: Result<BaseConsumer, _> = config.create();
    let metadata = client.and_then(|client| client.fetch_metadata(None, Duration::from_secs(3)));
    metadata.map_or(Vec::new(), |metadata| metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a file completely or not at all, so that a reader never sees half of it.
fn write(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).expect("plain data becomes JSON");
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&aside, text)
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|error| file_error("write", path, &error))
}

fn file_error(doing: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::DevBroker(format!("can't {doing} {}: {error}", path.display()))
}

/// The context of the broker's own client, which only holds the cluster and its log, and sends nothing.
struct BrokerContext(Context);

impl ClientContext for BrokerContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for BrokerContext {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kafka::testing::eventually;
    use crate::kafka::{Connection, topics};
    use crate::manifest::Topic;

    /// Returns a handle for a broker that a test runs itself.
    pub(in crate::kafka) fn broker_at(brokers: &str) -> DevBroker {
        let lease = Lease { pid: 0, brokers: brokers.into(), incarnation: "test".into() };
        broker(Path::new("no folder"), lease, None)
    }

    #[test]
    fn a_broker_is_found_gets_new_topics_and_ends_with_its_lease() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        let running = std::thread::spawn(move || run(&data));
        eventually("the broker serves", || find(folder.path()).is_some());
        let first = find(folder.path()).unwrap();
        assert!(run(folder.path()).unwrap_err().to_string().contains("runs for"), "a second one must be refused");

        let nothing = Path::new("/no/such/program");
        let topics = BTreeMap::from([("baskets".to_owned(), 6), ("notifications".to_owned(), 1)]);
        let broker = ensure(nothing, folder.path(), &topics).unwrap();
        assert_eq!((&broker.incarnation, broker.pid), (&first.incarnation, std::process::id()));

        let connection = Connection::of_dev_broker(&Default::default()).unwrap().at(&broker);
        let wanted = |partitions| BTreeMap::from([("baskets".to_owned(), Topic { partitions, ..Topic::default() })]);
        let report = topics::ensure(&connection, &wanted(6)).unwrap();
        assert!(report.made.is_empty() && report.differences.is_empty() && report.failed.is_empty(), "{report:?}");
        let differences = topics::ensure(&connection, &wanted(4)).unwrap().differences;
        assert!(differences[0].starts_with("topic baskets has 6 partitions, the manifest says 4;"), "{differences:?}");

        broker.stop();
        running.join().unwrap().unwrap();
        assert!(!folder.path().join(LEASE).exists());
        let error = ensure(nothing, folder.path(), &topics).unwrap_err().to_string();
        assert!(error.contains("can't start /no/such/program"), "{error}");
    }
}
