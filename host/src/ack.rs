//! Acknowledgements: how the sender of something learns what became of it.
//!
//! A part that takes a command, a write or records keeps the acknowledgement until the outcome is durable. Each
//! acknowledgement is given exactly once. If its holder panics or stops, dropping it tells the sender that there is no
//! outcome: no sender waits for ever, and nothing counts as done that is not. This module does not know what is
//! acknowledged.

use std::fmt::Display;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An outcome type with a value for "nobody answered".
pub trait Unanswered {
    /// The outcome that the sender gets when an acknowledgement is dropped.
    fn unanswered() -> Self;
}

/// The acknowledgement of one item.
pub struct Ack<T: Unanswered> {
    /// `None` once the acknowledgement is given or cancelled.
    receive: Option<Receive<T>>,
}

type Receive<T> = Box<dyn FnOnce(T) + Send>;

impl<T: Unanswered> Ack<T> {
    /// Creates an acknowledgement that calls `receive` once, on the thread that knows the outcome. `receive` must not
    /// block.
    pub fn new(receive: impl FnOnce(T) + Send + 'static) -> Self {
        Self { receive: Some(Box::new(receive)) }
    }

    /// Gives the outcome to the sender.
    pub fn give(mut self, outcome: T) {
        self.end(outcome);
    }

    /// Ends the acknowledgement without telling the sender, who already knows.
    pub fn cancel(mut self) {
        self.receive = None;
    }

    fn end(&mut self, outcome: T) {
        if let Some(receive) = self.receive.take() {
            receive(outcome);
        }
    }
}

impl<T: Unanswered> Drop for Ack<T> {
    fn drop(&mut self) {
        if self.receive.is_some() {
            self.end(T::unanswered());
        }
    }
}

/// Creates an acknowledgement and the receiver of its outcome. An outcome that nobody waits for any more is dropped.
pub fn channel<T: Unanswered + Send + 'static>() -> (Ack<T>, oneshot::Receiver<T>) {
    let (sender, outcome) = oneshot::channel();
    (Ack::new(move |outcome| drop(sender.send(outcome))), outcome)
}

/// Calls `ask` with an acknowledgement and blocks until it is given.
pub fn wait<T: Unanswered + Send + 'static>(ask: impl FnOnce(Ack<T>)) -> T {
    let (sender, outcome) = crossbeam_channel::bounded(1);
    // The receiver outlives the acknowledgement: this function waits on it below.
    ask(Ack::new(move |outcome| drop(sender.send(outcome))));
    outcome.recv().unwrap_or_else(|_| T::unanswered())
}

/// What became of consecutive records of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The first offset that the records settle.
    pub first: u64,
    /// The offset of the last record, which is the last offset that the records settle.
    pub last: u64,
    /// The number of records.
    pub records: usize,
    /// The approximate memory of the records, in bytes.
    pub bytes: usize,
    /// Whether the store has settled the records in its ledger.
    pub is_settled: bool,
}

/// A callback for the settlements of a partition. The text says why records are not settled, if that is known. It must
/// not block.
pub type SettlementReceiver = Arc<dyn Fn(Settlement, Option<&str>) + Send + Sync>;

/// The acknowledgement of consecutive records of one partition. It can be split in two.
pub struct RangeAck {
    receiver: SettlementReceiver,
    settlement: Settlement,
    why: Option<Box<str>>,
}

impl RangeAck {
    /// Creates the acknowledgement of one record, at `last`, which settles the offsets `first` to `last`.
    pub fn new(receiver: SettlementReceiver, first: u64, last: u64, bytes: usize) -> Self {
        Self { receiver, settlement: Settlement { first, last, records: 1, bytes, is_settled: false }, why: None }
    }

    /// Returns the settlement that the source would receive if this were dropped now.
    pub fn settlement(&self) -> &Settlement {
        &self.settlement
    }

    /// Adds a record, at `offset`, which settles the offsets after the previous record up to its own.
    pub fn extend(&mut self, offset: u64, bytes: usize) {
        self.settlement.last = offset;
        self.settlement.records += 1;
        self.settlement.bytes += bytes;
    }

    /// Splits off the first records, up to the one at `last`, and returns their acknowledgement.
    pub fn split(&mut self, last: u64, records: usize, bytes: usize) -> Self {
        let whole = self.settlement;
        self.settlement =
            Settlement { first: last + 1, records: whole.records - records, bytes: whole.bytes - bytes, ..whole };
        Self { receiver: self.receiver.clone(), settlement: Settlement { last, records, bytes, ..whole }, why: None }
    }

    /// Tells the source that the records are settled, or why they are not.
    pub fn give<E: Display + ?Sized>(mut self, result: Result<(), &E>) {
        self.settlement.is_settled = result.is_ok();
        self.why = result.err().map(|why| why.to_string().into());
    }
}

impl Drop for RangeAck {
    fn drop(&mut self) {
        (self.receiver)(self.settlement, self.why.as_deref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    impl Unanswered for Option<u32> {
        fn unanswered() -> Self {
            None
        }
    }

    #[test]
    fn an_acknowledgement_is_received_once_also_when_it_is_dropped() {
        assert_eq!(wait(|ack| ack.give(Some(7))), Some(7));
        assert_eq!(wait::<Option<u32>>(drop), None);
        let received = Arc::new(Mutex::new(Vec::new()));
        let all = received.clone();
        let ack = Ack::new(move |outcome: Option<u32>| all.lock().unwrap().push(outcome));
        let panicked = std::thread::spawn(move || {
            let _held = ack;
            panic!("its holder ends");
        });
        assert!(panicked.join().is_err());
        assert_eq!(*received.lock().unwrap(), [None]);
    }
}
