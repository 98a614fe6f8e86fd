//! The thread of a projection.
//!
//! One generation answers queries and follows the store. A generation of newer code may be built at the same time. Once
//! it has caught up, it takes over in one step. Either may be missing: no code answers before a read model has caught
//! up once, and a damaged read model is rebuilt.

use super::Error;
use super::board::{BoardView, Building, Code};
use super::builder::{Broken, Builder, EventAt};
use super::folding::Folding;
use super::generation::Generation;
use super::opening::Opener;
use super::skips::Skips;
use crate::backoff::backoff;
use crate::follow::FollowerProgress;
use crate::model::Position;
use crate::plugin::{Catalog, Plugin, Slot};
use crate::status::State;
use crate::store;
use arc_swap::ArcSwapOption;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long to wait for new events before checking for new code.
const IDLE: Duration = Duration::from_millis(250);

/// The interval at which a projection that has stopped at an event looks whether that one is skipped.
const SKIPS_EVERY: Duration = Duration::from_secs(1);

/// The state that a projection's thread shares with its handle.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) answering: ArcSwapOption<Generation>,
    pub(super) progress: Arc<FollowerProgress>,
    pub(super) view: watch::Sender<BoardView>,
    pub(super) skips: Skips,
    /// Whether a person has asked for a new read model of the code that answers.
    pub(super) must_rebuild: AtomicBool,
}

pub(super) struct ProjectionWorker {
    pub(super) name: Arc<str>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) opener: Opener,
    pub(super) shared: Arc<Shared>,
    pub(super) folding: Folding,
    /// The generation that answers.
    pub(super) live: Option<Builder>,
    /// The generation of the newest code, until it has caught up.
    pub(super) next: Option<Builder>,
    /// Whether the next generation has the same code as the one that answers, because a person asked for it.
    pub(super) is_rebuilding: bool,
    /// Why the last rebuild that a person asked for failed.
    pub(super) unrebuilt: Option<String>,
    /// New code that failed before it could take over, and why. It is not retried.
    pub(super) refused: Option<(Arc<Plugin>, Arc<Broken>)>,
    /// Why no generation can be opened now, the number of attempts, and the time of the next one.
    pub(super) unopened: Option<(Arc<str>, u32, Instant)>,
    /// Whether older code may answer meanwhile. This is only so at a start.
    pub(super) looks_for_older: bool,
    /// The code that upcasts its events, if it asks for the newest shape.
    pub(super) upcasting_code: Option<u64>,
    /// Whether other hosts may share the store.
    pub(super) is_shared: bool,
    /// When the events that are skipped were read last.
    pub(super) skips_read: Instant,
}

impl ProjectionWorker {
    /// Opens the read model of the current code, if there is one. This is fast, so that a projection that was up to
    /// date answers at once.
    pub(super) fn begin(&mut self) {
        let plugin = self.folding.slot.current();
        match self.opener.find(&plugin, self.folding.follower.reader()) {
            Ok(Some(found)) if found.has_answered => {
                self.answers(Builder::new(Arc::new(found.generation)));
                self.forget_others();
                self.looks_for_older = false;
            }
            Ok(Some(found)) => self.next = Some(Builder::new(Arc::new(found.generation))),
            Ok(None) => {}
            Err(error) => self.is_unopened(&error),
        }
        if self.folding.follower.head() == Position(0) {
            // The store is empty, so an empty read model is complete.
            self.looks_for_older = false;
            self.look_for_code();
            self.take_over(Position(0));
        }
        self.show();
    }

    /// Works until the projection is stopped. After a panic it is called again.
    pub(super) fn run(&mut self) {
        [&mut self.live, &mut self.next].into_iter().flatten().for_each(Builder::begin_again);
        if std::mem::take(&mut self.looks_for_older) {
            self.look_for_older();
        }
        while !self.folding.follower.is_stopped() {
            crate::supervise::round();
            self.show();
            self.wait();
            self.look_for_skips();
            self.look_for_damage();
            self.look_for_rebuild();
            self.look_for_upcasting_code();
            self.look_for_code();
            self.step_live();
            self.step_next();
        }
    }

