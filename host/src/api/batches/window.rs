//! The lines of a batch that are not answered yet, in their order, and the turns of their commands.
//!
//! At most one command of an aggregate is with the shards; the next one follows once that one has ended. So no line can
//! overtake an earlier one of its aggregate, whatever happens to it: also if a shard's queue is full, or if a shard
//! answers that too many commands wait for the aggregate. The shard itself decides one command of an aggregate at a
//! time, so nothing is lost by that.

use super::super::answer::HttpError;
use crate::model::{Command, Outcome, QuickMap, StreamId};
use std::collections::VecDeque;
use std::collections::hash_map::Entry as Turn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most lines that are not answered.
const LINES_MAX: usize = 2_048;

/// The most bytes of their commands. One command may exceed the limit.
const BYTES_MAX: usize = 4 << 20;

/// The lines that are not answered yet. An entry has the number that it gets when it is pushed.
#[derive(Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: u64,
    /// The bytes of all commands.
    bytes: usize,
    /// The aggregates that have a command ready, postponed or with the shards, and the commands that wait behind it.
    turns: QuickMap<StreamId, VecDeque<u64>>,
    /// The commands to be offered, in this order.
    ready: VecDeque<u64>,
    /// The commands to be offered again later, with the time. All wait for the same time.
    postponed: VecDeque<(Instant, u64)>,
}

struct Entry {
    line: u64,
    state: State,
}

enum State {
    Pending {
        command: Arc<Command>,
        /// The time at which it was postponed for the first time.
        postponed: Option<Instant>,
    },
    Answered(Answered),
}

/// How a line was answered.
pub(super) enum Answered {
    /// Its command has ended.
    Ended(Arc<Command>, Outcome),
    /// It is no command, or nobody takes it.
    Refused(HttpError),
}

