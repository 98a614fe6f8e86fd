//! The sending of a subscription's commands once they are durable.

use crate::ack::Ack;
use crate::aggregates::{self, Aggregates, Unaccepted};
use crate::backoff::backoff;
use crate::flows::Flows;
use crate::load::{Load, Loaded, Weight};
use crate::model::{Command, DeadLetter, ExpectedVersion, Outcome, OutcomeUse, Undecided};
use crate::store::{Append, Decision, Error, EventStore};
use crate::supervise::Held as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// The number of a subscription's commands in flight. At the limit it waits until half of them are settled. They may
/// all go to one aggregate, where each waits for the one before, and must leave room for others in its shard.
const IN_FLIGHT_MAX: usize = 1_024;

/// The bytes of a subscription's commands in flight, with the same wait at the limit.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;

/// The pause before commands are sent again for the second time. It doubles each time.
const RESEND_FIRST: Duration = Duration::from_millis(100);

/// The commands of one subscription on their way to the aggregates.
pub(super) struct Outbox {
    subscription: Arc<str>,
    store: Arc<dyn EventStore>,
    aggregates: Arc<Aggregates>,
    flows: Flows,
    state: Arc<State>,
    /// Held while commands are sent. A subscription has several senders, and none may come between the pending commands
    /// that are sent again in order: the shards know only the first command that came back.
    sending: Mutex<()>,
}

#[derive(Default)]
struct State {
    in_flight: Load,
    /// Whether a command came back unsettled. The store still has it.
    unsettled: AtomicBool,
    /// Whether the pending commands are being read, to be sent again.
    resending: AtomicBool,
    /// Whether the commands that an earlier run of the host left were sent.
    has_caught_up: AtomicBool,
    /// Why commands came back unsettled, until all are settled.
    trouble: Mutex<Option<Trouble>>,
    /// Whether the subscription is stopping, and then no thread waits for room or sends anything.
    stopping: Mutex<bool>,
    room: Condvar,
}

/// Why commands are not settled.
struct Trouble {
    reason: String,
    /// How often commands were sent again for this reason.
    times: u32,
    /// When the commands may be sent again.
    again_at: Instant,
}

/// Whether a thread that waits for room has to keep waiting.
fn has_no_room(load: Loaded) -> bool {
    load.reaches(IN_FLIGHT_MAX / 2 + 1, IN_FLIGHT_BYTES_MAX / 2 + 1)
}

impl State {
    /// Notes that a command came back unsettled. It is sent again after a pause, once no other is in flight.
    fn came_back(&self, reason: String) {
        let mut trouble = self.trouble.held();
        let trouble =
            trouble.get_or_insert_with(|| Trouble { reason: String::new(), times: 0, again_at: Instant::now() });
        trouble.reason = reason;
        self.unsettled.store(true, Ordering::Release);
    }

    /// Returns why commands came back, until they are settled.
    fn trouble(&self) -> Option<String> {
        let mut trouble = self.trouble.held();
        if !self.is_busy() {
            *trouble = None;
        }
        trouble.as_ref().map(|trouble| trouble.reason.clone())
    }

    fn is_busy(&self) -> bool {
        self.in_flight.now().count() > 0
            || self.unsettled.load(Ordering::Acquire)
            || self.resending.load(Ordering::Acquire)
    }

    /// Begins to send the commands again that came back.
    fn begin_resend(&self) {
        self.resending.store(true, Ordering::Release);
        self.unsettled.store(false, Ordering::Release);
    }

    fn must_resend(&self) -> bool {
        if self.in_flight.now().count() > 0 || !self.unsettled.load(Ordering::Acquire) {
            return false;
        }
        if let Some(trouble) = &mut *self.trouble.held() {
            if Instant::now() < trouble.again_at {
                return false;
            }
            trouble.times += 1;
            trouble.again_at = Instant::now() + backoff(RESEND_FIRST, trouble.times);
        }
        true
    }

