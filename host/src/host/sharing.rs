//! Which parts run on this host, if several hosts share its store.
//!
//! Aggregates and projections run on every host, so commands and queries are answered where they arrive. Every other part runs on the one
//! host that has its lease. The hosts do not talk to each other. Each looks in the store who is there, and acts by a rule that needs nothing
//! else: the parts are divided evenly among the hosts that agree with the longest running one on the manifest and on the code of the
//! plugins. A host that has less than its share takes parts that nobody runs, and asks for parts of hosts that have more than theirs. A part
//! moves only if a host that is able to run it has asked for it, and no more parts move than needed.

use super::change::STOP_MAX;
use super::fitting::has_subscription;
use super::parts::Error;
use super::plan::{Kind, PartName, Plan, Recipe};
use super::{Host, Parts};
use crate::ack;
use crate::backoff::Pauses;
use crate::filter::Filter;
use crate::http::Grant;
use crate::manifest::{Api, Manifest, Target};
use crate::model::{RecordedEvent, Segment, StreamId, SubscriptionName};
use crate::plugin::{Plugin, Role};
use crate::status::SharedHostStatus;
use crate::store::{self, EventStore, HostEntry, Hosts, Part, SharingChange, lease_of_subscription};
use crate::supervise::Held as _;
use sha2::{Digest as _, Sha256};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// The interval at which a host looks which parts it should run.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The time for which a host counts as being there after its lease has expired: when all have lost the database for a while, all leases have
/// expired, and each host needs a moment to renew its own.
const GRACE: Duration = Duration::from_secs(3);

/// The pause before the host tries again to start a part that could not be started. It doubles with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The bytes of a digest of a key's value. The digests only have to differ where the values do.
const DIGEST_BYTES: usize = 8;

/// A subscription to recorded events, or a segment of one, with the events that it handles.
pub(super) struct HandledEvents {
    pub(super) subscription: Arc<str>,
    events: Filter,
    /// The segment whose aggregates' events it handles, if the aggregates decide that.
    segment: Option<Segment>,
}

impl HandledEvents {
    /// Whether it may have to handle an event.
    pub(super) fn has(&self, event: &RecordedEvent) -> bool {
        let StreamId { aggregate_type, aggregate_id } = &event.stream;
        self.events.matches(aggregate_type, &event.name)
            && self.segment.is_none_or(|segment| segment.has(aggregate_id.as_bytes()))
    }
}

/// What this host knows of the hosts that share its store.
pub(super) struct Shared {
    store: Arc<dyn EventStore>,
    seen: Mutex<Seen>,
    /// The pauses before parts that could not be started are tried again.
    retries: Mutex<Pauses>,
    /// The lock of the data folder, which no other host may use.
    _folder: Option<File>,
}

/// The hosts when this one looked last.
#[derive(Default)]
struct Seen {
    hosts: Hosts,
    /// Since when hosts are seen with an expired lease and this number of commits.
    expired: BTreeMap<u64, (u64, Instant)>,
}

/// What a host has applied: the plan of all parts of its manifest, wherever they run, and what all hosts must have in common.
#[derive(Clone, Default)]
pub(super) struct Applied {
    pub(super) plan: Plan,
    settings: BTreeMap<String, String>,
}

impl Applied {
    /// Makes it of a manifest with these plugins.
    pub(super) fn of(manifest: &Manifest, plugins: &[Arc<Plugin>], plan: Plan) -> Self {
        Self { plan, settings: settings(manifest, plugins) }
    }
}

impl Shared {
    /// Locks the data folder, if the store does not.
    pub(super) fn new(store: Arc<dyn EventStore>, data: &Path) -> Result<Self, Error> {
        let folder = store.sharing().map(|_| lock(data)).transpose()?;
        let retries = Mutex::new(Pauses::new(RETRY_FIRST));
        Ok(Self { store, seen: Mutex::default(), retries, _folder: folder })
    }

    /// Whether other hosts may share the store.
    pub(super) fn is_possible(&self) -> bool {
        self.store.sharing().is_some()
    }

    /// Whether other hosts share the store now.
    pub(super) fn has_others(&self) -> Result<bool, store::Error> {
        let hosts = self.look()?;
        Ok(hosts.entries.iter().any(|host| host.is_there && host.id != hosts.this))
    }

    /// Tells other hosts where the API of this one is, and what all hosts must have in common.
    pub(super) fn introduce(&self, manifest: &Manifest, applied: &Applied) -> Result<(), store::Error> {
        self.change(SharingChange::Introduce(url(&manifest.api), applied.settings.clone()))
    }

