//! The steps of subscriptions: their progress and effects, in the writer's transaction.

use super::fault::{self, FaultPoint};
use super::outbox::Queue;
use super::write_request::refuse_beyond;
use super::writer::{WriteBatch, Writer};
use super::{Error, dead_letters, failed, held_keys, rows};
use crate::model::{Command, Message, Origin, SubscriptionName};
use crate::store::recording::Recording as _;
use crate::store::{Advanced, Reached, Step};
use rusqlite::{OptionalExtension, params};
use std::sync::Arc;

impl Writer {
    /// Records a step. All checks that can refuse it come before the first write.
    pub(super) fn advance(&mut self, batch: &mut WriteBatch, step: Step) -> Result<Advanced, Error> {
        let row = match step.reached {
            Reached::Records { number, .. } => Some(number),
            _ => step.row,
        };
        let Some(number) = row else { return self.step(batch, step) };
        let subscription = step.subscription.clone();
        // If the step fails, its row ends here. If the transaction is rolled back, all rows end.
        let next = self.rows.remove(&subscription);
        if number > 0 && next != Some(number) {
            return Err(Error::OutOfRow { subscription });
        }
        let advanced = self.step(batch, step)?;
        self.rows.insert(subscription, number + 1);
        Ok(advanced)
    }

    fn step(&mut self, batch: &mut WriteBatch, step: Step) -> Result<Advanced, Error> {
        let Step {
            subscription,
            reached,
            mut commands,
            messages,
            sagas,
            callbacks,
            requests,
            dead_letters,
            key,
            fact,
            row: _,
        } = step;
        let (at, sent) = self.checkpoint(&subscription)?;
        let to = self.check_step(&subscription, &reached, at)?;
        if let Some(change) = &key {
            held_keys::check(&self.connection, &subscription, change, dead_letters.len())?;
        }
        self.dead_letter_room.refuse_if_full(dead_letters.len(), &self.options.dead_letters)?;
        self.check_sagas(&sagas)?;
        if matches!(reached, Reached::Events { .. } | Reached::Reset(_)) || !commands.is_empty() {
            self.move_checkpoint(&subscription, to, sent + commands.len() as u64)?;
        }
        fault::at(FaultPoint::CheckpointMoved);
        match &reached {
            Reached::Events { .. } | Reached::Key => {}
            Reached::Records { records, .. } => {
                records.iter().try_for_each(|origins| self.ledgers.settle_all(&self.connection, origins))?;
            }
            Reached::Reset(_) => {
                held_keys::forget(&self.connection, &subscription)?;
                super::callbacks::forget_deferred(&self.connection, &subscription)?;
            }
            Reached::Replayed(letter) => self.remove_dead_letter(*letter)?,
            Reached::Callbacks(numbers) => self.remove_callbacks(numbers)?,
        }
        self.add_commands(batch, &subscription, sent, &mut commands)?;
        fault::at(FaultPoint::CommandsKept);
        self.add_messages(batch, &messages)?;
        fault::at(FaultPoint::MessagesKept);
        self.change_callbacks(batch, &subscription, &callbacks)?;
        self.add_requests(batch, &subscription, requests)?;
        self.append_sagas(batch, &subscription, sagas)?;
        for letter in &dead_letters {
            self.keep_dead_letter(batch, letter, None)?;
        }
        if let Some(change) = &key {
            held_keys::apply(&self.connection, &subscription, change, self.newest_dead_letter)?;
            fault::at(FaultPoint::KeyChanged);
        }
        if let Some((name, text)) = &fact {
            self.set_fact(name, Some(text))?;
        }
        Ok(Advanced { commands })
    }

    /// Returns the checkpoint of a subscription, and the number of commands that it has sent.
    fn checkpoint(&self, subscription: &str) -> Result<(u64, u64), Error> {
        let row = self
            .connection
            .prepare_cached("SELECT position, commands FROM checkpoints WHERE subscription = ?1")
            .and_then(|mut select| select.query_row([subscription], |row| Ok((row.get(0)?, row.get(1)?))).optional())
            .map_err(failed("reading a checkpoint"))?;
        Ok(row.unwrap_or((0, 0)))
    }

    /// Returns the checkpoint after the step, or fails if the step is not allowed.
    fn check_step(&mut self, subscription: &str, reached: &Reached, at: u64) -> Result<u64, Error> {
        match reached {
            Reached::Events { from, to } => {
                if at != from.0 {
                    let owner = format!("subscription {subscription}");
                    return Err(Error::CheckpointMoved { owner, actual: at, expected: from.0 });
                }
                self.check_end(subscription, to.0)
            }
            Reached::Reset(to) => self.check_end(subscription, to.0),
            Reached::Records { records, .. } => {
                for origins in records {
                    if let Some(origin) = self.ledgers.settled_of(&self.connection, origins)? {
                        return Err(Error::Settled { place: origin.place() });
                    }
                }
                Ok(at)
            }
            Reached::Key => Ok(at),
            Reached::Callbacks(numbers) => self.check_callbacks(subscription, numbers).map(|()| at),
            Reached::Replayed(letter) if dead_letters::exists(&self.connection, *letter)? => Ok(at),
            Reached::Replayed(letter) => Err(dead_letters::absent(*letter)),
        }
    }

    /// Returns a position if it is not past the newest event.
    fn check_end(&self, subscription: &str, to: u64) -> Result<u64, Error> {
        refuse_beyond(&format!("the checkpoint of subscription {subscription}"), to, self.next_position - 1)?;
        Ok(to)
    }

    fn move_checkpoint(&mut self, subscription: &str, to: u64, sent: u64) -> Result<(), Error> {
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO checkpoints (subscription, position, commands) VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![subscription, to, sent]))
            .map_err(failed("moving a checkpoint"))?;
        Ok(())
    }

    /// Numbers the commands of a step and keeps them until their ledger has settled them.
    fn add_commands(
        &mut self,
        batch: &mut WriteBatch,
        subscription: &Arc<str>,
        first: u64,
        commands: &mut [Command],
    ) -> Result<(), Error> {
        if commands.is_empty() {
            return Ok(());
        }
        let ledger: Arc<str> = SubscriptionName::parse(subscription).ledger().to_string().into();
        for (number, command) in (first..).zip(commands.iter_mut()) {
            command.origin = Some(Origin { ledger: ledger.clone(), first: number, last: number });
        }
        let last = first + commands.len() as u64 - 1;
        let body = rows::encode(&commands)?;
        batch.bytes += body.len();
        Queue::Commands(subscription)
            .add(&self.connection, first..=last, &body)
            .map_err(failed("storing a subscriber's commands"))
    }

    pub(super) fn add_messages(&mut self, batch: &mut WriteBatch, messages: &[Message]) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let failed = failed("storing a subscriber's messages");
        let (first, last) = (self.next_message, self.next_message + messages.len() as u64 - 1);
        let body = rows::encode(&messages)?;
        batch.bytes += body.len();
        Queue::Messages.add(&self.connection, first..=last, &body).map_err(&failed)?;
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO marks (name, value) VALUES ('messages', ?1)")
            .and_then(|mut insert| insert.execute([last]))
            .map_err(&failed)?;
        self.next_message = last + 1;
        Ok(())
    }
}