    /// Notes that a command is no longer in flight.
    fn ended(&self, weight: Weight) {
        let before = self.in_flight.remove(weight);
        if has_no_room(before) && !has_no_room(before.without(weight)) {
            drop(self.stopping.held());
            self.room.notify_all();
        }
    }

    fn wait_for_room(&self) {
        if !self.in_flight.now().reaches(IN_FLIGHT_MAX, IN_FLIGHT_BYTES_MAX) {
            return;
        }
        let stopping = self.stopping.held();
        let is_full = |stopping: &mut bool| !*stopping && has_no_room(self.in_flight.now());
        drop(self.room.wait_while(stopping, is_full));
    }

    fn stop(&self) {
        *self.stopping.held() = true;
        self.room.notify_all();
    }
}

impl Outbox {
    pub(super) fn new(
        subscription: Arc<str>,
        store: Arc<dyn EventStore>,
        aggregates: Arc<Aggregates>,
        flows: Flows,
    ) -> Self {
        Self { subscription, store, aggregates, flows, state: Arc::default(), sending: Mutex::default() }
    }

    /// Sends commands in order. This waits while too many are in flight, and while a shard's queue is full.
    pub(super) fn send(&self, commands: Vec<Command>) {
        if !commands.is_empty() {
            let _turn = self.sending.held();
            self.send_in_turn(commands);
        }
    }

    /// Sends the commands again that are durable and not settled, in order. If they can't be read, they are to be sent
    /// later.
    pub(super) fn resend(&self) -> Result<(), Error> {
        let _turn = self.sending.held();
        self.state.begin_resend();
        let pending = self.store.reader().and_then(|mut reader| reader.pending_commands(&self.subscription));
        let sent = pending.map(|pending| {
            if !pending.is_empty() {
                let (subscription, count) = (&self.subscription, pending.len());
                tracing::info!("subscription {subscription}: {count} commands of the outbox are sent again");
            }
            self.send_in_turn(pending);
        });
        match sent {
            Ok(_) => self.state.has_caught_up.store(true, Ordering::Release),
            Err(_) => self.state.unsettled.store(true, Ordering::Release),
        }
        self.state.resending.store(false, Ordering::Release);
        sent
    }

    fn send_in_turn(&self, commands: Vec<Command>) {
        for command in commands {
            self.state.wait_for_room();
            if *self.state.stopping.held() {
                // The rest is in the store. It is sent when the subscription starts again.
                return;
            }
            let weight = Weight::of(command.size());
            self.state.in_flight.add(weight);
            let state = self.state.clone();
            let subscription = self.subscription.clone();
            let (command, flows) = (Arc::new(command), self.flows.clone());
            let sent = command.clone();
            flows.sent(&command);
            let ack = Ack::new(move |outcome| {
                flows.ended(&sent, &outcome);
                if let Outcome::Failed { reason } = outcome {
                    tracing::warn!(
                        "subscription {subscription}: command {} ({} to {}) is sent again later: {reason}",
                        sent.id,
                        sent.name,
                        sent.stream
                    );
                    state.came_back(reason);
                }
                state.ended(weight);
            });
            match self.aggregates.send(command, ack) {
                Ok(()) => {}
                Err(Unaccepted::Full(..)) => unreachable!("send waits while a queue is full"),
                Err(Unaccepted::InvalidId { reason, command, ack }) => {
                    self.refuse(command, Decision::Malformed(reason.clone()), reason, ack);
                }
                Err(Unaccepted::NoSuchAggregate { known, command, ack }) => {
                    let (aggregate_type, known) = (&command.stream.aggregate_type, known.join(", "));
                    let reason = format!("no plugin serves aggregate type {aggregate_type}; served are: {known}");
                    self.refuse(command, Decision::Undecided(Undecided::Unserved(reason.clone())), reason, ack);
                }
            }
        }
    }

    /// Ends the waits for room. From now on nothing is sent. What is not settled is in the store, and is sent when the subscription
    /// starts again.
    pub(super) fn stop(&self) {
        self.state.stop();
    }

