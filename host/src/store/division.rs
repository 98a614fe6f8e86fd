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
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Returns the segments that the subscription of a plugin has, with the checkpoint of each. `checkpoints` are those of all subscriptions.
pub fn segments_of(plugin: &str, checkpoints: &[(String, Position)]) -> BTreeMap<Segment, Position> {
    let own = checkpoints.iter().filter_map(|(name, checkpoint)| match SubscriptionName::parse(name) {
        SubscriptionName::Plugin(owner, segment) if owner == plugin => Some((segment, *checkpoint)),
        _ => None,
    });
    own.collect()
}

/// What the segments before a segment have handled beyond its checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Divisions(Vec<Division>);

/// A division that a subscription had, with what each of its segments has handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Division {
    segments: Vec<Handled>,
}

/// What a segment has handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Handled {
    /// Its checkpoint: it has handled the events of its keys up to there.
    through: Position,
    /// What the segments before it had handled of its keys beyond that.
    #[serde(default, skip_serializing_if = "Divisions::is_empty")]
    before: Divisions,
}

impl Division {
    /// Takes out what all segments have from before, which is all of it unless one was reset. Otherwise each division would have each
    /// earlier one as often as it has segments.
    fn take_common(&mut self) -> Divisions {
        let first = self.segments.first().map(|handled| handled.before.clone()).unwrap_or_default();
        if !self.segments.iter().all(|handled| handled.before == first) {
            return Divisions::default();
        }
        self.segments.iter_mut().for_each(|handled| handled.before = Divisions::default());
        first
    }
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
        let divisions: Self = serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if divisions.are_whole() { Ok(divisions) } else { Err(damaged("a division has no segments".to_owned())) }
    }

    fn are_whole(&self) -> bool {
        self.0.iter().all(|division| {
            !division.segments.is_empty() && division.segments.iter().all(|handled| handled.before.are_whole())
        })
    }

    /// Returns the fact to keep. It is never empty, because a step can keep a fact and not remove one.
    pub fn fact(&self) -> String {
        serde_json::to_string(self).expect("numbers are always JSON")
    }

    /// Whether an event of a key was handled.
    pub fn have_handled(&self, key: &[u8], position: Position) -> bool {
        self.0.iter().any(|Division { segments }| {
            let segment = Segment::of(Some(key), segments.len() as u32);
            let Handled { through, before } = &segments[segment.index() as usize];
            position <= *through || before.have_handled(key, position)
        })
    }

    /// Returns the highest checkpoint. Later events are new to all.
    pub fn end(&self) -> Position {
        let handled = self.0.iter().flat_map(|division| &division.segments);
        handled.map(|handled| handled.through.max(handled.before.end())).max().unwrap_or_default()
    }

    /// Forgets what is not beyond a checkpoint.
    pub fn beyond(mut self, checkpoint: Position) -> Self {
        for handled in self.0.iter_mut().flat_map(|division| &mut division.segments) {
            handled.before = std::mem::take(&mut handled.before).beyond(checkpoint);
        }
        self.0.retain(|division| {
            let mut ends = division.segments.iter().map(|handled| handled.through.max(handled.before.end()));
            ends.any(|end| end > checkpoint)
        });
        self
    }

    /// Whether there is nothing that they have handled.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The change of a subscription to another number of segments, or its beginning.
pub(super) struct Redivision {
    /// The names of the segments before. What they have moves, and their checkpoints are removed.
    pub(super) old: Vec<String>,
    /// The names of the segments, in their order.
    segments: Vec<String>,
    /// The names of those that get a checkpoint.
    pub(super) created: Vec<String>,
    /// This checkpoint.
    pub(super) begin: Position,
    divisions: Divisions,
    /// The fact that a person has paused each segment.
    paused: Vec<Option<String>>,
}

