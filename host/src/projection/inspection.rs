//! A look at the read models of a host that does not run: which of them the next start will rebuild.

use super::opening::{QUESTION, mismatch};
use super::read_model::{self, Origin};
use super::shelf::Shelf;
use crate::names::Name;
use crate::store::{self, Reader};
use std::path::Path;
use uuid::Uuid;

/// A read model that the next start rebuilds, because it does not fit the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The projection.
    pub projection: String,
    /// Why, as a clause after the name of the read model.
    pub cause: String,
}

/// Lists the read models in a folder of a host that do not fit a store: the newest one of each projection. Those that can't be
/// read are not listed, because the start says what is wrong with them. This changes nothing.
pub fn unfit(folder: &Path, store: Uuid, reader: &mut dyn Reader) -> Result<Vec<Unfit>, store::Error> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut projections: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    projections.sort();
    let mut unfit = Vec::new();
    for name in projections.iter().filter_map(|name| Name::parse(name).ok()) {
        let shelf = Shelf::new(name.within(folder));
        let Some(title) = shelf.titles().ok().and_then(|titles| titles.into_iter().next()) else { continue };
        let Ok(about) = read_model::about(&shelf.file(&title)) else { continue };
        let origin = Origin { store, code: about.origin.code.clone() };
        if let Some(cause) = mismatch(&about, &origin, reader)? {
            // The question is for those who do not know the answer.
            let cause = cause.strip_suffix(QUESTION).unwrap_or(&cause).to_owned();
            unfit.push(Unfit { projection: name.to_string(), cause });
        }
    }
    Ok(unfit)
}