impl Window {
    /// Whether another line may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < LINES_MAX && self.bytes < BYTES_MAX
    }

    /// Whether all lines are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds the command of a line.
    pub(super) fn push(&mut self, line: u64, command: Arc<Command>) {
        let number = self.first + self.entries.len() as u64;
        match self.turns.entry(command.stream.clone()) {
            Turn::Occupied(waiting) => waiting.into_mut().push_back(number),
            Turn::Vacant(free) => {
                free.insert(VecDeque::new());
                self.ready.push_back(number);
            }
        }
        self.bytes += command.size();
        self.entries.push_back(Entry { line, state: State::Pending { command, postponed: None } });
    }

    /// Adds a line that is refused.
    pub(super) fn push_refusal(&mut self, line: u64, refusal: HttpError) {
        self.entries.push_back(Entry { line, state: State::Answered(Answered::Refused(refusal)) });
    }

    /// Returns the next command to be offered.
    pub(super) fn ready(&self) -> Option<(u64, &Arc<Command>)> {
        let number = *self.ready.front()?;
        Some((number, self.command(number)))
    }

    /// Notes that the command that was ready is queued.
    pub(super) fn queued(&mut self) {
        self.ready.pop_front();
    }

    /// Returns the line of an entry.
    pub(super) fn line(&self, number: u64) -> u64 {
        self.entries[self.index(number)].line
    }

    /// Takes the outcome of a command. The next one of its aggregate is ready then.
    pub(super) fn end(&mut self, number: u64, outcome: Outcome) {
        let command = self.command(number).clone();
        self.answer(number, command.clone(), Answered::Ended(command, outcome));
    }

    /// Takes the refusal of a command that was ready.
    pub(super) fn refuse(&mut self, number: u64, refusal: HttpError) {
        let command = self.command(number).clone();
        self.answer(number, command, Answered::Refused(refusal));
    }

    /// Has a command offered again after a pause. Returns false if it has been offered for `time_max` already.
    pub(super) fn postpone(&mut self, number: u64, pause: Duration, time_max: Duration) -> bool {
        let (now, index) = (Instant::now(), self.index(number));
        let State::Pending { postponed, .. } = &mut self.entries[index].state else { return false };
        if now.duration_since(*postponed.get_or_insert(now)) >= time_max {
            return false;
        }
        self.postponed.push_back((now + pause, number));
        true
    }

    /// Returns the time at which the next command is offered again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.postponed.front().map(|(due, _)| *due)
    }

    /// Makes the commands ready whose pause is over.
    pub(super) fn resume(&mut self, now: impl FnOnce() -> Instant) {
        if self.postponed.is_empty() {
            return;
        }
        let now = now();
        while let Some((due, number)) = self.postponed.front()
            && *due <= now
        {
            self.ready.push_back(*number);
            self.postponed.pop_front();
        }
    }

    /// Removes the first line, if it is answered.
    pub(super) fn pop(&mut self) -> Option<(u64, Answered)> {
        if let State::Pending { .. } = self.entries.front()?.state {
            return None;
        }
        let Entry { line, state } = self.entries.pop_front()?;
        self.first += 1;
        match state {
            State::Answered(answered) => Some((line, answered)),
            State::Pending { .. } => None,
        }
    }

    fn index(&self, number: u64) -> usize {
        (number - self.first) as usize
    }

    fn command(&self, number: u64) -> &Arc<Command> {
        match &self.entries[self.index(number)].state {
            State::Pending { command, .. } => command,
            State::Answered(_) => unreachable!("a command ends once"),
        }
    }

    fn answer(&mut self, number: u64, command: Arc<Command>, answered: Answered) {
        let index = self.index(number);
        self.entries[index].state = State::Answered(answered);
        self.bytes -= command.size();
        // The name of the stream is cloned for a lookup that needs it owned.
        if let Turn::Occupied(mut waiting) = self.turns.entry(command.stream.clone()) {
            match waiting.get_mut().pop_front() {
                Some(next) => self.ready.push_back(next),
                None => _ = waiting.remove(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parsing::{Names, command_of_line};
    use super::*;
    use crate::clock::Clock;
    use proptest::prelude::*;

    fn command(aggregate: u8) -> Arc<Command> {
        let line = format!(r#"{{"type":"order","aggregate_id":"{aggregate}","name":"Create"}}"#);
        command_of_line(line.as_bytes(), &mut Names::default(), &Clock::system(), &crate::access::Caller::Anyone)
            .unwrap()
            .into()
    }

    /// What happens at a window.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Line(u8),
        NoCommand,
        Offer,
        /// The command with the shards at this place ends.
        End(usize),
        /// The shard does not take it, so it is offered again.
        Busy(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8).prop_map(Step::Line),
            1 => Just(Step::NoCommand),
            4 => Just(Step::Offer),
            3 => (0..4usize).prop_map(Step::End),
            1 => (0..4usize).prop_map(Step::Busy),
        ]
    }

    proptest! {
        /// Each aggregate's commands are with the shards one at a time and in their order; every line is answered, in order.
        #[test]
        fn lines_keep_their_order(steps in prop::collection::vec(step(), 0..80)) {
            let (mut window, mut queued, mut decided, mut answered) = (Window::default(), vec![], vec![], vec![]);
            let mut lines = 0;
            let drain = std::iter::repeat_n([Step::Offer, Step::End(0)], 100).flatten();
            for step in steps.into_iter().chain(drain) {
                match step {
                    Step::Line(aggregate) => {
                        lines += 1;
                        window.push(lines, command(aggregate));
                    }
                    Step::NoCommand => {
                        lines += 1;
                        window.push_refusal(lines, HttpError::malformed("no"));
                    }
                    Step::Offer => {
                        window.resume(Instant::now);
                        if let Some((number, command)) = window.ready() {
                            queued.push((number, command.clone(), window.line(number)));
                            window.queued();
                        }
                    }
                    Step::End(at) if at < queued.len() => {
                        let (number, command, line) = queued.remove(at);
                        decided.push((command.stream.clone(), line));
                        window.end(number, Outcome::Busy { retry_after_ms: 0 });
                    }
                    Step::Busy(at) if at < queued.len() => {
                        let (number, ..) = queued.remove(at);
                        prop_assert!(window.postpone(number, Duration::ZERO, Duration::MAX));
                    }
                    Step::End(_) | Step::Busy(_) => {}
                }
                answered.extend(std::iter::from_fn(|| window.pop()).map(|(line, _)| line));
                for (at, (_, command, _)) in queued.iter().enumerate() {
                    prop_assert!(queued[..at].iter().all(|(_, other, _)| other.stream != command.stream));
                }
            }
            prop_assert!(window.is_empty() && window.turns.is_empty() && window.bytes == 0 && window.due().is_none());
            prop_assert_eq!(answered, (1..=lines).collect::<Vec<_>>());
            for (at, (stream, line)) in decided.iter().enumerate() {
                prop_assert!(decided[..at].iter().all(|(other, before)| other != stream || before < line));
            }
        }
    }

    #[test]
    fn a_command_is_not_postponed_for_ever() {
        let mut window = Window::default();
        window.push(1, command(1));
        window.queued();
        assert!(window.postpone(0, Duration::ZERO, Duration::MAX));
        assert!(!window.postpone(0, Duration::ZERO, Duration::ZERO));
    }
}
