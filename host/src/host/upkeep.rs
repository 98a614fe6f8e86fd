//! What people do to the store of a running host: looking into it, changing what they may change, copying it.

use super::Host;
use crate::store::{Backup, Discard, Done, Error, EventStore, Reader};
use std::path::PathBuf;

impl Host {
    /// Asks the store on a thread that may block, with a reader of the question's own.
    pub async fn read<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut dyn Reader) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store().clone();
        blocking(move || ask(&mut *store.reader()?)).await
    }

    /// Has the store change something, and waits until that is durable.
    pub async fn change<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn EventStore, Done<T>) + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store().clone();
        let (answer, answered) = tokio::sync::oneshot::channel();
        // The queue may be full: then asking waits.
        let asked = blocking(move || {
            let done = move |result| {
                // Who does not wait any more does not want to know.
                let _ = answer.send(result);
            };
            ask(&*store, Box::new(done));
            Ok(())
        });
        asked.await?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Discards the oldest of these dead letters, and tells how many.
    pub async fn discard_letters(&self, which: Discard) -> Result<u64, Error> {
        self.change(move |store, done| store.discard_letters(which, done)).await
    }

    /// Copies the store into a new file, while it is written to.
    pub async fn backup(&self, to: PathBuf) -> Result<Backup, Error> {
        let store = self.store().clone();
        let backup = blocking(move || store.backup(&to)).await?;
        let Backup { file, position, bytes, elapsed_ms } = &backup;
        tracing::info!("copied the store up to position {position} to {file}: {bytes} bytes in {elapsed_ms} ms");
        Ok(backup)
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|panic| Err(Error::Failed(format!("asking the store: {panic}"))))
}
