//! Waiting until everything that followed from a command is at rest.
//!
//! A flow is at rest when each subscription has handled its events, and when one view of the store has no command and no due
//! callback of it, and no event of it appeared meanwhile. Whatever moves is in one of these places at any time.

use super::Host;
use super::drain::reach_unless;
use crate::filter::Filter;
use crate::flows::{EndedCommand, FlowWatch};
use crate::model::{Position, RecordedEvent, StreamId, Version};
use crate::store::{Error, EventSearch, FlowQuery, Reader, SearchedId, UnderWay};
use crate::subscriptions::{Subscription, pausing_fact};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most events that are kept of a flow.
const EVENTS_MAX: usize = 1_000;

/// The most events that are searched of those before a repeated command.
const SEARCHED_BACK_MAX: u64 = 50_000;

/// The shortest and the longest pause between two looks at a flow that is not at rest.
const LOOK_FIRST: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(100);

/// What waits for a person in a flow at rest: the subscriptions and keys behind a dead letter, and the paused subscriptions.
type AtRest = (Vec<(String, StreamId)>, Vec<String>);

/// The flow of a command that is about to be sent.
pub struct Following {
    host: Arc<Host>,
    correlation_id: Arc<str>,
    ended: FlowWatch,
    /// The next position to search for events.
    next: Position,
    /// The position of its newest event.
    newest: Position,
    streams: HashMap<StreamId, Version>,
    /// The position of its newest event that a subscription handles, by the subscription, if another host may run it.
    handled_by: HashMap<Arc<str>, Position>,
    events: Vec<RecordedEvent>,
    more: bool,
}

/// What followed from a command.
pub struct Followed {
    /// The correlation id.
    pub correlation_id: Arc<str>,
    /// What it still waits for. `None` is a flow at rest.
    pub waiting_for: Option<String>,
    /// The position of its newest event.
    pub position: Position,
    /// Its first events.
    pub events: Vec<RecordedEvent>,
    /// The first commands of subscriptions that ended meanwhile.
    pub commands: Vec<EndedCommand>,
    /// Whether there are more events or commands than those.
    pub more: bool,
    /// The subscriptions and keys that wait behind a dead letter.
    pub held_keys: Vec<(String, StreamId)>,
    /// The paused subscriptions, a sentence each.
    pub paused: Vec<String>,
}

impl Host {
    /// Begins to follow what a command with this correlation id causes. Call it before the command is sent.
    pub fn follow(self: &Arc<Self>, correlation_id: Arc<str>) -> Following {
        let ended = self.core.flows.watch(Some(correlation_id.clone()));
        let next = Position(self.core.store.head().borrow().0 + 1);
        let (streams, handled_by, events, more) = Default::default();
        let newest = Position(0);
        Following { host: self.clone(), correlation_id, ended, next, newest, streams, handled_by, events, more }
    }
}

impl Following {
    /// Says where the events of the command itself are: the last position, and their number. They may be older if the command
    /// is a repetition. Events too far back are not searched.
    pub fn begins_at(&mut self, last: Position, events: u32) {
        let oldest = self.next.0.saturating_sub(SEARCHED_BACK_MAX);
        let begin = (last.0 + 1).saturating_sub(events.into());
        self.more |= begin < oldest;
        self.next = self.next.min(Position(begin.max(oldest)));
    }

    /// Waits until everything that followed is at rest, or the time is up.
    pub async fn rest(mut self, timeout: Duration) -> Result<Followed, Error> {
        let deadline = Instant::now() + timeout;
        let mut waiting_for = "the first look".to_owned();
        let rest = tokio::time::timeout_at(deadline, self.until_rest(&mut waiting_for)).await;
        let ((held_keys, paused), waiting_for) = match rest {
            Ok(at_rest) => (at_rest?, None),
            Err(_) => (AtRest::default(), Some(waiting_for)),
        };
        let (commands, more) = self.ended.take();
        Ok(Followed {
            correlation_id: self.correlation_id,
            waiting_for,
            position: if self.newest > Position(0) { self.newest } else { Position(self.next.0 - 1) },
            events: self.events,
            commands,
            more: self.more || more > 0,
            held_keys,
            paused,
        })
    }

