//! The hosts that share a store, and the leases by which each part runs on one of them.
//!
//! Only a store in PostgreSQL has several hosts. What runs on which host is decided outside of the store: the store keeps who is there
//! and who has what, and makes sure that a host that was removed has no effect.

use super::Error;
use crate::ack::Ack;
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

/// The functions of a store that several hosts share.
pub trait Sharing: Send + Sync {
    /// Returns who has the store open now.
    fn hosts(&self) -> Result<Hosts, Error>;

    /// Tells the other hosts the URL of this one and its settings.
    fn introduce(&self, url: String, settings: BTreeMap<String, String>, ack: Ack<Result<(), Error>>);

    /// Removes these hosts, with their leases, unless they have renewed theirs meanwhile. Then takes the leases of these parts that
    /// nobody has.
    fn take_leases(&self, gone: Vec<u64>, parts: Vec<String>, ack: Ack<Result<(), Error>>);

    /// Asks the hosts that run these parts to hand them over to this one.
    fn want_leases(&self, parts: Vec<String>, ack: Ack<Result<(), Error>>);

    /// Gives the leases of parts to the hosts that want them, which start the parts. It comes after all writes that were queued before.
    fn hand_over_leases(&self, parts: Vec<String>, ack: Ack<Result<(), Error>>);

    /// Gives up the leases of parts. It comes after all writes that were queued before.
    fn give_up_leases(&self, parts: Vec<String>, ack: Ack<Result<(), Error>>);
}

/// A change of what the store keeps of this host.
pub(super) enum SharingRequest {
    /// Keep its URL and its settings.
    Introduce(String, BTreeMap<String, String>),
    /// Remove hosts that are gone, and take leases.
    Take(Vec<u64>, Vec<String>),
    /// Want leases.
    Want(Vec<String>),
    /// Give leases to those who want them.
    HandOver(Vec<String>),
    /// Give up leases.
    GiveUp(Vec<String>),
}
