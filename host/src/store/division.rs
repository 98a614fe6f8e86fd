//! The division of a subscription into segments, and the change from one division to another.
//!
//! A subscription keeps its place under the name of each segment. When the manifest asks for another number of segments, one
//! transaction moves everything that has a key to the segment that has the key now: held keys, callbacks and HTTP requests. Each new
//! segment begins at the lowest checkpoint of those before, and skips what those have handled beyond it: they leave their checkpoints
//! as [`Divisions`]. So nothing waits until all of them are at the same position.
//!
//! The commands of the segments before must be settled, because their ledgers number them. The ledgers stay, so that a command that
//! is sent twice still takes effect once. A segment that has such a ledger from an earlier time numbers its commands from its end on.

use super::Error;
use crate::model::{FactName, Position, Segment, SubscriptionName};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;

/// What the segments before a segment have handled beyond its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Divisions(Vec<Division>);

/// A division that a subscription had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Division {
    /// The checkpoint of each segment. It has handled the events of its keys up to that position.
    checkpoints: Vec<Position>,
}

impl Divisions {
    /// Reads a fact that [`FactName::Divisions`] names.
    pub fn parse(subscription: &str, fact: Option<&str>) -> Result<Self, Error> {
        let Some(text) = fact else { return Ok(Self::default()) };
        let damaged = |cause: String| {
            Error::Failed(format!(
                "what the segments before subscription {subscription} have handled does not decode ({cause}): the store is damaged, \
                 restore it from a backup"
            ))
        };
        let Self(divisions) = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        match divisions.iter().any(|division| division.checkpoints.is_empty()) {
            true => Err(damaged("a division has no segments".to_owned())),
            false => Ok(Self(divisions)),
        }
    }

    /// Returns the fact to keep. It is never empty, because a step can keep a fact and not remove one.
    pub fn fact(&self) -> String {
        serde_json::to_string(self).expect("numbers are always JSON")
    }

    /// Whether an event of a key was handled.
    pub fn have_handled(&self, key: &[u8], position: Position) -> bool {
        self.0.iter().any(|Division { checkpoints }| {
            let segment = Segment::of(Some(key), checkpoints.len() as u32);
            position <= checkpoints[segment.index() as usize]
        })
    }

    /// Returns the highest checkpoint. Later events are new to all.
    pub fn end(&self) -> Position {
        self.0.iter().flat_map(|division| &division.checkpoints).max().copied().unwrap_or_default()
    }

    /// Forgets what is not beyond a checkpoint.
    pub fn beyond(mut self, checkpoint: Position) -> Self {
        self.0.retain(|division| division.checkpoints.iter().any(|handled| *handled > checkpoint));
        self
    }

    /// Whether there is nothing that they have handled.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, division: Division) {
        if !self.0.contains(&division) {
            self.0.push(division);
        }
    }
}

/// The change of a subscription to another number of segments.
pub(super) struct Redivision {
    /// The names of the segments before.
    pub(super) old: Vec<String>,
    /// The names of the new segments, in their order.
    pub(super) new: Vec<String>,
    /// Where the new segments begin.
    pub(super) begin: Position,
    divisions: Divisions,
    /// The fact that a person has paused the subscription.
    paused: Option<String>,
}

