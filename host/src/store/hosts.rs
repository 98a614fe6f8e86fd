//! The hosts that share a store, and the leases by which each part runs on one of them.
//!
//! Only a store in PostgreSQL has several hosts. What runs on which host is decided outside of the store: the store keeps who is there
//! and who has what, and makes sure that a host that was removed has no effect.

use super::Error;
use crate::ack::Ack;
use crate::model::SubscriptionName;
use std::collections::BTreeMap;

/// The hosts of a store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// The id of this host.
    pub this: u64,
    /// All hosts, this one included, the longest running first.
    pub entries: Vec<HostEntry>,
    /// The leases, by the name of the part.
    pub leases: BTreeMap<String, Lease>,
}

/// The lease of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The host that runs the part.
    pub host: u64,
    /// The host to which it should hand the part over.
    pub wanted_by: Option<u64>,
}

impl Hosts {
    /// Returns this host, unless it was removed.
    pub fn own_entry(&self) -> Option<&HostEntry> {
        self.entries.iter().find(|entry| entry.id == self.this)
    }

    /// Whether this host has the lease of a part.
    pub fn has_lease(&self, part: &str) -> bool {
        self.leases.get(part).is_some_and(|lease| lease.host == self.this)
    }
}

/// A host of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEntry {
    /// Its id. No other host has or had it.
    pub id: u64,
    /// Its name for people.
    pub name: String,
    /// Whether its lease lasts and its process has not ended.
    pub is_there: bool,
    /// Whether its process, on this machine, has ended. Then it will not come back.
    pub has_ended: bool,
    /// A number that rises with its commits, which renew its lease.
    pub commits: u64,
    /// The URL of its API, once it has one.
    pub url: Option<String>,
    /// A digest of each key that all hosts must have in common, once it has told them.
    pub settings: Option<BTreeMap<String, String>>,
}

/// Returns the name of the lease of a subscription, or of a segment of one. It does not say how many segments there are, so that when
/// their number changes, a segment begins only where the one of its number before has ended.
pub fn lease_of_subscription(name: SubscriptionName<'_>) -> String {
    match name {
        SubscriptionName::Plugin(plugin, segment) if segment.count() > 1 => {
            format!("subscription {plugin}:{}", segment.index() + 1)
        }
        name => format!("subscription {name}"),
    }
}

/// The functions of a store that several hosts share.
pub trait Sharing: Send + Sync {
    /// Returns who has the store open now.
    fn hosts(&self) -> Result<Hosts, Error>;

    /// Changes what the store keeps of this host. It comes after all writes that were queued before.
    fn change(&self, change: SharingChange, ack: Ack<Result<(), Error>>);
}

/// A change of what the store keeps of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharingChange {
    /// Tells the other hosts the URL of this one and its settings.
    Introduce(String, BTreeMap<String, String>),
    /// Removes these hosts, with their leases, unless they have renewed theirs meanwhile. Then takes the leases of these parts that
    /// nobody has.
    Take(Vec<u64>, Vec<String>),
    /// Asks the hosts that run these parts to hand them over to this one.
    Want(Vec<String>),
    /// Gives the leases of parts to the hosts that want them, which start the parts.
    HandOver(Vec<String>),
    /// Gives up the leases of parts.
    GiveUp(Vec<String>),
}
