//! Tests of the worker with scripted code, on a real store.

use super::*;
use crate::ack::{self, Settlement, SettlementReceiver};
use crate::aggregates::Aggregates;
use crate::backoff::Backoff;
use crate::bounds::Bounds;
use crate::model::{Header, Origins};
use crate::plugin::{Effect, OutgoingMessage};
use crate::store::EventStore;
use crate::store::sqlite::{FILE_NAME, Options, SqliteStore};
use crate::subscriptions::callbacks::DeferredRecords;
use crate::subscriptions::outbox::Outbox;
use crate::subscriptions::pausing::Pausing;
use crate::subscriptions::records::run::tests::record;
use std::sync::Mutex;
use std::sync::mpsc;
use std::thread::JoinHandle;

const LEDGER: &str = "kafka/taps/taps/0";

/// Code that publishes each record's offset under its key. The records in `refuses` fail at their first attempts.
#[derive(Default)]
struct Publishes {
    /// Offsets, with the number of failures of each.
    refuses: Vec<(i64, u32)>,
    /// The offsets of each call.
    calls: Arc<Mutex<Vec<Vec<i64>>>>,
}

impl TakesRecords for Publishes {
    fn renew(&mut self) -> bool {
        false
    }

    fn replace(&mut self) {}

    fn list(&self, items: usize) -> usize {
        items
    }

    fn records(&mut self, _: &str, records: &[&Record]) -> Result<Effects, Unhandled> {
        self.calls.lock().unwrap().push(records.iter().map(|record| record.offset).collect());
        for record in records {
            if let Some((_, left)) = self.refuses.iter_mut().find(|(offset, _)| *offset == record.offset)
                && *left > 0
            {
                *left -= 1;
                return Err(Unhandled::Trap("a scripted failure".into(), None));
            }
        }
        let mut effects = Effects::default();
        effects.list = (0..).zip(records).map(|(index, record)| (index, Effect::Message(message(record)))).collect();
        Ok(effects)
    }
}

fn message(record: &Record) -> OutgoingMessage {
    OutgoingMessage {
        topic: "t".into(),
        key: record.key.clone(),
        partition: None,
        headers: Vec::<Header>::new(),
        payload: Some(record.offset.to_string().into_bytes()),
    }
}

/// A running worker, and the source that feeds it.
struct Bench {
    store: Arc<dyn EventStore>,
    runs: Sender<RecordRun>,
    asks: Sender<Ask>,
    settlements: mpsc::Receiver<Settlement>,
    receiver: SettlementReceiver,
    pausing: Arc<Pausing>,
    condition: Arc<Mutex<(State, Option<String>)>>,
    thread: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn start(code: Publishes, batch_max: usize, attempts_max: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn EventStore> =
            Arc::new(SqliteStore::open(&folder.path().join(FILE_NAME), Options::default()).unwrap());
        let aggregates = Arc::new(Aggregates::start([], &store).unwrap());
        let subscription: Arc<str> = "source/taps".into();
        let shared = RecordLinks {
            outbox: Arc::new(Outbox::new(subscription.clone(), store.clone(), aggregates, Default::default())),
            pausing: Arc::new(Pausing::load(subscription.clone(), store.clone()).unwrap()),
            condition: Arc::new(Mutex::new((State::Starting, None))),
            steps: Arc::default(),
            store: store.clone(),
            subscription,
            deferred: DeferredRecords {
                source: "taps".into(),
                on_failure: OnFailure::HoldKey,
                keys: Arc::default(),
                turns: Arc::default(),
            },
        };
        let (runs, records) = crossbeam_channel::unbounded();
        let (asks, asked) = crossbeam_channel::unbounded();
        let options = RecordOptions {
            source: "taps".into(),
            batch_max,
            attempts_max,
            backoff: Backoff { first: Duration::from_millis(1), max: Duration::from_secs(1) },
            on_failure: OnFailure::HoldKey,
            bounds: Bounds::default(),
        };
        let ends = Ends { records, queued: Arc::default(), asked };
        let (pausing, condition) = (shared.pausing.clone(), shared.condition.clone());
        let mut worker = RecordWorker::new(code, options, shared, ends);
        let thread = std::thread::spawn(move || worker.run());
        let (sender, settlements) = mpsc::channel();
        let receiver: SettlementReceiver = Arc::new(move |part, _| sender.send(part).unwrap());
        Self { store, runs, asks, settlements, receiver, pausing, condition, thread, _folder: folder }
    }