    /// Whether the commands that an earlier run of the host left were sent. Until then nobody may send later ones.
    pub(super) fn has_caught_up(&self) -> bool {
        self.state.has_caught_up.load(Ordering::Acquire)
    }

    /// Whether commands are in flight or wait to be sent again.
    pub(super) fn is_busy(&self) -> bool {
        self.state.is_busy()
    }

    /// Whether commands came back unsettled, no other is in flight and the pause is over, so that they can be sent
    /// again in order. Calling this begins the next pause.
    pub(super) fn must_resend(&self) -> bool {
        self.state.must_resend()
    }

    /// Returns why commands came back, until they are settled.
    pub(super) fn trouble(&self) -> Option<String> {
        self.state.trouble()
    }

    /// Ends a command that no shard will ever accept. Otherwise it would wait for ever. It is dead-lettered, unless the
    /// subscriber asked for its outcome.
    fn refuse(&self, command: Arc<Command>, decision: Decision, reason: String, ack: Ack<Outcome>) {
        tracing::warn!("subscription {}: command {} can't be handled: {reason}", self.subscription, command.id);
        if let OutcomeUse::Delivered(_) = command.outcome_use {
            let append = Append { command, expected: ExpectedVersion::Any, decision, chain: None };
            return self.store.append(append, aggregates::when_recorded(reason, ack));
        }
        let (consumer, place) = (super::consumer(&self.subscription), format!("command {}", command.id));
        let letter = DeadLetter::of_command(consumer, place, reason.clone(), (*command).clone());
        self.store.dead_letter(letter, command.origin.clone(), aggregates::when_recorded(reason, ack));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_came_back_are_sent_again_after_a_pause_and_the_reason_is_shown_until_they_are_settled() {
        let (outbox, weight) = (State::default(), Weight::of(1));
        let sent = || outbox.in_flight.add(weight);
        sent();
        outbox.came_back("the disk is full".into());
        assert!(!outbox.must_resend(), "one is under way");
        outbox.ended(weight);
        assert!(outbox.must_resend() && !outbox.must_resend(), "at once, and once");
        assert!(outbox.is_busy(), "it is not sent again yet");
        outbox.begin_resend();
        assert!(outbox.is_busy() && !outbox.must_resend(), "it is about to be sent");
        sent();
        outbox.resending.store(false, Ordering::Release);
        outbox.came_back("it is full still".into());
        outbox.ended(weight);
        assert!(!outbox.must_resend(), "not without a pause");
        assert_eq!(outbox.trouble().as_deref(), Some("it is full still"));
        outbox.trouble.held().as_mut().unwrap().again_at = Instant::now();
        assert!(outbox.must_resend());
        outbox.begin_resend();
        sent();
        outbox.resending.store(false, Ordering::Release);
        assert!(outbox.trouble().is_some(), "it may come back");
        outbox.ended(weight);
        assert_eq!(outbox.trouble(), None);
    }

    #[test]
    fn who_has_too_many_commands_under_way_waits_for_half_of_them_or_for_the_stop() {
        // The limit is reached by number, or by bytes.
        for (bytes, max) in [(0, IN_FLIGHT_MAX), (IN_FLIGHT_BYTES_MAX / 16, 16)] {
            for by_stop in [false, true] {
                let (outbox, weight) = (Arc::new(State::default()), Weight::of(bytes));
                (1..max).for_each(|_| outbox.in_flight.add(weight));
                outbox.wait_for_room();
                outbox.in_flight.add(weight);
                let waiting = outbox.clone();
                let waiter = std::thread::spawn(move || waiting.wait_for_room());
                (1..max / 2).for_each(|_| outbox.ended(weight));
                assert!(!waiter.is_finished() && outbox.in_flight.now().count() == max / 2 + 1);
                if by_stop {
                    outbox.stop();
                } else {
                    outbox.ended(weight);
                }
                waiter.join().unwrap();
            }
        }
    }
}
