//! A real Kafka for tests: the cluster named in `WASMILL_TEST_KAFKA`, or one node that the tests of a program share.
//!
//! The node starts with its first user and ends with its last. Tests use topics of their own, and nothing is cleaned up
//! in a given cluster. If there is neither a cluster nor Java, the tests are skipped. `cargo xtask test` says so, and
//! with `CI=true` it is an error.

use crate::{built, host};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use xtask::kafka::{GIVEN, Node, missing, missing_for_node, tool};

const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longest time for which the console consumer waits for a message, its own start included.
const MESSAGE_WAIT_MS: &str = "30000";
/// Longest time for which the console consumer is run again when it has given up.
const READ_MAX: Duration = Duration::from_secs(90);
/// Interval at which a question is repeated.
const LOOK: Duration = Duration::from_millis(100);
/// Prefix of the ids of the records that mark the end of a topic, so that a reader knows when it has read all.
const END: &str = "end-of-reading/";

static SHARED: Mutex<Weak<Kafka>> = Mutex::new(Weak::new());

/// A real Kafka.
pub struct Kafka {
    brokers: String,
    // Fields are dropped in this order, so the node ends before its folder is removed.
    node: Option<Mutex<Node>>,
    _folder: tempfile::TempDir,
}

/// A message as Kafka's own console consumer shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown {
    /// Its partition.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// The header `ce_id`.
    pub id: String,
    /// Its value.
    pub value: String,
}

impl Kafka {
    /// Returns the Kafka of this program, or `None` if there can be none.
    pub fn shared() -> Option<Arc<Self>> {
        if built::left_out(missing()) {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        Some(shared.upgrade().unwrap_or_else(|| {
            let kafka = Arc::new(Self::start());
            *shared = Arc::downgrade(&kafka);
            kafka
        }))
    }

    fn start() -> Self {
        let folder = tempfile::tempdir().expect("make a temporary folder");
        match std::env::var(GIVEN) {
            Ok(brokers) => Self { brokers, node: None, _folder: folder },
            Err(_) => Self::start_node(folder),
        }
    }

    fn start_node(folder: tempfile::TempDir) -> Self {
        let node = Node::start(folder.path()).unwrap_or_else(|error| panic!("{error:?}"));
        Self { brokers: node.brokers().to_owned(), node: Some(Mutex::new(node)), _folder: folder }
    }

    /// Starts a node for one test, which may stop it. Returns `None` if none can be started.
    pub fn own() -> Option<Self> {
        if built::left_out(missing_for_node()) {
            return None;
        }
        Some(Self::start_node(tempfile::tempdir().expect("make a temporary folder")))
    }

    /// Ends a node of the test's own as a power cut would, and restarts it after `meanwhile`.
    pub fn restart(&self, meanwhile: impl FnOnce()) {
        let mut node = self.node().expect("a node of the test's own");
        node.kill().expect("end Kafka");
        meanwhile();
        node.start_again().expect("start Kafka again");
    }

    /// Freezes a node of the test's own, as a machine that is suspended would.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets a frozen node resume.
    pub fn wake(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        host::signal(self.broker().expect("a node of the test's own"), signal);
    }

    fn node(&self) -> Option<MutexGuard<'_, Node>> {
        self.node.as_ref().map(|node| node.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns its address.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// Returns the process of its node, if the node was started here.
    pub fn broker(&self) -> Option<u32> {
        self.node().map(|node| node.pid())
    }

    /// Creates a topic for this test, and returns its name.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        make_topic(&self.brokers, name, partitions)
    }

    /// Returns the next offsets of a topic, by partition. There are none if there is no such topic.
    pub fn ends(&self, topic: &str) -> Vec<i64> {
        let client: BaseConsumer = self.client().create().expect("make a client");
        // A broker that is asked about all topics creates none.
        let metadata = client.fetch_metadata(None, ANSWER_MAX).expect("Kafka answers");
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.map_or(0, |topic| topic.partitions().len() as i32);
        (0..partitions).map(|partition| end_of(&client, topic, partition)).collect()
    }

    /// Returns the offsets of a topic that a group has committed, by partition. An offset is -1 if it has none.
    pub fn committed(&self, group: &str, topic: &str) -> Vec<i64> {
        let mut config = self.client();
        let client: BaseConsumer = config.set("group.id", group).create().expect("make a client");
        let mut wanted = TopicPartitionList::new();
        (0..self.ends(topic).len() as i32).for_each(|partition| _ = wanted.add_partition(topic, partition));
        let committed = client.committed_offsets(wanted, ANSWER_MAX).expect("Kafka answers");
        let offset = |found: &TopicPartitionListElem<'_>| match found.offset() {
            Offset::Offset(offset) => offset,
            _ => -1,
        };
        committed.elements().iter().map(offset).collect()
    }

