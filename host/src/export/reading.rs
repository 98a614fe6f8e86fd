//! Reading and checking an export. Nothing is taken that a store could not have recorded.

use super::line::{ARCHIVED, ArchivedLine, END, End, EndLine, EventLine, FORMAT, Head};
use crate::model::{IdRule, QuickMap, RecordedEvent, StreamId};
use crate::names::{Rule, checked, shown};
use crate::store::{ArchivedStream, event_bytes};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::io::{self, BufRead, Read as _};
use uuid::Uuid;

/// The greatest time and position, which are signed numbers in a store.
const GREATEST_NUMBER: u64 = i64::MAX as u64;

/// The beginning of a line by which a host says that an export failed.
const ERROR: &[u8] = b"{\"error\":";

/// What is wrong with an export.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct Broken {
    /// The number of the line, from 1 on.
    pub line: u64,
    /// What is wrong, and what to do.
    pub cause: String,
}

/// The rules that events must follow beside those of the format.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The most bytes of an event, with its names, ids and headers.
    pub event_bytes_max: usize,
    /// The rule for the ids of aggregates.
    pub ids: IdRule,
}

impl Rules {
    /// Returns the most bytes of a line. A byte of an event takes at most six in a line, as `\u0000`.
    fn line_bytes_max(&self) -> usize {
        self.event_bytes_max.saturating_mul(6).saturating_add(64 << 10)
    }
}

/// The lines of an input, each with its line end and none longer than a limit.
pub struct Lines<R> {
    input: R,
    bytes_max: usize,
    line: Vec<u8>,
    /// The number of lines that were read.
    pub count: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads lines of at most this many bytes.
    pub fn new(input: R, bytes_max: usize) -> Self {
        Self { input, bytes_max, line: Vec::new(), count: 0 }
    }

    /// Returns the next line, or `None` at the end of the input.
    pub fn read(&mut self) -> Result<Option<&[u8]>, Broken> {
        self.count += 1;
        let broken = |cause: String| Broken { line: self.count, cause };
        self.line.clear();
        let max = self.bytes_max as u64;
        let read: io::Result<usize> = (&mut self.input).take(max + 1).read_until(b'\n', &mut self.line);
        let bytes = read.map_err(|error| broken(format!("it can't be read: {error}")))?;
        if bytes == 0 {
            return Ok(None);
        }
        if bytes > self.bytes_max {
            return Err(broken(format!(
                "it has more than {max} bytes, so its event is larger than `store.event_bytes_max` of the manifest: raise that"
            )));
        }
        if self.line.last() != Some(&b'\n') {
            return Err(broken("it is cut: the file is not complete, export again".to_owned()));
        }
        Ok(Some(&self.line))
    }
}

/// The check that an export is complete and unchanged, which does not look into its events.
pub struct Check {
    head: Option<Head>,
    end: Option<End>,
    hash: Sha256,
    events: u64,
    archived_streams: u64,
}

/// The kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Head,
    Event,
    Archived,
    End,
}

impl Default for Check {
    fn default() -> Self {
        Self { head: None, end: None, hash: Sha256::new(), events: 0, archived_streams: 0 }
    }
}

impl Check {
    /// Takes the next line, with its line end. The error says what is wrong.
    pub fn line(&mut self, line: &[u8]) -> Result<(), String> {
        self.kind(line).map(drop)
    }

    fn kind(&mut self, line: &[u8]) -> Result<Kind, String> {
        if self.end.is_some() {
            return Err("it follows the last line of the export: remove it, or export again".to_owned());
        }
        if line.starts_with(ERROR) {
            return Err(failure(line));
        }
        if self.head.is_none() {
            self.head = Some(head(line)?);
            return Ok(Kind::Head);
        }
        if line.starts_with(END.as_bytes()) {
            let EndLine { end } = parsed(line)?;
            self.compare(&end)?;
            self.end = Some(end);
            return Ok(Kind::End);
        }
        self.hash.update(line);
        if line.starts_with(ARCHIVED.as_bytes()) {
            self.archived_streams += 1;
            return Ok(Kind::Archived);
        }
        if self.archived_streams > 0 {
            return Err("it comes after archived streams, which are the last lines but one".to_owned());
        }
        self.events += 1;
        Ok(Kind::Event)
    }

