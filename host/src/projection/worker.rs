//! The thread of a projection.

use super::generation::{Generation, Projected};
use super::{Error, Options};
use crate::filter::Filter;
use crate::follow::{Follower, IDLE_STRIDE, Progress, Stop, backoff};
use crate::model::{Position, RecordedEvent};
use crate::plugin::{self, Failure, Pace, Plugin, ProjectionGuest, Refusal, Slot};
use crate::status::State;
use crate::store::{self, EventStore};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// How long to wait for new events before looking for new code.
const IDLE: Duration = Duration::from_millis(250);

/// Calls in one transaction of a read model that is behind: rows that change often are then written once.
const CALLS_MAX: usize = 16;

pub(super) struct Worker {
    name: Arc<str>,
    slot: Arc<Slot>,
    options: Options,
    folder: PathBuf,
    live: Arc<ArcSwap<Generation>>,
    progress: Arc<Progress>,
    follower: Follower,
    /// New code that failed before it could take over, and why. It is not tried again.
    refused: Option<(Arc<Plugin>, String)>,
}

/// A generation on its way through the store.
struct Builder {
    generation: Arc<Generation>,
    guest: Option<ProjectionGuest>,
    pace: Pace,
    filter: Filter,
    /// As the read model has it.
    checkpoint: Position,
    /// Everything up to here is looked at, and folded in where it was wanted.
    reached: Position,
    /// Calls in the transaction that is open; without one everything that is folded in is committed.
    calls: usize,
    /// Up to here each call has a transaction of its own: one of them undid those before it.
    alone_until: Position,
    /// It failed for good: only other code can go on.
    broken: Option<String>,
}

impl Worker {
    #[allow(clippy::too_many_arguments)] // it takes over what `Projection::start` has prepared
    pub(super) fn new(
        name: Arc<str>,
        slot: Arc<Slot>,
        options: Options,
        folder: PathBuf,
        store: &dyn EventStore,
        live: Arc<ArcSwap<Generation>>,
        progress: Arc<Progress>,
        stop: Stop,
        runtime: Handle,
    ) -> Result<Self, Error> {
        let follower = Follower::new(store, stop, runtime)?;
        Ok(Self { name, slot, options, folder, live, progress, follower, refused: None })
    }

    pub(super) fn run(&mut self) {
        let live = self.live.load_full();
        live.delete_others();
        let mut live = Builder::new(live);
        // After a panic a transaction may be open.
        live.roll_back();
        let mut next: Option<Builder> = None;
        while !self.follower.is_stopped() {
            crate::supervise::round();
            self.show(&live);
            self.wait(&live, next.as_ref());
            self.look_for_code(&live, &mut next);
            self.step_live(&mut live);
            if let Some(builder) = &mut next {
                match self.step(builder) {
                    Err(error) => {
                        let plugin = builder.generation.plugin.clone();
                        self.refuse(plugin, &error);
                        next = None;
                    }
                    Ok(()) if builder.reached >= live.reached && builder.calls == 0 => {
                        live = next.take().expect("it is there");
                        self.switch_to(&live);
                    }
                    Ok(()) => {}
                }
            }
        }
    }

    fn show(&self, live: &Builder) {
        let state = if live.reached < self.follower.head() { State::CatchingUp } else { State::Following };
        match (&live.broken, &self.refused) {
            (Some(reason), _) => self.progress.is_because(State::Stopped, reason.clone()),
            (None, Some((_, reason))) => self.progress.is_because(state, reason.clone()),
            (None, None) => self.progress.is(state),
        }
    }

    fn wait(&mut self, live: &Builder, next: Option<&Builder>) {
        let working = [Some(live).filter(|live| live.broken.is_none()), next];
        match working.into_iter().flatten().map(|builder| builder.reached).min() {
            Some(reached) => self.follower.wait(reached, IDLE),
            None => self.follower.pause(IDLE),
        };
    }