    /// Has older code answer until the current code has caught up.
    fn look_for_older(&mut self) {
        let (catalog, slot) = (&self.catalog, &self.folding.slot);
        let load = |file: &std::path::Path| catalog.load_other(slot, file);
        if let Some(older) = self.opener.older(&slot.current(), self.folding.follower.reader(), load) {
            tracing::info!(
                "projection {} answers from the code of {} until that of {} has caught up",
                self.name,
                older.plugin.label(),
                slot.current().label()
            );
            self.answers(Builder::new(Arc::new(older)));
        }
    }

    fn show(&self) {
        self.show_condition();
        let broken = self.live.as_ref().and_then(|live| live.broken.as_ref());
        let trouble = self.unopened.as_ref().map(|(reason, ..)| reason.clone());
        let building = self.next.as_ref().map(|next| Building {
            code: next.code.clone(),
            reached: next.committed(),
            trouble: next.trouble.as_ref().map(|trouble| trouble.reason.clone()),
        });
        let current = || Building { code: Code::of(&self.folding.slot.current()), reached: Position(0), trouble };
        let is_wanted = self.live.is_none() && self.refused.is_none();
        let stopped_at = broken.into_iter().chain(self.refused.as_ref().map(|(_, broken)| broken));
        let mut stopped_at: Vec<EventAt> = stopped_at.filter_map(|broken| broken.at.clone()).collect();
        stopped_at.dedup();
        let view = BoardView {
            answers: self.live.as_ref().map(|live| live.code.clone()),
            stopped: broken.map(|broken| broken.reason.as_str().into()),
            building: building.or_else(|| is_wanted.then(current)),
            refused: self.refused.as_ref().map(|(plugin, broken)| (Code::of(plugin), broken.reason.as_str().into())),
            set_aside: self.opener.set_aside.clone(),
            stopped_at,
        };
        self.shared.view.send_if_modified(|shown| {
            let is_new = *shown != view;
            *shown = view;
            is_new
        });
    }

    fn show_condition(&self) {
        let moving = if self.live.is_some() { State::Following } else { State::CatchingUp };
        let trouble = |builder: &Option<Builder>| Some(builder.as_ref()?.trouble.as_ref()?.reason.to_string());
        let mut reasons = Vec::new();
        let mut state = moving;
        if let Some(broken) = self.live.as_ref().and_then(|live| live.broken.as_ref()) {
            state = State::Stopped;
            reasons.push(broken.reason.clone());
        } else if let Some(reason) = trouble(&self.live) {
            state = State::Retrying;
            reasons.push(reason);
        }
        if let Some((_, broken)) = &self.refused {
            if self.live.is_none() {
                state = State::Stopped;
            }
            reasons.push(format!("new code is refused: {}", broken.reason));
        }
        reasons.extend(self.unrebuilt.iter().map(|reason| format!("it is not rebuilt: {reason}")));
        if let Some(reason) = trouble(&self.next).or(self.unopened.as_ref().map(|(reason, ..)| reason.to_string())) {
            if self.live.is_none() {
                state = State::Retrying;
            }
            reasons.push(reason);
        }
        if reasons.is_empty() {
            self.shared.progress.is(state);
        } else {
            self.shared.progress.is_because(state, reasons.join("; "));
        }
    }

    fn wait(&mut self) {
        let working = [&self.live, &self.next].into_iter().flatten().filter(|builder| builder.is_at_work());
        match working.map(|builder| builder.reached).min() {
            Some(reached) => self.folding.follower.wait(reached, IDLE),
            None if self.live.is_none() && self.next.is_none() && self.can_open() => {
                !self.folding.follower.is_stopped()
            }
            None => self.folding.follower.pause(IDLE),
        };
    }

    fn can_open(&self) -> bool {
        self.unopened.as_ref().is_none_or(|(.., again_at)| Instant::now() >= *again_at)
            && !self.refused.as_ref().is_some_and(|(refused, _)| self.folding.slot.is_current(refused))
    }

    /// Resumes after the events that a person has decided to skip.
    fn look_for_skips(&mut self) {
        self.look_for_skips_of_others();
        let Some(skips) = self.shared.skips.changes() else { return };
        self.folding.skips = skips;
        let is_over =
            |broken: &Arc<Broken>| broken.at.as_ref().is_some_and(|at| self.folding.skips.contains_key(&at.position));
        if let Some(live) = &mut self.live
            && live.broken.as_ref().is_some_and(is_over)
        {
            live.broken = None;
        }
        if self.refused.as_ref().is_some_and(|(_, broken)| is_over(broken)) {
            self.refused = None;
        }
    }