impl Redivision {
    /// Plans the change of the subscription of a plugin. `checkpoints` are those of all subscriptions, and `fact` reads a fact. Returns
    /// `None` if the subscription has no other segments.
    pub(super) fn plan(
        plugin: &str,
        segments: u32,
        checkpoints: &[(String, Position)],
        mut fact: impl FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<Option<Self>, Error> {
        let own = checkpoints.iter().filter_map(|(name, checkpoint)| match SubscriptionName::parse(name) {
            SubscriptionName::Plugin(owner, segment) if owner == plugin => Some((segment, *checkpoint)),
            _ => None,
        });
        let before: Vec<(Segment, Position)> = own.filter(|(segment, _)| segment.count() != segments).collect();
        let Some(begin) = before.iter().map(|(_, checkpoint)| *checkpoint).min() else { return Ok(None) };
        let (mut divisions, mut paused) = (Divisions::default(), None);
        for (segment, _) in &before {
            let name = SubscriptionName::Plugin(plugin, *segment);
            let earlier = fact(&FactName::Divisions(name).to_string())?;
            for division in Divisions::parse(&name.to_string(), earlier.as_deref())?.0 {
                divisions.add(division);
            }
            paused = paused.or(fact(&FactName::Paused(name).to_string())?);
            // A segment that has never begun has handled nothing.
            let handled = |segment| before.iter().find(|(other, _)| *other == segment).map_or(begin, |found| found.1);
            divisions.add(Division { checkpoints: Segment::all(segment.count()).map(handled).collect() });
        }
        let name = |segment| SubscriptionName::Plugin(plugin, segment).to_string();
        Ok(Some(Self {
            old: before.iter().map(|(segment, _)| name(*segment)).collect(),
            new: Segment::all(segments).map(name).collect(),
            begin,
            divisions: divisions.beyond(begin),
            paused,
        }))
    }

    /// Returns the name of the segment that has a key now.
    pub(super) fn segment(&self, key: Option<&[u8]>) -> &str {
        &self.new[Segment::of(key, self.new.len() as u32).index() as usize]
    }

    /// Returns the facts to keep and to remove.
    pub(super) fn facts(&self) -> Vec<(String, Option<String>)> {
        let of = |names: &[String], kept: bool| {
            let both = |name: &String| {
                let name = SubscriptionName::parse(name);
                let divisions = (!self.divisions.is_empty()).then(|| self.divisions.fact());
                [
                    (FactName::Divisions(name).to_string(), divisions),
                    (FactName::Paused(name).to_string(), self.paused.clone()),
                ]
            };
            let facts = names.iter().flat_map(both);
            facts.map(|(name, value)| (name, value.filter(|_| kept))).collect::<Vec<_>>()
        };
        of(&self.old, false).into_iter().chain(of(&self.new, true)).collect()
    }

    /// Makes the error for commands that are not settled yet.
    pub(super) fn unsettled(subscription: &str, commands: usize) -> Error {
        Error::Failed(format!(
            "subscription {subscription} can't get other segments while {commands} of its commands are not settled"
        ))
    }
}

/// Returns the name of the subscription, or of its segment, that handles something of a key. `consumer` is the whole subscription.
pub(super) fn subscription_of_key(consumer: &str, key: Option<&[u8]>, checkpoints: &[(String, Position)]) -> Arc<str> {
    let SubscriptionName::Plugin(plugin, _) = SubscriptionName::parse(consumer) else { return consumer.into() };
    let segments = checkpoints.iter().find_map(|(name, _)| match SubscriptionName::parse(name) {
        SubscriptionName::Plugin(owner, segment) if owner == plugin => Some(segment.count()),
        _ => None,
    });
    SubscriptionName::Plugin(plugin, Segment::of(key, segments.unwrap_or(1))).to_string().into()
}

/// The callbacks that move to other segments: the number of each, and where it moves.
pub(super) struct MovedCallbacks<'d> {
    pub(super) moves: Vec<(i64, &'d str)>,
    /// The names of the timers.
    timers: HashSet<(&'d str, Vec<u8>)>,
}

impl<'d> MovedCallbacks<'d> {
    pub(super) fn none() -> Self {
        Self { moves: Vec::new(), timers: HashSet::new() }
    }

    /// Adds a callback. Fails if its segment would have two timers of the same name.
    pub(super) fn add(
        &mut self,
        division: &'d Redivision,
        number: i64,
        key: Option<&[u8]>,
        timer: Option<&[u8]>,
    ) -> Result<(), Error> {
        let to = division.segment(key);
        self.moves.push((number, to));
        match timer {
            Some(timer) if !self.timers.insert((to, timer.to_owned())) => Err(Error::Failed(format!(
                "subscription {to} would have two timers of the name {:?}, which two segments have set: cancel one of them with \
                 `wasmill timers cancel`; `wasmill timers list` shows both",
                String::from_utf8_lossy(timer)
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn name(index: usize, count: u32) -> String {
        SubscriptionName::Plugin("p", Segment::all(count).nth(index).unwrap()).to_string()
    }

    fn planned(segments: u32, checkpoints: &[(String, u64)], facts: &[(String, &str)]) -> Option<Redivision> {
        let checkpoints: Vec<_> = checkpoints.iter().map(|(name, at)| (name.clone(), Position(*at))).collect();
        let facts: HashMap<_, _> = facts.iter().map(|(name, value)| (name.clone(), (*value).to_owned())).collect();
        Redivision::plan("p", segments, &checkpoints, |name| Ok(facts.get(name).cloned())).unwrap()
    }

    #[test]
    fn a_subscription_without_other_segments_stays_as_it_is() {
        assert!(planned(2, &[], &[]).is_none());
        assert!(planned(1, &[("p".to_owned(), 3), ("q".to_owned(), 1), ("source/p".to_owned(), 0)], &[]).is_none());
        assert!(planned(2, &[(name(0, 2), 3), (name(1, 2), 9)], &[]).is_none());
    }

    #[test]
    fn new_segments_begin_at_the_lowest_checkpoint_and_know_what_was_handled_beyond_it() {
        let division =
            planned(3, &[(name(0, 2), 3), (name(1, 2), 9)], &[(format!("subscription/{}/paused", name(1, 2)), "7")]);
        let division = division.unwrap();
        assert_eq!((division.begin, &division.old), (Position(3), &vec![name(0, 2), name(1, 2)]));
        assert_eq!(division.new, [name(0, 3), name(1, 3), name(2, 3)]);
        let facts = division.facts();
        let fact = |name: &str| facts.iter().find(|(fact, _)| fact == name).unwrap().1.clone();
        assert_eq!(fact(&format!("subscription/{}/paused", name(1, 2))), None, "the old one is removed");
        assert_eq!(fact(&format!("subscription/{}/paused", name(2, 3))).as_deref(), Some("7"), "all stay paused");
        let kept = fact(&format!("subscription/{}/divisions", name(2, 3))).unwrap();
        let divisions = Divisions::parse("p", Some(&kept)).unwrap();
        for key in (0..40).map(|key| key.to_string()) {
            let checkpoint = [3, 9][Segment::of(Some(key.as_bytes()), 2).index() as usize];
            assert!(divisions.have_handled(key.as_bytes(), Position(checkpoint)), "{key}");
            assert!(!divisions.have_handled(key.as_bytes(), Position(checkpoint + 1)), "{key}");
        }
        // A second change before the first is passed keeps what both have handled.
        let facts: Vec<_> =
            division.new.iter().map(|name| (format!("subscription/{name}/divisions"), kept.as_str())).collect();
        let checkpoints: Vec<_> = division.new.iter().zip([5, 4, 6]).map(|(name, at)| (name.clone(), at)).collect();
        let again = planned(1, &checkpoints, &facts).unwrap();
        assert_eq!((again.begin, again.divisions.0.len()), (Position(4), 2));
        for key in (0..40).map(|key| key.to_string()) {
            let of = |count| Segment::of(Some(key.as_bytes()), count).index() as usize;
            let handled = [3, 9][of(2)].max([5, 4, 6][of(3)]);
            assert!(again.divisions.have_handled(key.as_bytes(), Position(handled)), "{key}");
            assert!(!again.divisions.have_handled(key.as_bytes(), Position(handled + 1)), "{key}");
        }
    }

    #[test]
    fn what_is_passed_is_forgotten_and_equal_checkpoints_leave_nothing() {
        let division = planned(4, &[("p".to_owned(), 7)], &[]).unwrap();
        assert!(division.divisions.is_empty() && division.facts().iter().all(|(_, value)| value.is_none()));
        let divisions = Divisions(vec![Division { checkpoints: vec![Position(3), Position(9)] }]);
        assert_eq!(divisions.clone().beyond(Position(8)), divisions);
        assert_eq!(divisions.end(), Position(9));
        assert!(divisions.beyond(Position(9)).is_empty());
    }

    #[test]
    fn a_damaged_fact_is_an_error_that_names_the_subscription() {
        for text in ["", "{}", "[{}]", "[{\"checkpoints\":[]}]", "[{\"checkpoints\":[-1]}]"] {
            let error = Divisions::parse("p:1of2", Some(text)).unwrap_err().to_string();
            assert!(error.contains("p:1of2"), "{error}");
        }
        assert!(Divisions::parse("p", Some("[]")).unwrap().is_empty());
    }

    #[test]
    fn the_consumer_of_a_dead_letter_is_found_by_its_key() {
        let checkpoints = [(name(0, 2), Position(3)), (name(1, 2), Position(9)), ("q".to_owned(), Position(1))];
        let of = |consumer: &str, key: &str| subscription_of_key(consumer, Some(key.as_bytes()), &checkpoints);
        for key in (0..10).map(|key| key.to_string()) {
            let segment = Segment::of(Some(key.as_bytes()), 2);
            assert_eq!(&*of("p", &key), SubscriptionName::Plugin("p", segment).to_string());
            assert_eq!((&*of("q", &key), &*of("new", &key), &*of("source/p", &key)), ("q", "new", "source/p"));
        }
    }

    #[test]
    fn two_timers_of_one_name_do_not_meet_in_one_segment() {
        let division = planned(1, &[(name(0, 2), 3), (name(1, 2), 9)], &[]).unwrap();
        let mut moved = MovedCallbacks::none();
        moved.add(&division, 1, Some(b"a"), Some(b"t")).unwrap();
        moved.add(&division, 2, Some(b"b"), None).unwrap();
        let error = moved.add(&division, 3, Some(b"b"), Some(b"t")).unwrap_err().to_string();
        assert!(error.contains("\"t\"") && error.contains("timers cancel"), "{error}");
    }
}