    /// Begins a generation of new code beside the one that serves.
    fn look_for_code(&mut self, live: &Builder, next: &mut Option<Builder>) {
        let newest = next.as_ref().map_or(&live.generation.plugin, |next| &next.generation.plugin);
        if self.slot.is_current(newest)
            || self.refused.as_ref().is_some_and(|(refused, _)| self.slot.is_current(refused))
        {
            return;
        }
        self.refused = None;
        *next = None;
        let plugin = self.slot.current();
        if plugin.digest != live.generation.plugin.digest || live.broken.is_some() {
            match Generation::open(&plugin, &self.folder) {
                Ok(generation) => *next = Some(Builder::new(Arc::new(generation))),
                Err(error) => self.refuse(plugin, &error),
            }
        }
    }

    fn refuse(&mut self, plugin: Arc<Plugin>, error: &Error) {
        tracing::error!("projection {} keeps its old code, the new one failed: {error}", self.name);
        self.refused = Some((plugin, format!("new code is refused: {error}")));
    }

    fn step_live(&mut self, live: &mut Builder) {
        if live.broken.is_some() {
            return;
        }
        let stepped = self.step(live);
        // Also what came before an event that failed.
        self.progress.reach(live.committed());
        match stepped {
            Ok(()) => {}
            // The host is stopping.
            Err(Error::Store(store::Error::Closed)) => {}
            // The disk or the memory, most likely: nothing is lost, and it may come back.
            Err(error) if error.is_passing() => {
                tracing::error!("projection {} is held up: {error}", self.name);
                self.progress.is_because(State::Retrying, error.to_string());
                self.follower.pause(backoff(self.options.backoff, self.options.attempts_max));
            }
            Err(error) => {
                tracing::error!("projection {} stopped: {error}", self.name);
                live.broken = Some(error.to_string());
            }
        }
    }

    fn switch_to(&self, live: &Builder) {
        self.live.store(live.generation.clone());
        self.progress.reach(live.committed());
        live.generation.delete_others();
        tracing::info!("projection {} now answers from the code of {}", self.name, live.generation.plugin.label());
    }

    /// Takes a builder one page further: the whole page, or where that fails what comes before the failing event,
    /// then that event alone, then the rest. A transaction goes on over pages while there is more to read.
    fn step(&mut self, builder: &mut Builder) -> Result<(), Error> {
        match self.fold_page(builder) {
            // Those before it come again, each in a transaction of its own.
            Err(Error::Undone) => Ok(()),
            folded => folded,
        }
    }

    fn fold_page(&mut self, builder: &mut Builder) -> Result<(), Error> {
        let page = self.follower.page(builder.reached, &builder.filter, self.options.batch_max)?;
        if page.events.is_empty() {
            builder.reached = page.reached;
            let is_far = page.reached.0 >= builder.checkpoint.0 + IDLE_STRIDE;
            return if is_far || builder.calls > 0 { builder.commit() } else { Ok(()) };
        }
        let mut rest = &page.events[..];
        let mut count = builder.pace.list(rest.len());
        loop {
            let (part, behind) = rest.split_at(count);
            let to = if behind.is_empty() { page.reached } else { part[part.len() - 1].position };
            if let Err(failure) = builder.project(part, to)? {
                if part.len() > 1 {
                    count = failure.index.clamp(1, part.len() - 1);
                    continue;
                }
                if !self.insist(builder, part, to, failure)? {
                    return Ok(());
                }
            }
            if behind.is_empty() {
                break;
            }
            (rest, count) = (behind, builder.pace.list(behind.len()));
        }
        let has_more = builder.reached < self.follower.head() && !self.follower.is_stopped();
        if has_more && builder.calls < CALLS_MAX && builder.reached >= builder.alone_until {
            return Ok(());
        }
        builder.commit()
    }

