use super::*;
use super::testing::*;
use crate::aggregates::*;
use crate::model::*;
use crate::store::EventStore;
use crate::manifest;
use rdkafka::producer::*;
use rdkafka::ClientConfig;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::*;

struct Null;
impl Inbox for Null {
    fn offer(&self, command: Command, reply: Reply) -> Result<(), Unaccepted> {
        std::hint::black_box(&command);
        reply(Outcome::Accepted { version: Version(1), position: Position(1), events: 1 });
        Ok(())
    }
}

#[test]
fn real() {
    let Ok(brokers) = std::env::var("WASMILL_TEST_KAFKA") else { return };
    let suffix = now_ms();
    let connection = Connection::new(&brokers, &BTreeMap::new()).unwrap();
    let topic = format!("adhoc{suffix}");
    let tx = format!("tx{suffix}");
    let t = |n| manifest::Topic { partitions: n, replication: 1, config: BTreeMap::from([("retention.ms".to_string(), "7000000".to_string())]) };
    let topics = BTreeMap::from([(topic.clone(), t(6)), (tx.clone(), t(1)), (format!("out{suffix}"), t(3))]);
    println!("{:?}", topics::ensure(&connection, &topics));
    println!("{:?}", topics::ensure(&connection, &topics));
    let mut other = topics.clone();
    other.insert(topic.clone(), manifest::Topic { partitions: 3, replication: 1, config: BTreeMap::from([("retention.ms".to_string(), "1".to_string())]) });
    println!("{:?}", topics::ensure(&connection, &other));

    // transactional input
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("transactional.id", format!("t{suffix}")).set("retry.backoff.ms", "5");
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(Duration::from_secs(10)).unwrap();
    for round in 0..10 {
        producer.begin_transaction().unwrap();
        for n in 0..10 {
            producer.send(BaseRecord::to(&tx).key(&format!("r{round}n{n}")).payload("{}")).map_err(|e| e.0).unwrap();
        }
        if round % 3 == 0 { producer.flush(Duration::from_secs(5)).unwrap(); producer.abort_transaction(Duration::from_secs(10)).unwrap(); } else { producer.commit_transaction(Duration::from_secs(10)).unwrap(); }
    }
    let folder = Folder::new();
    let inbox = Recorder::new(&folder.store, Mood::Willing);
    let mut c = source::Config::new("tx", &manifest::Source { topic: tx.clone(), aggregate: "a".into(), command: "C".into(), from: manifest::From::Beginning, in_flight_max: 64 });
    let source = Source::start(c.clone(), connection.clone(), folder.store.clone(), inbox.clone()).unwrap();
    eventually("caught up", || source.refresh_ends().is_ok() && source.is_caught_up());
    println!("{:?} events {}", source.status(), folder.events().len());
    source.stop();
    let source = Source::start(c.clone(), connection.clone(), folder.store.clone(), inbox.clone()).unwrap();
    eventually("caught up", || source.refresh_ends().is_ok() && source.is_caught_up());
    println!("{:?} events {}", source.status(), folder.events().len());
    source.stop();

    // throughput
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("linger.ms", "50").set("queue.buffering.max.messages", "2000000");
    let producer: BaseProducer = config.create().unwrap();
    let value = "x".repeat(300);
    let count: u64 = std::env::var("COUNT").map_or(600_000, |c| c.parse().unwrap());
    let at = Instant::now();
    for n in 0..count {
        loop {
            match producer.send(BaseRecord::to(&topic).key(&format!("b{n}")).payload(&value)) {
                Ok(()) => break,
                Err(_) => { producer.poll(Duration::from_millis(10)); }
            }
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
    println!("produced {count} in {:?}", at.elapsed());
    for (name, inbox, max) in [("null", Arc::new(Null) as Arc<dyn Inbox>, 1024), ("store", Recorder::new(&folder.store, Mood::Willing), 1024)] {
        c.name = name.into(); c.topic = topic.as_str().into(); c.in_flight_max = max;
        let source = Source::start(c.clone(), connection.clone(), folder.store.clone(), inbox).unwrap();
        eventually("start", || *source.progress().borrow() > 1000);
        let (at, before) = (Instant::now(), *source.progress().borrow());
        eventually("caught up", || *source.progress().borrow() == count);
        println!("{name}: {:.0}/s", (count - before) as f64 / at.elapsed().as_secs_f64());
        source.stop();
    }

    {
        let recorder = Recorder::new(&folder.store, Mood::Willing);
        let at = Instant::now();
        let (sent, done) = (100_000u64, Arc::new(std::sync::atomic::AtomicU64::new(0)));
        for n in 0..sent {
            let id: Arc<str> = format!("baskets:0:{n}").into();
            let command = Command { stream: StreamId::new("a", format!("z{n}").as_str()), name: "C".into(), payload: value.clone().into_bytes(), id: id.clone(), time_ms: 1, correlation_id: id.clone(), causation_id: id, headers: vec![], origin: Some(Origin { ledger: "kafka/direct/x/0".into(), first: n, last: n }), durable_id: false, expected: None };
            let done = done.clone();
            let _ = recorder.offer(command, Box::new(move |_| { done.fetch_add(1, std::sync::atomic::Ordering::Relaxed); }));
        }
        eventually("direct", || done.load(std::sync::atomic::Ordering::Relaxed) == sent);
        println!("direct: {:.0}/s", sent as f64 / at.elapsed().as_secs_f64());
    }
    // sink
    let out = format!("out{suffix}");
    let messages: Vec<Message> = (0..100_000).map(|n| Message { id: format!("m{n}").into(), topic: out.clone(), key: Some(format!("k{n}").into_bytes()), partition: None, headers: vec![], payload: Some(vec![b'x'; 200]), time_ms: 5, correlation_id: "c".into(), causation_id: "d".into(), source: "s".into() }).collect();
    for (n, chunk) in messages.chunks(1000).enumerate() {
        let progress = crate::store::Progress { subscription: "s".into(), from: Position(n as u64), to: Position(n as u64 + 1), commands: vec![], messages: chunk.to_vec(), parked: vec![] };
        wait_for(|done| folder.store.advance(progress, done)).unwrap();
    }
    let at = Instant::now();
    let sink = Sink::start(sink::Config::new(&manifest::Sink { batch_max: 1000 }), connection.clone(), folder.store.clone()).unwrap();
    eventually("sink", || sink.status().pending == 0);
    println!("sink: {:.0}/s {:?}", 100_000.0 / at.elapsed().as_secs_f64(), sink.status());
    let mut worst = Duration::ZERO;
    let mut sum = Duration::ZERO;
    for n in 0..200u64 {
        let progress = crate::store::Progress { subscription: "s".into(), from: Position(100 + n), to: Position(101 + n), commands: vec![], messages: messages[..1].to_vec(), parked: vec![] };
        let at = Instant::now();
        wait_for(|done| folder.store.advance(progress, done)).unwrap();
        let before = 100_000 + n;
        while sink.status().published == before { std::thread::yield_now(); }
        worst = worst.max(at.elapsed()); sum += at.elapsed();
    }
    println!("single message: mean {:?} worst {:?}", sum / 200, worst);
    // unknown topic
    let progress = crate::store::Progress { subscription: "s".into(), from: Position(300), to: Position(301), commands: vec![], messages: vec![Message { topic: "nope".into(), ..messages[0].clone() }], parked: vec![] };
    let at = Instant::now();
    wait_for(|done| folder.store.advance(progress, done)).unwrap();
    eventually("parked", || sink.status().pending == 0);
    println!("{:?} {:?}", at.elapsed(), folder.dead_letters());
}
