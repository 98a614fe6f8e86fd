//! Orphans: parts that the store knows and the manifest does not, and new parts of the manifest that may be renamed
//! ones.
//!
//! A part keeps its place under its name. A renamed part would start at the beginning and do everything again. So if
//! there are orphans, a new part needs a decision: `was` carries the orphan's place over, once and in one transaction,
//! and a start that is written out makes the part start there. A new schedule needs no decision, because it does
//! nothing for the past.

use super::sharing::Shared;
use crate::ack;
use crate::manifest::Manifest;
use crate::store::{self, EventStore, Part, PartKind, Place};

/// A part of the manifest that keeps its place in the store.
struct Wanted<'m> {
    part: Part,
    /// Its section in the manifest.
    section: String,
    was: Option<&'m str>,
    /// The key that says where it starts, and whether the manifest has it.
    start: (&'static str, bool),
}

/// Lists the places of parts that the store knows and the manifest does not.
pub(crate) fn orphans(manifest: &Manifest, places: &[Place]) -> Vec<Place> {
    places.iter().filter(|place| !is_named(manifest, &place.part)).cloned().collect()
}

/// Whether the manifest has a part.
pub(crate) fn is_named(manifest: &Manifest, part: &Part) -> bool {
    match part.kind {
        PartKind::Subscription => manifest.plugins.contains_key(&part.name),
        PartKind::Source => manifest.sources.contains_key(&part.name),
        PartKind::Sink => manifest.sinks.contains_key(&part.name),
        PartKind::Schedule => manifest.schedules.contains_key(&part.name),
    }
}

/// Returns what to carry over before a host starts, as old part and new name, or a sentence for each part that needs a
/// decision. `subscribers` are the plugins that have a subscriber.
pub(super) fn decide(
    manifest: &Manifest,
    subscribers: &[String],
    places: &[Place],
) -> Result<Vec<(Part, String)>, Vec<String>> {
    let orphans = orphans(manifest, places);
    let (mut moves, mut problems): (Vec<(Part, String)>, Vec<String>) = Default::default();
    for Wanted { part, section, was, start: (key, is_written) } in wanted(manifest, subscribers) {
        if places.iter().any(|place| place.part == part) {
            continue;
        }
        let old = was.map(|was| Part { kind: part.kind, name: was.to_owned() });
        if let Some(old) = &old
            && is_named(manifest, old)
        {
            problems.push(format!("`{section}.was` names {old}, which this manifest still has: remove one of the two"));
        } else if let Some(old) = old.filter(|old| orphans.iter().any(|orphan| orphan.part == *old)) {
            if moves.iter().any(|(other, _)| *other == old) {
                problems.push(format!(
                    "`{section}.was` names {old}, which another part also names in its `was`: keep one of them"
                ));
            } else {
                moves.push((old, part.name));
            }
        } else if let Some(orphan) = orphans.iter().find(|orphan| orphan.part.kind == part.kind)
            && !is_written
        {
            let others: Vec<String> =
                orphans.iter().filter(|other| other.part.kind == part.kind).map(ToString::to_string).collect();
            problems.push(format!(
                "{part} is new and would do everything from the beginning, and the store has parts that this manifest \
                 does not have: {}; if it was renamed, write `was = \"{}\"` in [{section}]; otherwise write its `{key}` \
                 there, or forget the old part with `wasmill store orphans {} --forget {}`",
                others.join(", "),
                orphan.part.name,
                manifest.path.display(),
                orphan.part
            ));
        }
    }
    if problems.is_empty() { Ok(moves) } else { Err(problems) }
}

/// Carries over the places of renamed parts, and logs the remaining orphans.
pub(super) fn settle(
    manifest: &Manifest,
    subscribers: &[String],
    store: &dyn EventStore,
    shared: &Shared,
    has_others: bool,
) -> Result<(), super::Error> {
    let mut reader = store.reader()?;
    let place = manifest.path.display();
    let moves = decide(manifest, subscribers, &reader.places()?)
        .map_err(|problems| super::Error::Many(problems.iter().map(|text| format!("{place}: {text}")).collect()))?;
    shared.refuse_moves(&moves)?;
    carry_over(store, &moves)?;
    // Other hosts may run what this manifest does not have.
    if has_others {
        return Ok(());
    }
    for orphan in orphans(manifest, &reader.places()?) {
        tracing::warn!(
            "the store has {orphan}, which the manifest does not have; to forget it, stop the host and run `wasmill store orphans \
             {place} --forget {}`",
            orphan.part
        );
    }
    Ok(())
}