    fn until_paused(&self) {
        while self.condition.lock().unwrap().0 != State::Paused {
            std::thread::yield_now();
        }
    }

    /// Hands on records, each as a run of its own.
    fn offer(&self, records: &[(&str, u64)]) {
        for &(key, offset) in records {
            self.runs.send(RecordRun::new(LEDGER.into(), offset, record(key, offset), self.receiver.clone())).unwrap();
        }
    }

    /// Waits for the settlements of this many records, and returns the offsets: settled, and not settled.
    fn settlements(&self, records: usize) -> (Vec<u64>, Vec<u64>) {
        let (mut settled, mut unsettled) = (Vec::new(), Vec::new());
        while settled.len() + unsettled.len() < records {
            let part = self.settlements.recv_timeout(Duration::from_secs(60)).expect("each record is acknowledged");
            if part.is_settled { settled.push(part.last) } else { unsettled.push(part.last) }
        }
        unsettled.sort_unstable();
        (settled, unsettled)
    }

    /// Returns the offsets in the outbox, in their order.
    fn published(&self) -> Vec<String> {
        let messages = self.store.reader().unwrap().messages(0, 1_000).unwrap();
        messages.into_iter().map(|(_, message)| String::from_utf8(message.payload.unwrap()).unwrap()).collect()
    }

    fn stop(self) {
        self.asks.send(Ask::Stop).unwrap();
        self.thread.join().unwrap();
        self.store.close();
    }
}

#[test]
fn nothing_of_a_partition_passes_a_record_whose_step_failed() {
    let bench = Bench::start(Publishes::default(), 2, 5);
    // The store has already settled record 1, so the step with records 0 and 1 fails.
    let records = vec![Origins { ledger: LEDGER.into(), first: 1, items: vec![1] }];
    let settled = Outgoing::default().step(&"source/taps".into(), Reached::Records { number: 0, records });
    ack::wait(|ack| bench.store.advance(settled, ack)).unwrap();
    bench.offer(&[("a", 0), ("b", 1), ("a", 2), ("b", 3), ("a", 4)]);
    assert_eq!(bench.settlements(5), (vec![], vec![0, 1, 2, 3, 4]), "later records of a key passed what failed");
    // The source does this once nothing is in flight.
    bench.offer(&[("a", 0), ("a", 2), ("b", 3), ("a", 4)]);
    assert_eq!(bench.settlements(4), (vec![0, 2, 3, 4], vec![]));
    assert_eq!(bench.published(), ["0", "2", "3", "4"]);
    bench.stop();
}

#[test]
fn a_record_is_tried_as_often_as_its_dead_letter_says() {
    let code = Publishes { refuses: vec![(0, 9)], ..Publishes::default() };
    let calls = code.calls.clone();
    let bench = Bench::start(code, 10, 3);
    bench.offer(&[("a", 0)]);
    bench.settlements(1);
    assert_eq!(*calls.lock().unwrap(), [[0], [0], [0]]);
    let (letters, _) = bench.store.reader().unwrap().dead_letters(&crate::store::DeadLetterQuery::newest(1)).unwrap();
    assert!(letters[0].letter.reason.ends_with("(tried 3 times)"), "{}", letters[0].letter.reason);
    bench.stop();
}