    /// Reads again which events are skipped while the projection has stopped at one: somebody may have told another host of the store.
    fn look_for_skips_of_others(&mut self) {
        let is_stopped = self.refused.is_some() || self.live.as_ref().is_some_and(|live| live.broken.is_some());
        if !is_stopped || !self.is_shared || self.skips_read.elapsed() < SKIPS_EVERY {
            return;
        }
        self.skips_read = Instant::now();
        // If the store can't be read now, it can be later.
        let _ = self.shared.skips.read_again(self.folding.follower.reader(), &self.name);
    }

    /// Tries again what has failed, if other code upcasts the events now.
    fn look_for_upcasting_code(&mut self) {
        let code = self.folding.slot.current().upcasting_code();
        if std::mem::replace(&mut self.upcasting_code, code) == code {
            return;
        }
        (self.refused, self.unrebuilt) = (None, None);
        if let Some(live) = &mut self.live {
            live.broken = None;
        }
    }

    /// Stops answering from a read model that a query has found to be damaged.
    fn look_for_damage(&mut self) {
        let damage = self.live.as_ref().and_then(|live| live.generation.damage().cloned());
        if let Some(cause) = damage {
            self.live_is_damaged(&cause);
        }
    }

    /// Starts a new generation of the code that answers, because a person asked for it. It begins again if one is being
    /// built.
    fn look_for_rebuild(&mut self) {
        if !self.shared.must_rebuild.swap(false, Ordering::AcqRel) {
            return;
        }
        let Some(plugin) = self.live.as_ref().map(|live| live.generation.plugin.clone()) else { return };
        if !self.folding.slot.is_current(&plugin) {
            // Newer code is being built anyway.
            return;
        }
        self.drop_next();
        self.unrebuilt = None;
        match self.opener.create(&plugin) {
            Ok(generation) => {
                tracing::info!("projection {} is being rebuilt, as it was asked to", self.name);
                self.next = Some(Builder::new(Arc::new(generation)));
                self.is_rebuilding = true;
            }
            Err(error) => self.is_not_rebuilt(&error),
        }
    }

    fn is_not_rebuilt(&mut self, error: &Error) {
        tracing::error!("projection {} is not rebuilt: {error}", self.name);
        self.unrebuilt = Some(error.to_string());
        self.drop_next();
    }

    fn live_is_damaged(&mut self, cause: &str) {
        if let Some(live) = self.live.take() {
            self.shared.answering.store(None);
            // Queries that wait for a position wait until the rebuilt read model has reached it.
            self.shared.progress.reach(Position(0));
            live.generation.set_aside();
            self.opener.note(cause);
        }
    }

    /// Starts a generation of the newest code, unless that code answers, is being built or is refused.
    fn look_for_code(&mut self) {
        let current = self.folding.slot.current();
        if let Some((refused, _)) = &self.refused {
            if Arc::ptr_eq(refused, &current) {
                return;
            }
            self.refused = None;
        }
        if self.live.as_ref().is_some_and(|live| live.generation.plugin.digest == current.digest) {
            if !self.is_rebuilding {
                self.drop_next();
            }
            return;
        }
        if self.next.as_ref().is_some_and(|next| next.generation.plugin.digest == current.digest) || !self.can_open() {
            return;
        }
        self.drop_next();
        match self.opener.open(&current, self.folding.follower.reader()) {
            Ok(opened) => {
                self.unopened = None;
                self.next = Some(Builder::new(Arc::new(opened.generation)));
            }
            Err(error) if error.is_passing() || error.is_damage() => self.is_unopened(&error),
            Err(error) => self.refuse(current, error),
        }
    }

    fn is_unopened(&mut self, error: &Error) {
        tracing::error!("projection {} can't start: {error}", self.name);
        let attempts = self.unopened.as_ref().map_or(1, |(_, attempts, _)| attempts + 1);
        let again_at = Instant::now() + backoff(self.folding.options.backoff, attempts);
        self.unopened = Some((error.to_string().into(), attempts, again_at));
    }

    /// Drops the read model that was being built for code that is no longer the newest.
    fn drop_next(&mut self) {
        self.is_rebuilding = false;
        if let Some(next) = self.next.take() {
            next.generation.retire();
        }
    }

    fn refuse(&mut self, plugin: Arc<Plugin>, error: Error) {
        tracing::error!("projection {} refuses the code of {}: {error}", self.name, plugin.label());
        self.refused = Some((plugin, error.into_broken()));
    }

