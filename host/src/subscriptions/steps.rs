//! The steps of a subscription on their way into the store: a few at a time, in their order.
//!
//! While a step is written the next events are handled already. Each step begins where the one before it ends, and the
//! store takes a step only where its checkpoint is: when one fails, all that follow it fail, and nothing is skipped. The
//! commands of a step are sent once it is durable, in the order of the steps.

use super::outbox::Outbox;
use crate::ack;
use crate::model::{Command, DeadLetter, Message, Position};
use crate::store::{self, Advanced, Error, EventStore, Reached};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Steps that are handed to the store and not answered.
const UNDER_WAY_MAX: usize = 16;

/// Bytes of their commands and messages.
const UNDER_WAY_BYTES_MAX: usize = 16 << 20;

/// How a step ended.
pub(super) type Answer = Result<Advanced, Error>;

/// See the module.
pub(super) struct Steps {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    /// The checkpoint as the store has it.
    stored: Position,
    /// The checkpoint once all is through.
    planned: Position,
    /// Where each step ends, its bytes, and who tells.
    under_way: VecDeque<(Position, usize, oneshot::Receiver<Answer>)>,
    /// The bytes of all steps under way.
    bytes: usize,
}

impl Steps {
    pub(super) fn new(subscription: Arc<str>, store: Arc<dyn EventStore>, outbox: Arc<Outbox>) -> Self {
        let (stored, planned) = Default::default();
        Self { subscription, store, outbox, stored, planned, under_way: VecDeque::new(), bytes: 0 }
    }

    /// Begins at the checkpoint that the store has, with nothing under way.
    pub(super) fn begin(&mut self, checkpoint: Position) {
        (self.stored, self.planned) = (checkpoint, checkpoint);
    }

    /// Waits until the store has no more of what is under way, however it ends. The commands of steps that are durable
    /// are in the outbox.
    pub(super) fn abandon(&mut self) {
        self.under_way.drain(..).for_each(|(.., answered)| _ = answered.blocking_recv());
        self.bytes = 0;
    }

    /// The checkpoint as the store has it.
    pub(super) fn stored(&self) -> Position {
        self.stored
    }

    /// The checkpoint once all is through.
    pub(super) fn planned(&self) -> Position {
        self.planned
    }

    /// How far everything is done, durably. `looked_at`: what comes before it and was not wanted needs no step.
    pub(super) fn done(&self, looked_at: Position) -> Position {
        if self.under_way.is_empty() { self.stored.max(looked_at) } else { self.stored }
    }

    /// Hands a step to the store. Waits while there are too many.
    pub(super) fn take(
        &mut self,
        to: Position,
        commands: Vec<Command>,
        messages: Vec<Message>,
        dead_letters: Vec<DeadLetter>,
    ) -> Result<(), Error> {
        let bytes =
            commands.iter().map(Command::size).sum::<usize>() + messages.iter().map(Message::size).sum::<usize>();
        let step = store::Step {
            subscription: self.subscription.clone(),
            reached: Reached::Events { from: self.planned, to },
            commands,
            messages,
            dead_letters,
        };
        // Nobody hears it if an earlier step has failed.
        let (ack, answered) = ack::channel();
        self.store.advance(step, ack);
        self.under_way.push_back((to, bytes, answered));
        self.bytes += bytes;
        self.planned = to;
        self.wait_for(UNDER_WAY_MAX)
    }

    /// Waits until all is through.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.wait_for(0)
    }

    /// Goes on with what is through, without waiting.
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

    /// The end of the first step that is under way; never, where there is none. To be handed to [`Self::end`].
    pub(super) async fn ended(&mut self) -> Answer {
        match self.under_way.front_mut() {
            Some((.., answered)) => answered.await.unwrap_or(Err(Error::Closed)),
            None => std::future::pending().await,
        }
    }

    /// Sends the commands of the first step, which is durable. Where it failed the others can't succeed.
    pub(super) fn end(&mut self, answer: Answer) -> Result<(), Error> {
        match self.under_way.pop_front() {
            Some((to, bytes, _)) => {
                self.bytes -= bytes;
                self.through(to, answer)
            }
            None => Ok(()),
        }
    }

    fn through(&mut self, to: Position, answer: Answer) -> Result<(), Error> {
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