    /// Returns the keys that wait behind dead letters, and the paused subscriptions.
    async fn until_rest(&mut self, waiting_for: &mut String) -> Result<AtRest, Error> {
        self.search(Position(0)).await?;
        let mut pause = LOOK_FIRST;
        loop {
            self.handled(waiting_for).await;
            let distant_paused = self.handled_elsewhere(waiting_for).await?;
            let found = self.under_way().await?;
            // Commands are known to have ended a little later than the store has their ends, and later than the head that
            // `search` reads.
            let is_at_rest = found.is_at_rest() && !self.ended.is_under_way();
            let has_new = self.search(found.position).await?;
            if is_at_rest
                && !has_new
                && let Some(paused) = self.paused()
            {
                return Ok((found.held_keys.into_iter().collect(), [paused, distant_paused].concat()));
            }
            if has_new {
                continue;
            }
            let UnderWay { commands, callbacks, requests, retried_keys, .. } = found;
            let parts = [
                (commands, "commands of subscriptions"),
                (callbacks, "outcomes, timers or responses that are due"),
                (requests, "HTTP requests"),
                (retried_keys, "keys whose events are retried"),
            ];
            let parts = parts.into_iter().filter(|(count, _)| *count > 0);
            *waiting_for = parts.map(|(count, what)| format!("{what}: {count}")).collect::<Vec<_>>().join("; ");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Returns the paused subscriptions that have not handled all events of the flow, a sentence each, if all others have.
    fn paused(&self) -> Option<Vec<String>> {
        let parts = self.host.parts();
        let subscriptions = parts.subscriptions.values();
        let behind = subscriptions.filter(|subscription| *subscription.reached().borrow() < self.newest);
        behind.map(|subscription| paused(&**subscription)).collect()
    }

    /// Searches the events that were recorded since the last search, at least up to a position. Returns whether one of them is of
    /// the flow.
    async fn search(&mut self, least: Position) -> Result<bool, Error> {
        let mut has_new = false;
        // The store tells its head a little later than its readers can see the events. It fails if the store is closed.
        let _ = self.host.core.store.head().wait_for(|head| *head >= least).await;
        loop {
            let (from, head) = (self.next, *self.host.core.store.head().borrow());
            if from > head {
                return Ok(has_new);
            }
            let id = Some(SearchedId::Correlation(self.correlation_id.to_string()));
            let wanted = EventSearch { filter: Filter::all(), id };
            let page = self.host.read(move |reader| reader.search(&wanted, from, head, EVENTS_MAX)).await?;
            self.next = Position(page.reached.0 + 1);
            let handlers = self.host.handled_anywhere();
            for event in page.events {
                has_new = true;
                self.newest = event.position;
                for handler in handlers.iter().filter(|handler| handler.has(&event)) {
                    self.handled_by.insert(handler.subscription.clone(), event.position);
                }
                self.streams.insert(event.stream.clone(), event.version);
                match self.events.len() < EVENTS_MAX {
                    true => self.events.push(event),
                    false => self.more = true,
                }
            }
        }
    }

    /// Waits until each subscription that nobody has paused has handled the events of the flow.
    async fn handled(&self, waiting_for: &mut String) {
        for (name, subscription) in &self.host.parts().subscriptions {
            *waiting_for = format!("subscription {name}");
            let reached = reach_unless(subscription.reached(), self.newest, || subscription.is_paused());
            if self.host.unless_changed(reached).await.is_none() {
                // The caller looks again, at the parts that run now.
                return;
            }
        }
    }

    /// Waits until each subscription on another host that nobody has paused has handled the events of the flow, as the store says. Returns
    /// the paused ones, a sentence each.
    async fn handled_elsewhere(&mut self, waiting_for: &mut String) -> Result<Vec<String>, Error> {
        let mut all_paused = Vec::new();
        for (name, newest) in &self.handled_by {
            let mut pause = LOOK_FIRST;
            while !self.host.parts().subscriptions.contains_key(name) {
                // The commands that ended on other hosts are not known here.
                self.more = true;
                let why = self.host.subscription_elsewhere(name);
                *waiting_for = why.unwrap_or_else(|| format!("subscription {name}, which runs on another host"));
                let asked = name.clone();
                let ask = move |reader: &mut dyn Reader| {
                    Ok((reader.checkpoint(&asked)?.unwrap_or_default(), reader.fact(&pausing_fact(&asked))?.is_some()))
                };
                let (reached, is_paused) = self.host.read(ask).await?;
                if reached >= *newest {
                    break;
                }
                if is_paused {
                    all_paused.push(told_paused(name));
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_MAX);
            }
        }
        Ok(all_paused)
    }

    async fn under_way(&self) -> Result<UnderWay, Error> {
        let parts = self.host.parts();
        let of_sources = self.host.records_anywhere(&parts).into_iter();
        let of_events = parts.applied.plan.subscriptions().map(ToString::to_string);
        let subscriptions: Vec<String> = of_events.chain(of_sources).collect();
        let (correlation_id, streams) = (self.correlation_id.clone(), self.streams.clone());
        let now_ms = self.host.clock.now_ms();
        let ask = move |reader: &mut dyn Reader| {
            let flow =
                FlowQuery { correlation_id: &correlation_id, subscriptions: &subscriptions, streams: &streams, now_ms };
            reader.under_way(&flow)
        };
        self.host.read(ask).await
    }
}

/// Says that a subscription is paused, if it is.
fn paused(subscription: &dyn Subscription) -> Option<String> {
    subscription.is_paused().then(|| told_paused(subscription.name().as_ref()))
}

fn told_paused(name: &str) -> String {
    format!("subscription {name} is paused and has not handled all of it")
}
