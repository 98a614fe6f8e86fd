//! One schedule at work: which command is sent next, and when.
//!
//! A [`Timer`] only decides. It is told the time and the outcomes, and does not know how a command is sent.

use crate::backoff::backoff;
use crate::manifest::{Missed, Schedule};
use crate::model::{Command, LedgerName, Origin, Outcome, second};
use crate::status::ScheduleStatus;
use std::sync::Arc;
use std::time::Duration;

/// The longest time by which a due time may be late when it is noticed. A later one counts as missed.
const LATE_MAX: Duration = Duration::from_secs(60);

/// The pause before a command is sent for the second time. It doubles each time.
const RESEND_FIRST: Duration = Duration::from_millis(100);

/// A schedule, with its progress.
pub(super) struct Timer {
    name: Arc<str>,
    ledger: Arc<str>,
    schedule: Schedule,
    /// The watermark of its ledger, in seconds: everything below it is settled.
    next_s: u64,
    /// The first due time for which nothing was sent.
    due_s: Option<u64>,
    /// The latest due time that is settled, if it is known.
    last_s: Option<u64>,
    /// The command that has no outcome yet.
    sent: Option<Sent>,
    trouble: Option<String>,
    runs: u64,
    failures: u64,
}

/// A command that was sent and has no outcome yet.
struct Sent {
    due_s: u64,
    /// The number of times that it came back without an outcome.
    attempts: u32,
    /// The running time at which it is sent again. `None` if it is in flight.
    again_ms: Option<u64>,
}

/// The next thing to do for a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, for this many milliseconds or until there is an outcome.
    Rest(u64),
    /// Send the command of the due time with this number.
    Send(u64),
    /// Settle everything below this second without a command.
    Skip(u64),
}

/// The time at which a timer is asked.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) wall_ms: u64,
    pub(super) running_ms: u64,
}

impl Timer {
    /// Makes the timer of a schedule. It needs its watermark before anything else.
    pub(super) fn new(name: &str, schedule: Schedule) -> Self {
        Self {
            name: name.into(),
            ledger: LedgerName::Schedule(name).to_string().into(),
            schedule,
            next_s: 0,
            due_s: None,
            last_s: None,
            sent: None,
            trouble: None,
            runs: 0,
            failures: 0,
        }
    }

    /// Returns the name of the schedule.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the name of its ledger.
    pub(super) fn ledger(&self) -> &Arc<str> {
        &self.ledger
    }

    /// Takes over the watermark of the ledger. A command that was sent before and is not settled is sent again at once:
    /// an aggregate that has given it back decides nothing else of this ledger before it.
    pub(super) fn resume(&mut self, next_s: u64, now: Now) {
        self.next_s = next_s;
        self.sent = self.sent.take().filter(|sent| sent.due_s >= next_s);
        if let Some(sent) = &mut self.sent {
            sent.again_ms = Some(now.running_ms);
        }
        let due = &self.schedule.due;
        self.due_s = due.first(self.sent.as_ref().map_or(next_s, |sent| sent.due_s + 1));
        // Each command settles its own due time last.
        self.last_s = next_s.checked_sub(1).filter(|last| due.first(*last) == Some(*last));
    }

    /// Returns what to do now.
    pub(super) fn action(&self, now: Now) -> Action {
        match &self.sent {
            Some(Sent { again_ms: None, .. }) => Action::Rest(u64::MAX),
            Some(Sent { due_s, again_ms: Some(again_ms), .. }) => match again_ms.saturating_sub(now.running_ms) {
                0 => Action::Send(*due_s),
                pause_ms => Action::Rest(pause_ms),
            },
            None => self.plan(now.wall_ms),
        }
    }

    fn plan(&self, wall_ms: u64) -> Action {
        let Some(due_s) = self.due_s else { return Action::Rest(u64::MAX) };
        let early_ms = (due_s * 1_000).saturating_sub(wall_ms);
        if early_ms > 0 {
            return Action::Rest(early_ms);
        }
        let in_time_s = wall_ms.saturating_sub(LATE_MAX.as_millis() as u64).div_ceil(1_000);
        if due_s >= in_time_s {
            return Action::Send(due_s);
        }
        match self.schedule.missed {
            Missed::All => Action::Send(due_s),
            Missed::Latest => Action::Send(self.schedule.due.latest(due_s, in_time_s - 1).unwrap_or(due_s)),
            Missed::Skip => Action::Skip(in_time_s),
        }
    }

    /// Makes the command of a due time. It settles all due times before it, too.
    pub(super) fn command(&self, due_s: u64) -> Command {
        let id: Arc<str> = format!("schedule:{}:{due_s}", self.name).into();
        Command {
            stream: self.schedule.stream.clone(),
            name: self.schedule.command.as_str().into(),
            payload: self.schedule.payload.clone(),
            id: id.clone(),
            time_ms: due_s * 1_000,
            correlation_id: id.clone(),
            causation_id: id,
            headers: Vec::new(),
            origin: Some(Origin { ledger: self.ledger.clone(), first: self.next_s, last: due_s }),
            hops: 0,
            durable_id: false,
            outcome_use: Default::default(),
            first_ms: None,
            expected: None,
        }
    }

