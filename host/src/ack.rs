//! Acknowledgements: how the sender of something learns what became of it.
//!
//! A part that takes a command, a write or records keeps their acknowledgement until the outcome is durable. Each is given
//! exactly once. One that is dropped, because its holder panicked or stopped, tells the sender so: nobody waits for ever, and
//! nothing counts as done that is not. Nothing here knows what is acknowledged.

use std::fmt::Display;
use std::sync::Arc;
use tokio::sync::oneshot;

/// An outcome that can say that there is none.
pub trait Unanswered {
    /// The outcome that the sender gets when an acknowledgement is dropped.
    fn unanswered() -> Self;
}

/// The acknowledgement of one thing.
pub struct Ack<T: Unanswered> {
    /// `None` once it was given.
    receive: Option<Receive<T>>,
}

type Receive<T> = Box<dyn FnOnce(T) + Send>;

impl<T: Unanswered> Ack<T> {
    /// Calls `receive` once, on the thread that knows the outcome, which it must not block.
    pub fn new(receive: impl FnOnce(T) + Send + 'static) -> Self {
        Self { receive: Some(Box::new(receive)) }
    }

    /// Tells the sender.
    pub fn give(mut self, outcome: T) {
        self.end(outcome);
    }

    /// Ends it without telling the sender, who knows already.
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

/// An acknowledgement, and where its outcome arrives. An outcome that nobody waits for any more is dropped.
pub fn channel<T: Unanswered + Send + 'static>() -> (Ack<T>, oneshot::Receiver<T>) {
    let (sender, outcome) = oneshot::channel();
    (Ack::new(move |outcome| drop(sender.send(outcome))), outcome)
}

/// Asks for something and blocks until it is acknowledged.
pub fn wait<T: Unanswered + Send + 'static>(ask: impl FnOnce(Ack<T>)) -> T {
    let (sender, outcome) = crossbeam_channel::bounded(1);
    // The receiver outlives the acknowledgement: this function waits on it below.
    ask(Ack::new(move |outcome| drop(sender.send(outcome))));
    outcome.recv().unwrap_or_else(|_| T::unanswered())
}

/// What became of records of one partition that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The first offset that they settle.
    pub first: u64,
    /// The offset of the last record, which is the last that they settle.
    pub last: u64,
    /// The number of records.
    pub records: usize,
    /// About how much memory they take, in bytes.
    pub bytes: usize,
    /// Whether the store has them in its ledger.
    pub is_settled: bool,
}

/// Receives the settlements of a partition. The text says why records are not settled, if that is known. Must not block.
pub type SettlementReceiver = Arc<dyn Fn(Settlement, Option<&str>) + Send + Sync>;

/// The acknowledgement of records of one partition that follow one another. It can be cut in two.
pub struct RangeAck {
    receiver: SettlementReceiver,
    settlement: Settlement,
    why: Option<Box<str>>,
}

impl RangeAck {
    /// The acknowledgement of one record, at `last`, that settles the offsets from `first` on.
    pub fn new(receiver: SettlementReceiver, first: u64, last: u64, bytes: usize) -> Self {
        Self { receiver, settlement: Settlement { first, last, records: 1, bytes, is_settled: false }, why: None }
    }

    /// What it says if it is dropped now.
    pub fn settlement(&self) -> &Settlement {
        &self.settlement
    }

    /// Adds a record, at `offset`, that settles the offsets after those of the last one.
    pub fn extend(&mut self, offset: u64, bytes: usize) {
        self.settlement.last = offset;
        self.settlement.records += 1;
        self.settlement.bytes += bytes;
    }

    /// Cuts the first records off, up to the one at `last`.
    pub fn split(&mut self, last: u64, records: usize, bytes: usize) -> Self {
        let whole = self.settlement;
        self.settlement =
            Settlement { first: last + 1, records: whole.records - records, bytes: whole.bytes - bytes, ..whole };
        Self { receiver: self.receiver.clone(), settlement: Settlement { last, records, bytes, ..whole }, why: None }
    }

    /// Tells the source what became of them: settled, or why not.
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