    fn compare(&mut self, end: &End) -> Result<(), String> {
        let End { events, archived_streams, position: _, sha256 } = end;
        for (what, said, found) in
            [("events", *events, self.events), ("archived streams", *archived_streams, self.archived_streams)]
        {
            if said != found {
                return Err(format!(
                    "it says that there are {said} {what}, and there are {found}: the file was changed"
                ));
            }
        }
        let found = base16ct::lower::encode_string(&self.hash.finalize_reset());
        if *sha256 != found {
            return Err(format!(
                "it says that the SHA-256 of the lines is {}, and it is {found}: the file was changed",
                shown(sha256)
            ));
        }
        Ok(())
    }

    /// Returns the first and the last line. The error says that the last one is missing.
    pub fn end(self) -> Result<(Head, End), String> {
        match (self.head, self.end) {
            (Some(head), Some(end)) => Ok((head, end)),
            (None, _) => Err("it is empty: it is no export of events".to_owned()),
            (_, None) => Err("the last line of the export is missing: it is not complete, export again".to_owned()),
        }
    }
}

fn head(line: &[u8]) -> Result<Head, String> {
    #[derive(Deserialize)]
    struct Format {
        wasmill_events: u64,
    }
    let Ok(Format { wasmill_events: format }) = serde_json::from_slice(line) else {
        let found = shown(&String::from_utf8_lossy(line));
        return Err(format!(
            "it must be the first line of an export, {{\"wasmill_events\":{FORMAT},…}}, found {found}"
        ));
    };
    if format != FORMAT {
        return Err(format!(
            "the export has format {format}, and this wasmill reads format {FORMAT}: use a newer wasmill"
        ));
    }
    let head: Head = parsed(line)?;
    // The hash is of the other lines, and this text is shown.
    if Uuid::try_parse(&head.store).ok().is_none_or(|store| store.to_string() != head.store) {
        return Err(format!("`store` must be the identity of a store, a UUID, found {}", shown(&head.store)));
    }
    if head.from != 1 || head.to > GREATEST_NUMBER {
        return Err(format!("the range must begin with position 1, found {} to {}", head.from, head.to));
    }
    Ok(head)
}

fn failure(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Failure {
        error: String,
    }
    serde_json::from_slice(line)
        .map_or_else(|_| "the export failed".to_owned(), |Failure { error }| format!("the export failed: {error}"))
}

fn parsed<'l, T: Deserialize<'l>>(line: &'l [u8]) -> Result<T, String> {
    serde_json::from_slice(line).map_err(|error| format!("it is not as the format says: {error}"))
}

/// What a line of an export has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(RecordedEvent),
    /// An archived stream.
    Archived(ArchivedStream),
}

/// An export that is being read. Each item was checked, and the end comes only if the whole export is sound.
pub struct Reading<R> {
    lines: Lines<R>,
    rules: Rules,
    check: Check,
    head: Head,
    versions: QuickMap<StreamId, u64>,
    position: u64,
    id: Uuid,
    archived: Option<StreamId>,
}

impl<R: BufRead> Reading<R> {
    /// Begins with the first line.
    pub fn begin(input: R, rules: Rules) -> Result<Self, Broken> {
        let mut lines = Lines::new(input, rules.line_bytes_max());
        let mut check = Check::default();
        let read = match lines.read()? {
            Some(line) => check.line(line),
            None => Err("the file is empty: it is no export of events".to_owned()),
        };
        read.map_err(|cause| Broken { line: 1, cause })?;
        let head = check.head.clone().expect("the first line is taken");
        let (versions, position, archived) = Default::default();
        Ok(Self { lines, rules, check, head, versions, position, id: Uuid::nil(), archived })
    }

