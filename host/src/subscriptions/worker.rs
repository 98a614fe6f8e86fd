//! The thread of a subscription.

use super::Options;
use super::outbox::Outbox;
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Progress, Stop, backoff};
use crate::model::{Command, DeadLetter, Message, Parked, Position, RecordedEvent, StreamId};
use crate::plugin::{Effect, Effects, Failure, Plugin, Refusal, Slot, SubscriberGuest};
use crate::status::State;
use crate::store::{self, Advanced, Error, EventStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How long to wait for new events before looking for commands to send again.
const IDLE: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    slot: Arc<Slot>,
    plugin: Arc<Plugin>,
    guest: Option<SubscriberGuest>,
    filter: Filter,
    options: Options,
    store: Arc<dyn EventStore>,
    outbox: Arc<Outbox>,
    progress: Arc<Progress>,
    follower: Follower,
    /// As the store has it.
    checkpoint: Position,
}

/// Why a list of events has no effects.
enum Unhandled {
    /// The event at this index was refused.
    Refused(Failure),
    /// The wasm store is lost; it is not known at which event.
    Trap(String),
}

impl Worker {
    pub(super) fn new(
        slot: Arc<Slot>,
        options: Options,
        store: Arc<dyn EventStore>,
        outbox: Arc<Outbox>,
        progress: Arc<Progress>,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(&*store, stop, runtime)?;
        let plugin = slot.current();
        let filter = plugin.subscriber_filter();
        Ok(Self {
            slot,
            plugin,
            guest: None,
            filter,
            options,
            store,
            outbox,
            progress,
            follower,
            checkpoint: Position(0),
        })
    }

    /// Works until it is stopped. A store that fails, such as on a full disk, is tried again: from its checkpoint.
    pub(super) fn run(mut self) {
        for attempt in 1.. {
            match self.work() {
                Ok(()) | Err(Error::Closed) => return,
                Err(Error::Failed(reason)) => {
                    tracing::error!("subscription {} is held up: {reason}", self.slot.name);
                    self.progress.is_because(State::Retrying, reason);
                    if self.follower.pause(backoff(self.options.backoff, attempt)) {
                        return;
                    }
                }
                Err(error) => {
                    tracing::error!("subscription {} stopped: {error}", self.slot.name);
                    return self.progress.is_because(State::Stopped, error.to_string());
                }
            }
        }
    }

    /// Sends what an earlier run left in the outbox, catches up, then follows.
    fn work(&mut self) -> Result<(), Error> {
        self.resend()?;
        let mut reached = self.begin()?;
        while !self.follower.is_stopped() {
            self.progress.reach(reached);
            self.progress.is(if reached < self.follower.head() { State::CatchingUp } else { State::Following });
            if self.outbox.must_resend() {
                self.resend()?;
            }
            if !self.follower.wait(reached, IDLE) {
                break;
            }
            self.renew_code();
            let page = self.follower.page(reached, &self.filter, self.options.batch_max)?;
            if !page.events.is_empty() {
                self.deliver(&page.events, page.reached)?;
            } else if page.reached.0 > self.checkpoint.0 + IDLE_STRIDE {
                self.advance(page.reached, Vec::new(), Vec::new(), Vec::new())?;
            }
            reached = self.checkpoint.max(page.reached);
        }
        Ok(())
    }

    /// The checkpoint as the store has it. A subscription without one gets it now, also where it is 0: where it has
    /// started must not be forgotten.
    fn begin(&mut self) -> Result<Position, Error> {
        match self.follower.reader().checkpoint(&self.slot.name)? {
            Some(checkpoint) => self.checkpoint = checkpoint,
            None => {
                self.checkpoint = Position(0);
                let start = self.options.start.checkpoint(self.follower.head());
                self.advance(start, Vec::new(), Vec::new(), Vec::new())?;
            }
        }
        Ok(self.checkpoint)
    }

    fn resend(&mut self) -> Result<(), Error> {
        let pending = self.follower.reader().pending_commands(&self.slot.name)?;
        if !pending.is_empty() {
            tracing::info!("subscription {}: {} commands of the outbox are sent again", self.slot.name, pending.len());
        }
        self.outbox.send(pending);
        Ok(())
    }

    /// Handles a page whole, or where that fails what comes before the failing event, then that event alone, then
    /// the rest. A call whose events did not all succeed has no effects.
    fn deliver(&mut self, events: &[RecordedEvent], reached: Position) -> Result<(), Error> {
        let mut rest = events;
        let mut count = rest.len();
        while !self.follower.is_stopped() {
            let (part, behind) = rest.split_at(count);
            let to = if behind.is_empty() { reached } else { part[part.len() - 1].position };
            match self.handle(part) {
                Ok(effects) => self.keep(part, effects, to)?,
                Err(_) if part.len() == 1 => self.deliver_alone(part, to)?,
                Err(Unhandled::Refused(failure)) => {
                    count = failure.index.clamp(1, part.len() - 1);
                    continue;
                }
                Err(Unhandled::Trap(_)) => {
                    count = part.len() / 2;
                    continue;
                }
            }
            if behind.is_empty() {
                break;
            }
            (rest, count) = (behind, behind.len());
        }
        Ok(())
    }