    fn change(&self, change: SharingChange) -> Result<(), store::Error> {
        self.store.sharing().map_or(Ok(()), |sharing| ack::wait(|ack| sharing.change(change, ack)))
    }

    /// Changes the leases of parts, if there are any.
    fn change_leases(&self, change: fn(Vec<String>) -> SharingChange, parts: Vec<String>) -> Result<(), store::Error> {
        if parts.is_empty() { Ok(()) } else { self.change(change(parts)) }
    }

    /// Whether the parts that other hosts run are all in a plan.
    pub(super) fn knows_all(&self, plan: &Plan) -> Result<bool, store::Error> {
        let (hosts, own) = (self.look()?, leases(plan));
        Ok(hosts.leases.keys().all(|part| own.contains(part)))
    }

    /// Fails if places in the store are to get other names while other hosts use them.
    pub(super) fn refuse_moves(&self, moves: &[(Part, String)]) -> Result<(), Error> {
        match moves.first() {
            Some((part, name)) if self.has_others()? => Err(Error::One(format!(
                "{part} can't get the name {name} while other hosts share the store: stop all of them but one first"
            ))),
            _ => Ok(()),
        }
    }

    /// Takes the leases that this host should have for a plan, and returns the plan without the parts that run on other hosts.
    pub(super) fn granted(&self, plan: &Plan) -> Result<Plan, store::Error> {
        if !self.is_possible() {
            return Ok(plan.clone());
        }
        let hosts = self.look()?;
        let (Shares { take, .. }, gone) = (shares(&hosts, &leases(plan)), gone(&hosts));
        if !(take.is_empty() && gone.is_empty()) {
            self.change(SharingChange::Take(gone, take))?;
        }
        Ok(own(&self.look()?, plan))
    }

    /// Returns a plan without the parts that run on other hosts, as far as this host knows.
    pub(super) fn expected(&self, plan: Plan) -> Plan {
        let seen = &self.seen.held().hosts;
        plan.only(|name, recipe| match place(name, recipe) {
            Place::OneHost(part) => seen.leases.get(&part).is_none_or(|lease| lease.host == seen.this),
            place => is_own(seen, &place),
        })
    }

    /// Returns the parts that run on other hosts.
    pub(super) fn all_elsewhere(&self) -> Vec<String> {
        let seen = &self.seen.held().hosts;
        seen.leases.iter().filter(|(_, lease)| lease.host != seen.this).map(|(part, _)| part.clone()).collect()
    }

    /// Returns the parts of a plan that no host runs, and why, if this host differs from the longest running one.
    pub(super) fn nowhere(&self, plan: &Plan) -> (Vec<String>, Vec<String>) {
        let seen = &self.seen.held().hosts;
        let differs = seen.own_entry().map(|this| differing(seen, this)).unwrap_or_default();
        let parts = leases(plan).into_iter().filter(|part| !differs.is_empty() && !seen.leases.contains_key(part));
        (parts.collect(), differs)
    }

    /// Returns the parts of a plan that other hosts run too, each with a share of the work.
    fn divided(&self, plan: &Plan) -> Vec<String> {
        let seen = &self.seen.held().hosts;
        let has_others = seen.entries.iter().any(|entry| entry.is_there && entry.id != seen.this);
        let divided = plan.parts().filter(|(name, recipe)| matches!(place(name, recipe), Place::AgreeingHosts));
        divided.filter(|_| has_others).map(|(name, _)| name.to_string()).collect()
    }

    /// Returns where a part runs, if that is another host.
    fn elsewhere(&self, name: &PartName, place: &Place) -> Option<String> {
        let Place::OneHost(part) = place else { return None };
        let seen = &self.seen.held().hosts;
        let host = seen.leases.get(part)?.host;
        let entry = seen.entries.iter().find(|entry| entry.id == host && host != seen.this)?;
        let place = entry.url.as_ref().map_or(String::new(), |url| format!(" at {url}"));
        Some(format!("{name} runs on another host, {}{place}: ask that one", entry.name))
    }

    /// Returns what people need to see of the hosts.
    pub(super) fn status(&self) -> Vec<SharedHostStatus> {
        let seen = self.seen.held().hosts.clone();
        let host = |entry: &HostEntry| SharedHostStatus {
            id: entry.id,
            name: entry.name.clone(),
            url: entry.url.clone(),
            this: entry.id == seen.this,
            differs: differing(&seen, entry),
            parts: held(&seen, entry.id).cloned().collect(),
        };
        let there = seen.entries.iter().filter(|entry| entry.is_there);
        there.map(host).collect()
    }

