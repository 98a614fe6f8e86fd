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

/// The most bytes of their commands, and of the answers that wait for those of earlier lines. One line may exceed the limit.
const BYTES_MAX: usize = 4 << 20;

/// The bytes of an entry, besides its texts.
const ENTRY_BYTES: usize = 128;

/// The lines that are not answered yet. An entry has the number that it gets when it is pushed.
#[derive(Default)]
pub(super) struct Window {
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: u64,
    /// The bytes of all entries.
    bytes: usize,
    /// The aggregates that have a command ready, postponed or with the shards, and the commands that wait behind it.
    turns: QuickMap<StreamId, VecDeque<u64>>,
    /// The commands to be offered, in this order.
    ready: VecDeque<u64>,
    /// The commands that found the queue of their shard full, in the order in which they are offered again.
    full: VecDeque<u64>,
    /// The commands to be offered again later, with the time. All wait for the same time.
    postponed: VecDeque<(Instant, u64)>,
}

struct Entry {
    line: u64,
    /// The bytes that it counts with.
    bytes: usize,
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
    /// The command with this id has ended.
    Ended(Arc<str>, Outcome),
    /// It is no command, or nobody takes it.
    Refused(HttpError),
}

impl Answered {
    fn bytes(&self) -> usize {
        let texts = match self {
            Self::Ended(id, outcome) => id.len() + reason(outcome).len(),
            Self::Refused(refusal) => refusal.detail.len(),
        };
        ENTRY_BYTES + texts
    }
}

/// Returns the text of an outcome, which may be long.
fn reason(outcome: &Outcome) -> &str {
    match outcome.what() {
        Outcome::Rejected { reason }
        | Outcome::Malformed { reason }
        | Outcome::IdReused { reason }
        | Outcome::Archived { reason }
        | Outcome::Failed { reason } => reason,
        Outcome::Accepted { .. } | Outcome::Conflict { .. } | Outcome::Busy { .. } | Outcome::Remembered(_) => "",
    }
}

/// Returns the bytes that a command counts with. Its own size does not have all of its texts.
fn bytes(command: &Command) -> usize {
    let Command { stream, name, id, correlation_id, .. } = command;
    let texts = [&stream.aggregate_type, &stream.aggregate_id, name, id, correlation_id];
    ENTRY_BYTES + command.size() + texts.map(|text| text.len()).iter().sum::<usize>()
}

