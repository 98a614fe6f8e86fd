//! The steps of a subscription that are being written to the store: a few at a time, in their order.
//!
//! While a step is written, the next events are already handled. Each step begins where the one before it ends, and the
//! store accepts a step only at its checkpoint. If one step fails, all later ones fail too, and nothing is skipped. The
//! commands of a step are sent once it is durable, in the order of the steps.

use super::effects::Outgoing;
use super::outbox::Outbox;
use crate::ack;
use crate::follow::Follower;
use crate::model::Position;
use crate::store::{Advanced, Error, EventStore, KeyChange, Reached, Step};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The number of steps that are handed to the store and not answered.
const UNDER_WAY_MAX: usize = 16;

/// The bytes of the commands and messages in these steps.
const UNDER_WAY_BYTES_MAX: usize = 16 << 20;

/// The store's answer to a step.
pub(super) type StepResult = Result<Advanced, Error>;

/// The steps of one subscription that are under way.
pub(super) struct Steps {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    /// The checkpoint in the store.
    stored: Position,
    /// The checkpoint after all steps under way.
    planned: Position,
    /// The steps under way: the position where each ends, its bytes, and the receiver of its answer.
    under_way: VecDeque<(Position, usize, oneshot::Receiver<StepResult>)>,
    /// The bytes of all steps under way.
    bytes: usize,
    /// The number of the next step, if each step must fail after one that failed, whatever it has reached.
    row: Option<u64>,
}

impl Steps {
    pub(super) fn new(subscription: Arc<str>, store: Arc<dyn EventStore>, outbox: Arc<Outbox>) -> Self {
        let (stored, planned) = Default::default();
        Self { subscription, store, outbox, stored, planned, under_way: VecDeque::new(), bytes: 0, row: None }
    }

    /// Lets every step fail after one that failed. The steps of events do so by their checkpoint, those of callbacks do not.
    pub(super) fn in_a_row(self) -> Self {
        Self { row: Some(0), ..self }
    }

    /// Goes on after a step that failed alone, with no other under way.
    pub(super) fn go_on(&mut self) {
        self.planned = self.stored;
        self.row = self.row.map(|_| 0);
    }

    /// Restarts at the checkpoint that the store has, with no step under way. The store has one since the subscription was divided.
    pub(super) fn begin(&mut self, follower: &mut Follower) -> Result<(), Error> {
        let checkpoint = follower.reader().checkpoint(&self.subscription)?;
        self.stored = checkpoint.ok_or_else(|| {
            Error::NotYet(format!(
                "the store has no place of subscription {}, because it was divided in another way: give all hosts the same manifest",
                self.subscription
            ))
        })?;
        self.go_on();
        Ok(())
    }

    /// Waits until the store has answered all steps under way, and ignores the answers. The commands of durable steps
    /// are in the store's outbox.
    pub(super) fn abandon(&mut self) {
        self.under_way.drain(..).for_each(|(.., answered)| _ = answered.blocking_recv());
        self.bytes = 0;
    }

    /// Returns the checkpoint in the store.
    pub(super) fn stored(&self) -> Position {
        self.stored
    }

    /// Returns the checkpoint after all steps under way.
    pub(super) fn planned(&self) -> Position {
        self.planned
    }

    /// Returns the position up to which everything is durably processed. Without steps under way it includes
    /// `looked_at`, because unwanted events need no step.
    pub(super) fn done(&self, looked_at: Position) -> Position {
        if self.under_way.is_empty() { self.stored.max(looked_at) } else { self.stored }
    }

    /// Hands a step to the store: its effects, what becomes of a key, and a fact. This waits while too many are under way.
    pub(super) fn take(
        &mut self,
        to: Position,
        effects: Outgoing,
        key: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<(), Error> {
        let reached = Reached::Events { from: self.planned, to };
        self.hand_over(reached, to, effects, key, fact)
    }

    /// Hands over a step that has handled callbacks, as [`take`](Self::take) does.
    pub(super) fn take_callbacks(
        &mut self,
        numbers: Vec<u64>,
        effects: Outgoing,
        key: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<(), Error> {
        self.hand_over(Reached::Callbacks(numbers), self.planned, effects, key, fact)
    }

    fn hand_over(
        &mut self,
        reached: Reached,
        to: Position,
        effects: Outgoing,
        key: Option<KeyChange>,
        fact: Option<(String, String)>,
    ) -> Result<(), Error> {
        let bytes = effects.size();
        let row = self.row;
        self.row = row.map(|number| number + 1);
        let step = Step { key, fact, row, ..effects.step(&self.subscription, reached) };
        // If an earlier step has failed, the answer is ignored.
        let (ack, answered) = ack::channel();
        self.store.advance(step, ack);
        self.under_way.push_back((to, bytes, answered));
        self.bytes += bytes;
        self.planned = to;
        self.wait_for(UNDER_WAY_MAX)
    }

    /// Whether no step is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Waits until all steps are durable.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.wait_for(0)
    }

    /// Moves the checkpoint to a position, if it is not there, and waits until all steps are durable.
    pub(super) fn finish_at(&mut self, position: Position) -> Result<(), Error> {
        if position > self.planned {
            self.take(position, Outgoing::default(), None, None)?;
        }
        self.finish()
    }

    /// Ends the steps that the store has answered, without waiting.
    pub(super) fn collect(&mut self) -> Result<(), Error> {
        while let Some((.., answered)) = self.under_way.front_mut() {
            match answered.try_recv() {
                Ok(answer) => self.end(answer)?,
                Err(oneshot::error::TryRecvError::Empty) => return Ok(()),
                Err(oneshot::error::TryRecvError::Closed) => self.end(Err(Error::Closed))?,
            }
        }
        Ok(())
    }

    /// Waits for the answer to the first step under way, or for ever if there is none. The answer is for [`Self::end`].
    pub(super) async fn ended(&mut self) -> StepResult {
        match self.under_way.front_mut() {
            Some((.., answered)) => answered.await.unwrap_or(Err(Error::Closed)),
            None => std::future::pending().await,
        }
    }

    /// Ends the first step: sends its commands if it is durable. If it failed, the later ones can't succeed.
    pub(super) fn end(&mut self, answer: StepResult) -> Result<(), Error> {
        match self.under_way.pop_front() {
            Some((to, bytes, _)) => {
                self.bytes -= bytes;
                self.through(to, answer)
            }
            None => Ok(()),
        }
    }

    fn through(&mut self, to: Position, answer: StepResult) -> Result<(), Error> {
        match answer {
            Ok(Advanced { commands }) => {
                self.stored = to;
                self.outbox.send(commands);
                Ok(())
            }
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn wait_for(&mut self, under_way_max: usize) -> Result<(), Error> {
        self.collect()?;
        while (self.under_way.len() > under_way_max || self.bytes > UNDER_WAY_BYTES_MAX)
            && let Some((to, bytes, answered)) = self.under_way.pop_front()
        {
            self.bytes -= bytes;
            let answer = answered.blocking_recv().unwrap_or(Err(Error::Closed));
            self.through(to, answer)?;
        }
        Ok(())
    }
}