    /// Returns whether a transaction with messages in a topic is neither committed nor aborted. Then the end for
    /// `read_committed` readers is before the end for others.
    pub fn has_open_transaction(&self, topic: &str) -> bool {
        let ends = |isolation: &str| {
            let mut config = self.client();
            let client: BaseConsumer = config.set("isolation.level", isolation).create().expect("make a client");
            let partitions = self.ends(topic).len() as i32;
            let end = |partition| client.fetch_watermarks(topic, partition, ANSWER_MAX).expect("Kafka answers").1;
            (0..partitions).map(end).collect::<Vec<_>>()
        };
        // The order matters: a transaction that ends in between must not count as open.
        let all = ends("read_uncommitted");
        ends("read_committed").iter().zip(all).any(|(committed, all)| *committed < all)
    }

    /// Returns the committed messages of a topic as Kafka's own console consumer reads them, up to a record that is put
    /// at the end of each partition. The tool gives up when it has waited too long, its start and the joining of its
    /// group included. On a busy machine it is therefore run again, which reads the same.
    pub fn read_committed(&self, topic: &str) -> Vec<Shown> {
        let end = format!("{END}{}/{}", std::process::id(), wasmill::clock::Clock::system().now_ms());
        let partitions = self.mark_ends(topic, &end);
        let deadline = Instant::now() + READ_MAX;
        loop {
            match self.read_to(topic, &end, partitions) {
                Ok(read) => return read,
                Err(why) if Instant::now() < deadline => eprintln!("{why}; it is run again"),
                Err(why) => panic!("{why}"),
            }
        }
    }

    /// Runs the console consumer once. The error says why it ended early.
    fn read_to(&self, topic: &str, end: &str, partitions: usize) -> Result<Vec<Shown>, String> {
        let mut consumer = tool("org.apache.kafka.tools.consumer.ConsoleConsumer").expect("find Kafka's tools");
        consumer.args(["--bootstrap-server", &self.brokers, "--topic", topic, "--from-beginning"]);
        consumer.args(["--isolation-level", "read_committed", "--timeout-ms", MESSAGE_WAIT_MS]);
        for property in ["print.partition=true", "print.offset=true", "print.headers=true"] {
            consumer.args(["--property", property]);
        }
        let mut said = tempfile::tempfile().expect("make a temporary file");
        let stderr = said.try_clone().expect("share a file");
        consumer.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut consumer = consumer.spawn().expect("run the console consumer");
        let lines = BufReader::new(consumer.stdout.take().expect("it is piped")).lines();
        let (mut unread, mut read) = (partitions, Vec::new());
        for line in lines {
            let shown = shown(&line.expect("read the console consumer's output"));
            if shown.id == end {
                unread -= 1;
            } else if !shown.id.starts_with(END) {
                read.push(shown);
            }
            if unread == 0 {
                break;
            }
        }
        _ = consumer.kill();
        let status = consumer.wait().expect("the console consumer ends");
        if unread == 0 {
            return Ok(read);
        }
        let mut text = String::new();
        said.seek(SeekFrom::Start(0)).and_then(|_| said.read_to_string(&mut text)).expect("read what the tool said");
        Err(format!(
            "the console consumer ended ({status}) with {} messages read and {unread} partitions not read to the end: {text}",
            read.len()
        ))
    }

    /// Puts a record at the end of each partition. Returns how many partitions there are.
    fn mark_ends(&self, topic: &str, id: &str) -> usize {
        let producer: BaseProducer = self.client().create().expect("make a producer");
        let partitions = self.ends(topic).len();
        for partition in 0..partitions {
            let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(id) });
            let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition as i32).payload(b"").headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("produce a record");
        }
        producer.flush(ANSWER_MAX).expect("Kafka takes the records");
        partitions
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("group.id", "wasmill-tests");
        config
    }
}

/// Creates a topic whose name no other test process uses.
pub(crate) fn make_topic(brokers: &str, name: &str, partitions: i32) -> String {
    let name = format!("{name}-{}", std::process::id());
    let mut config = ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        config.set("bootstrap.servers", brokers).create().expect("make an admin client");
    let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("make a runtime");
    let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
    let made = runtime.block_on(admin.create_topics(&[topic], &options)).expect("make a topic");
    made.into_iter().for_each(|made| _ = made.expect("make a topic"));
    name
}

/// Parses `Partition:0 <tab> Offset:7 <tab> name:value,name:value <tab> value`.
fn shown(line: &str) -> Shown {
    let fields: Vec<_> = line.splitn(4, '\t').collect();
    let [partition, offset, headers, value] = fields[..] else { panic!("not four fields: {line}") };
    let number = |field: &str, name: &str| field.strip_prefix(name).and_then(|number| number.parse::<i64>().ok());
    let id = headers.split(',').find_map(|header| header.strip_prefix("ce_id:"));
    Shown {
        partition: number(partition, "Partition:").expect("a partition") as i32,
        offset: number(offset, "Offset:").expect("an offset"),
        id: id.expect("every message has an id").to_owned(),
        value: value.to_owned(),
    }
}

/// Returns the next offset of a partition. A partition of a new topic may have no leader for a moment.
fn end_of(client: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let deadline = Instant::now() + ANSWER_MAX;
    loop {
        match client.fetch_watermarks(topic, partition, ANSWER_MAX) {
            Ok((_, end)) => return end,
            Err(error) => assert!(Instant::now() < deadline, "Kafka tells no end of {topic} [{partition}]: {error}"),
        }
        std::thread::park_timeout(LOOK);
    }
}