#[test]
fn later_records_of_a_key_are_deferred_behind_its_dead_letter() {
    let bench = Bench::start(Publishes { refuses: vec![(1, 9)], ..Publishes::default() }, 10, 1);
    bench.offer(&[("a", 0), ("a", 1), ("b", 2), ("a", 3), ("a", 4)]);
    assert_eq!(bench.settlements(5).1, Vec::<u64>::new(), "all are settled");
    assert_eq!(bench.published(), ["0", "2"]);
    let mut reader = bench.store.reader().unwrap();
    assert_eq!(reader.deferred("source/taps").unwrap(), [(Some(b"t:0:text:a".to_vec()), 2)]);
    let due = reader.due_callbacks("source/taps", 1, &Default::default(), 10).unwrap();
    assert!(due.is_empty(), "they wait: {due:?}");
    ack::wait(|ack| bench.store.discard_dead_letter(1, ack)).unwrap();
    let due = reader.due_callbacks("source/taps", 1, &Default::default(), 10).unwrap();
    assert_eq!(due.iter().map(crate::model::KeptCallback::id).collect::<Vec<_>>(), ["t:0:3", "t:0:4"]);
    bench.stop();
}

#[test]
fn a_paused_one_gives_back_what_it_has_when_the_source_ends_and_handles_it_once_it_is_resumed() {
    let code = Publishes::default();
    let calls = code.calls.clone();
    let bench = Bench::start(code, 10, 3);
    bench.pausing.set(true).unwrap();
    assert!(Pausing::load("source/taps".into(), bench.store.clone()).unwrap().is_paused(), "it is durable");
    // The thread checks for the pause at intervals, and still handles records that come before that.
    bench.until_paused();
    bench.offer(&[("a", 0), ("a", 1)]);
    bench.pausing.set(false).unwrap();
    assert_eq!(bench.settlements(2), (vec![0, 1], vec![]), "resumed, it goes on");
    let handled = calls.lock().unwrap().len();
    bench.pausing.set(true).unwrap();
    bench.until_paused();
    bench.offer(&[("a", 2), ("b", 3)]);
    bench.asks.send(Ask::GiveBack).unwrap();
    assert_eq!(bench.settlements(2), (vec![], vec![2, 3]));
    assert_eq!(calls.lock().unwrap().len(), handled, "nothing was handled while it was paused");
    bench.stop();
}

#[test]
fn one_that_is_paused_after_its_source_began_to_end_gives_back_too() {
    let bench = Bench::start(Publishes::default(), 10, 3);
    bench.asks.send(Ask::GiveBack).unwrap();
    bench.pausing.set(true).unwrap();
    bench.until_paused();
    bench.offer(&[("a", 0), ("b", 1)]);
    assert_eq!(bench.settlements(2), (vec![], vec![0, 1]));
    bench.stop();
}

/// After a new consumer or a rebalance, a partition is read again while older copies of its records are still here.
#[test]
fn nothing_passes_the_records_behind_one_that_an_older_copy_has_settled() {
    let bench = Bench::start(Publishes::default(), 2, 3);
    bench.offer(&[("a", 0), ("a", 1)]);
    assert_eq!(bench.settlements(2), (vec![0, 1], vec![]));
    bench.offer(&[("a", 0), ("a", 1), ("a", 2), ("a", 3)]);
    let ended = bench.settlements(4);
    if ended == (vec![2, 3], vec![0, 1]) {
        // The step with the older copies had failed before the worker took the others: nothing is left to pass.
        return bench.stop();
    }
    assert_eq!(ended, (vec![], vec![0, 1, 2, 3]));
    bench.offer(&[("a", 4), ("a", 5)]);
    assert_eq!(bench.settlements(2), (vec![], vec![4, 5]), "2 and 3 come first");
    bench.offer(&[("a", 2), ("a", 3), ("a", 4), ("a", 5)]);
    assert_eq!(bench.settlements(4), (vec![2, 3, 4, 5], vec![]));
    bench.stop();
}
