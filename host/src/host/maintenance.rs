//! The maintenance of a running host's store: reading it, changing what people may change, and copying it.

use super::Host;
use crate::ack::{self, Ack};
use crate::store::{Backup, CopyName, Discard, Error, EventStore, Maintenance, Reader, Statistics};

impl Host {
    /// Reads the store on a thread that may block, with a new reader.
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
        ask: impl FnOnce(&dyn EventStore, Ack<Result<T, Error>>) + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store().clone();
        let (ack, answered) = ack::channel();
        // The store's queue may be full, and then this waits.
        let asked = blocking(move || {
            ask(&*store, ack);
            Ok::<_, Error>(())
        });
        asked.await?;
        answered.await.unwrap_or(Err(Error::Closed))
    }

    /// Discards the oldest of these dead letters, and returns how many.
    pub async fn discard_dead_letters(&self, which: Discard) -> Result<u64, Error> {
        self.change(move |store, ack| store.discard_dead_letters(which, ack)).await
    }

    /// Copies the store into a new file of the folder of backups while it is in use. Without a name it gets one of the time
    /// and the newest position. It ends early, and leaves nothing, once `is_over` returns true.
    pub async fn backup(
        &self,
        name: Option<CopyName>,
        is_over: impl Fn() -> bool + Send + 'static,
    ) -> Result<Backup, Error> {
        let name = name.unwrap_or(CopyName::Made { now_ms: self.clock.now_ms() });
        let folder = self.parts().manifest.backups();
        let backup = self.maintain(move |store| store.backup_in(&folder, &name, &is_over)).await?;
        let Backup { file, position, bytes, elapsed_ms } = &backup;
        tracing::info!("copied the store up to position {position} to {file}: {bytes} bytes in {elapsed_ms} ms");
        Ok(backup)
    }

    /// Returns statistics of the store. With `count` it reads every event.
    pub async fn statistics(&self, count: bool) -> Result<Statistics, Error> {
        self.maintain(move |store| store.statistics(count)).await
    }

    async fn maintain<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Maintenance) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let store = self.store().clone();
        blocking(move || {
            let none = || Error::Invalid("this store is maintained with the tools of its database".to_owned());
            ask(store.maintenance().ok_or_else(none)?)
        })
        .await
    }
}

pub(super) async fn blocking<T: Send + 'static, E: From<Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|panic| Err(Error::Failed(format!("the request to the store panicked: {panic}")).into()))
}