    /// Returns the first line.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Returns the next item, or `None` at the end of a sound export.
    pub fn read(&mut self) -> Result<Option<Item>, Broken> {
        let Some(line) = self.lines.read()? else {
            let cause = "the file ends without the last line of an export: it is cut, export again".to_owned();
            return Err(Broken { line: self.lines.count, cause });
        };
        let item = match self.check.kind(line) {
            Ok(Kind::Event) => parsed::<EventLine<'_>>(line).and_then(EventLine::event).map(Item::Event),
            Ok(Kind::Archived) => parsed::<ArchivedLine<'_>>(line).map(|line| Item::Archived(line.archived())),
            Ok(Kind::End) => return self.end(),
            Ok(Kind::Head) => Err("it is a first line again".to_owned()),
            Err(cause) => Err(cause),
        };
        let sound = item.and_then(|item| match &item {
            Item::Event(event) => self.event(event).map(|()| item),
            Item::Archived(archived) => self.archived(archived).map(|()| item),
        });
        sound.map(Some).map_err(|cause| self.broken(cause))
    }

    fn broken(&self, cause: String) -> Broken {
        Broken { line: self.lines.count, cause }
    }

    fn event(&mut self, event: &RecordedEvent) -> Result<(), String> {
        let RecordedEvent { position, stream, version, name, id, time_ms, first_ms, .. } = event;
        let named = |what: &str, text: &str, rule: Rule| {
            checked(text, rule).map(drop).map_err(|cause| format!("`{what}` {cause}"))
        };
        named("type", &stream.aggregate_type, Rule::Part)?;
        named("name", name, Rule::Message)?;
        self.rules.ids.check("aggregate id", &stream.aggregate_id)?;
        if position.0 <= self.position || position.0 > self.head.to {
            return Err(format!(
                "position {position} comes after {}, and the export is up to {}: positions must increase",
                self.position, self.head.to
            ));
        }
        let version_before = self.versions.entry(stream.clone()).or_default();
        if version.0 != *version_before + 1 {
            return Err(format!(
                "it is version {version} of {}, after version {version_before}: versions must have no gaps",
                shown(&stream.to_string())
            ));
        }
        if id.get_version_num() != 7 || *id <= self.id {
            return Err(format!("the id {id} comes after {}: ids must be UUIDs of version 7, and increase", self.id));
        }
        if *time_ms > GREATEST_NUMBER || first_ms.is_some_and(|first_ms| first_ms > GREATEST_NUMBER) {
            return Err(format!("its time is later than {GREATEST_NUMBER} ms after 1970"));
        }
        let bytes = event_bytes(event);
        if bytes > self.rules.event_bytes_max {
            return Err(format!(
                "its event has {bytes} bytes, and the limit is {}: raise `store.event_bytes_max` of the manifest",
                self.rules.event_bytes_max
            ));
        }
        *version_before = version.0;
        (self.position, self.id) = (position.0, *id);
        Ok(())
    }

