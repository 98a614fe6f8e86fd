//! Schedules: they send commands at the due times of cron expressions, exactly once each.
//!
//! A schedule has a ledger of its own, whose numbers are due times in seconds. Its command settles all due times up to
//! its own, in the transaction of the command's outcome. So a restart, a kill or a jump of the clock neither repeats nor
//! loses one. The watermark of the ledger is the only state that is kept.
//!
//! One thread serves all schedules. It sends the commands and waits for no outcome, so a schedule whose command takes
//! long does not hold up the others. It does wait while the queue of an aggregate is full.

mod timer;
mod worker;

use crate::aggregates::Aggregates;
use crate::clock::Clock;
use crate::manifest::Schedule;
use crate::status::{ScheduleStatus, State};
use crate::store::{self, EventStore};
use crate::supervise::{self, Held as _, Unstarted};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use timer::Timer;
use worker::{Links, Worker};

/// The running schedules of a host.
pub struct Schedules {
    thread: supervise::Thread,
    board: Arc<Board>,
    clock: Clock,
}

/// What the thread of the schedules shares with those who ask about them.
#[derive(Default)]
struct Board {
    stopping: AtomicBool,
    /// The states of the schedules, as the thread saw them last.
    statuses: Mutex<Vec<ScheduleStatus>>,
}

impl Schedules {
    /// Starts the schedules of a manifest, if it has any. One that the store does not know starts now, so that it does
    /// nothing for the past.
    pub fn start(
        schedules: &BTreeMap<String, Schedule>,
        clock: &Clock,
        store: &Arc<dyn EventStore>,
        aggregates: &Arc<Aggregates>,
    ) -> Result<Option<Self>, store::Error> {
        if schedules.is_empty() {
            return Ok(None);
        }
        let board = Arc::new(Board::default());
        let links = Links { store: store.clone(), aggregates: aggregates.clone(), clock: clock.clone() };
        let timers = schedules.iter().map(|(name, schedule)| Timer::new(name, schedule.clone()));
        let mut worker = Worker::new(links, timers.collect(), board.clone());
        let first = move || worker.begin().map(|()| worker);
        let thread =
            supervise::restarting("schedules", first, Worker::begin, Worker::run).map_err(|error| match error {
                Unstarted::Needs(error) => error,
                error @ Unstarted::Thread(_) => store::Error::Failed(format!("can't start the schedules: {error}")),
            })?;
        Ok(Some(Self { thread, board, clock: clock.clone() }))
    }

    /// Returns the status of each schedule, by name.
    pub fn status(&self) -> Vec<ScheduleStatus> {
        let mut statuses = self.board.statuses.held().clone();
        for status in &mut statuses {
            (status.state, status.error) = self.thread.monitor().state((status.state, status.error.take()));
        }
        statuses
    }

    /// Returns the name of a schedule that has something to do now, if there is one.
    pub fn busy(&self) -> Option<String> {
        let now_ms = self.clock.now_ms();
        let is_due =
            |status: &&ScheduleStatus| status.due_ms.is_some() || status.next_ms.is_some_and(|due| due <= now_ms);
        self.board.statuses.held().iter().find(is_due).map(|status| status.name.clone())
    }

    /// Stops sending commands. The outcome of those that are in flight is recorded without this part.
    pub fn stop(&self) {
        self.board.stopping.store(true, Ordering::Release);
        self.thread.join();
    }
}

impl Board {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn show(&self, statuses: Vec<ScheduleStatus>) {
        *self.statuses.held() = statuses;
    }
}

/// Returns the state of a schedule that has this problem, if it has one.
fn condition(trouble: Option<&str>, has_due_time: bool) -> (State, Option<String>) {
    match trouble {
        Some(reason) => (State::Retrying, Some(reason.to_owned())),
        None if has_due_time => (State::Running, None),
        None => (State::Stopped, Some("no due time follows: the calendar ends, or the clock is wrong".to_owned())),
    }
}
