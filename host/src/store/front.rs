//! The front of a store: the queue of its writer, and everything that a caller asks of it.
//!
//! Both stores have one writer thread for each host. A request is put into its queue here, and the writer answers it. This
//! module does not know how it is written.

use super::room::Room;
use super::watches::Watches;
use super::write_request::{AdminRequest, WriteRequest};
use super::{
    Advanced, Append, Appended, AttemptEnd, DeadLetters, Discard, Error, Events, HttpRequests, InterruptedOf, Measures,
    Part, Progress, Snapshot, Step,
};
use crate::ack::Ack;
use crate::meter::{self, Histogram};
use crate::model::{DeadLetter, KeptRequest, Origin, Position, StreamId};
use crate::supervise::{Held as _, Shared as _};
use crossbeam_channel::{Receiver, Sender};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use tokio::sync::watch;

/// The measurements of a writer.
pub(super) struct Meters {
    /// The duration of commits.
    pub(super) commit_time: Histogram,
    /// The number of requests of each transaction.
    pub(super) batch_size: Histogram,
    /// The bytes of the current dead letters.
    pub(super) dead_letter_bytes: AtomicU64,
    /// The number of dead letters that were dropped because of a limit.
    pub(super) dead_letters_dropped: AtomicU64,
    /// The number of jumps of the wall clock.
    pub(super) clock_jumps: AtomicU64,
    /// The reason why a transaction failed, until one like it would succeed.
    pub(super) trouble: Mutex<Option<String>>,
}

impl Meters {
    /// Makes the meters of a store that was just opened.
    pub(super) fn new() -> Self {
        Self {
            commit_time: Histogram::new(meter::SECONDS),
            batch_size: Histogram::new(meter::COUNTS),
            dead_letter_bytes: AtomicU64::new(0),
            dead_letters_dropped: AtomicU64::new(0),
            clock_jumps: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }
}

/// The front of an open store.
pub(super) struct Front {
    /// The queue, or `None` after `close`. Senders hold the lock while they wait, so `close` waits for them.
    queue: RwLock<Option<Sender<WriteRequest>>>,
    room: Arc<Room>,
    watches: Watches,
    meters: Arc<Meters>,
}

impl Front {
    /// Makes a queue with its limits, which the front sends to.
    pub(super) fn queue(
        requests_max: usize,
        bytes_max: usize,
    ) -> (Sender<WriteRequest>, Receiver<WriteRequest>, Arc<Room>) {
        let (queue, requests) = crossbeam_channel::bounded(requests_max);
        (queue, requests, Arc::new(Room::new(bytes_max)))
    }

    /// Makes the front of a writer.
    pub(super) fn new(queue: Sender<WriteRequest>, room: Arc<Room>, watches: Watches, meters: Arc<Meters>) -> Self {
        Self { queue: RwLock::new(Some(queue)), room, watches, meters }
    }

    /// Queues a request, and waits while there is no room.
    pub(super) fn send(&self, request: WriteRequest) {
        self.room.take(request.bytes());
        let refused = match &*self.queue.held_shared() {
            Some(queue) => queue.send(request).err().map(|refused| refused.0),
            None => Some(request),
        };
        if let Some(request) = refused {
            self.room.free(request.bytes());
            request.fail(Error::Closed);
        }
    }

    /// Queues a change that a person makes, or one of this host itself.
    pub(super) fn administer(&self, request: AdminRequest, ack: Ack<Result<(), Error>>) {
        self.send(WriteRequest::Administer(request, ack));
    }

    /// Refuses all further requests. The writer ends when it has handled those that are queued.
    pub(super) fn close(&self) {
        drop(self.queue.held_alone().take());
    }

    /// Watches whether the host has lost the store.
    pub(super) fn loss(&self) -> watch::Receiver<Option<Error>> {
        self.watches.loss.clone()
    }

    /// Returns why the last writes failed, if they did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.meters.trouble.held().clone()
    }

    /// Returns what the writer has measured.
    pub(super) fn measures(&self) -> Measures {
        let queue = self.queue.held_shared();
        Measures {
            commit_time: self.meters.commit_time.read(),
            batch_size: self.meters.batch_size.read(),
            queued: queue.as_ref().map_or(0, |queue| queue.len() as u64),
            clock_jumps: self.meters.clock_jumps.load(Ordering::Relaxed),
            dead_letter_bytes: self.meters.dead_letter_bytes.load(Ordering::Relaxed),
            dead_letters_dropped: self.meters.dead_letters_dropped.load(Ordering::Relaxed),
        }
    }
}

