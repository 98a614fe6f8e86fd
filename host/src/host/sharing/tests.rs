//! The division of parts among hosts, on a model of what is in the store.

use super::*;
use crate::store::Lease;

/// Hosts that act one after the other, in any order, on what is in the store.
struct Model {
    hosts: Hosts,
    parts: BTreeSet<String>,
    /// The number of times that a part moved from a host that was there.
    moves: usize,
}

impl Model {
    fn new(parts: usize) -> Self {
        let parts = (0..parts).map(|part| format!("part {part}")).collect();
        Self { hosts: Hosts::default(), parts, moves: 0 }
    }

    fn join(&mut self, version: &str) -> u64 {
        let id = self.hosts.entries.last().map_or(1, |last| last.id + 1);
        let settings = Some(BTreeMap::from([("key".to_owned(), version.to_owned())]));
        self.hosts.entries.push(HostEntry { id, is_there: true, settings, ..HostEntry::default() });
        id
    }

    fn leave(&mut self, id: u64) {
        self.hosts.entries.retain(|entry| entry.id != id);
        self.hosts.leases.retain(|_, lease| lease.host != id);
    }

    /// Lets a host act. Returns whether it did anything.
    fn act(&mut self, id: u64) -> bool {
        self.hosts.this = id;
        let shares = shares(&self.hosts, &self.parts);
        let did = shares != Shares::default();
        let leases = &mut self.hosts.leases;
        for part in shares.take {
            assert!(leases.insert(part, Lease { host: id, wanted_by: None }).is_none(), "nobody had it");
        }
        for part in shares.want {
            leases.get_mut(&part).expect("somebody has it").wanted_by = Some(id);
        }
        for part in shares.hand_over {
            let lease = leases.get_mut(&part).expect("it has it");
            *lease = Lease { host: lease.wanted_by.expect("it is wanted"), wanted_by: None };
            self.moves += 1;
        }
        shares.give_up.iter().for_each(|part| _ = leases.remove(part));
        did
    }

    /// Lets hosts act in any order until none of them has anything to do.
    fn rest(&mut self, rng: &mut fastrand::Rng) {
        let mut ids: Vec<u64> = self.hosts.entries.iter().map(|entry| entry.id).collect();
        for _ in 0..200 {
            rng.shuffle(&mut ids);
            if ids.iter().filter(|id| self.act(**id)).count() == 0 {
                return;
            }
        }
        panic!("it never rests: {:?}", self.hosts);
    }

    fn counts(&self) -> Vec<usize> {
        self.hosts.entries.iter().map(|entry| held(&self.hosts, entry.id).count()).collect()
    }
}

#[test]
fn parts_are_divided_evenly_and_no_more_of_them_move_than_needed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        let (parts, hosts) = (rng.usize(0..12), rng.usize(1..6));
        let mut model = Model::new(parts);
        for _ in 0..hosts {
            let (before, moves) = (model.counts(), model.moves);
            model.join("1");
            model.rest(&mut rng);
            let counts = model.counts();
            assert_eq!(counts.iter().sum::<usize>(), parts, "each part runs on one host");
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            let gained = if before.is_empty() { 0 } else { *counts.last().unwrap() };
            assert_eq!(model.moves - moves, gained, "only what the new host runs has moved");
        }
        // One that is gone leaves its parts to the others, and nothing else moves.
        let gone = model.hosts.entries[rng.usize(0..hosts)].id;
        let moves = model.moves;
        model.leave(gone);
        if hosts > 1 {
            model.rest(&mut rng);
            let counts = model.counts();
            assert_eq!(counts.iter().sum::<usize>(), parts);
            assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
            assert_eq!(model.moves, moves);
        }
    }
}

#[test]
fn hosts_that_differ_from_the_longest_running_one_give_everything_to_those_that_do_not() {
    let mut rng = fastrand::Rng::new();
    let mut model = Model::new(5);
    let (first, second) = (model.join("1"), model.join("1"));
    model.rest(&mut rng);
    assert_eq!(model.counts(), [3, 2]);
    let third = model.join("2");
    model.rest(&mut rng);
    assert_eq!(model.counts(), [3, 2, 0]);
    let entry = model.hosts.entries.last().expect("it is there");
    assert_eq!(differing(&model.hosts, entry), ["key"]);
    // The first one is changed, so the second one differs now.
    model.hosts.entries[0].settings = model.hosts.entries[2].settings.clone();
    model.rest(&mut rng);
    assert_eq!(model.counts(), [3, 0, 2]);
    model.leave(first);
    model.rest(&mut rng);
    assert_eq!(model.counts(), [5, 0], "the second one is the longest running one now");
    model.leave(second);
    model.rest(&mut rng);
    assert_eq!((model.counts(), third), (vec![5], 3));
}

/// It has not said yet that it can run anything.
#[test]
fn nothing_is_handed_over_to_a_host_that_has_not_asked_for_it() {
    let mut model = Model::new(4);
    let first = model.join("1");
    assert!(model.act(first));
    let second = model.join("1");
    model.hosts.entries[1].settings = None;
    assert!(!model.act(first) && !model.act(second));
    model.hosts.entries[1].settings = model.hosts.entries[0].settings.clone();
    assert!(!model.act(first), "it has not asked");
    assert!(model.act(second) && model.act(first));
    assert_eq!(model.counts(), [2, 2]);
    // A part that no manifest has any more is given up.
    model.parts.remove("part 0");
    let owner = model.hosts.leases["part 0"].host;
    assert!(model.act(owner));
    assert!(!model.hosts.leases.contains_key("part 0"));
}