/// Gives the places of parts other names.
pub(super) fn carry_over(store: &dyn EventStore, moves: &[(Part, String)]) -> Result<(), store::Error> {
    if !moves.is_empty() {
        ack::wait(|ack| store.carry_over(moves, ack))?;
    }
    for (old, new) in moves {
        tracing::info!("{old} is now named {new} and resumes where it was");
    }
    Ok(())
}

fn wanted<'m>(manifest: &'m Manifest, subscribers: &'m [String]) -> impl Iterator<Item = Wanted<'m>> {
    let subscriptions = subscribers.iter().map(|name| {
        let settings = manifest.subscriptions.get(name);
        Wanted {
            part: Part { kind: PartKind::Subscription, name: name.clone() },
            section: format!("subscriptions.{name}"),
            was: settings.and_then(|settings| settings.was.as_deref()),
            start: ("start", settings.is_some_and(|settings| settings.is_start_written)),
        }
    });
    // The place of a transform is its group in Kafka.
    let in_store = manifest.sources.iter().filter(|(_, source)| !source.is_transform());
    let sources = in_store.map(|(name, source)| Wanted {
        part: Part { kind: PartKind::Source, name: name.clone() },
        section: format!("sources.{name}"),
        was: source.was.as_deref(),
        start: ("from", source.is_from_written),
    });
    let sinks = manifest.sinks.iter().map(|(name, sink)| Wanted {
        part: Part { kind: PartKind::Sink, name: name.clone() },
        section: format!("sinks.{name}"),
        was: sink.was.as_deref(),
        start: ("start", sink.is_start_written),
    });
    subscriptions.chain(sources).chain(sinks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(part: &str) -> Place {
        Place { part: part.parse().unwrap(), at: "at position 7".into(), pending: 0, callbacks: 0, requests: 0 }
    }

    fn decided(text: &str, places: &[&str]) -> Result<Vec<(String, String)>, String> {
        let text = format!("[kafka]\nbrokers = \"k:9092\"\n{text}");
        let manifest = Manifest::parse(&text, "m.toml".as_ref()).unwrap();
        let subscribers: Vec<String> = manifest.plugins.keys().cloned().collect();
        let places: Vec<Place> = places.iter().map(|part| place(part)).collect();
        let moves = decide(&manifest, &subscribers, &places).map_err(|problems| problems.join("\n"))?;
        Ok(moves.into_iter().map(|(old, new)| (old.to_string(), new)).collect())
    }

    #[test]
    fn a_new_part_beside_an_orphan_asks_for_a_decision() {
        let subscriber =
            |settings: &str| format!("[plugins.depot]\nfile = 'd.wasm'\n[subscriptions.depot]\n{settings}\n");
        let source =
            |more: &str| format!("[sources.tills]\ntopic = 't'\naggregate = 'order'\ncommand = 'Create'\n{more}\n");
        let sink = |more: &str| format!("[sinks.feed]\nevents = ['**']\ntopic = 't'\n{more}\n");
        type Manifest<'a> = &'a dyn Fn(&str) -> String;
        let kinds: [(&str, Manifest, &str, &str); 3] = [
            ("subscription", &subscriber, "start = 'beginning'", "depot"),
            ("source", &source, "from = 'beginning'", "tills"),
            ("sink", &sink, "start = 'beginning'", "feed"),
        ];
        for (kind, text, written, name) in kinds {
            let (old, own) = (format!("{kind}/old"), format!("{kind}/{name}"));
            assert_eq!(decided(&text(""), &[]), Ok(vec![]), "{kind}: a new store asks nothing");
            assert_eq!(decided(&text(""), &[&old, &own]), Ok(vec![]), "{kind}: it is not new");
            let asks = decided(&text(""), &[&old]).unwrap_err();
            assert!(asks.contains(&own) && asks.contains(&old) && asks.contains("was = \"old\""), "{asks}");
            assert_eq!(decided(&text(written), &[&old]), Ok(vec![]), "{kind}: it is said");
            assert_eq!(decided(&text("was = 'old'"), &[&old]), Ok(vec![(old.clone(), name.to_owned())]));
            assert_eq!(decided(&text("was = 'old'"), &[&own]), Ok(vec![]), "{kind}: once");
            let wrong = decided(&text("was = 'odl'"), &[&old]).unwrap_err();
            assert!(wrong.contains(&old), "{wrong}");
        }
        let both = format!("[plugins.old]\nfile = 'o.wasm'\n{}", subscriber("was = 'old'"));
        let refused = decided(&both, &["subscription/old"]).unwrap_err();
        assert!(refused.contains("still has"), "{refused}");
        assert_eq!(decided(&subscriber(""), &["source/old"]), Ok(vec![]), "another kind says nothing of it");
    }
}