/// A store with a front.
pub(super) trait Fronted: Send + Sync + 'static {
    /// Returns the front.
    fn front(&self) -> &Front;

    /// Keeps a snapshot. It never blocks.
    fn keep(&self, snapshot: Snapshot);
}

impl<S: Fronted> Events for S {
    fn append(&self, append: Append, ack: Ack<Result<Appended, Error>>) {
        self.front().send(WriteRequest::append(append, ack));
    }

    fn archive(&self, stream: StreamId, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Archive(stream), ack);
    }

    fn restore(&self, stream: StreamId, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Restore(stream), ack);
    }

    fn head(&self) -> watch::Receiver<Position> {
        self.front().watches.head.clone()
    }

    fn keep_snapshot(&self, snapshot: Snapshot) {
        self.keep(snapshot);
    }
}

impl<S: Fronted> Progress for S {
    fn advance(&self, step: Step, ack: Ack<Result<Advanced, Error>>) {
        self.front().send(WriteRequest::advance(step, ack));
    }

    fn published(&self, sink: &str, from: u64, to: u64, refused: Vec<DeadLetter>, ack: Ack<Result<(), Error>>) {
        self.front().send(WriteRequest::Published { sink: sink.to_owned(), from, to, refused, ack });
    }

    fn start_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>) {
        self.front().send(WriteRequest::StartLedger { ledger: ledger.into(), next, ack });
    }

    fn begin_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::BeginLedger(ledger.into(), next), ack);
    }

    fn reset_ledger(&self, ledger: &str, next: u64, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::ResetLedger(ledger.into(), next), ack);
    }

    fn set_fact(&self, name: &str, value: Option<String>, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::SetFact(name.to_owned(), value), ack);
    }

    fn keep_first_fact(&self, name: &str, value: String, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::KeepFirstFact(name.to_owned(), value), ack);
    }

    fn carry_over(&self, moves: &[(Part, String)], ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::CarryOver(moves.to_vec()), ack);
    }

    fn divide(&self, plugin: &Arc<str>, segments: u32, start: Position, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Divide(plugin.clone(), segments, start), ack);
    }

    fn forget(&self, part: &Part, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Forget(part.clone()), ack);
    }

    fn outbox_head(&self) -> watch::Receiver<u64> {
        self.front().watches.outbox_head.clone()
    }

    fn callbacks_changed(&self) -> watch::Receiver<u64> {
        self.front().watches.callbacks_changed.clone()
    }

    fn cancel_timer(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::CancelTimer(number), ack);
    }
}

impl<S: Fronted> HttpRequests for S {
    fn begin_attempt(&self, number: u64, ack: Ack<Result<u32, Error>>) {
        self.front().send(WriteRequest::BeginAttempt(number, ack));
    }

    fn end_attempt(&self, number: u64, end: AttemptEnd, ack: Ack<Result<(), Error>>) {
        self.front().send(WriteRequest::EndAttempt(number, Box::new(end), ack));
    }

    fn interrupt_attempts(&self, of: InterruptedOf, ack: Ack<Result<Vec<KeptRequest>, Error>>) {
        self.front().send(WriteRequest::InterruptAttempts(of, ack));
    }

    fn refuse_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::RefuseRequest(number, reason), ack);
    }

    fn give_up_request(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::GiveUpRequest(number, reason), ack);
    }

    fn requests_changed(&self) -> watch::Receiver<u64> {
        self.front().watches.requests_changed.clone()
    }
}

impl<S: Fronted> DeadLetters for S {
    fn dead_letter(&self, letter: DeadLetter, origin: Option<Origin>, ack: Ack<Result<(), Error>>) {
        self.front().send(WriteRequest::DeadLetter(Box::new(letter), origin, ack));
    }

    fn discard_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Discard(number), ack);
    }

    fn discard_dead_letters(&self, which: Discard, ack: Ack<Result<u64, Error>>) {
        self.front().send(WriteRequest::DiscardMany(which, ack));
    }

    fn republish_dead_letter(&self, number: u64, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Republish(number), ack);
    }

    fn explain_dead_letter(&self, number: u64, reason: String, ack: Ack<Result<(), Error>>) {
        self.front().administer(AdminRequest::Explain(number, reason), ack);
    }

    fn dead_letters_head(&self) -> watch::Receiver<u64> {
        self.front().watches.dead_letters_head.clone()
    }
}
