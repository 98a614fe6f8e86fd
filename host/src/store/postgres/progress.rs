//! The steps of subscriptions, the positions of sinks, and ledgers, in the writer's transaction.

use super::connection::{Change, int, value};
use super::hints::{Head, Kept};
use super::writer::{WriteBatch, Writer};
use super::{held_keys, outbox};
use crate::model::{Command, DeadLetter, LedgerName, Message, Origin, Origins, SinkName, SubscriptionName};
use crate::store::fault::{self, FaultPoint};
use crate::store::recording::Recording as _;
use crate::store::write_request::refuse_beyond;
use crate::store::{Advanced, Error, Ledger, Reached, Step, encoding};
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
        refuse_nul(&subscription)?;
        let (at, sent) = self.checkpoint(&subscription)?.value;
        let to = self.check_step(&subscription, &reached, at)?;
        if let Some(change) = &key {
            self.check_key(&subscription, change, dead_letters.len())?;
        }
        self.refuse_if_letters_are_full(dead_letters.len())?;
        self.check_sagas(&sagas)?;
        for request in &requests {
            refuse_nul(&request.endpoint)?;
        }
        for letter in &dead_letters {
            refuse_nul(&letter.consumer)?;
        }
        if matches!(reached, Reached::Events { .. } | Reached::Reset(_)) || !commands.is_empty() {
            *self.checkpoint(&subscription)?.change() = (to, sent + commands.len() as u64);
        }
        fault::at(FaultPoint::CheckpointMoved);
        match &reached {
            Reached::Events { .. } | Reached::Key => {}
            Reached::Records { records, .. } => records.iter().try_for_each(|origins| self.settle_all(origins))?,
            Reached::Reset(_) => {
                held_keys::forget(self, &subscription)?;
                self.forget_deferred(&subscription)?;
            }
            Reached::Replayed(letter) => self.remove_dead_letter(*letter)?,
            Reached::Callbacks(numbers) => self.remove_callbacks(numbers),
        }
        self.add_commands(&subscription, sent, &mut commands)?;
        fault::at(FaultPoint::CommandsKept);
        self.add_messages(&messages)?;
        fault::at(FaultPoint::MessagesKept);
        self.change_callbacks(&subscription, &callbacks)?;
        self.add_requests(&subscription, requests)?;
        self.append_sagas(batch, &subscription, sagas)?;
        for letter in &dead_letters {
            self.keep_dead_letter(letter, None)?;
        }
        if let Some(change) = &key {
            self.apply_key(&subscription, change)?;
            fault::at(FaultPoint::KeyChanged);
        }
        if let Some((name, text)) = &fact {
            self.set_fact(name, Some(text))?;
        }
        Ok(Advanced { commands })
    }

    /// Returns the checkpoint of a subscription, and the number of commands that it has sent.
    fn checkpoint(&mut self, subscription: &Arc<str>) -> Result<&mut Kept<(u64, u64)>, Error> {
        if !self.hints.checkpoints.contains_key(subscription) {
            let sql = "SELECT position, commands FROM checkpoints WHERE subscription = $1";
            let row = self.first("reading a checkpoint", sql, &[&&**subscription])?;
            let found =
                row.map_or((0, 0), |row| (row.get::<_, i64>(0).cast_unsigned(), row.get::<_, i64>(1).cast_unsigned()));
            self.hints.checkpoints.insert(subscription.clone(), Kept { value: found, is_changed: false });
        }
        Ok(self.hints.checkpoints.get_mut(subscription).expect("it is there now"))
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
                for Origins { ledger: name, items, .. } in records {
                    let ledger = &self.ledger(name)?.value;
                    if let Some(&item) = items.iter().find(|&&item| ledger.has(item)) {
                        let origin = Origin { ledger: name.clone(), first: item, last: item };
                        return Err(Error::Settled { place: origin.place() });
                    }
                }
                Ok(at)
            }
            Reached::Key => Ok(at),
            Reached::Callbacks(numbers) => self.check_callbacks(subscription, numbers).map(|()| at),
            Reached::Replayed(letter) if self.has_dead_letter(*letter)? => Ok(at),
            Reached::Replayed(letter) => Err(super::dead_letters::absent(*letter)),
        }
    }

    /// Returns a position if it is not past the newest event.
    fn check_end(&self, subscription: &str, to: u64) -> Result<u64, Error> {
        refuse_beyond(&format!("the checkpoint of subscription {subscription}"), to, self.head.position)?;
        Ok(to)
    }

    /// Numbers the commands of a step and keeps them until their ledger has settled them.
    fn add_commands(&mut self, subscription: &Arc<str>, first: u64, commands: &mut [Command]) -> Result<(), Error> {
        if commands.is_empty() {
            return Ok(());
        }
        let ledger: Arc<str> = SubscriptionName::parse(subscription).ledger().to_string().into();
        for (number, command) in (first..).zip(commands.iter_mut()) {
            command.origin = Some(Origin { ledger: ledger.clone(), first: number, last: number });
        }
        let last = first + commands.len() as u64 - 1;
        self.pending.add_to_outbox(outbox::COMMANDS, subscription, first, last, encoding::encode(&commands)?);
        Ok(())
    }

    pub(super) fn add_messages(&mut self, messages: &[Message]) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let body = encoding::encode(&messages)?;
        let first = self.head.message + 1;
        self.head.message += messages.len() as u64;
        self.pending.add_to_outbox(outbox::MESSAGES, "", first, self.head.message, body);
        Ok(())
    }

    pub(super) fn published(&mut self, sink: &str, from: u64, to: u64, refused: &[DeadLetter]) -> Result<(), Error> {
        refuse_nul(sink)?;
        refused.iter().try_for_each(|letter| refuse_nul(&letter.consumer))?;
        if self.hints.sinks.is_none() {
            let doing = "reading the positions of sinks";
            let rows = self.query(doing, "SELECT name, position FROM sinks", &[])?;
            let kept = |value| Kept { value, is_changed: false };
            let sinks = rows.into_iter().map(|row| (row.get(0), kept(row.get::<_, i64>(1).cast_unsigned())));
            self.hints.sinks = Some(sinks.collect());
        }
        let Head { position, message, dead_letter, .. } = self.head;
        let name = SinkName::parse(sink);
        let sinks = self.hints.sinks.as_ref().expect("they were read");
        let actual = sinks.get(sink).map_or(0, |kept| kept.value);
        if actual != from {
            return Err(Error::CheckpointMoved { owner: format!("sink {sink}"), actual, expected: from });
        }
        let newest = match name {
            SinkName::Events(_) => position,
            SinkName::DeadLetters(_) => dead_letter,
            SinkName::Messages(_) => message,
        };
        refuse_beyond(&format!("the position of sink {sink}"), to, newest)?;
        self.refuse_if_letters_are_full(refused.len())?;
        let sinks = self.hints.sinks.as_mut().expect("they were read");
        sinks.insert(sink.to_owned(), Kept { value: to, is_changed: true });
        fault::at(FaultPoint::SinkMoved);
        if matches!(name, SinkName::Messages(_)) {
            // What all sinks of the outbox have published is not needed any more.
            let of_messages = sinks.iter().filter(|(name, _)| matches!(SinkName::parse(name), SinkName::Messages(_)));
            if let Some(published) = of_messages.map(|(_, kept)| kept.value).min() {
                self.pending.remove_from_outbox(outbox::MESSAGES, "", published + 1);
            }
        }
        for letter in refused {
            self.keep_dead_letter(letter, None)?;
        }
        fault::at(FaultPoint::MessagesForgotten);
        Ok(())
    }

    /// Returns a ledger, in this transaction.
    pub(super) fn ledger(&mut self, name: &Arc<str>) -> Result<&mut Kept<Ledger>, Error> {
        if !self.hints.ledgers.contains_key(name) {
            refuse_nul(name)?;
            let sql = "SELECT next, ahead FROM ledgers WHERE name = $1";
            let row = self.first("reading a ledger", sql, &[&&**name])?;
            let found = row.map(|row| super::hints::ledger(name, &row, 0)).transpose()?.unwrap_or_default();
            self.hints.ledgers.insert(name.clone(), Kept { value: found, is_changed: false });
        }
        Ok(self.hints.ledgers.get_mut(name).expect("it is there now"))
    }

    /// Settles these items, and the offsets that Kafka left out before each of them.
    fn settle_all(&mut self, origins: &Origins) -> Result<(), Error> {
        let Some(&last) = origins.items.last() else { return Ok(()) };
        self.ledger(&origins.ledger)?.change().settle(origins.first, last);
        Ok(())
    }

    /// Settles everything below a number.
    pub(super) fn start_ledger(&mut self, name: &Arc<str>, next: u64) -> Result<(), Error> {
        // This is also written if it starts at 0, so that the store knows that it has started.
        let ledger = self.ledger(name)?.change();
        if next > ledger.next {
            ledger.settle(0, next - 1);
        }
        Ok(())
    }

    /// Starts a ledger at a number, unless there is one.
    pub(super) fn begin_ledger(&mut self, name: &Arc<str>, next: u64) -> Result<(), Error> {
        if self.ledger(name)?.is_changed {
            return Ok(());
        }
        let ahead = encoding::encode(&Ledger::default().ahead)?;
        let sql = "INSERT INTO ledgers (name, next, ahead) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING";
        self.execute("beginning a ledger", sql, &[&&**name, &int(next), &ahead])?;
        self.hints.ledgers.remove(name);
        Ok(())
    }

    /// Lets a ledger resume at a number, whatever was settled before.
    pub(super) fn reset_ledger(&mut self, name: &Arc<str>, next: u64) -> Result<(), Error> {
        *self.ledger(name)?.change() = Ledger { next, ..Ledger::default() };
        Ok(())
    }

    /// Returns the statements that write the changed ledgers, checkpoints and positions of sinks, and that delete the commands
    /// which are settled now.
    pub(super) fn changes_of_progress(&mut self) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        let (mut names, mut nexts, mut aheads) = (Vec::new(), Vec::new(), Vec::new());
        for (name, kept) in self.hints.ledgers.iter_mut().filter(|(_, kept)| kept.is_changed) {
            kept.is_changed = false;
            names.push(name.to_string());
            nexts.push(int(kept.value.next));
            aheads.push(encoding::encode(&kept.value.ahead)?);
            if let Some(LedgerName::Commands(subscription)) = LedgerName::parse(name) {
                let subscription = subscription.to_string();
                self.pending.remove_from_outbox(outbox::COMMANDS, &subscription, kept.value.next);
            }
        }
        changes.extend(self.pending.take());
        if !names.is_empty() {
            let sql =
                "INSERT INTO ledgers (name, next, ahead) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[])
                       ON CONFLICT (name) DO UPDATE SET (next, ahead) = (excluded.next, excluded.ahead)";
            let values = vec![value(names), value(nexts), value(aheads)];
            changes.push(Change { doing: "writing ledgers", sql, values });
        }
        let (mut names, mut positions, mut commands) = (Vec::new(), Vec::new(), Vec::new());
        for (name, kept) in self.hints.checkpoints.iter_mut().filter(|(_, kept)| kept.is_changed) {
            kept.is_changed = false;
            names.push(name.to_string());
            positions.push(int(kept.value.0));
            commands.push(int(kept.value.1));
        }
        if !names.is_empty() {
            let sql = "INSERT INTO checkpoints (subscription, position, commands)
                       SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[])
                       ON CONFLICT (subscription) DO UPDATE SET (position, commands) = (excluded.position, excluded.commands)";
            let values = vec![value(names), value(positions), value(commands)];
            changes.push(Change { doing: "moving checkpoints", sql, values });
        }
        let (mut names, mut positions) = (Vec::new(), Vec::new());
        for (name, kept) in self.hints.sinks.iter_mut().flatten().filter(|(_, kept)| kept.is_changed) {
            kept.is_changed = false;
            names.push(name.clone());
            positions.push(int(kept.value));
        }
        if !names.is_empty() {
            let sql = "INSERT INTO sinks (name, position) SELECT * FROM unnest($1::text[], $2::bigint[])
                       ON CONFLICT (name) DO UPDATE SET position = excluded.position";
            changes.push(Change { doing: "moving sinks", sql, values: vec![value(names), value(positions)] });
        }
        Ok(changes)
    }

    /// Writes the progress that is only in memory, so that statements on its tables see it.
    pub(super) fn write_progress(&mut self) -> Result<(), Error> {
        let changes = self.changes_of_progress()?;
        if changes.is_empty() {
            return Ok(());
        }
        self.connected()?.run(&changes, false).map_err(Error::from)
    }
}

/// Refuses a name that PostgreSQL can't store, before it makes the statement of all other requests fail.
pub(super) fn refuse_nul(name: &str) -> Result<(), Error> {
    match name.contains('\0') {
        false => Ok(()),
        true => Err(Error::Invalid(format!("the name {name:?} has a NUL, which PostgreSQL can't store"))),
    }
}
