//! The limit of similar lines: in each interval the first ones of a kind are written, and the rest are counted.
//!
//! A kind is a place in the code, together with the source, sink, plugin or client that the line names in a field.
//! Input from outside can cause a line any number of times, and the log must neither fill the disk nor hide other
//! lines. No line is suppressed silently: each interval with suppressed lines ends with a line that counts them and
//! shows the first one.

use crate::supervise::Held as _;
use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, callsite};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The interval in which lines of a kind are counted.
pub const INTERVAL: Duration = Duration::from_secs(10);

/// The most lines of a kind that are written in an interval.
pub const LINES_MAX: u32 = 20;

/// The same for the lines of a plugin, which all share one place in the code.
pub const GUEST_LINES_MAX: u32 = 1_000;

/// The most kinds that are counted separately. Further kinds of a place in the code share a count.
const KINDS_MAX: usize = 1_024;

/// The target of lines about other lines, which are never suppressed.
const TARGET: &str = "wasmill::log";

/// The fields that distinguish kinds with the same place in the code.
const IDENTITY: [&str; 4] = ["source", "sink", "plugin", "client"];

/// The number of lines of each kind. It is cheap to clone, and all clones share the counts.
#[derive(Clone, Default)]
pub struct Limit(Arc<Mutex<HashMap<Key, Kind>>>);

type Key = (callsite::Identifier, u64);

struct Kind {
    since: Instant,
    level: Level,
    lines: u32,
    suppressed: u64,
    /// The first line of the interval.
    example: String,
}

/// The suppressed lines of a kind in an interval.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    level: Level,
    suppressed: u64,
    example: String,
}

impl Limit {
    /// Reports suppressed lines at the end of each interval, for as long as it is polled.
    pub async fn report_each_interval(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            self.report(Instant::now());
        }
    }

    /// Reports all lines that are suppressed so far. Call it at the end of the process.
    pub fn report_rest(&self) {
        self.report(Instant::now() + INTERVAL);
    }

    /// Returns whether a line is written. If not, it is counted.
    fn admits(&self, event: &Event<'_>, now: Instant) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let lines_max = if metadata.target() == "guest" { GUEST_LINES_MAX } else { LINES_MAX };
        let mut identity = Identity::default();
        event.record(&mut identity);
        let mut kinds = self.0.held();
        let mut key = (metadata.callsite(), identity.0.finish());
        if kinds.len() >= KINDS_MAX && !kinds.contains_key(&key) {
            key.1 = 0;
        }
        let kind = kinds.entry(key).or_insert_with(|| Kind::new(*metadata.level(), now));
        // Suppressed lines are reported before a new interval begins.
        if kind.suppressed == 0 && now.saturating_duration_since(kind.since) >= INTERVAL {
            *kind = Kind::new(*metadata.level(), now);
        }
        if kind.lines == 0 {
            event.record(&mut Message(&mut kind.example));
        }
        if kind.lines < lines_max {
            kind.lines += 1;
            return true;
        }
        kind.suppressed += 1;
        false
    }

    /// Takes the summaries that are due.
    fn due(&self, now: Instant) -> Vec<Summary> {
        let mut kinds = self.0.held();
        let mut due = Vec::new();
        kinds.retain(|_, kind| {
            if now.saturating_duration_since(kind.since) < INTERVAL {
                return true;
            }
            if kind.suppressed > 0 {
                let example = std::mem::take(&mut kind.example);
                due.push(Summary { level: kind.level, suppressed: kind.suppressed, example });
            }
            false
        });
        due
    }

    fn report(&self, now: Instant) {
        // The lock must not be held here, because these lines pass through the limit too.
        for Summary { level, suppressed, example } in self.due(now) {
            let seconds = INTERVAL.as_secs();
            match level {
                Level::ERROR => {
                    tracing::error!(target: TARGET, "{suppressed} more lines within {seconds} s like: {example}")
                }
                Level::WARN => {
                    tracing::warn!(target: TARGET, "{suppressed} more lines within {seconds} s like: {example}")
                }
                _ => tracing::info!(target: TARGET, "{suppressed} more lines within {seconds} s like: {example}"),
            }
        }
    }
}

impl Kind {
    fn new(level: Level, now: Instant) -> Self {
        Self { since: now, level, lines: 0, suppressed: 0, example: String::new() }
    }
}

#[derive(Default)]
struct Identity(DefaultHasher);

impl Visit for Identity {
    fn record_str(&mut self, field: &Field, value: &str) {
        if IDENTITY.contains(&field.name()) {
            value.hash(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

struct Message<'k>(&'k mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}");
        }
    }
}

/// The filter of the log that checks the limit for each line.
pub struct Limiter(Limit);

impl Limiter {
    /// Makes a filter that uses this limit.
    pub fn new(limit: Limit) -> Self {
        Self(limit)
    }
}

impl<S: Subscriber> Layer<S> for Limiter {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.0.admits(event, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Written(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for Written {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn logged(log: impl FnOnce()) -> (Limit, u32) {
        let (limit, written) = (Limit::default(), Written::default());
        let subscriber = tracing_subscriber::registry().with(Limiter::new(limit.clone())).with(written.clone());
        tracing::subscriber::with_default(subscriber, log);
        (limit, written.0.load(Ordering::Relaxed))
    }

    #[test]
    fn lines_of_a_kind_are_summed_up() {
        let (limit, written) = logged(|| {
            for number in 0..100_000 {
                tracing::warn!(source = "baskets", "record {number} dead-lettered");
            }
            tracing::warn!(source = "other", "its own kind");
            (0..30).for_each(|number| tracing::warn!(source = format!("s-{number}").as_str(), "a kind each"));
        });
        assert_eq!(written, LINES_MAX + 1 + 30);
        assert_eq!(limit.due(Instant::now()), [], "the interval is not over");
        let summary = Summary {
            level: Level::WARN,
            suppressed: 100_000 - u64::from(LINES_MAX),
            example: "record 0 dead-lettered".into(),
        };
        assert_eq!(limit.due(Instant::now() + INTERVAL), [summary]);
        assert_eq!(limit.due(Instant::now() + INTERVAL), [], "it is reported once");
    }

    #[test]
    fn what_somebody_asked_for_is_written_and_plugins_have_more_room() {
        let (_, written) = logged(|| (0..5_000).for_each(|number| tracing::debug!("{number}")));
        assert_eq!(written, 5_000);
        let (_, written) = logged(|| {
            (0..5_000).for_each(|number| tracing::info!(target: "guest", plugin = "orders", "{number}"));
        });
        assert_eq!(written, GUEST_LINES_MAX);
    }

    #[test]
    fn kinds_are_bounded() {
        let (limit, written) = logged(|| {
            for number in 0..KINDS_MAX * 3 {
                tracing::warn!(source = number.to_string().as_str(), "from outside");
            }
        });
        assert_eq!(written, KINDS_MAX as u32 + LINES_MAX);
        assert_eq!(limit.0.lock().unwrap().len(), KINDS_MAX + 1);
    }
}