    fn step_live(&mut self) {
        let Some(live) = self.live.as_mut().filter(|live| live.is_at_work()) else { return };
        let stepped = self.folding.step(live);
        // This includes the events before one that failed.
        self.shared.progress.reach(live.committed());
        match stepped {
            Ok(()) => live.trouble = None,
            // The host is stopping.
            Err(error) if error.is_end() => {}
            Err(error) if error.is_damage() => self.live_is_damaged(&error.to_string()),
            // Most likely the disk is full or memory is short. Nothing is lost, and it is retried.
            Err(error) if error.is_passing() => {
                tracing::error!("projection {} is held up: {error}", self.name);
                live.is_held_up(error.to_string(), self.folding.options.backoff);
            }
            // The event may be of newer code than this. The newer code of the projection is being built, and takes over.
            Err(error) if is_replaced(live, &self.folding.slot, self.refused.as_ref()) => {
                tracing::warn!("projection {} waits for its new code: {error}", self.name);
                live.is_held_up(format!("it waits for its new code: {error}"), self.folding.options.backoff);
            }
            Err(error) => {
                tracing::error!("projection {} stopped: {error}", self.name);
                live.broken = Some(error.into_broken());
            }
        }
    }

    fn step_next(&mut self) {
        let Some(next) = self.next.as_mut().filter(|next| next.is_at_work()) else { return };
        // Events that are recorded meanwhile do not count: under load there are always some.
        let head = self.folding.follower.head();
        match self.folding.step(next) {
            Ok(()) => {
                next.trouble = None;
                self.take_over(head);
            }
            Err(error) if error.is_end() => {}
            Err(error) if error.is_damage() => {
                next.generation.set_aside();
                self.next = None;
                self.opener.note(&error.to_string());
                // It is not rebuilt at once: a disk that damages files would be kept busy.
                self.is_unopened(&error);
            }
            Err(error) if error.is_passing() => {
                tracing::error!("projection {} is held up while it is built: {error}", self.name);
                next.is_held_up(error.to_string(), self.folding.options.backoff);
            }
            Err(error) if self.is_rebuilding => self.is_not_rebuilt(&error),
            Err(error) => {
                let plugin = next.generation.plugin.clone();
                self.next = None;
                self.refuse(plugin, error);
            }
        }
    }

    /// Has the newest code answer, once it has caught up with the code that answers now or, without one, with `head`.
    fn take_over(&mut self, head: Position) {
        let goal = self.live.as_ref().map_or(head, |live| live.reached);
        let Some(mut next) = self.next.take_if(|next| next.reached >= goal && next.calls == 0) else { return };
        if let Err(error) = next.generation.answers() {
            next.is_held_up(error.to_string(), self.folding.options.backoff);
            self.next = Some(next);
            return;
        }
        self.is_rebuilding = false;
        tracing::info!("projection {} now answers from the code of {}", self.name, next.generation.plugin.label());
        self.answers(next);
        self.forget_others();
    }

    fn answers(&mut self, live: Builder) {
        self.shared.answering.store(Some(live.generation.clone()));
        self.shared.progress.reach(live.committed());
        if let Some(before) = self.live.replace(live) {
            before.generation.retire();
        }
    }

    /// Deletes the read models that earlier hosts left. Those that this host has opened are deleted by themselves once
    /// no query uses them.
    fn forget_others(&self) {
        for title in self.opener.shelf.leftovers() {
            self.opener.shelf.delete(&title);
        }
    }
}

/// Whether newer code is going to take over from the code that answers.
fn is_replaced(live: &Builder, slot: &Slot, refused: Option<&(Arc<Plugin>, Arc<Broken>)>) -> bool {
    let newest = slot.current();
    live.generation.plugin.digest != newest.digest && !refused.is_some_and(|(refused, _)| Arc::ptr_eq(refused, &newest))
}

impl Error {
    fn into_broken(self) -> Arc<Broken> {
        Arc::new(match self {
            Self::Event { at, reason } => Broken { at: Some(at), reason },
            other => Broken { at: None, reason: other.to_string() },
        })
    }

    fn is_end(&self) -> bool {
        matches!(self, Self::Store(store::Error::Closed) | Self::Plugin(crate::plugin::Error::Stopping))
    }
}