impl Window {
    /// Returns the bytes of the lines that are not answered.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

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
        self.add(Entry { line, bytes: bytes(&command), state: State::Pending { command, postponed: None } });
    }

    /// Adds a line that is refused.
    pub(super) fn push_refusal(&mut self, line: u64, refusal: HttpError) {
        let answered = Answered::Refused(refusal);
        self.add(Entry { line, bytes: answered.bytes(), state: State::Answered(answered) });
    }

    fn add(&mut self, entry: Entry) {
        self.bytes += entry.bytes;
        self.entries.push_back(entry);
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

    /// Notes that the command that was ready finds the queue of its shard full. Others follow it, because their shards may
    /// have room.
    pub(super) fn note_full(&mut self) {
        self.full.extend(self.ready.pop_front());
    }

    /// Whether commands wait for room in the queue of their shard.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.full.is_empty()
    }

    /// Makes commands ready that found a queue full: those that have waited for the longest time, up to a number.
    pub(super) fn again(&mut self, count: usize) {
        let count = count.min(self.full.len());
        self.ready.extend(self.full.drain(..count));
    }

    /// Returns the line of an entry.
    pub(super) fn line(&self, number: u64) -> u64 {
        self.entries[self.index(number)].line
    }

    /// Takes the outcome of a command. The next one of its aggregate is ready then.
    pub(super) fn end(&mut self, number: u64, outcome: Outcome) {
        let command = self.command(number).clone();
        self.answer(number, &command.stream, Answered::Ended(command.id.clone(), outcome));
    }

    /// Takes the refusal of a command that was ready.
    pub(super) fn refuse(&mut self, number: u64, refusal: HttpError) {
        let stream = self.command(number).stream.clone();
        self.answer(number, &stream, Answered::Refused(refusal));
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
        let Entry { line, bytes, state } = self.entries.pop_front()?;
        self.first += 1;
        self.bytes -= bytes;
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

    fn answer(&mut self, number: u64, stream: &StreamId, answered: Answered) {
        let index = self.index(number);
        let entry = &mut self.entries[index];
        self.bytes = self.bytes - entry.bytes + answered.bytes();
        entry.bytes = answered.bytes();
        entry.state = State::Answered(answered);
        // The name of the stream is cloned for a lookup that needs it owned.
        if let Turn::Occupied(mut waiting) = self.turns.entry(stream.clone()) {
            match waiting.get_mut().pop_front() {
                Some(next) => self.ready.push_back(next),
                None => _ = waiting.remove(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parsing::tests::parse;
    use super::*;
    use proptest::prelude::*;

    fn command(aggregate: u8) -> Arc<Command> {
        parse(&format!(r#"{{"type":"order","aggregate_id":"{aggregate}","name":"Create"}}"#)).unwrap().into()
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
        /// The queue of the shard is full.
        Full,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8).prop_map(Step::Line),
            1 => Just(Step::NoCommand),
            4 => Just(Step::Offer),
            3 => (0..4usize).prop_map(Step::End),
            1 => (0..4usize).prop_map(Step::Busy),
            2 => Just(Step::Full),
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
                        window.again(1);
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
                    Step::Full if window.ready().is_some() => window.note_full(),
                    Step::End(_) | Step::Busy(_) | Step::Full => {}
                }
                answered.extend(std::iter::from_fn(|| window.pop()).map(|(line, _)| line));
                for (at, (_, command, _)) in queued.iter().enumerate() {
                    prop_assert!(queued[..at].iter().all(|(_, other, _)| other.stream != command.stream));
                }
            }
            prop_assert!(window.is_empty() && window.turns.is_empty() && window.bytes == 0 && window.due().is_none());
            prop_assert!(!window.waits_for_room());
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

    #[test]
    fn a_full_queue_does_not_hold_up_the_commands_of_other_shards() {
        let mut window = Window::default();
        (1..=4).for_each(|line| window.push(line, command(line as u8)));
        let ready = |window: &Window| window.ready().map(|(number, _)| window.line(number));
        // The queues of the first and the third are full.
        window.note_full();
        assert_eq!(ready(&window), Some(2));
        window.queued();
        window.note_full();
        assert_eq!(ready(&window), Some(4));
        window.queued();
        assert!(window.ready().is_none() && window.waits_for_room());
        // Each has its turn, although there is still no room for the first.
        for line in [1, 3, 1, 3] {
            window.again(1);
            assert_eq!(ready(&window), Some(line));
            window.note_full();
        }
        window.again(64);
        assert!(!window.waits_for_room());
        assert_eq!(ready(&window), Some(1));
    }

    #[test]
    fn answers_that_wait_for_an_earlier_line_count_without_their_commands() {
        let with = |name: &str, payload: usize| {
            let payload = "x".repeat(payload);
            parse(&format!(r#"{{"type":"order","aggregate_id":"{name}","name":"Create","payload":"{payload}"}}"#))
                .unwrap()
        };
        let mut window = Window::default();
        window.push(1, with("first", 0).into());
        let first = window.bytes();
        let command = Arc::new(with("other", 1 << 20));
        window.push(2, command.clone());
        assert!(window.bytes() > first + (1 << 20));
        window.end(1, Outcome::Busy { retry_after_ms: 0 });
        assert!(window.bytes() < first + 1_000, "{} after {first}", window.bytes());
        assert_eq!(Arc::strong_count(&command), 1, "nobody keeps the command");
        // Reasons count until they are taken out.
        window.push(3, with("third", 0).into());
        window.end(2, Outcome::Rejected { reason: "r".repeat(1 << 20) });
        window.push_refusal(4, HttpError::malformed("d".repeat(1 << 20)));
        assert!(window.bytes() > first + (2 << 20) && window.has_room());
        window.push_refusal(5, HttpError::malformed("d".repeat(2 << 20)));
        assert!(!window.has_room());
        window.end(0, Outcome::Busy { retry_after_ms: 0 });
        let lines: Vec<u64> = std::iter::from_fn(|| window.pop()).map(|(line, _)| line).collect();
        assert_eq!((lines, window.bytes()), (vec![1, 2, 3, 4, 5], 0));
    }

    #[test]
    fn a_command_counts_with_all_its_texts() {
        let long = "x".repeat(200);
        let of = |id: &str, key: &str| {
            let line = format!(
                r#"{{"type":"order","aggregate_id":"{id}","name":"{id}","idempotency_key":"{key}","correlation_id":"{key}"}}"#
            );
            bytes(&parse(&line).unwrap())
        };
        assert_eq!(of(&long, &long) - of("x", "x"), 4 * 199);
    }
}