    /// Notes that the command of a due time is in flight.
    pub(super) fn sent(&mut self, due_s: u64) {
        let attempts = self.sent.take().map_or(0, |sent| sent.attempts);
        if let Some(first) = self.due_s.filter(|first| *first < due_s) {
            self.log_skipped(first, due_s);
        }
        self.sent = Some(Sent { due_s, attempts, again_ms: None });
        self.due_s = self.schedule.due.first(due_s + 1);
    }

    /// Notes that everything below a second is settled without a command.
    pub(super) fn skipped(&mut self, to_s: u64) {
        if let Some(first) = self.due_s.filter(|first| *first < to_s) {
            self.log_skipped(first, to_s);
            self.last_s = self.schedule.due.latest(first, to_s - 1);
        }
        self.next_s = to_s;
        self.trouble = None;
        self.due_s = self.schedule.due.first(to_s);
    }

    fn log_skipped(&self, first_s: u64, to_s: u64) {
        let [first, to] = [first_s, to_s].map(second);
        tracing::info!("schedule {}: its due times from {first} to before {to} were missed and are skipped", self.name);
    }

    /// Takes the outcome of the command in flight.
    pub(super) fn ended(&mut self, outcome: Outcome, now: Now) {
        let Some(sent) = &mut self.sent else { return };
        let unsettled = match outcome {
            Outcome::Failed { reason } => Some(reason),
            Outcome::Busy { .. } => Some("its aggregate is busy".to_owned()),
            // Each other outcome is settled, if need be as a dead letter.
            _ => None,
        };
        match unsettled {
            Some(reason) => {
                sent.attempts += 1;
                let pause = backoff(RESEND_FIRST, sent.attempts);
                sent.again_ms = Some(now.running_ms + pause.as_millis() as u64);
                let due = second(sent.due_s);
                tracing::warn!("schedule {}: the command of {due} is sent again later: {reason}", self.name);
                self.failed(reason);
            }
            None => {
                self.next_s = sent.due_s + 1;
                self.last_s = Some(sent.due_s);
                self.sent = None;
                self.trouble = None;
                self.runs += 1;
            }
        }
    }

    /// Notes that an attempt failed.
    pub(super) fn failed(&mut self, reason: String) {
        self.failures += 1;
        self.trouble = Some(reason);
    }