    /// Looks who is there. A host whose lease has expired counts as being there until that was so for a while.
    fn look(&self) -> Result<Hosts, store::Error> {
        let Some(sharing) = self.store.sharing() else { return Ok(Hosts::default()) };
        let found = sharing.hosts();
        let mut seen = self.seen.held();
        let mut hosts = found.inspect_err(|_| seen.expired.clear())?;
        if hosts.own_entry().is_some_and(|this| !this.is_there) {
            // This host has not renewed its own lease yet.
            seen.expired.clear();
        }
        let mut expired = BTreeMap::new();
        for entry in hosts.entries.iter_mut().filter(|entry| !entry.is_there && !entry.has_ended) {
            let before = seen.expired.get(&entry.id).filter(|(commits, _)| *commits == entry.commits);
            let since = before.map_or_else(Instant::now, |(_, since)| *since);
            entry.is_there = since.elapsed() < GRACE;
            expired.insert(entry.id, (entry.commits, since));
        }
        seen.expired = expired;
        seen.hosts = hosts.clone();
        Ok(hosts)
    }
}

impl Host {
    /// Returns why a part of the manifest does not run here, and where it does, if that is so.
    fn why_not_here(&self, name: &PartName) -> Option<String> {
        let parts = self.parts();
        if parts.running().has(name) {
            return None;
        }
        let place = place(name, parts.applied.plan.recipe(name)?);
        self.core.shared.elsewhere(name, &place).or_else(|| {
            let error = parts.missing.get(&name.to_string());
            let (nowhere, differs) = self.core.shared.nowhere(&parts.applied.plan);
            let runs = match &place {
                Place::AgreeingHosts if !differs.is_empty() => Some("does not run here"),
                Place::OneHost(part) if nowhere.contains(part) => Some("runs on no host"),
                _ => None,
            };
            Some(match (error, runs) {
                (Some(error), _) => format!("{name} could not be started, which is tried again: {error}"),
                (None, Some(runs)) => format!(
                    "{name} {runs}, because this one differs from the longest running host of the store in {}: give both the \
                     same manifest and plugins",
                    differs.join(", ")
                ),
                (None, None) => format!("{name} is between two hosts of the store at the moment: try again"),
            })
        })
    }

    /// Returns why a source does not run here, and where it does, if that is so.
    pub fn source_elsewhere(&self, name: &str) -> Option<String> {
        self.why_not_here(&PartName::new(Kind::Source, name))
    }

    /// Returns why the part of a subscription does not run here, and where it does, if that is so.
    pub(super) fn subscription_elsewhere(&self, name: &str) -> Option<String> {
        self.why_not_here(&match SubscriptionName::parse(name) {
            SubscriptionName::Plugin(..) => PartName::new(Kind::Subscription, name),
            SubscriptionName::Source(source) => PartName::new(Kind::Source, source),
        })
    }

    /// Returns the subscriptions to recorded events and their segments, if other hosts may run some of them.
    pub(super) fn handled_anywhere(&self) -> Vec<HandledEvents> {
        if !self.core.shared.is_possible() {
            return Vec::new();
        }
        let parts = self.parts();
        let plugins = self.core.catalog.plugins();
        let of_plugin = |plugin: &Arc<Plugin>| {
            let (events, name) = (plugin.handled_events(), plugin.name.clone());
            // Only its code knows which saga an event is for.
            let is_by_aggregate = plugin.description.roles.iter().any(|role| matches!(role, Role::Subscriber { .. }));
            parts.manifest.segments(&name).map(move |segment| HandledEvents {
                subscription: SubscriptionName::Plugin(&name, segment).to_string().into(),
                events: events.clone(),
                segment: is_by_aggregate.then_some(segment),
            })
        };
        plugins.iter().filter(|plugin| has_subscription(plugin)).flat_map(of_plugin).collect()
    }

    /// Returns the names of the subscriptions to the records of sources, whichever host runs them.
    pub(super) fn records_anywhere(&self, parts: &Parts) -> Vec<String> {
        let delivering =
            parts.manifest.sources.iter().filter(|(_, source)| matches!(source.target, Target::Deliveries(_)));
        delivering.map(|(name, _)| SubscriptionName::Source(name).to_string()).collect()
    }

