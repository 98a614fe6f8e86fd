//! Tests of Kafka's answers to a transaction: what each means, and that the messages are published all the same. The
//! client is the real one, and librdkafka's mock cluster answers from a script.

use super::*;
use crate::kafka::rivalry::RIVALRY_MAX;
use crate::kafka::testing::{Broker, Folder, eventually, message};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const TOPIC: &str = "out";

/// An owner that keeps the texts that it is given.
#[derive(Clone, Default)]
struct Quiet(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

impl Owner for Quiet {
    fn check(&self) -> Result<(), Broken> {
        if self.1.load(Ordering::SeqCst) { Err(Broken::Stopped) } else { Ok(()) }
    }

    fn trouble(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }
}

/// A broker, with transactions on it.
struct Scene {
    broker: Broker,
    group: BaseConsumer,
    health: Health,
    owner: Quiet,
    transactions: Transactions<Quiet>,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(properties: &[(&str, &str)]) -> Self {
        let broker = Broker::with_topic(TOPIC, 1);
        let connection = broker.cluster_connection(properties);
        let (health, owner) = (Health::default(), Quiet::default());
        let cloud_events = CloudEvents::new(connection.cloud_events(), &*Folder::new().store);
        let config = connection.transactional_producer("test", "the-id");
        let remedy = "stop the other one".to_owned();
        let made = Transactions::new("test".into(), config, health.clone(), cloud_events, owner.clone(), remedy);
        let group = connection.position_reader("the-group").create().unwrap();
        Self { broker, group, health, owner, transactions: made.unwrap() }
    }

    /// Attempts one transaction with a message. Returns the failed messages, or why the transaction failed.
    fn attempt(&mut self) -> Result<Vec<Failed>, Broken> {
        let message = message(TOPIC);
        self.transactions.begin()?;
        self.transactions.send(0, &message, Envelope::CloudEvent)?;
        let failed = self.transactions.wait_for_all()?;
        if !failed.is_empty() {
            self.transactions.abort()?;
            return Ok(failed);
        }
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(TOPIC, 0, Offset::Offset(1)).unwrap();
        self.transactions.commit(&offsets, &self.group.group_metadata().unwrap())?;
        Ok(Vec::new())
    }

    /// Does what an owner does after a failure, and then repeats the work.
    fn recovers(&mut self, broken: &Broken) -> Result<Vec<Failed>, Broken> {
        match broken {
            Broken::Abort(_) => self.transactions.abort()?,
            _ => self.transactions.take_over()?,
        }
        self.attempt()
    }
}

/// The result of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// librdkafka retries, and the transaction succeeds.
    Through,
    /// The message is reported as refused, and the transaction is aborted.
    Refused(Code),
    Abort,
    Renew,
    /// The same as `Renew`, because of another producer.
    Fenced,
}

