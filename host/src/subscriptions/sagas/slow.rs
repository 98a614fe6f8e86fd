//! The thread for inputs that take long. It decides on them in a guest of its own, in which it rebuilds their sagas, while
//! the subscription's thread goes on with all other sagas. It records nothing: its decision goes back to that thread.

use super::live::{Decided, LiveSagas, Undecidable};
use crate::model::{KeptCallback, RecordedEvent};
use crate::plugin::{SagaInput, Slot};
use crate::store::{Error, EventStore, Reader};
use crate::supervise;
use crossbeam_channel::{Receiver, Sender, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// An input, which is not borrowed.
pub(super) enum OwnInput {
    Event(RecordedEvent),
    Callback(KeptCallback),
}

/// A request to the thread.
pub(super) enum SlowRequest {
    /// Decide on an input. All steps of its saga are durable.
    Decide { number: u64, key: Arc<str>, input: Box<OwnInput>, may_start: bool },
    /// End the thread.
    Stop,
}

/// An answer of the thread.
pub(super) enum SlowAnswer {
    Decided {
        number: u64,
        key: Arc<str>,
        decided: Result<Decided, Undecidable>,
    },
    /// The thread has lost all requests, which must be made again.
    Lost,
}

/// The ends of the subscription's thread.
pub(super) struct SlowLinks {
    requests: Sender<SlowRequest>,
    answers: Receiver<SlowAnswer>,
    /// The number of the last question.
    last: u64,
    /// The number of the first question whose answer is wanted.
    first_wanted: Arc<AtomicU64>,
}

impl SlowLinks {
    #[expect(
        clippy::disallowed_methods,
        reason = "each paused key has one question that is wanted; others are dropped unread"
    )]
    pub(super) fn new() -> (Self, WorkerEnds) {
        let (requests, to_worker) = unbounded();
        let (from_worker, answers) = unbounded();
        let first_wanted = Arc::<AtomicU64>::default();
        let ends = WorkerEnds { requests: to_worker, answers: from_worker, first_wanted: first_wanted.clone() };
        (Self { requests, answers, last: 0, first_wanted }, ends)
    }

    /// Drops all questions that were asked. The one that the thread decides on may still be answered.
    pub(super) fn forget(&self) {
        self.first_wanted.store(self.last + 1, Ordering::Relaxed);
    }

    /// Returns a sender with which to stop the thread.
    pub(super) fn requests(&self) -> Sender<SlowRequest> {
        self.requests.clone()
    }

    /// Asks for a decision. Returns the number of the question.
    pub(super) fn ask(&mut self, key: Arc<str>, input: OwnInput, may_start: bool) -> u64 {
        self.last += 1;
        let (number, input) = (self.last, Box::new(input));
        // An error means that the thread has ended, because the subscription stops.
        let _ = self.requests.send(SlowRequest::Decide { number, key, input, may_start });
        number
    }

    pub(super) fn next_answer(&self) -> Option<SlowAnswer> {
        self.answers.try_recv().ok()
    }
}

/// The ends of the thread.
pub(super) struct WorkerEnds {
    requests: Receiver<SlowRequest>,
    answers: Sender<SlowAnswer>,
    first_wanted: Arc<AtomicU64>,
}

/// The state of the thread.
pub(super) struct SlowWorker {
    sagas: LiveSagas,
    reader: Box<dyn Reader>,
    ends: WorkerEnds,
    /// Wakes the subscription's thread for an answer.
    asked: Arc<Notify>,
}

impl SlowWorker {
    /// Starts the thread of a subscription.
    pub(super) fn start(
        slot: &Arc<Slot>,
        saga_type: Arc<str>,
        store: &dyn EventStore,
        ends: WorkerEnds,
        asked: Arc<Notify>,
    ) -> Result<supervise::Thread, Error> {
        let name = format!("slow-{}", slot.name);
        let worker = Self { sagas: LiveSagas::new(slot.clone(), saga_type), reader: store.reader()?, ends, asked };
        supervise::restarting(name, || Ok(worker), Self::begin_again, Self::run).map_err(
            |error: supervise::Unstarted<Error>| {
                Error::Failed(format!("can't start the thread for slow inputs of {}: {error}", slot.name))
            },
        )
    }

    /// Restarts after a panic, with no request.
    fn begin_again(&mut self) -> Result<(), Error> {
        self.sagas.lose();
        while let Ok(request) = self.ends.requests.try_recv() {
            if let SlowRequest::Stop = request {
                return Err(Error::Closed);
            }
        }
        self.answer(SlowAnswer::Lost);
        Ok(())
    }

    fn run(&mut self) {
        while let Ok(SlowRequest::Decide { number, key, input, may_start }) = self.ends.requests.recv() {
            supervise::round();
            if number < self.ends.first_wanted.load(Ordering::Relaxed) {
                continue;
            }
            self.sagas.renew();
            let input = match &*input {
                OwnInput::Event(event) => SagaInput::Event(event),
                OwnInput::Callback(kept) => SagaInput::Callback(kept),
            };
            let decided = self.sagas.decide(&mut *self.reader, &key, input, may_start);
            // The saga goes on in the other thread, so what is live here is outdated.
            self.sagas.lose();
            self.sagas.is_durable();
            self.answer(SlowAnswer::Decided { number, key, decided });
        }
    }

    fn answer(&self, answer: SlowAnswer) {
        // An error means that the subscription's thread has ended, because the subscription stops.
        let _ = self.ends.answers.send(answer);
        self.asked.notify_one();
    }
}