    /// Warns when this host begins to differ from the longest running one.
    fn tell_differences(&self, told: &mut Vec<String>) {
        let (nowhere, differs) = self.core.shared.nowhere(&self.parts().applied.plan);
        if differs != *told && !differs.is_empty() {
            let parts =
                if nowhere.is_empty() { String::new() } else { format!("; on no host run {}", nowhere.join(", ")) };
            tracing::warn!(
                "this host differs from the longest running host of the store in {}, so other hosts run the parts that run on one \
                 host{parts}: give all hosts the same manifest and plugins",
                differs.join(", ")
            );
        }
        *told = differs;
    }

    /// Returns the parts of the manifest that do not run here, as the answer about a drained host names them.
    pub(super) fn parts_elsewhere(&self) -> Vec<String> {
        let (nowhere, _) = self.core.shared.nowhere(&self.parts().applied.plan);
        let nowhere = nowhere.into_iter().map(|part| format!("{part}, which runs on no host"));
        let divided = self.core.shared.divided(&self.parts().applied.plan);
        let divided = divided.into_iter().map(|part| format!("{part}, of which other hosts may read partitions"));
        self.core.shared.all_elsewhere().into_iter().chain(nowhere).chain(divided).collect()
    }

    /// Hands over the parts that other hosts should run, and starts those that this one should run. This blocks.
    fn divide(&self) -> Result<(), Error> {
        let (shared, mut parts) = (&self.core.shared, self.parts());
        let mut hosts = shared.look()?;
        let told = |hosts: &Hosts| {
            hosts.own_entry().is_none_or(|this| this.settings.as_ref() == Some(&parts.applied.settings))
        };
        if !told(&hosts) {
            // A change of the manifest tells its settings before its parts run, so they are told here when there is none under way.
            let _alone = self.core.catalog.change();
            parts = self.parts();
            shared.introduce(&parts.manifest, &parts.applied)?;
            hosts = shared.look()?;
        }
        let mut due = shares(&hosts, &leases(&parts.applied.plan));
        shared.change_leases(SharingChange::Want, std::mem::take(&mut due.want))?;
        if self.is_divided(&hosts, &parts, &due) {
            return Ok(());
        }
        // Parts make clients that need the runtime.
        let _runtime = self.core.environment.runtime.enter();
        // The manifest may be changed until then.
        let _alone = self.core.catalog.change();
        let current = self.parts();
        let hosts = shared.look()?;
        let due = shares(&hosts, &leases(&current.applied.plan));
        if self.stopping.load(Ordering::Acquire) || self.is_divided(&hosts, &current, &due) {
            return Ok(());
        }
        let in_use = self.in_use.blocking_write();
        self.changing.store(true, Ordering::Release);
        let mut next = (*current).clone();
        let divided = self.divide_parts(&mut next, &hosts, due);
        self.parts.send_replace(Arc::new(next));
        self.changing.store(false, Ordering::Release);
        drop(in_use);
        divided
    }

    /// Whether nothing has to be taken, handed over, given up, started or stopped now.
    fn is_divided(&self, hosts: &Hosts, parts: &Parts, due: &Shares) -> bool {
        let are_running = own(hosts, &parts.applied.plan).parts().all(|(name, _)| parts.running().has(name));
        // A person may have changed the leases by hand.
        let have_leases = parts.running().parts().all(|(name, recipe)| is_own(hosts, &place(name, recipe)));
        due.take.is_empty()
            && due.hand_over.is_empty()
            && due.give_up.is_empty()
            && gone(hosts).is_empty()
            && have_leases
            && (are_running || self.core.shared.retries.held().is_pausing())
    }

    fn divide_parts(&self, next: &mut Parts, hosts: &Hosts, due: Shares) -> Result<(), Error> {
        let (shared, applied) = (&self.core.shared, next.applied.clone());
        let Shares { hand_over, give_up, .. } = due;
        let leaves = |part: String| hand_over.contains(&part) || give_up.contains(&part);
        let kept = own(hosts, next.running()).only(|name, recipe| !lease(name, recipe).is_some_and(leaves));
        let stopped: Vec<String> = next.running().without(&kept).map(|(name, _)| name.to_string()).collect();
        if !stopped.is_empty() {
            tracing::info!("other hosts run from here on: {}", stopped.join(", "));
        }
        next.stop_unless_in(&kept, Instant::now() + next.manifest.host.stop_max().min(STOP_MAX));
        // Whatever they have begun is in the queue of the store before this.
        shared.change_leases(SharingChange::HandOver, hand_over)?;
        shared.change_leases(SharingChange::GiveUp, give_up)?;
        // What runs may be made from a secret that has changed since. That is for a reload.
        let granted = shared.granted(&applied.plan)?.only(|name, _| !next.running().has(name));
        let started: Vec<String> = granted.parts().map(|(name, _)| name.to_string()).collect();
        if !started.is_empty() {
            tracing::info!("this host runs from here on: {}", started.join(", "));
        }
        next.missing.clear();
        next.start_more(&granted);
        if !next.missing.is_empty() {
            shared.retries.held().after_failure();
        }
        Ok(())
    }
}

