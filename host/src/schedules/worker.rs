//! The thread of the schedules: it does what their timers decide.

use super::Board;
use super::timer::{Action, Now, Timer};
use crate::ack::{self, Ack};
use crate::aggregates::{self, Aggregates, Unaccepted};
use crate::clock::Clock;
use crate::model::{Command, DeadLetter, Outcome};
use crate::store::{self, EventStore};
use crate::supervise;
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::thread::{self, Thread};
use std::time::Duration;

/// The longest time between two looks at the clock, so that a jump of the wall clock is noticed.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// The parts that the thread uses.
pub(super) struct Links {
    pub(super) store: Arc<dyn EventStore>,
    pub(super) aggregates: Arc<Aggregates>,
    pub(super) clock: Clock,
}

/// The state of the thread.
pub(super) struct Worker {
    links: Links,
    board: Arc<Board>,
    seats: Vec<Seat>,
}

/// A schedule, and the outcome that it waits for.
struct Seat {
    timer: Timer,
    outcome: Option<Receiver<Outcome>>,
}

impl Worker {
    pub(super) fn new(links: Links, timers: Vec<Timer>, board: Arc<Board>) -> Self {
        let seats = timers.into_iter().map(|timer| Seat { timer, outcome: None }).collect();
        Self { links, board, seats }
    }

    /// Reads the ledgers, and starts those that do not exist yet. After a panic this goes back to what the store has.
    pub(super) fn begin(&mut self) -> Result<(), store::Error> {
        let now = self.links.now();
        for Seat { timer, outcome } in &mut self.seats {
            timer.resume(self.links.watermark(timer.ledger(), now)?, now);
            *outcome = None;
        }
        self.show();
        Ok(())
    }

    /// Sends commands at their due times until the host stops.
    pub(super) fn run(&mut self) {
        while !self.board.is_stopping() {
            supervise::round();
            let this = thread::current();
            let rests = self.seats.iter_mut().map(|seat| seat.work(&self.links, &this));
            let rest = self.links.clock.wait_max(rests.min().unwrap_or(LOOK_MAX).min(LOOK_MAX));
            self.show();
            // An outcome and a stop end the pause.
            thread::park_timeout(rest);
        }
    }

    fn show(&self) {
        self.board.show(self.seats.iter().map(|seat| seat.timer.status()).collect());
    }
}

impl Seat {
    /// Does everything that is to be done now. Returns the time until there is something to do again.
    fn work(&mut self, links: &Links, waiter: &Thread) -> Duration {
        if let Some(outcome) = self.outcome.as_ref().and_then(|outcome| outcome.try_recv().ok()) {
            self.outcome = None;
            self.timer.ended(outcome, links.now());
        }
        loop {
            match self.timer.action(links.now()) {
                Action::Rest(ms) => return Duration::from_millis(ms),
                Action::Send(due_s) => self.send(due_s, links, waiter),
                Action::Skip(to_s) => match links.start_ledger(self.timer.ledger(), to_s) {
                    Ok(()) => self.timer.skipped(to_s),
                    Err(error) => {
                        self.timer.failed(error.to_string());
                        return LOOK_MAX;
                    }
                },
            }
        }
    }

    fn send(&mut self, due_s: u64, links: &Links, waiter: &Thread) {
        let (sender, outcome) = crossbeam_channel::bounded(1);
        let waiter = waiter.clone();
        let ack = Ack::new(move |outcome| {
            // Nobody receives it after a panic of the schedules' thread.
            drop(sender.send(outcome));
            waiter.unpark();
        });
        self.outcome = Some(outcome);
        let command = self.timer.command(due_s);
        self.timer.sent(due_s);
        links.send(self.timer.name(), command, ack);
    }
}

impl Links {
    fn now(&self) -> Now {
        Now { wall_ms: self.clock.now_ms(), running_ms: self.clock.running_ms() }
    }

    /// Returns the watermark of a ledger. One that does not exist yet is started now, so that its schedule does not run
    /// for the past.
    fn watermark(&self, ledger: &str, now: Now) -> Result<u64, store::Error> {
        let next_s = self.store.reader()?.ledger(ledger)?.next;
        if next_s > 0 {
            return Ok(next_s);
        }
        let now_s = now.wall_ms.div_ceil(1_000);
        self.start_ledger(ledger, now_s)?;
        Ok(now_s)
    }

    fn start_ledger(&self, ledger: &str, next_s: u64) -> Result<(), store::Error> {
        ack::wait(|ack| self.store.start_ledger(ledger, next_s, ack))
    }

    fn send(&self, schedule: &str, command: Command, ack: Ack<Outcome>) {
        match self.aggregates.send(command.into(), ack) {
            Ok(()) => {}
            Err(Unaccepted::Full(..)) => unreachable!("send waits while a queue is full"),
            Err(Unaccepted::InvalidId { reason, command, ack }) => self.dead_letter(schedule, &command, reason, ack),
            Err(Unaccepted::NoSuchAggregate { known, command, ack }) => {
                let (aggregate_type, known) = (&command.stream.aggregate_type, known.join(", "));
                let reason = format!("no plugin serves aggregate type {aggregate_type}; served are: {known}");
                self.dead_letter(schedule, &command, reason, ack);
            }
        }
    }

    /// Dead-letters a command that no shard will ever accept. The start of the host has refused a manifest with one, so
    /// this is for what nobody thought of.
    fn dead_letter(&self, schedule: &str, command: &Command, reason: String, ack: Ack<Outcome>) {
        tracing::warn!("schedule {schedule}: command {} can't be handled: {reason}", command.id);
        let origin = command.origin.clone();
        let (consumer, place) =
            origin.as_ref().map(|origin| (origin.consumer().to_owned(), origin.place())).unwrap_or_default();
        let letter = DeadLetter::of_command(consumer, place, reason.clone(), command.clone());
        self.store.dead_letter(letter, origin, aggregates::when_recorded(reason, ack));
    }
}
