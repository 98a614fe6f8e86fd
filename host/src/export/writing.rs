//! Making the lines of an export from a store, in pages, so that memory stays flat and no view of the store lasts.
//!
//! Events up to the newest position at the beginning are the export. Archived streams are read after them. A stream is
//! listed only if all of its events are in the export: the host archives the stream of a saga together with its last event,
//! and that event may be newer.

use super::line::{ArchivedLine, End, EndLine, EventLine, FORMAT, Head, add};
use crate::filter::Filter;
use crate::model::{Position, StreamId, Version};
use crate::store::{Error, Reader};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The most events or archived streams of a page.
const PAGE: usize = 1_000;

/// An export under way.
pub struct Export {
    /// The first line.
    pub head: Head,
    next: Next,
    hash: Sha256,
    /// What the last line will say.
    pub end: End,
}

/// What the next page has.
enum Next {
    Head,
    EventsAfter(Position),
    ArchivedAfter(Option<StreamId>),
    Nothing,
}

impl Export {
    /// Begins an export of the events up to a position of the store with this identity.
    pub fn new(store: Uuid, to: Position) -> Self {
        let end = End { events: 0, archived_streams: 0, position: 0, sha256: String::new() };
        let head = Head { format: FORMAT, store: store.to_string(), from: 1, to: to.0 };
        Self { head, next: Next::Head, hash: Sha256::new(), end }
    }

    /// Returns the next lines, or `None` after the last one.
    pub fn page(&mut self, reader: &mut dyn Reader) -> Result<Option<Vec<u8>>, Error> {
        match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Head => {
                let mut text = Vec::new();
                add(&mut text, &self.head);
                self.next = Next::EventsAfter(Position(0));
                Ok(Some(text))
            }
            Next::EventsAfter(position) if position.0 >= self.head.to => self.archived(None, reader).map(Some),
            Next::EventsAfter(position) => self.events(position, reader).map(Some),
            Next::ArchivedAfter(stream) => self.archived(stream, reader).map(Some),
            Next::Nothing => Ok(None),
        }
    }

    fn events(&mut self, after: Position, reader: &mut dyn Reader) -> Result<Vec<u8>, Error> {
        let page = reader.read_all(after, &Filter::all(), PAGE)?;
        if page.reached <= after {
            return Err(Error::Failed(format!(
                "the store ends at position {after}, and {} was its newest",
                self.head.to
            )));
        }
        let mut text = Vec::with_capacity(page.events.len() * 512);
        for event in page.events.iter().take_while(|event| event.position.0 <= self.head.to) {
            add(&mut text, &EventLine::of(event));
            self.end.events += 1;
            self.end.position = event.position.0;
        }
        self.hash.update(&text);
        self.next = Next::EventsAfter(page.reached);
        Ok(text)
    }

    fn archived(&mut self, after: Option<StreamId>, reader: &mut dyn Reader) -> Result<Vec<u8>, Error> {
        let page = reader.archived_streams(after.as_ref(), PAGE)?;
        let mut text = Vec::new();
        for archived in &page {
            let newest = reader.read_stream_backwards(&archived.stream, Version(u64::MAX), 1)?;
            if newest.last().is_some_and(|event| event.position.0 <= self.head.to) {
                add(&mut text, &ArchivedLine::of(archived));
                self.end.archived_streams += 1;
            }
        }
        self.hash.update(&text);
        match page.into_iter().next_back() {
            Some(last) => self.next = Next::ArchivedAfter(Some(last.stream)),
            None => {
                self.end.sha256 = base16ct::lower::encode_string(&self.hash.finalize_reset());
                add(&mut text, &EndLine { end: self.end.clone() });
            }
        }
        Ok(text)
    }
}