impl Redivision {
    /// Plans what has to change so that the subscription of a plugin has this many segments. `checkpoints` are those of all
    /// subscriptions, `start` is where a segment begins that takes over nothing, and `fact` reads a fact. Returns `None` if nothing has to
    /// change.
    pub(super) fn plan(
        plugin: &str,
        segments: u32,
        start: Position,
        checkpoints: &[(String, Position)],
        mut fact: impl FnMut(&str) -> Result<Option<String>, Error>,
    ) -> Result<Option<Self>, Error> {
        let own = segments_of(plugin, checkpoints);
        let name = |segment: &Segment| SubscriptionName::Plugin(plugin, *segment).to_string();
        let all: Vec<Segment> = Segment::all(segments).collect();
        let names: Vec<String> = all.iter().map(name).collect();
        if own.keys().all(|segment| segment.count() == segments) {
            let created: Vec<String> = all.iter().filter(|segment| !own.contains_key(segment)).map(name).collect();
            let paused = vec![None; names.len()];
            let (old, divisions) = (Vec::new(), Divisions::default());
            let redivision = Self { old, segments: names, created, begin: start, divisions, paused };
            return Ok((!redivision.created.is_empty()).then_some(redivision));
        }
        let mut paused = None;
        let mut divisions = BTreeMap::<u32, Division>::new();
        for (segment, through) in &own {
            let of_segment = SubscriptionName::Plugin(plugin, *segment);
            let earlier = fact(&FactName::Divisions(of_segment).to_string())?;
            let before = Divisions::parse(&of_segment.to_string(), earlier.as_deref());
            // The store works, so this is no failure of it.
            let before = before.map_err(|damaged| Error::Invalid(damaged.to_string()))?;
            paused = paused.or(fact(&FactName::Paused(of_segment).to_string())?);
            // A segment that has never begun has handled nothing.
            let none = || Handled { through: Position(0), before: Divisions::default() };
            let division = divisions
                .entry(segment.count())
                .or_insert_with(|| Division { segments: (0..segment.count()).map(|_| none()).collect() });
            division.segments[segment.index() as usize] = Handled { through: *through, before };
        }
        let of_new = |name: &String| fact(&FactName::Paused(SubscriptionName::parse(name)).to_string());
        let of_new: Vec<Option<String>> = names.iter().map(of_new).collect::<Result<_, _>>()?;
        let lowest = |division: &Division| division.segments.iter().map(|handled| handled.through).min();
        let begin = divisions.values().filter_map(lowest).min().unwrap_or_default();
        let mut all_before = Vec::new();
        divisions.values_mut().for_each(|division| all_before.extend(division.take_common().0));
        let mut divisions = Divisions(divisions.into_values().collect());
        all_before.retain(|before| !divisions.0.contains(before));
        divisions.0.extend(all_before);
        Ok(Some(Self {
            old: own.keys().map(name).collect(),
            created: names.clone(),
            segments: names,
            begin,
            divisions: divisions.beyond(begin),
            paused: of_new.into_iter().map(|own| own.or(paused.clone())).collect(),
        }))
    }

    /// Returns the name of the segment that has a key now.
    pub(super) fn segment(&self, key: Option<&[u8]>) -> &str {
        &self.segments[Segment::of(key, self.segments.len() as u32).index() as usize]
    }

    /// Returns the names of all segments, before and now.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.old.iter().chain(&self.segments).map(String::as_str)
    }

    /// Logs the change, unless it is the beginning of the subscription.
    pub(super) fn tell(&self, plugin: &str) {
        if !self.old.is_empty() {
            let (old, new) = (self.old.join(", "), self.segments.join(", "));
            tracing::info!("subscription {plugin} is divided in another way from here on: {old} became {new}");
        }
    }

    /// Returns the facts to keep and to remove.
    pub(super) fn facts(&self) -> Vec<(String, Option<String>)> {
        if self.old.is_empty() {
            return Vec::new();
        }
        let names = |name: &str| {
            let name = SubscriptionName::parse(name);
            (FactName::Divisions(name).to_string(), FactName::Paused(name).to_string())
        };
        let divisions = (!self.divisions.is_empty()).then(|| self.divisions.fact());
        let mut facts = BTreeMap::new();
        for (of_divisions, of_pause) in self.old.iter().map(|old| names(old)) {
            facts.extend([(of_divisions, None), (of_pause, None)]);
        }
        for (new, paused) in self.segments.iter().zip(&self.paused) {
            let (of_divisions, of_pause) = names(new);
            facts.extend([(of_divisions, divisions.clone()), (of_pause, paused.clone())]);
        }
        facts.into_iter().collect()
    }
}

