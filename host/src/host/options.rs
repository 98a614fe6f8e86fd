//! What a manifest sets for each part, in the words of the part.

use crate::aggregates;
use crate::backoff::Backoff;
use crate::bounds::Bounds;
use crate::clock::Clock;
use crate::manifest::{Deliveries, Manifest, Plugin as PluginSettings, Refusals, WhenFull};
use crate::model::IdRule;
use crate::plugin::{Demand, Limits};
use crate::projection;
use crate::store;
use crate::subscriptions::{self, RecordOptions};
use std::time::Duration;

/// The guests of a segment of a subscription: one each for its events, for retries and for callbacks.
const GUESTS_OF_SEGMENT: usize = 3;

/// Returns how many guests a host may have at the same time: one for each shard, for each follower, for the retries and
/// the callbacks of each subscription and segment, and for each query of a projection, and as many again while code is swapped. The
/// plugins are not known yet, so each counts as having one aggregate type.
pub fn demand(manifest: &Manifest) -> Demand {
    let queries = projection::Options::default().queries_max;
    let of_plugin = |(name, plugin): (&String, &PluginSettings)| {
        let shards = plugin.shards.unwrap_or_else(aggregates::shards_by_default);
        let more_segments = manifest.segments(name).count() - 1;
        shards + 4 + queries + GUESTS_OF_SEGMENT * more_segments
    };
    let guests = manifest.plugins.iter().map(of_plugin).sum::<usize>() + 2 * manifest.sources.len();
    let memory_mib = manifest.plugins.values().map(|plugin| plugin.limits.memory_mib).max().unwrap_or_default();
    Demand { guests: guests * 2, memory_bytes_max: memory_mib << 20 }
}

pub(super) fn limits(plugin: &PluginSettings) -> Limits {
    let limits = &plugin.limits;
    Limits {
        event_time: Duration::from_millis(limits.event_time_ms),
        memory_bytes_max: limits.memory_mib << 20,
        live_bytes_max: limits.live_mib.map_or((limits.memory_mib << 20) / 2, |mib| mib << 20),
        table_elements_max: limits.table_elements,
        instances_max: limits.instances,
        effects_max: limits.effects_max,
        output_bytes_max: limits.output_mib << 20,
        sql_value_bytes_max: limits.sql_value_mib << 20,
        sql_memory_bytes_max: limits.sql_memory_mib << 20,
        read_model_bytes_max: limits.read_model_mib << 20,
    }
}

/// Returns the number of shards of each aggregate type of a plugin, and their options.
pub(super) fn of_aggregates(plugin: &PluginSettings, bounds: Bounds) -> (usize, aggregates::Options) {
    let shards = plugin.shards.unwrap_or_else(aggregates::shards_by_default);
    let options = aggregates::Options {
        queue_max: plugin.queue_max,
        queue_bytes_max: plugin.queue_mib << 20,
        in_flight_max: plugin.in_flight_max,
        attempts_max: plugin.attempts_max,
        snapshot_every: plugin.snapshot_every,
        retry_after_max: bounds.retry_after_max,
    };
    (shards, options)
}

pub(super) fn store_options(manifest: &Manifest, clock: &Clock) -> store::Options {
    let settings = &manifest.store;
    store::Options {
        queue_max: settings.queue_max,
        queue_bytes_max: settings.queue_mib << 20,
        batch_max: settings.batch_max,
        batch_bytes_max: settings.transaction_mib << 20,
        log_bytes_max: settings.log_mib << 20,
        event_bytes_max: settings.event_bytes_max,
        outcomes_window_ms: settings.command_id_hours * 60 * 60 * 1_000,
        remember_refusals: settings.refusals == Refusals::Remember,
        dead_letters: store::DeadLetterLimits {
            count_max: settings.dead_letters_max,
            bytes_max: settings.dead_letters_mib << 20,
            age_max_ms: (settings.dead_letters_days > 0).then_some(settings.dead_letters_days * 24 * 60 * 60 * 1_000),
            drops_oldest: settings.dead_letters_full == WhenFull::DropOldest,
        },
        clock: clock.clone(),
        ..store::Options::default()
    }
}

pub(super) fn subscription_options(manifest: &Manifest, name: &str) -> subscriptions::Options {
    let settings = manifest.subscriptions.get(name).cloned().unwrap_or_default();
    subscriptions::Options {
        start: settings.start,
        batch_max: settings.batch_max,
        attempts_max: settings.attempts_max,
        backoff: Backoff::from_ms(settings.backoff_ms, settings.backoff_max_ms),
        on_failure: settings.on_failure,
        held_keys_max: settings.held_keys_max,
        bounds: manifest.bounds,
        ids: IdRule { bytes_max: manifest.store.id_bytes_max },
        event_bytes_max: manifest.store.event_bytes_max,
    }
}

pub(super) fn record_options(source: &str, deliveries: &Deliveries, bounds: Bounds) -> RecordOptions {
    RecordOptions {
        source: source.into(),
        batch_max: deliveries.batch_max,
        attempts_max: deliveries.attempts_max,
        backoff: deliveries.backoff(),
        on_failure: deliveries.on_failure,
        bounds,
    }
}

pub(super) fn projection_options(manifest: &Manifest, name: &str) -> projection::Options {
    projection::Options {
        batch_max: manifest.projections.get(name).cloned().unwrap_or_default().batch_max,
        bounds: manifest.bounds,
        ..projection::Options::default()
    }
}
