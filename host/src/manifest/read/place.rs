//! The keys that say where a part begins: `start`, and `was`, which is the name that its progress is stored under.

use super::*;

/// The possible values of `start`.
const START: &str = "\"beginning\", \"now\" or { position = N }";

/// Reads where a subscription or a sink begins if it has no position yet.
pub(super) fn start(entry: &Entry<'_>) -> Option<Start> {
    match entry.value.get_ref() {
        DeValue::String(text) if text == "beginning" => Some(Start::Beginning),
        DeValue::String(text) if text == "now" => Some(Start::Now),
        DeValue::Table(_) => {
            let mut section = entry.section()?;
            let first = section.need("position", "the position of the first event");
            let first = first.and_then(|entry| entry.number(1..=i64::MAX as u64));
            section.finish();
            first.map(|first| Start::At(Position(first)))
        }
        _ => {
            entry.expected(START);
            None
        }
    }
}

/// Reads the name that a part had before.
pub(super) fn was(section: &mut Section<'_>) -> Option<String> {
    let entry = section.get("was")?;
    named_by(&entry, "the name that it had before", Rule::Part).map(str::to_owned)
}

/// Refuses an invalid `was` in the sections of one kind of part: the part's own name, or a name that another part also
/// has as `was`. Progress is taken over once, by one part.
pub(super) fn refuse_wrong_was(parts: Option<Entry<'_>>) {
    let Some(parts) = parts.and_then(|entry| entry.section()) else { return };
    let mut claimed: BTreeMap<&str, String> = BTreeMap::new();
    for (name, part) in parts.entries() {
        let Some(was) = part.section().and_then(|mut section| section.get("was")) else { continue };
        let DeValue::String(old) = was.value.get_ref() else { continue };
        if old == name {
            was.note("is the name that the part has now: write the name that it had before, or remove the key");
        } else if let Some(other) = claimed.get(&**old) {
            was.note(&format!(
                "is {old:?}, as `{other}` is, and progress is carried over to one part: remove one of them"
            ));
        } else {
            claimed.insert(old, was.path);
        }
    }
}