/// Returns the name of the subscription, or of its segment, that handles something of a key. `consumer` is the whole subscription.
pub(super) fn subscription_of_key(consumer: &str, key: Option<&[u8]>, checkpoints: &[(String, Position)]) -> Arc<str> {
    let SubscriptionName::Plugin(plugin, _) = SubscriptionName::parse(consumer) else { return consumer.into() };
    let segments = segments_of(plugin, checkpoints).into_keys().next().map_or(1, Segment::count);
    SubscriptionName::Plugin(plugin, Segment::of(key, segments)).to_string().into()
}

/// The callbacks that move to other segments: the number of each, and where it moves.
#[derive(Default)]
pub(super) struct MovedCallbacks<'d> {
    pub(super) moves: Vec<(i64, &'d str)>,
    /// The names of the timers.
    timers: HashSet<(&'d str, Vec<u8>)>,
}

impl<'d> MovedCallbacks<'d> {
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
            Some(timer) if !self.timers.insert((to, timer.to_owned())) => Err(Error::NotYet(format!(
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

    fn planned(segments: u32, checkpoints: &[(String, u64)], facts: &[(String, String)]) -> Option<Redivision> {
        let checkpoints: Vec<_> = checkpoints.iter().map(|(name, at)| (name.clone(), Position(*at))).collect();
        let facts: HashMap<_, _> = facts.iter().cloned().collect();
        Redivision::plan("p", segments, Position(1), &checkpoints, |name| Ok(facts.get(name).cloned())).unwrap()
    }

    fn keys() -> impl Iterator<Item = String> {
        (0..40).map(|key| key.to_string())
    }

    /// Whether the events of all keys count as handled exactly through the position that `through` says.
    fn are_handled(divisions: &Divisions, through: impl Fn(&str) -> u64) -> bool {
        keys().all(|key| {
            let through = through(&key);
            divisions.have_handled(key.as_bytes(), Position(through))
                && !divisions.have_handled(key.as_bytes(), Position(through + 1))
        })
    }

    fn of(key: &str, count: u32) -> usize {
        Segment::of(Some(key.as_bytes()), count).index() as usize
    }

    #[test]
    fn a_subscription_begins_with_all_its_segments_and_stays_as_it_is() {
        let begun = planned(2, &[("q".to_owned(), 1), ("source/p".to_owned(), 0)], &[]).unwrap();
        assert_eq!((begun.created.len(), begun.begin, begun.old.len()), (2, Position(1), 0));
        let rest = planned(2, &[(name(1, 2), 9)], &[]).unwrap();
        assert_eq!((rest.facts(), rest.created), (vec![], vec![name(0, 2)]));
        assert!(planned(1, &[("p".to_owned(), 3)], &[]).is_none());
        assert!(planned(2, &[(name(0, 2), 3), (name(1, 2), 9)], &[]).is_none());
    }

    #[test]
    fn new_segments_begin_at_the_lowest_checkpoint_and_know_what_was_handled_beyond_it() {
        let paused = |name: &str| format!("subscription/{name}/paused");
        let facts = [(paused(&name(1, 2)), "7".to_owned()), (paused(&name(0, 3)), "8".to_owned())];
        let division = planned(3, &[(name(0, 2), 3), (name(1, 2), 9)], &facts).unwrap();
        assert_eq!((division.begin, &division.old), (Position(3), &vec![name(0, 2), name(1, 2)]));
        assert_eq!(division.created, [name(0, 3), name(1, 3), name(2, 3)]);
        let facts: HashMap<_, _> = division.facts().into_iter().collect();
        assert_eq!(facts[&paused(&name(1, 2))], None, "the old one is removed");
        assert_eq!(facts[&paused(&name(2, 3))].as_deref(), Some("7"), "all stay paused");
        assert_eq!(facts[&paused(&name(0, 3))].as_deref(), Some("8"), "a person has paused it meanwhile");
        let kept = facts[&format!("subscription/{}/divisions", name(2, 3))].clone().unwrap();
        let divisions = Divisions::parse("p", Some(&kept)).unwrap();
        assert!(are_handled(&divisions, |key| [3, 9][of(key, 2)]));
        // A second change before the first is passed keeps what both have handled. A segment that was reset meanwhile has handled nothing,
        // whatever others know.
        let fact = |index: usize, text: &str| (format!("subscription/{}/divisions", name(index, 3)), text.to_owned());
        let facts = [fact(0, &kept), fact(1, "[]"), fact(2, &kept)];
        let checkpoints: Vec<_> = [5, 1, 6].into_iter().enumerate().map(|(index, at)| (name(index, 3), at)).collect();
        let again = planned(1, &checkpoints, &facts).unwrap();
        assert_eq!(again.begin, Position(1));
        let inherited = |key: &str| if of(key, 3) == 1 { 0 } else { [3, 9][of(key, 2)] };
        assert!(are_handled(&again.divisions, |key| [5, 1, 6][of(key, 3)].max(inherited(key))));
    }

    #[test]
    fn many_changes_before_the_first_is_passed_take_little_room() {
        let (mut checkpoints, mut facts) = (vec![("p".to_owned(), 0)], Vec::new());
        for round in 0..40 {
            let segments = [8, 16][round % 2];
            let division = planned(segments, &checkpoints, &facts).unwrap();
            let all = division.created.iter().enumerate();
            checkpoints =
                all.map(|(index, name)| (name.clone(), if index == 0 { 0 } else { round as u64 + 1 })).collect();
            facts = division.facts().into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        }
        let longest = facts.iter().map(|(_, fact)| fact.len()).max();
        assert!(longest < Some(20_000), "{longest:?}");
    }

    #[test]
    fn a_segment_that_has_never_begun_has_handled_nothing() {
        let division = planned(4, &[(name(1, 2), 9)], &[]).unwrap();
        assert_eq!(division.begin, Position(0));
        assert!(are_handled(&division.divisions, |key| [0, 9][of(key, 2)]));
    }

    #[test]
    fn what_is_passed_is_forgotten_and_equal_checkpoints_leave_nothing() {
        let division = planned(4, &[("p".to_owned(), 7)], &[]).unwrap();
        assert!(division.divisions.is_empty() && division.facts().iter().all(|(_, value)| value.is_none()));
        let divisions = planned(1, &[(name(0, 2), 3), (name(1, 2), 9)], &[]).unwrap().divisions;
        assert_eq!(divisions.clone().beyond(Position(8)), divisions);
        assert_eq!(divisions.end(), Position(9));
        assert!(divisions.beyond(Position(9)).is_empty());
    }

    #[test]
    fn a_damaged_fact_is_an_error_that_names_the_subscription() {
        for text in ["", "{}", "[{}]", "[{\"segments\":[]}]", "[{\"segments\":[{\"through\":-1}]}]"] {
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
        let mut moved = MovedCallbacks::default();
        moved.add(&division, 1, Some(b"a"), Some(b"t")).unwrap();
        moved.add(&division, 2, Some(b"b"), None).unwrap();
        let error = moved.add(&division, 3, Some(b"b"), Some(b"t")).unwrap_err().to_string();
        assert!(error.contains("\"t\"") && error.contains("timers cancel"), "{error}");
    }
}
