//! The choice of the read model that a projection resumes with: its own, that of older code, or a new one.
//!
//! A read model is used only if it belongs to this code and to this store's history: the store must have the event of
//! its checkpoint at that position. Any other read model is set aside, and the projection is rebuilt.

use super::Error;
use super::generation::Generation;
use super::read_model::{About, Mark, Origin};
use super::shelf::Shelf;
use crate::exhaustion;
use crate::filter::Filter;
use crate::model::Position;
use crate::plugin::{Plugin, Role};
use crate::store::{self, Reader};
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// The end of a cause that a restore of the store explains, for those who do not know of one.
pub(super) const QUESTION: &str = "; was the store restored from a backup?";

/// The part of a projection's thread that opens its read models.
pub(super) struct Opener {
    pub(super) projection: Arc<str>,
    pub(super) shelf: Arc<Shelf>,
    /// The identity of the store.
    pub(super) store: Uuid,
    /// Why the last read model was set aside.
    pub(super) set_aside: Option<Arc<str>>,
}

/// A read model that can be used.
pub(super) struct Opened {
    pub(super) generation: Generation,
    /// Whether it had caught up once, so that its answers are complete.
    pub(super) has_answered: bool,
}

impl Opener {
    /// Opens the read model of this code: the newest one that can be used, or a new one.
    pub(super) fn open(&mut self, plugin: &Arc<Plugin>, reader: &mut dyn Reader) -> Result<Opened, Error> {
        match self.find(plugin, reader)? {
            Some(found) => Ok(found),
            None => Ok(Opened { generation: self.create(plugin)?, has_answered: false }),
        }
    }

    /// Creates a new read model of this code, also if there is one.
    pub(super) fn create(&mut self, plugin: &Arc<Plugin>) -> Result<Generation, Error> {
        self.shelf.titles().map_err(|error| self.no_folder(&error))?;
        if let Err(cause) = self.shelf.keep_code(plugin) {
            tracing::warn!(
                "projection {}: the code of plugin {} is not kept beside its read model, so it can't answer while a later \
                 version is built after a restart: {cause}",
                self.projection,
                plugin.label()
            );
        }
        let origin = Origin { store: self.store, code: plugin.digest.clone() };
        Generation::create(plugin, &self.shelf, &origin)
    }

    /// Finds the newest read model of this code that can be used. One that has answered comes before one that was being
    /// built.
    pub(super) fn find(&mut self, plugin: &Arc<Plugin>, reader: &mut dyn Reader) -> Result<Option<Opened>, Error> {
        let titles = self.shelf.titles().map_err(|error| self.no_folder(&error))?;
        let mut unfinished = None;
        for title in titles.iter().filter(|title| title.is_of(&plugin.digest)) {
            let (generation, about) = match Generation::open(plugin, &self.shelf, title) {
                Ok(opened) => opened,
                Err(error) if error.is_damage() => {
                    self.note(&error.to_string());
                    continue;
                }
                Err(error) => return Err(error),
            };
            let origin = Origin { store: self.store, code: plugin.digest.clone() };
            match mismatch(&about, &origin, reader)? {
                None if about.has_answered => return Ok(Some(Opened { generation, has_answered: true })),
                None => _ = unfinished.get_or_insert(Opened { generation, has_answered: false }),
                Some(cause) => {
                    generation.set_aside();
                    self.note(&format!("read model {}: {cause}", self.shelf.file(title).display()));
                }
            }
        }
        Ok(unfinished)
    }

    /// Finds the newest read model of other code that has answered queries, with that code.
    pub(super) fn older(
        &mut self,
        current: &Plugin,
        reader: &mut dyn Reader,
        load: impl Fn(&Path) -> Result<Plugin, crate::plugin::Error>,
    ) -> Option<Generation> {
        let titles = self.shelf.titles().unwrap_or_default();
        for title in titles.iter().filter(|title| !title.is_of(&current.digest)) {
            let Some(file) = self.shelf.code(title) else { continue };
            let plugin = match load(&file) {
                Ok(plugin) => Arc::new(plugin),
                Err(error) => {
                    tracing::warn!("projection {}: its older code can't be loaded: {error}", self.projection);
                    continue;
                }
            };
            if !title.is_of(&plugin.digest) || !serves(&plugin, &self.projection) {
                continue;
            }
            match self.find(&plugin, reader) {
                Ok(Some(found)) if found.has_answered => return Some(found.generation),
                Ok(_) => {}
                Err(error) => tracing::warn!("projection {}: {error}", self.projection),
            }
        }
        None
    }

    /// Logs that a read model can't be used, and keeps the cause for the status.
    pub(super) fn note(&mut self, cause: &str) {
        tracing::warn!("projection {}: {cause}; it is set aside, and the read model is rebuilt", self.projection);
        self.set_aside = Some(cause.into());
    }

    fn no_folder(&self, error: &std::io::Error) -> Error {
        Error::ReadModel {
            file: format!("of projection {}, its folder", self.projection),
            cause: exhaustion::told(error),
        }
    }
}

fn serves(plugin: &Plugin, projection: &str) -> bool {
    plugin.description.roles.iter().any(|role| matches!(role, Role::Projection { name, .. } if **name == *projection))
}

/// Returns how a read model does not fit this code and this history, if so.
pub(super) fn mismatch(
    about: &About,
    origin: &Origin,
    reader: &mut dyn Reader,
) -> Result<Option<String>, store::Error> {
    if about.origin.store != origin.store {
        return Ok(Some(format!("it belongs to another store, {}; this one is {}", about.origin.store, origin.store)));
    }
    if about.origin.code != origin.code {
        return Ok(Some("it belongs to other code than its name says".to_owned()));
    }
    let Mark { position, event } = about.mark;
    if position == Position(0) {
        return Ok(None);
    }
    let found = mark_at(reader, position)?;
    Ok((found != Some(about.mark)).then(|| match found {
        Some(found) => format!(
            "it belongs to another history: its checkpoint is event {event} at position {position}, and the store has {}",
            found.event
        ),
        None => format!(
            "it belongs to another history: its checkpoint is at position {position}, where the store has no event{QUESTION}"
        ),
    }))
}

/// Returns the event at a position, if there is one.
pub(super) fn mark_at(reader: &mut dyn Reader, position: Position) -> Result<Option<Mark>, store::Error> {
    let page = reader.read_all(Position(position.0.saturating_sub(1)), &Filter::all(), 1)?;
    let found = page.events.first().filter(|event| event.position == position);
    Ok(found.map(|event| Mark { position, event: event.id }))
}