    /// Tries one event again and again. A read model must not miss an event: in the end the projection stops.
    /// False where it is time to end, or new code came, before it was folded in.
    fn insist(
        &mut self,
        builder: &mut Builder,
        event: &[RecordedEvent],
        to: Position,
        mut failure: Failure,
    ) -> Result<bool, Error> {
        let position = event[0].position;
        for attempt in 1.. {
            let (again, after) = match &failure.refusal {
                Refusal::Retry { after, .. } => (attempt < self.options.attempts_max, *after),
                Refusal::Rejected(_) | Refusal::Malformed(_) => (false, Duration::ZERO),
            };
            if !again {
                return Err(Error::Event(format!(
                    "event {} of {} version {} ({position}) can't be folded in by plugin {}: {}; repair the plugin and reload \
                     it, nothing was skipped",
                    event[0].name,
                    event[0].stream,
                    event[0].version,
                    builder.generation.plugin.label(),
                    failure.refusal
                )));
            }
            self.progress.is_because(State::Retrying, failure.refusal.to_string());
            let pause = self.options.bounds.pause(backoff(self.options.backoff, attempt), after);
            let Self { follower, slot, .. } = self;
            let stopping = follower.pause_unless(pause, || !slot.is_current(&builder.generation.plugin));
            if stopping || !self.slot.is_current(&builder.generation.plugin) {
                return Ok(false);
            }
            match builder.project(event, to)? {
                Ok(()) => return Ok(true),
                Err(again) => failure = again,
            }
        }
        Ok(false)
    }
}

impl Builder {
    fn new(generation: Arc<Generation>) -> Self {
        let checkpoint = generation.checkpoint();
        let filter = generation.plugin.projection_filter();
        let pace = Pace::new(generation.plugin.limits.event_time);
        Self {
            generation,
            guest: None,
            pace,
            filter,
            checkpoint,
            reached: checkpoint,
            calls: 0,
            alone_until: Position(0),
            broken: None,
        }
    }

    /// Everything up to here is looked at, and what was wanted is in the read model, durably.
    fn committed(&self) -> Position {
        if self.calls == 0 { self.reached } else { self.checkpoint }
    }

    /// Folds events in. What was folded in before is committed where it fails. A trap counts as something passing: the
    /// guest is made anew.
    fn project(&mut self, events: &[RecordedEvent], to: Position) -> Result<Result<(), Failure>, Error> {
        let began = Instant::now();
        let Projected { outcome, is_open } = match self.call(events) {
            Ok(called) => called,
            Err(error) => {
                self.roll_back();
                return Err(error);
            }
        };
        match &outcome {
            Err(plugin::Error::Overrun { .. }) => self.pace.overran(events.len()),
            _ => self.pace.took(events.len(), began),
        }
        let failure = match outcome {
            Ok(Ok(())) if is_open => {
                self.reached = to;
                return Ok(Ok(()));
            }
            Ok(Ok(())) => passing(events, "it passed over an error that had undone its transaction".to_owned()),
            Ok(Err(failure)) => failure,
            Err(error) => {
                self.guest = None;
                if error.is_of_host() {
                    self.roll_back();
                    return Err(error.into());
                }
                let mut failure = passing(events, error.to_string());
                if let plugin::Error::Overrun { .. } = error {
                    // Any of them may be without end: the first is next, alone.
                    failure.index = 0;
                }
                failure
            }
        };
        if is_open {
            self.commit()?;
        } else if std::mem::take(&mut self.calls) > 1 {
            (self.reached, self.alone_until) = (self.checkpoint, to);
            return Err(Error::Undone);
        }
        Ok(Err(failure))
    }

    fn call(&mut self, events: &[RecordedEvent]) -> Result<Projected, Error> {
        let guest = match &mut self.guest {
            Some(guest) => guest,
            None => self.guest.insert(ProjectionGuest::new(&self.generation.plugin)?),
        };
        if self.calls == 0 {
            self.generation.begin()?;
        }
        self.calls += 1;
        self.generation.project(guest, events)
    }

    /// Makes durable what is looked at.
    fn commit(&mut self) -> Result<(), Error> {
        if self.calls == 0 {
            self.generation.begin()?;
        }
        match self.generation.commit(self.checkpoint, self.reached) {
            Ok(()) => {
                (self.checkpoint, self.calls) = (self.reached, 0);
                Ok(())
            }
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Goes back to what is durable.
    fn roll_back(&mut self) {
        (self.reached, self.calls) = (self.checkpoint, 0);
        if let Err(error) = self.generation.roll_back() {
            tracing::error!("{error}");
        }
    }
}

/// A failure that may be over soon, somewhere in a list.
fn passing(events: &[RecordedEvent], reason: String) -> Failure {
    Failure { index: events.len() / 2, refusal: Refusal::Retry { after: Duration::ZERO, reason } }
}
