//! Those who want to know how the commands ended that followed from a first cause. Nobody else pays for it.

use crate::model::{Command, Outcome, StreamId};
use crate::supervise::Held as _;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The most commands that are kept for one of them.
const COMMANDS_MAX: usize = 1_000;

/// The flows that are watched. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Flows(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    count: AtomicUsize,
    /// By the number of the watch.
    watches: Mutex<BTreeMap<usize, Watch>>,
}

#[derive(Debug)]
struct Watch {
    /// The correlation id of the flow. `None` watches all.
    correlation_id: Option<Arc<str>>,
    /// The number of commands that were sent and have not ended.
    under_way: u64,
    ended: Vec<EndedCommand>,
    /// The number of commands that ended beyond those that are kept.
    more: u64,
}

/// A command of a subscription that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedCommand {
    /// Its id.
    pub id: Arc<str>,
    /// The aggregate.
    pub stream: StreamId,
    /// Its name.
    pub name: Arc<str>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The watch of a flow, which ends when this is dropped.
#[derive(Debug)]
pub struct FlowWatch {
    flows: Flows,
    number: usize,
}

impl Flows {
    /// Watches the commands of subscriptions with a correlation id, or all of them.
    pub fn watch(&self, correlation_id: Option<Arc<str>>) -> FlowWatch {
        let mut watches = self.0.watches.held();
        let number = watches.last_key_value().map_or(0, |(last, _)| last + 1);
        watches.insert(number, Watch { correlation_id, under_way: 0, ended: Vec::new(), more: 0 });
        self.0.count.store(watches.len(), Ordering::Release);
        FlowWatch { flows: self.clone(), number }
    }

    /// Notes that a command is sent.
    pub fn sent(&self, command: &Command) {
        self.each_watch_of(command, |watch| watch.under_way += 1);
    }

    /// Notes how a command ended. A command that is sent again has not ended.
    pub fn ended(&self, command: &Command, outcome: &Outcome) {
        self.each_watch_of(command, |watch| {
            // It may have been sent before the watch began.
            watch.under_way = watch.under_way.saturating_sub(1);
            if matches!(outcome, Outcome::Failed { .. } | Outcome::Busy { .. }) {
                return;
            }
            if watch.ended.len() == COMMANDS_MAX {
                watch.more += 1;
                return;
            }
            watch.ended.push(EndedCommand {
                id: command.id.clone(),
                stream: command.stream.clone(),
                name: command.name.clone(),
                outcome: outcome.what().clone(),
            });
        });
    }

    fn each_watch_of(&self, command: &Command, change: impl FnMut(&mut Watch)) {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let is_of = |watch: &&mut Watch| watch.correlation_id.as_ref().is_none_or(|id| *id == command.correlation_id);
        self.0.watches.held().values_mut().filter(is_of).for_each(change);
    }
}

impl FlowWatch {
    /// Returns whether a command that was sent has not ended. The store knows the end of a command a little earlier.
    pub fn is_under_way(&self) -> bool {
        self.flows.0.watches.held().get(&self.number).is_some_and(|watch| watch.under_way > 0)
    }

    /// Takes the commands that have ended since the last call, and the number of those beyond the most that are kept.
    pub fn take(&self) -> (Vec<EndedCommand>, u64) {
        let mut watches = self.flows.0.watches.held();
        let watch = watches.get_mut(&self.number).expect("it is removed when this is dropped");
        (std::mem::take(&mut watch.ended), std::mem::take(&mut watch.more))
    }
}

impl Drop for FlowWatch {
    fn drop(&mut self) {
        let mut watches = self.flows.0.watches.held();
        watches.remove(&self.number);
        self.flows.0.count.store(watches.len(), Ordering::Release);
    }
}