    /// Returns the status of the schedule.
    pub(super) fn status(&self) -> ScheduleStatus {
        let (state, error) = super::condition(self.trouble.as_deref(), self.sent.is_some() || self.due_s.is_some());
        ScheduleStatus {
            name: self.name.to_string(),
            command: format!("{} to {}", self.schedule.command, self.schedule.stream),
            state,
            error,
            due_ms: self.sent.as_ref().map(|sent| sent.due_s * 1_000),
            next_ms: self.due_s.map(|due_s| due_s * 1_000),
            last_ms: self.last_s.map(|last_s| last_s * 1_000),
            runs: self.runs,
            failures: self.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::due_times::{DueTimes, Zone};
    use crate::model::{Position, StreamId, Version};

    const HOUR_S: u64 = 3_600;
    /// 2026-01-01T00:00:00Z.
    const BEGIN_S: u64 = 1_767_225_600;
    /// No due time.
    const NONE: [u64; 0] = [];

    fn timer(cron: &str, missed: Missed, next_s: u64) -> Timer {
        let schedule = Schedule {
            due: DueTimes::parse(cron, Zone::utc()).unwrap(),
            stream: StreamId::new("till", "main"),
            command: "CloseDay".into(),
            payload: b"null".to_vec(),
            missed,
        };
        let mut timer = Timer::new("close-day", schedule);
        timer.resume(next_s, at(next_s));
        timer
    }

    fn at(wall_s: u64) -> Now {
        Now { wall_ms: wall_s * 1_000, running_ms: 0 }
    }

    fn accepted() -> Outcome {
        Outcome::Accepted { version: Version(1), position: Position(1), events: 1 }
    }

    /// Does everything that is to be done at a time. Returns the due times that ran.
    fn run(timer: &mut Timer, now: Now) -> Vec<u64> {
        let mut ran = Vec::new();
        loop {
            match timer.action(now) {
                Action::Rest(_) => return ran,
                Action::Send(due_s) => {
                    let origin = timer.command(due_s).origin.unwrap();
                    assert_eq!((origin.first, origin.last), (timer.next_s, due_s), "it settles all before it");
                    timer.sent(due_s);
                    timer.ended(accepted(), now);
                    ran.push(due_s);
                }
                Action::Skip(to_s) => timer.skipped(to_s),
            }
        }
    }

    #[test]
    fn a_command_names_its_schedule_and_due_time() {
        let command = timer("0 * * * *", Missed::Latest, BEGIN_S).command(BEGIN_S);
        assert_eq!(&*command.id, "schedule:close-day:1767225600");
        assert_eq!((&command.correlation_id, &command.causation_id), (&command.id, &command.id));
        assert_eq!((command.time_ms, command.hops), (BEGIN_S * 1_000, 0));
        let origin = command.origin.unwrap();
        assert_eq!(origin.consumer(), "schedule/close-day");
        assert_eq!(origin.place(), "schedule close-day at 2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_due_time_runs_once_when_it_has_come() {
        let mut hourly = timer("0 * * * *", Missed::Latest, BEGIN_S + 1);
        let due_s = BEGIN_S + HOUR_S;
        let early = Now { wall_ms: due_s * 1_000 - 1, running_ms: 0 };
        assert_eq!(hourly.action(early), Action::Rest(1));
        assert_eq!(run(&mut hourly, at(due_s)), [due_s]);
        assert_eq!(hourly.action(at(due_s)), Action::Rest(HOUR_S * 1_000));
        assert_eq!(run(&mut hourly, at(BEGIN_S)), NONE, "the clock was set back");
        assert_eq!(run(&mut hourly, at(due_s)), NONE, "it does not run twice");
        let status = hourly.status();
        assert_eq!((status.last_ms, status.next_ms), (Some(due_s * 1_000), Some((due_s + HOUR_S) * 1_000)));
        assert_eq!((status.state, status.runs, status.due_ms), (crate::status::State::Running, 1, None));
    }

    #[test]
    fn what_was_missed_is_run_as_the_schedule_says() {
        let (next_s, now) = (BEGIN_S + 1, at(BEGIN_S + 4 * HOUR_S + 1_800));
        let hours = |numbers: &[u64]| numbers.iter().map(|number| BEGIN_S + number * HOUR_S).collect::<Vec<_>>();
        for (missed, expected) in
            [(Missed::Latest, hours(&[4])), (Missed::All, hours(&[1, 2, 3, 4])), (Missed::Skip, vec![])]
        {
            let mut hourly = timer("0 * * * *", missed, next_s);
            assert_eq!(run(&mut hourly, now), expected, "{missed:?}");
            assert_eq!(run(&mut hourly, at(BEGIN_S + 5 * HOUR_S)), hours(&[5]), "{missed:?}");
        }
    }

    #[test]
    fn a_due_time_of_the_last_minute_is_not_missed() {
        let (due_s, late_s) = (BEGIN_S + HOUR_S, LATE_MAX.as_secs());
        for missed in [Missed::Latest, Missed::All, Missed::Skip] {
            assert_eq!(run(&mut timer("0 * * * *", missed, BEGIN_S + 1), at(due_s + late_s)), [due_s], "{missed:?}");
        }
        let later = Now { wall_ms: (due_s + late_s) * 1_000 + 1, running_ms: 0 };
        assert_eq!(run(&mut timer("0 * * * *", Missed::Skip, BEGIN_S + 1), later), NONE);
        // Due times of the last minute follow after the latest of those that were missed.
        let mut often = timer("*/30 * * * * *", Missed::Latest, BEGIN_S);
        let now_s = BEGIN_S + HOUR_S;
        assert_eq!(run(&mut often, at(now_s)), [now_s - 90, now_s - 60, now_s - 30, now_s]);
    }

    #[test]
    fn a_command_without_an_outcome_is_sent_again_before_any_other() {
        let mut hourly = timer("0 * * * *", Missed::Skip, BEGIN_S);
        hourly.sent(BEGIN_S);
        assert_eq!(hourly.action(at(BEGIN_S + HOUR_S)), Action::Rest(u64::MAX), "it is in flight");
        hourly.ended(Outcome::Failed { reason: "the disk is full".into() }, at(BEGIN_S));
        let Action::Rest(pause_ms) = hourly.action(at(BEGIN_S)) else { panic!("it pauses") };
        assert!((100..=125).contains(&pause_ms), "{pause_ms}");
        let status = hourly.status();
        assert_eq!((status.state, status.error.as_deref()), (crate::status::State::Retrying, Some("the disk is full")));
        assert_eq!((status.due_ms, status.failures), (Some(BEGIN_S * 1_000), 1));
        let much_later = Now { wall_ms: (BEGIN_S + 5 * HOUR_S) * 1_000, running_ms: pause_ms };
        assert_eq!(hourly.action(much_later), Action::Send(BEGIN_S), "it is not missed, because it was noticed");
        hourly.sent(BEGIN_S);
        hourly.ended(accepted(), much_later);
        assert_eq!(hourly.status().state, crate::status::State::Running);
    }

    #[test]
    fn after_a_panic_the_ledger_says_what_is_settled() {
        for (next_s, again) in [(BEGIN_S, Action::Send(BEGIN_S)), (BEGIN_S + 1, Action::Rest(HOUR_S * 1_000))] {
            let mut hourly = timer("0 * * * *", Missed::Skip, BEGIN_S);
            hourly.sent(BEGIN_S);
            hourly.resume(next_s, at(BEGIN_S));
            assert_eq!(hourly.action(at(BEGIN_S)), again);
        }
    }
}
