//! What tells one store from every other: a name that the store keeps, made when it is first asked for.
//!
//! Numbers of messages mean something only together with the store that gave them. A new data folder is a new store
//! whose first message is number 1 again; a copy of a data folder is the same store. The name is that of a ledger that
//! counts nothing.

use crate::kafka::wait_for;
use crate::store::{Error, EventStore};

const PREFIX: &str = "identity/";

/// The identity of a store.
pub(in crate::kafka) fn of(store: &dyn EventStore) -> Result<String, Error> {
    if let Some(identity) = find(store)? {
        return Ok(identity);
    }
    let ledger = format!("{PREFIX}{}", uuid::Uuid::now_v7());
    wait_for(|done| store.start_ledger(&ledger, 0, done))?;
    // Read back: where several hosts share a store, all must agree.
    find(store)?.ok_or_else(|| Error::Failed("the store did not keep its identity".into()))
}

fn find(store: &dyn EventStore) -> Result<Option<String>, Error> {
    let ledgers = store.reader()?.ledgers(PREFIX)?;
    Ok(ledgers.into_iter().map(|(name, _)| name[PREFIX.len()..].to_owned()).min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::testing::Folder;

    #[test]
    fn a_store_keeps_its_identity_and_shares_it_with_no_other() {
        let folder = Folder::new();
        let identity = of(&*folder.store).unwrap();
        assert_eq!(of(&*folder.reopen().store).unwrap(), identity);
        assert_ne!(of(&*Folder::new().store).unwrap(), identity);
    }
}