#[test]
fn each_answer_of_kafka_has_its_consequence_and_the_work_is_done() {
    use Answer::*;
    use Comes::{Abort, Fenced, Refused, Renew, Through};
    let cases = [
        (Api::Produce, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, Through),
        (Api::Produce, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, Through),
        (Api::Produce, RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, Through),
        (Api::Produce, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, Refused(Code::MessageSizeTooLarge)),
        (Api::Produce, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Fenced),
        (Api::AddPartitionsToTxn, RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, Through),
        (Api::AddPartitionsToTxn, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, Through),
        (Api::AddPartitionsToTxn, RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Fenced),
        (Api::AddOffsetsToTxn, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, Through),
        (Api::AddOffsetsToTxn, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Fenced),
        (Api::AddOffsetsToTxn, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, Abort),
        (Api::TxnOffsetCommit, RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION, Abort),
        (Api::TxnOffsetCommit, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, Abort),
        // An answer of the group's coordinator only ends the transaction. The transaction coordinator answers the
        // abort.
        (Api::TxnOffsetCommit, RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Abort),
        (Api::EndTxn, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, Through),
        (Api::EndTxn, RD_KAFKA_RESP_ERR_NOT_COORDINATOR, Through),
        (Api::EndTxn, RD_KAFKA_RESP_ERR_PRODUCER_FENCED, Fenced),
        (Api::EndTxn, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, Fenced),
        (Api::EndTxn, RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Renew),
    ];
    let mut wrong = Vec::new();
    for (api, answer, expected) in cases {
        let mut scene = Scene::new();
        scene.transactions.take_over().unwrap();
        scene.broker.answers(api, &[answer]);
        let came = scene.attempt();
        let comes = match &came {
            Ok(failed) if failed.is_empty() => Through,
            Ok(failed) => Refused(failed[0].1),
            Err(Broken::Abort(_)) => Abort,
            Err(Broken::Renew(text)) if text.contains("another producer with the transactional id the-id") => Fenced,
            Err(Broken::Renew(_)) => Renew,
            Err(Broken::Stopped | Broken::Rival(_)) => panic!("{api:?} {answer:?}: {came:?}"),
        };
        let mut again = match &came {
            Ok(_) => scene.attempt(),
            Err(broken) => scene.recovers(broken),
        };
        // librdkafka may purge the first message of the next transaction together with an aborted one.
        for _ in 0..100 {
            if !again.as_ref().is_ok_and(|failed| failed.iter().any(|(_, code)| *code == Code::PurgeQueue)) {
                break;
            }
            again = scene.attempt();
        }
        if comes != expected || again != Ok(Vec::new()) {
            wrong.push(format!("{api:?} {answer:?}: {came:?}, then {again:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_take_over_waits_for_a_coordinator_that_loads() {
    let mut scene = Scene::new();
    let loading = Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    scene.broker.answers(Api::InitProducerId, &[loading, loading]);
    scene.transactions.take_over().unwrap();
    assert_eq!(scene.attempt(), Ok(Vec::new()));
}

#[test]
fn a_rival_that_comes_back_again_and_again_is_left_alone() {
    let mut scene = Scene::new();
    for fencing in 1..=RIVALRY_MAX {
        scene.transactions.take_over().unwrap();
        scene.broker.answers(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED]);
        match scene.attempt().unwrap_err() {
            Broken::Renew(text) if fencing < RIVALRY_MAX => assert!(text.contains("stop the other one"), "{text}"),
            Broken::Rival(text) if fencing == RIVALRY_MAX => assert!(text.contains("3 times within 5 min"), "{text}"),
            other => panic!("after {fencing} fencings: {other:?}"),
        }
    }
}

#[test]
fn a_time_out_of_the_coordinator_is_no_rival_however_often_it_happens() {
    let mut scene = Scene::with(&[(TIMEOUT, "1000")]);
    for _ in 0..=RIVALRY_MAX {
        scene.transactions.take_over().unwrap();
        scene.transactions.begin().unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(2);
        scene.transactions.open = Some(Since(Instant::now(), long_ago));
        let fenced = scene.transactions.fenced("epoch is not the newest".into());
        assert!(
            matches!(&fenced, Broken::Renew(text) if text.contains("longer than its transaction.timeout.ms of 1000"))
        );
    }
    scene.transactions.take_over().unwrap();
    assert_eq!(scene.attempt(), Ok(Vec::new()));
}

#[test]
fn too_few_replicas_in_sync_are_told_in_the_brokers_words_while_the_message_waits() {
    let mut scene = Scene::new();
    scene.transactions.take_over().unwrap();
    scene.broker.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 100]);
    let health = scene.health.clone();
    let told = std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut told = String::new();
            eventually("the broker's answer is shown", || {
                told = health.trouble().unwrap_or_default();
                !told.is_empty()
            });
            scene.owner.1.store(true, Ordering::SeqCst);
            told
        });
        let stopped = scene.transactions.begin().and_then(|()| {
            let message = message(TOPIC);
            scene.transactions.send(0, &message, Envelope::Bare)?;
            scene.transactions.wait_for_all()
        });
        assert_eq!(stopped, Err(Broken::Stopped));
        told.join().unwrap()
    });
    assert!(told.starts_with("topic out partition 0 takes no messages: Broker: Not enough in-sync replicas"), "{told}");
    assert!(told.contains("bring the brokers back"), "{told}");
    scene.owner.1.store(false, Ordering::SeqCst);
    scene.broker.cluster.clear_request_errors(Api::Produce);
    scene.transactions.take_over().unwrap();
    assert_eq!((scene.attempt(), scene.health.trouble()), (Ok(Vec::new()), None));
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted_before_the_coordinator_does_it() {
    let mut scene = Scene::with(&[(TIMEOUT, "1000")]);
    scene.transactions.take_over().unwrap();
    scene.broker.answers(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 1_000]);
    let aborted = scene.attempt();
    let told = |text: &str| text.contains("is tried again: topic out partition 0 takes no messages");
    assert!(matches!(&aborted, Err(Broken::Abort(text)) if told(text)), "{aborted:?}");
    scene.broker.cluster.clear_request_errors(Api::Produce);
    scene.transactions.abort().unwrap();
    assert_eq!(scene.attempt(), Ok(Vec::new()));
}