    fn archived(&mut self, archived: &ArchivedStream) -> Result<(), String> {
        let stream = &archived.stream;
        let name = || shown(&stream.to_string());
        if self.archived.as_ref().is_some_and(|before| before >= stream) {
            return Err(format!("the archived stream {} is not in the order of types and ids", name()));
        }
        if !self.versions.contains_key(stream) {
            return Err(format!("the archived stream {} has no event", name()));
        }
        if archived.time_ms > GREATEST_NUMBER {
            return Err(format!("its time is later than {GREATEST_NUMBER} ms after 1970"));
        }
        self.archived = Some(stream.clone());
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Item>, Broken> {
        let said = self.check.end.as_ref().map_or(0, |end| end.position);
        if (said, self.head.to) != (self.position, self.position) {
            return Err(self.broken(format!(
                "the last event is at position {}, the first line says {} and the last line says {said}: the file was changed",
                self.position, self.head.to
            )));
        }
        match self.lines.read()? {
            None => Ok(None),
            Some(_) => {
                Err(self.broken("it follows the last line of the export: remove it, or export again".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::line::add;
    use crate::model::{Position, Version};
    use proptest::prelude::*;

    const RULES: Rules = Rules { event_bytes_max: 1_000, ids: IdRule { bytes_max: 64 } };

    fn event(position: u64, aggregate: &str, version: u64) -> RecordedEvent {
        RecordedEvent {
            id: uuid::Builder::from_unix_timestamp_millis(1_000 + position, &[0; 10]).into_uuid(),
            position: Position(position),
            stream: StreamId::new("order", aggregate),
            version: Version(version),
            ..RecordedEvent::example()
        }
    }

    /// An export with these events and archived streams, with a last line that fits them.
    fn export(events: &[RecordedEvent], archived: &[&str]) -> String {
        let mut lines = Vec::new();
        events.iter().for_each(|event| add(&mut lines, &EventLine::of(event)));
        for id in archived {
            let archived = ArchivedStream { stream: StreamId::new("order", *id), time_ms: 9 };
            add(&mut lines, &ArchivedLine::of(&archived));
        }
        let position = events.last().map_or(0, |event| event.position.0);
        let mut text = Vec::new();
        add(&mut text, &Head { format: FORMAT, store: Uuid::nil().to_string(), from: 1, to: position });
        text.extend_from_slice(&lines);
        let sha256 = base16ct::lower::encode_string(&Sha256::digest(&lines));
        let end = End { events: events.len() as u64, archived_streams: archived.len() as u64, position, sha256 };
        add(&mut text, &EndLine { end });
        String::from_utf8(text).expect("text")
    }

    fn read(text: impl AsRef<[u8]>) -> Result<Vec<Item>, Broken> {
        let mut reading = Reading::begin(text.as_ref(), RULES)?;
        let mut items = Vec::new();
        while let Some(item) = reading.read()? {
            items.push(item);
        }
        Ok(items)
    }

    fn sound() -> Vec<RecordedEvent> {
        vec![event(1, "a", 1), event(2, "b", 1), event(5, "a", 2)]
    }

    #[test]
    fn a_sound_export_is_read_as_it_was_written() {
        let archived = |id: &str| Item::Archived(ArchivedStream { stream: StreamId::new("order", id), time_ms: 9 });
        let expected: Vec<Item> = sound().into_iter().map(Item::Event).chain([archived("a"), archived("b")]).collect();
        assert_eq!(read(export(&sound(), &["a", "b"])), Ok(expected));
        assert_eq!(read(export(&[], &[])), Ok(Vec::new()), "an empty store has an export too");
    }

    #[test]
    fn what_a_store_could_not_have_recorded_is_refused_with_its_line() {
        type Change = fn(&mut Vec<RecordedEvent>);
        let changes: [(Change, u64, &str); 14] = [
            (|events| events[1].position = Position(1), 3, "positions must increase"),
            (|events| events[0].position = Position(0), 2, "positions must increase"),
            (|events| events[2].version = Version(3), 4, "versions must have no gaps"),
            (|events| events[2].version = Version(1), 4, "versions must have no gaps"),
            (|events| events[0].version = Version(0), 2, "versions must have no gaps"),
            (|events| events[1].id = events[0].id, 3, "ids must be UUIDs of version 7, and increase"),
            (|events| events[0].id = Uuid::from_u128(1), 2, "ids must be UUIDs of version 7"),
            (|events| events[0].stream = StreamId::new("Order", "a"), 2, "`type` must be 1 to 64"),
            (|events| events[1].name = "a b".into(), 3, "`name` must be 1 to 128"),
            (|events| events[1].stream = StreamId::new("order", "a\u{0}"), 3, "aggregate id"),
            (|events| events[1].stream = StreamId::new("order", "x".repeat(65)), 3, "aggregate id"),
            (|events| events[1].time_ms = u64::MAX, 3, "later than"),
            (|events| events[1].payload = vec![b'1'; 1_000], 3, "raise `store.event_bytes_max`"),
            (|events| events[1].payload = vec![b'1'; 200_000], 3, "raise that"),
        ];
        for (change, line, cause) in changes {
            let mut events = sound();
            change(&mut events);
            let broken = read(export(&events, &[])).expect_err(cause);
            assert!(broken.line == line && broken.cause.contains(cause), "{broken}, expected line {line}: {cause}");
        }
        for (archived, cause) in
            [(&["b", "a"][..], "order of types"), (&["a", "a"], "order of types"), (&["c"], "no event")]
        {
            let broken = read(export(&sound(), archived)).expect_err(cause);
            assert!(broken.cause.contains(cause), "{broken}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused_with_what_is_wrong() {
        let text = export(&sound(), &["a"]);
        let lines: Vec<&str> = text.lines().collect();
        let without = |number: usize| {
            let kept =
                lines.iter().enumerate().filter(|(index, _)| *index != number).map(|(_, line)| format!("{line}\n"));
            kept.collect::<String>()
        };
        let newer = text.replacen("\"wasmill_events\":1", "\"more\":[],\"wasmill_events\":2", 1);
        for (damaged, cause) in [
            (String::new(), "the file is empty"),
            ("\n".to_owned(), "first line of an export"),
            ("not an export\n".to_owned(), "first line of an export"),
            (without(0), "first line of an export"),
            (without(1), "versions must have no gaps"),
            (without(2), "there are 3 events, and there are 2"),
            (without(4), "there are 1 archived streams, and there are 0"),
            (without(5), "ends without the last line"),
            (text[..text.len() - 1].to_owned(), "it is cut"),
            (text[..text.len() / 2].to_owned(), "it is cut"),
            (newer, "the export has format 2, and this wasmill reads format 1: use a newer wasmill"),
            (text.replacen("\"time_ms\":5", "\"time_ms\":6", 1), "SHA-256"),
            (text.replacen("\"to\":5", "\"to\":6", 1), "first line says 6"),
            (text.replacen("\"from\":1", "\"from\":2", 1), "begin with position 1"),
            (text.replacen("\"store\":\"0", "\"store\":\"\\u001b[2J", 1), "must be the identity of a store"),
            (text.replacen("\"store\":\"0", "\"store\":\"", 1), "must be the identity of a store"),
            (format!("{text}{{}}\n"), "follows the last line"),
            (format!("{text}{text}"), "follows the last line"),
            (text.replacen("\"version\":1", "\"version\":1,\"colour\":1", 1), "unknown field `colour`"),
            (text.replacen("\"payload\":{}", "\"payload\":{},\"payload_base64\":\"\"", 1), "and not both"),
            (text.replacen(",\"payload\":{}", "", 1), "and not both"),
            (text.replacen("\"payload\":{}", "\"payload_base64\":\"?\"", 1), "is not base64"),
            (text.replacen("\"version\":1", "\"version\":-1", 1), "not as the format says"),
            (text.replacen("\"id\":\"0", "\"id\":\"x", 1), "no UUID"),
            (
                text.replacen("{\"position\"", "{\"error\":\"the disk failed\"}\n{\"position\"", 1),
                "the export failed: the disk failed",
            ),
            (text.replace('\n', "\r\n"), "SHA-256"),
        ] {
            let broken = read(&damaged).expect_err(cause);
            assert!(broken.cause.contains(cause), "{broken}, expected: {cause}");
            assert!(!broken.to_string().chars().any(char::is_control), "{broken:?}");
        }
    }

    #[test]
    fn the_check_of_an_export_on_its_way_finds_what_is_missing() {
        let text = export(&sound(), &["a"]);
        let check = |lines: &str| {
            let mut check = Check::default();
            lines.split_inclusive('\n').try_for_each(|line| check.line(line.as_bytes()))?;
            check.end()
        };
        let (head, end) = check(&text).expect("it is complete");
        assert_eq!((head.to, end.events, end.archived_streams), (5, 3, 1));
        let last = text.rfind("{\"end\"").expect("a last line");
        assert!(check(&text[..last]).unwrap_err().contains("is missing"));
        assert!(check(&text.replacen("\"a\"", "\"z\"", 1)).unwrap_err().contains("SHA-256"));
        assert!(check("").unwrap_err().contains("empty"));
    }

    proptest! {
        /// Whatever the bytes are, they are accepted or refused.
        #[test]
        fn any_change_of_a_byte_is_noticed(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let text = export(&sound(), &["a"]).into_bytes();
            let mut changed = text.clone();
            let at = at.index(text.len());
            changed[at] = byte;
            let is_in_head = at < text.iter().position(|byte| *byte == b'\n').expect("a first line");
            // The first line may name another store, which is for people.
            if changed != text && !is_in_head {
                prop_assert!(read(&changed).is_err());
            }
            let _ = read(&changed);
        }
    }
}