/// Divides the parts among the hosts of the store, again and again, until the host is gone.
pub(super) async fn keep_divided(host: Weak<Host>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Vec::new();
    loop {
        looks.tick().await;
        let Some(host) = host.upgrade() else { return };
        let divided = tokio::task::spawn_blocking(move || {
            match host.divide() {
                // The store tells what is wrong with it.
                Ok(()) | Err(Error::Store(_)) => {}
                Err(error) => tracing::error!("the parts can't be divided among the hosts of the store: {error}"),
            }
            host.tell_differences(&mut told);
            told
        });
        told = divided.await.unwrap_or_default();
    }
}

/// What a host should change.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shares {
    /// Parts that nobody runs, for this host.
    take: Vec<String>,
    /// Parts to ask other hosts for.
    want: Vec<String>,
    /// Parts that other hosts have asked this one for.
    hand_over: Vec<String>,
    /// Parts that are not in the manifest any more.
    give_up: Vec<String>,
}

/// Decides which leases a host should take, want and hand over. `parts` are those of its plan that need one.
fn shares(hosts: &Hosts, parts: &BTreeSet<String>) -> Shares {
    let is_there = |id: u64| hosts.entries.iter().any(|entry| entry.id == id && entry.is_there);
    let count = |id: u64| held(hosts, id).filter(|part| parts.contains(*part)).count();
    let is_agreeing =
        |entry: &&HostEntry| entry.is_there && entry.settings.is_some() && differing(hosts, entry).is_empty();
    let mut agreeing: Vec<u64> = hosts.entries.iter().filter(is_agreeing).map(|entry| entry.id).collect();
    // All hosts come to the same order. Who has more keeps one more, if the number is not even.
    agreeing.sort_by_key(|id| (Reverse(count(*id)), *id));
    let share = |id: u64| {
        let place = agreeing.iter().position(|other| *other == id);
        place.map_or(0, |place| parts.len() / agreeing.len() + usize::from(place < parts.len() % agreeing.len()))
    };
    let surplus = |id: u64| count(id).saturating_sub(share(id));
    let lacking = |id: u64| share(id).saturating_sub(count(id));
    let lease = |part: &String| hosts.leases.get(part).filter(|lease| is_there(lease.host));
    let take: Vec<String> =
        parts.iter().filter(|part| lease(part).is_none()).take(lacking(hosts.this)).cloned().collect();
    // If several hosts want parts of one, it must not be asked for more than its surplus by each.
    let of_others = hosts.entries.iter().filter(|entry| entry.id != hosts.this && entry.is_there);
    let wanted =
        of_others.flat_map(|entry| held(hosts, entry.id).filter(|part| parts.contains(*part)).take(surplus(entry.id)));
    let wanted = wanted.take(lacking(hosts.this) - take.len());
    let want = wanted.filter(|part| hosts.leases[*part].wanted_by != Some(hosts.this)).cloned().collect();
    let asked = |part: &&String| hosts.leases[*part].wanted_by.is_some_and(|host| is_there(host) && lacking(host) > 0);
    let own = || held(hosts, hosts.this);
    Shares {
        take,
        want,
        hand_over: own()
            .filter(|part| parts.contains(*part))
            .filter(asked)
            .take(surplus(hosts.this))
            .cloned()
            .collect(),
        give_up: own().filter(|part| !parts.contains(*part)).cloned().collect(),
    }
}

/// Returns the parts of which a host has the lease.
fn held(hosts: &Hosts, host: u64) -> impl Iterator<Item = &String> {
    hosts.leases.iter().filter(move |(_, lease)| lease.host == host).map(|(part, _)| part)
}

/// Returns the hosts that do not come back, as far as this one knows.
fn gone(hosts: &Hosts) -> Vec<u64> {
    hosts.entries.iter().filter(|entry| !entry.is_there).map(|entry| entry.id).collect()
}