    /// Tries one event until it succeeds or its tries are used up; then puts it aside.
    fn deliver_alone(&mut self, event: &[RecordedEvent], to: Position) -> Result<(), Error> {
        let position = event[0].position;
        for attempt in 1.. {
            let (reason, wait) = match self.handle(event) {
                Ok(effects) => return self.keep(event, effects, to),
                Err(Unhandled::Refused(Failure { refusal: Refusal::Retry { after, reason }, .. })) => (reason, after),
                Err(Unhandled::Trap(reason)) => (reason, Duration::ZERO),
                Err(Unhandled::Refused(Failure { refusal, .. })) => {
                    return self.park(&event[0], to, refusal.to_string());
                }
            };
            if attempt >= self.options.attempts_max {
                return self.park(&event[0], to, format!("{reason} (tried {attempt} times)"));
            }
            let pause = backoff(self.options.backoff, attempt).max(wait);
            tracing::warn!("subscription {}: event {position} is tried again in {pause:?}: {reason}", self.slot.name);
            self.progress.is_because(State::Retrying, reason);
            if self.follower.pause(pause) {
                return Ok(());
            }
            self.renew_code();
        }
        Ok(())
    }

    fn handle(&mut self, events: &[RecordedEvent]) -> Result<Effects, Unhandled> {
        let handled = match &mut self.guest {
            Some(guest) => guest.handle(events),
            None => SubscriberGuest::new(&self.plugin).and_then(|guest| self.guest.insert(guest).handle(events)),
        };
        match handled {
            Ok(Ok(effects)) => Ok(effects),
            Ok(Err(failure)) => Err(Unhandled::Refused(failure)),
            Err(error) => {
                self.guest = None;
                Err(Unhandled::Trap(error.to_string()))
            }
        }
    }

    /// Makes the effects durable together with the checkpoint, then sends the commands.
    fn keep(&mut self, events: &[RecordedEvent], effects: Effects, reached: Position) -> Result<(), Error> {
        let (mut commands, mut messages) = (Vec::new(), Vec::new());
        let (mut cause, mut number) = (u32::MAX, 0);
        for (index, effect) in effects.list {
            number = if index == cause { number + 1 } else { 0 };
            cause = index;
            let event = &events[index as usize];
            let id: Arc<str> = format!("{}:{}:{number}", self.slot.name, event.position).into();
            match effect {
                Effect::Command(command) => commands.push(command_from(id, event, command)),
                Effect::Message(message) => messages.push(message_from(id, &self.slot.name, event, message)),
            }
        }
        self.advance(reached, commands, messages, Vec::new())
    }

    fn park(&mut self, event: &RecordedEvent, to: Position, reason: String) -> Result<(), Error> {
        tracing::warn!("subscription {}: event {} put aside: {reason}", self.slot.name, event.position);
        let letter = DeadLetter {
            consumer: self.slot.name.to_string(),
            place: format!("event {} of {} version {} ({})", event.position, event.stream, event.version, event.name),
            key: Some(event.stream.aggregate_id.to_string()),
            reason,
            payload: event.payload.clone(),
            time_ms: crate::model::now_ms(),
            content: Parked::Event(event.position),
        };
        self.advance(to, Vec::new(), Vec::new(), vec![letter])
    }

    fn advance(
        &mut self,
        to: Position,
        commands: Vec<Command>,
        messages: Vec<Message>,
        parked: Vec<DeadLetter>,
    ) -> Result<(), Error> {
        let step = store::Progress {
            subscription: self.slot.name.clone(),
            from: self.checkpoint,
            to,
            commands,
            messages,
            parked,
        };
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.store.advance(
            step,
            Box::new(move |result| {
                // The worker waits below: it is there.
                let _ = answer.send(result);
            }),
        );
        let Advanced { commands } = answered.recv().map_err(|_| Error::Closed)??;
        self.checkpoint = to;
        self.outbox.send(commands);
        Ok(())
    }

    /// New code from here on, if there is any.
    fn renew_code(&mut self) {
        if !self.slot.is_current(&self.plugin) {
            self.plugin = self.slot.current();
            self.filter = self.plugin.subscriber_filter();
            self.guest = None;
        }
    }
}

fn command_from(id: Arc<str>, event: &RecordedEvent, command: crate::plugin::OutgoingCommand) -> Command {
    Command {
        stream: StreamId::new(command.aggregate_type, command.aggregate_id),
        name: command.name.into(),
        payload: command.payload,
        id,
        time_ms: event.time_ms,
        correlation_id: event.correlation_id.clone(),
        causation_id: event.id.to_string().into(),
        headers: command.headers,
        origin: None,
        durable_id: false,
        expected: None,
    }
}

fn message_from(
    id: Arc<str>,
    source: &Arc<str>,
    event: &RecordedEvent,
    message: crate::plugin::OutgoingMessage,
) -> Message {
    Message {
        id,
        topic: message.topic,
        key: message.key,
        partition: message.partition,
        headers: message.headers,
        payload: message.payload,
        time_ms: event.time_ms,
        correlation_id: event.correlation_id.clone(),
        causation_id: event.id.to_string().into(),
        source: source.clone(),
    }
}
