//! How a host learns what other hosts write: it listens for the notifications of their commits.
//!
//! A notification says nothing but whose commit it was, and one may be lost. So the numbers are read from the head row, after each
//! notification and in any case after a while. That is the truth.

use super::address::Address;
use super::connection::{Change, Network, Notified, uint, value};
use crate::store::watches::{Announcer, NewestNumbers};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The interval at which the head row is read without a notification, and at which a lost connection is made again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The listening of a host. It ends when this is dropped.
pub(super) struct Listening(JoinHandle<()>);

impl Listening {
    /// Starts to listen as a host with an id. What other hosts have written is announced.
    pub(super) fn start(network: &Arc<Network>, host: i64, announcer: Arc<Announcer>) -> Self {
        // The network ends with the store, which drops this.
        let weak = Arc::downgrade(network);
        Self(network.spawn(async move {
            let mut commits = 0;
            while let Some(network) = weak.upgrade() {
                // The writer tells why the database can't be reached.
                let _ = follow(&network, host, &announcer, &mut commits).await;
                drop(network);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Announces what is written, until the connection is lost.
async fn follow(
    network: &Network,
    host: i64,
    announcer: &Announcer,
    commits: &mut u64,
) -> Result<(), tokio_postgres::Error> {
    let notified = Arc::new(Notified { ignored: host.to_string(), ..Notified::default() });
    let client = network.client(notified.clone()).await?;
    client.batch_execute(&network.settings()).await?;
    // It begins before the first look, so no commit is missed in between.
    client.batch_execute(&format!("LISTEN {}", channel(&network.address))).await?;
    let look = client.prepare("SELECT commits, position, message, dead_letter, callback FROM head").await?;
    loop {
        if let Some(row) = client.query_opt(&look, &[]).await?
            && uint(&row, 0) != *commits
        {
            *commits = uint(&row, 0);
            announcer.others_wrote(NewestNumbers {
                position: uint(&row, 1),
                message: uint(&row, 2),
                dead_letter: uint(&row, 3),
                callback: uint(&row, 4),
                requests_changed: 0,
            });
        }
        let _ = tokio::time::timeout(LOOK_EVERY, notified.come.notified()).await;
    }
}

/// Makes the change that tells other hosts of a commit of this one.
pub(super) fn notification(address: &Address, host: i64) -> Change {
    let sql = "SELECT pg_notify($1, $2)";
    Change { doing: "telling other hosts", sql, values: vec![value(channel(address)), value(host.to_string())] }
}

fn channel(address: &Address) -> String {
    format!("wasmill_{}", address.schema())
}