/// Returns the keys of a host that differ from those of the longest running one.
fn differing(hosts: &Hosts, entry: &HostEntry) -> Vec<String> {
    let there = hosts.entries.iter().filter(|entry| entry.is_there);
    let Some(first) = there.filter_map(|entry| entry.settings.as_ref()).next() else { return Vec::new() };
    let Some(settings) = &entry.settings else { return Vec::new() };
    let keys: BTreeSet<&String> = first.keys().chain(settings.keys()).collect();
    keys.into_iter().filter(|key| first.get(*key) != settings.get(*key)).cloned().collect()
}

/// Where a part runs.
enum Place {
    EveryHost,
    /// Every host that agrees with the longest running one.
    AgreeingHosts,
    /// The host that has this lease.
    OneHost(String),
}

/// Returns where a part runs.
fn place(name: &PartName, recipe: &Recipe) -> Place {
    match (lease_of(name, recipe), recipe) {
        (Some(_), Recipe::Source(source)) if source.settings.is_divided() => Place::AgreeingHosts,
        (Some(part), _) => Place::OneHost(part),
        (None, _) => Place::EveryHost,
    }
}

/// Whether a part that runs there runs on this host.
fn is_own(hosts: &Hosts, place: &Place) -> bool {
    match place {
        Place::EveryHost => true,
        // A host that has not told its settings yet may differ.
        Place::AgreeingHosts => {
            hosts.own_entry().is_some_and(|this| this.settings.is_some() && differing(hosts, this).is_empty())
        }
        Place::OneHost(part) => hosts.has_lease(part),
    }
}

/// Returns the parts of a plan that run on this host.
fn own(hosts: &Hosts, plan: &Plan) -> Plan {
    plan.clone().only(|name, recipe| is_own(hosts, &place(name, recipe)))
}

/// Returns the leases that a plan needs.
fn leases(plan: &Plan) -> BTreeSet<String> {
    plan.parts().filter_map(|(name, recipe)| lease(name, recipe)).collect()
}

/// Returns the name of the lease that a part needs, if it runs on one host.
fn lease(name: &PartName, recipe: &Recipe) -> Option<String> {
    match place(name, recipe) {
        Place::OneHost(part) => Some(part),
        Place::EveryHost | Place::AgreeingHosts => None,
    }
}

/// Returns the name of the lease of a part, if it is of a kind that has one.
fn lease_of(name: &PartName, recipe: &Recipe) -> Option<String> {
    match recipe {
        Recipe::Aggregate { .. } | Recipe::Projection { .. } | Recipe::Topics { .. } => None,
        // They run beside the subscription of their plugin, or its first segment.
        Recipe::Requests(Grant { subscriptions, .. }) => {
            subscriptions.first().map(|first| lease_of_subscription(SubscriptionName::parse(first)))
        }
        Recipe::Subscription { plugin, segment, .. } => {
            Some(lease_of_subscription(SubscriptionName::Plugin(plugin, *segment)))
        }
        Recipe::Sink { .. } | Recipe::Source(_) | Recipe::Schedules(_) => Some(name.to_string()),
    }
}

/// Returns a digest of each key that all hosts must have in common, and of the code of each plugin.
fn settings(manifest: &Manifest, plugins: &[Arc<Plugin>]) -> BTreeMap<String, String> {
    let code =
        plugins.iter().map(|plugin| (format!("plugins.{} (code and settings)", plugin.name), plugin.digest.clone()));
    let digest = |(key, value): (String, String)| {
        let digest = Sha256::new().chain_update(&key).chain_update([0]).chain_update(value).finalize();
        let shown = digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect();
        (key, shown)
    };
    manifest.common_keys().into_iter().chain(code).map(digest).collect()
}

/// Returns the URL of an API for other machines.
fn url(api: &Api) -> String {
    let scheme = if api.tls.is_some() { "https" } else { "http" };
    let listen = api.listen;
    if listen.ip().is_unspecified() {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        return format!("{scheme}://{name}:{}", listen.port());
    }
    format!("{scheme}://{listen}")
}

/// Locks a data folder. The embedded store has a lock of its own.
fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("host.lock");
    let failed = |cause: &std::io::Error| {
        Error::One(format!("can't lock {}: {cause}; check that the folder may be written to", path.display()))
    };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|cause| failed(&cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::One(format!(
            "the data folder {} is in use by another host: give each host its own, with `data` in the manifest or with --data",
            data.display()
        ))),
        Err(TryLockError::Error(cause)) => Err(failed(&cause)),
    }
}

#[cfg(test)]
mod tests;
